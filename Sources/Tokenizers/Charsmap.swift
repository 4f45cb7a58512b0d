// The normalization rules inside a SentencePiece model: a double-array trie of texts and what they become.
import Diagnostics

/// A precompiled character map (`precompiled_charsmap`): a little-endian byte count, that many bytes of a double array
/// (Darts-clone's 32-bit units), then the replacements, each ended by a zero byte.
struct Charsmap: Sendable {
    private let units: [UInt32]
    private let replacements: [UInt8]

    /// - Throws: `UserError` for bytes that cannot be such a map. Offsets inside are checked where they are followed.
    init(_ bytes: [UInt8], _ place: String) throws {
        func word(_ at: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << UInt32($1 * 8) } }
        guard bytes.count > 8, case let size = Int(word(0)), size > 0, size % 4 == 0, size <= bytes.count - 4,
            bytes.last == 0
        else { throw UserError("\(place) is cut short or no character map") }
        units = (0..<size / 4).map { word(4 + $0 * 4) }
        replacements = Array(bytes[(4 + size)...])
    }

    @inline(__always) private func offset(_ unit: UInt32) -> Int { Int((unit >> 10) << ((unit & 1 << 9) >> 6)) }

    /// The node that a byte leads to, and whether an entry ends there.
    @inline(__always) private func child(_ node: Int, _ byte: UInt8) -> (node: Int, isEntry: Bool)? {
        let at = node ^ Int(byte)
        guard byte != 0, at < units.count, case let unit = units[at], unit & (1 << 31 | 0xFF) == UInt32(byte) else {
            return nil
        }
        return (at ^ offset(unit), unit >> 8 & 1 == 1)
    }

    /// Calls `body` with length and replacement's place of each entry that the text begins with, shortest first, until
    /// it returns false.
    private func prefixes(_ text: UnsafeBufferPointer<UInt8>, _ body: (Int, Int) -> Bool) {
        var node = offset(units[0])
        for (i, byte) in text.enumerated() {
            guard let next = child(node, byte) else { return }
            node = next.node
            if next.isEntry {
                guard node < units.count else { return }
                let place = Int(units[node] & (1 << 31 - 1))
                guard place < replacements.count, body(i + 1, place) else { return }
            }
        }
    }

    /// Whether this byte begins no entry, unless by what follows beyond ASCII.
    func isPlain(_ byte: UInt8) -> Bool {
        guard let (node, isEntry) = child(offset(units[0]), byte) else { return true }
        return !isEntry && (1..<0x80).allSatisfy { child(node, $0) == nil }
    }

    private func replacement(_ place: Int) -> ArraySlice<UInt8> {
        replacements[place...].prefix { $0 != 0 }
    }

    /// What the shortest entry that `text` begins with becomes; nil when there is none.
    func shortest(_ text: UnsafeBufferPointer<UInt8>) -> ArraySlice<UInt8>? {
        var found: ArraySlice<UInt8>?
        prefixes(text) { _, place in
            found = replacement(place)
            return false
        }
        return found
    }

    /// Length of the longest entry that `text` begins with, and what it becomes.
    func longest(_ text: UnsafeBufferPointer<UInt8>) -> (length: Int, ArraySlice<UInt8>)? {
        var found: (Int, Int)?
        prefixes(text) { length, place in
            found = (length, place)
            return true
        }
        return found.map { ($0, replacement($1)) }
    }
}

extension Charsmap {
    /// Normalizes as the `tokenizers` package does: grapheme by grapheme, each by its shortest entry, else character by
    /// character.
    func apply(to text: inout AlignedText) {
        let string = String(decoding: text.bytes, as: UTF8.self)
        var isChanged = false
        // Characters and their changes first, as in the reference: an empty replacement is charged to the one before.
        var transformed: [(scalar: UInt32, change: Int)] = []
        transformed.reserveCapacity(text.bytes.count)
        func replace(_ oldCount: Int, _ new: ArraySlice<UInt8>) {
            isChanged = true
            let scalars = String(decoding: new, as: UTF8.self).unicodeScalars
            transformed += scalars.map { ($0.value, 0) }
            let more = scalars.count - oldCount
            for i in 0..<max(more, 0) { transformed[transformed.count - 1 - i].change = 1 }
            if more < 0, !transformed.isEmpty { transformed[transformed.count - 1].change += more }
        }
        text.bytes.withUnsafeBufferPointer { bytes in
            var at = 0
            func characters(to end: Int) {
                while at < end {
                    let (scalar, length) = UTF8Scalars.scalar(bytes, at)
                    if let new = shortest(UnsafeBufferPointer(rebasing: bytes[at..<at + length])) {
                        replace(1, new)
                    } else {
                        transformed.append((scalar, 0))
                    }
                    at += length
                }
            }
            func grapheme(to end: Int) {
                let count = end - at
                if count < 6, let new = shortest(UnsafeBufferPointer(rebasing: bytes[at..<end])) {
                    replace(bytes[at..<end].count { $0 & 0xC0 != 0x80 }, new)
                    at = end
                } else {
                    characters(to: end)
                }
            }
            for character in string { grapheme(to: at + character.utf8.count) }
        }
        guard isChanged else { return }
        text.rewrite { writer in
            for (scalar, change) in transformed { writer.put(scalar, change: change) }
        }
    }
}
