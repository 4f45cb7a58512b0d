// From a row to tokens with the response marked, as the analysis feeds them to base and to instruct models.
public import ChatTemplates
public import Datasets
internal import Diagnostics
internal import Formats
public import Tokenizers

/// How prompt and response become one text.
public enum PromptStyle: String, CaseIterable, Sendable {
    /// Instruction, input and response on lines of their own; prompts of `{prompt, completion}` rows as they are.
    case none
    /// The model's chat template with its header for an answer, then the response.
    case chat
}

/// Encodes rows of one model.
///
/// Prompt and response are tokenized together, once; a token belongs to the response when it holds a character of it,
/// so a token that joins the end of the prompt with the beginning of the response counts. Nothing follows the response.
public struct ResponseEncoder: Sendable {
    private let tokenizer: Tokenizer
    private let choice: TemplateChoice?
    private let maxLength: Int
    private let time: TemplateTime
    /// Whether a row without a system message gets one.
    public let addsSystem: Bool

    static let systemMessage = "You are a helpful assistant."

    /// - Parameters:
    ///   - maxLength: tokens kept of a row; longer ones lose their end.
    ///   - time: what templates that print a date print.
    /// - Throws: `UserError` when `chat` is asked of a tokenizer without a template.
    public init(_ tokenizer: Tokenizer, _ style: PromptStyle, maxLength: Int, time: TemplateTime = .now) throws {
        (self.tokenizer, self.maxLength, self.time) = (tokenizer, maxLength, time)
        guard style == .chat else {
            (choice, addsSystem) = (nil, false)
            return
        }
        guard let source = tokenizer.chatTemplate else {
            throw UserError("--template chat: the model has no chat template; use --template none", .usage)
        }
        let choice = try TemplateChoice(source, withTools: tokenizer.toolTemplate)
        self.choice = choice
        let probe: [JSONValue] = [
            ["role": "system", "content": .string(Self.systemMessage)], ["role": "user", "content": "probe"],
        ]
        // Templates such as Gemma's refuse a system message.
        addsSystem =
            (try? choice.usual.render(
                messages: probe, addGenerationPrompt: true, variables: tokenizer.templateVariables))
            != nil
    }

    /// - Parameter response: stands in for the row's own; nil takes that.
    /// - Returns: nil when no token of the response is left within `maxLength`.
    /// - Throws: `UserError` for a row that has no prompt where one is needed, or that the template refuses.
    public func encode(_ row: DataRow, response: String? = nil) throws -> EncodedRow? {
        let prompt = try prompt(row), text = prompt + (response ?? row.content.response)
        let encoding = tokenizer.encoding(of: text, addSpecialTokens: choice == nil)
        let boundary = prompt.unicodeScalars.count, kept = min(maxLength, encoding.ids.count)
        var trained = encoding.offsets.prefix(kept).map { !$0.isEmpty && $0.upperBound > boundary }
        if !trained.isEmpty { trained[0] = false }  // nothing comes before it
        guard trained.contains(true) else { return nil }
        return EncodedRow(
            text: text, ids: Array(encoding.ids.prefix(kept)), offsets: Array(encoding.offsets.prefix(kept)),
            trained: trained, location: row.location, truncated: encoding.ids.count - kept)
    }

    private func prompt(_ row: DataRow) throws -> String {
        guard let choice else { return row.content.plainPrompt }
        var messages = row.content.promptMessages
        guard !messages.isEmpty else {
            throw UserError("\(row.location): a document has no prompt for a chat template; use --template none")
        }
        if addsSystem, messages[0].role != .system, messages[0].role != .developer {
            messages.insert(ChatMessage(role: .system, content: Self.systemMessage), at: 0)
        }
        var tools: [JSONValue]?
        if case .chat(_, let given) = row.content, !given.isEmpty { tools = given }
        do {
            return try choice.template(tools).render(
                messages: messages.map { .object($0.fields) }, tools: tools, addGenerationPrompt: true,
                variables: tokenizer.templateVariables, now: { _ in time })
        } catch let error as UserError {
            throw UserError("\(row.location): \(error.message)")
        }
    }
}

extension RowContent {
    /// What the model is to answer; of a document, all of it.
    var response: String {
        switch self {
        case .chat(let messages, _): messages.last?.content ?? ""
        case .instruction(_, _, _, let output): output
        case .completion(_, let completion): completion
        case .text(let text): text
        case .task(let task): noResponse(task)
        }
    }

    /// What stands before the response without a template.
    fileprivate var plainPrompt: String {
        func lines(_ parts: [String]) -> String { parts.filter { !$0.isEmpty }.map { $0 + "\n" }.joined() }
        switch self {
        case .chat(let messages, _): return lines(messages.dropLast().map(\.content))
        case .instruction(let system, let instruction, let input, _): return lines([system ?? "", instruction, input])
        case .completion(let prompt, _): return prompt
        case .text: return ""
        case .task(let task): noResponse(task)
        }
    }

    /// The turns before the response.
    fileprivate var promptMessages: [ChatMessage] {
        switch self {
        case .chat(let messages, _): return messages.dropLast()
        case .instruction(let system, let instruction, let input, _):
            let question = input.isEmpty ? instruction : instruction + "\n" + input
            return (system.map { [ChatMessage(role: .system, content: $0)] } ?? [])
                + [ChatMessage(role: .user, content: question)]
        case .completion(let prompt, _): return [ChatMessage(role: .user, content: prompt)]
        case .text: return []
        case .task(let task): noResponse(task)
        }
    }

    /// Whether there is a prompt that another row's response could follow.
    var hasPrompt: Bool { if case .text = self { false } else { true } }
}

/// `Rows` refuses such rows where answers to imitate are wanted.
private func noResponse(_ task: TaskRow) -> Never { preconditionFailure("a row of kind \(task.kind.rawValue)") }
