// Rows of tasks other than imitation: preferences, checked answers, scores, labels.
import Diagnostics
public import Formats

/// What a row of another task says.
public enum TaskRow: Sendable, Equatable {
    /// Two ways to go on after a prompt.
    case preference(prompt: [ChatMessage], chosen: [ChatMessage], rejected: [ChatMessage], tools: [JSONValue])
    /// One completion, good or bad.
    case unpaired(prompt: [ChatMessage], completion: [ChatMessage], isGood: Bool)
    /// A question whose answer verifiers check; `groundTruths[i]` is for `verifiers[i]`.
    case rlvr(
        prompt: [ChatMessage], groundTruths: [String], verifiers: [String], tools: [JSONValue], environment: JSONValue?)
    case scored(prompt: [ChatMessage], completion: String, scores: [Double])
    /// Checked columns of task heads and tables, as they stand in the file.
    case columns(RowKind, JSONObject)

    public var kind: RowKind {
        switch self {
        case .preference: .preference
        case .unpaired: .unpaired
        case .rlvr: .rlvr
        case .scored: .scored
        case .columns(let kind, _): kind
        }
    }

    /// The row in its plainest spelling; reading it gives an equal row.
    var json: JSONObject {
        switch self {
        case .preference(let prompt, let chosen, let rejected, let tools):
            var object = JSONObject([("chosen", list(prompt + chosen)), ("rejected", list(prompt + rejected))])
            if !tools.isEmpty { object["tools"] = .array(tools) }
            return object
        case .unpaired(let prompt, let completion, let isGood):
            return JSONObject([
                ("prompt", plainest(prompt, .user)), ("completion", plainest(completion, .assistant)),
                ("label", .bool(isGood)),
            ])
        case .rlvr(let prompt, let truths, let verifiers, let tools, let environment):
            func one(_ texts: [String]) -> JSONValue {
                texts.count == 1 ? .string(texts[0]) : .array(texts.map { .string($0) })
            }
            var object = JSONObject([
                ("messages", list(prompt)), ("ground_truth", one(truths)), ("dataset", one(verifiers)),
            ])
            if !tools.isEmpty { object["tools"] = .array(tools) }
            if let environment { object["env_config"] = environment }
            return object
        case .scored(let prompt, let completion, let scores):
            var object = JSONObject()
            if !prompt.isEmpty { object["prompt"] = plainest(prompt, .user) }
            object["completion"] = .string(completion)
            for (i, score) in scores.enumerated() {
                object[scores.count == 1 ? "score" : "score_\(i + 1)"] = .init(score)
            }
            return object
        case .columns(_, let object): return object
        }
    }

    private func list(_ messages: [ChatMessage]) -> JSONValue { .array(messages.map(\.json)) }

    /// A single turn of `role` that is nothing but text, as that text.
    private func plainest(_ messages: [ChatMessage], _ role: ChatMessage.Role) -> JSONValue {
        guard messages.count == 1, messages[0] == ChatMessage(role: role, content: messages[0].content),
            !messages[0].content.utf8.starts(with: "[".utf8)
        else { return list(messages) }
        return .string(messages[0].content)
    }
}

extension RowParser {
    // MARK: chats

    /// Turns, or a text that is one turn of `role`.
    private func turns(_ row: JSONObject, _ field: String, _ role: ChatMessage.Role) throws(RowFault) -> [ChatMessage] {
        switch value(row, field) {
        case .array?: break
        case .string(let text)? where isMessageList(text): break
        default: return [ChatMessage(role: role, content: try text(row, field))]
        }
        return try MessageParser(column: columns.column(of: field)).messages(try list(row, field))
    }

    /// The JSON text of a list of turns, as CSV files must spell one.
    func isMessageList(_ text: String) -> Bool {
        // A text that is no JSON is a text.
        guard text.utf8.starts(with: "[".utf8), let value = try? JSONValue.parse(text) else { return false }
        return value.array?.first?["role"] != nil
    }

    /// What is asked: `messages`, else `prompt`.
    private func question(_ row: JSONObject) throws(RowFault) -> [ChatMessage] {
        let field = value(row, "messages") != nil ? "messages" : "prompt"
        guard value(row, field) != nil else {
            throw RowFault(.noPrompt, "has neither \"messages\" nor \"prompt\", so nothing is asked")
        }
        let messages = try turns(row, field, .user)
        if messages.last?.role == .assistant {
            throw RowFault(
                .wrongType, "\(quoted(columns.column(of: field))) ends with the assistant; the model is to answer")
        }
        return messages
    }

