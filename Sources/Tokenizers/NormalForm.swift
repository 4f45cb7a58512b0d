// Unicode normal forms with the origin of every character, by the tables of the reference.
//
// Own tables instead of Foundation or ICU: the `tokenizers` package normalizes by Unicode 9, so a newer library gives
// other ids for marks assigned since; and offsets follow from how the reference walks through the text.

/// Normal forms (UAX 15).
enum NormalForm: String, Sendable {
    case c = "NFC", d = "NFD", kc = "NFKC", kd = "NFKD"

    private var isCompatible: Bool { self == .kc || self == .kd }

    /// Brings a text into this form.
    func apply(to text: inout AlignedText) {
        if self == .c {
            guard text.bytes.withUnsafeBufferPointer({ Self.mayChange($0) }) else { return }
        } else if !text.bytes.contains(where: { $0 >= 0x80 }) {
            return
        }
        text.rewrite { writer in
            let parts = Self.decompose(writer.old, isCompatible: isCompatible)
            if self == .c || self == .kc {
                Self.compose(parts) { writer.put($0, change: $1) }
            } else {
                for part in parts { writer.put(part.scalar, change: part.change) }
            }
        }
    }
}

/// Normal form C of whole stretches, as the byte-level path wants it.
extension NormalForm {
    /// The normal form of a valid UTF-8 text and, for each of its bytes, the bytes of `text` that its character came
    /// from. Nil when the text holds no character that normalization could touch.
    static func normalizeC(_ text: UnsafeBufferPointer<UInt8>) -> (bytes: [UInt8], origins: [Range<Int32>])? {
        guard mayChange(text) else { return nil }
        var walk = OriginWalk(text)
        compose(decompose(text, isCompatible: false)) { walk.append($0, change: $1) }
        return (walk.bytes, walk.origins)
    }

    /// False for texts below U+0300 and for all that have no character of the class.
    private static func mayChange(_ text: UnsafeBufferPointer<UInt8>) -> Bool {
        guard let start = text.baseAddress else { return false }
        let utf8 = UTF8Text(start)
        var at = 0
        while at < text.count {
            if text[at] < 0xCC {
                at += text[at] < 0x80 ? 1 : 2
                continue
            }
            let (kind, length) = utf8.character(at: at)
            if kind & CharacterClass.normalFormMatters.rawValue != 0 { return true }
            at += length
        }
        return false
    }

    /// A decomposed character; `change` is 0 if it takes the place of one of the text, 1 if it is one more.
    private typealias Part = (scalar: UInt32, combining: UInt8, change: Int)

    /// Full decomposition in canonical order.
    private static func decompose(_ text: UnsafeBufferPointer<UInt8>, isCompatible: Bool) -> [Part] {
        let tables = Tables.shared, utf8 = UTF8Text(text.baseAddress!)
        var parts: [Part] = [], at = 0, marks = 0  // the last `marks` parts are marks not yet in order
        func flush() {
            // Stable, as canonical order demands; the standard library's sort is.
            if marks > 1 { parts[(parts.count - marks)...].sort { $0.combining < $1.combining } }
            marks = 0
        }
        parts.reserveCapacity(text.count)
        while at < text.count {
            let (scalar, length) = utf8.scalar(at: at)
            at += length
            tables.decompose(scalar, isCompatible: isCompatible) { part, isFirst in
                let combining = tables.combining(part)
                if combining == 0 { flush() }
                parts.append((part, combining, isFirst ? 0 : 1))
                if combining != 0 { marks += 1 }
            }
        }
        flush()
        return parts
    }

    /// Canonical composition. Characters join the last starter unless blocked; the changes of joined characters add up.
    private static func compose(_ parts: [Part], _ emit: (UInt32, Int) -> Void) {
        let tables = Tables.shared
        var starter: (scalar: UInt32, change: Int)?, waiting: [Part] = []
        func flush() {
            if let starter { emit(starter.scalar, starter.change) }
            for mark in waiting { emit(mark.scalar, mark.change) }
            (starter, waiting) = (nil, [])
        }
        for part in parts {
            guard let base = starter else {
                if part.combining == 0 { starter = (part.scalar, part.change) } else { emit(part.scalar, part.change) }
                continue
            }
            let isBlocked = waiting.last.map { $0.combining >= part.combining } ?? false
            if !isBlocked, let joined = tables.compose(base.scalar, part.scalar) {
                starter = (joined, base.change + part.change - 1)
            } else if part.combining == 0 {
                flush()
                starter = (part.scalar, part.change)
            } else {
                waiting.append(part)
            }
        }
        flush()
    }

