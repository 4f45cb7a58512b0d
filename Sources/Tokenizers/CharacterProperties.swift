// Properties of code points beyond the split patterns' classes: categories, scripts, lower case. All are read from the
// committed tables once a process, on first use.

/// Numbers in base 36, each ended by a capital that says what it is.
func forEachNumber(in text: StaticString, _ body: (UInt32, UInt8) -> Void) {
    text.withUTF8Buffer { bytes in
        var value: UInt32 = 0
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value * 36 + UInt32(byte) - 48
            case UInt8(ascii: "a")...UInt8(ascii: "z"): value = value * 36 + UInt32(byte) - 87
            default:
                body(value, byte)
                value = 0
            }
        }
    }
}

/// One byte a code point, from runs as make_unicode_properties.py writes them. Never freed.
struct CodePointTable: @unchecked Sendable {  // written in init only
    private let values: UnsafePointer<UInt8>

    init(runs: StaticString) {
        let table = UnsafeMutablePointer<UInt8>.allocate(capacity: 0x11_0000)
        var at = 0, length = 1
        forEachNumber(in: runs) { value, kind in
            if kind == UInt8(ascii: "A") { return length = Int(value) }
            (table + at).update(repeating: UInt8(value), count: length)
            (at, length) = (at + length, 1)
        }
        precondition(at == 0x11_0000, "the Unicode table does not cover all code points")
        values = UnsafePointer(table)
    }

    @inline(__always) subscript(scalar: UInt32) -> UInt8 { values[Int(scalar)] }
}

enum CharacterProperties {
    static let categories = CodePointTable(runs: unicodeCategories)
    static let words = CodePointTable(runs: unicodeWords)
    static let scripts = CodePointTable(runs: unicodeScripts)
    /// Scripts as the `UnicodeScripts` pre-tokenizer knows them; 0 joins all.
    static let scriptRuns = CodePointTable(runs: unicodeScriptRuns)
    /// Lower case where it differs.
    static let lowerCase = CharacterMapping(unicodeLowerCase)

    static func isSpace(_ scalar: UInt32) -> Bool {
        CharacterClass.table[Int(scalar)] & CharacterClass.space.rawValue != 0
    }
    /// What BERT's normalizer removes as accents.
    static func isNonspacingMark(_ scalar: UInt32) -> Bool { categories[scalar] & 32 != 0 }
    /// What `StripAccents` removes.
    static func isCombiningMark(_ scalar: UInt32) -> Bool { words[scalar] & 8 != 0 }
    static func isPunctuation(_ scalar: UInt32) -> Bool { categories[scalar] & 64 != 0 }
    /// Control, format, private use and unassigned characters.
    static func isOther(_ scalar: UInt32) -> Bool { categories[scalar] & 128 != 0 }
    /// `\w` of the `Whitespace` pre-tokenizer.
    static func isWord(_ scalar: UInt32) -> Bool { words[scalar] & 1 != 0 }
    static func isNumeric(_ scalar: UInt32) -> Bool {
        CharacterClass.table[Int(scalar)] & CharacterClass.digit.rawValue != 0
    }

    /// The blocks that BERT puts spaces around.
    static func isChinese(_ scalar: UInt32) -> Bool {
        switch scalar {
        case 0x4E00...0x9FFF, 0x3400...0x4DBF, 0x20000...0x2A6DF, 0x2A700...0x2B73F, 0x2B740...0x2B81F,
            0x2B920...0x2CEAF, 0xF900...0xFAFF, 0x2F800...0x2FA1F:
            true
        default: false
        }
    }
}

/// What single characters become.
struct CharacterMapping: Sendable {
    private let targets: [UInt32: [UInt32]]
    /// A bit for every 64 characters, so that most characters need no look-up.
    private let blocks: [Bool]

    init(_ text: StaticString) {
        var targets: [UInt32: [UInt32]] = [:], character: UInt32 = 0, blocks = [Bool](repeating: false, count: 0x4400)
        forEachNumber(in: text) { value, kind in
            if kind == UInt8(ascii: "A") { return targets[character, default: []].append(value) }
            character += value
            blocks[Int(character >> 6)] = true
        }
        (self.targets, self.blocks) = (targets, blocks)
    }

    @inline(__always) subscript(scalar: UInt32) -> [UInt32]? {
        blocks[Int(scalar >> 6)] ? targets[scalar] : nil
    }
}
