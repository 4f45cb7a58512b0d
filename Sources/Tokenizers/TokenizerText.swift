// tokenizer.json and tekken.json as their bytes: the long lists are read once, into flat rows of texts, so that vocabularies
// and merges go into their tables without a value for each entry.
import Diagnostics
import Formats
internal import Glibc

/// The bytes of a `tokenizer.json`, and what it says beside vocabulary and merges.
struct TokenizerText: Sendable {
    private let bytes: [UInt8]
    private let path: String
    /// Everything but `model.vocab` where it is an object, and `model.merges` and `vocab` where they are lists; these are
    /// null here.
    private(set) var outline = JSONObject()
    /// The `vocab` that is a list, as in tekken.json.
    private(set) var ranks: RankEntries?
    /// `model.vocab` where that is an object.
    private(set) var vocab: VocabularyEntries?
    /// `model.merges` where that is a list.
    private(set) var merges: MergeEntries?

    /// - Throws: `UserError` for what is not JSON. That no text is twice in the vocabulary is seen when it is read.
    init(_ bytes: [UInt8], _ path: String) throws {
        (self.bytes, self.path) = (bytes, path)
        do {
            try bytes.withUnsafeBufferPointer { buffer in
                var reader = JSONReader(buffer, maxDepth: maxTokenizerDepth)
                try read(&reader)
            }
        } catch let error as JSONError {
            throw UserError("\(path): \(error)")
        }
    }

    private mutating func read(_ reader: inout JSONReader) throws {
        outline = try reader.document { reader in
            guard reader.next == UInt8(ascii: "{") else {
                throw UserError("\(path): \(try reader.value().kind) where a tokenizer should be")
            }
            return try reader.object { key, reader in
                switch (key, reader.next) {
                case ("model", UInt8(ascii: "{")):
                    return .object(try reader.object { key, reader in try modelMember(key, &reader) })
                case ("vocab", UInt8(ascii: "[")): ranks = try RankEntries(&reader)
                default: return try reader.value()
                }
                return .null
            }
        }
    }

    private mutating func modelMember(_ key: String, _ reader: inout JSONReader) throws -> JSONValue {
        switch (key, reader.next) {
        case ("vocab", UInt8(ascii: "{")): vocab = try VocabularyEntries(&reader)
        case ("merges", UInt8(ascii: "[")): merges = try MergeEntries(&reader)
        default: return try reader.value()
        }
        return .null
    }

    /// All of it. Nothing is left to go wrong once the vocabulary has been read.
    var value: JSONValue {
        do {
            return try JSONValue.parse(bytes, maxDepth: maxTokenizerDepth)
        } catch {
            preconditionFailure("\(path) was read before: \(error)")
        }
    }
}

/// Tokens and their ids, in the order of the file.
struct VocabularyEntries: Sendable {
    private var entries: [(id: Int?, end: UInt32)] = []
    private var texts: [UInt8] = []

    /// Reads an object. An entry has no id where that is no whole number.
    init(_ reader: inout JSONReader) throws {
        try reader.members { reader in
            try reader.text { texts.append(contentsOf: $0) }
            try reader.colon()
            let id = try reader.wholeNumber() ?? reader.value().int
            entries.append((id, UInt32(texts.count)))
        }
    }

    var count: Int { entries.count }
    /// Bytes of all texts.
    var byteCount: Int { texts.count }

    func forEach(_ body: (UnsafeBufferPointer<UInt8>, Int?) throws -> Void) rethrows {
        try texts.withUnsafeBufferPointer { texts in
            var start = 0
            for (id, end) in entries {
                try body(UnsafeBufferPointer(rebasing: texts[start..<Int(end)]), id)
                start = Int(end)
            }
        }
    }
}

/// Merges in the order of the file, the two texts of each side by side.
struct MergeEntries: Sendable {
    private enum Kind: Int8 { case pair, text, other }
    private var entries: [(kind: Kind, middle: UInt32, end: UInt32)] = []
    private var texts: [UInt8] = []

    /// Reads a list of `"a b"` or `["a", "b"]`.
    init(_ reader: inout JSONReader) throws {
        try reader.list { reader in
            switch reader.next {
            case UInt8(ascii: "\""): try reader.text { append(line: $0) }
            case UInt8(ascii: "["): try appendList(&reader)
            default:
                try reader.skip()
                append(.other)
            }
        }
    }

