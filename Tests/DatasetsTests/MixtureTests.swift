// Amounts of a mixture, steps of a pipeline, conversions, and questions of test sets in training rows.
import Datasets
import Diagnostics
import Formats
import Testing

struct MixtureTests {
    @Test func amountsTakeAsManyAsOpenInstruct() throws {
        let cases = try #require(try fixture("mixture.json").array)
        #expect(cases.count == 35)
        for one in cases {
            let amount = try MixAmount(try #require(one["amount"]?.string))
            #expect(amount.taken(of: one["rows"]!.int!) == one["taken"]?.int, "\(one)")
        }
    }

    @Test func wholeCopiesAndARandomRestWithoutReplacement() throws {
        let source = Array(100..<200)
        let mixture = try Mixture([source, [7, 8]], [.share(2.5), .rows(1)], names: ["a", "b"])
        #expect(mixture.rows.count == 251)
        #expect(Array(mixture.rows[..<100]) == source && Array(mixture.rows[100..<200]) == source)
        let rest = mixture.rows[200..<250]
        #expect(Set(rest).count == 50 && rest.sorted() == Array(rest) && Array(rest) != Array(100..<150))
        #expect([7, 8].contains(mixture.rows[250]))
        #expect(mixture.parts == [.init(rows: 100, taken: 250), .init(rows: 2, taken: 1)])
        #expect(try Mixture([source], [.share(0.5)], names: ["a"]).rows.sorted() == Array(rest))
        #expect(try Mixture([source], [.share(0.5)], seed: 43, names: ["a"]).rows != Array(rest))
    }

    @Test func smallNumbersOfLargeSetsAreWarnedOf() throws {
        let many = Array(0..<101)
        #expect(
            try Mixture([many], [.rows(1)], names: ["data.mix[0]"]).warnings
                == ["data.mix[0]: 1 is 1 row of 101; for all of them write 1.0"])
        #expect(try Mixture([many], [.rows(11)], names: ["a"]).warnings.isEmpty)
        #expect(try Mixture([Array(0..<100)], [.rows(1)], names: ["a"]).warnings.isEmpty)
        #expect(try Mixture([many], [.share(1)], names: ["a"]).warnings.isEmpty)
    }

    @Test(arguments: ["", "half", "-1", "-0.5", "1e3", "0.5x", "nan."])
    func wrongAmounts(_ text: String) {
        let error = #expect(throws: UserError.self) { try MixAmount(text, source: "data.mix[1]") }
        #expect(error?.message.hasPrefix("data.mix[1]: ") == true && error?.exitStatus == .usage)
    }
}

private let dialogue = RowContent.chat(
    [
        ChatMessage(role: .system, content: "Be brief."), ChatMessage(role: .user, content: " In March 2024? "),
        ChatMessage(role: .assistant, content: "one two one two one two"),
        ChatMessage(role: .user, content: "Go on."), ChatMessage(role: .assistant, content: "three"),
    ], tools: [])

struct TransformTests {
    /// Through a file, as rows come: nil is a row that was left out.
    private func outcome(_ content: RowContent, _ steps: String...) throws -> RowContent? {
        let folder = try TemporaryFolder()
        let line = DataRow(content, location: RowLocation(file: "", unit: .line, number: 1)).jsonLine
        let source = DataSource(
            [try folder.file("a.jsonl", line)], takesEveryKind: true, transforms: try steps.map { try RowTransform($0) }
        )
        do {
            let rows = try Rows(source)
            #expect(rows.statistics.sources == [.init(rowsIn: 1, rowsOut: 1)])
            return try rows[0].content
        } catch let error as UserError {
            #expect(error.message.hasPrefix("all rows dropped: filtered 1; first: "))
            return nil
        }
    }

