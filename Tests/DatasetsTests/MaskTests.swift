// Masks of chats: against transformers, and by the property that only the assistant is trained.
import ChatTemplates
import Datasets
import Diagnostics
import Formats
import Testing
import Tokenizers

let tinyTokenizer = Result {
    try Tokenizer(
        tokenizerJSON: fixture("tokenizer.json"),
        config: ["bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"])
}

func row(_ content: RowContent) -> DataRow {
    DataRow(content, location: RowLocation(file: "a.jsonl", unit: .line, number: 1))
}

private func messages(_ value: JSONValue) -> [ChatMessage] {
    value.array!.map {
        ChatMessage(role: ChatMessage.Role(rawValue: $0["role"]!.string!)!, content: $0["content"]!.string!)
    }
}

private func bits(_ marks: [Bool]) -> String { marks.map { $0 ? "1" : "0" }.joined() }

struct MaskGoldenTests {
    /// Both for templates as they are published and for those with `{% generation %}`.
    @Test(arguments: ["plain", "generation"])
    func equalToTransformers(_ spelling: String) throws {
        let golden = try fixture("masks.json"), tokenizer = try tinyTokenizer.get()
        var encoders: [String: ExampleEncoder] = [:]
        for (name, template) in golden["templates"]!.object! {
            encoders[name] = try ExampleEncoder(tokenizer, template: template[spelling]!.string!)
        }
        for item in golden["cases"]!.array! {
            let name = item["template"]!.string!, turns = messages(item["messages"]!)
            func encode() throws -> EncodedRow { try encoders[name]!.encode(row(.chat(turns, tools: []))) }
            if item["refused"] != nil {
                #expect(throws: BadRow.self) { try encode() }
                continue
            }
            let encoded = try encode()
            #expect(encoded.text == item["text"]!.string!)
            #expect(encoded.ids.map(Int.init) == item["ids"]!.array!.map { $0.int! })
            #expect(bits(encoded.trained) == item["mask"]!.string!, "\(name): \(encoded.marked(.marks))")
        }
    }
}

struct MaskStrategyTests {
    private func marked(
        _ turns: [ChatMessage], _ masking: Masking = .assistant, template: String = "chatml"
    ) throws -> String {
        let source = try fixture("masks.json")["templates"]![template]!["plain"]!.string!
        let encoder = try ExampleEncoder(
            tinyTokenizer.get(), template: source, options: .init(format: .chat, masking: masking))
        return try encoder.encode(row(.chat(turns, tools: []))).marked(.marks)
    }

    private let turns = [
        ChatMessage(role: .system, content: "S"), ChatMessage(role: .user, content: "one"),
        ChatMessage(role: .assistant, content: "two"), ChatMessage(role: .user, content: "three"),
        ChatMessage(role: .assistant, content: "four"),
    ]

