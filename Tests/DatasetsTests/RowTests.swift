// Every kind of row from every kind of file, column maps, duplicates, round trip.
import Datasets
import Diagnostics
import Formats
import Testing

private let ask = ChatMessage(role: .user, content: "2+3?")
private let answer = ChatMessage(role: .assistant, content: "5")
private let chat = RowContent.chat([ask, answer], tools: [])

private func contents(_ rows: Rows) throws -> [RowContent] { try rows.indices.map { try rows[$0].content } }

private func rows(_ folder: TemporaryFolder, _ name: String, _ text: String) throws -> Rows {
    try Rows(DataSource([try folder.file(name, text)], name: "data.train"))
}

struct RowKindTests {
    static let lines: [(String, RowKind, RowContent)] = [
        (#"{"messages":[{"role":"user","content":"2+3?"},{"role":"assistant","content":"5"}]}"#, .chat, chat),
        (
            #"{"messages":[{"role":"user","content":[{"type":"text","text":"2"},{"type":"text","text":"+3?"}]},"#
                + #"{"role":"assistant","content":"5","weight":0},{"role":"user","content":"2+3?"},"#
                + #"{"role":"assistant","content":"5","masked":false}],"tools":[{"type":"function"}]}"#,
            .chat,
            .chat(
                [
                    ask, ChatMessage(role: .assistant, content: "5", trained: false), ask,
                    ChatMessage(role: .assistant, content: "5", trained: true),
                ], tools: [["type": "function"]])
        ),
        (
            #"{"conversations":[{"from":"system","value":"Sum."},{"from":"human","value":"2+3?"},"#
                + #"{"from":"gpt","value":"5"}]}"#,
            .conversations, .chat([ChatMessage(role: .system, content: "Sum."), ask, answer], tools: [])
        ),
        (
            #"{"instruction":"Add.","input":"2+3","output":"5"}"#, .instruction,
            .instruction(system: nil, instruction: "Add.", input: "2+3", output: "5")
        ),
        (
            #"{"instruction":"Add.","output":"5"}"#, .instruction,
            .instruction(system: nil, instruction: "Add.", input: "", output: "5")
        ),
        (#"{"prompt":"2+3=","completion":"5"}"#, .promptCompletion, .completion(prompt: "2+3=", completion: "5")),
        (
            #"{"prompt":[{"role":"user","content":"2+3?"}],"completion":[{"role":"assistant","content":"5"}]}"#,
            .promptCompletion,
            .chat([ChatMessage(role: .user, content: "2+3?", trained: false), answer], tools: [])
        ),
        (
            #"{"input":[{"role":"system","content":"Sum."},{"role":"user","content":"2+3?"}],"ideal":["5","five"]}"#,
            .evals,
            .chat(
                [
                    ChatMessage(role: .system, content: "Sum.", trained: false),
                    ChatMessage(role: .user, content: "2+3?", trained: false), answer,
                ], tools: [])
        ),
        (#"{"input":"2+3?","ideal":"5"}"#, .evals, chat),
        (#"{"text":"Call me Ishmael."}"#, .text, .text("Call me Ishmael.")),
    ]

    @Test(arguments: 0..<lines.count)
    func recognised(_ i: Int) throws {
        let (line, kind, content) = Self.lines[i], folder = try TemporaryFolder()
        for (name, text) in [("a.jsonl", "\n" + line + "\r\n"), ("a.json", "[\(line)]"), ("b.json", line), ("c", line)]
        {
            let rows = try rows(folder, name, text)
            #expect(rows.fileDescriptions[0].kind == kind)
            #expect(try contents(rows) == [content], "\(name)")
            #expect(rows.warnings.isEmpty)
        }
    }

    @Test(arguments: 0..<lines.count)
    func roundTrip(_ i: Int) throws {
        let folder = try TemporaryFolder()
        let read = try rows(folder, "a.jsonl", Self.lines[i].0)
        let again = try rows(folder, "b.jsonl", read.indices.map { try read[$0].jsonLine }.joined())
        #expect(try contents(again) == contents(read))
    }

    @Test func shareGPTToolTurns() throws {
        let line =
            #"{"conversations":[{"from":"human","value":"Rain?"},"#
            + #"{"from":"function_call","value":"{\"name\":\"sky\",\"arguments\":{\"at\":1}}"},"#
            + #"{"from":"observation","value":"wet"},{"from":"gpt","value":"Yes."}],"tools":"[{\"name\":\"sky\"}]"}"#
        let rows = try rows(try TemporaryFolder(), "a.jsonl", line)
        guard case .chat(let messages, let tools) = try rows[0].content else { return #expect(Bool(false)) }
        #expect(messages.map(\.role) == [.user, .assistant, .tool, .assistant])
        #expect(messages[1].fields["tool_calls"]?.array?[0]["function"]?["name"] == "sky")
        #expect(tools == [["name": "sky"]])
    }
}

struct FileFormatTests {
    @Test func csv() throws {
        let text = "\u{FEFF}instruction,input,output\r\n\"Say \"\"hi\"\",\ntwice\",,hi hi\r\n\r\nAdd,2\" 3,5"
        let rows = try rows(try TemporaryFolder(), "a.csv", text)
        #expect(
            try contents(rows) == [
                .instruction(system: nil, instruction: "Say \"hi\",\ntwice", input: "", output: "hi hi"),
                .instruction(system: nil, instruction: "Add", input: "2\" 3", output: "5"),
            ])
        // The line that its record begins in.
        #expect(rows.location(1).description.hasSuffix("a.csv line 5"))
    }

    /// What pandas and spreadsheets put before the columns.
    @Test func firstColumnWithoutAName() throws {
        let rows = try rows(try TemporaryFolder(), "a.csv", ",prompt,completion\n0,a,b\n1,c,d\n")
        #expect(
            try contents(rows) == [
                .completion(prompt: "a", completion: "b"), .completion(prompt: "c", completion: "d"),
            ])
        #expect(rows.warnings.count == 1 && rows.warnings[0].contains("column \"\" is not used"))
    }

    @Test func tsvWithMessagesAsJSON() throws {
        let text =
            "messages\tid\n"
            + #""[{""role"":""user"",""content"":""2+3?""},{""role"":""assistant"",""content"":""5""}]""#
            + "\t1\n"
        let rows = try rows(try TemporaryFolder(), "a.tsv", text)
        #expect(try contents(rows) == [chat])
        #expect(rows.warnings.count == 1)
    }

    @Test(arguments: [(TextUnit.file, 1), (.line, 3), (.paragraph, 2)])
    func text(_ unit: TextUnit, _ documents: Int) throws {
        let folder = try TemporaryFolder()
        let path = try folder.file("a.txt", "one\ntwo\n\n\nthree\n")
        let rows = try Rows(DataSource([path], textUnit: unit))
        #expect(rows.count == documents)
        if unit == .paragraph { #expect(try contents(rows) == [.text("one\ntwo"), .text("three")]) }
    }

    @Test func folderTakesDataBeforeText() throws {
        let folder = try TemporaryFolder()
        _ = try folder.file("README.md", "About")
        #expect(try contents(Rows(DataSource([folder.path]))) == [.text("About")])
        _ = try folder.file("b.jsonl", #"{"text":"b"}"#)
        _ = try folder.file("a.csv", "text\na\n")
        _ = try folder.file(".hidden.jsonl", "broken")
        #expect(try contents(Rows(DataSource([folder.path]))) == [.text("a"), .text("b")])
    }

    @Test func foldersInAFolderAreTold() throws {
        let folder = try TemporaryFolder()
        for name in ["old", ".git"] { try makeFolder(folder, name) }
        for name in ["a", "old/b"] { _ = try folder.file("\(name).jsonl", "{\"text\":\"\(name)\"}") }
        let rows = try Rows(DataSource([folder.path], name: "data.train"))
        #expect(try contents(rows) == [.text("a")])
        let remark = "its own folders \"old\" are not read; give them as data, too, or name a split"
        #expect(rows.warnings == ["data.train: \(folder.path): \(remark)"])
        #expect(try Rows(DataSource([folder.path], split: "a")).warnings.isEmpty)
        #expect(try Rows(DataSource(["\(folder.path)/old"])).warnings.isEmpty)
    }

    @Test func arrayElementsMaySpanLinesAndHoldBrackets() throws {
        let rows = try rows(
            try TemporaryFolder(), "a.json", "[\n {\"text\": \"a ] , \\\" }\"},\n\n{\"text\":\n\"b\"}\n]\n")
        #expect(try contents(rows) == [.text("a ] , \" }"), .text("b")])
    }
}

struct ColumnTests {
    @Test func columnMapRenames() throws {
        let folder = try TemporaryFolder()
        let path = try folder.file("a.jsonl", #"{"question":"2+3?","ok":[],"reply":"5"}"# + "\n")
        let rows = try Rows(DataSource([path], name: "data.train", columnMap: ["input": "question", "ideal": "reply"]))
        #expect(try contents(rows) == [chat])
        #expect(
            rows.warnings.map { withoutFolder($0, folder) }
                == [#"data.train: column "ok" is not used (first in a.jsonl line 1)"#])
    }

    /// As in Python, whose programs wrote the file; but it is told, as what is lost may have been meant.
    @Test(arguments: [
        ("a.jsonl", #"{"text":"a","text":"b"}"# + "\n" + #"{"text":"c","text":"d"}"#, "line"),
        ("a.json", #"[{"text":"a","\u0074ext":"b"},{"text":"d"}]"#, "row"),
    ])
    func ofAKeyThatAppearsTwiceTheLastValueCounts(_ name: String, _ content: String, _ unit: String) throws {
        let folder = try TemporaryFolder()
        let rows = try rows(folder, name, content)
        #expect(try contents(rows) == [.text("b"), .text("d")])
        let place = "(first in \(name) \(unit) 1)"
        #expect(
            rows.warnings.map { withoutFolder($0, folder) }
                == [#"data.train: key "text" appears twice in an object, and the last counts \#(place)"#])
    }

    @Test func soItIsInsideOfARow() throws {
        let rows = try rows(
            try TemporaryFolder(), "a.jsonl",
            #"{"messages":[{"role":"user","content":"a"},{"role":"user","role":"assistant","content":"b"}]}"#)
        #expect(rows.warnings.count == 1 && rows.count == 1)
    }

    @Test(arguments: [
        (
            ["mesages": "chat"],
            #"data.train: column_map: "mesages" is not a field of any kind of row; did you mean messages?"#
        ),
        (["text": "boddy"], #"data.train: a.jsonl: column_map text=boddy: no such column; did you mean "body"?"#),
    ])
    func wrongMaps(_ map: [String: String], _ message: String) throws {
        let folder = try TemporaryFolder()
        let path = try folder.file("a.jsonl", #"{"body":"x"}"#)
        let error = #expect(throws: UserError.self) {
            try Rows(DataSource([path], name: "data.train", kind: .text, columnMap: map))
        }
        #expect(withoutFolder(error?.message ?? "", folder) == message)
    }

    @Test func duplicatesGo() throws {
        let folder = try TemporaryFolder()
        let path = try folder.file("a.jsonl", "{\"text\":\"é\"}\n{\"text\": \"\\u00e9\"}\n{\"text\":\"e\u{301}\"}\n")
        let rows = try Rows(DataSource([path], deduplicate: true))
        #expect(rows.count == 2)  // the decomposed spelling has other tokens
        #expect(rows.statistics.duplicates == 1)
        #expect(try Rows(DataSource([path])).count == 3)
    }

    @Test func fingerprintFollowsBytes() throws {
        let folder = try TemporaryFolder()
        let source = DataSource([try folder.file("a.txt", "abc")])
        let before = try DataFingerprint(source)
        // FIPS 180-2, B.1
        #expect(before.files[0].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        _ = try folder.file("a.txt", "abd")
        #expect(try DataFingerprint(source).sha256 != before.sha256)
    }
}
