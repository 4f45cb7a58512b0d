// From a row to tokens with their marks: rendering, masking, truncation.
public import ChatTemplates
import Diagnostics
public import Formats
public import Tokenizers

/// How rows become text.
public enum RowFormat: String, Sendable, Codable, CaseIterable {
    /// Everything but `text` rows goes through the chat template. The default when there is one.
    case chat
    /// Prompt and answer are put one behind the other; instruction rows get the Alpaca prompt. No chat rows.
    case plain
}

/// Which turns are trained. System turns never are, and a row's `weight` or `masked` goes over the strategy.
public enum Masking: String, Sendable, Codable, CaseIterable {
    case assistant
    case lastAssistant = "last_assistant"
    /// Every turn but the system's; of instruction and prompt rows in plain format, the prompt too.
    case all
}

/// What happens to rows longer than the limit.
public enum Truncation: String, Sendable, Codable, CaseIterable {
    /// Keeps the beginning. The end (and with it the end token) is gone, so the model does not learn to stop there.
    case right
    /// Keeps the end, and the begin token where the row has one.
    case left
    case drop
    /// Keeps all: a longer row becomes several, one behind the other, none longer than the limit. The encoder leaves it whole.
    case split
}

/// A row as text and tokens, with everything that is needed to show it.
public struct EncodedRow: Sendable, Equatable {
    public let text: String
    public let ids: [Int32]
    /// Where token i stands in `text`, in Unicode scalars; empty for tokens that no text stands for.
    public let offsets: [Range<Int>]
    public let trained: [Bool]
    public let location: RowLocation
    /// Tokens cut off.
    public let truncated: Int

    public init(
        text: String, ids: [Int32], offsets: [Range<Int>], trained: [Bool], location: RowLocation, truncated: Int
    ) {
        (self.text, self.ids, self.offsets, self.trained) = (text, ids, offsets, trained)
        (self.location, self.truncated) = (location, truncated)
    }

    public var example: TokenizedExample { TokenizedExample(ids: ids, trained: trained, source: location) }
}

/// Encodes rows with one tokenizer, template and policy.
public struct ExampleEncoder: Sendable {
    public struct Options: Sendable, Equatable {
        /// nil: `.chat` when there is a template, else `.plain`.
        public var format: RowFormat?
        public var masking = Masking.assistant
        /// Tokens a row may have; nil for no limit.
        public var maxLength: Int?
        public var truncation = Truncation.right

        public init(
            format: RowFormat? = nil, masking: Masking = .assistant, maxLength: Int? = nil,
            truncation: Truncation = .right
        ) {
            (self.format, self.masking, self.maxLength, self.truncation) = (format, masking, maxLength, truncation)
        }
    }

    /// Of what becomes of rows: raised with every change of ids or marks that the same row, template and options give, so
    /// that tokens made before are not taken for these. `TokenCacheTests` holds a digest of encodings beside it.
    static let version = 4

    public let options: Options
    let tokenizer: Tokenizer
    /// Source of the chat template in use.
    let template: String?
    private let renderer: ChatRenderer?

    /// - Parameters:
    ///   - template: name of a built-in chat template, or the source of one; nil for the tokenizer's own.
    ///   - time: what templates that print a date print; keep it with a run, so that resuming gives the same tokens.
    /// - Throws: `UserError` when chat format is asked for and there is no template, or the template is broken.
    public init(
        _ tokenizer: Tokenizer, template: String? = nil, options: Options = Options(), time: TemplateTime = .now
    ) throws {
        if let limit = options.maxLength, limit < 2 {
            throw UserError("max_length \(limit) leaves nothing to learn; give at least 2", .usage)
        }
        self.tokenizer = tokenizer
        self.options = options
        guard options.format != .plain, let source = template ?? tokenizer.chatTemplate else {
            if options.format == .chat {
                let names = ChatTemplate.builtIn.keys.sorted().joined(separator: ", ")
                throw UserError("the tokenizer has no chat template; name one (\(names)) or use format: plain", .usage)
            }
            (renderer, self.template) = (nil, nil)
            return
        }
        let text = ChatTemplate.builtIn[source] ?? source
        self.template = text
        let choice = try TemplateChoice(text, withTools: template == nil ? tokenizer.toolTemplate : nil)
        renderer = try ChatRenderer(choice, variables: tokenizer.templateVariables, clock: FixedClock(time))
    }

    /// What the template printed of the time in all rows so far, by format; empty for nearly all templates.
    var printedTimes: [String: String] { renderer?.clock.printed ?? [:] }

    /// What the template would print of the time.
    func printedTime(_ format: String) -> String? { renderer?.clock.text(format) }

    /// - Throws: `BadRow` when the row cannot be rendered, masked with proof or kept within the limit.
    public func encode(_ row: DataRow, source: String = "") throws -> EncodedRow {
        do throws(RowFault) {
            let marked = try markedTokens(row.content)
            return try truncated(marked, row.location)
        } catch {
            throw BadRow(error, source: source, location: row.location)
        }
    }

