// The templates of one tokenizer, and which of them a chat is rendered with.
public import Formats

/// A tokenizer's chat template, and the one that it has for chats with tools (transformers' `default` and `tool_use`).
public struct TemplateChoice: Sendable {
    public let usual: ChatTemplate
    /// nil where `usual` serves both.
    public let withTools: ChatTemplate?

    /// - Throws: `UserError` with the line for what is not a template.
    public init(_ source: String, withTools: String? = nil) throws {
        usual = try ChatTemplate(source)
        self.withTools = try withTools.map(ChatTemplate.init)
    }

    /// - Parameter tools: of the chat; nil for none.
    public func template(_ tools: [JSONValue]?) -> ChatTemplate { tools == nil ? usual : withTools ?? usual }
}
