// Broken rows: each kind has its own reason and a line that names the place.
import Datasets
import Diagnostics
import Testing

private struct Case: CustomTestStringConvertible, Sendable {
    let name: String
    let bytes: [UInt8]
    let reason: BadRowReason
    let message: String

    init(_ name: String, _ text: String, _ reason: BadRowReason, _ message: String) {
        self.init(name, Array(text.utf8), reason, message)
    }
    init(_ name: String, _ bytes: [UInt8], _ reason: BadRowReason, _ message: String) {
        (self.name, self.bytes, self.reason, self.message) = (name, bytes, reason, message)
    }
    var testDescription: String { message }
}

private let good = #"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"# + "\n"

/// A chat row with `turn` after a good one.
private func withTurn(_ turn: String) -> String {
    good + #"{"messages":[{"role":"user","content":"a"},"# + turn + "]}\n"
}

private let cases: [Case] = [
    Case("a.jsonl", good + #"{"message":[]}"#, .missingKey, #"a.jsonl line 2: no "messages" key; found "message""#),
    Case("a.jsonl", #"{"mesages":[]}"#, .missingKey, #"a.jsonl line 1: no "messages" key; found "mesages""#),
    Case(
        "a.jsonl", good + #"{"messages":"hi"}"#, .wrongType,
        #"a.jsonl line 2: "messages" is a string that is not JSON (column 1: unexpected character)"#),
    Case(
        "a.jsonl", good + #"{"messages":{"role":"user"}}"#, .wrongType,
        #"a.jsonl line 2: "messages" is an object, not a list"#),
    Case("a.jsonl", good + #"{"messages":null}"#, .wrongType, #"a.jsonl line 2: "messages" is null"#),
    Case("a.jsonl", good + #"{"messages":[]}"#, .emptyMessages, #"a.jsonl line 2: "messages" is an empty list"#),
    Case(
        "a.jsonl", good + #"{"messages":["hi"]}"#, .wrongType,
        "a.jsonl line 2: messages[0] is a string, not an object"),
    Case(
        "a.jsonl", withTurn(#"{"role":"asistant","content":"b"}"#), .unknownRole,
        #"a.jsonl line 2: messages[1].role: unknown role "asistant"; did you mean assistant?"#),
    Case(
        "a.jsonl", withTurn(#"{"content":"b"}"#), .missingKey,
        #"a.jsonl line 2: messages[1]: no "role" key; found "content""#),
    Case(
        "a.jsonl", withTurn(#"{"role":"assistant"}"#), .missingKey,
        #"a.jsonl line 2: messages[1]: no "content" key; found "role""#),
    Case(
        "a.jsonl", withTurn(#"{"role":"assistant","content":5}"#), .badContent,
        "a.jsonl line 2: messages[1].content is a number, not a string or a list of parts"),
    Case(
        "a.jsonl", withTurn(#"{"role":"assistant","content":[{"type":"image_url"}]}"#), .badContent,
        #"a.jsonl line 2: messages[1].content[0] is of type "image_url"; only text is trained"#),
    Case(
        "a.jsonl", withTurn(#"{"role":"assistant","content":"  "}"#), .badContent,
        "a.jsonl line 2: messages[1].content: the assistant says nothing"),
    Case(
        "a.jsonl", withTurn(#"{"role":"assistant","content":"b","weight":0.5}"#), .badWeight,
        "a.jsonl line 2: messages[1].weight must be 0 or 1 (a turn is trained or it is not)"),
    Case(
        "a.jsonl", withTurn(#"{"role":"assistant","content":"b","weight":1,"masked":true}"#), .badWeight,
        "a.jsonl line 2: messages[1]: weight and masked contradict each other"),
    Case(
        "a.jsonl", withTurn(#"{"role":"user","content":"b"}"#), .noAssistant,
        #"a.jsonl line 2: "messages" has no assistant turn, so there is nothing to learn"#),
    Case(
        "a.jsonl", withTurn(#"{"role":"assistant","content":"b"},{"role":"user","content":"c"}"#),
        .endsWithoutAssistant, #"a.jsonl line 2: "messages" ends with a turn of the user, not of the assistant"#),
    Case(
        "a.jsonl", good + #"{"prompt":"a","completion":"b"}"#, .mixedKinds,
        "a.jsonl line 2: is a row of kind prompt_completion among rows of kind chat; give each kind its own file"),
    Case(
        "a.jsonl", good + "[1]", .notAnObject,
        #"a.jsonl line 2: a row must be an object like {"messages": ...}; found a list"#),
    Case(
        "a.jsonl", good + #"{"messages":[}"#, .invalidJSON, "a.jsonl line 2: not JSON (column 14): unexpected character"
    ),
    Case(
        "a.jsonl", good + #"{"messages":NaN}"#, .invalidJSON,
        "a.jsonl line 2: not JSON (column 13): NaN is no value of JSON; write null or a number"),
    Case(
        "a.jsonl", good + #"{"messages":[]} x"#, .invalidJSON,
        "a.jsonl line 2: not JSON (column 17): something follows the value; remove it"),
    Case(
        "a.jsonl", good + #"{"messages":"\ud800"}"#, .invalidJSON,
        "a.jsonl line 2: not JSON (column 14): lone surrogate"),
    Case(
        "a.jsonl", good + String(repeating: "[", count: 300), .invalidJSON,
        "a.jsonl line 2: not JSON (column 257): nested deeper than 256"),
    Case(
        "a.jsonl", Array((good + "{\"messages\":\"").utf8) + [0xFF] + Array("\"}".utf8), .invalidUTF8,
        "a.jsonl line 2: not valid UTF-8 (column 14); save the file as UTF-8"),
    Case(
        "a.jsonl", Array(good.utf8) + [0x7B, 0, 0x7D], .nulByte,
        "a.jsonl line 2: contains a NUL byte; is this a text file?"),
    Case(
        "a.json", "[" + good + "," + #"{"messages":[]}]"#, .emptyMessages, #"a.json row 2: "messages" is an empty list"#
    ),
    Case(
        "a.json", "[" + good + "," + good, .invalidJSON,
        "a.json row 2: the file ends inside its JSON array; a ] is missing"),
    Case(
        "a.json", "[" + good + "] x", .invalidJSON,
        "a.json row 1: something follows the end of the JSON array; one array per file"),
    Case(
        "a.json", "[" + good + #",{"messages":[},"# + good + "]", .invalidJSON,
        "a.json row 2: a } where a ] should be"),
    Case(
        "a.json", "[" + good + #",{"messages":[],"# + good, .invalidJSON,
        "a.json row 2: the file ends inside this row; a } or ] of it is missing"),
    Case(
        "a.json", "[" + good + #",{"messages":[]]"#, .invalidJSON, "a.json row 2: a ] where a } should be"),
    Case(
        "a.json", "[" + good + #",{"messages":[]}},"# + good + "]", .invalidJSON,
        "a.json row 2: a } closes what was not opened"),
    Case("a.json", "3", .invalidJSON, "a.json row 1: a JSON file is an array of rows, [{...}, ...]"),
    Case("a.csv", "prompt,completion\na,b\nc\n", .unevenColumns, "a.csv line 3: has 1 column where the header has 2"),
    Case(
        "a.csv", "prompt,completion\na,b\nc,\"d\ne,f\n", .unterminatedQuote,
        "a.csv line 3: a quote opened in this record is never closed"),
    Case(
        "a.csv", "prompt,completion\n\"a\n\nb\",b\n\nc,\"d", .unterminatedQuote,
        "a.csv line 6: a quote opened in this record is never closed"),
    Case(
        "a.csv", "prompt,completion\na,b\nc,\"d\"e\n", .strayQuote,
        "a.csv line 3: column 2: text after the closing quote; double the quotes inside a quoted field"),
    Case("a.csv", "prompt,completion\na,b\nc,\n", .empty, #"a.csv line 3: "completion" is empty"#),
    Case(
        "a.csv", Array("prompt,completion\na,b\nc,".utf8) + [0xC3, 0x28], .invalidUTF8,
        "a.csv line 3: column 2: not valid UTF-8; save the file as UTF-8"),
    Case("a.txt", Array("abc".utf8) + [0], .nulByte, "a.txt document 1: contains a NUL byte; is this a text file?"),
    Case(
        "a.jsonl", #"{"text":"a"}"# + "\n" + #"{"text":["a"]}"#, .wrongType,
        #"a.jsonl line 2: "text" is a list, not a string"#),
    Case(
        "a.jsonl", #"{"input":"a","ideal":"b"}"# + "\n" + #"{"input":"a","ideal":[]}"#, .empty,
        #"a.jsonl line 2: "ideal" is empty"#),
    Case(
        "a.jsonl", #"{"prompt":"a","completion":"b"}"# + "\n" + #"{"prompt":[],"completion":"b"}"#, .wrongType,
        "a.jsonl line 2: one of prompt and completion is a list and the other a string; give two strings or two lists"),
    Case(
        "a.jsonl", #"{"conversations":[{"from":"gptt","value":"a"}]}"#, .unknownRole,
        #"a.jsonl line 1: conversations[0].from: unknown role "gptt"; did you mean gpt?"#),
    Case(
        "a.jsonl", good + "{\"m\\u001b[31m\\n\":1}", .missingKey,
        #"a.jsonl line 2: no "messages" key; found "m\u{1b}[31m\n""#),
]

/// Those behind which rows may stand that cannot be found.
private let hiding = [
    "a.json row 1: something follows the end of the JSON array; one array per file",
    "a.json row 1: a JSON file is an array of rows, [{...}, ...]",
    "a.json row 2: the file ends inside this row; a } or ] of it is missing",
    "a.json row 2: a } closes what was not opened", "a.json row 2: a } where a ] should be",
    "a.json row 2: a ] where a } should be", "a.csv line 3: a quote opened in this record is never closed",
]

struct BadRowTests {
    @Test(arguments: cases)
    private func stops(_ bad: Case) throws {
        let folder = try TemporaryFolder()
        let path = try folder.file(bad.name, bad.bytes)
        let error = #expect(throws: BadRow.self) { try Rows(DataSource([path], name: "data.train")) }
        #expect(error?.reason == bad.reason)
        #expect(withoutFolder(error?.message ?? "", folder) == "data.train: " + bad.message)
        #expect(error?.exitStatus == .badData)
        #expect(error?.message.contains("\n") == false)
    }

    /// The same rows dropped and counted; a file with no other row is refused, and so is one whose other rows are hidden.
    @Test(arguments: cases)
    private func drops(_ bad: Case) throws {
        let folder = try TemporaryFolder()
        let source = DataSource([try folder.file(bad.name, bad.bytes)], badRows: .drop)
        do {
            let rows = try Rows(source)
            #expect(rows.statistics.dropped == [bad.reason: 1])
            #expect(rows.count == 1 && rows.statistics.rows == 2)
            #expect(!hiding.contains(bad.message))
        } catch let error as BadRow {
            #expect(hiding.contains(bad.message) && withoutFolder(error.message, folder) == bad.message)
        } catch let error as UserError {
            let message = withoutFolder(error.message, folder)
            #expect(message == "all rows dropped: \(bad.reason.rawValue) 1; first: " + bad.message)
        }
    }

    @Test func longRows() throws {
        let folder = try TemporaryFolder()
        let path = try folder.file(
            "a.jsonl", [UInt8](repeating: UInt8(ascii: "a"), count: 64 << 20 + 1) + Array(good.utf8))
        let error = #expect(throws: BadRow.self) { try Rows(DataSource([path], kind: .chat)) }
        #expect(error?.reason == .tooLong && error?.detail == "longer than 64 MiB")
    }

    @Test func severalSourcesAreNumbered() throws {
        let folder = try TemporaryFolder()
        let paths = [try folder.file("a.jsonl", good), try folder.file("chat.jsonl", good + #"{"message":1}"#)]
        let error = #expect(throws: BadRow.self) { try Rows(DataSource(paths, name: "data.train")) }
        let message = withoutFolder(error?.message ?? "", folder)
        #expect(message == #"data.train[1]: chat.jsonl line 2: no "messages" key; found "message""#)
    }
}

private struct FileCase: CustomTestStringConvertible, Sendable {
    let name: String, bytes: [UInt8], message: String
    init(_ name: String, _ bytes: [UInt8], _ message: String) {
        (self.name, self.bytes, self.message) = (name, bytes, message)
    }
    var testDescription: String { message }
}

struct BadFileTests {
    @Test(arguments: [
        FileCase("a.jsonl", [], "a.jsonl: is empty; it should hold at least one row"),
        FileCase("a.jsonl", Array(" \n\n".utf8), "a.jsonl: is empty; it should hold at least one row"),
        FileCase("a.json", Array("[ ]".utf8), "no rows in a.json"),
        FileCase("a.csv", Array("prompt,completion\n".utf8), "no rows in a.csv"),
        FileCase("a.csv", Array("prompt,prompt\na,b\n".utf8), #"a.csv header: column "prompt" appears twice"#),
        FileCase("a.csv", Array("prompt,\na,b\n".utf8), "a.csv header: column 2 has no name"),
        FileCase(
            "a.csv", Array("prompt,completion\ra,b\r".utf8),
            "a.csv header: lines end with a carriage return alone; save the file with line feeds"),
        FileCase(
            "a.json", Array("{\n  \"messages\": []\n}\n".utf8),
            "a.json line 1: an object over several lines; give one object a line, or an array of objects in a .json file"
        ),
        FileCase(
            "a.json", Array(#"{"rows":[{"text":"a"}]}"#.utf8),
            #"a.json: the rows seem to be inside "rows"; give a file of that list alone"#),
        FileCase("a.csv", Array("\"prompt\na,b\n".utf8), "a.csv header: a quote opened in this record is never closed"),
        FileCase(
            "a.parquet", Array("text".utf8),
            "a.parquet: is named as a Parquet file and is none; get the file again"),
        FileCase(
            "a.jsonl", [0x1F, 0x8B, 8, 0], "a.jsonl: the gzip-compressed data ends too early; get the file again"),
        FileCase(
            "a.bin", [0x80, 4, 0x95],
            "a.bin: is a pickle, which is never read because it can run code; give Parquet, Arrow, JSONL, JSON, CSV or text"
        ),
        FileCase(
            "a.txt", [0xFF, 0xFE, 0x61, 0],
            "a.txt: is UTF-16 text; save it as UTF-8; give Parquet, Arrow, JSONL, JSON, CSV or text"),
        FileCase(
            "a.jsonl", Array(#"{"foo":1,"bar":2}"#.utf8),
            #"a.jsonl: columns "foo", "bar" are no known kind of row (messages; conversations; instruction, output; "#
                + "prompt, completion; input, ideal; text; chosen, rejected; ground_truth, dataset; completion, score; "
                + "text, target; tokens, tags; context, question, answers; sentence1, sentence2); name them with data.column_map or --column"
        ),
    ])
    private func refused(_ file: FileCase) throws {
        let folder = try TemporaryFolder()
        let path = try folder.file(file.name, file.bytes)
        let error = #expect(throws: UserError.self) { try Rows(DataSource([path])) }
        #expect(withoutFolder(error?.message ?? "", folder) == file.message)
    }

    @Test func missingFileAndEmptyFolder() throws {
        let folder = try TemporaryFolder()
        let missing = #expect(throws: UserError.self) { try Rows(DataSource([folder.path + "/no.jsonl"])) }
        #expect(withoutFolder(missing?.message ?? "", folder) == "no.jsonl: no such file or folder")
        #expect(throws: UserError.self) { try Rows(DataSource([folder.path])) }
        #expect(throws: UserError.self) { try Rows(DataSource([])) }
    }
}
