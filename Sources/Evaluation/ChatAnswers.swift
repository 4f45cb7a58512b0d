// Questions put to a model through its chat template.
internal import ChatTemplates
internal import Diagnostics
public import Formats
public import Generation
public import Models
public import Tokenizers

/// Renders chats to token ids with a model's template (or another) and the begin tokens that the template writes.
public struct ChatPrompts: Sendable {
    private let choice: TemplateChoice
    private let tokenizer: Tokenizer

    /// - Parameter template: the source of one to use instead of the tokenizer's own.
    /// - Throws: `UserError` when there is no template.
    public init(_ tokenizer: Tokenizer, template: String? = nil) throws {
        guard let source = template ?? tokenizer.chatTemplate else {
            throw UserError("the model has no chat template; use --raw, or a model made for chat", .usage)
        }
        choice = try TemplateChoice(source, withTools: template == nil ? tokenizer.toolTemplate : nil)
        self.tokenizer = tokenizer
    }

    /// Ids of the conversation with the beginning of an answer.
    public func ids(_ messages: [JSONValue], tools: [JSONValue]? = nil) throws -> [Int32] {
        let text = try choice.template(tools).render(
            messages: messages, tools: tools, addGenerationPrompt: true, variables: tokenizer.templateVariables)
        return tokenizer.encode(text, addSpecialTokens: false)
    }
}

/// Answers to single questions, each after the same system message if there is one.
public func chatAnswers(
    _ loaded: LoadedModel, _ tokenizer: Tokenizer, _ chats: ChatPrompts, system: String? = nil,
    to questions: [String], _ settings: GenerationSettings
) throws -> [Answer] {
    let opening: [JSONValue] = system.map { [["role": "system", "content": .string($0)]] } ?? []
    let ids = try questions.map { try chats.ids(opening + [["role": "user", "content": .string($0)]]) }
    return try Generator(loaded, tokenizer).answers(to: ids, settings)
}
