// The files of a tokenizer in a Hugging Face folder: reading them, what the settings change, writing them.
package import Diagnostics
import Formats

/// Names that a tokenizer has in a model folder, the one that counts first.
private let tokenizerFileNames = [
    "tokenizer.json", "tekken.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
]

/// The tokenizer's file in a model folder; nil when there is none.
package func tokenizerFile(in folder: String) -> String? {
    if let name = tokenizerFileNames.first(where: { fileExists(joinPath(folder, $0)) }) {
        return joinPath(folder, name)
    }
    guard folderExists(folder), let names = try? listFolder(folder) else { return nil }  // unreadable: has none
    let ranks = names.filter { $0.utf8.suffix(9).elementsEqual(".tiktoken".utf8) }
    return ranks.count == 1 ? joinPath(folder, ranks[0]) : nil
}

/// What to say of a folder without a tokenizer that can be read.
package func missingTokenizer(in folder: String) -> UserError {
    let names = ((try? listFolder(folder)) ?? []).sorted()  // unreadable: nothing to name
    func named(_ ending: String) -> [String] {
        names.filter { $0.utf8.suffix(ending.utf8.count).elementsEqual(ending.utf8) }
    }
    func failure(_ what: String) -> UserError { UserError("\(folder): no tokenizer.json in this folder; \(what)") }
    let ranks = named(".tiktoken"), models = named(".gguf")
    if ranks.count > 1 {
        return failure("of its rank files (\(ranks.joined(separator: ", "))) give the one that the model uses")
    }
    if let model = models.first { return failure("give the path of a .gguf file in it, like \(model)") }
    let words = ["vocab.json", "merges.txt", "vocab.txt"].filter { names.contains($0) }
    if !words.isEmpty {
        return failure(
            "how texts are split is not said by \(words.joined(separator: " and ")); transformers writes one: "
                + "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)")
    }
    return failure(
        "a model folder has one, or \(tokenizerFileNames.dropFirst().joined(separator: ", ")) or one .tiktoken file; "
            + "a .gguf file has its own")
}

/// What a tokenizer came from, and writes again.
struct TokenizerFiles: Sendable {
    /// What decides ids and texts.
    enum Source: Sendable {
        case json(JSONValue)
        case text(TokenizerText)
        case sentencePiece(SentencePieceFile)
        case ranks(RankVocabulary)
    }

    private(set) var source: Source
    /// The source as tokenizer.json.
    var tokenizerJSON: JSONValue {
        get {
            switch source {
            case .json(let json): json
            case .text(let text): text.value
            case .sentencePiece(let file): file.tokenizerJSON
            case .ranks(let vocabulary): vocabulary.tokenizerJSON
            }
        }
        set { source = .json(newValue) }
    }
    /// `tokenizer_config.json`; empty when there was none.
    var config = JSONObject()
    var specialTokensMap: JSONObject?
    /// By name; a template that stands alone is `default`.
    private(set) var chatTemplates: [(name: String, source: String)] = []
    /// Files as they were read, by name; written again byte for byte until something is added.
    var originals: [(name: String, bytes: [UInt8])] = []

    /// The files of `path`: a folder, or a tokenizer file; the files beside one of the usual names are read too.
    init(path: String) throws {
        var folder: String? = path, file = path
        if folderExists(path) {
            guard let found = tokenizerFile(in: path) else {
                throw missingTokenizer(in: path)
            }
            file = found
        } else {
            guard fileExists(path) else { throw UserError("\(path): no such file or folder") }
            folder = tokenizerFileNames.contains(fileName(of: path)) ? parentFolder(of: path) : nil
        }
        let bytes = try readFile(file, maxBytes: maxTokenizerBytes)
        source = try Self.source(bytes, file)
        if case .text = source { originals.append(("tokenizer.json", bytes)) } else { addSettings() }
        guard let folder else { return }
        func optional(_ name: String) throws -> JSONObject? {
            let path = joinPath(folder, name)
            guard fileExists(path) else { return nil }
            guard let object = try Self.read(path, name, &originals).object else {
                throw UserError("\(path): an object should be there")
            }
            return object
        }
        config = try optional("tokenizer_config.json") ?? config
        specialTokensMap = try optional("special_tokens_map.json")
        let found = try Self.templates(in: folder)
        chatTemplates = found.isEmpty ? Self.templates(in: config) : found
    }

