// One vocabulary for the models of a merge: which tokens the output has, and which row of each model is whose.
internal import Diagnostics
internal import Formats
internal import Tokenizers

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
        source: Source, tokens: [(token: String, entry: Entry)] = [], padToMultipleOf: Int? = nil, keepsPadding: Bool = true
    ) {
        (self.source, self.tokens, self.padToMultipleOf, self.keepsPadding) = (source, tokens, padToMultipleOf, keepsPadding)
    }

    public static func == (a: Self, b: Self) -> Bool {
        a.source == b.source && a.padToMultipleOf == b.padToMultipleOf && a.keepsPadding == b.keepsPadding
            && a.tokens.elementsEqual(b.tokens) { ExactString($0.token) == ExactString($1.token) && $0.entry == $1.entry }
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

/// The vocabulary of a merge's output.
public final class MergedVocabulary {
    /// Rows of the output's token and head tables: its `vocab_size`.
    public let rows: Int
    /// For each model, in the given order: row of the output -> row of the model, -1 where it has none.
    public let oldRows: [[Int32]]

    /// - Parameters:
    ///   - models: in the order of the configuration, each once.
    ///   - base: position of the base model; the first model counts as base when nil.
    ///   - warn: told what was decided for the user.
    public init(models: [VocabularyModel], base: Int?, _ settings: TokenizerSettings, warn: (String) -> Void) throws {
        fatalError("to be written")
    }

    /// The same tensor of all models (nil where a model has none) with rows in the order of the output.
    ///
    /// - Parameter readers: `[vocab_size, ...]`, in the order of the models.
    /// - Throws: `UserError` when a row is asked from a model that lacks the tensor.
    public func aligned(_ readers: [(any TensorReader)?], name: String) throws -> [(any TensorReader)?] {
        fatalError("to be written")
    }

    /// Writes the tokenizer's files into an existing folder.
    ///
    /// - Parameter chatTemplate: Jinja source that takes the place of the tokenizer's own.
    public func writeTokenizer(to folder: String, chatTemplate: String?) throws {
        fatalError("to be written")
    }
}

/// What the `chat_template` setting stands for: `auto` is the most common template among `tokenizerFolders` (nil when none
/// has one), a name is a template that comes with the program, anything else is Jinja source.
///
/// - Throws: `UserError` for a name that is none, or source that does not parse.
public func resolveChatTemplate(_ setting: String, tokenizerFolders: [String]) throws -> String? {
    fatalError("to be written")
}

/// Throws unless all models have as many rows and the merge therefore needs no tokenizer setting.
public func requireEqualVocabularies(_ models: [VocabularyModel]) throws {
    guard let odd = models.first(where: { $0.vocabSize != models[0].vocabSize }) else { return }
    throw UserError(
        "\(odd.name) has \(odd.vocabSize) tokens and \(models[0].name) \(models[0].vocabSize); "
            + "say which the output shall have, for instance with `tokenizer: {source: union}`")
}
