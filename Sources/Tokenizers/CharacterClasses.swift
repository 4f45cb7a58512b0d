// Character classes of code points and the UTF-8 steps that the scanners share.

/// What the split patterns ask about a code point; bits as in `unicodeRunClasses`.
struct CharacterClass: OptionSet {
    let rawValue: UInt8

    /// `\p{L}`
    static let letter = CharacterClass(rawValue: 1)
    /// `\p{N}`
    static let number = CharacterClass(rawValue: 2)
    /// `\s`: the property White_Space
    static let space = CharacterClass(rawValue: 4)
    /// What the `Digits` pre-tokenizer splits off; a newer Unicode version than `\p{N}`.
    static let digit = CharacterClass(rawValue: 8)
    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
    static let upperish = CharacterClass(rawValue: 16)
    /// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
    static let lowerish = CharacterClass(rawValue: 32)
    /// A text without any such character is in normal form C.
    static let normalFormMatters = CharacterClass(rawValue: 64)

    /// One byte a code point, spread once a process from the committed runs (0.2 ms, 1.1 MB, never freed).
    nonisolated(unsafe) static let table: UnsafePointer<UInt8> = {
        let table = UnsafeMutablePointer<UInt8>.allocate(capacity: 0x11_0000)
        var at = 0, length = 0
        unicodeRuns.withUTF8Buffer { text in
            for byte in text {
                switch byte {
                case UInt8(ascii: "0")...UInt8(ascii: "9"): length = length * 36 + Int(byte) - 48
                case UInt8(ascii: "a")...UInt8(ascii: "z"): length = length * 36 + Int(byte) - 87
                default:
                    let count = max(length, 1)
                    (table + at).update(repeating: unicodeRunClasses[Int(byte) - 65], count: count)
                    (at, length) = (at + count, 0)
                }
            }
        }
        precondition(at == 0x11_0000, "the Unicode table does not cover all code points")
        return UnsafePointer(table)
    }()
}

/// A text whose bytes are valid UTF-8 (a Swift string's always are), read by the scanners.
///
/// `end` bounds every look-ahead: each piece of an earlier pre-tokenizer is a text of its own.
struct UTF8Text {
    let bytes: UnsafePointer<UInt8>
    let classes: UnsafePointer<UInt8>

    init(_ bytes: UnsafePointer<UInt8>) {
        self.bytes = bytes
        classes = CharacterClass.table
    }

    /// Class bits of the character that starts at `at`, and its length in bytes.
    @inline(__always) func character(at: Int) -> (kind: UInt8, length: Int) {
        let first = bytes[at]
        if first < 0x80 { return (classes[Int(first)], 1) }
        let (scalar, length) = scalar(at: at)
        return (classes[Int(scalar)], length)
    }

    @inline(__always) func scalar(at: Int) -> (value: UInt32, length: Int) {
        let first = UInt32(bytes[at])
        if first < 0x80 { return (first, 1) }
        let second = UInt32(bytes[at + 1] & 0x3F)
        if first < 0xE0 { return ((first & 0x1F) << 6 | second, 2) }
        let third = UInt32(bytes[at + 2] & 0x3F)
        if first < 0xF0 { return ((first & 0x0F) << 12 | second << 6 | third, 3) }
        return ((first & 0x07) << 18 | second << 12 | third << 6 | UInt32(bytes[at + 3] & 0x3F), 4)
    }

    /// Start of the character that ends before `at` (which is > 0).
    @inline(__always) func characterStart(before at: Int) -> Int {
        var at = at - 1
        while bytes[at] & 0xC0 == 0x80 { at -= 1 }
        return at
    }

    /// End of the run of characters from `at` that have any of `wanted`; at most `limit` characters.
    @inline(__always) func run(of wanted: UInt8, from at: Int, to end: Int, limit: Int = .max) -> Int {
        var at = at, left = limit
        while at < end, left > 0 {
            let (kind, length) = character(at: at)
            if kind & wanted == 0 { break }
            at += length
            left -= 1
        }
        return at
    }

    /// End of the run of characters from `at` that have none of `unwanted`.
    @inline(__always) func run(without unwanted: UInt8, from at: Int, to end: Int) -> Int {
        var at = at
        while at < end {
            let (kind, length) = character(at: at)
            if kind & unwanted != 0 { break }
            at += length
        }
        return at
    }

    @inline(__always) func lineBreak(at: Int) -> Bool { bytes[at] == 0x0A || bytes[at] == 0x0D }

    func lineBreaks(from at: Int, to end: Int, orSlash: Bool = false) -> Int {
        var at = at
        while at < end, lineBreak(at: at) || (orSlash && bytes[at] == UInt8(ascii: "/")) { at += 1 }
        return at
    }
}
