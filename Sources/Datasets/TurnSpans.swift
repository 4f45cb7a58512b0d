// Where the assistant's turns stand in a rendered chat. A span is proven or it is not given.
//
// All offsets are bytes of UTF-8. What a template does is only known by rendering: a turn's span begins where the
// prompt of that turn ends (the turns before it, rendered with the header for an answer) and goes on to the end of the
// turn (the turns up to it, rendered). That holds when both are prefixes of the whole chat and the answer stands right
// where the prompt ends. Otherwise the answer is looked up by rendering the whole chat once more with a mark in its place.
// A template that says itself what the assistant writes (`{% generation %}`) is believed, once every answer is found there.
import ChatTemplates
import Diagnostics
import Formats
import Synchronization

/// The place of one trained turn.
struct TurnSpan: Equatable {
    /// First byte that is trained.
    var start: Int
    /// End of the turn's text; what follows is its end-of-turn token, if anything.
    var contentEnd: Int
    /// How far an end-of-turn may reach.
    var limit: Int
    /// The end-of-turn counts only when it is a special token: `limit` is uncertain.
    var specialOnly: Bool
    /// The turn goes on with tool calls behind its text, which may hold special tokens.
    var goesOn: Bool
}

/// A chat with the places of its trained turns.
struct RenderedChat {
    let text: String
    let spans: [TurnSpan]
}

/// One moment, and in which formats it was asked for: what a template prints may depend on nothing else of the time.
final class FixedClock: Sendable {
    private let moment: TemplateTime
    private let formats = Mutex<Set<ExactString>>([])

    init(_ moment: TemplateTime) { self.moment = moment }

    @Sendable func time(_ format: String) -> TemplateTime {
        formats.withLock { _ = $0.insert(ExactString(format)) }
        return moment
    }

    func text(_ format: String) -> String { moment.formatted(format) }

    /// What was printed so far, by format.
    var printed: [String: String] {
        let formats = formats.withLock { $0.map(\.string) }
        return Dictionary(formats.map { ($0, text($0)) }) { $1 }
    }
}

/// Renders chats with the template that serves them and finds turns in them.
struct ChatRenderer: Sendable {
    private let choice: TemplateChoice
    private let variables: JSONObject
    /// Whether a rendered prompt ends with a header for the answer, without and with tools.
    private let hasAnswerHeader: (usual: Bool, withTools: Bool)
    /// The one moment that `strftime_now` tells: two renderings of a chat must not differ by the clock.
    let clock: FixedClock

    /// - Throws: `UserError` when a template refuses the simplest chat.
    init(_ choice: TemplateChoice, variables: JSONObject, clock: FixedClock) throws {
        (self.choice, self.variables, self.clock) = (choice, variables, clock)
        func printsHeader(_ tools: [JSONValue]?) throws -> Bool {
            func text(_ addGenerationPrompt: Bool) throws -> String {
                try choice.template(tools).render(
                    messages: [["role": "user", "content": "probe"]], tools: tools,
                    addGenerationPrompt: addGenerationPrompt, variables: variables, now: clock.time)
            }
            return try !text(false).utf8.elementsEqual(text(true).utf8)
        }
        let usual = try printsHeader(nil)
        hasAnswerHeader = try (usual, choice.withTools == nil ? usual : printsHeader([Self.probeTool]))
    }

    /// A function as OpenAI and transformers describe one.
    private static let probeTool: JSONValue = [
        "type": "function",
        "function": [
            "name": "probe", "description": "Probes.",
            "parameters": ["type": "object", "properties": [:], "required": []],
        ],
    ]