    @Test(arguments: [
        ("characters:min=20", true), ("characters:min=70", false), ("characters:max=60", true), ("words:max=9", false),
        ("words:min=14,max=14", true), ("turns:min=5", true), ("turns:max=4", false),
        ("keyword:drop=TWO ONE", false), ("keyword:drop=TWO,case=true", true), ("keyword:drop=zzz|three", false),
        ("keyword:keep=three", true), ("has_system", true), ("ngram_repetition:n=2,max=0.5", false),
        ("ngram_repetition:n=2,max=0.7", true), ("ngram_repetition:n=6", true), ("date_cutoff:latest=2024-02", false),
        ("date_cutoff:latest=2024-03", true), ("date_cutoff:latest=2024", true), ("special_tokens", true),
        ("special_tokens:tokens=thr", false),
    ])
    func filters(_ step: String, _ keeps: Bool) throws {
        #expect(try outcome(dialogue, step) == (keeps ? dialogue : nil), "\(step)")
    }

    @Test(arguments: [
        ("On 2024-03-07 it", "2024-03-07"), ("7 March 2024", "2024-03-07"), ("March 7th, 2024", "2024-03-07"),
        ("as of Sept 2021.", "2021-09"), ("in 2023", "2023"), ("the 2048 tokens", nil), ("2024", nil),
        ("version 2024-13", nil), ("mayor 2024", nil),
    ])
    func datesInText(_ text: String, _ date: String?) throws {
        let kept = try outcome(.completion(prompt: text, completion: "x"), "date_cutoff:latest=1900-01-01")
        #expect((kept == nil) == (date != nil))
        if let date {
            #expect(try outcome(.completion(prompt: text, completion: "x"), "date_cutoff:latest=\(date)") != nil)
        }
    }

    @Test(arguments: ["<|im_end|>", "a </s> b", "[INST] hi", "<|start_header_id|>x"])
    func templateTokensAreFound(_ text: String) throws {
        #expect(try outcome(.completion(prompt: "q", completion: text), "special_tokens") == nil)
        #expect(try outcome(.completion(prompt: "q", completion: "a <| b |> c"), "special_tokens") != nil)
    }

    /// Shares of letters alone; digits, marks, blanks and letters that every script uses (ー) count for none.
    @Test(arguments: [
        ("English, 日本!", "name=Latin,min=0.77", true), ("English, 日本!", "name=Latin,min=0.78", false),
        ("English, 日本!", "name=Latin|Han,min=1", true), ("English", "name=Latin", true),
        ("Привет, мир", "name=Latin", false), ("Привет, мир", "name=Cyrillic,min=1", true),
        ("カー", "name=Katakana,min=1", true), ("ひらがな漢字", "name=Han,min=0.33", true),
        ("ひらがな漢字", "name=Han,min=0.34", false), ("naïve e\u{301}", "name=Latin,min=1", true),
        ("हिन्दी", "name=Devanagari,min=1", true), ("2 + 3 = 5?", "name=Latin,min=1", true),
        ("x𒀀", "name=Latin,min=0.5", true), ("x𒀀", "name=Latin,min=0.51", false), ("абвгx", "name=Cyrillic", true),
    ])
    func scripts(_ text: String, _ arguments: String, _ keeps: Bool) throws {
        let row = RowContent.text(text)
        #expect(try outcome(row, "script:\(arguments)") == (keeps ? row : nil))
    }

    @Test func maps() throws {
        guard case .chat(let stripped, _)? = try outcome(dialogue, "strip", "drop_system", "last_turn_only") else {
            Issue.record("the row is gone")
            return
        }
        #expect(stripped.map(\.content) == ["In March 2024?", "one two one two one two", "Go on.", "three"])
        #expect(stripped.map(\.trained) == [false, false, false, true])
        let plain = RowContent.completion(prompt: "q", completion: "a")
        guard case .chat(let turns, _)? = try outcome(plain, #"add_system:text=One\, two."#) else {
            Issue.record("the row is no chat")
            return
        }
        #expect(turns.map(\.content) == ["One, two.", "q", "a"])
        #expect(try outcome(dialogue, "add_system:text=x") == dialogue)
    }