    init(tokenizerJSON: JSONValue, config: JSONObject = JSONObject(), specialTokensMap: JSONObject? = nil) {
        (source, self.config, self.specialTokensMap) = (.json(tokenizerJSON), config, specialTokensMap)
        chatTemplates = Self.templates(in: config)
    }

    /// What kind of file this is, by what it begins with.
    private static func source(_ bytes: [UInt8], _ path: String) throws -> Source {
        let start = bytes.prefix(200)
        if start.first == 0x0A {  // field 1 of a message
            return .sentencePiece(try bytes.withUnsafeBytes { try SentencePieceFile($0, path) })
        }
        if let space = start.firstIndex(of: 0x20), let end = start.firstIndex(of: 0x0A), space < end,
            start[(space + 1)..<end].allSatisfy({ $0 &- 0x30 < 10 || $0 == 0x0D }), space + 1 < end
        {
            return .ranks(try RankVocabulary(ranks: bytes, path))
        }
        let text = try TokenizerText(bytes, path), outline = text.outline
        if outline["model"] == nil, text.ranks != nil, outline["config"] != nil {
            return .ranks(try RankVocabulary(tekken: text, path))
        }
        return .text(text)
    }

    /// Reads the parts of the tokenizer.json.
    func jsonReader(_ file: String) throws -> TokenizerJSONReader {
        if case .text(let text) = source { return TokenizerJSONReader(text, file: file) }
        return try TokenizerJSONReader(tokenizerJSON, file: file)
    }

    private static func parse(_ bytes: [UInt8], _ path: String) throws -> JSONValue {
        do throws(JSONError) {
            return try JSONValue.parse(bytes, maxDepth: maxTokenizerDepth)
        } catch {
            throw UserError("\(path): \(error)")
        }
    }

    /// The settings that other sources than tokenizer.json bring along.
    private mutating func addSettings() {
        switch source {
        case .json, .text: break
        case .sentencePiece(let file):
            for (key, id) in [("bos_token", file.bosID), ("eos_token", file.eosID), ("pad_token", file.padID)]
            where file.pieces.indices.contains(id) {
                config[key] = .string(file.text(id))
            }
            if let unknown = file.unknown { config["unk_token"] = .string(unknown) }
        case .ranks(let vocabulary):
            if let bos = vocabulary.bos { config["bos_token"] = .string(bos.text) }
            let ends = ["<|endoftext|>", "<|end_of_text|>", "</s>"]
            if let end = vocabulary.special.first(where: { ends.contains($0.text) }) {
                config["eos_token"] = .string(end.text)
            }
        }
    }

    private static func read(
        _ path: String, _ name: String, _ originals: inout [(name: String, bytes: [UInt8])]
    ) throws -> JSONValue {
        let bytes = try readFile(path, maxBytes: maxTokenizerBytes)
        originals.append((name, bytes))
        return try parse(bytes, path)
    }

    // MARK: Chat templates

    private static let templateFile = "chat_template.jinja", templateFolder = "additional_chat_templates"

    /// The templates that are files of their own, as transformers 5 writes them.
    private static func templates(in folder: String) throws -> [(name: String, source: String)] {
        var paths: [(name: String, path: String)] = []
        let own = joinPath(folder, templateFile), others = joinPath(folder, templateFolder)
        if fileExists(own) { paths.append(("default", own)) }
        for file in folderExists(others) ? try listFolder(others).sorted() : [] where file.hasSuffix(".jinja") {
            paths.append((String(file.dropLast(".jinja".count)), joinPath(others, file)))
        }
        return try paths.map { ($0.name, try readTextFile($0.path, maxBytes: maxTokenizerBytes)) }
    }

    /// `chat_template`: a text, or named ones.
    private static func templates(in config: JSONObject) -> [(name: String, source: String)] {
        guard let value = config["chat_template"] else { return [] }
        if let text = value.string { return [("default", text)] }
        return (value.array ?? []).compactMap { entry in
            guard let name = entry["name"]?.string, let source = entry["template"]?.string else { return nil }
            return (name, source)
        }
    }

    /// The last of its name counts, as in a dictionary.
    func chatTemplate(_ name: String = "default") -> String? {
        chatTemplates.last { ExactString($0.name) == ExactString(name) }?.source
    }

    /// Puts one template in the place of all.
    mutating func replaceTemplates(with source: String) {
        chatTemplates = [("default", source)]
        config["chat_template"] = nil
        originals.removeAll { $0.name == "tokenizer_config.json" }
    }

