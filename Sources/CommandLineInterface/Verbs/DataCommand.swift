// needletail data: inspect, stats (reasoning and tiny-model: ReasoningCommand.swift)
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
        subcommands: [Inspect.self, Stats.self, ReasoningRows.self, TinyModelFolder.self])

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

        @Flag(help: "Write JSON.")
        var json = false

        func run() throws {
            let encoder = try rows.encoder(try model.tokenizer())
            let all = try rows.read()
            var statistics = DatasetStatistics(all.statistics)
            for index in all.indices {
                do {
                    statistics.keep(try encoder.encode(all[index], source: all.sourceName(index)))
                } catch let bad as BadRow {
                    statistics.drop(bad)
                }
            }
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
        let rows = try Rows(section.source([path], ""))
        try section.checkTextUnit([rows])
        return rows
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

    /// Reads and checks the rows; bad ones are left out and reported.
    func read() throws -> Rows {
        let rows = try Rows(section.source(data, ""))
        try section.checkTextUnit([rows])
        for warning in rows.warnings { note(warning) }
        for reason in BadRowReason.allCases {
            guard let count = rows.statistics.dropped[reason], let first = rows.statistics.examples[reason] else {
                continue
            }
            note("dropped \(count) \(reason.rawValue): \(first)")
        }
        return rows
    }

    func encoder(_ tokenizer: Tokenizer) throws -> ExampleEncoder { try SFTData.encoder(section, tokenizer) }
}

extension DataSection.Kind: ExpressibleByArgument {}
extension DataSection.TextUnit: ExpressibleByArgument {}
extension DataSection.TrainOn: ExpressibleByArgument {}
extension DataSection.Truncation: ExpressibleByArgument {}

private func complainOfRow(_ bad: BadRow) { note("not used: \(bad.message)") }