    // MARK: kinds of rows

    private func markedTokens(_ content: RowContent) throws(RowFault) -> MarkedTokens {
        switch content {
        case .chat(let messages, let tools):
            return try chat(messages, tools)
        case .instruction(let system, let instruction, let input, let output):
            if renderer == nil {
                return plain(prompt: alpacaPrompt(system, instruction, input), completion: output)
            }
            let question = input.isEmpty ? instruction : instruction + "\n\n" + input
            return try chat(turns(system, question, output), [])
        case .completion(let prompt, let completion):
            if renderer == nil || isBlank(prompt) { return plain(prompt: prompt, completion: completion) }
            return try chat(turns(nil, prompt, completion), [])
        case .text(let text):
            return plain(prompt: "", completion: text)
        case .task(let task):
            throw RowFault(.mixedKinds, "is a row of kind \(task.kind.rawValue), which has no answer to imitate")
        }
    }

    private func turns(_ system: String?, _ question: String, _ answer: String) -> [ChatMessage] {
        (system.map { [ChatMessage(role: .system, content: $0)] } ?? [])
            + [ChatMessage(role: .user, content: question), ChatMessage(role: .assistant, content: answer)]
    }

    /// The template writes the begin token itself where it wants one, so the tokenizer adds none.
    private func chat(_ messages: [ChatMessage], _ tools: [JSONValue]) throws(RowFault) -> MarkedTokens {
        guard let renderer else {
            throw RowFault(.templateRefused, "is a chat, and there is no chat template to render it; name one")
        }
        let rendered = try renderer.render(messages, tools: tools, trained: trainedTurns(messages))
        var marked = MarkedTokens(tokenizer, rendered.text, addSpecialTokens: false)
        try marked.train(rendered.spans, tokenizer)
        return marked
    }

    private func trainedTurns(_ messages: [ChatMessage]) -> [Bool] {
        let last = messages.lastIndex { $0.role == .assistant }
        return messages.indices.map { i in
            if messages[i].isSystem { return false }
            if let own = messages[i].trained { return own }
            return switch options.masking {
            case .assistant: messages[i].role == .assistant
            case .lastAssistant: i == last
            case .all: true
            }
        }
    }

    /// Prompt and completion as one text, with the special tokens that the tokenizer adds, and the end token behind it
    /// when the tokenizer has one: the text really ends there.
    private func plain(prompt: String, completion: String) -> MarkedTokens {
        var marked = MarkedTokens(tokenizer, prompt + completion, addSpecialTokens: true)
        let boundary = options.masking == .all ? 0 : prompt.unicodeScalars.count
        if !marked.train(from: boundary) {
            // A token reaches over the boundary: encode the two apart, as inference does.
            marked = MarkedTokens(tokenizer, prompt, addSpecialTokens: true)
            marked.append(MarkedTokens(tokenizer, completion, addSpecialTokens: false), trained: true)
        }
        if let end = tokenizer.eosToken, marked.ids.last != end.id {
            marked.appendToken(end.id, end.text, trained: true)
        }
        return marked
    }

    // MARK: length

    private func truncated(_ marked: MarkedTokens, _ location: RowLocation) throws(RowFault) -> EncodedRow {
        let limit = options.maxLength ?? .max
        var kept = Array(marked.ids.indices)
        if kept.count > limit {
            switch options.truncation {
            case .split: break
            case .drop:
                throw RowFault(
                    .longerThanMaxLength,
                    "has \(counted(kept.count, "token")), at most \(limit) fit (max_length, or the model's context)")
            case .right: kept.removeLast(kept.count - limit)
            case .left:
                let keepsBegin = tokenizer.bosToken.map { $0.id == marked.ids[0] } ?? false
                kept = (keepsBegin ? [0] : []) + kept.suffix(limit - (keepsBegin ? 1 : 0))
            }
        }
        var trained = kept.map { marked.trained[$0] }
        if !trained.isEmpty { trained[0] = false }
        if !trained.contains(true) {
            let cut = kept.count < marked.ids.count ? " within max_length \(limit)" : ""
            throw RowFault(.noTrainedTokens, "has no token to train\(cut)")
        }
        return EncodedRow(
            text: marked.text, ids: kept.map { marked.ids[$0] }, offsets: kept.map { marked.offsets[$0] },
            trained: trained, location: location, truncated: marked.ids.count - kept.count)
    }
}

/// The prompt that Stanford's Alpaca models were trained with (github.com/tatsu-lab/stanford_alpaca).
func alpacaPrompt(_ system: String?, _ instruction: String, _ input: String) -> String {
    let task = "Below is an instruction that describes a task"
    let head =
        input.isEmpty
        ? "\(task). Write a response that appropriately completes the request."
        : "\(task), paired with an input that provides further context. "
            + "Write a response that appropriately completes the request."
    let context = input.isEmpty ? "" : "### Input:\n\(input)\n\n"
    return "\(system ?? head)\n\n### Instruction:\n\(instruction)\n\n\(context)### Response:\n"
}
