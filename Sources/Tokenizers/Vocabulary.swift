// Token texts by id, ids by text, and the byte-level alphabet between the two.
import Diagnostics
import Formats

/// The reversible spelling of bytes as printable characters that GPT-2 introduced: a space is written `Ġ`.
enum ByteAlphabet {
    /// Code point of each byte, all below 0x144.
    static let scalars: [UInt32] = {
        var scalars = [UInt32](repeating: 0, count: 256), next: UInt32 = 256
        for byte in 0..<256 {
            switch byte {
            case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: scalars[byte] = UInt32(byte)
            default: (scalars[byte], next) = (next, next + 1)
            }
        }
        return scalars
    }()
    /// Byte of each code point below 0x144; -1 outside the alphabet.
    static let bytes: [Int16] = {
        var bytes = [Int16](repeating: -1, count: 0x144)
        for (byte, scalar) in scalars.enumerated() { bytes[Int(scalar)] = Int16(byte) }
        return bytes
    }()

    /// The text of raw bytes in the alphabet.
    static func spell(_ raw: some Sequence<UInt8>) -> String {
        var text = String.UnicodeScalarView()
        for byte in raw { text.append(Unicode.Scalar(scalars[Int(byte)])!) }
        return String(text)
    }

    /// Appends the bytes that a token's text stands for; false, and nothing appended, when a character is not in the
    /// alphabet.
    static func appendBytes(of text: UnsafeBufferPointer<UInt8>, to output: inout [UInt8]) -> Bool {
        let start = output.count
        var at = 0
        while at < text.count {
            let plain = text[at...].prefix { $0 >= 0x21 && $0 <= 0x7E }  // stands for itself
            output.append(contentsOf: UnsafeBufferPointer(rebasing: plain))
            at = plain.endIndex
            guard at + 1 < text.count, text[at] >= 0xC2, text[at] <= 0xC5 else { break }
            let scalar = Int(text[at] & 0x1F) << 6 | Int(text[at + 1] & 0x3F)
            guard scalar < 0x144, bytes[scalar] >= 0 else { break }
            output.append(UInt8(bytes[scalar]))
            at += 2
        }
        if at == text.count { return true }
        output.removeSubrange(start...)
        return false
    }
}

/// The tokens of the model: their texts as the file spells them and the bytes these stand for.
struct Vocabulary: Sendable {
    let texts: ByteStrings
    /// Bytes by id: the text taken through the byte alphabet, or the text itself where it does not belong to it.
    let raw: ByteStrings
    /// Whether the token with this id is spelled in the byte alphabet; only such tokens come out of the model.
    private let isSpelled: [Bool]
    /// Whether a blank may be at the edge of the token, so that most need no look at their text.
    fileprivate let hasBlankEdge: [Bool]
    /// Ids by text.
    let index: ByteStringIndex
    /// Number of tokens, which the next added token's id follows.
    let count: Int
    /// Id of each single byte, -1 where the vocabulary has none.
    private(set) var byteIDs = [Int32](repeating: -1, count: 256)

    /// Ids beyond this would only serve to exhaust memory; the largest public vocabularies have 262,144.
    static let maxID = 1 << 22

    /// A vocabulary of texts in the order of their ids.
    init(_ texts: some Sequence<String>, where file: String) throws {
        var builder = VocabularyBuilder(where: file)
        for case (let id, var text) in texts.enumerated() { try text.withUTF8 { try builder.add($0, id) } }
        self = try builder.finish()
    }

    fileprivate init(_ texts: ByteStrings, _ raw: ByteStrings, isSpelled: [Bool], count: Int, where file: String) throws
    {
        guard texts.bytes.count < 1 << 24 else { throw UserError("\(file): more than 16 MB of tokens") }
        (self.texts, self.raw, self.isSpelled) = (texts, raw, isSpelled)
        hasBlankEdge = (0..<Int32(raw.count)).map { id in
            guard let range = raw[id], !range.isEmpty else { return false }
            let first = raw.bytes[range.lowerBound], last = raw.bytes[range.upperBound - 1]
            if isSpelled[Int(id)] { return first == 0x20 || last == 0x20 }
            return first <= 0x20 || first >= 0x80 || last <= 0x20 || last >= 0x80
        }
        self.count = count
        index = ByteStringIndex(texts)
        if let repeated = index.repeated { throw UserError("\(file): id \(repeated) has the text of another id") }
        for byte in 0..<256 { byteIDs[byte] = id(of: ByteAlphabet.spell([UInt8(byte)])) ?? -1 }
    }

