// Rows written in another form lose nothing that the form can say, and what it cannot say is refused.
import Formats
import Testing

@Suite struct DataRoundTripTests {
    private func run(_ command: String, rows: String, _ folder: String) throws -> Outcome {
        try writeFileAtomically(rows, to: joinPath(folder, "a.jsonl"))
        return try shell(command, in: folder)
    }

    private let talk =
        #"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":"r"},"#
        + #"{"role":"assistant","content":"b"}]}"# + "\n"

    @Test func turnsSurviveATable() throws {
        try withTemporaryFolder { folder in
            let outcome = try run(
                "needletail data convert a.jsonl o.csv --to prompt_completion && needletail data convert o.csv - --to chat",
                rows: talk, folder)
            let messages = try JSONValue.parse(outcome.output)["messages"]?.array?.map { $0["content"]?.string }
            #expect(messages == ["q", "a", "r", "b"], "\(outcome)")
        }
    }

    @Test(arguments: [
        (#"{"role":"assistant","content":"a","weight":0}"#, "prompt_completion", #""weight":0"#),
        (#"{"role":"assistant","content":"a","weight":0}"#, "instruction", ""),
        (#"{"role":"assistant","content":"a","weight":0}"#, "evals", ""),
        (#"{"role":"assistant","content":"a","reasoning_content":"why"}"#, "prompt_completion", "why"),
        (#"{"role":"assistant","content":"a","reasoning_content":"why"}"#, "sharegpt", "why"),
        (#"{"role":"assistant","content":"a","reasoning_content":"why"}"#, "instruction", ""),
    ]) func partsOfTurnsAreKeptOrRefused(_ answer: String, _ kind: String, _ kept: String) throws {
        try withTemporaryFolder { folder in
            let row = #"{"messages":[{"role":"user","content":"q"},\#(answer)]}"# + "\n"
            let outcome = try run("needletail data convert a.jsonl - --to \(kind)", rows: row, folder)
            if kept.isEmpty {
                #expect(outcome.status == 65 && outcome.errors.contains("cannot be written as"), "\(outcome)")
            } else {
                #expect(outcome.status == 0 && outcome.output.contains(kept), "\(outcome)")
            }
        }
    }

    @Test func stepsSeeEveryTextAndWholeTokens() throws {
        try withTemporaryFolder { folder in
            func kept(_ step: String, _ rows: String...) throws -> Int {
                let text = rows.joined(separator: "\n") + "\n"
                return try run("needletail data filter a.jsonl - --step '\(step)'", rows: text, folder).output
                    .split(separator: "\n").count
            }
            let html = #"{"text":"a <b> c"}"#, marked = #"{"text":"x <|im_start|> y"}"#, bar = #"{"text":"left|right"}"#
            let tags = #"{"tokens":["a","b"],"tags":[0,1]}"#, others = #"{"tokens":["c","b"],"tags":[0,1]}"#
            let question = #"{"context":"a SECRET","question":"Q","answers":{"text":["SECRET"],"answer_start":[2]}}"#
            let counts = try [
                kept("special_tokens:tokens=<|im_start|>", html, marked, bar),
                kept("keyword:drop=<|im_start|>|left", html, marked, bar),
                kept("characters:min=1", tags, others), kept("keyword:drop=SECRET", question),
            ]
            #expect(counts == [2, 1, 2, 0])
        }
    }

    @Test func questionsOfSeveralTurnsAndOfScriptsWithoutSpacesAreFound() throws {
        try withTemporaryFolder { folder in
            func found(_ test: String, _ row: String) throws -> Bool {
                try writeFileAtomically(test + "\n", to: joinPath(folder, "t.jsonl"))
                let other =
                    row.contains("messages")
                    ? #"{"messages":[{"role":"user","content":"else"},{"role":"assistant","content":"x"}]}"#
                    : #"{"prompt":"something else entirely","completion":"x"}"#
                let rows = row + "\n" + other + "\n"
                let outcome = try run(
                    "needletail data decontaminate a.jsonl --test t.jsonl --output o.jsonl && wc -l < o.jsonl",
                    rows: rows,
                    folder)
                #expect(outcome.status == 0, "\(outcome.errors)")
                return outcome.output.split(separator: "\n").last.map { $0.contains("1") } ?? false
            }
            let same = talk.replacing("\n", with: "")
            let question = "小明有十二个苹果，又买了五个，一共有多少个？"
            let asked = #"{"prompt":"\#(question)","completion":"17"}"#
            let answers = try [
                found(same, same), found(asked, #"{"prompt":"请回答：\#(question)谢谢","completion":"x"}"#),
                found(asked, #"{"prompt":"今天天气很好","completion":"x"}"#),
            ]
            #expect(answers == [true, true, false])
        }
    }

    @Test func rowsOfSeveralKindsDoNotGoIntoOneFile() throws {
        try withTemporaryFolder { folder in
            let chats = try run(
                #"echo '{"instruction":"i","output":"o"}' > b.jsonl; needletail data mix a.jsonl 1.0 b.jsonl 1.0 --output m.jsonl; ls m.jsonl"#,
                rows: talk, folder)
            #expect(
                chats.errors.contains("the rows are of kinds chat, instruction, which one file cannot hold"), "\(chats)"
            )
            #expect(!chats.output.contains("m.jsonl"))
            for amount in ["99999999999999999999.0", "1000000000000", "nan.", "1e999.0"] {
                let outcome = try run("needletail data mix a.jsonl \(amount) --output m.jsonl", rows: talk, folder)
                #expect(outcome.status == 64 && outcome.errors.contains("is no amount"), "\(amount): \(outcome)")
            }
        }
    }

    @Test func smallMisreadings() throws {
        try withTemporaryFolder { folder in
            func converted(_ row: String, _ flags: String = "") throws -> Outcome {
                try run("needletail data convert a.jsonl - \(flags)", rows: row + "\n", folder)
            }
            let preferred = try converted(
                #"{"prompt":"Hi","chosen":[{"role":"system","content":"s"},{"role":"user","content":"Hi"},{"role":"assistant","content":"A"}],"#
                    + #""rejected":[{"role":"system","content":"s"},{"role":"user","content":"Hi"},{"role":"assistant","content":"B"}]}"#,
                "--to chat")
            let turns = try JSONValue.parse(preferred.output)["messages"]?.array?.map { $0["content"]?.string }
            #expect(turns == ["s", "Hi", "A"], "\(preferred)")
            let gap = try converted(#"{"completion":"x","score_1":0.5,"score_2":null,"score_3":0.9}"#)
            #expect(
                gap.status == 65 && gap.errors.contains(#""score_3" stands behind a score that is missing"#), "\(gap)")
            let sum = try converted(#"{"input":"[1,2,3]: what is the sum?","ideal":"6"}"#)
            #expect(sum.status == 0 && sum.output.contains("[1,2,3]: what"), "\(sum)")
            let table = try converted(#"{"price":3,"size":2.5}"#, "--column target=price")
            #expect(table.output.contains(#""target":3"#) && !table.output.contains("price"), "\(table)")
        }
    }

    /// A file whose unpacked bytes are a whole number of mebibytes ends where the buffer does.
    @Test(arguments: [1 << 20, 2 << 20, (1 << 20) - 1]) func packedFilesOfEverySizeAreWhole(_ bytes: Int) throws {
        try withTemporaryFolder { folder in
            let row = #"{"text":"\#(String(repeating: "a", count: 1000))"}"# + "\n"
            var text = String(repeating: row, count: (bytes - 2000) / row.utf8.count)
            text += #"{"text":"\#(String(repeating: "b", count: bytes - text.utf8.count - 12))"}"# + "\n"
            #expect(text.utf8.count == bytes)
            try writeFileAtomically(text, to: joinPath(folder, "a.jsonl"))
            for (tool, name) in [("zstd -q", "a.jsonl.zst"), ("gzip -k", "a.jsonl.gz")] {
                let outcome = try shell(
                    "command -v \(tool.prefix { $0 != " " }) > tool || exit 9; \(tool) a.jsonl && needletail data convert \(name) - | cmp - a.jsonl",
                    in: folder)
                // Without the tool on this machine there is nothing to read.
                #expect([0, 9].contains(outcome.status), "\(outcome)")
            }
        }
    }
}
