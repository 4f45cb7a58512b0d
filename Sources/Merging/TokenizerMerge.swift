// One vocabulary for the models of a merge: which tokens the output has, and which row of each model is whose.
internal import Diagnostics
internal import Formats
package import Tokenizers

/// The `tokenizer` section of a merge configuration; models are positions in the list given to `MergedVocabulary`.
public struct TokenizerSettings: Sendable, Equatable {
    /// Whose vocabulary the output has.
    public enum Source: Sendable, Equatable {
        case base, union
        case model(Int)
    }

    /// Where the row of a token comes from.
    public enum RowSource: Sendable, Equatable {
        /// The row that the same token has in a model.
        case model(Int)
        /// `kind: model_token` with `token`.
        case token(String, model: Int)
        /// `kind: model_token` with `token_id`.
        case tokenID(Int, model: Int)
        /// `kind: zero`
        case zero
    }

    /// An entry of `tokens`.
    public struct Entry: Sendable, Equatable {
        public var source: RowSource?
        /// Also for models that have the token.
        public var force: Bool

        public init(source: RowSource?, force: Bool = false) { (self.source, self.force) = (source, force) }
    }

    public var source: Source
    public var tokens: [(token: String, entry: Entry)]
    public var padToMultipleOf: Int?
    /// Without `padToMultipleOf`: whether the output has at least as many rows as the model that its vocabulary comes
    /// from. mergekit's output has as many as there are tokens.
    public var keepsPadding: Bool

    public init(
        source: Source, tokens: [(token: String, entry: Entry)] = [], padToMultipleOf: Int? = nil,
        keepsPadding: Bool = true
    ) {
        (self.source, self.tokens, self.padToMultipleOf, self.keepsPadding) = (
            source, tokens, padToMultipleOf, keepsPadding
        )
    }

    public static func == (a: Self, b: Self) -> Bool {
        a.source == b.source && a.padToMultipleOf == b.padToMultipleOf && a.keepsPadding == b.keepsPadding
            && a.tokens.elementsEqual(b.tokens) {
                ExactString($0.token) == ExactString($1.token) && $0.entry == $1.entry
            }
    }
}

/// A model whose vocabulary takes part.
public struct VocabularyModel: Sendable {
    /// As messages call it.
    public var name: String
    /// Folder with tokenizer.json.
    public var tokenizerFolder: String
    /// `vocab_size` of config.json: rows of the token table. Tokens with ids from it on do not count.
    public var vocabSize: Int

    public init(name: String, tokenizerFolder: String, vocabSize: Int) {
        (self.name, self.tokenizerFolder, self.vocabSize) = (name, tokenizerFolder, vocabSize)
    }
}

/// The vocabulary of a merge's output: `base`'s, another model's, or the union: the base's ids are kept, then come other
/// models' ordinary tokens in the order of the models, then added tokens.
public final class MergedVocabulary {
    /// Rows of the output's token and head tables: its `vocab_size`.
    public let rows: Int
    /// Number of tokens, from 0; rows from there on are padding.
    public let tokenCount: Int
    /// For each model, in the given order: row of the output -> row of the model, -1 where it has none.
    public let oldRows: [[Int32]]
    package let models: [VocabularyModel]
    package let vocabularies: [TokenizerVocabulary]
    package let output: TokenizerVocabulary
    let base: Int?
    let settings: TokenizerSettings
    /// The entries of `tokens` by row of the output.
    let entries: [Int: TokenizerSettings.Entry]

    /// - Parameters:
    ///   - models: in the order of the configuration, each once.
    ///   - base: position of the base model; the first model's vocabulary counts as the base's when nil.
    ///   - warn: told what was decided for the user.
    /// - Throws: `UserError` for a tokenizer that cannot be read or combined, and for a token that has no row to take.
    public init(models: [VocabularyModel], base: Int?, _ settings: TokenizerSettings, warn: (String) -> Void) throws {
        (self.models, self.base, self.settings) = (models, base, settings)
        let first = base ?? 0
        vocabularies = try Self.vocabularies(of: models, first, warn)
        let source: Int
        switch settings.source {
        case .base, .union: source = first
        case .model(let model): source = model
        }
        var output = vocabularies[source]
        if settings.source == .union { output = try Self.union(vocabularies, first, models, warn) }
        // What `tokens` names and nobody has becomes a token of its own.
        let listed = settings.tokens.filter { output.id(of: $0.token) == nil }
        output = try output.adding(
            ordinary: [], merges: [], added: listed.map { AddedToken($0.token, id: 0, special: false) })
        self.output = output
        entries = Dictionary(settings.tokens.map { (output.id(of: $0.token)!, $0.entry) }, uniquingKeysWith: { $1 })
        tokenCount = output.texts.count
        if let multiple = settings.padToMultipleOf {
            rows = (tokenCount + multiple - 1) / multiple * multiple
        } else {
            rows = settings.keepsPadding ? max(tokenCount, models[source].vocabSize) : tokenCount
        }
        let named = output.texts
        oldRows = zip(models, vocabularies).map { model, vocabulary in
            (0..<named.count).map { id in
                if let text = named[id] { return Int32(vocabulary.id(of: text) ?? -1) }
                // A row without a token keeps its place in models that have nothing else there.
                return id < model.vocabSize && (id >= vocabulary.texts.count || vocabulary.texts[id] == nil)
                    ? Int32(id) : -1
            }
        }
        try checkEntries()
    }

