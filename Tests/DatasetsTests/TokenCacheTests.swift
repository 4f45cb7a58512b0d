// Tokens kept on disk: equal to those made anew, found only when nothing has changed, never believed when damaged.
import ChatTemplates
import Crypto
import Datasets
import Diagnostics
import Formats
import Glibc
import Testing
import Tokenizers

private let template = pickyTemplate

private func encoder(
    _ template: String? = template, _ options: ExampleEncoder.Options = .init(maxLength: 90),
    time: TemplateTime = TemplateTime(year: 2026, month: 3, day: 1)
) throws -> ExampleEncoder {
    try ExampleEncoder(tinyTokenizer.get(), template: template, options: options, time: time)
}

/// Where tokens came from, by the note.
private enum Origin: Equatable { case cache, made, other(String) }
extension EncodedRows {
    fileprivate var origin: Origin {
        guard let note = notes.last else { return .other("no note") }
        if notes.count == 1, note.hasPrefix("tokens from the cache: ") { return .cache }
        return note.hasPrefix("tokens kept in the cache: ") ? .made : .other(notes.joined(separator: "; "))
    }
}

private func expectEqual(_ a: EncodedRows, _ b: EncodedRows) throws {
    let (one, counts) = try a.dataset(), (other, otherCounts) = try b.dataset()
    #expect(Array(one) == Array(other) && counts == otherCounts && a.warnings == b.warnings && a.count == b.count)
    #expect(a.statistics == b.statistics && a.fingerprint == b.fingerprint)
}

struct TokenCacheTests {
    @Test func whatIsKeptIsWhatWasMade() throws {
        for seed in 1...4 as ClosedRange<UInt64> {
            let mixed = try MixedRows(seed: seed), encoder = try encoder()
            let cache = TokenCache(folder: mixed.folder.path + "/deep/tokens")
            let without = try EncodedRows(mixed.source, encoder)
            let first = try EncodedRows(mixed.source, encoder, threads: 2, cache: cache)
            let second = try EncodedRows(mixed.source, encoder, threads: 3, cache: cache)
            #expect(first.origin == .made && second.origin == .cache)
            try expectEqual(first, without)
            try expectEqual(second, without)
            #expect(try listFolder(cache.folder).count == 1, "one file, and nothing half-written")
        }
    }

    /// The file's bytes do not depend on threads, so that two of them can be compared.
    @Test func filesAreEqualForAnyThreads() throws {
        let mixed = try MixedRows(seed: 9), encoder = try encoder()
        let files = try [1, 2, 5].map { threads in
            let cache = TokenCache(folder: "\(mixed.folder.path)/\(threads)")
            _ = try EncodedRows(mixed.source, encoder, threads: threads, cache: cache)
            return SHA256.hash(data: try readFile(cache.entries()[0].path)).description
        }
        #expect(Set(files).count == 1)
    }

    /// Renamed files have the same tokens, and messages name them as they are called now.
    @Test func pathsAreNotPartOfIt() throws {
        let mixed = try MixedRows(seed: 2), encoder = try encoder(), folder = mixed.folder.path
        let cache = TokenCache(folder: folder + "/tokens")
        _ = try EncodedRows(mixed.source, encoder, cache: cache)
        try createDirectories(folder + "/new")
        var moved = mixed.source
        moved.paths = try moved.paths.map { path in
            let new = "\(folder)/new/\(fileName(of: path))"
            try moveFile(path, to: new)
            return new
        }
        moved.name = "data.validation"
        let rows = try EncodedRows(moved, encoder, cache: cache)
        #expect(rows.origin == .cache)
        try expectEqual(rows, try EncodedRows(moved, encoder))
        let (data, statistics) = try rows.dataset()
        #expect(data.source(0).file == moved.paths[0])
        let example = try #require(statistics.examples[.templateRefused]?.message)
        #expect(example.hasPrefix("data.validation[0]: \(moved.paths[0]) line "))
        #expect(rows.warnings.allSatisfy { $0.contains(moved.paths[0]) })
    }

