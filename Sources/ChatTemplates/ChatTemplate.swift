// Chat templates: a conversation in, the text a model was trained on out, exactly as `transformers` renders it.

internal import Diagnostics
public import Formats

/// A Jinja template compiled once and rendered many times. Templates are data from strangers: they see plain values
/// only, and every rendering runs within `TemplateLimits`.
public struct ChatTemplate: Sendable {
    private let program: Program

    /// - Parameter source: what a `chat_template.jinja` holds.
    /// - Throws: `UserError` with the line for what is not a template.
    public init(_ source: String) throws {
        do {
            program = try Compiler.compile(source)
        } catch let failure as TemplateFailure {
            throw userError(failure)
        }
    }

    /// The text of a conversation.
    ///
    /// - Parameters:
    ///   - messages: objects with `role`, `content` and whatever else the template reads.
    ///   - tools: JSON schemas of functions the model may call.
    ///   - addGenerationPrompt: end with the header of an answer.
    ///   - variables: more names, usually `bos_token` and `eos_token`.
    ///   - now: what `strftime_now` tells; given the format that it prints.
    /// - Throws: `UserError` for what the template refuses (`raise_exception`), does wrong, or exceeds.
    public func render(
        messages: [JSONValue], tools: [JSONValue]? = nil, addGenerationPrompt: Bool = false,
        variables: JSONObject = JSONObject(), limits: TemplateLimits = .init(),
        now: @escaping @Sendable (_ format: String) -> TemplateTime = { _ in .now }
    ) throws -> String {
        try renderMarkingGenerated(
            messages: messages, tools: tools, addGenerationPrompt: addGenerationPrompt, variables: variables,
            limits: limits, now: now
        ).text
    }

    /// As `render`, with the parts that the template wraps in `{% generation %}` as ranges of UTF-8 bytes of the text.
    public func renderMarkingGenerated(
        messages: [JSONValue], tools: [JSONValue]? = nil, addGenerationPrompt: Bool = false,
        variables: JSONObject = JSONObject(), limits: TemplateLimits = .init(),
        now: @escaping @Sendable (_ format: String) -> TemplateTime = { _ in .now }
    ) throws -> (text: String, generated: [Range<Int>]) {
        let run = Run(limits, now: now)
        defer { run.finish() }
        do {
            run.context = try program.contextNames.map { name in
                switch name {
                case "messages": return .list(List(shallow: try messages.map { try Value(withReasoningAliases($0)) }))
                case "tools": return try tools.map { .list(List(shallow: try $0.map { try Value($0) })) } ?? .null
                case "documents": return try variables[name].map { try Value($0) } ?? .null
                case "add_generation_prompt": return .bool(addGenerationPrompt)
                default:
                    if let value = variables[name] { return try Value(value) }
                    return globals[name] ?? .undefined(Undefined(name: name))
                }
            }
            let frame = Frame(count: program.slotCount, parent: nil, run: run)
            defer { frame.clear() }
            _ = try program.body(frame)
        } catch let failure as TemplateFailure {
            throw userError(failure)
        }
        return (run.output, run.generated)
    }
}

private func userError(_ failure: TemplateFailure) -> UserError {
    let message = failure.message.split(whereSeparator: \.isNewline).joined(separator: " ")
    return UserError("chat template\(failure.line.map { ", line \($0)" } ?? ""): \(message.prefix(2000))")
}

/// Reasoning is passed under three names; templates read `reasoning_content` or `thinking`. As `transformers` does,
/// the first one present fills both.
private func withReasoningAliases(_ message: JSONValue) throws -> JSONValue {
    guard case .object(let object) = message else {
        throw TemplateFailure("a message must be an object, not \(message.kind)")
    }
    let found = ["reasoning_content", "thinking", "reasoning"].lazy.compactMap { object[$0] }.first { !$0.isNull }
    guard let reasoning = found else { return message }
    var aliased = JSONObject()
    aliased["thinking"] = reasoning
    for (key, value) in object { aliased[key] = value }
    aliased["reasoning_content"] = reasoning
    return .object(aliased)
}