    func preference(_ row: JSONObject, chosen: String, rejected: String) throws(RowFault) -> TaskRow {
        var before = value(row, "prompt") == nil ? [] : try turns(row, "prompt", .user)
        var good = try turns(row, chosen, .assistant), bad = try turns(row, rejected, .assistant)
        // Full conversations begin with the prompt, whether it is given on its own or not.
        let isRepeated = good.starts(with: before) && bad.starts(with: before)
        if isRepeated {
            good.removeFirst(before.count)
            bad.removeFirst(before.count)
        }
        let shared = zip(good, bad).prefix { $0 == $1 }.count
        // Behind turns that the lists begin with alone, such as a system's, the prompt stands in them, too.
        if !isRepeated, good.prefix(shared).suffix(before.count).elementsEqual(before) { before = [] }
        let (first, second) = (quoted(columns.column(of: chosen)), quoted(columns.column(of: rejected)))
        if shared == good.count, shared == bad.count {
            throw RowFault(.sameAnswers, "\(first) and \(second) are equal, so neither is preferred")
        }
        if shared == min(good.count, bad.count) {
            throw RowFault(.sameAnswers, "\(shared == good.count ? second : first) only goes on where the other ends")
        }
        before += good.prefix(shared)
        (good, bad) = (Array(good.dropFirst(shared)), Array(bad.dropFirst(shared)))
        if before.isEmpty {
            throw RowFault(.noPrompt, "\(first) and \(second) share no first turn and there is no prompt")
        }
        try checkEnding(good, columns.column(of: chosen))
        try checkEnding(bad, columns.column(of: rejected))
        return .preference(prompt: before, chosen: good, rejected: bad, tools: try tools(row))
    }

    func unpaired(_ row: JSONObject) throws(RowFault) -> TaskRow {
        let prompt = try turns(row, "prompt", .user), completion = try turns(row, "completion", .assistant)
        try checkEnding(completion, columns.column(of: "completion"))
        guard let label = value(row, "label").flatMap(truth) else {
            throw RowFault(
                .badLabel, "\(quoted(columns.column(of: "label"))) is neither true nor false (nor 1 nor 0)")
        }
        return .unpaired(prompt: prompt, completion: completion, isGood: label)
    }

    func rlvr(_ row: JSONObject) throws(RowFault) -> TaskRow {
        let prompt = try question(row), verifiers = try texts(row, "dataset"),
            truths = try truths(row, verifiers.isList)
        if truths.count != verifiers.texts.count {
            throw RowFault(
                .unevenLists,
                "\(counted(truths.count, "ground truth")) for \(counted(verifiers.texts.count, "verifier")) in "
                    + "\(quoted(columns.column(of: "dataset"))); each has its own")
        }
        return .rlvr(
            prompt: prompt, groundTruths: truths, verifiers: verifiers.texts, tools: try tools(row),
            environment: value(row, "env_config"))
    }

    /// A text, or a list of texts (in CSV files its JSON text).
    private func texts(_ row: JSONObject, _ field: String) throws(RowFault) -> (texts: [String], isList: Bool) {
        let column = columns.column(of: field)
        if let text = value(row, field)?.string, !text.utf8.starts(with: "[".utf8) {
            return ([try self.text(row, field)], false)
        }
        return (try strings(try list(row, field), column), true)
    }

    /// As many as verifiers: a text is for one verifier even where it looks like a list, as a program's output may.
    private func truths(_ row: JSONObject, _ isList: Bool) throws(RowFault) -> [String] {
        if !isList, value(row, "ground_truth")?.string != nil { return [try text(row, "ground_truth")] }
        return try strings(try list(row, "ground_truth"), columns.column(of: "ground_truth"))
    }

    private func strings(_ items: [JSONValue], _ column: String) throws(RowFault) -> [String] {
        if items.isEmpty { throw RowFault(.empty, "\(quoted(column)) is empty") }
        var texts: [String] = []
        for item in items {
            guard let text = item.string else {
                throw RowFault(.wrongType, "\(quoted(column)) holds \(item.kind), not a string")
            }
            texts.append(text)
        }
        return texts
    }

    func scored(_ row: JSONObject) throws(RowFault) -> TaskRow {
        let asks = value(row, "messages") != nil || value(row, "prompt") != nil
        var scores: [Double] = []
        let names = value(row, "score") != nil ? ["score"] : (1...row.count).map { "score_\($0)" }
        for name in names {
            guard let value = value(row, name) else { break }
            guard let score = number(value) else {
                throw RowFault(.badScore, "\(quoted(columns.column(of: name))) is \(described(value)), not a number")
            }
            scores.append(score)
        }
        let lost = row.keys.filter {
            $0.hasPrefix("score_") && value(row, $0) != nil && !names.prefix(scores.count).contains($0)
        }
        if names[0] != "score", let lost = lost.first {
            throw RowFault(.badScore, "\(quoted(lost)) stands behind a score that is missing")
        }
        return .scored(prompt: asks ? try question(row) : [], completion: try text(row, "completion"), scores: scores)
    }