    /// The files of the templates; none where the settings hold several, which are written with them.
    private var templateFiles: [(name: String, bytes: [UInt8])] {
        let inSettings = Self.templates(in: config)
        if inSettings.count > 1, inSettings.elementsEqual(chatTemplates, by: { $0 == $1 }) { return [] }
        return chatTemplates.map { name, source in
            (name == "default" ? Self.templateFile : "\(Self.templateFolder)/\(name).jinja", Array(source.utf8))
        }
    }

    // MARK: Special tokens of the settings

    static let specialKeys = [
        "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    ]

    /// The entry of a named special token.
    private func entry(_ key: String) -> JSONValue? {
        for source in [config[key], specialTokensMap?[key]] {
            if let source, source != .null { return source }
        }
        return nil
    }

    /// Names that chat templates use for special tokens, as in transformers: those of the roles, and the model's own.
    var templateVariables: JSONObject {
        var variables = JSONObject()
        for key in Self.specialKeys { variables[key] = specialToken(key).map { .string($0) } }
        for (key, value) in ownTokens {
            if let text = value.tokenText { variables[key] = .string(text) }
        }
        return variables
    }

    /// Content of `bos_token` and its like.
    func specialToken(_ key: String) -> String? { entry(key)?.tokenText }

    /// Lays the settings over the parts as transformers' tokenizers (5.x) do: tokens they name become added tokens, and
    /// `add_bos_token` or `add_eos_token`, when present, replace the post-processor.
    func apply(to parts: inout TokenizerParts, file: String) throws {
        parts.added = try allAdded(parts.added, over: parts.vocabulary, file)
        if config["add_bos_token"] == nil, config["add_eos_token"] == nil { return }
        func piece(_ flag: String, _ key: String) throws -> [TemplatePiece] {
            guard try Self.flag(flag, of: .object(config), file) == true, let token = specialToken(key),
                let id = parts.added.last(where: { ExactString($0.content) == ExactString(token) })?.id
            else { return [] }
            return [.special(ids: [id], tokens: [ExactString(token)])]
        }
        let pieces = try piece("add_bos_token", "bos_token") + [.text] + piece("add_eos_token", "eos_token")
        parts.postProcessors = [.template(pieces)]
    }

    /// The added tokens of tokenizer.json and those that the settings name.
    func allAdded(_ added: [AddedToken], over vocabulary: Vocabulary, _ file: String) throws -> [AddedToken] {
        var numbering = AddedTokenNumbering(vocabulary, added, file)
        for (key, value) in entry("extra_special_tokens")?.object ?? JSONObject() {
            if value.tokenText == nil {
                throw UserError("\(file): extra_special_tokens: \(quoted(key)) names no token")
            }
        }
        let named = Self.specialKeys.compactMap { entry($0) } + ownTokens.values
        try addListedTokens(to: &numbering, named.compactMap(\.tokenText), file)
        var known = Set(numbering.tokens.map { ExactString($0.content) })
        for value in named + listedTokens {
            guard let content = value.tokenText, known.insert(ExactString(content)).inserted else { continue }
            try numbering.add(content) { try Self.token(content, value, id: $0, special: true, file) }
        }
        return numbering.tokens
    }

    /// Special tokens with names of the model's own, like `image_token`: beside the usual ones, and in
    /// `extra_special_tokens` where that is an object.
    private var ownTokens: JSONObject {
        func isOwn(_ key: String) -> Bool {
            key.utf8.suffix(6).elementsEqual("_token".utf8) && !Self.specialKeys.contains(key)
                && !["add_bos_token", "add_eos_token"].contains(key)
        }
        var named = JSONObject()
        // transformers reads the map only of folders that do not list their added tokens.
        if config["added_tokens_decoder"] == nil, let specialTokensMap {
            for (key, value) in specialTokensMap where isOwn(key) { named[key] = value }
        }
        for (key, value) in config where isOwn(key) {
            if value.string != nil || value["__type"]?.string == "AddedToken" { named[key] = value }
        }
        for (key, value) in entry("extra_special_tokens")?.object ?? JSONObject() { named[key] = value }
        return named
    }

    /// Special tokens without names; those of the old name count where there are none of the new.
    private var listedTokens: [JSONValue] {
        if let list = entry("extra_special_tokens")?.array, !list.isEmpty { return list }
        return entry("additional_special_tokens")?.array ?? []
    }

    private func addListedTokens(to numbering: inout AddedTokenNumbering, _ named: [String], _ file: String) throws {
        guard let listed = config["added_tokens_decoder"]?.object else { return }
        let entries = try listed.map { key, value in
            guard let id = Int(key), let content = value["content"]?.string else {
                throw UserError(
                    "\(file): added_tokens_decoder: entry \(quoted(key)) needs a number as key and a \"content\"")
            }
            return (id, content, value)
        }
        for (id, content, value) in entries.sorted(by: { $0.0 < $1.0 }) {
            let isNamed = named.contains { ExactString($0) == ExactString(content) }
            try numbering.add(content, expecting: id) {
                let isSpecial = try Self.flag("special", of: value, file) ?? false
                return try Self.token(content, value, id: $0, special: isSpecial || isNamed, file)
            }
        }
    }

    private static func token(
        _ content: String, _ value: JSONValue, id: Int32, special: Bool, _ file: String
    ) throws -> AddedToken {
        func flag(_ key: String) throws -> Bool? { try Self.flag(key, of: value, file) }
        return AddedToken(
            content, id: id, singleWord: try flag("single_word") ?? false, stripsLeft: try flag("lstrip") ?? false,
            stripsRight: try flag("rstrip") ?? false, normalized: try flag("normalized"), special: special)
    }

    /// Nil where it is absent or null.
    private static func flag(_ key: String, of value: JSONValue, _ file: String) throws -> Bool? {
        guard let given = value[key], given != .null else { return nil }
        guard let flag = given.bool else {
            let content = value["content"]?.string.map { " of the token \(quoted($0))" } ?? ""
            throw UserError("\(file): the settings' \(key)\(content) must be true or false")
        }
        return flag
    }
}

extension JSONValue {
    /// The text of a token in the settings: the text itself, or an object's `content`.
    fileprivate var tokenText: String? { string ?? self["content"]?.string }
}

// MARK: Writing

extension TokenizerFiles {
    /// The same files with these added tokens listed.
    func listing(_ added: [AddedToken]) -> TokenizerFiles {
        var files = self
        let sorted = added.sorted { $0.id < $1.id }
        if var root = tokenizerJSON.object {
            root["added_tokens"] = .array(sorted.map { $0.json(withID: true) })
            files.tokenizerJSON = .object(root)
        }
        if config["added_tokens_decoder"] != nil {
            files.config["added_tokens_decoder"] = .object(
                JSONObject(sorted.map { (String($0.id), $0.json(withID: false)) }))
        }
        files.originals.removeAll { $0.name == "tokenizer.json" || $0.name == "tokenizer_config.json" }
        return files
    }

