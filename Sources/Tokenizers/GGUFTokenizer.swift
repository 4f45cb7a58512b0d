// The tokenizer inside a GGUF file, written as the files of a Hugging Face folder; from there everything is one path.
//
// GGUF keeps vocabulary and merges but of the rest only a name (`tokenizer.ggml.pre`), which llama.cpp and the
// original repositories give a meaning: Llama 3 takes whole words first, Qwen 2 normalizes, SmolLM splits digits.
import Diagnostics
import Formats

extension TokenizerFiles {
    /// Types of `tokenizer.ggml.token_type`.
    private enum TokenType {
        static let control = 3, userDefined = 4
    }

    /// - Throws: `UserError` for a vocabulary that is not byte-level BPE and for missing or broken metadata.
    init(gguf metadata: GGUFMetadata) throws {
        func failure(_ message: String) -> UserError { UserError("\(metadata.path): \(message)") }
        guard let type = metadata["tokenizer.ggml.model"]?.string else { throw failure("holds no tokenizer") }
        guard type == "gpt2" else {
            throw failure("tokenizer model \(quoted(type)) is not supported; gpt2 (byte-level BPE) is")
        }
        guard let tokens = metadata["tokenizer.ggml.tokens"]?.strings, !tokens.isEmpty else {
            throw failure("tokenizer.ggml.tokens is missing or no list of strings")
        }
        guard tokens.count <= Vocabulary.maxID else { throw failure("has \(counted(tokens.count, "token")); too many") }
        guard let merges = metadata["tokenizer.ggml.merges"]?.strings else {
            throw failure("tokenizer.ggml.merges is missing or no list of strings")
        }
        let types = metadata["tokenizer.ggml.token_type"]?.ints ?? []
        guard types.isEmpty || types.count == tokens.count else {
            throw failure("tokenizer.ggml.token_type has \(types.count) entries for \(counted(tokens.count, "token"))")
        }
        let kind = try GGUFPreTokenizer(metadata["tokenizer.ggml.pre"]?.string ?? "default", metadata.path)
        let settings = try Self.config(metadata, tokens)
        let added = types.enumerated().filter { $1 == TokenType.control || $1 == TokenType.userDefined }.map {
            id, type in
            AddedToken(tokens[id], id: Int32(id), normalized: false, special: type == TokenType.control).json(
                withID: true)
        }
        var vocabulary = JSONObject()
        for (id, token) in tokens.enumerated() {
            guard vocabulary[token] == nil else {
                throw failure("token \(quoted(token)) has two ids; \(id) is one of them")
            }
            vocabulary[token] = JSONValue(id)
        }
        let root = JSONObject([
            ("version", JSONValue.string("1.0")), ("truncation", .null), ("padding", .null),
            ("added_tokens", JSONValue.array(added)),
            ("normalizer", kind.normalizer), ("pre_tokenizer", kind.preTokenizer),
            ("post_processor", try Self.template(metadata, tokens, addsBOS: kind.addsBOS)),
            ("decoder", GGUFPreTokenizer.gpt2),
            ("model", Self.model(vocabulary, merges, kind)),
        ])
        self.init(tokenizerJSON: .object(root), config: settings)
        specialTokensMap = JSONObject(settings.filter { $0.0.utf8.suffix(6).elementsEqual("_token".utf8) })
    }

    private static func model(_ vocabulary: JSONObject, _ merges: [String], _ kind: GGUFPreTokenizer) -> JSONValue {
        [
            "type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
            "end_of_word_suffix": nil,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": .bool(kind.ignoresMerges),
            "vocab": .object(vocabulary), "merges": .array(merges.map { .string($0) }),
        ]
    }

    private static let roles = [
        ("bos_token", "bos_token_id"), ("eos_token", "eos_token_id"), ("unk_token", "unknown_token_id"),
        ("pad_token", "padding_token_id"),
    ]