    /// Every model's tokens; one that brings no tokenizer is taken to have the base's.
    private static func vocabularies(
        of models: [VocabularyModel], _ base: Int, _ warn: (String) -> Void
    ) throws -> [TokenizerVocabulary] {
        try models.map { model in
            if fileExists(joinPath(model.tokenizerFolder, "tokenizer.json")) {
                return try TokenizerVocabulary(folder: model.tokenizerFolder, below: model.vocabSize)
            }
            guard model.vocabSize == models[base].vocabSize else {
                throw UserError(
                    "\(model.name): no tokenizer.json in \(model.tokenizerFolder), so its \(counted(model.vocabSize, "token")) are unknown"
                )
            }
            warn("\(model.name): no tokenizer.json; its tokens are taken to be those of \(models[base].name)")
            return try TokenizerVocabulary(folder: models[base].tokenizerFolder, below: model.vocabSize)
        }
    }

    private static func union(
        _ vocabularies: [TokenizerVocabulary], _ first: Int, _ models: [VocabularyModel], _ warn: (String) -> Void
    ) throws -> TokenizerVocabulary {
        let base = vocabularies[first]
        var added: [AddedToken] = [], addedByText: [ExactString: AddedToken] = [:], warned: Set<ExactString> = []
        let others = vocabularies.indices.filter { $0 != first }
        for i in [first] + others {
            for token in vocabularies[i].added {
                guard let known = addedByText[ExactString(token.content)] else {
                    addedByText[ExactString(token.content)] = token
                    added.append(token)
                    continue
                }
                if !known.hasFlags(of: token), warned.insert(ExactString(token.content)).inserted {
                    warn(
                        "token \(shown(token.content)): \(models[i].name) adds it with other properties; the first are kept"
                    )
                }
            }
        }
        var ordinary: [String] = [], seen: Set<ExactString> = []
        for i in others {
            for text in vocabularies[i].ordinary where base.id(of: text) == nil && addedByText[ExactString(text)] == nil
            {
                if seen.insert(ExactString(text)).inserted { ordinary.append(text) }
            }
        }
        if ordinary.isEmpty { return try base.adding(ordinary: [], merges: [], added: added) }
        for i in [first] + others where vocabularies[i].kind != "BPE" || vocabularies[i].isByteLevel != base.isByteLevel
        {
            throw UserError(
                "\(vocabularies[i].file): a union needs BPE tokenizers that spell bytes alike; use `tokenizer: {source: base}`"
            )
        }
        return try base.adding(
            ordinary: ordinary,
            merges: try newMerges(vocabularies, first, others, Set(ordinary.map { ExactString($0) })),
            added: added)
    }

    /// Merges of other models whose parts and result are ordinary tokens of the output, first model's first, each once.
    private static func newMerges(
        _ vocabularies: [TokenizerVocabulary], _ first: Int, _ others: [Int], _ new: Set<ExactString>
    ) throws -> [(left: String, right: String)] {
        let base = vocabularies[first]
        func isThere(_ text: String) -> Bool { base.id(of: text) != nil || new.contains(ExactString(text)) }
        // The separator occurs in no token: merges are written with spaces between.
        func key(_ merge: (left: String, right: String)) -> ExactString { ExactString(merge.left + "\n" + merge.right) }
        var seen = Set(try base.merges().map(key)), result: [(left: String, right: String)] = []
        for i in others {
            for merge in try vocabularies[i].merges() where seen.insert(key(merge)).inserted {
                if isThere(merge.left), isThere(merge.right), isThere(merge.left + merge.right) { result.append(merge) }
            }
        }
        return result
    }

    /// Entries of `tokens` must name rows that exist.
    private func checkEntries() throws {
        for (token, entry) in settings.tokens {
            func failure(_ reason: String) -> UserError { UserError("tokenizer.tokens \(shown(token)): \(reason)") }
            switch entry.source {
            case nil, .zero: continue
            case .model(let model):
                guard vocabularies[model].id(of: token) != nil else {
                    throw failure("\(models[model].name) has no such token")
                }
            case .token(let text, let model):
                guard vocabularies[model].id(of: text) != nil else {
                    throw failure("\(models[model].name) has no token \(shown(text))")
                }
            case .tokenID(let id, let model):
                guard (0..<models[model].vocabSize).contains(id) else {
                    throw failure("\(models[model].name) has rows 0 to \(models[model].vocabSize - 1), not \(id)")
                }
            }
        }
    }

    /// Writes the tokenizer's files into an existing folder.
    ///
    /// - Parameter chatTemplate: Jinja source that takes the place of the tokenizer's own.
    public func writeTokenizer(to folder: String, chatTemplate: String?) throws {
        try output.save(to: folder, chatTemplate: chatTemplate)
    }
}

extension AddedToken {
    /// Whether it behaves as `other` does; ids and contents aside.
    fileprivate func hasFlags(of other: AddedToken) -> Bool {
        singleWord == other.singleWord && stripsLeft == other.stripsLeft && stripsRight == other.stripsRight
            && normalized == other.normalized && special == other.special
    }
}

/// A token in a message: in quotes, on one line.
func shown(_ token: String) -> String { JSONValue.string(String(token.unicodeScalars.prefix(40))).serialized() }

/// Throws unless all models have as many rows, so that the merge needs no tokenizer setting.
public func requireEqualVocabularies(_ models: [VocabularyModel]) throws {
    guard let odd = models.first(where: { $0.vocabSize != models[0].vocabSize }) else { return }
    throw UserError(
        "\(odd.name) has \(counted(odd.vocabSize, "token")) and \(models[0].name) \(models[0].vocabSize); "
            + "say which the output shall have, for instance with `tokenizer: {source: union}`")
}