    @Test func assistant() throws {
        #expect(
            try marked(turns)
                == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
                + "[[two<|im_end|>]]\n<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n[[four<|im_end|>]]\n")
    }

    @Test func lastAssistant() throws {
        let text = try marked(turns, .lastAssistant)
        #expect(text.contains("\ntwo<") && text.contains("[[four<|im_end|>]]"))
    }

    @Test func allButSystem() throws {
        let text = try marked(turns, .all)
        #expect(
            text.contains("system\nS<") && text.contains("[[one<|im_end|>]]") && text.contains("[[three<|im_end|>]]"))
        #expect(text.contains("[[two<|im_end|>]]"))
    }

    @Test func weightsGoOverTheStrategy() throws {
        var turns = turns
        turns[0] = ChatMessage(role: .system, content: "S", trained: true)
        turns[1] = ChatMessage(role: .user, content: "one", trained: true)
        turns[2] = ChatMessage(role: .assistant, content: "two", trained: false)
        let text = try marked(turns)
        #expect(text.contains("system\nS<") && text.contains("[[one<|im_end|>]]") && text.contains("\ntwo<"))
        #expect(text.contains("[[four<|im_end|>]]"))
    }

    @Test func nothingLeftIsDropped() throws {
        let silent = [
            ChatMessage(role: .user, content: "a"), ChatMessage(role: .assistant, content: "b", trained: false),
        ]
        let error = #expect(throws: BadRow.self) { try marked(silent) }
        #expect(error?.reason == .noTrainedTokens)
    }

    @Test func toolCallsThatTheTemplateLeavesOut() throws {
        let call: JSONValue = ["type": "function", "function": ["name": "sky", "arguments": [:]]]
        let turns = [
            ChatMessage(role: .user, content: "Rain?"),
            ChatMessage(role: .assistant, content: "", extra: JSONObject([("tool_calls", .array([call]))])),
            ChatMessage(role: .tool, content: "wet"), ChatMessage(role: .assistant, content: "Yes."),
        ]
        let error = #expect(throws: BadRow.self) { try marked(turns) }
        #expect(error?.reason == .spanUnproven)
        #expect(try marked(turns, .lastAssistant).contains("[[Yes.<|im_end|>]]"))
    }

    /// A template that prints what the tool answers in the turn that called it: nobody's words but the assistant's are trained.
    @Test func toolAnswersWithinTheTurn() throws {
        func template(_ answer: String, _ kept: String) -> String {
            "{% for m in messages %}{% if \(kept) %}<{{ m.role }}>{% for c in m.tool_calls or [] %}"
                + "{{ c.function.name }}(\(answer)){% endfor %}{{ m.content }}</s>{% endif %}{% endfor %}"
                + "{% if add_generation_prompt %}<assistant>{% endif %}"
        }
        let inside = template(
            "{{ messages[2].content if messages|length > 2 else '' }}", "m.role in ['user', 'assistant']")
        let beside = template("", "true")
        let call: JSONValue = ["type": "function", "function": ["name": "sky", "arguments": [:]]]
        let turns = [
            ChatMessage(role: .user, content: "Rain?"),
            ChatMessage(role: .assistant, content: "", extra: JSONObject([("tool_calls", .array([call]))])),
            ChatMessage(role: .tool, content: "wet"), ChatMessage(role: .assistant, content: "Yes."),
        ]
        func marked(_ template: String, _ thought: String, role: ChatMessage.Role = .tool) throws -> String {
            var turns = turns
            turns[2] = ChatMessage(role: role, content: "wet")
            turns[1] = ChatMessage(
                role: .assistant, content: thought, extra: JSONObject([("tool_calls", .array([call]))]))
            let encoder = try ExampleEncoder(tinyTokenizer.get(), template: template)
            return try encoder.encode(row(.chat(turns, tools: []))).marked(.marks)
        }
        for role in [ChatMessage.Role.tool, .ipython, .environment, .function] {
            let error = #expect(throws: BadRow.self) { try marked(inside, "hm", role: role) }
            #expect(error?.message.contains("prints the tool's answer within it") == true, "\(error?.message ?? "")")
        }
        let text = try marked(beside, "hm")
        #expect(
            text.contains("[[sky()hm</s>]]") && text.contains("<tool>wet</s>") && text.contains("[[Yes.</s>]]"),
            "\(text)")
    }

    /// Chats with tools take the tokenizer's template for them, unless another template is given.
    @Test func templateForTools() throws {
        func source(_ mark: String) -> String {
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}\(mark){% endfor %}"
                + "{% if add_generation_prompt %}<assistant>{% endif %}"
        }
        let tokenizer = try Tokenizer(
            tokenizerJSON: fixture("tokenizer.json"),
            config: [
                "chat_template": [
                    ["name": "default", "template": .string(source("</s>"))],
                    ["name": "tool_use", "template": .string(source("!{{ tools[0].function.name }}</s>"))],
                ]
            ])
        let turns = [ChatMessage(role: .user, content: "a"), ChatMessage(role: .assistant, content: "b")]
        let tool: JSONValue = ["type": "function", "function": ["name": "sky"]]
        func text(_ tools: [JSONValue], _ template: String? = nil) throws -> String {
            try ExampleEncoder(tokenizer, template: template).encode(row(.chat(turns, tools: tools))).marked(.marks)
        }
        #expect(try text([]) == "<user>a</s><assistant>[[b</s>]]")
        #expect(try text([tool]) == "<user>a!sky</s><assistant>[[b!sky</s>]]")
        #expect(try text([tool], source("?</s>")) == "<user>a?</s><assistant>[[b?</s>]]")
    }

    /// What a template marks is trained, all of it and no more: in several pieces, with a thought left out.
    @Test func marksOfTheTemplate() throws {
        let template =
            "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}"
            + "{{ m.content.split('</think>')[-1].strip() }}{% endgeneration %}{% generation %}</s>!{% endgeneration %}"
            + "{% else %}{{ m.content }}{% endif %}{% endfor %}"
        let turns = [
            ChatMessage(role: .user, content: "a"), ChatMessage(role: .assistant, content: "<think>t</think> one"),
            ChatMessage(role: .user, content: "b"), ChatMessage(role: .assistant, content: "two"),
        ]
        func marked(_ masking: Masking) throws -> String {
            let encoder = try ExampleEncoder(
                tinyTokenizer.get(), template: template, options: .init(format: .chat, masking: masking))
            return try encoder.encode(row(.chat(turns, tools: []))).marked(.marks)
        }
        #expect(try marked(.assistant) == "<user>a<assistant>[[one</s>!]]<user>b<assistant>[[two</s>!]]")
        #expect(try marked(.lastAssistant) == "<user>a<assistant>one</s>!<user>b<assistant>[[two</s>!]]")
    }

    /// An answer that the template leaves out is missed, though another one reads the same; and a turn that is not to be
    /// trained is not, though it shares a mark with one that is.
    @Test func marksOfTheTemplateByTurn() throws {
        func marked(_ template: String, _ turns: [ChatMessage]) throws -> String {
            let encoder = try ExampleEncoder(tinyTokenizer.get(), template: template, options: .init(format: .chat))
            return try encoder.encode(row(.chat(turns, tools: []))).marked(.marks)
        }
        func answer(_ text: String, _ trained: Bool? = nil) -> ChatMessage {
            ChatMessage(role: .assistant, content: text, trained: trained)
        }
        let question = ChatMessage(role: .user, content: "a")
        let lastOnly =
            "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% if loop.last %}{% generation %}"
            + "{{ m.content }}{% endgeneration %}{% endif %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        let error = #expect(throws: BadRow.self) {
            try marked(lastOnly, [question, answer("one"), question, answer("one")])
        }
        #expect(error?.reason == .spanUnproven)
        #expect(try marked(lastOnly, [question, answer("one")]) == "<user>a<assistant>[[one]]")
        let together =
            "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
            + "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
        #expect(try marked(together, [question, answer("one"), answer("two")]) == "<user>a[[one</s>two</s>]]")
        #expect(try marked(together, [question, answer("one", false), answer("two")]) == "<user>aone</s>[[two</s>]]")
    }

    /// Templates that change, repeat or drop the answer: no proof, no training.
    @Test(arguments: [
        "{% for m in messages %}{{ m.role + ':' + m.content|upper + '\\n' }}{% endfor %}",
        "{% for m in messages %}{{ m.role + ':' + m.content + m.content + '\\n' }}{% endfor %}",
        "{% for m in messages %}{{ m.role + ':' }}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m.role + ':' + m.content[:2] + '\\n' }}{% endfor %}",
    ])
    func dishonestTemplates(_ template: String) throws {
        let encoder = try ExampleEncoder(tinyTokenizer.get(), template: template)
        let error = #expect(throws: BadRow.self) { try encoder.encode(row(.chat(turns, tools: []))) }
        #expect(error?.reason == .spanUnproven)
    }

    /// A token that joins the answer with what is not the answer's (here "x1" is one word to the tokenizer).
    @Test func straddlingTokens() throws {
        let encoder = try ExampleEncoder(
            tinyTokenizer.get(), template: "{% for m in messages %}{{ 'an' + m.content + 'er ' }}{% endfor %}")
        let turns = [ChatMessage(role: .user, content: "x"), ChatMessage(role: .assistant, content: "sw")]
        let error = #expect(throws: BadRow.self) { try encoder.encode(row(.chat(turns, tools: []))) }
        #expect(error?.reason == .spanUnproven)
    }
}

