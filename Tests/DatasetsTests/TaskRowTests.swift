// Rows of tasks that are not imitation: each kind read, written and read again; each fault with its own line.
import Datasets
import Diagnostics
import Formats
import Testing

private func user(_ text: String) -> ChatMessage { ChatMessage(role: .user, content: text) }
private func assistant(_ text: String) -> ChatMessage { ChatMessage(role: .assistant, content: text) }

private func object(_ value: JSONValue) -> JSONObject { value.object ?? JSONObject() }

private let hi = user("Hi")

private let lines: [(String, TaskRow)] = [
    (
        #"{"chosen":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello!"}],"#
            + #""rejected":[{"role":"user","content":"Hi"},{"role":"assistant","content":"No."}]}"#,
        .preference(prompt: [hi], chosen: [assistant("Hello!")], rejected: [assistant("No.")], tools: [])
    ),
    (
        #"{"prompt":"Hi","chosen":"Hello!","rejected":"No."}"#,
        .preference(prompt: [hi], chosen: [assistant("Hello!")], rejected: [assistant("No.")], tools: [])
    ),
    (
        #"{"prompt":"Hi","text":"Hello!","rejected_text":"No."}"#,
        .preference(prompt: [hi], chosen: [assistant("Hello!")], rejected: [assistant("No.")], tools: [])
    ),
    (
        #"{"prompt":"Hi","completion":"Hello!","label":true}"#,
        .unpaired(prompt: [hi], completion: [assistant("Hello!")], isGood: true)
    ),
    (
        #"{"messages":[{"role":"user","content":"12+7?"}],"ground_truth":"19","dataset":"gsm8k"}"#,
        .rlvr(prompt: [user("12+7?")], groundTruths: ["19"], verifiers: ["gsm8k"], tools: [], environment: nil)
    ),
    (
        #"{"prompt":"12+7?","ground_truth":["19","[{\"instruction_id\":[\"punctuation:no_comma\"],\"kwargs\":[{}]}]"],"#
            + #""dataset":["gsm8k","ifeval"],"tools":[{"type":"function"}],"env_config":{"name":"counter"}}"#,
        .rlvr(
            prompt: [user("12+7?")],
            groundTruths: ["19", #"[{"instruction_id":["punctuation:no_comma"],"kwargs":[{}]}]"#],
            verifiers: ["gsm8k", "ifeval"], tools: [["type": "function"]], environment: ["name": "counter"])
    ),
    (#"{"completion":"Hello!","score":0.5}"#, .scored(prompt: [], completion: "Hello!", scores: [0.5])),
    (
        #"{"prompt":"Hi","completion":"Hello!","score_1":1,"score_2":"0.25"}"#,
        .scored(prompt: [hi], completion: "Hello!", scores: [1, 0.25])
    ),
    (#"{"text":"Fine.","target":"good"}"#, .columns(.classification, object(["text": "Fine.", "target": "good"]))),
    (
        #"{"tokens":["New","York"],"tags":["B","I"]}"#,
        .columns(.tagging, object(["tokens": ["New", "York"], "tags": ["B", "I"]]))
    ),
    (
        #"{"context":"É red.","question":"What?","answers":{"text":["red"],"answer_start":[2]}}"#,
        .columns(
            .questionAnswering,
            object(["context": "É red.", "question": "What?", "answers": ["text": ["red"], "answer_start": [2]]]))
    ),
    (
        #"{"sentence1":"a","sentence2":"b","target":1}"#,
        .columns(.sentencePairs, object(["sentence1": "a", "sentence2": "b", "target": 1]))
    ),
    (
        #"{"age":3,"colour":"red","target":1.5}"#,
        .columns(.tabular, object(["age": 3, "colour": "red", "target": 1.5]))
    ),
]

private func read(_ path: String, policy: BadRowPolicy = .stop) throws -> Rows {
    try Rows(DataSource([path], name: "data.train", badRows: policy, takesEveryKind: true))
}

struct TaskRowTests {
    @Test(arguments: lines)
    func readsWritesReads(_ line: String, _ expected: TaskRow) throws {
        let folder = try TemporaryFolder()
        let row = try read(try folder.file("a.jsonl", line + "\n"))[0]
        #expect(row.content == .task(expected))
        let again = try read(try folder.file("b.jsonl", row.jsonLine))
        #expect(try again[0].content == row.content, "\(row.jsonLine)")
        #expect(again.warnings.isEmpty)
    }

    /// What both conversations begin with is the prompt, however many turns that are, given on its own too or not.
    @Test func theSharedBeginningIsThePrompt() throws {
        let folder = try TemporaryFolder()
        var random = SeededGenerator(11)
        func talk(_ turns: Int, _ name: String) -> [ChatMessage] {
            (0..<turns).map { $0 % 2 == 0 ? assistant("\(name) \($0)") : user("\(name) \($0)") }
        }
        func json(_ turns: [ChatMessage]) -> String {
            let turns = turns.map { #"{"role":"\#($0.role.rawValue)","content":"\#($0.content)"}"# }
            return "[\(turns.joined(separator: ","))]"
        }
        for round in 0..<60 {
            var prompt = [user("q")] + talk(2 * Int.random(in: 0...3, using: &random), "shared")
            if round % 3 == 0 { prompt.insert(ChatMessage(role: .system, content: "s"), at: 0) }
            // An odd number of turns of which the last is the assistant's; later equal turns are not shared.
            let end = [user("same"), assistant("same")]
            let chosen = talk(1 + 2 * Int.random(in: 0...2, using: &random), "good") + end
            let rejected = talk(1 + 2 * Int.random(in: 0...2, using: &random), "bad") + end
            let given = round % 2 == 0 ? "" : #""prompt":\#(json(prompt)),"#
            let line = #"{\#(given)"chosen":\#(json(prompt + chosen)),"rejected":\#(json(prompt + rejected))}"#
            let row = try read(try folder.file("\(round).jsonl", line + "\n"))[0]
            #expect(
                row.content == .task(.preference(prompt: prompt, chosen: chosen, rejected: rejected, tools: [])),
                "\(line)")
        }
    }

    /// Turns that differ in anything but their text are not shared: then there is no prompt.
    @Test func turnsWithOtherFieldsAreNotShared() throws {
        let folder = try TemporaryFolder()
        func line(_ first: String) -> String {
            #"{"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"rejected":[\#(first),"#
                + #"{"role":"assistant","content":"b"}]}"# + "\n"
        }
        _ = try read(try folder.file("a.jsonl", line(#"{"role":"user","content":"q"}"#)))
        let others = [
            #"{"role":"user","content":"q "}"#, #"{"role":"system","content":"q"}"#,
            #"{"role":"user","content":"q","name":"Ann"}"#,
        ]
        for (i, first) in others.enumerated() {
            let path = try folder.file("\(i).jsonl", line(first))
            #expect(throws: BadRow.self, "\(first)") { try read(path) }
        }
    }

    @Test func csvSpellsListsAsJSON() throws {
        let folder = try TemporaryFolder()
        let path = try folder.file(
            "a.csv",
            "prompt;ground_truth;dataset\n12+7?;\"[\"\"19\"\",\"\"x\"\"]\";\"[\"\"gsm8k\"\",\"\"math\"\"]\"\n7?;[1];code\n"
        )
        let rows = try read(path)
        let contents = try rows.indices.map { try rows[$0].content }
        #expect(
            contents == [
                .task(
                    .rlvr(
                        prompt: [user("12+7?")], groundTruths: ["19", "x"], verifiers: ["gsm8k", "math"], tools: [],
                        environment: nil)),
                .task(
                    .rlvr(
                        prompt: [user("7?")], groundTruths: ["[1]"], verifiers: ["code"], tools: [], environment: nil)),
            ])
    }

    @Test(arguments: [
        (
            #"{"chosen":"a","rejected":"b"}"#, BadRowReason.noPrompt,
            #""chosen" and "rejected" share no first turn and there is no prompt"#
        ),
        (
            #"{"prompt":"q","chosen":"a","rejected":"a"}"#, .sameAnswers,
            #""chosen" and "rejected" are equal, so neither is preferred"#
        ),
        (
            #"{"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"#
                + #""rejected":[{"role":"user","content":"q"}]}"#, .sameAnswers,
            #""chosen" only goes on where the other ends"#
        ),
        (
            #"{"prompt":"q","chosen":[{"role":"user","content":"a"}],"rejected":"b"}"#, .noAssistant,
            #""chosen" has no assistant turn, so there is nothing to learn"#
        ),
        (
            #"{"prompt":"q","completion":"a","label":true}"# + "\n"
                + #"{"prompt":"q","completion":"a","label":"maybe"}"#,
            .badLabel, #""label" is neither true nor false (nor 1 nor 0)"#
        ),
        (
            #"{"ground_truth":"1","dataset":"gsm8k"}"#, .noPrompt,
            #"has neither "messages" nor "prompt", so nothing is asked"#
        ),
        (
            #"{"prompt":"q","ground_truth":["1"],"dataset":["a","b"]}"#, .unevenLists,
            #"1 ground truth for 2 verifiers in "dataset"; each has its own"#
        ),
        (
            #"{"prompt":"q","ground_truth":[1],"dataset":["a"]}"#, .wrongType,
            #""ground_truth" holds a number, not a string"#
        ),
        (
            #"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"ground_truth":"1","#
                + #""dataset":"a"}"#, .wrongType, #""messages" ends with the assistant; the model is to answer"#
        ),
        (
            #"{"completion":"a","score":1}"# + "\n" + #"{"completion":"a","score":"high"}"#, .badScore,
            #""score" is "high", not a number"#
        ),
        (#"{"tokens":["a","b"],"tags":["O"]}"#, .unevenLists, "2 tokens and 1 tag"),
        (#"{"tokens":["a"],"tags":[{}]}"#, .badLabel, #""tags" holds an object, not a tag"#),
        (#"{"text":"a","target":[1]}"#, .badLabel, #""target" is a list, not a label or a number"#),
        (
            #"{"context":"It is red.","question":"q","answers":{"text":["red"],"answer_start":[5]}}"#, .notInContext,
            #""answers": "red" does not stand at 5 of the context"#
        ),
        (
            #"{"context":"It is red.","question":"q","answers":"red"}"#, .wrongType,
            #""answers" is not of the form {"text": [...], "answer_start": [...]}"#
        ),
        (#"{"sentence1":"a","sentence2":" "}"#, .empty, #""sentence2" is empty"#),
        (#"{"target":1}"#, .missingKey, "has a target and no other column to tell it from"),
        (
            #"{"age":[1],"target":1}"#, .wrongType, #""age" is a list; a table holds texts, numbers and truth values"#
        ),
    ])
    func faultsAreNamed(_ lines: String, _ reason: BadRowReason, _ detail: String) throws {
        let folder = try TemporaryFolder()
        let path = try folder.file("a.jsonl", lines)
        let error = #expect(throws: BadRow.self) { try read(path) }
        #expect(error?.reason == reason && error?.detail == detail, "\(error?.message ?? "")")
    }

    @Test func trainingRefusesThem() throws {
        let folder = try TemporaryFolder()
        let path = try folder.file("a.jsonl", lines[0].0)
        let error = #expect(throws: UserError.self) { try Rows(DataSource([path], name: "data.train")) }
        #expect(
            withoutFolder(error?.message ?? "", folder)
                == "data.train: a.jsonl: rows of kind preference cannot be imitated; "
                + "`needletail data convert --to chat` makes chats of the chosen answers")
    }

    /// A label that is no truth value and a score that is no number stand beside prompts for other reasons.
    @Test func labelsAndScoresOfOtherKindsAreUnused() throws {
        let folder = try TemporaryFolder()
        let path = try folder.file("a.jsonl", #"{"prompt":"q","completion":"a","label":"news","score":"A+"}"#)
        let rows = try Rows(DataSource([path]))
        #expect(try rows[0].content == .completion(prompt: "q", completion: "a"))
        #expect(rows.warnings.count == 2)
    }
}

struct PackedFileTests {
    @Test(arguments: ["rows.jsonl.gz", "members.jsonl.gz", "rows.jsonl.zst", "frames.jsonl.zst"])
    func unpacks(_ name: String) throws {
        let folder = try TemporaryFolder()
        let path = try folder.file(name, try fixtureBytes(name))
        let rows = try Rows(DataSource([path]))
        #expect(try rows.indices.map { try rows[$0].content } == [.text("one"), .text("two")])
        #expect(withoutFolder("\(rows.location(1))", folder) == "\(name) line 2")
        let nameless = try Rows(DataSource([try folder.file("rows", try fixtureBytes(name))]))
        #expect(nameless.count == 2)
    }

    @Test func packedCSVInAFolder() throws {
        let folder = try TemporaryFolder()
        _ = try folder.file("columns.csv.gz", try fixtureBytes("columns.csv.gz"))
        let rows = try Rows(DataSource([folder.path]))
        #expect(try rows[0].content == .completion(prompt: "1,5?", completion: "a\nb"))
    }

    @Test(arguments: ["rows.jsonl.gz", "rows.jsonl.zst"])
    func damageIsNamed(_ name: String) throws {
        let folder = try TemporaryFolder(), bytes = try fixtureBytes(name),
            kind = name.hasSuffix("gz") ? "gzip" : "zstd"
        let cut = try folder.file(name, Array(bytes.dropLast(9)))
        let short = #expect(throws: UserError.self) { try Rows(DataSource([cut])) }
        #expect(
            withoutFolder(short?.message ?? "", folder)
                == "\(name): the \(kind)-compressed data ends too early; get the file again")
        var damaged = bytes
        damaged[bytes.count / 2] ^= 0xFF
        damaged[bytes.count / 2 + 1] ^= 0xFF
        let path = try folder.file(name, damaged)
        // Bytes that zstd leaves as they are have no checksum in this file: the row is what is wrong then.
        let error = #expect(throws: (any Error).self) { try Rows(DataSource([path])) }
        #expect((error as? any UserFacing)?.message.contains(name) == true)
    }

    /// Each is known by its first bytes, whatever its name says, and the message names what unpacks it.
    @Test(arguments: [
        (Array("PK\u{3}\u{4}".utf8), 0, "a zip archive (or a spreadsheet); unpack it with unzip, or export the sheet"),
        (Array("PK\u{5}\u{6}".utf8), 0, "a zip archive with nothing in it"),
        (Array("ustar\0".utf8), 257, "a tar archive; unpack it with tar -xf and give its files or folder"),
        (Array("ustar  \0".utf8), 257, "a tar archive; unpack it with tar -xf and give its files or folder"),
        (Array("BZh91AY&SY".utf8), 0, "bzip2-compressed; unpack it with bunzip2"),
        ([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0], 0, "xz-compressed; unpack it with unxz"),
        ([0x37, 0x7A, 0xBC, 0xAF, 0x27, 0x1C], 0, "a 7-Zip archive; unpack it with 7z x"),
        (Array("Rar!\u{1A}\u{7}".utf8), 0, "a RAR archive; unpack it with unrar x"),
        ([0x04, 0x22, 0x4D, 0x18], 0, "lz4-compressed; unpack it with unlz4"),
    ]) func archivesAreNamed(_ magic: [UInt8], _ offset: Int, _ kind: String) throws {
        let folder = try TemporaryFolder()
        let content = Array(repeating: UInt8(ascii: "a"), count: offset) + magic + Array(repeating: 7, count: 600)
        for name in ["a.jsonl", "a.csv", "a.xyz", "a"] {
            let path = try folder.file(name, content)
            let error = #expect(throws: UserError.self) { try Rows(DataSource([path])) }
            #expect(
                withoutFolder(error?.message ?? "", folder)
                    == "\(name): is \(kind); give Parquet, Arrow, JSONL, JSON, CSV or text")
        }
    }

    /// A zstd frame of `count` blocks of 128 KiB, of one byte each.
    private func bomb(_ count: Int, of byte: UInt8) -> [UInt8] {
        let (magic, descriptor, window): ([UInt8], UInt8, UInt8) = ([0x28, 0xB5, 0x2F, 0xFD], 0, 7 << 3)
        return magic + [descriptor, window]
            + (0..<count).flatMap { i -> [UInt8] in
                let header = 1 << 20 | 1 << 1 | (i == count - 1 ? 1 : 0)
                return [UInt8(header & 255), UInt8(header >> 8 & 255), UInt8(header >> 16), byte]
            }
    }

    /// 32 KiB that would be a gigabyte, or a terabyte; nothing after the line's 64 MiB is unpacked.
    @Test(arguments: ["a.jsonl.zst", "a.csv.zst", "a.txt.zst", "a.zst"])
    func anEndlessLineIsKnownBeforeItFillsTheDisk(_ name: String) throws {
        let folder = try TemporaryFolder()
        let path = try folder.file(name, bomb(8192, of: UInt8(ascii: "x")))
        let error = #expect(throws: UserError.self) { try Rows(DataSource([path])) }
        #expect(
            withoutFolder(error?.message ?? "", folder)
                == "\(name): line 1 of what is packed in it is longer than 64 MiB")
        // Half of that is no line too long, only no row.
        let short = try folder.file(name, bomb(256, of: UInt8(ascii: "x")))
        let other = #expect(throws: (any Error).self) { try Rows(DataSource([short], kind: .rlvr)) }
        #expect((other as? any UserFacing)?.message.contains("longer than") == false)
    }

    @Test func packedTwice() throws {
        let folder = try TemporaryFolder()
        let path = try folder.file("a.gz", try fixtureBytes("twice.gz"))
        let error = #expect(throws: UserError.self) { try Rows(DataSource([path])) }
        #expect(
            withoutFolder(error?.message ?? "", folder)
                == "a.gz: is packed twice; unpack it first; give Parquet, Arrow, JSONL, JSON, CSV or text")
    }
}

struct SeparatorTests {
    @Test(arguments: [
        ("prompt,completion\na;b,c\n", "a;b", "c"), ("prompt;completion\na,b;c\n", "a,b", "c"),
        ("prompt\tcompletion\na,b\tc\n", "a,b", "c"), ("prompt|completion\r\na|c\r\n", "a", "c"),
        ("\u{FEFF}prompt;completion\n\"a\n;;;\";c\n", "a\n;;;", "c"),
    ])
    func isFound(_ text: String, _ prompt: String, _ completion: String) throws {
        let folder = try TemporaryFolder()
        let rows = try Rows(DataSource([try folder.file("a.csv", text)]))
        #expect(try rows[0].content == .completion(prompt: prompt, completion: completion))
    }
}

struct SplitFilesTests {
    private func texts(_ folder: TemporaryFolder, _ split: String) throws -> [RowContent] {
        let rows = try Rows(DataSource([folder.path], name: "data.train", split: split))
        return try rows.indices.map { try rows[$0].content }
    }

    @Test func filesOfASplit() throws {
        let folder = try TemporaryFolder()
        for (name, text) in [
            ("train-00000-of-00002.jsonl", "a"), ("train-00001-of-00002.jsonl", "b"), ("training.jsonl", "x"),
            ("test.jsonl", "c"),
        ] { _ = try folder.file(name, "{\"text\":\"\(text)\"}\n") }
        try makeFolder(folder, "main/data")
        _ = try folder.file("main/data/validation.csv", "text\nd\n")
        try makeFolder(folder, "extra/test")
        _ = try folder.file("extra/test/rows.jsonl", "{\"text\":\"e\"}\n")
        #expect(try texts(folder, "train") == [.text("a"), .text("b")])
        #expect(try texts(folder, "test") == [.text("c")])
        #expect(try texts(folder, "main:validation") == [.text("d")])
        #expect(try texts(folder, "extra:test") == [.text("e")])
        let error = #expect(throws: UserError.self) { try texts(folder, "dev") }
        #expect(error?.message.contains(#"no files of the split "dev"; found "test.jsonl""#) == true)
        let file = try folder.file("a.jsonl", #"{"text":"a"}"#)
        let idle = #expect(throws: UserError.self) { try Rows(DataSource([file], split: "train")) }
        #expect(idle?.message == #"split "train" has no effect, as no folder is given; remove it"#)
    }
}
