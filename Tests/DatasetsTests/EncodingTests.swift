// Rows that are not chats, truncation, statistics, inspection.
import Datasets
import Diagnostics
import Formats
import Testing
import Tokenizers

private func encode(_ content: RowContent, _ options: ExampleEncoder.Options) throws -> EncodedRow {
    let template = options.format == .plain ? nil : try fixture("masks.json")["templates"]!["zephyr"]!["plain"]!.string!
    return try ExampleEncoder(tinyTokenizer.get(), template: template, options: options).encode(row(content))
}

struct PlainRowTests {
    @Test(arguments: [
        (RowContent.text("It is blue."), RowFormat.plain, "[[It is blue.</s>]]"),
        (.text("It is blue."), .chat, "[[It is blue.</s>]]"),
        (.completion(prompt: "1 and 2 is", completion: " 3"), .plain, "1 and 2 is[[ 3</s>]]"),
        (.completion(prompt: "", completion: "It is"), .chat, "[[It is</s>]]"),
        (.completion(prompt: "Sum", completion: "3"), .chat, "<|user|>\nSum</s>\n<|assistant|>\n[[3</s>]]\n"),
        (
            .instruction(system: nil, instruction: "Sum", input: "1", output: "3"), .chat,
            "<|user|>\nSum\n\n1</s>\n<|assistant|>\n[[3</s>]]\n"
        ),
        (
            .instruction(system: "S", instruction: "Sum", input: "", output: "3"), .chat,
            "<|system|>\nS</s>\n<|user|>\nSum</s>\n<|assistant|>\n[[3</s>]]\n"
        ),
        (
            .instruction(system: nil, instruction: "Sum", input: "", output: "3"), .plain,
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
                + "\n\n### Instruction:\nSum\n\n### Response:\n[[3</s>]]"
        ),
    ])
    func rendered(_ content: RowContent, _ format: RowFormat, _ expected: String) throws {
        let encoded = try encode(content, .init(format: format))
        // The first token of a row is never a target: nothing comes before it.
        #expect(encoded.trained[0] == false)
        let first = encoded.offsets[0].upperBound
        let untrainedFirst = expected.hasPrefix("[[") ? "" : nil
        if untrainedFirst != nil {
            let plain = expected.replacing("[[", with: "").replacing("]]", with: "")
            let split = plain.unicodeScalars.index(plain.startIndex, offsetBy: first)
            #expect(encoded.marked(.marks) == "\(plain[..<split])[[\(plain[split...])]]")
        } else {
            #expect(encoded.marked(.marks) == expected)
        }
    }

    /// A token over the boundary of prompt and completion: both are encoded apart, and the whole completion is trained.
    @Test func boundaryInsideAToken() throws {
        let tokenizer = try tinyTokenizer.get()
        #expect(tokenizer.encode(" answer", addSpecialTokens: false).count == 1)
        let encoded = try encode(.completion(prompt: "1 ans", completion: "wer"), .init(format: .plain))
        #expect(encoded.marked(.marks) == "1 ans[[wer</s>]]")
        let apart =
            tokenizer.encode("1 ans", addSpecialTokens: false) + tokenizer.encode("wer", addSpecialTokens: false)
        #expect(encoded.ids.dropLast() == apart[...])
    }

    @Test func allTrainsThePrompt() throws {
        let encoded = try encode(.completion(prompt: "a b", completion: " c"), .init(format: .plain, masking: .all))
        #expect(encoded.trained == [false] + Array(repeating: true, count: encoded.ids.count - 1))
    }

    @Test func chatsNeedATemplate() throws {
        let chat = RowContent.chat(
            [ChatMessage(role: .user, content: "a"), ChatMessage(role: .assistant, content: "b")], tools: [])
        let error = #expect(throws: BadRow.self) { try encode(chat, .init(format: .plain)) }
        #expect(error?.reason == .templateRefused)
        #expect(throws: UserError.self) { try ExampleEncoder(tinyTokenizer.get(), options: .init(format: .chat)) }
        #expect(throws: UserError.self) {
            try ExampleEncoder(tinyTokenizer.get(), template: "{% for", options: .init())
        }
        #expect(throws: UserError.self) { try ExampleEncoder(tinyTokenizer.get(), options: .init(maxLength: 1)) }
    }
}