    /// An entry that ends where the texts do.
    private mutating func append(_ kind: Kind, middle: Int = 0) {
        entries.append((kind, UInt32(middle), UInt32(texts.count)))
    }

    private mutating func append(line: UnsafeBufferPointer<UInt8>) {
        guard let space = line.firstIndex(of: 0x20), !line[(space + 1)...].contains(0x20) else {
            texts.append(contentsOf: line)
            return append(.text)
        }
        texts.append(contentsOf: UnsafeBufferPointer(rebasing: line[..<space]))
        let middle = texts.count
        texts.append(contentsOf: UnsafeBufferPointer(rebasing: line[(space + 1)...]))
        append(.pair, middle: middle)
    }

    private mutating func appendList(_ reader: inout JSONReader) throws {
        var count = 0, middle = texts.count
        try reader.list { reader in
            count += reader.next == UInt8(ascii: "\"") ? 1 : 3
            guard count <= 2 else { return try reader.skip() }
            middle = texts.count
            try reader.text { texts.append(contentsOf: $0) }
        }
        append(count == 2 ? .pair : .other, middle: middle)
    }

    /// The two texts of each merge; the second is nil for a text that is no two with a space between, both are for
    /// anything else.
    func forEach(
        _ body: (UnsafeBufferPointer<UInt8>?, UnsafeBufferPointer<UInt8>?) throws -> Void
    ) rethrows {
        try texts.withUnsafeBufferPointer { texts in
            var start = 0
            for entry in entries {
                let middle = Int(entry.middle), end = Int(entry.end)
                defer { start = end }
                switch entry.kind {
                case .pair:
                    try body(
                        UnsafeBufferPointer(rebasing: texts[start..<middle]),
                        UnsafeBufferPointer(rebasing: texts[middle..<end]))
                case .text: try body(UnsafeBufferPointer(rebasing: texts[start..<end]), nil)
                case .other: try body(nil, nil)
                }
            }
        }
    }
}

/// Tokens with the numbers in whose order they merge: of every entry `rank` and `token_bytes`.
struct RankEntries: Sendable {
    private var entries: [(rank: Int?, end: Int)] = []
    private var texts: [UInt8] = []

    /// A key of an entry; those of every entry are compared as numbers.
    private enum Key: Equatable {
        case rank, bytes, string
        case other(ExactString)

        init(_ name: UnsafeBufferPointer<UInt8>) {
            func isSame(_ text: StaticString) -> Bool {
                guard let start = name.baseAddress, name.count == text.utf8CodeUnitCount else { return false }
                return memcmp(start, text.utf8Start, name.count) == 0
            }
            if isSame("rank") {
                self = .rank
            } else if isSame("token_bytes") {
                self = .bytes
            } else if isSame("token_str") {
                self = .string
            } else {
                self = .other(ExactString(String(decoding: name, as: UTF8.self)))
            }
        }

        var text: String {
            switch self {
            case .rank: "rank"
            case .bytes: "token_bytes"
            case .string: "token_str"
            case .other(let name): name.string
            }
        }
    }

    /// Reads a list. An entry has no rank where that is no whole number, and no text where that is no text.
    init(_ reader: inout JSONReader) throws {
        var seen: [Key] = []
        try reader.list { reader in
            guard reader.next == UInt8(ascii: "{") else {
                try reader.skip()
                return entries.append((nil, texts.count))
            }
            var rank: Int?
            seen.removeAll(keepingCapacity: true)
            try reader.members { reader in
                let place = reader.at, key = try reader.text(Key.init)
                if seen.contains(key) { throw reader.repeated(key.text, at: place) }
                seen.append(key)
                try reader.colon()
                if key == .rank {
                    rank = try reader.wholeNumber() ?? reader.value().int
                } else if key == .bytes, reader.next == UInt8(ascii: "\"") {
                    try reader.text { texts.append(contentsOf: $0) }
                } else if reader.next == UInt8(ascii: "{") {
                    _ = try reader.value()  // which sees whether its keys are distinct
                } else {
                    try reader.skip()
                }
            }
            entries.append((rank, texts.count))
        }
    }

    var count: Int { entries.count }

    func forEach(_ body: (Int, Int?, UnsafeBufferPointer<UInt8>) throws -> Void) rethrows {
        try texts.withUnsafeBufferPointer { texts in
            var start = 0
            for (i, entry) in entries.enumerated() {
                try body(i, entry.rank, UnsafeBufferPointer(rebasing: texts[start..<entry.end]))
                start = entry.end
            }
        }
    }
}
