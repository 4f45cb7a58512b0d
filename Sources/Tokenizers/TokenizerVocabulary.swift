// The vocabulary of a tokenizer of any kind, and its files with a different one: what merging needs of tokenizers.
internal import Diagnostics
internal import Formats

/// The tokens of a tokenizer folder. Unlike `Tokenizer` it reads every kind of model, since it encodes nothing.
public struct TokenizerVocabulary: Sendable {
    /// The file that messages name.
    public let file: String
    /// Texts by id as tokenizer.json spells them (`Ġthe`), added tokens included; nil where there is a hole.
    public let texts: [String?]
    /// Tokens found in a text before anything else, in the order of their ids.
    public let added: [AddedToken]
    /// The kind of the model: `BPE`, `Unigram`, `WordPiece`.
    public let kind: String
    /// Whether tokens are spelled in GPT-2's byte alphabet.
    public let isByteLevel: Bool
    private let ids: [ExactString: Int]
    private let files: TokenizerFiles
    /// Where files lie that are copied along while nothing changes.
    private let folder: String?

    /// - Parameter limit: tokens with ids from it on are left out: the model has no rows for them.
    /// - Throws: `UserError` for a folder without a readable tokenizer.json.
    public init(folder: String, below limit: Int? = nil) throws {
        try self.init(
            TokenizerFiles(path: folder), file: joinPath(folder, "tokenizer.json"), folder: folder, below: limit)
    }

    private init(_ files: TokenizerFiles, file: String, folder: String?, below limit: Int?) throws {
        let reader = try files.jsonReader(file), (vocabulary, listed) = try reader.listing()
        let all = try files.allAdded(listed, over: vocabulary, file).sorted { $0.id < $1.id }
        let size = max(Int(vocabulary.maxID), all.last.map { Int($0.id) } ?? -1) + 1
        var texts = [String?](repeating: nil, count: size)
        for id in 0..<size { texts[id] = vocabulary.text(of: Int32(id)) }
        for token in all { texts[Int(token.id)] = token.content }
        let kept = min(size, limit ?? size)
        let unused = Set(texts[kept...].lazy.compactMap { $0 }.map { ExactString($0) })
        self.files = unused.isEmpty ? files : try files.removing(unused, file)
        self.folder = unused.isEmpty ? folder : nil
        (self.file, self.texts) = (file, Array(texts[..<kept]))
        added = all.filter { $0.id < kept }
        kind = reader.root["model"]?["type"]?.string ?? "BPE"
        isByteLevel = reader.root["decoder"]?.mentions("ByteLevel") ?? false
        ids = Dictionary(
            self.texts.enumerated().compactMap { id, text in text.map { (ExactString($0), id) } },
            uniquingKeysWith: { $1 })
    }

    public func id(of token: String) -> Int? { ids[ExactString(token)] }

    /// Source of the tokenizer's chat template.
    public var chatTemplate: String? { files.chatTemplate() }

    /// Tokens that are not added, in the order of their ids.
    public var ordinary: [String] {
        let special = Set(added.map { Int($0.id) })
        return texts.indices.lazy.filter { !special.contains($0) }.compactMap { texts[$0] }
    }

    /// The merges of a BPE model, first one first.
    public func merges() throws -> [(left: String, right: String)] {
        guard let list = files.tokenizerJSON["model"]?["merges"]?.array else {
            throw UserError("\(file): model.merges is missing or no list")
        }
        return try list.enumerated().map { i, merge in
            let parts = merge.array?.compactMap(\.string) ?? merge.string.map(pieces) ?? []
            guard parts.count == 2 else { throw UserError("\(file): model.merges[\(i)] is not a pair of tokens") }
            return (parts[0], parts[1])
        }
    }
}

/// The words of a line between single spaces.
private func pieces(_ line: String) -> [String] {
    line.utf8.split(separator: 0x20, omittingEmptySubsequences: false).map { String(decoding: $0, as: UTF8.self) }
}