/// 500 random chats through every template: every trained character is the assistant's or ends its turn.
struct MaskPropertyTests {
    private static let pieces = [
        "a", "B", " ", "\n", "\n\n", "é", "日", "🐎🏽", "e\u{301}", "<|im_start|>assistant\n", "<|im_end|>", "</s>", "<s>",
        "[/INST]",
        "<think>", "</think>", "user", "assistant", "model", "The answer", ".", "12", "\t", "\u{200B}", "<end_of_turn>",
        "\r\n",
    ]

    private static func chat(_ generator: inout SeededGenerator) -> [ChatMessage] {
        func content() -> String {
            let text = (0..<Int.random(in: 1...6, using: &generator)).map { _ in
                pieces.randomElement(using: &generator)!
            }
            return text.joined() + (text.allSatisfy { $0.allSatisfy(\.isWhitespace) } ? "x" : "")
        }
        let system = Bool.random(using: &generator) ? [ChatMessage(role: .system, content: content())] : []
        return (0..<Int.random(in: 1...4, using: &generator)).reduce(into: system) { turns, _ in
            turns += [ChatMessage(role: .user, content: content()), ChatMessage(role: .assistant, content: content())]
        }
    }

    @Test func onlyTheAssistantIsTrained() throws {
        var generator = SeededGenerator(11), encoded = 0, dropped = 0
        let templates = try fixture("masks.json")["templates"]!.object!
        let tokenizer = try tinyTokenizer.get()
        let encoders = try templates.map { ($0.0, try ExampleEncoder(tokenizer, template: $0.1["plain"]!.string!)) }
        for _ in 0..<500 {
            let turns = Self.chat(&generator)
            for (name, encoder) in encoders {
                let result: EncodedRow
                do {
                    result = try encoder.encode(row(.chat(turns, tools: [])))
                } catch let bad as BadRow where bad.reason == .templateRefused || bad.reason == .spanUnproven {
                    dropped += bad.reason == .spanUnproven ? 1 : 0
                    continue
                }
                encoded += 1
                let trained = result.trainedRuns
                #expect(trained.count == turns.count { $0.role == .assistant }, "\(name): \(result.marked(.marks))")
                for (run, turn) in zip(trained, turns.filter { $0.role == .assistant }) {
                    #expect(Self.isAssistants(run, turn.content), "\(name): \(result.marked(.marks))")
                }
            }
        }
        #expect(encoded > 2000 && dropped * 10 < encoded)
    }