    /// - Parameter trained: whether turn i is to be trained.
    /// - Throws: `RowFault` when the template refuses the chat or the place of a trained turn cannot be proven.
    func render(_ messages: [ChatMessage], tools: [JSONValue], trained: [Bool]) throws(RowFault) -> RenderedChat {
        let values = messages.map { JSONValue.object($0.fields) }, tools = tools.isEmpty ? nil : tools
        let (full, generated) = try renderedWithMarks(values[...], tools, answerHeader: false)
        let turns = messages.indices.map {
            Turn(
                index: $0, message: messages[$0], values: values, tools: tools, full: full,
                hasAnswerHeader: tools == nil ? hasAnswerHeader.usual : hasAnswerHeader.withTools)
        }
        let answers = messages.indices.filter { messages[$0].role == .assistant }, regions = joined(generated)
        let owned = regions.isEmpty ? [] : answers.map { (turn: $0, region: region(of: turns[$0], in: regions)) }
        let isWhole = !owned.isEmpty && owned.allSatisfy { $0.region != nil }
        if isWhole, messages.indices.allSatisfy({ trained[$0] == (messages[$0].role == .assistant) }),
            answers.allSatisfy({ printsCalls(turns[$0], regions) })
        {
            return RenderedChat(text: String(decoding: full, as: UTF8.self), spans: regions.map(generatedSpan))
        }
        var spans: [TurnSpan] = []
        for turn in turns where trained[turn.index] {
            let own = isWhole ? owned.first { $0.turn == turn.index }?.region : nil
            let span: TurnSpan
            if let own, printsCalls(turn, [regions[own]]),
                owned.allSatisfy({ $0.region != own || $0.turn == turn.index })
            {
                span = generatedSpan(regions[own])
            } else {
                span = try self.span(turn)
            }
            if let last = spans.last, last.contentEnd > span.start { throw unproven(turn, "overlaps the turn before") }
            spans.append(span)
        }
        for i in spans.indices.dropLast() { spans[i].limit = min(spans[i].limit, spans[i + 1].start) }
        return RenderedChat(text: String(decoding: full, as: UTF8.self), spans: spans)
    }

    private struct Turn {
        let index: Int
        let message: ChatMessage
        let values: [JSONValue]
        let tools: [JSONValue]?
        let full: [UInt8]
        let hasAnswerHeader: Bool
        var isLast: Bool { index == values.count - 1 }
        /// The chat with a mark in place of the turn's text, or of another's.
        func marked(at i: Int? = nil) -> [JSONValue] {
            var values = values
            if case .object(var fields) = values[i ?? index] {
                fields["content"] = .string(ChatRenderer.mark)
                values[i ?? index] = .object(fields)
            }
            return values
        }
    }

    private func rendered(
        _ messages: ArraySlice<JSONValue>, _ tools: [JSONValue]?, answerHeader: Bool
    ) throws(RowFault) -> [UInt8] {
        try renderedWithMarks(messages, tools, answerHeader: answerHeader).text
    }

    /// The text, and the parts that the template itself wraps in `{% generation %}`.
    private func renderedWithMarks(
        _ messages: ArraySlice<JSONValue>, _ tools: [JSONValue]?, answerHeader: Bool
    ) throws(RowFault) -> (text: [UInt8], generated: [Range<Int>]) {
        do {
            let (text, generated) = try choice.template(tools).renderMarkingGenerated(
                messages: Array(messages), tools: tools, addGenerationPrompt: answerHeader, variables: variables,
                now: clock.time)
            return (Array(text.utf8), generated)
        } catch {
            throw RowFault(.templateRefused, "the chat template refuses this chat: \(escapedForDisplay("\(error)"))")
        }
    }

    /// The turns before `end`, when the template renders them and they begin the whole chat; many templates refuse some
    /// beginnings, and then the place is proven otherwise.
    private func stablePrefix(_ turn: Turn, _ end: Int, answerHeader: Bool) -> [UInt8]? {
        let bytes = try? rendered(turn.values[..<end], turn.tools, answerHeader: answerHeader)
        guard let bytes, turn.full.starts(with: bytes) else { return nil }
        return bytes
    }

    private func unproven(_ turn: Turn, _ why: String) -> RowFault {
        RowFault(
            .spanUnproven,
            "turn \(turn.index + 1) (\(turn.message.role.rawValue)) cannot be found in the rendered chat: \(why)")
    }

    // MARK: one turn

    /// Regions that follow each other without a gap are one.
    private func joined(_ regions: [Range<Int>]) -> [Range<Int>] {
        regions.reduce(into: []) { joined, region in
            if let last = joined.last, last.upperBound == region.lowerBound {
                joined[joined.count - 1] = last.lowerBound..<region.upperBound
            } else if !region.isEmpty {
                joined.append(region)
            }
        }
    }

