// From the columns of a row to its meaning, with a reason for everything that does not fit.
import Diagnostics
import Formats

/// Reads rows of one kind.
struct RowParser {
    let kind: RowKind
    let columns: ColumnMap

    /// - Throws: `RowFault` naming the field and what is wrong with it.
    func parse(_ row: JSONObject) throws(RowFault) -> RowContent {
        try checkColumns(row)
        switch kind {
        case .chat: return try chat(row)
        case .conversations: return try conversations(row)
        case .instruction: return try instruction(row)
        case .promptCompletion: return try promptCompletion(row)
        case .evals: return try evals(row)
        case .text: return .text(try text(row, "text"))
        case .preference: return .task(try preference(row, chosen: "chosen", rejected: "rejected"))
        case .autotrainPreference: return .task(try preference(row, chosen: "text", rejected: "rejected_text"))
        case .unpaired: return .task(try unpaired(row))
        case .rlvr: return .task(try rlvr(row))
        case .scored: return .task(try scored(row))
        case .classification: return .task(try classification(row))
        case .tagging: return .task(try tagging(row))
        case .questionAnswering: return .task(try questionAnswering(row))
        case .sentencePairs: return .task(try sentencePairs(row))
        case .tabular: return .task(try tabular(row))
        }
    }

    // MARK: columns

    func value(_ row: JSONObject, _ field: String) -> JSONValue? { columns.value(row, field) }

    private func checkColumns(_ row: JSONObject) throws(RowFault) {
        let missing = kind.requiredColumns.first { field in
            value(row, field) == nil && kind.alternative(to: field).flatMap { value(row, $0) } == nil
        }
        guard let missing else { return }
        if let other = columns.kind(of: row), other != kind {
            let text =
                "is a row of kind \(other.rawValue) among rows of kind \(kind.rawValue); give each kind its own file"
            throw RowFault(.mixedKinds, text)
        }
        let column = columns.column(of: missing)
        if row.position(of: column) != nil { throw RowFault(.wrongType, "\(quoted(column)) is null") }
        throw RowFault(.missingKey, missingColumn(column, in: row))
    }

    /// A column that must hold text with something in it.
    func text(_ row: JSONObject, _ field: String, mayBeEmpty: Bool = false) throws(RowFault) -> String {
        let column = columns.column(of: field)
        guard let value = value(row, field) else { return "" }
        guard let text = value.string else {
            throw RowFault(.wrongType, "\(quoted(column)) is \(value.kind), not a string")
        }
        if !mayBeEmpty, isBlank(text) { throw RowFault(.empty, "\(quoted(column)) is empty") }
        return text
    }

    /// A column that holds a list, or the JSON text of one (as CSV files must).
    func list(_ row: JSONObject, _ field: String) throws(RowFault) -> [JSONValue] {
        let column = columns.column(of: field)
        guard let value = value(row, field) else { return [] }
        if let items = value.array { return items }
        if let text = value.string {
            let parsed: JSONValue
            do { parsed = try .parse(text) } catch {
                throw RowFault(
                    .wrongType,
                    "\(quoted(column)) is a string that is not JSON (column \(error.column): \(error.reason))")
            }
            if let items = parsed.array { return items }
        }
        throw RowFault(.wrongType, "\(quoted(column)) is \(value.kind), not a list")
    }

    func tools(_ row: JSONObject) throws(RowFault) -> [JSONValue] {
        if value(row, "tools")?.string.map(isBlank) == true { return [] }
        let tools = try list(row, "tools")
        if let odd = tools.first(where: { $0.object == nil }) {
            throw RowFault(
                .wrongType, "\(quoted(columns.column(of: "tools"))) holds \(odd.kind); every tool is an object")
        }
        return tools
    }

    // MARK: kinds

    private func chat(_ row: JSONObject) throws(RowFault) -> RowContent {
        let column = columns.column(of: "messages")
        let messages = try MessageParser(column: column).messages(try list(row, "messages"))
        try checkEnding(messages, column)
        return .chat(messages, tools: try tools(row))
    }