    /// Names and bytes of the files to write; a name may begin with a folder.
    func contents() -> [(name: String, bytes: [UInt8])] {
        var config = config
        if config["tokenizer_class"] == nil { config["tokenizer_class"] = "PreTrainedTokenizerFast" }
        if config["clean_up_tokenization_spaces"] == nil { config["clean_up_tokenization_spaces"] = false }
        func pretty(_ value: JSONValue) -> [UInt8] { Array((value.serialized(.pretty) + "\n").utf8) }
        var files = [(name: "tokenizer.json", bytes: pretty(tokenizerJSON))]
        files.append(("tokenizer_config.json", pretty(.object(config))))
        if let specialTokensMap { files.append(("special_tokens_map.json", pretty(.object(specialTokensMap)))) }
        files += templateFiles
        return files.map { file in originals.first { $0.name == file.name } ?? file }
    }
}

extension TokenizerFiles {
    /// - Parameter folder: one that exists.
    func write(to folder: String) throws {
        for (name, bytes) in contents() {
            let path = joinPath(folder, name)
            try createDirectories(parentFolder(of: path))
            try writeFileAtomically(bytes, to: path)
        }
    }
}

extension AddedToken {
    /// The entry in `added_tokens`, or without its id in `added_tokens_decoder`.
    func json(withID: Bool) -> JSONValue {
        var object = JSONObject()
        if withID { object["id"] = JSONValue(Int(id)) }
        object["content"] = .string(content)
        object["single_word"] = .bool(singleWord)
        object["lstrip"] = .bool(stripsLeft)
        object["rstrip"] = .bool(stripsRight)
        object["normalized"] = .bool(normalized)
        object["special"] = .bool(special)
        return .object(object)
    }
}
