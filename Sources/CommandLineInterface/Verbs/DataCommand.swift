// needletail data: inspect, stats (convert, filter, mix: DataConvertCommand.swift; pack: DataPackCommand.swift;
// decontaminate: DataDecontaminateCommand.swift; cache: DataCacheCommand.swift; reasoning and tiny-model:
// ReasoningCommand.swift)
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
        abstract: "Look at rows, count, convert, filter, mix, pack and decontaminate them.",
        discussion: """
            Example:
              needletail data inspect ./SmolLM2-135M-Instruct chats.jsonl --limit 1
            """,
        subcommands: [
            Inspect.self, Stats.self, Convert.self, FilterRows.self, Mix.self, Pack.self, Decontaminate.self,
            TokenCacheGroup.self, ReasoningRows.self, TinyModelFolder.self,
        ])

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

                (on one line). Rows that are not imitated, such as preferences, are printed as they were understood.

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
            let style: InspectionStyle = takesEscapeCodes(STDOUT_FILENO) ? .ansi : .marks
            for index in all.indices.prefix(limit) {
                let row: EncodedRow
                do {
                    let read = try all[index]
                    if case .task = read.content {
                        try StandardOutput.write(escapedForDisplay(json: read.jsonLine))
                        continue
                    }
                    row = try encoder.encode(read, source: all.sourceName(index))
                } catch let bad as BadRow {
                    complainOfRow(bad)
                    continue
                }
                try StandardOutput.write(
                    json
                        ? escapedForDisplay(json: row.json(tokenizer).serialized(.compact)) + "\n" : row.block(style))
            }
        }
    }

    struct Stats: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "stats", abstract: "Count rows and tokens, what is left out and why, and lengths.",
            discussion: """
                --json writes the counts, for each source too, as one object; --output keeps it as a file. Of rows that \
                are not imitated, such as preferences, the tokens of their texts are counted, without a template.

                Example:
                  needletail data stats ./SmolLM2-135M-Instruct chats.jsonl --max-length 1024
                """)

        @OptionGroup var model: TokenizerOptions
        @OptionGroup var rows: RowOptions
        @OptionGroup var workers: RowThreads

        @Option(
            help: ArgumentHelp("Also write the JSON to this file, as dataset_statistics.json.", valueName: "file"),
            completion: .file())
        var output: String?

        @Flag(help: "Write JSON.")
        var json = false

        func run() throws {
            let tokenizer = try model.tokenizer()
            let statistics = try imitated(tokenizer) ?? others(tokenizer)
            let object = statistics.json.serialized(.compact) + "\n"
            if let output { try writeFileAtomically(object, to: output) }
            try StandardOutput.write(json ? object : statistics.report.joined(separator: "\n") + "\n")
        }

        /// nil where a file holds rows that are not imitated.
        private func imitated(_ tokenizer: Tokenizer) throws -> DatasetStatistics? {
            guard try rows.source().isImitated() else { return nil }
            let all = try EncodedRows(try rows.source(), try rows.encoder(tokenizer), threads: workers.count)
            tell(all.warnings, all.statistics)
            return all.datasetStatistics
        }

        /// What the report does not say: with --json, which has counts alone, also the first row left out for each reason.
        private func tell(_ warnings: [String], _ statistics: RowStatistics) {
            if json { reportRows(warnings, statistics) } else { warnings.forEach(note) }
        }

        private func others(_ tokenizer: Tokenizer) throws -> DatasetStatistics {
            let all = try Rows(try rows.source())
            tell(all.warnings, all.statistics)
            var statistics = DatasetStatistics(all.statistics)
            statistics.paths = rows.data
            let size = 256, paths = rows.data
            try runInOrder((all.count + size - 1) / size, threads: workers.count) { part in
                try (part * size..<min((part + 1) * size, all.count)).map { index in
                    let texts = try all[index].content.texts
                    return (
                        all.source(index), texts.reduce(0) { $0 + tokenizer.encode($1, addSpecialTokens: false).count }
                    )
                }
            } consume: { counts in
                for (source, tokens) in counts { statistics.keep(tokens: tokens, trained: 0, cut: 0, source: source) }
            }
            precondition(statistics.sources.count <= paths.count, "a row of no source")
            return statistics
        }
    }
}

/// The column of each field, from the `field=column` pairs of an option.
///
/// - Throws: `ValidationError` for what is no such pair, and for a field with two columns.
func columnMap(_ pairs: [String], _ option: String) throws -> [String: String] {
    try pairs.reduce(into: [:]) { columns, pair in
        guard let sign = pair.dropFirst().firstIndex(of: "=") else {
            throw ValidationError("\(option) is field=column (for example messages=chat), not '\(pair)'")
        }
        let field = String(pair[..<sign]), isNew = columns[field] == nil
        try require(isNew, "\(option) gives \(escapedForDisplay(field)) two columns")
        columns[field] = String(pair[pair.index(after: sign)...])
    }
}

/// What the rows of a file are; names, choices and defaults are those of the section `data` of a config.
public struct RowShapeOptions: ParsableArguments {
    @Option(help: "What the rows are; auto looks at their columns.")
    var kind: DataSection.Kind = .auto