struct TruncationTests {
    private let content = RowContent.completion(prompt: "What is", completion: " the answer? The answer is yes.")

    @Test(arguments: 4...12)
    func rightKeepsTheBeginningWithoutAnEnd(_ limit: Int) throws {
        let whole = try encode(content, .init(format: .plain))
        let cut = try encode(content, .init(format: .plain, maxLength: limit))
        #expect(cut.ids == Array(whole.ids.prefix(limit)))
        #expect(cut.truncated == max(0, whole.ids.count - limit))
        #expect(cut.ids.contains(try tinyTokenizer.get().eosToken!.id) == (limit >= whole.ids.count))
        #expect(cut.trained == Array(whole.trained.prefix(limit)))
    }

    @Test func leftKeepsTheEnd() throws {
        let whole = try encode(content, .init(format: .plain))
        let cut = try encode(content, .init(format: .plain, maxLength: 4, truncation: .left))
        #expect(cut.ids == Array(whole.ids.suffix(4)))
        #expect(cut.trained == [false, true, true, true])
    }

    @Test func leftKeepsTheBeginToken() throws {
        let template = try fixture("masks.json")["templates"]!["mistral"]!["plain"]!.string!
        let encoder = try ExampleEncoder(
            tinyTokenizer.get(), template: template, options: .init(maxLength: 5, truncation: .left))
        let encoded = try encoder.encode(row(.completion(prompt: "What is the colour?", completion: "It is blue.")))
        #expect(encoded.ids.first == (try tinyTokenizer.get().bosToken!.id))
        #expect(encoded.ids.count == 5 && encoded.ids.filter { $0 == encoded.ids[0] }.count == 1)
    }

    @Test func dropAndNothingLeft() throws {
        let drop = #expect(throws: BadRow.self) {
            try encode(content, .init(format: .plain, maxLength: 5, truncation: .drop))
        }
        #expect(drop?.reason == .longerThanMaxLength)
        let empty = #expect(throws: BadRow.self) { try encode(content, .init(format: .plain, maxLength: 2)) }
        #expect(empty?.reason == .noTrainedTokens)
    }
}

struct StatisticsTests {
    @Test func countsAddUp() throws {
        let folder = try TemporaryFolder()
        let chat = #"{"messages":[{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi!"}]}"# + "\n"
        let refused =
            #"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"Hello"},"#
            + #"{"role":"assistant","content":"Hi!"}]}"#
            + "\n"
        let path = try folder.file("a.jsonl", chat + chat + refused + "broken\n" + chat.replacing("Hi!", with: "yes"))
        let source = DataSource([path], badRows: .drop, deduplicate: true)
        let template = try fixture("masks.json")["templates"]!["mistral"]!["plain"]!.string!
        let encoder = try ExampleEncoder(tinyTokenizer.get(), template: template)
        let (data, statistics) = try EncodedRows(source, encoder).dataset()
        #expect(statistics.rowsIn == 5 && statistics.rowsKept == 2 && statistics.duplicates == 1)
        #expect(statistics.dropped == [.templateRefused: 1, .invalidJSON: 1])
        #expect(statistics.rowsKept + statistics.rowsDropped + statistics.duplicates == statistics.rowsIn)
        #expect(data.count == 2 && data.tokens == statistics.tokens && data.trainedTokens == statistics.trainedTokens)
        #expect(data.batch(0..<2).trainedTokens == statistics.trainedTokens)
        #expect(data.source(1).number == 5)
        #expect(statistics.json["dropped"]?["template_refused"] == 1)
        #expect(statistics.report.contains { $0.hasPrefix("dropped 1 template_refused: ") && $0.contains("line 3") })
        let stopping = try folder.file("b.jsonl", chat + refused)
        #expect(throws: BadRow.self) { try EncodedRows(DataSource([stopping]), encoder) }
    }

    @Test func percentilesByNearestRank() {
        var statistics = DatasetStatistics()
        for n in 1...20 { statistics.keep(tokens: n, trained: 0, cut: 0) }
        #expect(statistics.lengthPercentiles.map(\.tokens) == [1, 1, 5, 10, 15, 19, 20, 20])
    }
}

