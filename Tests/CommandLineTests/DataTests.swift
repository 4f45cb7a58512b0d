// The data verbs as a person would use them: files in, files and reports out.
import Diagnostics
import Formats
import Testing

private func lines(_ text: String) -> [String] { text.split(separator: "\n").map(String.init) }

private func write(_ text: String, _ name: String, in folder: String) throws {
    try writeFileAtomically(text, to: "\(folder)/\(name)")
}

private func pairs(_ range: Range<Int>) -> String {
    range.map { "{\"prompt\":\"What is the number \($0)?\",\"completion\":\"It is \($0).\"}\n" }.joined()
}

struct DataVerbTests {
    @Test func convertGoesRound() throws {
        try withTemporaryFolder { folder in
            try write(pairs(0..<9), "a.jsonl", in: folder)
            let outcome = try shell(
                "needletail data convert a.jsonl b.csv && needletail data convert b.csv c.json && "
                    + "needletail data convert c.json d.tsv --to chat && needletail data convert d.tsv e.jsonl --to sharegpt && "
                    + "needletail data convert e.jsonl f.jsonl --to prompt_completion && cmp a.jsonl f.jsonl && "
                    + "needletail data convert b.csv - | cmp - a.jsonl", in: folder)
            #expect(outcome.status == 0, "\(outcome.errors)")
            #expect(lines(outcome.errors).first == "9 rows written")
        }
    }