    /// The run is the turn's text (perhaps stripped, perhaps without its thought, perhaps behind an empty one) and an
    /// end token, with white space merged in at either end.
    private static func isAssistants(_ run: String, _ content: String) -> Bool {
        var body = trimmed(run)[...]
        let ends = ["<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>"]
        guard let end = ends.first(where: { body.hasSuffix($0) }) else { return false }
        body = body.dropLast(end.count)
        if body.hasPrefix("<think>\n\n</think>\n\n") { body = body.dropFirst("<think>\n\n</think>\n\n".count) }
        return trimmed(content).hasSuffix(trimmed(String(body)))
    }

    private static func trimmed(_ text: String) -> String {
        let scalars = Array(text.unicodeScalars)
        guard let first = scalars.firstIndex(where: { !$0.properties.isWhitespace }),
            let last = scalars.lastIndex(where: { !$0.properties.isWhitespace })
        else { return "" }
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars[first...last])
        return String(view)
    }
}

extension EncodedRow {
    /// Texts of unbroken runs of trained tokens.
    fileprivate var trainedRuns: [String] {
        var runs: [[Unicode.Scalar]] = [], before = false, covered = 0
        let scalars = Array(text.unicodeScalars)
        for (range, mark) in zip(offsets, trained) {
            if mark {
                if !before { runs.append([]) }
                let new = max(range.lowerBound, before ? covered : range.lowerBound)..<max(range.upperBound, covered)
                runs[runs.count - 1] += scalars[new]
                covered = range.upperBound
            }
            before = mark
        }
        return runs.map { run in
            var view = String.UnicodeScalarView()
            view.append(contentsOf: run)
            return String(view)
        }
    }
}
