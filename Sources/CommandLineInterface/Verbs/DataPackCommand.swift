// needletail data: pack
internal import ArgumentParser
internal import Datasets
internal import Diagnostics
internal import Formats

extension DataCommand {
    struct Pack: ParsableCommand {
        enum Strategy: String, ExpressibleByArgument, CaseIterable {
            case bestFit = "best_fit"
            case inOrder = "in_order"
        }

        static let configuration = CommandConfiguration(
            commandName: "pack", abstract: "Put rows side by side in sequences of one length; say what is wasted.",
            discussion: """
                Training packs by itself (data.packing); this shows how well the rows fill a length, and --output writes \
                the packs for other programs, one a line: input_ids, labels (the next token, or -100 where nothing is \
                trained), position_ids from 0 in each row, document_starts with the end.

                --split-across-packs cuts rows where a pack is full and goes on in the next, so that every pack but the last \
                is full; --max-length may then be more than --length. Each piece is a document of its own: positions from 0, \
                and its first token is no label, as nothing stands before it.

                Example:
                  needletail data pack ./SmolLM2-135M-Instruct chats.jsonl --length 2048
                """)

        @OptionGroup var model: TokenizerOptions
        @OptionGroup var rows: RowOptions
        @OptionGroup var workers: RowThreads

        @Option(
            help: ArgumentHelp(
                "Tokens of a pack, and of the longest row; --max-length when not given.", valueName: "tokens"))
        var length: Int?

        @Option(
            help: ArgumentHelp(
                """
                best_fit (the default) looks at all rows, longest first; in_order (the default with --split-across-packs) \
                opens a new pack when the next row does not fit.
                """))
        var strategy: Strategy?

        @Flag(help: "Cut rows where a pack is full and go on in the next.")
        var splitAcrossPacks = false

        @Option(help: ArgumentHelp("Make no more than this many packs.", valueName: "count"))
        var maxPacks: Int?

        @Option(help: ArgumentHelp("Where the packs go, as JSON lines.", valueName: "file"), completion: .file())
        var output: String?

        @Flag(help: "Write JSON.")
        var json = false

        func validate() throws {
            let rows = limitedRows, length = length ?? rows.longestRow
            try require(length >= 2, "--length is 2 or more, not \(length)")
            try require(
                splitAcrossPacks || length >= rows.longestRow,
                "--length is less than --max-length \(rows.longestRow); lower that, or give --split-across-packs")
            try require(
                !splitAcrossPacks || strategy != .bestFit,
                "--split-across-packs fills packs in order; remove --strategy best_fit")
            try require(maxPacks ?? 1 >= 1, "--max-packs is 1 or more, not \(maxPacks ?? 0)")
            try require(!json || output != "-", "--json and packs cannot both go to standard output")
        }

        func run() throws {
            let rows = limitedRows, length = length ?? rows.longestRow
            let all = try EncodedRows(
                try rows.source(), try rows.encoder(try model.tokenizer()), threads: workers.count)
            let (dataset, statistics) = try all.dataset()
            reportRows(all.warnings, statistics)
            var report = PackReport(dataset, length: length, truncated: statistics.rowsTruncated)
            let lines = try output.map { try LinesOutput($0) }
            for pack in packs(dataset, length).prefix(maxPacks ?? .max) {
                let batch = dataset.batch(pack)
                report.add(pack, batch)
                try lines?.write(batch.jsonLine)
            }
            try lines?.finish()
            if json {
                try StandardOutput.write(JSONValue.object(report.json).serialized(.compact) + "\n")
            } else if output != "-" {
                try StandardOutput.write(report.lines.joined(separator: "\n") + "\n")
            }
        }

        /// Rows as long as a pack unless another limit is given; cut across packs they may be longer.
        private var limitedRows: RowOptions {
            var rows = rows
            if rows.maxLength == nil, !splitAcrossPacks { rows.maxLength = length }
            return rows
        }

