// The shapes of rows that are understood, and how one is recognised by its columns.
import Diagnostics
import Formats

/// What the columns of a row mean.
public enum RowKind: String, Sendable, Codable, CaseIterable {
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

    /// In the order in which they are recognised: a row that has `messages` and `prompt` is a chat.
    static let byPrecedence: [RowKind] = [.chat, .conversations, .instruction, .promptCompletion, .evals, .text]

    public var requiredColumns: [String] {
        switch self {
        case .chat: ["messages"]
        case .conversations: ["conversations"]
        case .instruction: ["instruction", "output"]
        case .promptCompletion: ["prompt", "completion"]
        case .evals: ["input", "ideal"]
        case .text: ["text"]
        }
    }

    public var optionalColumns: [String] {
        switch self {
        case .chat: ["tools"]
        case .conversations: ["system", "tools"]
        case .instruction: ["input", "system"]
        case .promptCompletion, .evals, .text: []
        }
    }

    var columns: [String] { requiredColumns + optionalColumns }

    /// The first kind all of whose required columns `has` finds.
    static func recognised(has: (String) -> Bool) -> RowKind? {
        byPrecedence.first { $0.requiredColumns.allSatisfy(has) }
    }

    /// Names of all columns of all kinds, for `column_map` and for "did you mean".
    static let allColumns: [String] = byPrecedence.flatMap(\.columns).reduce(into: []) { names, name in
        if !names.contains(name) { names.append(name) }
    }
}

/// Which column of the file holds which field: `messages=chat` reads the messages from the column `chat`.
public struct ColumnMap: Sendable, Equatable {
    private let columns: [String: String]

    /// - Parameter columns: field to column of the file.
    /// - Throws: `UserError` for a field that no kind of row has.
    public init(_ columns: [String: String] = [:], source: String = "") throws {
        for field in columns.keys.sorted() where !RowKind.allColumns.contains(field) {
            let near = nearestName(to: field, among: RowKind.allColumns).map { "; did you mean \($0)?" } ?? ""
            let text = "column_map: \(quoted(field)) is not a field of any kind of row\(near)"
            throw UserError(prefixed(source, text), .usage)
        }
        self.columns = columns
    }

    /// The column of the file that holds `field`.
    func column(of field: String) -> String { columns[field] ?? field }
    var isEmpty: Bool { columns.isEmpty }
    /// The fields that are read from elsewhere, with the columns given, in a fixed order.
    var entries: [(field: String, column: String)] { columns.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }
}