    @Test func badRowsEndOrAreLeftOut() throws {
        try withTemporaryFolder { folder in
            try write(pairs(0..<3) + "{\"prompt\":\"q\"}\n", "a.jsonl", in: folder)
            let stopped = try shell("needletail data convert a.jsonl b.csv", in: folder)
            #expect(stopped.status == 65 && stopped.output.isEmpty)
            #expect(stopped.errors == "error: a.jsonl line 4: no \"completion\" key; found \"prompt\"\n")
            #expect(!fileExists("\(folder)/b.csv"))
            let dropped = try shell("needletail data convert a.jsonl b.csv --bad-rows drop", in: folder)
            #expect(dropped.status == 0)
            #expect(
                dropped.errors.contains("dropped 1 missing_key: a.jsonl line 4")
                    && dropped.errors.hasSuffix("3 rows written\n"))
        }
    }

    @Test func filterCounts() throws {
        try withTemporaryFolder { folder in
            try write(pairs(8..<12), "a.jsonl", in: folder)
            let outcome = try shell(
                "needletail data filter a.jsonl b.jsonl --step characters:min=31 --step 'keyword:drop=NUMBER 11' --json",
                in: folder)
            #expect(outcome.status == 0, "\(outcome.errors)")
            #expect(
                outcome.output
                    == #"{"rows_in":4,"rows_out":1,"filtered":{"characters:min=31":2,"keyword:drop=NUMBER 11":1},"duplicates":0,"dropped":{}}"#
                    + "\n")
            #expect(try readTextFile("\(folder)/b.jsonl") == pairs(10..<11))
            let wrong = try shell("needletail data filter a.jsonl b.jsonl --step lenght:min=3", in: folder)
            #expect(wrong.status == 64 && wrong.errors.hasPrefix("error: no transform is named \"lenght\""))
        }
    }

    /// open-instruct's amounts: a row, all, half, two and a half times.
    @Test func mixTakesAmounts() throws {
        try withTemporaryFolder { folder in
            for (i, name) in ["a", "b", "c", "d"].enumerated() {
                try write(pairs(i * 1000..<i * 1000 + 101), "\(name).jsonl", in: folder)
            }
            let command =
                "needletail data mix a.jsonl 1 b.jsonl 1.0 c.jsonl 0.5 d.jsonl 2.5 --output mixed.jsonl --json"
            let outcome = try shell(command, in: folder)
            #expect(outcome.status == 0, "\(outcome.errors)")
            let report = try JSONValue.parse(outcome.output)
            #expect(report["sources"]?.array?.compactMap { $0["taken"]?.int } == [1, 101, 50, 252])
            #expect(report["rows"]?.int == 404)
            #expect(outcome.errors.contains("a.jsonl: 1 is 1 row of 101; for all of them write 1.0"))
            let mixed = try readTextFile("\(folder)/mixed.jsonl")
            #expect(lines(mixed).count == 404)
            let again = try shell("cp mixed.jsonl first; \(command) && cmp first mixed.jsonl", in: folder)
            #expect(again.status == 0)
            let shuffled = try shell("\(command) --shuffle && sort first > x && sort mixed.jsonl | cmp - x", in: folder)
            #expect(shuffled.status == 0)
            #expect(try readTextFile("\(folder)/mixed.jsonl") != mixed)
            let odd = try shell("needletail data mix a.jsonl --output x.jsonl", in: folder)
            #expect(odd.status == 64)
        }
    }

    @Test func decontaminateLeavesFoundRowsOut() throws {
        try withTemporaryFolder { folder in
            func question(_ name: String) -> String {
                "How many apples has \(name) when three baskets of twelve apples each are full"
            }
            let rows = ["Ann", "Bob", "Eve"].map { "{\"prompt\":\"\(question($0))?\",\"completion\":\"36\"}\n" }
            try write(rows.joined() + pairs(0..<5), "train.jsonl", in: folder)
            try write(
                "{\"question\":\"\(question("BOB").uppercased())\",\"answer\":\"36\"}\n", "test.jsonl", in: folder)
            let unknown = try shell("needletail data decontaminate train.jsonl --test test.jsonl", in: folder)
            #expect(unknown.status == 65)
            let columns = "--test-column prompt=question --test-column completion=answer"
            let exact = try shell(
                "needletail data decontaminate train.jsonl --test test.jsonl --match exact --output clean.jsonl --report r.tsv "
                    + "--matches m.jsonl \(columns)", in: folder)
            #expect(exact.status == 0, "\(exact.errors)")
            #expect(exact.output == "train.jsonl, test.jsonl: 1 of 1 question found, in 1 of 8 rows\n")
            #expect(lines(try readTextFile("\(folder)/clean.jsonl")).count == 7)
            #expect(lines(try readTextFile("\(folder)/r.tsv"))[1] == "train.jsonl\ttest.jsonl\t8\t1\t1\t1\t1.0")
            let match = try JSONValue.parse(try readTextFile("\(folder)/m.jsonl"))
            #expect(match["train_line"]?.int == 2 && match["test_line"]?.int == 1 && match["score"]?.double == 1)
            let runs = try shell(
                "needletail data decontaminate train.jsonl --test test.jsonl --json \(columns)", in: folder)
            #expect(try JSONValue.parse(runs.output).array?[0]["contaminated_rows"]?.int == 3)
        }
    }

    /// A file without a row would be read as a mistake later; nothing is written.
    @Test(arguments: [
        (
            "decontaminate a.jsonl --test a.jsonl --output out.jsonl",
            "out.jsonl: not written: of 3 rows none is without a question of the test sets; "
        ),
        (
            "filter a.jsonl out.jsonl --step characters:min=1000",
            "all rows dropped: filtered 3; first: a.jsonl line 1: "
        ),
        ("convert tags.jsonl out.jsonl --to chat --bad-rows drop", "out.jsonl: not written: none of 2 rows is left"),
    ])
    func noFileIsWrittenWithoutRows(_ command: String, _ message: String) throws {
        try withTemporaryFolder { folder in
            try write(pairs(0..<3), "a.jsonl", in: folder)
            let tags = "{\"tokens\":[\"a\"],\"tags\":[\"x\"]}\n"
            try write(tags + tags, "tags.jsonl", in: folder)
            let outcome = try shell("ls > before; needletail data \(command); code=$?; ls; exit $code", in: folder)
            #expect(outcome.status == 65 && outcome.output == "a.jsonl\nbefore\ntags.jsonl\n", "\(outcome)")
            let errors = lines(outcome.errors).filter { $0.hasPrefix("error: ") }
            #expect(errors.count == 1 && errors[0].hasPrefix("error: " + message), "\(outcome.errors)")
        }
    }

    /// What was found is not lost with what is left.
    @Test func contaminationIsReportedWhereNoRowIsLeft() throws {
        try withTemporaryFolder { folder in
            try write(pairs(0..<3), "a.jsonl", in: folder)
            let outcome = try shell(
                "needletail data decontaminate a.jsonl --test a.jsonl --match exact --output o.jsonl --matches m.jsonl; ls",
                in: folder)
            #expect(outcome.output == "a.jsonl\nm.jsonl\n" && !outcome.errors.contains("--threshold"), "\(outcome)")
            #expect(lines(try readTextFile("\(folder)/m.jsonl")).count == 3)
        }
    }

    @Test func packSaysWhatIsWasted() throws {
        try withTemporaryFolder { folder in
            try write(pairs(0..<20), "a.jsonl", in: folder)
            _ = try shell("needletail data tiny-model tiny", in: folder)
            var waste: [Double] = []
            for strategy in ["best_fit", "in_order"] {
                let outcome = try shell(
                    "needletail data pack tiny a.jsonl --template chatml --max-length 128 --length 200 --strategy \(strategy) "
                        + "--output packs.jsonl --json", in: folder)
                #expect(outcome.status == 0, "\(outcome.errors)")
                let report = try JSONValue.parse(outcome.output)
                let packs = try lines(readTextFile("\(folder)/packs.jsonl")).map { try JSONValue.parse($0) }
                let tokens = packs.reduce(0) { $0 + ($1["input_ids"]?.array?.count ?? 0) }
                let rows = packs.reduce(0) { $0 + ($1["document_starts"]?.array?.count ?? 0) - 1 }
                #expect(rows == 20 && report["packs"]?.int == packs.count && report["tokens"]?.int == tokens)
                let expected = Double(packs.count * 200 - tokens) / Double(packs.count * 200)
                #expect(report["waste"]?.double == expected)
                waste.append(expected)
            }
            #expect(waste[0] <= waste[1])
        }
    }

    private func pack(_ flags: String, in folder: String) throws -> (report: JSONValue, packs: [JSONValue]) {
        let outcome = try shell(
            "needletail data pack tiny a.jsonl --template chatml --output packs.jsonl --json \(flags)", in: folder)
        #expect(outcome.status == 0, "\(outcome.errors)")
        return (
            try JSONValue.parse(outcome.output),
            try lines(readTextFile("\(folder)/packs.jsonl")).map { try JSONValue.parse($0) }
        )
    }

    private func numbers(_ pack: JSONValue, _ name: String) -> [Int] { pack[name]?.array?.compactMap(\.int) ?? [] }

    @Test func packsAreFullWhereRowsAreCut() throws {
        try withTemporaryFolder { folder in
            try write(pairs(0..<20), "a.jsonl", in: folder)
            _ = try shell("needletail data tiny-model tiny", in: folder)
            let whole = try pack("--max-length 400 --strategy in_order", in: folder)
            let ids = whole.packs.flatMap { numbers($0, "input_ids") }
            let (report, packs) = try pack("--max-length 400 --length 37 --split-across-packs", in: folder)
            #expect(packs.count > 10 && packs.dropLast().allSatisfy { numbers($0, "input_ids").count == 37 })
            #expect(packs.flatMap { numbers($0, "input_ids") } == ids)
            var trained = 0
            for pack in packs {
                let (labels, positions) = (numbers(pack, "labels"), numbers(pack, "position_ids"))
                let starts = numbers(pack, "document_starts")
                trained += labels.count { $0 != -100 }
                #expect(labels.count == positions.count && starts.last == labels.count)
                for (start, end) in zip(starts, starts.dropFirst()) {
                    #expect(labels[end - 1] == -100 && Array(positions[start..<end]) == Array(0..<end - start))
                }
            }
            #expect(report["trained_tokens"]?.int == trained && (report["rows_split"]?.int ?? 0) > 5)
            #expect(trained < whole.report["trained_tokens"]?.int ?? 0)
            let room = packs.count * 37
            #expect(report["waste"]?.double == Double(room - ids.count) / Double(room))
            #expect(report["rows"]?.int == 20 && report["tokens_left_out"]?.int == 0)
        }
    }

    @Test func packsEndWhereTheyMay() throws {
        try withTemporaryFolder { folder in
            try write(pairs(0..<20), "a.jsonl", in: folder)
            _ = try shell("needletail data tiny-model tiny", in: folder)
            for flags in ["--length 200", "--length 200 --strategy in_order", "--length 37 --split-across-packs"] {
                let all = try pack("--max-length 150 \(flags)", in: folder)
                let some = try pack("--max-length 150 --max-packs 2 \(flags)", in: folder)
                #expect(some.packs == Array(all.packs.prefix(2)) && all.packs.count > 2)
                let tokens = some.packs.reduce(0) { $0 + numbers($1, "input_ids").count }
                #expect(some.report["packs"]?.int == 2 && some.report["tokens"]?.int == tokens)
                #expect(some.report["tokens_left_out"]?.int == (all.report["tokens"]?.int ?? 0) - tokens)
                #expect((some.report["rows"]?.int ?? 0) + (some.report["rows_left_out"]?.int ?? 0) == 20)
                #expect((some.report["rows_left_out"]?.int ?? 0) > 0 && all.report["rows_left_out"]?.int == 0)
                #expect(try pack("--max-length 150 --max-packs 1000 \(flags)", in: folder).packs == all.packs)
            }
            let told = try shell(
                "needletail data pack tiny a.jsonl --template chatml --length 40 --max-length 400 --split-across-packs "
                    + "--max-packs 2",
                in: folder)
            #expect(told.output.contains("in 2 packs of 40\nwaste: 0.0 %"), "\(told)")
            #expect(told.output.contains("left out by --max-packs: "), "\(told)")
        }
    }

    @Test func rowsTooLongForAPackAreCounted() throws {
        try withTemporaryFolder { folder in
            let long = "{\"prompt\":\"q\",\"completion\":\"\(String(repeating: "so ", count: 200))\"}\n"
            try write(pairs(0..<3) + long, "a.jsonl", in: folder)
            _ = try shell("needletail data tiny-model tiny", in: folder)
            let command = "needletail data pack tiny a.jsonl --template chatml --max-length 120"
            let dropped = try shell("\(command) --truncation drop", in: folder)
            #expect(dropped.output.hasPrefix("3 rows, "), "\(dropped)")
            #expect(dropped.errors.contains("dropped 1 longer_than_max_length: a.jsonl line 4"), "\(dropped)")
            let cut = try shell(command, in: folder)
            #expect(cut.output.hasPrefix("4 rows, ") && cut.errors.contains("cut at max_length: 1 row, "), "\(cut)")
            // Without a limit of its own a row is as long as a pack.
            let short = try shell("needletail data pack tiny a.jsonl --template chatml --length 120", in: folder)
            #expect(short.status == 0 && short.output == cut.output && short.errors == cut.errors, "\(short)")
            let split = try shell("\(command) --truncation split", in: folder)
            #expect(split.errors.contains("made several of 1 row longer than max_length"), "\(split)")
            for flags in [
                "--length 100", "--max-packs 0", "--split-across-packs --strategy best_fit",
                "--length 1 --split-across-packs",
            ] {
                let refused = try shell("\(command) \(flags)", in: folder)
                #expect(refused.status == 64 && refused.errors.hasPrefix("error: --"), "\(refused)")
            }
        }
    }

    @Test func statisticsNameSourcesAndSteps() throws {
        try withTemporaryFolder { folder in
            try write(pairs(0..<20), "a.jsonl", in: folder)
            try write(pairs(100..<104), "b.jsonl", in: folder)
            _ = try shell("needletail data tiny-model tiny", in: folder)
            let outcome = try shell(
                "needletail data stats tiny a.jsonl b.jsonl --template chatml --transform characters:min=31 --output s.json --json",
                in: folder)
            #expect(outcome.status == 0, "\(outcome.errors)")
            #expect(try readTextFile("\(folder)/s.json") == outcome.output)
            let statistics = try JSONValue.parse(outcome.output)
            #expect(statistics["filtered"] == ["characters:min=31": 10])
            #expect(statistics["sources"]?.array?.map { $0["rows_out"]?.int } == [10, 4])
            #expect(
                statistics["sources"]?.array?.compactMap { $0["tokens"]?.int }.reduce(0, +) == statistics["tokens"]?.int
            )
        }
    }

    /// Imitated rows and others: what was left out stands in the report, and beside JSON, which only counts it.
    @Test(arguments: [
        "{\"text\":\"one\"}\n{\"txt\":1}\n",
        "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b\"}\n{\"prompt\":\"q\",\"chosen\":\"a\"}\n",
    ])
    func statisticsTellOnceWhatIsLeftOut(_ rows: String) throws {
        try withTemporaryFolder { folder in
            try write(rows, "a.jsonl", in: folder)
            _ = try shell("needletail data tiny-model tiny", in: folder)
            let shown = try shell("needletail data stats tiny a.jsonl", in: folder)
            #expect(shown.status == 0 && shown.errors.isEmpty, "\(shown)")
            #expect(
                lines(shown.output).count { $0.hasPrefix("dropped 1 missing_key: a.jsonl line 2: ") } == 1, "\(shown)")
            let json = try shell("needletail data stats tiny a.jsonl --json", in: folder)
            #expect(json.status == 0 && lines(json.output).count == 1, "\(json)")
            #expect(
                lines(json.errors).count { $0.hasPrefix("dropped 1 missing_key: a.jsonl line 2: ") } == 1, "\(json)")
        }
    }

    /// Once, by verbs that read all rows and by those that tokenize them.
    @Test func foldersInAFolderAreTold() throws {
        try withTemporaryFolder { folder in
            _ = try shell("mkdir -p rows/old rows/pictures && needletail data tiny-model tiny", in: folder)
            for name in ["a", "old/o"] { try write(pairs(0..<3), "rows/\(name).jsonl", in: folder) }
            try write(pairs(3..<6), "b.jsonl", in: folder)
            let remark = "rows: its own folders \"old\" are not read; give them as data, too, or name a split\n"
            for command in [
                "stats tiny rows --template chatml", "convert rows c.csv", "decontaminate b.jsonl --test rows",
            ] {
                let outcome = try shell("needletail data \(command)", in: folder)
                #expect(outcome.status == 0 && outcome.errors.hasPrefix(remark), "\(command): \(outcome.errors)")
                #expect(
                    outcome.errors.split(separator: "\n").count { $0.contains("not read") } == 1,
                    "\(command): \(outcome.errors)")
            }
        }
    }

    /// Rows of other tasks are looked at and counted, and training refuses them in one line.
    @Test func preferencesAreReadAndNotTrained() throws {
        try withTemporaryFolder { folder in
            try write("{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b\"}\n", "p.jsonl", in: folder)
            _ = try shell("needletail data tiny-model tiny", in: folder)
            let seen = try shell("needletail data inspect tiny p.jsonl", in: folder)
            #expect(seen.status == 0 && seen.output.hasPrefix("{\"chosen\":["), "\(seen.errors)")
            #expect(
                try shell("needletail data stats tiny p.jsonl", in: folder).output.hasPrefix("rows: 1 read, 1 used"))
            let refused = try shell(
                "export HOME=$PWD; needletail data cache fill sft-lora model.path=tiny data.train=p.jsonl data.template=chatml",
                in: folder)
            #expect(refused.status == 65)
            #expect(
                refused.errors
                    == "error: data.train: p.jsonl: rows of kind preference cannot be imitated; "
                    + "`needletail data convert --to chat` makes chats of the chosen answers\n")
        }
    }

    /// The second run takes its tokens from the cache, whatever the amounts.
    @Test func configsMixAndTransform() throws {
        try withTemporaryFolder { folder in
            try write(pairs(0..<40), "a.jsonl", in: folder)
            try write(pairs(100..<110), "b.jsonl", in: folder)
            _ = try shell("needletail data tiny-model tiny", in: folder)
            let command =
                "export HOME=$PWD; needletail data cache fill sft-lora model.path=tiny data.template=chatml "
                + "'data.train=[a.jsonl, b.jsonl]' data.validation_fraction=0 "
            let steps = "'data.transforms=[\"characters:min=31\"]'"
            let first = try shell("\(command) \(steps) 'data.mix=[1.0, 2.5]'", in: folder)
            #expect(first.status == 0, "\(first.errors)")
            #expect(first.output.contains("mixed: 25 rows of b.jsonl, which has 10 to train on"))
            #expect(first.output.contains("tokens kept in the cache"))
            #expect(
                first.output.contains("b.jsonl: 10 read, 25 used")
                    && first.output.contains("left out 10 by characters:min=31"))
            let second = try shell("\(command) \(steps) 'data.mix=[0.5, 3]'", in: folder)
            #expect(
                second.output.contains("tokens from the cache") && second.output.contains("mixed: 3 rows of b.jsonl"))
            for (change, message) in [
                ("'data.mix=[1.0]'", "data.mix: 1 amount for 2 paths in data.train; give one each"),
                ("'data.mix=[1.0, x]'", "data.mix[1]: \"x\" is no amount"),
                (
                    "'data.transforms=[\"strp\"]'",
                    "data.transforms[0]: no transform is named \"strp\"; did you mean strip?"
                ),
                ("data.kind=preference", "rows of kind preference cannot be imitated"),
                ("data.validation_split=test", "has no effect without data.validation"),
            ] {
                let checked = try shell(
                    command.replacing("data cache fill", with: "recipes check") + " \(change)", in: folder)
                #expect(checked.status == 64 && checked.errors.contains(message), "\(change): \(checked.errors)")
            }
        }
    }

    /// A front program that reads no Parquet does not open Arrow's libraries.
    @Test func parquetIsOpenedAtFirstUse() throws {
        try withTemporaryFolder { folder in
            let libraries = try shell("ldd \(products)/needletail", in: folder)
            #expect(
                libraries.status == 0 && !libraries.output.contains("arrow") && !libraries.output.contains("parquet"))
            let shim = try shell("ldd \(products)/libneedletail-arrow.so", in: folder).output
            #expect(shim.contains("libarrow") && !shim.contains("swift") && !shim.contains("not found"), "\(shim)")
            try write("PAR1", "a.parquet", in: folder)
            let outcome = try shell("needletail data convert a.parquet b.jsonl", in: folder)
            #expect(
                outcome.status == 65 && outcome.errors.hasPrefix("error: a.parquet: cannot be read as Parquet: "),
                "\(outcome.errors)")
        }
    }
}