    // MARK: task heads

    private func taskColumns(_ row: JSONObject, _ fields: [String]) -> TaskRow {
        .columns(kind, JSONObject(fields.compactMap { field in value(row, field).map { (field, $0) } }))
    }

    private func checkTarget(_ row: JSONObject, _ field: String) throws(RowFault) {
        let column = quoted(columns.column(of: field))
        switch value(row, field) {
        case .string(let text)? where isBlank(text): throw RowFault(.empty, "\(column) is empty")
        case .string?, .number?, .bool?: break
        case let other?: throw RowFault(.badLabel, "\(column) is \(other.kind), not a label or a number")
        case nil: break
        }
    }

    func classification(_ row: JSONObject) throws(RowFault) -> TaskRow {
        _ = try text(row, "text")
        try checkTarget(row, "target")
        return taskColumns(row, ["text", "target"])
    }

    func tagging(_ row: JSONObject) throws(RowFault) -> TaskRow {
        let tokens = try strings(try list(row, "tokens"), columns.column(of: "tokens")), tags = try list(row, "tags")
        if tokens.count != tags.count {
            throw RowFault(.unevenLists, "\(counted(tokens.count, "token")) and \(counted(tags.count, "tag"))")
        }
        if let odd = tags.first(where: { $0.string == nil && $0.int == nil }) {
            throw RowFault(.badLabel, "\(quoted(columns.column(of: "tags"))) holds \(odd.kind), not a tag")
        }
        return .columns(kind, JSONObject([("tokens", .array(tokens.map { .string($0) })), ("tags", .array(tags))]))
    }

    func questionAnswering(_ row: JSONObject) throws(RowFault) -> TaskRow {
        let context = try text(row, "context"), column = quoted(columns.column(of: "answers"))
        _ = try text(row, "question")
        var answers = value(row, "answers")
        if let text = answers?.string {
            // Not JSON: it is not the object that is wanted below either.
            answers = (try? JSONValue.parse(text)) ?? answers
        }
        guard let texts = answers?["text"]?.array, let starts = answers?["answer_start"]?.array else {
            throw RowFault(.wrongType, "\(column) is not of the form {\"text\": [...], \"answer_start\": [...]}")
        }
        if texts.count != starts.count {
            throw RowFault(
                .unevenLists, "\(column): \(counted(texts.count, "text")) and \(counted(starts.count, "start"))")
        }
        let scalars = Array(context.unicodeScalars)
        for (text, start) in zip(texts, starts) {
            guard let text = text.string, let start = start.int else {
                throw RowFault(
                    .wrongType, "\(column) holds \(text.string == nil ? text.kind : start.kind) where it should not")
            }
            guard start >= 0, start <= scalars.count, scalars[start...].starts(with: text.unicodeScalars) else {
                throw RowFault(.notInContext, "\(column): \(quoted(text)) does not stand at \(start) of the context")
            }
        }
        return .columns(
            kind,
            JSONObject([
                ("context", .string(context)), ("question", .string(try text(row, "question"))), ("answers", answers!),
            ]))
    }

    func sentencePairs(_ row: JSONObject) throws(RowFault) -> TaskRow {
        for field in ["sentence1", "sentence2", "sentence3"] { _ = try text(row, field) }
        try checkTarget(row, "target")
        return taskColumns(row, ["sentence1", "sentence2", "sentence3", "target"])
    }

    func tabular(_ row: JSONObject) throws(RowFault) -> TaskRow {
        let field = value(row, "target") != nil ? "target" : "targets"
        if field == "target" { try checkTarget(row, field) }
        if row.count < 2 { throw RowFault(.missingKey, "has a target and no other column to tell it from") }
        for (name, value) in row where value.array != nil && name != columns.column(of: field) || value.object != nil {
            throw RowFault(
                .wrongType, "\(quoted(name)) is \(value.kind); a table holds texts, numbers and truth values")
        }
        let own = columns.column(of: field)
        return .columns(
            kind, own == field ? row : JSONObject(row.map { name, value in (name == own ? field : name, value) }))
    }
}

/// true, false, 1, 0, or their texts; nil for anything else.
func truth(_ value: JSONValue) -> Bool? {
    switch value {
    case .bool(let value): value
    case .number(let number) where number.double == 0 || number.double == 1: number.double == 1
    case .string("true"), .string("True"), .string("1"): true
    case .string("false"), .string("False"), .string("0"): false
    default: nil
    }
}

/// A number or the text of one; nil for anything else.
func number(_ value: JSONValue) -> Double? {
    value.double ?? value.string.flatMap { Double($0) }.flatMap { $0.isFinite ? $0 : nil }
}

private func described(_ value: JSONValue) -> String { value.string.map { quoted($0) } ?? value.kind }
