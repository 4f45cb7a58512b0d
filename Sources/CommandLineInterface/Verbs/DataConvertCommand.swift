// needletail data: convert, filter, mix
public import ArgumentParser
internal import Datasets
internal import Diagnostics
internal import Formats
public import RunConfig

extension DataCommand {
    struct Convert: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "convert", abstract: "Write rows in another format or as another kind.",
            discussion: """
                Formats are those of the names: .jsonl, .json, .csv, .tsv; lists become JSON text in a table. '-' is JSON \
                lines on standard output. --to rewrites each row: instructions and ShareGPT conversations as chats, chats \
                as prompts and completions, of preferences the chosen answer.

                Example:
                  needletail data convert alpaca.json chats.jsonl --to chat
                """)

        @Argument(help: ArgumentHelp("Rows, or a folder of them.", valueName: "in"), completion: .file())
        var input: String

        @Argument(help: ArgumentHelp("The file to write.", valueName: "out"), completion: .file())
        var output: String

        @OptionGroup var shape: RowShapeOptions
        @OptionGroup var policy: RowPolicyOptions

        @Option(help: "The kind to write; auto keeps what the rows are.")
        var to: DataSection.Kind = .auto

        func run() throws {
            let format = try RowWriter.format(path: output)
            let rows = try policy.read(try shape.source([input]))
            if to == .auto { try refuseSeveralKinds(rows) }
            let (written, left) = try writeRows(
                rows, rows.indices, to: output, format, as: to.rowKind, drops: policy.drops)
            note("\(counted(written, "row")) written" + (left > 0 ? ", \(grouped(left)) left out" : ""))
        }
    }

    struct FilterRows: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "filter", abstract: "Leave rows out or change them by named steps.",
            discussion: """
                --step may be repeated; steps are done in the order given, to every row. A comma or backslash in a value \
                is written \\, or \\\\. The same texts stand in data.transforms of a config. Steps:

                \(steps)

                Example:
                  needletail data filter chats.jsonl kept.jsonl --step characters:min=20
                """)

        private static var steps: String {
            RowTransform.all.map { "  \($0.usage)\n    \($0.summary)" }.joined(separator: "\n")
        }

        @Argument(help: ArgumentHelp("Rows, or a folder of them.", valueName: "in"), completion: .file())
        var input: String

        @Argument(help: ArgumentHelp("The file to write.", valueName: "out"), completion: .file())
        var output: String

        @Option(help: ArgumentHelp("A step, as name:argument=value.", valueName: "step"))
        var step: [String]

        @OptionGroup var shape: RowShapeOptions
        @OptionGroup var policy: RowPolicyOptions

        @Flag(help: "Write what was counted as JSON on standard output.")
        var json = false

        func validate() throws {
            try require(!json || output != "-", "--json and rows cannot both go to standard output")
        }

        func run() throws {
            let format = try RowWriter.format(path: output)
            let rows = try policy.read(try shape.source([input], transforms: step))
            let (written, _) = try writeRows(rows, rows.indices, to: output, format, as: nil, drops: false)
            if json {
                let stages = rows.statistics.filtered.sorted { $0.key < $1.key }
                let dropped = rows.statistics.dropped.filter { $0.key != .filtered }
                    .map { ($0.key.rawValue, JSONValue($0.value)) }.sorted { $0.0 < $1.0 }
                let report = JSONObject([
                    ("rows_in", .init(rows.statistics.rows)), ("rows_out", .init(written)),
                    ("filtered", .object(JSONObject(stages.map { ($0.key, .init($0.value)) }))),
                    ("duplicates", .init(rows.statistics.duplicates)), ("dropped", .object(JSONObject(dropped))),
                ])
                try StandardOutput.write(JSONValue.object(report).serialized(.compact) + "\n")
            }
            note("\(counted(written, "row")) of \(grouped(rows.statistics.rows)) written")
        }
    }

    struct Mix: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "mix", abstract: "Put several data sets together, each in its amount.",
            discussion: """
                Each data set is followed by its amount: with a decimal point a share of its rows (1.0 is all of them, 2.5 \
                two copies and a random half), without one a number of rows. A random rest depends on --seed alone. \
                Rows are written in the order of the data sets, or shuffled. A config's data.mix does the same.

                Example:
                  needletail data mix chats.jsonl 1.0 code.jsonl 500 --output mixed.jsonl
                """)

        @Argument(help: ArgumentHelp("Data sets and amounts in turn.", valueName: "data amount"), completion: .file())
        var parts: [String]

        @Option(
            help: ArgumentHelp("The file to write; '-' is standard output.", valueName: "file"), completion: .file())
        var output: String

        @OptionGroup var shape: RowShapeOptions
        @OptionGroup var policy: RowPolicyOptions

        @Option(help: ArgumentHelp("Seed of random rests and of the shuffled order.", valueName: "seed"))
        var seed: UInt64 = Mixture.defaultSeed

        @Flag(help: "Write the rows in a random order.")
        var shuffle = false

        @Flag(help: "Write what was taken as JSON on standard output.")
        var json = false

        func validate() throws {
            try require(parts.count % 2 == 0, "give data sets and amounts in turn, as a.jsonl 1.0 b.jsonl 500")
            try require(!json || output != "-", "--json and rows cannot both go to standard output")
        }

        func run() throws {
            let format = try RowWriter.format(path: output)
            let paths = stride(from: 0, to: parts.count, by: 2).map { parts[$0] }
            let amounts = try stride(from: 1, to: parts.count, by: 2).map {
                try MixAmount(parts[$0], source: parts[$0 - 1])
            }
            let rows = try policy.read(try shape.source(paths))
            try refuseSeveralKinds(rows)
            var sources = [[Int]](repeating: [], count: paths.count)
            for index in rows.indices { sources[rows.source(index)].append(index) }
            let mixture = try Mixture(sources, amounts, seed: seed, names: paths)
            for warning in mixture.warnings { note(warning) }
            var order = mixture.rows
            if shuffle {
                let permutation = KeyedPermutation(count: order.count, seed: seed, stream: 0)
                order = order.indices.map { mixture.rows[permutation[$0]] }
            }
            let (written, _) = try writeRows(rows, order, to: output, format, as: nil, drops: false)
            for (path, part) in zip(paths, mixture.parts) {
                note(
                    "\(escapedForDisplay(path)): \(grouped(part.taken)) of \(counted(part.rows, "row")), "
                        + "\((part.factor * 1000).rounded() / 1000) times each")
            }
            note("\(counted(written, "row")) written")
            if json { try StandardOutput.write(report(paths, mixture).serialized(.compact) + "\n") }
        }

        private func report(_ paths: [String], _ mixture: Mixture) -> JSONValue {
            let sources = zip(paths, mixture.parts).map { path, part -> JSONValue in
                [
                    "path": .string(path), "rows": .init(part.rows), "taken": .init(part.taken),
                    "upsampling_factor": .init(part.factor),
                ]
            }
            return ["rows": .init(mixture.rows.count), "sources": .array(sources)]
        }
    }
}