extension TokenizerVocabulary {
    /// This vocabulary with more tokens, numbered after the ones that are there.
    ///
    /// - Parameters:
    ///   - ordinary: tokens for the BPE model, none of which is there yet.
    ///   - merges: appended to the model's own, which therefore are applied first.
    ///   - added: tokens to be found before anything else. One that is there already keeps its id, and if it is added
    ///     already, its properties; ids of the others do not count.
    public func adding(
        ordinary: [String], merges: [(left: String, right: String)], added more: [AddedToken]
    ) throws -> TokenizerVocabulary {
        var next = texts.count
        var all = added
        let known = Set(added.map { ExactString($0.content) })
        let ordinaryIDs = Dictionary(
            ordinary.enumerated().map { (ExactString($1), next + $0) }, uniquingKeysWith: { $1 })
        next += ordinary.count
        for token in more where !known.contains(ExactString(token.content)) {
            let known = id(of: token.content) ?? ordinaryIDs[ExactString(token.content)]
            if known == nil { next += 1 }
            all.append(
                AddedToken(
                    token.content, id: Int32(known ?? next - 1), singleWord: token.singleWord,
                    stripsLeft: token.stripsLeft,
                    stripsRight: token.stripsRight, normalized: token.normalized, special: token.special))
        }
        if ordinary.isEmpty && all.count == added.count { return self }
        var files = self.files
        if !ordinary.isEmpty { try files.extend(with: ordinary, after: texts, added: all, merges, file) }
        return try TokenizerVocabulary(files.listing(all), file: file, folder: nil, below: nil)
    }

    /// Writes the tokenizer's files into an existing folder, as they were where nothing changed.
    ///
    /// - Parameter chatTemplate: takes the place of the tokenizer's own.
    public func save(to target: String, chatTemplate: String? = nil) throws {
        var files = self.files
        if let chatTemplate, chatTemplate != files.chatTemplate() { files.replaceTemplates(with: chatTemplate) }
        try files.write(to: target)
        guard let folder else { return }
        for name in ["vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json"]
        where fileExists(joinPath(folder, name)) {
            try writeFileAtomically(readFile(joinPath(folder, name)), to: joinPath(target, name))
        }
    }
}

extension TokenizerFiles {
    /// Without these tokens and the merges that use them.
    fileprivate func removing(_ tokens: Set<ExactString>, _ file: String) throws -> TokenizerFiles {
        guard var root = tokenizerJSON.object, var model = root["model"]?.object, let vocab = model["vocab"]?.object
        else {
            throw UserError("\(file): has tokens beyond the model's vocab_size, and only a BPE vocabulary can be cut")
        }
        func isKept(_ text: String) -> Bool { !tokens.contains(ExactString(text)) }
        model["vocab"] = .object(JSONObject(vocab.filter { isKept($0.0) }.map { ($0.0, $0.1) }))
        model["merges"] = model["merges"]?.array.map { merges in
            .array(
                merges.filter { merge in
                    let parts = merge.array?.compactMap(\.string) ?? merge.string.map(pieces) ?? []
                    return (parts + [parts.joined()]).allSatisfy(isKept)
                })
        }
        root["model"] = .object(model)
        root["added_tokens"] = root["added_tokens"]?.array.map {
            .array($0.filter { isKept($0["content"]?.string ?? "") })
        }
        var files = self
        files.tokenizerJSON = .object(root)
        if let listed = config["added_tokens_decoder"]?.object {
            files.config["added_tokens_decoder"] = .object(
                JSONObject(listed.filter { isKept($0.1["content"]?.string ?? "") }.map { ($0.0, $0.1) }))
        }
        files.originals.removeAll { $0.name == "tokenizer.json" || $0.name == "tokenizer_config.json" }
        return files
    }

    /// Puts every token into the model's vocabulary: `tokenizers` numbers an added token that is not there after as many
    /// tokens as the model has, which would move the base's own.
    fileprivate mutating func extend(
        with ordinary: [String], after texts: [String?], added: [AddedToken], _ merges: [(left: String, right: String)],
        _ file: String
    ) throws {
        guard var root = tokenizerJSON.object, var model = root["model"]?.object, model["merges"] != nil else {
            throw UserError("\(file): only a BPE vocabulary can take tokens of other models")
        }
        var all = texts + ordinary
        for token in added {
            while all.count <= token.id { all.append(nil) }
            all[Int(token.id)] = token.content
        }
        model["vocab"] = .object(JSONObject(all.enumerated().compactMap { id, text in text.map { ($0, .init(id)) } }))
        let own = model["merges"]?.array ?? [], asText = own.first?.string != nil
        model["merges"] = .array(
            own + merges.map { asText ? .string("\($0.left) \($0.right)") : [.string($0.left), .string($0.right)] })
        root["model"] = .object(model)
        tokenizerJSON = .object(root)
    }
}

extension JSONValue {
    /// Whether an object in this section, at any depth, has that type.
    fileprivate func mentions(_ type: String) -> Bool {
        if self["type"]?.string == type { return true }
        return ["decoders", "pretokenizers"].contains { self[$0]?.array?.contains { $0.mentions(type) } ?? false }
    }
}
