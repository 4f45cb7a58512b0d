// tokenizer.json and tekken.json as their bytes: of the long lists only where they stand or what is asked of them, so that
// vocabularies and merges are read straight into their tables.
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
    /// Where the lists begin.
    private var vocab: Int?, merges: Int?

    /// - Throws: `UserError` for what is not JSON. That no text is twice in the vocabulary is seen when it is read.
    init(_ bytes: [UInt8], _ path: String) throws {
        (self.bytes, self.path) = (bytes, path)
        var vocab: Int?, merges: Int?, ranks: RankEntries?, outline = JSONObject()
        func modelMember(_ key: String, _ reader: inout JSONReader) throws -> JSONValue {
            switch (key, reader.next) {
            case ("vocab", UInt8(ascii: "{")): vocab = reader.at
            case ("merges", UInt8(ascii: "[")): merges = reader.at
            default: return try reader.value()
            }
            try reader.skip()
            return .null
        }
        try read(from: 0) { reader in
            outline = try reader.document { reader in
                guard reader.next == UInt8(ascii: "{") else {
                    throw UserError("\(path): \(try reader.value().kind) where a tokenizer should be")
                }
                return try reader.object { key, reader in
                    switch (key, reader.next) {
                    case ("model", UInt8(ascii: "{")): return .object(try reader.object(modelMember))
                    case ("vocab", UInt8(ascii: "[")): ranks = try RankEntries(&reader)
                    default: return try reader.value()
                    }
                    return .null
                }
            }
        }
        (self.vocab, self.merges, self.ranks, self.outline) = (vocab, merges, ranks, outline)
    }

    private func read(from start: Int, _ body: (inout JSONReader) throws -> Void) throws {
        do {
            try bytes.withUnsafeBufferPointer { buffer in
                var reader = JSONReader(buffer, maxDepth: maxTokenizerDepth, from: start)
                try body(&reader)
            }
        } catch let error as JSONError {
            throw UserError("\(path): \(error)")
        }
    }

    /// All of it. Nothing is left to go wrong once the vocabulary has been read.
    var value: JSONValue {
        do {
            return try JSONValue.parse(bytes, maxDepth: maxTokenizerDepth)
        } catch {
            preconditionFailure("\(path) was read before: \(error)")
        }
    }

    /// The members of `model.vocab`, with nil for the id of what is no whole number; false where that is no object.
    func forEachToken(_ body: (UnsafeBufferPointer<UInt8>, Int?) throws -> Void) throws -> Bool {
        guard let vocab else { return false }
        var key: [UInt8] = []
        try read(from: vocab) { reader in
            try reader.members { reader in
                key.removeAll(keepingCapacity: true)
                try reader.text { key.append(contentsOf: $0) }
                try reader.colon()
                let id = try reader.wholeNumber() ?? reader.value().int
                try key.withUnsafeBufferPointer { try body($0, id) }
            }
        }
        return true
    }

    /// The entries of `model.merges`, false where that is no list: `"a b"` or `["a", "b"]`, of which the second is nil in
    /// the first case; both are nil for anything else.
    func forEachMerge(
        _ body: (UnsafeBufferPointer<UInt8>?, UnsafeBufferPointer<UInt8>?) throws -> Void
    ) throws -> Bool {
        guard let merges else { return false }
        var parts: [UInt8] = []
        try read(from: merges) { reader in
            try reader.list { reader in
                parts.removeAll(keepingCapacity: true)
                if reader.next == UInt8(ascii: "\"") {
                    try reader.text { parts.append(contentsOf: $0) }
                    return try parts.withUnsafeBufferPointer { try body($0, nil) }
                }
                guard reader.next == UInt8(ascii: "[") else {
                    try reader.skip()
                    return try body(nil, nil)
                }
                var count = 0, end = 0
                try reader.list { reader in
                    count += reader.next == UInt8(ascii: "\"") ? 1 : 3
                    guard count <= 2 else { return try reader.skip() }
                    end = parts.count
                    try reader.text { parts.append(contentsOf: $0) }
                }
                guard count == 2 else { return try body(nil, nil) }
                try parts.withUnsafeBufferPointer { parts in
                    try body(UnsafeBufferPointer(rebasing: parts[..<end]), UnsafeBufferPointer(rebasing: parts[end...]))
                }
            }
        }
        return true
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