    /// Everything that may change an id, a mark, a count or a message makes another file of tokens.
    @Test func everythingTokensDependOnIsInTheKey() throws {
        let folder = try TemporaryFolder(), cache = TokenCache(folder: folder.path + "/tokens")
        let rows =
            #"{"prompt":"the","completion":"answer","text":"x"}"# + "\n\n" + #"{"prompt":"3","completion":"é"}"# + "\n"
        let path = try folder.file("a.jsonl", rows)
        let options = ExampleEncoder.Options(maxLength: 90)
        func origin(
            _ change: (inout DataSource) throws -> Void = { _ in }, _ encoder: ExampleEncoder? = nil,
            _ selection: RowSelection = .all
        ) throws -> Origin {
            var source = DataSource([path])
            try change(&source)
            return try EncodedRows(
                source, encoder ?? .init(tinyTokenizer.get(), template: template, options: options), cache: cache,
                selection: selection
            ).origin
        }
        func steps(_ texts: String...) throws -> [RowTransform] { try texts.map { try RowTransform($0) } }
        func changed(_ change: (inout ExampleEncoder.Options) -> Void) throws -> ExampleEncoder {
            var changed = options
            change(&changed)
            return try encoder(template, changed)
        }
        #expect(try origin() == .made)
        #expect(try origin() == .cache)
        #expect(try origin({ $0.name = "data.train" }) == .cache)
        #expect(try origin({ _ in }, nil, .some(name: "first") { _ in [0] }) == .cache, "all rows have the first one")
        let copy = try folder.file("b.jsonl", rows), otherFormat = try folder.file("c.txt", rows)
        let otherByte = try folder.file("d.jsonl", rows.replacing("3", with: "4"))
        let own = try tinyTokenizer.get(), more = try own.adding(tokens: ["answer!"], special: false)
        func with(_ key: String, in file: JSONValue) -> JSONValue {
            var object = file.object ?? JSONObject()
            object[key] = "changed"
            return .object(object)
        }
        let otherFile = try Tokenizer(tokenizerJSON: with("note", in: own.tokenizerJSON), config: own.tokenizerConfig)
        let otherConfig = try Tokenizer(tokenizerJSON: own.tokenizerJSON, config: with("note", in: own.tokenizerConfig))
        let changes: [(String, (inout DataSource) throws -> Void, ExampleEncoder?)] = [
            ("a byte of a file", { $0.paths = [otherByte] }, nil), ("its format", { $0.paths = [otherFormat] }, nil),
            ("files twice", { $0.paths = [path, copy] }, nil),
            (
                "kind",
                {
                    $0.kind = .text; $0.badRows = .drop
                }, nil
            ),
            ("the kind by name", { $0.kind = .promptCompletion }, nil),
            (
                "columns",
                {
                    $0.columnMap = ["prompt": "text"]; $0.badRows = .drop
                }, nil
            ),
            ("bad rows", { $0.badRows = .drop }, nil), ("duplicates", { $0.deduplicate = true }, nil),
            ("text unit", { $0.textUnit = .line }, nil),
            (
                "text unit of text",
                {
                    $0.paths = [otherFormat]; $0.textUnit = .paragraph
                }, nil
            ),
            ("transforms", { $0.transforms = try steps("strip", "characters:min=1") }, nil),
            ("their order", { $0.transforms = try steps("characters:min=1", "strip") }, nil),
            ("an argument", { $0.transforms = try steps("strip", "characters:min=2") }, nil),
            ("one more", { $0.transforms = try steps("strip", "characters:min=1", "strip") }, nil),
            ("masking", { _ in }, try changed { $0.masking = .all }),
            ("length", { _ in }, try changed { $0.maxLength = 91 }),
            ("no limit", { _ in }, try changed { $0.maxLength = nil }),
            ("truncation", { _ in }, try changed { $0.truncation = .left }),
            ("plain rows", { _ in }, try changed { $0.format = .plain }),
            ("a byte of the template", { _ in }, try encoder(template + " ", options)),
            ("tokenizer", { _ in }, try ExampleEncoder(more, template: template, options: options)),
            ("tokenizer.json", { _ in }, try ExampleEncoder(otherFile, template: template, options: options)),
            ("tokenizer_config.json", { _ in }, try ExampleEncoder(otherConfig, template: template, options: options)),
        ]
        for (what, change, other) in changes {
            #expect(try origin(change, other) == .made, "\(what)")
            #expect(try origin(change, other) == .cache, "\(what), again")
        }
        #expect(try cache.entries().count == changes.count + 1)
        #expect(try origin() == .cache)
    }

