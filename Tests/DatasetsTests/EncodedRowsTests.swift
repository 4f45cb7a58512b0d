// Rows encoded on several threads, against a plain loop over them.
import ChatTemplates
import Datasets
import Diagnostics
import Formats
import Testing

/// Files of many kinds with everything that can go wrong with a row, made from a seed.
struct MixedRows {
    let folder = try! TemporaryFolder()
    let source: DataSource

    init(seed: UInt64, rows: Int = 700, badRows: BadRowPolicy = .drop, isClean: Bool = false) throws {
        var generator = SeededGenerator(seed)
        func pick<T>(_ values: [T]) -> T { values[Int.random(in: 0..<values.count, using: &generator)] }
        func words() -> String {
            (0..<Int.random(in: 1...30, using: &generator)).map { _ in
                pick(["the", "an", "answer", "é", "3", "日本", "?"])
            }
            .joined(separator: pick([" ", "  ", "\n"]))
        }
        /// The template refuses system turns.
        func refused() -> String { refusedChat.replacing("S", with: words().replacing("\n", with: " ")) }
        func chat() -> String {
            let turns = (0..<Int.random(in: 1...3, using: &generator)).flatMap { _ -> [JSONValue] in
                [
                    ["role": "user", "content": .string(words())],
                    ["role": "assistant", "content": .string(pick(["", " "]) + words())],
                ]
            }
            var row = JSONObject([("messages", .array(turns))])
            if pick([false, false, true]) { row[pick(["id", "topic", "origin"])] = .string(words()) }
            return JSONValue.object(row).serialized()
        }
        let bad = ["broken", "{}", #"{"messages":[]}"#, #"{"messages":[{"role":"user","content":"a"}]}"#, "[1]"]
        var lines: [String] = []
        for _ in 0..<rows {
            switch Int.random(in: 0..<12, using: &generator) {
            case 0 where !isClean: lines.append(pick(bad + [refused()]))
            case 1 where !isClean && !lines.isEmpty: lines.append(pick(lines))
            default: lines.append(chat())
            }
        }
        let instructions = (0..<rows / 3).map { _ -> JSONValue in
            ["instruction": .string(words()), "input": .string(pick(["", words()])), "output": .string(words())]
        }
        source = DataSource(
            [
                try folder.file("chats.jsonl", lines.joined(separator: "\n\n") + "\n"),
                try folder.file("tasks.json", JSONValue.array(instructions).serialized(.pretty)),
                try folder.file("prose.txt", (0..<rows / 4).map { _ in words() }.joined(separator: "\n\n")),
            ], name: "data.train", badRows: badRows, deduplicate: !isClean, textUnit: .paragraph)
    }
}

private let refusedChat =
    #"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#

/// Refuses system turns, and changes the text of some turns, whose spans are unproven then.
let pickyTemplate =
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    + "<{{ m.role }}>{{ m.content | replace('日本', '日') if loop.length == 6 and m.content | length > 60 else m.content }}</s>{% endfor %}"
    + "{% if add_generation_prompt %}<assistant>{% endif %}"

/// What a plain loop over the rows makes of them.
private func sequential(
    _ source: DataSource, _ encoder: ExampleEncoder
) throws -> (examples: [TokenizedExample], statistics: DatasetStatistics) {
    let rows = try Rows(source)
    var examples: [TokenizedExample] = [], statistics = DatasetStatistics(rows.statistics)
    statistics.paths = source.paths
    for index in rows.indices {
        do {
            let encoded = try encoder.encode(rows[index], source: rows.sourceName(index))
            statistics.keep(
                tokens: encoded.ids.count, trained: encoded.example.trainedTokens, cut: encoded.truncated,
                source: source.paths.firstIndex(of: rows.location(index).file)!)
            examples.append(encoded.example)
        } catch let bad as BadRow {
            statistics.drop(bad)
        }
    }
    return (examples, statistics)
}

struct EncodedRowsTests {
    @Test(arguments: [Truncation.right, .left, .drop], [Masking.assistant, .all])
    func equalToALoop(_ truncation: Truncation, _ masking: Masking) throws {
        let mixed = try MixedRows(seed: 11)
        let encoder = try ExampleEncoder(
            tinyTokenizer.get(), template: pickyTemplate,
            options: .init(masking: masking, maxLength: 90, truncation: truncation))
        let (examples, statistics) = try sequential(mixed.source, encoder)
        // The rows are as mixed as they are meant to be.
        #expect(statistics.duplicates > 10 && statistics.dropped[.templateRefused] ?? 0 > 2)
        #expect(statistics.dropped[.spanUnproven] ?? 0 > 2 && statistics.dropped.count >= 6 && examples.count > 300)
        #expect(truncation == .drop ? statistics.dropped[.longerThanMaxLength]! > 10 : statistics.rowsTruncated > 10)
        for threads in [1, 2, 3, 8] {
            let rows = try EncodedRows(mixed.source, encoder, threads: threads), one = try Rows(mixed.source)
            let (data, found) = try rows.dataset()
            #expect(Array(data) == examples, "\(threads) threads")
            #expect(found == statistics && rows.datasetStatistics == statistics)
            #expect(rows.warnings == one.warnings && rows.warnings.count == 3 && rows.statistics == one.statistics)
            #expect(rows.count == one.count && rows.notes.isEmpty)
            #expect(data.tokens == statistics.tokens && data.trainedTokens == statistics.trainedTokens)
        }
    }