    /// The region that the template marks around the turn's text; nil where the text's place is not proven or not in one.
    private func region(of turn: Turn, in regions: [Range<Int>]) -> Int? {
        guard let place = turn.message.content.isEmpty ? emptyPlace(turn) : try? markedContent(turn) else { return nil }
        return regions.firstIndex { $0.lowerBound <= place.lowerBound && place.upperBound <= $0.upperBound }
    }

    /// Where a turn without text would have it.
    private func emptyPlace(_ turn: Turn) -> Range<Int>? {
        guard let marked = try? rendered(turn.marked()[...], turn.tools, answerHeader: false) else { return nil }
        let found = offsets(of: Array(Self.mark.utf8), in: marked)
        guard found.count == 1, turn.full.starts(with: marked[..<found[0]]) else { return nil }
        return found[0]..<found[0]
    }

    private func printsCalls(_ turn: Turn, _ regions: [Range<Int>]) -> Bool {
        let parts = turn.message.hasToolCalls ? regions.map { Array(turn.full[$0]) } : []
        return turn.message.calledNames.allSatisfy { name in
            parts.contains { !offsets(of: Array(name.utf8), in: $0).isEmpty }
        }
    }

    /// The template's own word.
    private func generatedSpan(_ range: Range<Int>) -> TurnSpan {
        TurnSpan(
            start: range.lowerBound, contentEnd: range.upperBound, limit: range.upperBound, specialOnly: true,
            goesOn: false)
    }

    private func span(_ turn: Turn) throws(RowFault) -> TurnSpan {
        let isAnswer = turn.message.role == .assistant
        let prompt = isAnswer ? stablePrefix(turn, turn.index, answerHeader: true)?.count : nil
        let through = turn.isLast ? turn.full : stablePrefix(turn, turn.index + 1, answerHeader: false)
        let content: Range<Int>
        if turn.hasAnswerHeader, let prompt, let end = contentEnd(turn, from: prompt), let through, through.count >= end
        {
            content = prompt..<end
        } else {
            content = try markedContent(turn)
        }
        let start = try self.start(turn, prompt, content)
        let stable = through.map { $0.count >= content.upperBound } ?? false
        let limit = stable ? through!.count : sharedEnd(turn, from: content.upperBound)
        let span = TurnSpan(
            start: start, contentEnd: content.upperBound, limit: limit, specialOnly: !stable,
            goesOn: turn.message.hasToolCalls)
        if span.goesOn {
            try checkToolCalls(turn, span)
            try checkToolAnswers(turn, span)
        }
        return span
    }

    /// The end of the turn's text when it stands, as given or stripped, right at `start`.
    private func contentEnd(_ turn: Turn, from start: Int) -> Int? {
        for text in spellings(turn.message.content) where turn.full[start...].starts(with: text) {
            return start + text.count
        }
        return nil
    }

    /// What the person wrote, and the same without white space around it, as many templates print it.
    private func spellings(_ content: String) -> [[UInt8]] {
        let plain = Array(content.utf8)
        var stripped = content.unicodeScalars[...]
        while let first = stripped.first, isWhiteSpace(first) { stripped.removeFirst() }
        while let last = stripped.last, isWhiteSpace(last) { stripped.removeLast() }
        let bare = Array(content.utf8[stripped.startIndex..<stripped.endIndex])
        return plain.count == bare.count ? [plain] : [plain, bare]
    }

    /// Where training begins: behind the prompt as inference would give it, where that is proven, else at the text.
    private func start(_ turn: Turn, _ prompt: Int?, _ content: Range<Int>) throws(RowFault) -> Int {
        guard let prompt, prompt != content.lowerBound else { return content.lowerBound }
        if prompt > content.lowerBound {
            // The prompt itself gives the beginning of the answer (`<think>`): that part is not the model's to learn.
            if prompt > content.upperBound { throw unproven(turn, "the prompt reaches past it") }
            return prompt
        }
        // Between the prompt and the text: a space, or what the template leaves to the model (an empty thought).
        let gap = turn.full[prompt..<content.lowerBound]
        return turn.hasAnswerHeader || gap.allSatisfy(isJSONSpace) ? prompt : content.lowerBound
    }