/// What becomes of rows that cannot be used.
struct RowPolicyOptions: ParsableArguments {
    @Option(help: "Whether a bad row ends the command or is left out and counted.")
    var badRows: DataSection.BadRows = .stop

    @Flag(help: "Leave out rows equal to an earlier one.")
    var deduplicate = false

    @OptionGroup var workers: RowThreads

    var drops: Bool { badRows == .drop }

    /// Reads and checks rows, and tells what was left out.
    func read(_ source: DataSource) throws -> Rows {
        var source = source
        (source.badRows, source.deduplicate) = (drops ? .drop : .stop, deduplicate)
        let rows = try Rows(source, threads: workers.count)
        reportRows(rows.warnings, rows.statistics)
        return rows
    }
}

/// Writes rows to a file that appears complete or not at all.
///
/// - Parameters:
///   - kind: nil keeps each row's own.
///   - drops: rows that `kind` cannot say are left out and told, one for each reason; else the first one is thrown.
/// - Returns: rows written and left out.
/// - Throws: `UserError` when no row is left, and what is wrong with rows and disk.
func writeRows(
    _ rows: Rows, _ indexes: some Collection<Int>, to path: String, _ format: FileFormat, as kind: RowKind?, drops: Bool
) throws -> (written: Int, left: Int) {
    var left = 0, told: Set<BadRowReason> = []
    func object(_ index: Int) throws -> JSONObject? {
        do { return try rows[index].json(as: kind, source: rows.sourceName(index)) } catch let bad as BadRow where drops
        {
            left += 1
            if told.insert(bad.reason).inserted { note("left out: \(bad.message)") }
            return nil
        }
    }
    var columns: [String] = []
    if format == .csv || format == .tsv {
        var seen: Set<ExactString> = []
        for index in indexes {
            for key in try object(index)?.keys ?? [] where seen.insert(ExactString(key)).inserted {
                columns.append(key)
            }
        }
        left = 0
    }
    let output = try LinesOutput(path)
    let writer = try RowWriter(format, columns: columns) { try output.write(Array($0.utf8)) }
    var written = 0
    for index in indexes {
        guard let row = try object(index) else { continue }
        try writer.append(row)
        written += 1
    }
    if written == 0 { throw UserError("\(path): not written: none of \(counted(left, "row")) is left") }
    try writer.finish()
    try output.finish()
    return (written, left)
}

extension DataSection.Kind {
    /// The data set's name for it; nil for `auto`.
    var rowKind: RowKind? {
        switch self {
        case .auto: nil
        case .sharegpt: .conversations
        default: RowKind(rawValue: rawValue)!
        }
    }
}

extension DataSection.BadRows: ExpressibleByArgument {}

/// Rows of several kinds in one file could not be read again.
private func refuseSeveralKinds(_ rows: Rows) throws {
    let written = Set(
        rows.kinds.map { kind -> RowKind in
            switch kind {
            case .conversations, .evals: .chat
            case .autotrainPreference: .preference
            default: kind
            }
        })
    guard written.count > 1 else { return }
    throw UserError(
        "the rows are of kinds \(written.map(\.rawValue).sorted().joined(separator: ", ")), which one file cannot hold; make "
            + "them one kind first, as with needletail data convert --to chat")
}
