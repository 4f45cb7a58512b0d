// The tokenizer inside a GGUF file, written as the files of a Hugging Face folder; from there everything is one path.
//
// GGUF keeps vocabulary, scores and merges, but of the rest only names (`tokenizer.ggml.model` and `tokenizer.ggml.pre`),
// which llama.cpp and the original repositories give a meaning: Llama 3 takes whole words first, Qwen 2 normalizes,
// SmolLM splits digits.
import Diagnostics
import Formats

extension TokenizerFiles {
    /// - Throws: `UserError` for a kind of vocabulary that is not known and for missing or broken metadata.
    init(gguf metadata: GGUFMetadata) throws {
        let vocabulary = try GGUFVocabulary(metadata)
        let root: JSONObject =
            switch vocabulary.model {
            case "gpt2": try vocabulary.byteLevel()
            case "llama": try vocabulary.sentencePiece()
            case "gemma4": try vocabulary.markedBPE()
            case "bert": try vocabulary.wordPiece()
            case "t5": try vocabulary.unigram()
            case "rwkv": try vocabulary.longestBytes()
            case "plamo2": try vocabulary.plamo2()
            case let model:
                throw vocabulary.failure(
                    "tokenizer model \(quoted(model)) is not supported; gpt2, llama, gemma4, bert, t5, rwkv and plamo2 are"
                )
            }
        let settings = try Self.config(metadata, vocabulary.tokens)
        self.init(tokenizerJSON: .object(root), config: settings)
        specialTokensMap = JSONObject(settings.filter { $0.0.utf8.suffix(6).elementsEqual("_token".utf8) })
    }

    static let roles = [
        ("bos_token", "bos_token_id"), ("eos_token", "eos_token_id"), ("unk_token", "unknown_token_id"),
        ("pad_token", "padding_token_id"), ("sep_token", "seperator_token_id"), ("cls_token", "cls_token_id"),
        ("mask_token", "mask_token_id"),
    ]

    /// Token of a role, checked.
    static func token(_ key: String, _ metadata: GGUFMetadata, _ tokens: [String]) throws -> (String, Int)? {
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
        config["chat_template"] = template(metadata)
        config["clean_up_tokenization_spaces"] = false
        let architecture = metadata["general.architecture"]?.string ?? ""
        if let length = metadata["\(architecture).context_length"]?.int {
            config["model_max_length"] = JSONValue(length)
        }
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        return config
    }

    /// `chat_template`: a text, or a list where the file has more of them under names.
    private static func template(_ metadata: GGUFMetadata) -> JSONValue? {
        let usual = metadata["tokenizer.chat_template"]?.string
        let named = (metadata["tokenizer.chat_templates"]?.strings ?? []).compactMap { name in
            metadata["tokenizer.chat_template.\(name)"]?.string.map { (name, $0) }
        }
        if named.isEmpty { return usual.map { .string($0) } }
        let all = (usual.map { [("default", $0)] } ?? []) + named
        return .array(all.map { ["name": .string($0), "template": .string($1)] })
    }
}

/// The lists of a GGUF vocabulary, checked, and the tokenizer.json of each kind.
struct GGUFVocabulary {
    let metadata: GGUFMetadata
    let model: String
    let tokens: [String]
    private let types: [Int32]

    /// Types of `tokenizer.ggml.token_type`.
    enum TokenType {
        static let normal: Int32 = 1, unknown: Int32 = 2, control: Int32 = 3, userDefined: Int32 = 4, unused: Int32 = 5
        static let byte: Int32 = 6
    }

