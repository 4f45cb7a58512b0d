// needletail data: inspect, stats (cache: DataCacheCommand.swift; reasoning and tiny-model: ReasoningCommand.swift)
public import ArgumentParser
public import Datasets
internal import Diagnostics
internal import Formats
internal import Glibc
internal import RecipeData
internal import RunConfig
internal import Tokenizers

/// What training would see of rows, without loading a model's weights.
public struct DataCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "data",
        abstract: "See what training would see of your rows.",
        discussion: """
            Example:
              needletail data inspect ./SmolLM2-135M-Instruct chats.jsonl --limit 1
            """,
        subcommands: [Inspect.self, Stats.self, TokenCacheGroup.self, ReasoningRows.self, TinyModelFolder.self])

    public init() {}

    struct Inspect: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "inspect", abstract: "Print rows as the model reads them, trained tokens marked.",
            discussion: """
                Trained text is green on a terminal and [[in brackets]] elsewhere. --json writes one line a row:

                  {"source":"a.jsonl line 1","text":"2+2<|im_end|>",
                   "ids":[34,27,34,2],"tokens":["2","+","2","<|im_end|>"],
                   "offsets":[[0,1],[1,2],[2,3],[3,13]],
                   "trained":[0,1,1,1],"trained_tokens":3,"truncated":0}

                (on one line).

                Example:
                  needletail data inspect ./SmolLM2-135M-Instruct chats.jsonl --limit 2
                """)

        @OptionGroup var model: TokenizerOptions
        @OptionGroup var rows: RowOptions

        @Option(help: ArgumentHelp("Print this many rows.", valueName: "rows"))
        var limit: Int = 3

        @Flag(help: "Write JSON lines.")
        var json = false

        func validate() throws { try require(limit > 0, "--limit is 1 or more, not \(limit)") }

        func run() throws {
            let tokenizer = try model.tokenizer()
            let encoder = try rows.encoder(tokenizer)
            let all = try rows.read()
            let style: InspectionStyle = isatty(STDOUT_FILENO) == 1 ? .ansi : .marks
            for index in all.indices.prefix(limit) {
                let row: EncodedRow
                do {
                    row = try encoder.encode(all[index], source: all.sourceName(index))
                } catch let bad as BadRow {
                    complainOfRow(bad)
                    continue
                }
                try StandardOutput.write(json ? row.json(tokenizer).serialized(.compact) + "\n" : row.block(style))
            }
        }
    }

    struct Stats: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "stats", abstract: "Count rows and tokens, what is dropped and why, and lengths.",
            discussion: """
                Example:
                  needletail data stats ./SmolLM2-135M-Instruct chats.jsonl --max-length 1024
                """)

        @OptionGroup var model: TokenizerOptions
        @OptionGroup var rows: RowOptions
        @OptionGroup var workers: RowThreads

        @Flag(help: "Write JSON.")
        var json = false

        func run() throws {
            let encoder = try rows.encoder(try model.tokenizer())
            let all = try EncodedRows(try rows.source(), encoder, threads: workers.count)
            rows.report(all.warnings, all.statistics)
            let statistics = all.datasetStatistics
            let text = json ? statistics.json.serialized(.compact) : statistics.report.joined(separator: "\n")
            try StandardOutput.write(text + "\n")
        }
    }
}

/// What the rows of a file are; names, choices and defaults are those of the section `data` of a config.
public struct RowKindOptions: ParsableArguments {
    @Option(help: "What the rows are; auto looks at their columns.")
    var kind: DataSection.Kind = .auto

    @Option(help: ArgumentHelp("Read a field from another column; may be repeated.", valueName: "field=column"))
    var column: [String] = []

    @Option(help: "What of a plain text file is one row; paragraphs end at blank lines.")
    var textUnit: DataSection.TextUnit = .file

    @Option(
        help: ArgumentHelp(
            "A chat template's file, or one that comes with the program, instead of the model's own.",
            valueName: "template"),
        completion: .file())
    var template: String?

    public init() {}

    public func validate() throws {
        for pair in column where !pair.dropFirst().contains("=") {
            throw ValidationError("--column is field=column (for example messages=chat), not '\(pair)'")
        }
    }

    /// The options as a config would have them.
    fileprivate var section: DataSection {
        var section = DataSection()
        (section.kind, section.textUnit, section.template) = (kind, textUnit, template)
        for pair in column {
            let parts = pair.split(separator: "=", maxSplits: 1)
            section.columnMap[String(parts[0])] = parts.count > 1 ? String(parts[1]) : ""
        }
        return section
    }

    /// Reads and checks the rows of `path`; the first bad one ends it.
    public func rows(_ path: String) throws -> Rows {
        let source = section.source([path], "")
        try section.checkTextUnit([source])
        return try Rows(source)
    }

    /// The text of `--template`; nil takes the model's own.
    public func templateSource() throws -> String? { try template.map(SFTData.templateSource) }
}

/// Rows and how they become tokens.
struct RowOptions: ParsableArguments {
    @Argument(
        help: ArgumentHelp("Rows: JSONL, JSON, CSV, plain text, or a folder of them.", valueName: "data"),
        completion: .file())
    var data: [String]

    @OptionGroup var kinds: RowKindOptions

    @Option(help: "Which turns are trained.")
    var trainOn: DataSection.TrainOn = .assistant

    @Option(help: ArgumentHelp("Longest row, in tokens.", valueName: "tokens"))
    var maxLength: Int = DataSection().maxLength

    @Option(help: "What happens to longer rows.")
    var truncation: DataSection.Truncation = .right

    @Flag(help: "Leave out rows equal to an earlier one.")
    var deduplicate = false

    func validate() throws { try require(maxLength >= 2, "--max-length is 2 or more, not \(maxLength)") }

    /// The options as a config would have them, bad rows left out.
    private var section: DataSection {
        var section = kinds.section
        section.train = data
        (section.trainOn, section.maxLength, section.truncation) = (trainOn, maxLength, truncation)
        (section.deduplicate, section.badRows) = (deduplicate, .drop)
        return section
    }

    /// Where the rows are; bad ones are left out.
    func source() throws -> DataSource {
        let source = section.source(data, "")
        try section.checkTextUnit([source])
        return source
    }

    /// Reads and checks the rows; bad ones are reported.
    func read() throws -> Rows {
        let rows = try Rows(try source())
        report(rows.warnings, rows.statistics)
        return rows
    }

    func report(_ warnings: [String], _ statistics: RowStatistics) {
        for warning in warnings { note(warning) }
        for reason in BadRowReason.allCases {
            guard let count = statistics.dropped[reason], let first = statistics.examples[reason] else { continue }
            note("dropped \(count) \(reason.rawValue): \(first.message)")
        }
    }

    func encoder(_ tokenizer: Tokenizer) throws -> ExampleEncoder { try SFTData.encoder(section, tokenizer) }
}

/// Threads that rows are read and encoded on; nothing but time depends on them.
struct RowThreads: ParsableArguments {
    @Option(help: ArgumentHelp("Worker threads; one a processor when not given.", valueName: "count"))
    var threads: Int?

    func validate() throws {
        try require((1...256).contains(threads ?? 1), "--threads is 1 to 256, not \(threads ?? 0)")
    }

    var count: Int { threads ?? processorCount }
}

extension DataSection.Kind: ExpressibleByArgument {}
extension DataSection.TextUnit: ExpressibleByArgument {}
extension DataSection.TrainOn: ExpressibleByArgument {}
extension DataSection.Truncation: ExpressibleByArgument {}

private func complainOfRow(_ bad: BadRow) { note("not used: \(bad.message)") }
