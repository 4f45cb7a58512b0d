// What the tokens of a source depend on: everything that may change an id, a mark, a count or a message.
internal import Diagnostics
internal import Formats
internal import Tokenizers

/// Names a cache file. Paths are no part of it: renamed and moved files have the same tokens.
struct TokenCacheKey: Equatable {
    let config: JSONValue

    /// 32 hexadecimal digits.
    var name: String { String(hexadecimalSHA256(config.serialized(.compact)).prefix(32)) }
}

extension EncodingWork {
    /// The keys under which the wanted rows may lie: those of all rows, then, where fewer are wanted, of just these. The
    /// last is the one to write.
    func keys(_ fingerprint: DataFingerprint) throws -> [TokenCacheKey] {
        let files = zip(self.files, fingerprint.files).map { file, hash -> JSONValue in
            ["sha256": .string(hash.sha256), "format": .string(file.format.rawValue)]
        }
        let columns = source.columnMap.sorted { $0.key < $1.key }.map { ($0.key, JSONValue.string($0.value)) }
        var config = JSONObject([
            ("program", .string(programVersion)), ("layout", .init(Int(TokenCacheFile.version))),
            ("encoding", .init(ExampleEncoder.version)), ("files", .array(files)),
            ("sources", .array(self.files.map { .init($0.sourceIndex) })),
            ("kind", source.kind.map { .string($0.rawValue) } ?? .null),
            ("column_map", .object(JSONObject(columns))), ("text_unit", .string(source.textUnit.rawValue)),
            ("transforms", .array(source.transforms.map { .string($0.text) })),
            ("bad_rows", .string(source.badRows.rawValue)), ("deduplicate", .bool(source.deduplicate)),
        ])
        for (key, value) in encoder.identity { config[key] = value }
        func key(_ rows: String) -> TokenCacheKey {
            config["rows"] = .string(rows)
            return TokenCacheKey(config: .object(config))
        }
        guard case .some(let name, _) = selection else { return [key("all")] }
        return [key("all"), key(name)]
    }
}

extension ExampleEncoder {
    /// What ids and marks depend on beside the row; the time that a template may print is not in it.
    fileprivate var identity: JSONObject {
        JSONObject([
            ("tokenizer", .string(tokenizer.fingerprintBytes.withUnsafeBytes { hexadecimalSHA256($0) })),
            ("template", template.map { .string(hexadecimalSHA256($0)) } ?? .null),
            ("masking", .string(options.masking.rawValue)),
            ("max_length", options.maxLength.map { .init($0) } ?? .null),
            ("truncation", .string(options.truncation.rawValue)),
        ])
    }
}
