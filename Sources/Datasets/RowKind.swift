// The shapes of rows that are understood, and how one is recognised by its columns.
import Diagnostics
import Formats

/// What the columns of a row mean.
public enum RowKind: String, Sendable, Codable, CaseIterable {
    // What language models are trained on by imitation.
    /// `messages`: list of {role, content}; optional `tools`.
    case chat
    /// `conversations`: list of {from, value} (ShareGPT); optional `system`, `tools`.
    case conversations
    /// `instruction`, optional `input`, `output` (Alpaca); optional `system`.
    case instruction
    /// `prompt`, `completion`: two strings, or two message lists.
    case promptCompletion = "prompt_completion"
    /// `input` (text or message list), `ideal` (answer, or list whose first is taken): rows of OpenAI's evals.
    case evals
    /// `text`: a document.
    case text

    // Rows of other tasks.
    /// `chosen`, `rejected`: two message lists that begin alike, or two answers to `prompt`.
    case preference
    /// The same as AutoTrain names it: `prompt`, `text`, `rejected_text`.
    case autotrainPreference = "autotrain_preference"
    /// `prompt`, `completion`, and a `label` that says whether the completion is good.
    case unpaired
    /// `messages` or `prompt`, `ground_truth`, and `dataset`: the verifier, or several with a truth each.
    case rlvr
    /// `completion` and `score`, or `score_1`, `score_2` ...; optional `messages` or `prompt`.
    case scored
    /// `text`, `target`.
    case classification
    /// `tokens`, `tags`: two lists of one length.
    case tagging
    /// `context`, `question`, `answers`: {text, answer_start}, lists of one length (SQuAD).
    case questionAnswering = "question_answering"
    /// `sentence1`, `sentence2`; optional `sentence3`, `target`.
    case sentencePairs = "sentence_pairs"
    /// `target` or `targets` beside any other columns.
    case tabular

    /// In the order in which they are recognised: a row that has `messages` and `prompt` is a chat.
    static let byPrecedence: [RowKind] = [
        .preference, .autotrainPreference, .rlvr, .chat, .conversations, .instruction, .unpaired, .scored,
        .promptCompletion, .evals, .questionAnswering, .tagging, .sentencePairs, .classification, .text, .tabular,
    ]

    public var requiredColumns: [String] {
        switch self {
        case .chat: ["messages"]
        case .conversations: ["conversations"]
        case .instruction: ["instruction", "output"]
        case .promptCompletion: ["prompt", "completion"]
        case .evals: ["input", "ideal"]
        case .text: ["text"]
        case .preference: ["chosen", "rejected"]
        case .autotrainPreference: ["prompt", "text", "rejected_text"]
        case .unpaired: ["prompt", "completion", "label"]
        case .rlvr: ["ground_truth", "dataset"]
        case .scored: ["completion", "score"]
        case .classification: ["text", "target"]
        case .tagging: ["tokens", "tags"]
        case .questionAnswering: ["context", "question", "answers"]
        case .sentencePairs: ["sentence1", "sentence2"]
        case .tabular: ["target"]
        }
    }

    public var optionalColumns: [String] {
        switch self {
        case .chat: ["tools"]
        case .conversations: ["system", "tools"]
        case .instruction: ["input", "system"]
        case .preference: ["prompt", "tools"]
        case .rlvr: ["messages", "prompt", "tools", "env_config"]
        case .scored: ["messages", "prompt"]
        case .sentencePairs: ["sentence3", "target"]
        case .promptCompletion, .evals, .text, .autotrainPreference, .unpaired, .classification, .tagging,
            .questionAnswering, .tabular:
            []
        }
    }

    var columns: [String] { requiredColumns + optionalColumns }

    /// Whether supervised fine-tuning and evaluation take such rows.
    public var isImitated: Bool {
        switch self {
        case .chat, .conversations, .instruction, .promptCompletion, .evals, .text: true
        default: false
        }
    }

    /// Another name that a required column may have.
    func alternative(to column: String) -> String? {
        switch (self, column) {
        case (.scored, "score"): "score_1"
        case (.tabular, "target"): "targets"
        default: nil
        }
    }

    /// Whether a column that this kind does not name belongs to it all the same.
    func takes(_ column: String) -> Bool {
        switch self {
        case .tabular: true
        case .scored: column.hasPrefix("score_")
        default: false
        }
    }

    /// The first kind all of whose required columns `value` finds. `label` and `score` stand beside prompts for many
    /// reasons: only a label that is a truth value makes a row unpaired, only a number makes it scored.
    static func recognised(value: (String) -> JSONValue?) -> RowKind? {
        byPrecedence.first { kind in
            kind.requiredColumns.allSatisfy { name in
                guard let found = value(name) ?? kind.alternative(to: name).flatMap({ value($0) }) else { return false }
                switch (kind, name) {
                case (.unpaired, "label"): return truth(found) != nil
                case (.scored, "score"): return number(found) != nil
                default: return true
                }
            }
        }
    }

    /// Names of all columns of all kinds, for `column_map` and for "did you mean".
    static let allColumns: [String] = byPrecedence.flatMap(\.columns).reduce(into: []) { names, name in
        if !names.contains(name) { names.append(name) }
    }
}

/// Which column of the file holds which field: `messages=chat` reads the messages from the column `chat`.
public struct ColumnMap: Sendable, Equatable {
    private let columns: [String: String]

    /// Every field from the column of its own name.
    static let identity = ColumnMap()
    private init() { columns = [:] }

    /// - Parameter columns: field to column of the file.
    /// - Throws: `UserError` for a field that no kind of row has.
    public init(_ columns: [String: String], source: String = "") throws {
        for field in columns.keys.sorted() where !RowKind.allColumns.contains(field) {
            let near = nearestName(to: field, among: RowKind.allColumns).map { "; did you mean \($0)?" } ?? ""
            let text = "column_map: \(quoted(field)) is not a field of any kind of row\(near)"
            throw UserError(prefixed(source, text), .usage)
        }
        self.columns = columns
    }

    /// The column of the file that holds `field`.
    func column(of field: String) -> String { columns[field] ?? field }

    /// What a row says of `field`; nil where the column is absent or null.
    func value(_ row: JSONObject, _ field: String) -> JSONValue? {
        let value = row[column(of: field)]
        return value == .null ? nil : value
    }

    /// The kind that a row is by its columns; nil for none that is known.
    func kind(of row: JSONObject) -> RowKind? { RowKind.recognised { value(row, $0) } }

    var isEmpty: Bool { columns.isEmpty }
    /// The fields that are read from elsewhere, with the columns given, in a fixed order.
    var entries: [(field: String, column: String)] { columns.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }
}