    /// Any choice of rows in any order.
    @Test func partsAreAsAsked() throws {
        let mixed = try MixedRows(seed: 3)
        let encoder = try ExampleEncoder(tinyTokenizer.get(), template: pickyTemplate, options: .init(maxLength: 90))
        let rows = try EncodedRows(mixed.source, encoder, threads: 2)
        var generator = SeededGenerator(4)
        let some = Array(0..<rows.count).shuffled(using: &generator).prefix(300)
        let (data, statistics) = try rows.dataset(some, isPart: true)
        #expect(statistics.rowsIn == 300 && statistics.duplicates == 0)
        #expect(statistics.rowsKept + statistics.rowsDropped == 300 && statistics.rowsDropped > 0)
        let chosen = try EncodedRows(
            mixed.source, encoder, threads: 2, selection: .some(name: "x") { _ in Array(some) })
        #expect(chosen.count == rows.count)
        let (again, counted) = try chosen.dataset(some, isPart: true)
        #expect(Array(data) == Array(again) && statistics == counted)
    }

    /// Under `.split` rows longer than the limit are several: those that cutting whole rows gives, first tokens no targets.
    @Test(arguments: [2, 7, 40, 90]) func longRowsBecomeSeveral(_ limit: Int) throws {
        let mixed = try MixedRows(seed: 21, rows: 300), cache = TokenCache(folder: mixed.folder.path + "/tokens")
        func rows(_ limit: Int?, _ threads: Int, _ cache: TokenCache?) throws -> EncodedRows {
            let options = ExampleEncoder.Options(maxLength: limit, truncation: .split)
            let encoder = try ExampleEncoder(tinyTokenizer.get(), template: pickyTemplate, options: options)
            return try EncodedRows(mixed.source, encoder, threads: threads, cache: cache)
        }
        let (whole, counts) = try rows(nil, 1, nil).dataset()
        var expected: [TokenizedExample] = [], split = 0, lost = 0
        for row in whole {
            let pieces = stride(from: 0, to: row.ids.count, by: limit).map { start in
                let end = min(start + limit, row.ids.count)
                return TokenizedExample(
                    ids: Array(row.ids[start..<end]), trained: Array(row.trained[start..<end]), source: row.source)
            }.filter { $0.trainedTokens > 0 }
            expected += pieces
            if pieces.isEmpty { lost += 1 } else if row.ids.count > limit { split += 1 }
        }
        #expect(counts.rowsSplit == 0 && split > 3)
        for (threads, cache) in [(1, nil), (3, nil), (2, cache), (1, cache)] as [(Int, TokenCache?)] {
            let (data, statistics) = try rows(limit, threads, cache).dataset()
            #expect(Array(data) == expected)
            for (i, example) in expected.enumerated() {
                #expect(data.length(i) == example.ids.count && data.trainedTokens(i) == example.trainedTokens)
                #expect(data.source(i) == example.source)
            }
            #expect(data.tokens == expected.reduce(0) { $0 + $1.ids.count } && statistics.tokens == data.tokens)
            #expect(data.trainedTokens == expected.reduce(0) { $0 + $1.trainedTokens })
            #expect(statistics.rowsSplit == split && statistics.rowsKept == expected.count)
            #expect(statistics.rowsDropped == counts.rowsDropped + lost)
        }
    }

    /// The first bad row in the order of the files, whichever thread meets one first.
    @Test(arguments: [1, 2, 4])
    func theFirstBadRowStops(_ threads: Int) throws {
        let good = #"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#
        let refused = good.replacing(#"[{"role":"user""#, with: #"[{"role":"system","content":"S"},{"role":"user""#)
        let encoder = try ExampleEncoder(tinyTokenizer.get(), template: pickyTemplate)
        let folder = try TemporaryFolder()
        for (row, later) in [(refused, refused), ("broken", "{}")] {
            for place in [0, 255, 256, 900] {
                var lines = Array(repeating: good, count: 1500)
                lines[place] = row
                for other in [place + 1, 1100, 1499] { lines[other] = later }
                let path = try folder.file("a.jsonl", lines.joined(separator: "\n"))
                let error = #expect(throws: BadRow.self) {
                    try EncodedRows(DataSource([path], name: "data.train"), encoder, threads: threads)
                }
                #expect(error?.location.number == place + 1, "\(place), \(threads) threads: \(error?.message ?? "")")
            }
        }
    }

    @Test func nothingLeftIsAnError() throws {
        let folder = try TemporaryFolder()
        let path = try folder.file("a.jsonl", refusedChat + "\n" + refusedChat)
        let encoder = try ExampleEncoder(tinyTokenizer.get(), template: pickyTemplate)
        let rows = try EncodedRows(DataSource([path], badRows: .drop), encoder)
        #expect(rows.datasetStatistics.rowsKept == 0 && rows.datasetStatistics.rowsDropped == 2)
        let error = #expect(throws: UserError.self) { try rows.dataset() }
        #expect(error?.message.hasPrefix("all rows dropped: template_refused 2; first: ") == true)
    }
}
