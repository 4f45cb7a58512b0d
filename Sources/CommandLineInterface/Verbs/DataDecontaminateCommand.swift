// needletail data: decontaminate
public import ArgumentParser
internal import Datasets
internal import Diagnostics
internal import Formats

extension DataCommand {
    public struct Decontaminate: EngineCommand {
        enum Match: String, CaseIterable, ExpressibleByArgument { case exact, ngram, vector }

        public static let configuration = CommandConfiguration(
            commandName: "decontaminate",
            abstract: "Find training rows that hold questions of test sets; leave them out.",
            discussion: """
                Compares what is asked (user turns, prompts, documents) word by word; case and punctuation make no \
                difference. --match exact wants all words of a question one behind the other in a training row; ngram \
                looks for runs of --ngram words and scores a row by the share of the question's words that its runs \
                cover, and a question shorter than that matches only a turn with the same words. vector compares the vectors \
                that a BERT or MiniLM folder (--encoder) gives the questions, which finds other words for the same.

                Test sets are rows of any kind; of others --test-column says where the question stands: text=question \
                of GSM8K and MMLU.

                --report writes a table of training file, test file, rows, questions and how many were found; --matches \
                a line for each match; --output the rows without a match.

                Example:
                  needletail data decontaminate a.jsonl --test b.jsonl --output c.jsonl
                """)

        @Argument(help: ArgumentHelp("Training rows.", valueName: "data"), completion: .file())
        var data: [String]

        @Option(help: ArgumentHelp("Rows of a test set; may be repeated.", valueName: "test"), completion: .file())
        var test: [String]

        @Option(
            help: ArgumentHelp(
                "Read a field of the test sets from another column, as text=question; may be repeated.",
                valueName: "field=column"))
        var testColumn: [String] = []

        @OptionGroup var shape: RowShapeOptions
        @OptionGroup var policy: RowPolicyOptions

        @Option(help: "exact: whole questions; ngram: runs of words; vector: what an encoder makes of them.")
        var match: Match = .ngram

        @Option(
            help: ArgumentHelp(
                "The folder of the encoder for --match vector, as `needletail embed` takes it.", valueName: "model"),
            completion: .directory)
        public var encoder: String?

        @Option(help: ArgumentHelp("Words of a run.", valueName: "words"))
        var ngram: Int = 8

        @Option(
            help: ArgumentHelp(
                "Least share of a question's words that counts as a match (0.5), of vectors the least cosine (0.9).",
                valueName: "share"))
        var threshold: Double?

        @Option(help: ArgumentHelp("Where the rows without a match go.", valueName: "file"), completion: .file())
        var output: String?

        @Option(
            help: ArgumentHelp("Where the table goes, tabs between its columns.", valueName: "file"),
            completion: .file())
        var report: String?

        @Option(help: ArgumentHelp("Where the matches go, as JSON lines.", valueName: "file"), completion: .file())
        var matches: String?

        @Flag(help: "Write the table as JSON on standard output.")
        var json = false

        public init() {}

        public func validate() throws {
            try require((1...64).contains(ngram), "--ngram is 1 to 64, not \(ngram)")
            try require(
                (match == .vector) == (encoder != nil), "--match vector and --encoder go together; give both or neither"
            )
            _ = try columnMap(testColumn, "--test-column")
            if let threshold {
                try require(threshold > 0 && threshold <= 1, "--threshold is above 0 and at most 1, not \(threshold)")
            }
            let files = [output, report, matches].compactMap { $0 }
            let toStandardOutput = files.count { $0 == "-" } + (json ? 1 : 0)
            try require(toStandardOutput <= 1, "only one of the results can go to standard output")
        }

        public func run() throws {
            if encoder == nil { try run(vectors: nil) } else { try executeEngine() }
        }

        /// - Parameter vectors: of texts, for `--match vector`.
        public func run(vectors: (([String]) throws -> [[Float]])?) throws {
            let format = try output.map(RowWriter.format(path:))
            let columns = try columnMap(testColumn, "--test-column")
            let sources = test.map { DataSource([$0], columnMap: columns, takesEveryKind: true) }
            let tests = try sources.map { try Rows($0) }
            // That a test set has other columns than questions goes without saying.
            try sources.flatMap { try $0.folderRemarks() }.forEach(note)
            let training = try policy.read(try shape.source(data))
            let hits = try vectors.map { try closeRows(tests, training, $0) } ?? wordHits(tests, training)
            let pairs = table(hits, training, tests)
            if let report {
                let names = [
                    "train", "test", "train_rows", "questions", "contaminated_rows", "found_questions", "share",
                ]
                let lines = try LinesOutput(report)
                for line in [names] + pairs.map(\.fields) {
                    try lines.write(Array(csvLine(line, separator: "\t").utf8))
                }
                try lines.finish()
            }
            if let matches { try write(hits, training, tests, to: matches) }
            if let output, let format {
                let found = Set(hits.map(\.row))
                let clean = training.indices.filter { !found.contains($0) }
                guard !clean.isEmpty else {
                    throw UserError(
                        "\(output): not written: of \(counted(training.count, "row")) none is without a question of the test "
                            + "sets; --matches FILE tells which\(match == .exact ? "" : "; --threshold can be raised")")
                }
                let (written, _) = try writeRows(training, clean, to: output, format, as: nil, drops: false)
                note("\(counted(written, "row")) of \(grouped(training.count)) written")
            }
            if json {
                try StandardOutput.write(JSONValue.array(pairs.map(\.json)).serialized(.compact) + "\n")
            } else if ![output, report, matches].contains("-") {
                for pair in pairs { try StandardOutput.write(pair.line + "\n") }
            }
        }