        private func packs(_ dataset: TokenizedDataset, _ length: Int) -> [[DocumentPiece]] {
            let lengths = dataset.indices.map(dataset.length)
            if splitAcrossPacks { return packedAcross(lengths: lengths, maxTokens: length) }
            let whole =
                strategy == .inOrder
                ? packedInOrder(lengths: lengths, maxTokens: length) : packed(lengths: lengths, maxTokens: length)
            return whole.map { $0.map { DocumentPiece(document: $0, tokens: 0..<lengths[$0]) } }
        }
    }
}

extension PackedBatch {
    fileprivate var jsonLine: String {
        func list(_ numbers: [Int32]) -> JSONValue { .array(numbers.map { .init(Int($0)) }) }
        let row = JSONObject([
            ("input_ids", list(inputIDs)), ("labels", list(labels)), ("position_ids", list(positions)),
            ("document_starts", .array(documentStarts.map { .init($0) })),
        ])
        return JSONValue.object(row).serialized(.compact)
    }
}

/// What packs hold, waste and leave out.
private struct PackReport {
    /// Tokens of a pack.
    let length: Int
    /// Rows cut to `--max-length` before they were packed.
    let truncated: Int
    /// Tokens of all rows and of the longest.
    private let allTokens: Int, longest: Int
    /// Pieces of each row that stand in packs.
    private var pieces: [Int]
    private var packs = 0, tokens = 0, trainedTokens = 0

    init(_ dataset: TokenizedDataset, length: Int, truncated: Int) {
        (self.length, self.truncated, allTokens) = (length, truncated, dataset.tokens)
        longest = dataset.indices.map(dataset.length).max() ?? 0
        pieces = Array(repeating: 0, count: dataset.count)
    }

    mutating func add(_ pack: [DocumentPiece], _ batch: PackedBatch) {
        packs += 1
        tokens += batch.count
        trainedTokens += batch.trainedTokens
        for piece in pack { pieces[piece.document] += 1 }
    }

    private var rows: Int { pieces.count { $0 > 0 } }
    private var rowsLeftOut: Int { pieces.count - rows }
    private var rowsSplit: Int { pieces.count { $0 > 1 } }
    private var tokensLeftOut: Int { allTokens - tokens }
    /// Share of the packs that stays empty, 0 to 1.
    private var waste: Double { Self.empty(tokens, of: packs * length) }
    /// The same with each row alone, padded to the longest.
    private var wasteUnpacked: Double { Self.empty(allTokens, of: pieces.count * longest) }

    private static func empty(_ tokens: Int, of room: Int) -> Double { Double(room - tokens) / Double(room) }

    var json: JSONObject {
        JSONObject([
            ("rows", .init(rows)), ("tokens", .init(tokens)), ("trained_tokens", .init(trainedTokens)),
            ("packs", .init(packs)), ("length", .init(length)), ("waste", .init(waste)),
            ("waste_unpacked", .init(wasteUnpacked)), ("rows_truncated", .init(truncated)),
            ("rows_split", .init(rowsSplit)), ("rows_left_out", .init(rowsLeftOut)),
            ("tokens_left_out", .init(tokensLeftOut)),
        ])
    }

    /// For people.
    var lines: [String] {
        var lines = [
            "\(counted(rows, "row")), \(counted(tokens, "token")) in \(counted(packs, "pack")) of \(grouped(length))",
            "waste: \(percent(waste)); each row alone, padded to the longest (\(grouped(longest))): \(percent(wasteUnpacked))",
        ]
        if rowsSplit > 0 { lines.append("\(counted(rowsSplit, "row")) cut at the end of a pack, to go on in the next") }
        if tokensLeftOut > 0 {
            lines.append(
                "left out by --max-packs: \(counted(rowsLeftOut, "row")), \(counted(tokensLeftOut, "token")) in all")
        }
        return lines
    }

    private func percent(_ share: Double) -> String { "\((share * 1000).rounded() / 10) %" }
}