    init(_ metadata: GGUFMetadata) throws {
        self.metadata = metadata
        func failure(_ message: String) -> UserError { UserError("\(metadata.path): \(message)") }
        guard let model = metadata["tokenizer.ggml.model"]?.string else { throw failure("holds no tokenizer") }
        guard let tokens = metadata["tokenizer.ggml.tokens"]?.strings, !tokens.isEmpty else {
            throw failure("tokenizer.ggml.tokens is missing or no list of strings")
        }
        guard tokens.count <= Vocabulary.maxID else { throw failure("has \(counted(tokens.count, "token")); too many") }
        types = (metadata["tokenizer.ggml.token_type"]?.ints ?? []).map { Int32(truncatingIfNeeded: $0) }
        guard types.isEmpty || types.count == tokens.count else {
            throw failure("tokenizer.ggml.token_type has \(types.count) entries for \(counted(tokens.count, "token"))")
        }
        (self.model, self.tokens) = (model, tokens)
    }

    func failure(_ message: String) -> UserError { UserError("\(metadata.path): \(message)") }

    private func type(_ id: Int) -> Int32 { types.isEmpty ? TokenType.normal : types[id] }

    /// - Parameter stripping: the token that takes the blanks before it along.
    private func added(_ kinds: Set<Int32>, stripping: String? = nil) -> JSONValue {
        .array(
            tokens.indices.filter { kinds.contains(type($0)) }.map { id in
                AddedToken(
                    tokens[id], id: Int32(id), stripsLeft: tokens[id] == stripping, normalized: false,
                    special: type(id) != TokenType.userDefined
                ).json(withID: true)
            })
    }

    private func vocabulary(_ tokens: [String]) throws -> JSONValue {
        var vocabulary = JSONObject()
        for (id, token) in tokens.enumerated() {
            guard vocabulary[token] == nil else {
                throw failure("token \(quoted(token)) has two ids; \(id) is one of them")
            }
            vocabulary[token] = JSONValue(id)
        }
        return .object(vocabulary)
    }

    private func merges() throws -> [JSONValue] {
        guard let merges = metadata["tokenizer.ggml.merges"]?.strings else {
            throw failure("tokenizer.ggml.merges is missing or no list of strings")
        }
        return merges.map { .string($0) }
    }

    private func scores() throws -> [Float] {
        guard let scores = metadata["tokenizer.ggml.scores"]?.floats, scores.count == tokens.count else {
            throw failure("tokenizer.ggml.scores is missing or not as long as the tokens")
        }
        guard scores.allSatisfy(\.isFinite) else { throw failure("tokenizer.ggml.scores holds what is no number") }
        return scores
    }

    private func flag(_ key: String, _ value: Bool) throws -> Bool {
        guard let given = metadata["tokenizer.ggml.\(key)"] else { return value }
        guard let flag = given.bool else {
            throw failure("tokenizer.ggml.\(key) is \(given.kind); a boolean should be there")
        }
        return flag
    }

    private func root(
        _ added: JSONValue, _ normalizer: JSONValue, _ preTokenizer: JSONValue, _ post: JSONValue, _ decoder: JSONValue,
        _ model: JSONValue
    ) -> JSONObject {
        JSONObject([
            ("version", "1.0"), ("truncation", .null), ("padding", .null), ("added_tokens", added),
            ("normalizer", normalizer), ("pre_tokenizer", preTokenizer), ("post_processor", post), ("decoder", decoder),
            ("model", model),
        ])
    }

    /// A template that adds begin and end tokens as the file says.
    private func template(bos: String, addsBOS: Bool, eos: String, addsEOS: Bool) throws -> JSONValue {
        var pieces: [JSONValue] = [["Sequence": ["id": "A", "type_id": 0]]], special = JSONObject()
        func piece(_ key: String) throws -> JSONValue? {
            guard let (text, id) = try TokenizerFiles.token(key, metadata, tokens) else { return nil }
            special[text] = ["id": .string(text), "ids": [JSONValue(id)], "tokens": [.string(text)]]
            return ["SpecialToken": ["id": .string(text), "type_id": 0]]
        }
        if try flag("add_bos_token", addsBOS), let bos = try piece(bos) { pieces.insert(bos, at: 0) }
        if try flag("add_eos_token", addsEOS), let eos = try piece(eos) { pieces.append(eos) }
        let pair = pieces + [["Sequence": ["id": "B", "type_id": 1]]]
        return [
            "type": "TemplateProcessing", "single": .array(pieces), "pair": .array(pair),
            "special_tokens": .object(special),
        ]
    }