    private func conversations(_ row: JSONObject) throws(RowFault) -> RowContent {
        let column = columns.column(of: "conversations")
        var messages = try MessageParser(column: column, isShareGPT: true).messages(try list(row, "conversations"))
        let system = try text(row, "system", mayBeEmpty: true)
        if !isBlank(system), messages.first?.isSystem != true {
            messages.insert(ChatMessage(role: .system, content: system), at: 0)
        }
        try checkEnding(messages, column)
        return .chat(messages, tools: try tools(row))
    }

    private func instruction(_ row: JSONObject) throws(RowFault) -> RowContent {
        let system = try text(row, "system", mayBeEmpty: true)
        return .instruction(
            system: isBlank(system) ? nil : system, instruction: try text(row, "instruction"),
            input: try text(row, "input", mayBeEmpty: true), output: try text(row, "output"))
    }

    private func promptCompletion(_ row: JSONObject) throws(RowFault) -> RowContent {
        let column = columns.column(of: "completion")
        switch (try listed(row, "prompt"), try listed(row, "completion")) {
        case (.array(let prompt)?, .array(let completion)?):
            let before = try MessageParser(column: columns.column(of: "prompt"), trainedByDefault: false).messages(
                prompt)
            let after = try MessageParser(column: column).messages(completion)
            try checkEnding(after, column)
            return .chat(before + after, tools: [])
        case (.array?, let other?), (let other?, .array?):
            throw RowFault(
                .wrongType,
                "one of prompt and completion is a list and the other \(other.kind); give two strings or two lists")
        default:
            return .completion(
                prompt: try text(row, "prompt", mayBeEmpty: true), completion: try text(row, "completion"))
        }
    }

    /// A value, a list of turns that a table spells as its JSON text as that list.
    private func listed(_ row: JSONObject, _ field: String) throws(RowFault) -> JSONValue? {
        guard let text = value(row, field)?.string, isMessageList(text) else { return value(row, field) }
        return .array(try list(row, field))
    }

    private func evals(_ row: JSONObject) throws(RowFault) -> RowContent {
        let inputColumn = columns.column(of: "input")
        var messages: [ChatMessage]
        switch value(row, "input") {
        case .string(let text)? where !isMessageList(text):
            messages = [ChatMessage(role: .user, content: try self.text(row, "input"))]
        default:
            messages = try MessageParser(column: inputColumn, trainedByDefault: false).messages(try list(row, "input"))
        }
        messages.append(ChatMessage(role: .assistant, content: try ideal(row)))
        return .chat(messages, tools: [])
    }

    /// The answer: a string, or the first of a list of strings that are all right.
    private func ideal(_ row: JSONObject) throws(RowFault) -> String {
        let column = columns.column(of: "ideal")
        guard case .array(let answers)? = value(row, "ideal") else { return try text(row, "ideal") }
        guard let first = answers.first else { throw RowFault(.empty, "\(quoted(column)) is empty") }
        guard let answer = first.string else {
            throw RowFault(.wrongType, "\(quoted(column)) holds \(first.kind), not a string")
        }
        if isBlank(answer) { throw RowFault(.empty, "\(quoted(column)) is empty") }
        return answer
    }

    func checkEnding(_ messages: [ChatMessage], _ column: String) throws(RowFault) {
        guard messages.contains(where: { $0.role == .assistant }) else {
            throw RowFault(.noAssistant, "\(quoted(column)) has no assistant turn, so there is nothing to learn")
        }
        guard let last = messages.last, last.role == .assistant else {
            let role = messages.last?.role.rawValue ?? ""
            throw RowFault(
                .endsWithoutAssistant, "\(quoted(column)) ends with a turn of the \(role), not of the assistant")
        }
    }
}

func missingColumn(_ column: String, in row: JSONObject) -> String {
    let found = row.keys.prefix(6).map { quoted($0) }.joined(separator: ", ") + (row.count > 6 ? ", ..." : "")
    return "no \(quoted(column)) key; " + (row.isEmpty ? "the row is empty" : "found \(found)")
}

/// Nothing but white space.
func isBlank(_ text: String) -> Bool { text.unicodeScalars.allSatisfy(isWhiteSpace) }

/// Unicode's White_Space; ASCII, which nearly everything is, without a look into the tables.
@inline(__always)
func isWhiteSpace(_ scalar: Unicode.Scalar) -> Bool {
    scalar.value < 0x80 ? scalar.value == 0x20 || 9...13 ~= scalar.value : scalar.properties.isWhitespace
}
