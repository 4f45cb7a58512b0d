// Reads SentencePiece `.model` files: the few fields of the protocol buffer that decide ids and texts.
import Diagnostics

/// A `ModelProto` (sentencepiece_model.proto).
struct SentencePieceFile: Sendable {
    enum Kind: Int, Sendable { case normal = 1, unknown, control, userDefined, unused, byte }
    enum Algorithm: Int, Sendable { case unigram = 1, bpe, word, character }

    struct Piece: Sendable {
        var score: Float = 0
        var kind = Kind.normal
    }

    private(set) var pieces: [Piece] = []
    /// Of the pieces, all valid UTF-8.
    private(set) var texts = ByteStrings()
    var algorithm = Algorithm.unigram
    var hasByteFallback = false
    var treatsSpaceAsSuffix = false
    var unknownSurface = " \u{2047} "
    var charsmap: [UInt8] = []
    var addsDummyPrefix = true
    var removesExtraSpaces = true
    var escapesSpaces = true
    var bosID = 1, eosID = 2, padID = -1

    init(algorithm: Algorithm) { self.algorithm = algorithm }

    /// - Throws: `UserError` that says where the file is cut short or which field is impossible.
    init(_ bytes: UnsafeRawBufferPointer, _ path: String) throws {
        var message = ProtobufMessage(bytes, path)
        while let field = try message.next() {
            switch field.number {
            case 1: try readPiece(field, path)
            case 2: try readTrainer(field, path)
            case 3: try readNormalizer(field, path)
            default: break
            }
        }
        guard !pieces.isEmpty else { throw UserError("\(path): holds no pieces; is this a SentencePiece model?") }
        // All texts at once are valid where each is and none begins inside a character.
        let beginsInside = pieces.indices.contains { id in
            let range = texts[Int32(id)]!
            return !range.isEmpty && texts.bytes[range.lowerBound] & 0xC0 == 0x80
        }
        guard !beginsInside, String(validating: texts.bytes, as: UTF8.self) != nil else {
            throw UserError("\(path): a text in it is not UTF-8")
        }
    }

    mutating func append(_ text: some Sequence<UInt8>, _ piece: Piece) {
        texts.set(Int32(pieces.count)) { $0.append(contentsOf: text) }
        pieces.append(piece)
    }

    func text(_ id: Int) -> String { String(decoding: texts.bytes[texts[Int32(id)]!], as: UTF8.self) }

    private mutating func readPiece(_ field: ProtobufMessage.Field, _ path: String) throws {
        let index = pieces.count
        var piece = Piece(), text = UnsafeRawBufferPointer(start: nil, count: 0)
        var message = ProtobufMessage(try field.bytes(path), path)
        while let field = try message.next() {
            switch field.number {
            case 1: text = try field.bytes(path)
            case 2: piece.score = Float(bitPattern: UInt32(truncatingIfNeeded: field.value))
            case 3:
                guard let kind = Kind(rawValue: Int(truncatingIfNeeded: field.value)) else {
                    throw UserError("\(path): piece \(index) is of the unknown type \(field.value)")
                }
                piece.kind = kind
            default: break
            }
        }
        guard piece.score.isFinite else { throw UserError("\(path): piece \(index) has a score that is no number") }
        append(text, piece)
    }

    private mutating func readTrainer(_ field: ProtobufMessage.Field, _ path: String) throws {
        var message = ProtobufMessage(try field.bytes(path), path)
        while let field = try message.next() {
            let number = Int(Int32(truncatingIfNeeded: field.value))
            switch field.number {
            case 3:
                guard let algorithm = Algorithm(rawValue: number) else {
                    throw UserError("\(path): trainer_spec.model_type \(number) is not known")
                }
                self.algorithm = algorithm
            case 24: treatsSpaceAsSuffix = field.value != 0
            case 35: hasByteFallback = field.value != 0
            case 41: bosID = number
            case 42: eosID = number
            case 43: padID = number
            case 44: unknownSurface = try field.text(path)
            default: break
            }
        }
    }

    private mutating func readNormalizer(_ field: ProtobufMessage.Field, _ path: String) throws {
        var message = ProtobufMessage(try field.bytes(path), path)
        while let field = try message.next() {
            switch field.number {
            case 2: charsmap = Array(try field.bytes(path))
            case 3: addsDummyPrefix = field.value != 0
            case 4: removesExtraSpaces = field.value != 0
            case 5: escapesSpaces = field.value != 0
            default: break
            }
        }
    }
}

/// The fields of a protocol buffer message, one after another (protobuf's wire format).
struct ProtobufMessage {
    struct Field {
        let number: Int
        /// Of a number; the bits of a float.
        let value: UInt64
        fileprivate let content: UnsafeRawBufferPointer?

        func bytes(_ path: String) throws -> UnsafeRawBufferPointer {
            guard let content else { throw UserError("\(path): field \(number) is a number where bytes should be") }
            return content
        }

        func text(_ path: String) throws -> String {
            guard let text = String(validating: try bytes(path), as: UTF8.self) else {
                throw UserError("\(path): a text in it is not UTF-8")
            }
            return text
        }
    }

    private let bytes: UnsafeRawBufferPointer
    private let path: String
    private var at = 0

    init(_ bytes: UnsafeRawBufferPointer, _ path: String) { (self.bytes, self.path) = (bytes, path) }

    private var isCutShort: UserError { UserError("\(path): cut short, or no SentencePiece model") }

    mutating func next() throws -> Field? {
        if at == bytes.count { return nil }
        let tag = try varint(), number = Int(truncatingIfNeeded: tag >> 3)
        switch tag & 7 {
        case 0: return Field(number: number, value: try varint(), content: nil)
        case 1: return Field(number: number, value: try fixed(8), content: nil)
        case 5: return Field(number: number, value: try fixed(4), content: nil)
        case 2:
            let length = try varint()
            guard length <= UInt64(bytes.count - at) else { throw isCutShort }
            defer { at += Int(length) }
            return Field(
                number: number, value: 0, content: UnsafeRawBufferPointer(rebasing: bytes[at..<at + Int(length)]))
        default: throw isCutShort
        }
    }

    private mutating func varint() throws -> UInt64 {
        var value: UInt64 = 0, shift: UInt64 = 0
        while at < bytes.count, shift < 64 {
            let byte = bytes[at]
            at += 1
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
        throw isCutShort
    }

    private mutating func fixed(_ count: Int) throws -> UInt64 {
        guard bytes.count - at >= count else { throw isCutShort }
        defer { at += count }
        return (0..<count).reduce(0) { $0 | UInt64(bytes[at + $1]) << UInt64($1 * 8) }
    }
}