    // MARK: Kinds

    /// `gpt2`: BPE over bytes.
    func byteLevel() throws -> JSONObject {
        let name = metadata["tokenizer.ggml.pre"]?.string ?? "default"
        if GGUFPreTokenizer.marked.contains(name) { return try markedBPE() }
        if name == "whitespace" {
            throw failure(
                "tokenizer.ggml.pre \"whitespace\" is not supported: its words are spelled in characters, not bytes")
        }
        let kind = try GGUFPreTokenizer(name, metadata.path)
        let merges = try merges()
        return root(
            added([TokenType.control, TokenType.userDefined], stripping: kind.strippingToken), kind.normalizer,
            kind.preTokenizer,
            try template(bos: "bos_token_id", addsBOS: kind.addsBOS, eos: "eos_token_id", addsEOS: false),
            GGUFPreTokenizer.gpt2,
            [
                "type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
                "end_of_word_suffix": nil, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": .bool(kind.ignoresMerges), "vocab": try vocabulary(tokens), "merges": .array(merges),
            ])
    }

    private static let mark = "\u{2581}"
    private static let marksSpaces: JSONValue = [
        "type": "Replace", "pattern": ["String": " "], "content": .string(mark),
    ]
    private static let unmarksSpaces: JSONValue = [
        "type": "Replace", "pattern": ["String": .string(mark)], "content": " ",
    ]

    /// `llama`: SentencePiece BPE with byte fallback, without its normalization.
    func sentencePiece() throws -> JSONObject {
        var file = SentencePieceFile(algorithm: .bpe)
        let scores = try scores()
        for (id, token) in tokens.enumerated() {
            file.append(token.utf8, .init(score: scores[id], kind: .init(rawValue: Int(type(id))) ?? .normal))
        }
        let prefix = try flag("add_space_prefix", true)
        let normalizers = (prefix ? [["type": "Prepend", "prepend": .string(Self.mark)]] : []) + [Self.marksSpaces]
        var decoders: [JSONValue] = [Self.unmarksSpaces, ["type": "ByteFallback"], ["type": "Fuse"]]
        if prefix { decoders.append(["type": "Strip", "content": " ", "start": 1, "stop": 0]) }
        let unknown = try TokenizerFiles.token("unknown_token_id", metadata, tokens)?.0
        _ = try vocabulary(tokens)
        return root(
            added([TokenType.control, TokenType.userDefined, TokenType.unknown]),
            ["type": "Sequence", "normalizers": .array(normalizers)], .null,
            try template(bos: "bos_token_id", addsBOS: true, eos: "eos_token_id", addsEOS: false),
            ["type": "Sequence", "decoders": .array(decoders)],
            SentencePieceFile.bpeModel(tokens, file.merges(), types.contains(TokenType.byte), unknown))
    }