    /// Token of a role, checked.
    private static func token(_ key: String, _ metadata: GGUFMetadata, _ tokens: [String]) throws -> (String, Int)? {
        guard let value = metadata["tokenizer.ggml.\(key)"] else { return nil }
        guard let id = value.int, tokens.indices.contains(id) else {
            throw UserError("\(metadata.path): tokenizer.ggml.\(key) names no token of the vocabulary")
        }
        return (tokens[id], id)
    }

    /// `tokenizer_config.json`.
    private static func config(_ metadata: GGUFMetadata, _ tokens: [String]) throws -> JSONObject {
        var config = JSONObject()
        for (name, key) in roles {
            if let (text, _) = try token(key, metadata, tokens) { config[name] = .string(text) }
        }
        if let template = metadata["tokenizer.chat_template"]?.string { config["chat_template"] = .string(template) }
        config["clean_up_tokenization_spaces"] = false
        let architecture = metadata["general.architecture"]?.string ?? ""
        if let length = metadata["\(architecture).context_length"]?.int {
            config["model_max_length"] = JSONValue(length)
        }
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        return config
    }

    /// A template that adds begin and end tokens as the file says.
    private static func template(_ metadata: GGUFMetadata, _ tokens: [String], addsBOS: Bool) throws -> JSONValue {
        var pieces: [JSONValue] = [["Sequence": ["id": "A", "type_id": 0]]], special = JSONObject()
        func piece(_ key: String) throws -> JSONValue? {
            guard let (text, id) = try token(key, metadata, tokens) else { return nil }
            special[text] = ["id": .string(text), "ids": [JSONValue(id)], "tokens": [.string(text)]]
            return ["SpecialToken": ["id": .string(text), "type_id": 0]]
        }
        if metadata["tokenizer.ggml.add_bos_token"]?.bool ?? addsBOS, let bos = try piece("bos_token_id") {
            pieces.insert(bos, at: 0)
        }
        if metadata["tokenizer.ggml.add_eos_token"]?.bool == true, let eos = try piece("eos_token_id") {
            pieces.append(eos)
        }
        let pair = pieces + [["Sequence": ["id": "B", "type_id": 1]]]
        return [
            "type": "TemplateProcessing", "single": .array(pieces), "pair": .array(pair),
            "special_tokens": .object(special),
        ]
    }
}

/// What a name in `tokenizer.ggml.pre` stands for.
private struct GGUFPreTokenizer {
    var normalizer: JSONValue = .null
    var preTokenizer: JSONValue
    var ignoresMerges = false
    /// Whether a begin token is added when the file does not say.
    var addsBOS = false

    /// Splits by GPT-2's pattern, no space put before the text.
    static let gpt2: JSONValue = [
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    ]

    init(_ name: String, _ path: String) throws {
        let gpt2 = Self.gpt2
        func split(_ pattern: SplitPattern) -> JSONValue {
            [
                "type": "Sequence",
                "pretokenizers": [
                    [
                        "type": "Split", "pattern": ["Regex": .string(pattern.regex)], "behavior": "Isolated",
                        "invert": false,
                    ],
                    ["type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false],
                ],
            ]
        }
        switch name {
        case "default", "gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2", "roberta-bpe": preTokenizer = gpt2
        case "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b":
            preTokenizer = [
                "type": "Sequence", "pretokenizers": [["type": "Digits", "individual_digits": true], gpt2],
            ]
        case "llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral":
            preTokenizer = split(.llama(digits: 3))
            (ignoresMerges, addsBOS) = (true, true)
        case "dbrx", "smaug-bpe": preTokenizer = split(.llama(digits: 3))
        case "qwen2", "deepseek-r1-qwen":
            preTokenizer = split(.llama(digits: 1))
            normalizer = ["type": "NFC"]
        case "tekken":
            preTokenizer = split(.cased(digits: 1, contractions: false))
            (ignoresMerges, addsBOS) = (true, true)
        case "gpt-4o", "llama4": preTokenizer = split(.cased(digits: 3, contractions: true))
        default:
            throw UserError(
                "\(path): tokenizer.ggml.pre \(quoted(name)) is not supported; gpt-2, smollm, llama-bpe, qwen2, tekken "
                    + "and gpt-4o kinds are")
        }
    }
}