    // MARK: by a mark

    /// A text that no data holds and no template changes.
    fileprivate static let mark = "\u{F8F1}\u{F8F2}\u{F8F3}"

    /// The place of the turn's text: what differs when the text is replaced by a mark, when that is the text.
    private func markedContent(_ turn: Turn) throws(RowFault) -> Range<Int> {
        if turn.message.content.isEmpty { throw unproven(turn, "it has no text") }
        let marked = try rendered(turn.marked()[...], turn.tools, answerHeader: false), mark = Array(Self.mark.utf8)
        let found = offsets(of: mark, in: marked)
        guard found.count == 1 else {
            throw unproven(
                turn, found.isEmpty ? "the template leaves it out" : "the template prints it \(found.count) times")
        }
        let tail = marked.count - found[0] - mark.count
        let place = found[0]..<(turn.full.count - tail)
        guard found[0] + tail <= turn.full.count, turn.full.starts(with: marked[..<found[0]]),
            turn.full[place.upperBound...].elementsEqual(marked[(marked.count - tail)...])
        else { throw unproven(turn, "the template changes the text around it") }
        let printed = turn.full[place], spellings = spellings(turn.message.content)
        // A stripped thought leaves the end of the text; anything else the template made up.
        guard !printed.isEmpty, spellings.contains(where: { $0.elementsEqual(printed) || ends($0, with: printed) })
        else {
            throw unproven(turn, printed.isEmpty ? "the template leaves it out" : "the template changes it")
        }
        return place
    }

    private func ends(_ text: [UInt8], with end: ArraySlice<UInt8>) -> Bool {
        text.count >= end.count && text[(text.count - end.count)...].elementsEqual(end)
    }

    private func offsets(of needle: [UInt8], in bytes: [UInt8]) -> [Int] {
        guard !needle.isEmpty, bytes.count >= needle.count else { return [] }
        return (0...bytes.count - needle.count).filter { bytes[$0] == needle[0] && bytes[$0...].starts(with: needle) }
    }

    // MARK: the end of the turn

    /// How far an end-of-turn reaches when the chat that ends with this turn does not begin the whole chat: as far as
    /// what follows the turn's text is the same in both.
    private func sharedEnd(_ turn: Turn, from start: Int) -> Int {
        let through = turn.marked()[...turn.index]
        // A template that refuses this beginning only means that no end-of-turn is proven.
        guard let marked = try? rendered(through, turn.tools, answerHeader: false) else { return start }
        let mark = Array(Self.mark.utf8), found = offsets(of: mark, in: marked)
        guard found.count == 1 else { return start }
        return start + zip(marked[(found[0] + mark.count)...], turn.full[start...]).prefix { $0 == $1 }.count
    }

    /// A template that knows nothing of tool calls would leave a turn that only ends.
    private func checkToolCalls(_ turn: Turn, _ span: TurnSpan) throws(RowFault) {
        let region = span.start..<span.limit
        if !printsCalls(turn, [region]) { throw unproven(turn, "the template does not print its tool calls") }
    }

    private static let toolRoles = Set([ChatMessage.Role.tool, .ipython, .environment, .function].map(\.rawValue))

    /// Some templates print what a tool answers within the turn that called it, where it would be trained.
    private func checkToolAnswers(_ turn: Turn, _ span: TurnSpan) throws(RowFault) {
        let region = span.start..<max(span.contentEnd, span.limit)
        for i in turn.values.indices.dropFirst(turn.index + 1) {
            guard Self.toolRoles.contains(turn.values[i]["role"]?.string ?? "") else { return }
            let marked = try rendered(turn.marked(at: i)[...], turn.tools, answerHeader: false)
            if offsets(of: Array(Self.mark.utf8), in: marked).contains(where: region.contains) {
                throw unproven(turn, "the template prints the tool's answer within it")
            }
        }
    }
}