    /// A vocabulary of texts that are not spelled in the byte alphabet.
    init(pieces texts: ByteStrings, where file: String) throws {
        let none = [Bool](repeating: false, count: texts.count)
        try self.init(texts, texts, isSpelled: none, count: texts.count, where: file)
    }

    /// A vocabulary given as bytes; empty ones are left out.
    init(raw tokens: ByteStrings, firstID: Int, where file: String) throws {
        var texts = ByteStrings(), raw = ByteStrings()
        texts.reserve(strings: tokens.count + firstID, bytes: tokens.bytes.count * 3 / 2)
        raw.reserve(strings: tokens.count + firstID, bytes: tokens.bytes.count)
        tokens.bytes.withUnsafeBufferPointer { bytes in
            for rank in 0..<Int32(tokens.count) {
                guard let range = tokens[rank], !range.isEmpty else { continue }
                let token = UnsafeBufferPointer(rebasing: bytes[range]), id = rank + Int32(firstID)
                raw.set(id) { $0.append(contentsOf: token) }
                texts.set(id) { text in for byte in token { appendUTF8(ByteAlphabet.scalars[Int(byte)], to: &text) } }
            }
        }
        try self.init(
            texts, raw, isSpelled: Array(repeating: true, count: raw.count), count: tokens.count, where: file)
    }

    /// Ids by raw bytes.
    func rawIndex() -> ByteStringIndex { ByteStringIndex(raw, where: { isSpelled[Int($0)] }) }

    var maxID: Int32 { Int32(texts.count) - 1 }

    func id(of text: String) -> Int32? {
        var text = text
        return text.withUTF8 { index.id(of: $0) }
    }

    func id(of text: UnsafeBufferPointer<UInt8>) -> Int32? { index.id(of: text) }

    func text(of id: Int32) -> String? {
        texts[id].map { String(decoding: texts.bytes[$0], as: UTF8.self) }
    }
}

/// Collects the tokens of a vocabulary.
struct VocabularyBuilder {
    private var texts = ByteStrings(), raw = ByteStrings(), isSpelled: [Bool] = []
    private var count = 0
    private let file: String

    init(where file: String) { self.file = file }

    mutating func reserve(tokens: Int, bytes: Int) {
        texts.reserve(strings: tokens, bytes: bytes)
        raw.reserve(strings: tokens, bytes: bytes)
        isSpelled.reserveCapacity(tokens)
    }

    /// - Throws: `UserError` naming the token for a negative, huge or repeated id.
    mutating func add(_ text: UnsafeBufferPointer<UInt8>, _ id: Int) throws {
        guard id >= 0, id <= Vocabulary.maxID else {
            let token = quoted(String(decoding: text, as: UTF8.self))
            throw UserError("\(file): token \(token) has id \(id); ids from 0 to \(Vocabulary.maxID) are possible")
        }
        guard texts[Int32(id)] == nil else { throw UserError("\(file): id \(id) is given to two tokens") }
        while isSpelled.count <= id { isSpelled.append(false) }
        texts.set(Int32(id)) { $0.append(contentsOf: text) }
        raw.set(Int32(id)) { bytes in
            isSpelled[id] = ByteAlphabet.appendBytes(of: text, to: &bytes)
            if !isSpelled[id] { bytes.append(contentsOf: text) }
        }
        count += 1
    }

    /// - Throws: `UserError` for a text that is there twice.
    func finish() throws -> Vocabulary {
        try Vocabulary(texts, raw, isSpelled: isSpelled, count: count, where: file)
    }
}

/// A token in a message: in quotes, shortened, on one line.
func quoted(_ text: String) -> String { JSONValue.string(String(text.unicodeScalars.prefix(40))).serialized() }

extension Vocabulary {
    /// Blanks at the edges of a token's text as `trim_offsets` counts them.
    @inline(__always) func blankEdges(of id: Int32) -> (before: Int, after: Int) {
        hasBlankEdge[Int(id)] ? countedBlankEdges(of: id) : (0, 0)
    }

    private func countedBlankEdges(of id: Int32) -> (before: Int, after: Int) {
        text(of: id).map { Tokenizers.blankEdges(of: $0) } ?? (0, 0)
    }
}