    /// Replays how the reference assigns origins: a character takes the place of the next one of the text, is an
    /// addition that shares the origin before it, or (-n) takes a place and swallows n more.
    private struct OriginWalk {
        private let text: UnsafeBufferPointer<UInt8>
        private let utf8: UTF8Text
        private var at = 0
        var bytes: [UInt8] = []
        var origins: [Range<Int32>] = []

        init(_ text: UnsafeBufferPointer<UInt8>) {
            (self.text, utf8) = (text, UTF8Text(text.baseAddress!))
            bytes.reserveCapacity(text.count)
            origins.reserveCapacity(text.count)
        }

        private func length(at: Int) -> Int { at < text.count ? utf8.scalar(at: at).length : 0 }

        mutating func append(_ scalar: UInt32, change: Int) {
            var origin: Range<Int32> = 0..<0
            if change > 0 {
                if at > 0 { origin = Int32(utf8.characterStart(before: at))..<Int32(at) }
            } else {
                origin = Int32(at)..<Int32(at + length(at: at))
                for _ in 0...(-change) { at += length(at: at) }
            }
            let start = bytes.count
            bytes.append(contentsOf: UTF8.encode(Unicode.Scalar(scalar)!)!)
            origins.append(contentsOf: repeatElement(origin, count: bytes.count - start))
        }
    }
}

/// Decompositions, compositions and combining classes, read once from the committed tables.
private final class Tables: Sendable {
    static let shared = Tables()

    private let classes: [UInt32: UInt8]
    private let decompositions: [UInt32: [UInt32]]
    private let compositions: [UInt64: UInt32]

    private init() {
        var classes: [UInt32: UInt8] = [:], mark: UInt32 = 0
        forEachNumber(in: unicodeCombiningClasses) { value, kind in
            if kind == UInt8(ascii: "A") {
                mark += value
            } else {
                classes[mark] = UInt8(value)
                mark += 1
            }
        }
        var decompositions: [UInt32: [UInt32]] = [:], composed: [UInt32] = [], character: UInt32 = 0
        forEachNumber(in: unicodeDecompositions) { value, kind in
            if kind == UInt8(ascii: "A") { return decompositions[character, default: []].append(value) }
            character += value
            if kind == UInt8(ascii: "C") { composed.append(character) }
        }
        let bySequence = Dictionary(composed.map { (decompositions[$0]!, $0) }) { first, _ in first }
        var compositions: [UInt64: UInt32] = [:]
        for character in composed {
            let parts = decompositions[character]!
            // The pair that composes is what the parts but the last compose to, and the last.
            let head = parts.count == 2 ? parts[0] : bySequence[Array(parts.dropLast())]!
            compositions[UInt64(head) << 32 | UInt64(parts.last!)] = character
        }
        (self.classes, self.decompositions, self.compositions) = (classes, decompositions, compositions)
    }

    func combining(_ scalar: UInt32) -> UInt8 { scalar < 0x300 ? 0 : classes[scalar] ?? 0 }

    // Hangul syllables (The Unicode Standard, 3.12): L, V and T parts by arithmetic.
    private static let syllables: ClosedRange<UInt32> = 0xAC00...0xD7A3

    private static let compatibility = CharacterMapping(unicodeCompatibility)

    func decompose(_ scalar: UInt32, isCompatible: Bool, _ emit: (UInt32, _ isFirst: Bool) -> Void) {
        if scalar < 0xA0 { return emit(scalar, true) }
        if Self.syllables.contains(scalar) {
            let index = scalar - 0xAC00
            emit(0x1100 + index / 588, true)
            emit(0x1161 + index % 588 / 28, false)
            if index % 28 > 0 { emit(0x11A7 + index % 28, false) }
            return
        }
        guard let parts = isCompatible ? Self.compatibility[scalar] ?? decompositions[scalar] : decompositions[scalar]
        else {
            return emit(scalar, true)
        }
        for (i, part) in parts.enumerated() { emit(part, i == 0) }
    }

    func compose(_ first: UInt32, _ second: UInt32) -> UInt32? {
        if (0x1100...0x1112).contains(first), (0x1161...0x1175).contains(second) {
            return 0xAC00 + ((first - 0x1100) * 21 + second - 0x1161) * 28
        }
        if Self.syllables.contains(first), (first - 0xAC00) % 28 == 0, (0x11A8...0x11C2).contains(second) {
            return first + second - 0x11A7
        }
        return compositions[UInt64(first) << 32 | UInt64(second)]
    }
}