    /// A filter sees what the maps before it made.
    @Test func orderMatters() throws {
        let row = RowContent.completion(prompt: "q   ", completion: "a")
        #expect(try outcome(row, "strip", "characters:min=3") == nil)
        #expect(try outcome(row, "characters:min=3", "strip") == .completion(prompt: "q", completion: "a"))
    }

    @Test(arguments: [
        ("lenght:min=1", #"data.transforms[0]: no transform is named "lenght"; those are"#),
        ("characters", "data.transforms[0]: characters: give min=..., max=... or both"),
        ("keywords:drop=a", #"data.transforms[0]: no transform is named "keywords"; did you mean keyword?"#),
        ("characters:min=x", "data.transforms[0]: characters: min=x is not a number of at least 0"),
        ("characters:min=5,max=4", "data.transforms[0]: characters: min=5 is more than max=4"),
        ("characters:least=4", #"data.transforms[0]: characters: no argument is named "least"; it has min, max"#),
        ("strip:x=1", #"data.transforms[0]: strip: no argument is named "x"; it has none"#),
        ("keyword:drop=a,drop=b", "data.transforms[0]: keyword: drop is given twice"),
        ("script:min=0.5", "data.transforms[0]: script: give name=Latin or another script"),
        ("script:name=Latn", #"data.transforms[0]: script: no script is named "Latn"; did you mean Latin?"#),
        ("script:name=Latin,min=80", "data.transforms[0]: script: min=80.0 is more than 1, which is all letters"),
        ("date_cutoff:latest=soon", "data.transforms[0]: date_cutoff: give latest=YYYY-MM-DD, YYYY-MM or YYYY"),
    ])
    func wrongStepsAreNamed(_ text: String, _ message: String) {
        let error = #expect(throws: UserError.self) { try RowTransform(text, source: "data.transforms[0]") }
        #expect(error?.message.hasPrefix(message) == true, "\(error?.message ?? "")")
        #expect(error?.exitStatus == .usage)
    }

    @Test func stepsAreCountedAndInTheKeyOfTheCache() throws {
        let folder = try TemporaryFolder()
        let path = try folder.file(
            "a.jsonl", (1...9).map { "{\"text\":\"\(String(repeating: "a", count: $0))\"}\n" }.joined())
        let cache = TokenCache(folder: folder.path + "/cache")
        let encoder = try ExampleEncoder(try tinyTokenizer.get(), template: "chatml")
        func counts(_ steps: [String]) throws -> DatasetStatistics {
            let source = DataSource([path], transforms: try steps.map { try RowTransform($0) })
            let made = try EncodedRows(source, encoder, cache: cache),
                kept = try EncodedRows(source, encoder, cache: cache)
            #expect(kept.notes[0].hasPrefix("tokens from the cache"))
            #expect(made.datasetStatistics == kept.datasetStatistics)
            return kept.datasetStatistics
        }
        let statistics = try counts(["characters:min=3", "characters:max=8"])
        #expect(statistics.filtered == ["characters:min=3": 2, "characters:max=8": 1])
        #expect(statistics.rowsKept == 6 && statistics.rowsIn == 9)
        #expect(statistics.json["sources"]?.array?[0]["rows_out"]?.int == 6)
        #expect(try counts([]).rowsKept == 9)
        #expect(try cache.entries().count == 2)
    }
}

struct ConversionTests {
    private func converted(_ line: String, _ kind: RowKind) throws -> JSONObject {
        let folder = try TemporaryFolder()
        let row = try Rows(DataSource([try folder.file("a.jsonl", line)], takesEveryKind: true))[0]
        return try row.json(as: kind)
    }

    @Test(arguments: [
        (
            #"{"instruction":"Add.","input":"2+3","output":"5"}"#, RowKind.chat,
            #"{"messages":[{"role":"user","content":"Add.\n\n2+3"},{"role":"assistant","content":"5"}]}"#
        ),
        (
            #"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#, .promptCompletion,
            #"{"prompt":"q","completion":"a"}"#
        ),
        (
            #"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#,
            .instruction, #"{"system":"s","instruction":"q","input":"","output":"a"}"#
        ),
        (
            #"{"prompt":"q","completion":"a"}"#, .conversations,
            #"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#
        ),
        (
            #"{"prompt":"q","chosen":"a","rejected":"b"}"#, .chat,
            #"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#
        ),
        (
            #"{"prompt":"q","chosen":"a","rejected":"b"}"#, .autotrainPreference,
            #"{"prompt":"q","text":"a","rejected_text":"b"}"#
        ),
        (
            #"{"input":"q","ideal":["a","b"]}"#, .evals,
            #"{"input":[{"role":"user","content":"q"}],"ideal":"a"}"#
        ),
        (
            #"{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},"#
                + #"{"from":"observation","value":"1"},{"from":"gpt","value":"a"}]}"#,
            .conversations,
            #"{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"[{\"name\":\"f\",\"arguments\":{\"x\":1}}]"},"#
                + #"{"from":"observation","value":"1"},{"from":"gpt","value":"a"}]}"#
        ),
    ])
    func kindsBecomeOthers(_ line: String, _ kind: RowKind, _ expected: String) throws {
        #expect(JSONValue.object(try converted(line, kind)) == (try JSONValue.parse(expected)))
    }

    @Test(arguments: [
        (#"{"text":"a"}"#, RowKind.chat, "cannot be written as chat: a document has no turns"),
        (
            #"{"prompt":"q","completion":"a","label":false}"#, .chat,
            "cannot be written as chat: its label says that the completion is bad"
        ),
        (#"{"prompt":"q","completion":"a"}"#, .preference, "cannot be written as preference: it says something else"),
        (
            #"{"messages":[{"role":"assistant","content":"a"}]}"#, .instruction,
            "cannot be written as instruction: it is not one question and one answer"
        ),
    ])
    func othersAreRefused(_ line: String, _ kind: RowKind, _ detail: String) {
        let error = #expect(throws: BadRow.self) { try converted(line, kind) }
        #expect(error?.reason == .notConvertible && error?.detail == detail)
    }

    /// Every format read back gives the same rows; CSV keeps quoted line breaks and lists.
    @Test(arguments: ["jsonl", "json", "csv", "tsv"])
    func formatsRoundTrip(_ ending: String) throws {
        let folder = try TemporaryFolder()
        let rows = [
            dialogue,
            .chat(
                [
                    ChatMessage(role: .user, content: "a,b;\t\"c\"\r\nd"),
                    ChatMessage(role: .assistant, content: "\u{2028}é"),
                ],
                tools: [["type": "function"]]),
        ]
        var text = ""
        let objects = rows.map { DataRow($0, location: RowLocation(file: "", unit: .line, number: 1)) }
        let writer = try RowWriter(try RowWriter.format(path: "a.\(ending)"), columns: ["messages", "tools"]) {
            text += $0
        }
        for row in objects { try writer.append(try row.json(as: nil)) }
        try writer.finish()
        let read = try Rows(DataSource([try folder.file("a.\(ending)", text)]))
        #expect(try read.indices.map { try read[$0].content } == rows)
    }

    @Test func onlyKnownFormatsAreWritten() {
        for name in ["a.txt", "a.parquet", "a", "a.jsonl.gz"] {
            #expect(throws: UserError.self) { try RowWriter.format(path: name) }
        }
    }
}

struct ContaminationTests {
    private static let words = (0..<400).map { "word\($0)" }

    private func sentence(_ length: Int, _ random: inout SeededGenerator) -> [String] {
        (0..<length).map { _ in Self.words.randomElement(using: &random)! }
    }

    /// Ten questions among 10,000 rows: five word by word, five with one word changed; 1,000 other questions are not found.
    @Test func plantedQuestionsAreFound() throws {
        var random = SeededGenerator(3)
        var rows = (0..<10_000).map { _ in sentence(60, &random) }
        let questions = (0..<10).map { _ in sentence(24, &random) }
        var planted: [Int: Int] = [:]
        for (i, question) in questions.enumerated() {
            let row = i * 937 + 11
            var copy = question
            if i >= 5 { copy[3 + i] = "other" }
            rows[row].replaceSubrange(20..<44, with: copy)
            planted[i] = row
        }
        let unrelated = (0..<1_000).map { _ in sentence(24, &random) }
        func content(_ words: [String]) -> RowContent {
            .completion(prompt: words.joined(separator: " "), completion: "x")
        }
        for match in ContaminationMatch.allCases {
            var index = ContaminationIndex(match, n: 8)
            for (i, words) in (questions + unrelated).enumerated() {
                index.add(
                    .completion(prompt: words.joined(separator: ", ").uppercased() + "?", completion: "x"), test: 0,
                    row: i)
            }
            let started = ContinuousClock.now
            let hits = rows.indices.flatMap { index.hits(content(rows[$0]), row: $0) ?? [] }
            #expect(ContinuousClock.now - started < .seconds(60))
            let found = Dictionary(hits.map { ($0.question, $0) }) { first, _ in first }
            #expect(hits.count == (match == .exact ? 5 : 10))
            for i in 0..<10 where match == .ngram || i < 5 {
                #expect(found[i]?.row == planted[i], "question \(i), \(match)")
                // The changed word at 3 + i takes itself and, where fewer than eight words stand before it, those.
                let expected = i < 5 ? 1 : Double(24 - (3 + i < 8 ? 3 + i : 0) - 1) / 24
                #expect(found[i].map { abs($0.score - expected) < 1e-12 } == true, "\(i): \(found[i]?.score ?? 0)")
            }
        }
    }

    @Test func shortQuestionsMatchWholeTurnsOnly() {
        var index = ContaminationIndex(.ngram, n: 8)
        index.add(.completion(prompt: "Who are you?", completion: "x"), test: 0, row: 0)
        #expect(index.hits(.completion(prompt: "who ARE you", completion: "y"), row: 0)?.map(\.score) == [1])
        #expect(index.hits(.completion(prompt: "Tell me who are you", completion: "y"), row: 0) == [])
        let added = index.add(.completion(prompt: "?!", completion: "x"), test: 0, row: 1)
        #expect(!added)
    }

    /// `exact` finds questions of any length inside of a turn.
    @Test func shortQuestionsInside() {
        var index = ContaminationIndex(.exact, n: 8)
        index.add(.completion(prompt: "What is the capital of France?", completion: "x"), test: 0, row: 0)
        index.add(.completion(prompt: "Who?", completion: "x"), test: 0, row: 1)
        func found(_ text: String) -> [Int]? {
            index.hits(.completion(prompt: text, completion: "y"), row: 0)?.map(\.question)
        }
        #expect(found("Answer briefly: what is the capital of France? Thanks") == [0])
        #expect(found("What is the capital of Sweden?") == [] && found("") == [])
        #expect(found("What is the capital of France and who") == [0, 1])
    }

    @Test func answersAreNotLookedAt() {
        var index = ContaminationIndex(.exact, n: 3)
        index.add(.completion(prompt: "one two three four", completion: "x"), test: 0, row: 0)
        #expect(index.hits(.completion(prompt: "q", completion: "one two three four"), row: 0) == [])
        #expect(index.hits(.text("zero one two three four five"), row: 0)?.count == 1)
        let answer = ChatMessage(role: .assistant, content: "one two three four")
        #expect(index.hits(.chat([answer], tools: []), row: 0) == nil, "nothing is asked")
    }
}

struct PackInOrderTests {
    @Test func opensANewPackWhenTheNextDoesNotFit() {
        #expect(packedInOrder(lengths: [3, 4, 2, 9, 1, 7], maxTokens: 8) == [[0, 1], [2], [3], [4, 5]])
        #expect(packedInOrder(lengths: [], maxTokens: 8).isEmpty)
    }
}