        private func wordHits(_ tests: [Rows], _ training: Rows) throws -> [ContaminationHit] {
            var index = ContaminationIndex(match == .exact ? .exact : .ngram, n: ngram, threshold: threshold ?? 0.5)
            for (i, rows) in tests.enumerated() {
                let added = try rows.indices.count { index.add(try rows[$0].content, test: i, row: $0) }
                noteWordless(rows.count - added, i)
            }
            return try find(index, training)
        }

        private func noteWordless(_ count: Int, _ i: Int) {
            if count > 0 { note("\(test[i]): \(counted(count, "row")) without a word to look for") }
        }

        private func noteUnasked(_ count: Int) {
            if count > 0 {
                note("\(counted(count, "training row")) without a question to compare, such as tags or tables")
            }
        }

        private func closeRows(
            _ tests: [Rows], _ training: Rows, _ vectors: ([String]) throws -> [[Float]]
        ) throws -> [ContaminationHit] {
            var index = VectorContaminationIndex(threshold: threshold ?? 0.9), hits: [ContaminationHit] = []
            /// The vectors of rows that ask something.
            func each(_ rows: Rows, _ body: (Int, [Float]) -> Void) throws -> Int {
                var asked = 0
                for start in stride(from: 0, to: rows.count, by: 256) {
                    let texts = try (start..<min(start + 256, rows.count)).map {
                        ($0, try rows[$0].content.questions.joined(separator: "\n"))
                    }.filter { !$0.1.allSatisfy(\.isWhitespace) }
                    for (text, vector) in zip(texts, try vectors(texts.map(\.1))) { body(text.0, vector) }
                    asked += texts.count
                }
                return asked
            }
            for (i, rows) in tests.enumerated() {
                let asked = try each(rows) { index.add($1, test: i, row: $0) }
                noteWordless(rows.count - asked, i)
            }
            let asked = try each(training) { hits += index.hits($1, row: $0) }
            noteUnasked(training.count - asked)
            return hits
        }

        private func find(_ index: ContaminationIndex, _ rows: Rows) throws -> [ContaminationHit] {
            var hits: [ContaminationHit] = [], unasked = 0
            let size = 256
            try runInOrder((rows.count + size - 1) / size, threads: policy.workers.count) { part in
                try (part * size..<min((part + 1) * size, rows.count)).map { index.hits(try rows[$0].content, row: $0) }
            } consume: { part in
                for found in part {
                    hits += found ?? []
                    unasked += found == nil ? 1 : 0
                }
            }
            noteUnasked(unasked)
            return hits
        }

        private struct Pair {
            let train: String, test: String
            let rows: Int, questions: Int, contaminated: Int, found: Int

            private var share: Double { Double(found) / Double(questions) }
            var fields: [String] {
                [
                    train, test, "\(rows)", "\(questions)", "\(contaminated)", "\(found)",
                    "\((share * 1e4).rounded() / 1e4)",
                ]
            }
            var json: JSONValue {
                [
                    "train": .string(train), "test": .string(test), "train_rows": .init(rows),
                    "questions": .init(questions),
                    "contaminated_rows": .init(contaminated), "found_questions": .init(found), "share": .init(share),
                ]
            }
            var line: String {
                "\(escapedForDisplay(train)), \(escapedForDisplay(test)): \(grouped(found)) of "
                    + "\(counted(questions, "question")) found, in \(grouped(contaminated)) of \(counted(rows, "row"))"
            }
        }

        private func table(_ hits: [ContaminationHit], _ training: Rows, _ tests: [Rows]) -> [Pair] {
            data.indices.flatMap { source in
                tests.indices.map { i in
                    let own = hits.filter { $0.test == i && training.source($0.row) == source }
                    return Pair(
                        train: data[source], test: test[i],
                        rows: training.indices.count { training.source($0) == source },
                        questions: tests[i].count, contaminated: Set(own.map(\.row)).count,
                        found: Set(own.map(\.question)).count)
                }
            }
        }

        private func write(_ hits: [ContaminationHit], _ training: Rows, _ tests: [Rows], to path: String) throws {
            let lines = try LinesOutput(path)
            for hit in hits {
                let row = training.location(hit.row), question = tests[hit.test].location(hit.question)
                let object = JSONObject([
                    ("train", .string(row.file)), ("train_\(row.unit.rawValue)", .init(row.number)),
                    ("test", .string(question.file)), ("test_\(question.unit.rawValue)", .init(question.number)),
                    ("score", .init(hit.score)),
                    ("question", .string(try tests[hit.test][hit.question].content.questions.joined(separator: "\n"))),
                ])
                try lines.write(JSONValue.object(object).serialized(.compact))
            }
            try lines.finish()
        }
    }
}
