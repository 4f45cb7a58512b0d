// Ways to get a tokenizer: a model folder, a tokenizer.json, a GGUF file, or another tokenizer with tokens added.
import Diagnostics
public import Formats

extension Tokenizer {
    /// Reads the tokenizer of a model folder, or a file: `tokenizer.json`, SentencePiece's `.model`, tiktoken's ranks,
    /// `tekken.json` or `.gguf`.
    ///
    /// - Throws: `UserError` naming the file and the part at fault.
    public convenience init(modelPath: String) throws {
        if modelPath.utf8.suffix(5).elementsEqual(".gguf".utf8), !folderExists(modelPath) {
            try self.init(gguf: GGUFFile(path: modelPath).metadata)
        } else {
            let file = folderExists(modelPath) ? tokenizerFile(in: modelPath) ?? modelPath : modelPath
            try self.init(TokenizerFiles(path: modelPath), file: file)
        }
    }

    /// A tokenizer from the contents of `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.
    public convenience init(
        tokenizerJSON: JSONValue, config: JSONValue? = nil, specialTokensMap: JSONValue? = nil
    ) throws {
        let files = TokenizerFiles(
            tokenizerJSON: tokenizerJSON, config: config?.object ?? JSONObject(),
            specialTokensMap: specialTokensMap?.object)
        try self.init(files, file: "tokenizer.json")
    }

    /// The tokenizer inside a GGUF file (`tokenizer.ggml.*`).
    public convenience init(gguf metadata: GGUFMetadata) throws {
        try self.init(TokenizerFiles(gguf: metadata), file: metadata.path)
    }

    convenience init(_ files: TokenizerFiles, file: String) throws {
        var parts =
            switch files.source {
            case .json, .text: try files.jsonReader(file).parts()
            case .sentencePiece(let model): try model.parts(file)
            case .ranks(let vocabulary): try vocabulary.parts(file)
            }
        try files.apply(to: &parts, file: file)
        self.init(parts: parts, files: files)
    }

    // MARK: Settings

    /// A special token with a role.
    public struct NamedToken: Sendable, Equatable {
        public let text: String
        public let id: Int32
    }

    private func named(_ key: String) -> NamedToken? {
        files.specialToken(key).flatMap { text in id(of: text).map { NamedToken(text: text, id: $0) } }
    }

    public var bosToken: NamedToken? { named("bos_token") }
    public var eosToken: NamedToken? { named("eos_token") }
    public var padToken: NamedToken? { named("pad_token") }
    public var unkToken: NamedToken? { named("unk_token") }

    /// Source of the chat template: `chat_template.jinja`, else `tokenizer_config.json`, else GGUF metadata.
    public var chatTemplate: String? { files.chatTemplate() }
    /// Source of the template for chats with tools; nil where there is none of its own.
    public var toolTemplate: String? { files.chatTemplate("tool_use") }
    /// Names that chat templates use for the tokenizer's special tokens.
    public var templateVariables: JSONObject { files.templateVariables }

    /// Contents for `tokenizer.json`.
    public var tokenizerJSON: JSONValue { files.tokenizerJSON }
    /// Contents for `tokenizer_config.json`.
    public var tokenizerConfig: JSONValue { .object(files.config) }
}

extension Tokenizer {
    /// This tokenizer with more tokens, numbered after the ones that are there.
    ///
    /// A token of the model's vocabulary keeps its id and is from now on found before anything else; one that is added
    /// already stays as it is, or becomes special if asked.
    ///
    /// - Parameter special: left out by `decode(_:skipSpecialTokens:)`, and never split.
    public func adding(tokens: [String], special: Bool) throws -> Tokenizer {
        var numbering = AddedTokenNumbering(parts.vocabulary, parts.added, "added tokens")
        for token in tokens {
            let known = addedToken(token)
            if let known, known.special || !special { continue }
            try numbering.add(token) {
                AddedToken(
                    token, id: $0, singleWord: known?.singleWord ?? false, stripsLeft: known?.stripsLeft ?? false,
                    stripsRight: known?.stripsRight ?? false, normalized: known?.normalized, special: special)
            }
        }
        if numbering.tokens == parts.added { return self }
        var parts = parts
        parts.added = numbering.tokens
        return Tokenizer(parts: parts, files: files.listing(parts.added))
    }

    private func addedToken(_ content: String) -> AddedToken? {
        parts.added.last { ExactString($0.content) == ExactString(content) }
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and, where there is something to write,
    /// `special_tokens_map.json` and `chat_template.jinja`: what transformers and `tokenizers` load.
    ///
    /// Files that were read and not changed are written byte for byte.
    public func save(to folder: String) throws {
        try createDirectories(folder)
        try files.write(to: folder)
    }

    /// Bytes that are equal for equal tokenizers; hash them to recognise one.
    public var fingerprintBytes: [UInt8] {
        let parts: [JSONValue] = [
            tokenizerJSON, tokenizerConfig, files.specialTokensMap.map { .object($0) } ?? .null,
            .array(files.chatTemplates.map { [.string($0.name), .string($0.source)] }),
        ]
        return Array(JSONValue.array(parts).serialized().utf8)
    }
}