    /// With fewer rows wanted, just those are encoded and kept, under a name of their own.
    @Test func aChoiceOfRowsIsKeptApart() throws {
        let mixed = try MixedRows(seed: 6), encoder = try encoder(),
            cache = TokenCache(folder: mixed.folder.path + "/t")
        func rows(_ name: String, _ wanted: [Int]) throws -> EncodedRows {
            try EncodedRows(mixed.source, encoder, cache: cache, selection: .some(name: name) { _ in wanted })
        }
        let all = try EncodedRows(mixed.source, encoder)
        let first = try rows("a", [5, 300, 301, 2]), again = try rows("a", [5, 300, 301, 2]), other = try rows("b", [7])
        #expect(first.origin == .made && again.origin == .cache && other.origin == .made)
        for rows in [first, again] {
            let (some, counts) = try rows.dataset([2, 5, 300, 301], isPart: true)
            let (same, sameCounts) = try all.dataset([2, 5, 300, 301], isPart: true)
            #expect(Array(some) == Array(same) && counts == sameCounts && rows.statistics == all.statistics)
        }
        #expect(try EncodedRows(mixed.source, encoder, cache: cache).origin == .made)
        #expect(try rows("c", [1, 2, 3]).origin == .cache, "all rows have these three")
    }

    /// A template that prints the time: the tokens serve as long as what it prints is the same.
    @Test func printedTimes() throws {
        let folder = try TemporaryFolder(), cache = TokenCache(folder: folder.path + "/t")
        let source = DataSource([try folder.file("a.jsonl", #"{"prompt":"a","completion":"b"}"#)])
        let dated =
            "{{ strftime_now('%Y') }}{% if messages[0].content == 'c' %}{{ strftime_now('%d') }}{% endif %}" + template
        func origin(_ year: Int, _ day: Int) throws -> EncodedRows {
            let time = TemplateTime(year: year, month: 3, day: day, hour: day)
            return try EncodedRows(source, encoder(dated, time: time), cache: cache)
        }
        #expect(try origin(2026, 1).origin == .made)
        #expect(try origin(2026, 2).origin == .cache, "the day is not printed")
        let later = try origin(2027, 2)
        #expect(
            later.notes.count == 2
                && later.notes[0].contains("printed of another time, 2026; its rows are encoded anew"))
        #expect(later.notes[1].hasPrefix("tokens kept in the cache: "))
        try expectEqual(later, try EncodedRows(source, encoder(dated, time: .init(year: 2027, month: 1, day: 1))))
        // A row that has the day printed.
        _ = try folder.file("a.jsonl", #"{"prompt":"c","completion":"b"}"#)
        #expect(try origin(2027, 2).origin == .made && origin(2027, 2).origin == .cache)
        #expect(try origin(2027, 3).notes.count == 2)
    }

    /// A digest of what rows of every kind become: when it changes, so does `ExampleEncoder.version`, and both are written
    /// here anew. Tokens that were kept before would otherwise be taken for what rows become now.
    @Test func theVersionFollowsTheEncoding() throws {
        let folder = try TemporaryFolder()
        let files = [
            "chats.jsonl": """
            {"messages":[{"role":"system","content":"S"},{"role":"user","content":"What is it?"},{"role":"assistant","content":" The answer.\\n"}]}
            {"messages":[{"role":"user","content":"a","weight":1},{"role":"assistant","content":"b","weight":0},{"role":"user","content":"c"},{"role":"assistant","content":"日本 is é"}]}
            {"messages":[{"role":"user","content":"Rain?"},{"role":"assistant","content":"hm","tool_calls":[{"function":{"name":"sky","arguments":{}}}]},{"role":"tool","content":"wet"},{"role":"assistant","content":"Yes."}]}
            {"conversations":1}
            """,
            "talks.jsonl":
                #"{"conversations":[{"from":"human","value":"1 and 2"},{"from":"gpt","value":"3"}],"system":"Sum"}"#,
            "tasks.jsonl": #"{"instruction":"Sum","input":"1 and 2","output":"the answer is 3"}"#,
            "pairs.csv": "prompt,completion\n1 and,\" 2, then 3\"\nthe ans,wer\n",
            "evals.json": #"[{"input":[{"role":"user","content":"yes?"}],"ideal":["yes","no"]}]"#,
            "prose.txt": "The answer is blue.\n\nIs it?\n",
        ]
        let paths = try files.sorted { $0.key < $1.key }.map { try folder.file($0.key, $0.value) }
        let source = DataSource(paths, badRows: .drop, textUnit: .paragraph)
        var encoders = try ChatTemplate.builtIn.keys.sorted().flatMap { name in
            try Masking.allCases.map { try encoder(name, .init(masking: $0)) }
        }
        let marking =
            "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
            + "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}{% endgeneration %}{% else %}"
            + "{{ m.content }}{% endif %}{% endfor %}"
        encoders += try Masking.allCases.map {
            try ExampleEncoder(tinyTokenizer.get(), template: marking, options: .init(format: .chat, masking: $0))
        }
        // `.split` encodes as without a limit.
        encoders += try [Truncation.right, .left, .drop].map {
            try encoder(nil, .init(format: .plain, maxLength: 9, truncation: $0))
        }
        var digest = SHA256()
        for (i, encoder) in encoders.enumerated() {
            let cache = TokenCache(folder: "\(folder.path)/\(i)")
            _ = try EncodedRows(source, encoder, cache: cache)
            digest.update(data: try tokenBlocks(cache.entries()[0].path))
        }
        #expect(
            "\(digest.finalize())" == "SHA256 digest: 37cf83d9c2238dffb58e0766a3737c073fc26c97f85576d0b1877a8432c26d0d",
            "rows become other tokens: raise ExampleEncoder.version (4 with the digest that stands here)")
    }
}

struct DamagedCacheTests {
    private let mixed: MixedRows
    private let cache: TokenCache
    private let path: String
    private let bytes: [UInt8]
    private let expected: [TokenizedExample]

    init() throws {
        mixed = try MixedRows(seed: 8, rows: 24)
        cache = TokenCache(folder: mixed.folder.path + "/t")
        let rows = try EncodedRows(mixed.source, encoder(), cache: cache)
        expected = Array(try rows.dataset().0)
        path = try cache.entries()[0].path
        bytes = try readFile(path)
    }

    /// The note about the file after it was changed; the tokens are right whatever was done to it.
    private func note(_ changed: [UInt8]) throws -> String {
        try removeTree(path)
        try writeFile(changed)
        let rows = try EncodedRows(mixed.source, encoder(), cache: cache)
        #expect(Array(try rows.dataset().0) == expected)
        return rows.origin == .cache ? "believed" : rows.notes[0]
    }

    private func writeFile(_ bytes: [UInt8]) throws {
        let file = try OutputFile(appendingTo: path, keeping: 0)
        try file.append(bytes)
        try file.flush()
    }

    @Test func intactIsBelieved() throws { #expect(try note(bytes) == "believed") }

    /// One bit of any byte: in the header, a block, the description, the end.
    @Test func everyByteIsUnderAChecksum() throws {
        let ends = Array(0..<16) + Array(bytes.count - 56..<bytes.count)
        for place in ends + Array(stride(from: 16, to: bytes.count - 56, by: 97)) {
            var changed = bytes
            changed[place] ^= 1 << UInt8(place % 8)
            let note = try note(changed)
            #expect(
                note.hasPrefix(path + ": ") && note.hasSuffix("; its rows are encoded anew"), "byte \(place): \(note)")
            #expect(!note.contains("\n"))
        }
    }

    @Test func aCutFileIsRefused() throws {
        for length in [0, 1, 15, 16, 71, 72, 73, bytes.count / 2, bytes.count - 57, bytes.count - 8, bytes.count - 1] {
            let note = try note(Array(bytes.prefix(length)))
            #expect(note.contains("cut off") || note.contains("damaged"), "\(length) bytes: \(note)")
        }
        #expect(try note(bytes + [0]).contains("cut off or damaged at its end"))
    }

    @Test func anotherVersionIsRefused() throws {
        var changed = bytes
        changed[8] += 1
        #expect(try note(changed).contains("is of another version (4)"))
        #expect(try note(Array(repeating: 0x20, count: 1000)).contains("is no file of tokens"))
    }

    /// A whole file under the name of another.
    @Test func tokensOfSomethingElseAreRefused() throws {
        let other = TokenCache(folder: mixed.folder.path + "/other")
        _ = try EncodedRows(mixed.source, encoder(template, .init(maxLength: 40)), cache: other)
        #expect(try note(readFile(other.entries()[0].path)).contains("was made from something else"))
    }

    @Test func theRebuiltFileIsBelieved() throws {
        #expect(try note(Array(bytes.dropLast())).contains("cut off"))
        #expect(try readFile(path) == bytes)
        #expect(try EncodedRows(mixed.source, encoder(), cache: cache).origin == .cache)
    }

    @Test func listedAndRemoved() throws {
        #expect(try cache.entries().map(\.fault) == [nil])
        #expect(try cache.entries()[0].madeFrom == mixed.source.paths)
        try writeFile(Array(bytes.dropLast()))
        #expect(try cache.entries()[0].fault?.contains("cut off") == true)
        let removed = try cache.clear()
        #expect(removed.files == 1 && removed.bytes == bytes.count - 1)
        #expect(try cache.entries().isEmpty && listFolder(cache.folder).isEmpty)
        #expect(try TokenCache(folder: mixed.folder.path + "/none").clear().files == 0)
    }
}

struct CacheTroubleTests {
    /// A place that cannot be written stops nothing, and is told once.
    @Test func noPlaceToWrite() throws {
        let mixed = try MixedRows(seed: 8, rows: 24)
        let file = try mixed.folder.file("in-the-way", "x")
        let rows = try EncodedRows(mixed.source, encoder(), cache: TokenCache(folder: file + "/tokens"))
        #expect(rows.notes.count == 1 && rows.notes[0].hasPrefix("tokens are not kept: \(file)"), "\(rows.notes)")
        try expectEqual(rows, try EncodedRows(mixed.source, encoder()))
        // A folder where the file should be.
        let cache = TokenCache(folder: mixed.folder.path + "/t")
        _ = try EncodedRows(mixed.source, encoder(), cache: cache)
        let path = try cache.entries()[0].path
        try removeTree(path)
        try createDirectories(path)
        let again = try EncodedRows(mixed.source, encoder(), cache: cache)
        #expect(again.notes.count == 1 && again.notes[0].contains("is a folder"), "\(again.notes)")
        try expectEqual(again, try EncodedRows(mixed.source, encoder()))
    }

    /// Errors of rows are errors with a cache, too, and leave nothing in it.
    @Test func badRowsAreNotKept() throws {
        let mixed = try MixedRows(seed: 8, badRows: .stop), cache = TokenCache(folder: mixed.folder.path + "/t")
        let error = #expect(throws: BadRow.self) { try EncodedRows(mixed.source, encoder(), threads: 2, cache: cache) }
        let without = #expect(throws: BadRow.self) { try EncodedRows(mixed.source, encoder()) }
        #expect(error == without)
        #expect(try listFolder(cache.folder).isEmpty)
    }

    /// A file that changes between its hash and its reading is not kept under the hash.
    @Test func anEditUnderWayIsRefused() throws {
        let folder = try TemporaryFolder(), cache = TokenCache(folder: folder.path + "/t")
        let text = #"{"prompt":"the","completion":"answer"}"# + "\n"
        let path = try folder.file("a.jsonl", text)
        let error = #expect(throws: UserError.self) {
            try EncodedRows(
                DataSource([path]), encoder(), cache: cache,
                selection: .some(name: "x") { _ in
                    let file = try OutputFile(appendingTo: path, keeping: 0)
                    try file.append(text.replacing("the", with: "THE"))
                    try file.flush()
                    return [0]
                })
        }
        #expect(
            error?.message.hasSuffix("a.jsonl: changed while it was in use; another program is writing there") == true)
        #expect(try listFolder(cache.folder).isEmpty)
    }

    /// Several at a time: each finds or makes the same tokens.
    @Test func anyNumberAtATime() throws {
        let mixed = try MixedRows(seed: 12, rows: 300), cache = TokenCache(folder: mixed.folder.path + "/t")
        let source = mixed.source, encoder = try encoder()
        let expected = Array(try EncodedRows(source, encoder).dataset().0)
        for _ in 0..<5 {
            _ = try cache.clear()
            try runInParallel(6, threads: 6) { _ in
                let rows = try EncodedRows(source, encoder, threads: 2, cache: cache)
                #expect(rows.notes.count == 1)
                #expect(Array(try rows.dataset().0) == expected)
            }
            #expect(try listFolder(cache.folder).count == 1)
        }
    }
}