    /// `gemma4`: BPE by merges over characters, spaces as marks, line breaks by themselves.
    func markedBPE() throws -> JSONObject {
        let merges = try metadata["tokenizer.ggml.merges"]?.strings.map { lines in
            try lines.map { line -> JSONValue in
                // A side may be a line break or a blank itself: the space between is the one after the first character.
                let bytes = Array(line.utf8)
                guard let space = bytes.dropFirst().firstIndex(of: 0x20) else {
                    throw failure("tokenizer.ggml.merges: \(quoted(line)) is not two tokens with a space between")
                }
                return [
                    .string(String(decoding: bytes[..<space], as: UTF8.self)),
                    .string(String(decoding: bytes[(space + 1)...], as: UTF8.self)),
                ]
            }
        }
        guard let merges else { throw failure("tokenizer.ggml.merges is missing or no list of strings") }
        let unknown = try TokenizerFiles.token("unknown_token_id", metadata, tokens)?.0
        _ = try vocabulary(tokens)
        return root(
            added([TokenType.control, TokenType.userDefined, TokenType.unknown]), Self.marksSpaces,
            [
                "type": "Split", "pattern": ["Regex": "[^\n]+|\n+"], "behavior": "Isolated", "invert": false,
            ], try template(bos: "bos_token_id", addsBOS: true, eos: "eos_token_id", addsEOS: false),
            [
                "type": "Sequence",
                "decoders": [Self.unmarksSpaces, ["type": "ByteFallback"], ["type": "Fuse"]],
            ], SentencePieceFile.bpeModel(tokens, merges, true, unknown))
    }

    /// `bert`: WordPiece. The file marks pieces that begin a word; tokenizer.json those that do not.
    func wordPiece() throws -> JSONObject {
        let pieces = tokens.enumerated().map { id, token -> String in
            if type(id) == TokenType.control || type(id) == TokenType.unknown { return token }
            return token.unicodeScalars.first?.value == 0x2581
                ? String(token.unicodeScalars.dropFirst()) : "##" + token
        }
        guard let unknown = try TokenizerFiles.token("unknown_token_id", metadata, tokens)?.0 else {
            throw failure("tokenizer.ggml.unknown_token_id is missing")
        }
        return root(
            added([TokenType.control, TokenType.unknown]),
            [
                "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": nil,
                "lowercase": true,
            ], ["type": "BertPreTokenizer"],
            try template(bos: "cls_token_id", addsBOS: true, eos: "seperator_token_id", addsEOS: true),
            ["type": "WordPiece", "prefix": "##", "cleanup": true],
            [
                "type": "WordPiece", "unk_token": .string(unknown), "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": try vocabulary(pieces),
            ])
    }

    /// `t5`: SentencePiece Unigram with its normalization.
    func unigram() throws -> JSONObject {
        let scores = try scores()
        var normalizers: [JSONValue] = []
        if let map = metadata["tokenizer.ggml.precompiled_charsmap"]?.ints, !map.isEmpty {
            let bytes = map.map { UInt8(truncatingIfNeeded: $0) }
            normalizers.append(["type": "Precompiled", "precompiled_charsmap": .string(encodedBase64(bytes))])
        }
        if try flag("remove_extra_whitespaces", false) {
            normalizers.append(["type": "Strip", "strip_left": true, "strip_right": true])
            normalizers.append(["type": "Replace", "pattern": ["Regex": " {2,}"], "content": " "])
        }
        let metaspace: JSONValue = [
            "type": "Metaspace", "replacement": .string(Self.mark),
            "prepend_scheme": .string(try flag("add_space_prefix", true) ? "always" : "never"), "split": true,
        ]
        guard let (_, unknown) = try TokenizerFiles.token("unknown_token_id", metadata, tokens) else {
            throw failure("tokenizer.ggml.unknown_token_id is missing")
        }
        _ = try vocabulary(tokens)
        return root(
            added([TokenType.control, TokenType.userDefined, TokenType.unknown]),
            normalizers.isEmpty ? .null : ["type": "Sequence", "normalizers": .array(normalizers)], metaspace,
            try template(bos: "bos_token_id", addsBOS: false, eos: "eos_token_id", addsEOS: true), metaspace,
            [
                "type": "Unigram", "unk_id": JSONValue(unknown), "byte_fallback": .bool(types.contains(TokenType.byte)),
                "vocab": .array(zip(tokens, scores).map { [.string($0), .number(JSONNumber(Double($1)))] }),
            ])
    }

