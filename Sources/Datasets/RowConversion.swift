// Rows of one kind written as rows of another.
public import Formats

extension DataRow {
    /// The row spelled as `kind` spells it; nil leaves it what it is.
    ///
    /// - Throws: `BadRow` for a row that `kind` cannot say.
    public func json(as kind: RowKind?, source: String = "") throws -> JSONObject {
        guard let kind else { return content.json }
        do throws(RowFault) {
            return try content.json(as: kind)
        } catch {
            throw BadRow(error, source: source, location: location)
        }
    }
}

extension RowContent {
    fileprivate func json(as kind: RowKind) throws(RowFault) -> JSONObject {
        switch kind {
        case .chat:
            let (messages, tools) = try chat(kind)
            return RowContent.chat(messages, tools: tools).json
        case .conversations: return try shareGPT()
        case .instruction: return try instruction()
        case .promptCompletion: return try promptCompletion()
        case .evals:
            let (messages, tools) = try chat(kind)
            guard tools.isEmpty, messages.last.map(isPlain) ?? false else {
                throw fault(kind, "it has tools, or its answer has a weight or more than text")
            }
            return JSONObject([
                ("input", .array(messages.dropLast().map(\.json))),
                ("ideal", .string(messages[messages.count - 1].content)),
            ])
        case .text:
            guard case .text = self else { throw fault(kind, "it is no document") }
            return json
        case .preference, .unpaired, .rlvr, .scored, .classification, .tagging, .questionAnswering, .sentencePairs,
            .tabular:
            guard case .task(let task) = self, task.kind == kind else { throw fault(kind, "it says something else") }
            return json
        case .autotrainPreference:
            guard case .task(.preference(let prompt, let chosen, let rejected, _)) = self, prompt.count == 1,
                chosen.count == 1, rejected.count == 1, prompt[0].role == .user
            else { throw fault(kind, "it is not one question with two answers") }
            return JSONObject([
                ("prompt", .string(prompt[0].content)), ("text", .string(chosen[0].content)),
                ("rejected_text", .string(rejected[0].content)),
            ])
        }
    }

    /// Whether a turn is no more than its text, trained as its role is.
    private func isPlain(_ message: ChatMessage) -> Bool {
        message.fields.count == 2 && (message.role == .assistant ? message.trained != false : message.trained != true)
    }

    private func fault(_ kind: RowKind, _ why: String) -> RowFault {
        RowFault(.notConvertible, "cannot be written as \(kind.rawValue): \(why)")
    }

    /// The row as turns; of two answers the chosen one.
    private func chat(_ kind: RowKind) throws(RowFault) -> ([ChatMessage], tools: [JSONValue]) {
        func turns(_ system: String?, _ question: String, _ answer: String) -> [ChatMessage] {
            (system.map { [ChatMessage(role: .system, content: $0)] } ?? [])
                + [ChatMessage(role: .user, content: question), ChatMessage(role: .assistant, content: answer)]
        }
        switch self {
        case .chat(let messages, let tools): return (messages, tools)
        case .instruction(let system, let instruction, let input, let output):
            return (turns(system, input.isEmpty ? instruction : instruction + "\n\n" + input, output), [])
        case .completion(let prompt, let completion):
            if isBlank(prompt) { throw fault(kind, "nothing is asked") }
            return (turns(nil, prompt, completion), [])
        case .text: throw fault(kind, "a document has no turns")
        case .task(.preference(let prompt, let chosen, _, let tools)): return (prompt + chosen, tools)
        case .task(.unpaired(let prompt, let completion, let isGood)):
            if !isGood { throw fault(kind, "its label says that the completion is bad") }
            return (prompt + completion, [])
        case .task(.scored(let prompt, let completion, _)) where !prompt.isEmpty:
            return (prompt + [ChatMessage(role: .assistant, content: completion)], [])
        case .task(let task): throw fault(kind, "a row of kind \(task.kind.rawValue) has no answer to a question")
        }
    }

    private func shareGPT() throws(RowFault) -> JSONObject {
        let (messages, tools) = try chat(.conversations)
        var list: [JSONValue] = []
        for message in messages {
            var turn = JSONObject([("from", .string("gpt")), ("value", .string(message.content))])
            switch message.role {
            case .system: turn["from"] = "system"
            case .user: turn["from"] = "human"
            case .tool: turn["from"] = "observation"
            case .assistant where message.hasToolCalls:
                guard isBlank(message.content) else {
                    throw fault(.conversations, "a turn has both text and tool calls")
                }
                turn["from"] = "function_call"
                turn["value"] = .string(JSONValue.array(functions(message)).serialized(.compact))
            case .assistant: break
            case .developer, .ipython, .environment, .function:
                throw fault(.conversations, "it has turns of the \(message.role.rawValue)")
            }
            for (key, value) in message.fields where !["role", "content", "tool_calls"].contains(key) {
                turn[key] = value
            }
            if let trained = message.trained { turn["weight"] = .init(trained ? 1 : 0) }
            list.append(.object(turn))
        }
        var object = JSONObject([("conversations", .array(list))])
        if !tools.isEmpty { object["tools"] = .array(tools) }
        return object
    }

    /// Names and arguments of a turn's calls.
    private func functions(_ message: ChatMessage) -> [JSONValue] {
        (message.fields["tool_calls"]?.array ?? []).map { $0["function"] ?? $0 }
    }

    private func instruction() throws(RowFault) -> JSONObject {
        if case .instruction = self { return json }
        var (messages, tools) = try chat(.instruction)
        guard messages.allSatisfy(isPlain) else { throw fault(.instruction, "a turn has a weight or more than text") }
        let system = messages.first.flatMap { $0.role == .system ? $0.content : nil }
        if system != nil { messages.removeFirst() }
        guard tools.isEmpty, messages.map(\.role) == [.user, .assistant] else {
            throw fault(.instruction, "it is not one question and one answer")
        }
        return RowContent.instruction(
            system: system, instruction: messages[0].content, input: "", output: messages[1].content
        ).json
    }

    private func promptCompletion() throws(RowFault) -> JSONObject {
        if case .completion = self { return json }
        let (messages, tools) = try chat(.promptCompletion)
        if !tools.isEmpty { throw fault(.promptCompletion, "it has tools") }
        if messages.map(\.role) == [.user, .assistant], messages.allSatisfy(isPlain) {
            return RowContent.completion(prompt: messages[0].content, completion: messages[1].content).json
        }
        return JSONObject([
            ("prompt", .array(messages.dropLast().map(\.json))),
            ("completion", .array([messages[messages.count - 1].json])),
        ])
    }
}