    @Option(help: ArgumentHelp("Read a field from another column; may be repeated.", valueName: "field=column"))
    var column: [String] = []

    @Option(
        help: ArgumentHelp(
            "Of folders only the files of this split, as train, or main:train of the folder main.", valueName: "split"))
    var split: String?

    @Option(help: "What of a plain text file is one row; paragraphs end at blank lines.")
    var textUnit: DataSection.TextUnit = .file

    public init() {}

    public func validate() throws { _ = try section() }

    /// The options as a config would have them.
    func section() throws -> DataSection {
        var section = DataSection()
        (section.kind, section.textUnit, section.split) = (kind, textUnit, split)
        section.columnMap = try columnMap(column, "--column")
        return section
    }

    /// The rows of `paths`, of every kind.
    func source(_ paths: [String], transforms: [String] = []) throws -> DataSource {
        var section = try section()
        section.transforms = transforms
        var source = try section.source(paths, "", split: split)
        source.takesEveryKind = true
        try section.checkTextUnit([source])
        return source
    }
}

/// The same with the template that chats are rendered with.
public struct RowKindOptions: ParsableArguments {
    @OptionGroup var shape: RowShapeOptions

    @Option(
        help: ArgumentHelp(
            "A chat template's file, or one that comes with the program, instead of the model's own.",
            valueName: "template"),
        completion: .file())
    var template: String?

    public init() {}

    /// The options as a config would have them.
    fileprivate func section() throws -> DataSection {
        var section = try shape.section()
        section.template = template
        return section
    }

    /// Reads and checks the rows of `path`, and tells what of it is not read; the first bad row ends it.
    public func rows(_ path: String) throws -> Rows {
        let section = try section(), source = try section.source([path], "", split: section.split)
        try section.checkTextUnit([source])
        let rows = try Rows(source)
        rows.warnings.forEach(note)
        return rows
    }

    /// The text of `--template`; nil takes the model's own.
    public func templateSource() throws -> String? { try template.map(SFTData.templateSource) }
}

/// Rows and how they become tokens.
struct RowOptions: ParsableArguments {
    @Argument(
        help: ArgumentHelp(
            "Rows: JSONL, JSON, CSV, TSV, Parquet, Arrow or text, also .gz and .zst, or a folder of them.",
            valueName: "data"),
        completion: .file())
    var data: [String]

    @OptionGroup var kinds: RowKindOptions

    @Option(help: "Which turns are trained.")
    var trainOn: DataSection.TrainOn = .assistant

    @Option(help: ArgumentHelp("Longest row, in tokens (default: \(DataSection().maxLength)).", valueName: "tokens"))
    var maxLength: Int?

    @Option(help: "What happens to longer rows.")
    var truncation: DataSection.Truncation = .right

    @Flag(help: "Leave out rows equal to an earlier one.")
    var deduplicate = false

    @Option(
        help: ArgumentHelp(
            "A step done to every row, as characters:min=20; may be repeated ('data filter --help' lists them).",
            valueName: "step"))
    var transform: [String] = []

    func validate() throws { try require(maxLength ?? 2 >= 2, "--max-length is 2 or more, not \(maxLength ?? 0)") }

    var longestRow: Int { maxLength ?? DataSection().maxLength }

    /// The options as a config would have them, bad rows left out.
    private func section() throws -> DataSection {
        var section = try kinds.section()
        (section.train, section.transforms) = (data, transform)
        (section.trainOn, section.maxLength, section.truncation) = (trainOn, longestRow, truncation)
        (section.deduplicate, section.badRows) = (deduplicate, .drop)
        return section
    }

    /// Where the rows are; bad ones are left out.
    func source() throws -> DataSource {
        let section = try section()
        var source = try section.source(data, "", split: section.split)
        source.takesEveryKind = true
        try section.checkTextUnit([source])
        return source
    }

    /// Reads and checks the rows; bad ones are reported.
    func read() throws -> Rows {
        let rows = try Rows(try source())
        reportRows(rows.warnings, rows.statistics)
        return rows
    }

    func encoder(_ tokenizer: Tokenizer) throws -> ExampleEncoder { try SFTData.encoder(section(), tokenizer) }
}

/// Tells what was left out of the rows while they were read, and why.
func reportRows(_ warnings: [String], _ statistics: RowStatistics) {
    reportRows(warnings, DatasetStatistics(statistics))
}

/// Tells what was left out of the rows and why, and what was cut.
func reportRows(_ warnings: [String], _ statistics: DatasetStatistics) {
    for warning in warnings { note(warning) }
    for reason in BadRowReason.allCases where reason != .filtered {
        guard let count = statistics.dropped[reason], let first = statistics.examples[reason] else { continue }
        note("dropped \(count) \(reason.rawValue): \(first.message)")
    }
    for (stage, count) in statistics.filtered.sorted(by: { $0.key < $1.key }) {
        note("left out \(counted(count, "row")) by \(escapedForDisplay(stage))")
    }
    if let cut = statistics.truncation { note(cut) }
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