    /// `rwkv`: the longest token first, over bytes; what tokenizer.json calls WordPiece without a prefix.
    func longestBytes() throws -> JSONObject {
        let pieces = try tokens.enumerated().map { id, token -> String in
            guard let bytes = PythonBytes.read(token) else {
                throw failure("tokenizer.ggml.tokens[\(id)] \(quoted(token)) is not written as Python writes bytes")
            }
            return ByteAlphabet.spell(bytes)
        }
        let known = Set(pieces.lazy.map { ExactString($0) })
        guard (0..<256).allSatisfy({ known.contains(ExactString(ByteAlphabet.spell([UInt8($0)]))) }) else {
            throw failure("tokenizer.ggml.tokens lacks a token for some bytes, without which texts cannot be spelled")
        }
        return root(
            added([TokenType.control, TokenType.userDefined, TokenType.unknown]), .null, GGUFPreTokenizer.bytesOnly,
            .null,
            GGUFPreTokenizer.bytesOnly,
            [
                // Every byte is a token, so that the unknown one is never met.
                "type": "WordPiece", "unk_token": .string(pieces[0]), "continuing_subword_prefix": "",
                "max_input_chars_per_word": JSONValue(Int(Int32.max)), "vocab": try vocabulary(pieces),
            ])
    }

    /// `plamo2`: the best sum of scores, read from the end. `tokenizers` has no such model, so the type's name is our own.
    func plamo2() throws -> JSONObject {
        let scores = try scores(), spellings = Set((0..<256).map { ByteTokens.spelling(UInt8($0)) })
        let bytes = tokens.indices.filter { type($0) == TokenType.byte }
        guard bytes.count == 256, bytes.allSatisfy({ spellings.contains(tokens[$0]) }) else {
            throw failure("tokenizer model \"plamo2\" needs a token of type byte for each byte, <0x00> to <0xFF>")
        }
        _ = try vocabulary(tokens)
        return root(
            added([TokenType.control, TokenType.userDefined, TokenType.unknown]),
            // A byte order mark that begins a text is dropped.
            ["type": "Replace", "pattern": ["Regex": #"\A\x{FEFF}"#], "content": ""], .null, .null,
            ["type": "Sequence", "decoders": [["type": "ByteFallback"], ["type": "Fuse"]]],
            [
                "type": .string(PLaMo2.typeName),
                "vocab": .array(zip(tokens, scores).map { [.string($0), .number(JSONNumber(Double($1)))] }),
            ])
    }
}

/// Bytes as Python writes them between quotes: `\xe4\n`.
enum PythonBytes {
    /// Nil for what is no such text.
    static func read(_ text: String) -> [UInt8]? {
        var bytes: [UInt8] = [], rest = Array(text.utf8)[...]
        func digit(_ byte: UInt8) -> UInt8? {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
            default: nil
            }
        }
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "\\") else {
                bytes.append(byte)
                continue
            }
            switch rest.popFirst() {
            case UInt8(ascii: "t"): bytes.append(0x09)
            case UInt8(ascii: "n"): bytes.append(0x0A)
            case UInt8(ascii: "r"): bytes.append(0x0D)
            case UInt8(ascii: "x"):
                guard let high = rest.popFirst().flatMap(digit), let low = rest.popFirst().flatMap(digit) else {
                    return nil
                }
                bytes.append(high << 4 | low)
            case let other?: bytes.append(other)
            case nil: return nil
            }
        }
        return bytes
    }

    static func write(_ bytes: some Sequence<UInt8>) -> String {
        bytes.reduce(into: "") { text, byte in
            switch byte {
            case 0x09: text += #"\t"#
            case 0x0A: text += #"\n"#
            case 0x0D: text += #"\r"#
            case UInt8(ascii: "\\"): text += #"\\"#
            case 0x20..<0x7F: text.unicodeScalars.append(Unicode.Scalar(byte))
            default:
                let digits = String(byte, radix: 16)
                text += #"\x"# + (byte < 16 ? "0" : "") + digits
            }
        }
    }
}