struct InspectionTests {
    @Test func controlCharactersAreShown() throws {
        let content = RowContent.completion(prompt: "a\u{1B}[31m\u{202E}", completion: "b\u{7}\n\u{200B}c")
        let encoded = try encode(content, .init(format: .plain))
        #expect(encoded.marked(.marks) == "a\\u{1b}[31m\\u{202e}[[b\\u{7}\n\\u{200b}c</s>]]")
        #expect(encoded.marked(.ansi) == "a\\u{1b}[31m\\u{202e}\u{1B}[32mb\\u{7}\n\\u{200b}c</s>\u{1B}[0m")
    }

    /// What terminals act on or hide, and what looks like our own marks or a page's.
    static let hostile = [
        "\u{1B}[31mred", "\u{1B}[2J\u{1B}[H", "\u{1B}[1A\u{1B}[2Kgone", "\u{1B}[?1049h", "\u{1B}[6n", "\u{1B}c",
        "\u{1B}]0;title\u{7}", "\u{1B}]8;;http://x\u{1B}\\link\u{1B}]8;;\u{1B}\\", "\u{1B}]52;c;cm0gLXJm\u{7}",
        "\u{1B}P+q544e\u{1B}\\", "\u{1B}_apc\u{1B}\\", "\u{1B}^pm\u{1B}\\", "\u{1B}(0lqk", "\u{1B}#8", "\u{9B}31m",
        "\u{9D}0;x\u{9C}",
        "\u{90}x\u{9C}", "\u{84}\u{85}\u{8D}", "a\rb", "a\u{8}\u{8}b", "\u{7}\u{7}", "a\u{7F}b", "a\u{B}b\u{C}c",
        "\u{E}\u{F}",
        "user\u{202E}txt.exe\u{202C}", "\u{202A}a\u{202B}b\u{202D}c", "\u{2066}a\u{2067}b\u{2068}c\u{2069}",
        "\u{200E}\u{200F}\u{61C}",
        "a\u{200B}b\u{200C}c\u{2060}d\u{FEFF}e\u{AD}f", "a\u{2028}b\u{2029}c", "\u{E0041}\u{E0042}\u{E007F}",
        "\u{FFF9}a\u{FFFA}b\u{FFFB}",
        "\u{1B}[32m[[\u{1B}[0m]]", "<script>alert(1)</script>\u{1B}[8m<b onload='x'>&lt;",
    ]

    private func acts(_ scalar: Unicode.Scalar) -> Bool {
        scalar != "\n" && scalar != "\t" && scalar != "\u{200D}"
            && [.control, .format, .lineSeparator, .paragraphSeparator].contains(scalar.properties.generalCategory)
    }

    @Test(arguments: hostile) func nothingInARowSteersATerminal(_ text: String) throws {
        for content in [RowContent.text(text), .completion(prompt: text, completion: text + " b")] {
            let encoded = try encode(content, .init(format: .plain))
            #expect(!encoded.marked(.marks).unicodeScalars.contains(where: acts))
            let ours = encoded.marked(.ansi).replacing("\u{1B}[32m", with: "").replacing("\u{1B}[0m", with: "")
            #expect(!ours.unicodeScalars.contains(where: acts))
            // JSON lines keep the value.
            let json = encoded.json(try tinyTokenizer.get())
            let shown = escapedForDisplay(json: json.serialized())
            #expect(!shown.unicodeScalars.contains(where: acts))
            #expect(try JSONValue.parse(shown) == json)
        }
        // In messages: a bad row's, a file's, a column's.
        let error = #expect(throws: BadRow.self) {
            try DataRow(
                parsing: ["messages": [["role": .string(text), "content": "a"]]], as: .chat,
                location: RowLocation(file: text, unit: .line, number: 1))
        }
        #expect(
            error?.message.contains("line 1") == true && error?.message.unicodeScalars.contains(where: acts) == false)
    }

    @Test func json() throws {
        let encoded = try encode(.completion(prompt: "Sum", completion: "3"), .init(format: .chat))
        let json = encoded.json(try tinyTokenizer.get())
        #expect(json["text"]?.string == encoded.text)
        #expect(json["tokens"]?.array?.last == "Ċ")
        #expect(json["ids"]?.array?.count == json["trained"]?.array?.count)
        #expect(json["trained_tokens"] == 2)
        #expect(json["source"] == "a.jsonl line 1")
    }
}
