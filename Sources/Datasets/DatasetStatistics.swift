// What became of the rows: how many were read, dropped for which reason, cut, and how long the kept ones are.
internal import Diagnostics
public import Formats

public struct DatasetStatistics: Sendable, Equatable {
    /// Rows in the files, good and bad.
    public var rowsIn: Int
    public var duplicates: Int
    /// Rows that were asked for (after the split and the limit) and could be encoded.
    public var rowsKept = 0
    /// Kept rows that lost tokens to `max_length`.
    public var rowsTruncated = 0
    public var tokensCut = 0
    /// Rows that became several, which are counted as rows of their own.
    public var rowsSplit = 0
    public var tokens = 0
    /// Targets of the loss.
    public var trainedTokens = 0
    public private(set) var dropped: [BadRowReason: Int]
    /// The first row dropped for each reason.
    public private(set) var examples: [BadRowReason: BadRow]
    /// Tokens of every kept row.
    private var lengths: [Int] = []
    /// Rows that each transform left out, by the transform's text.
    public let filtered: [String: Int]
    /// Paths of the sources, where the statistics are of all rows.
    public var paths: [String] = []
    /// By the position of the path.
    public private(set) var sources: [Source]

    /// What became of the rows of one path.
    public struct Source: Sendable, Equatable {
        public var rowsIn = 0
        /// Rows that could be used, each once.
        public var rowsOut = 0
        /// Rows in the data set, copies and pieces counted.
        public var rowsKept = 0
        public var tokens = 0
        public var trainedTokens = 0
    }

    public init(_ rows: RowStatistics = RowStatistics()) {
        (rowsIn, duplicates, dropped, examples) = (rows.rows, rows.duplicates, rows.dropped, rows.examples)
        filtered = rows.filtered
        sources = rows.sources.map { Source(rowsIn: $0.rowsIn, rowsOut: $0.rowsOut) }
    }

    /// Counts a kept row of `tokens` tokens, after `cut` were taken off it.
    public mutating func keep(tokens: Int, trained: Int, cut: Int, source: Int = 0) {
        while sources.count <= source { sources.append(Source()) }
        sources[source].rowsKept += 1
        sources[source].tokens += tokens
        sources[source].trainedTokens += trained
        rowsKept += 1
        rowsTruncated += cut > 0 ? 1 : 0
        tokensCut += cut
        self.tokens += tokens
        trainedTokens += trained
        lengths.append(tokens)
    }

    public mutating func drop(_ row: BadRow) {
        dropped[row.reason, default: 0] += 1
        if examples[row.reason] == nil { examples[row.reason] = row }
    }

    public var rowsDropped: Int { dropped.values.reduce(0, +) }

    /// Reasons with their counts, most frequent first, equal ones by name.
    public var droppedByReason: [(reason: BadRowReason, count: Int)] {
        dropped.sorted { (-$0.value, $0.key.rawValue) < (-$1.value, $1.key.rawValue) }.map { ($0.key, $0.value) }
    }

    /// Where no row is left: what was dropped, and the first row of the commonest reason; nil when nothing was.
    var whyNoneIsLeft: String? {
        let reasons = droppedByReason
        guard let first = reasons.first, let example = examples[first.reason] else { return nil }
        let counts = reasons.map { "\($0.reason.rawValue) \($0.count)" }.joined(separator: ", ")
        return "all rows dropped: \(counts); first: \(example.location): \(example.detail)"
    }

    /// Which percentiles of the lengths are reported; 0 is the shortest row, 100 the longest.
    public static let percentiles = [0, 5, 25, 50, 75, 95, 99, 100]

    /// Length in tokens at each of `percentiles`, nearest rank; empty without rows.
    public var lengthPercentiles: [(percentile: Int, tokens: Int)] {
        let sorted = lengths.sorted()
        if sorted.isEmpty { return [] }
        return Self.percentiles.map { p in
            (p, sorted[max(0, Int((Double(p) / 100 * Double(sorted.count)).rounded(.up)) - 1)])
        }
    }

    public var json: JSONValue {
        .object(
            JSONObject([
                ("rows_in", .init(rowsIn)), ("rows_kept", .init(rowsKept)), ("rows_dropped", .init(rowsDropped)),
                ("duplicates", .init(duplicates)), ("rows_truncated", .init(rowsTruncated)),
                ("tokens_cut", .init(tokensCut)), ("rows_split", .init(rowsSplit)), ("tokens", .init(tokens)),
                ("trained_tokens", .init(trainedTokens)),
                ("dropped", .object(JSONObject(droppedByReason.map { ($0.reason.rawValue, .init($0.count)) }))),
                ("filtered", .object(JSONObject(stages.map { ($0.stage, .init($0.count)) }))),
                ("sources", .array(zip(paths, sources).map { .object(Self.json($0, $1)) })),
                (
                    "length_percentiles",
                    .object(JSONObject(lengthPercentiles.map { ("\($0.percentile)", .init($0.tokens)) }))
                ),
            ]))
    }

    /// Transforms that left rows out, most first.
    private var stages: [(stage: String, count: Int)] {
        filtered.sorted { (-$0.value, $0.key) < (-$1.value, $1.key) }.map { ($0.key, $0.value) }
    }

    private static func json(_ path: String, _ source: Source) -> JSONObject {
        JSONObject([
            ("path", .string(path)), ("rows_in", .init(source.rowsIn)), ("rows_out", .init(source.rowsOut)),
            ("rows_kept", .init(source.rowsKept)), ("tokens", .init(source.tokens)),
            ("trained_tokens", .init(source.trainedTokens)),
            (
                "upsampling_factor",
                source.rowsOut == 0 ? .null : .init(Double(source.rowsKept) / Double(source.rowsOut))
            ),
        ])
    }

    /// What became of rows longer than `max_length`, for people; nil where there were none.
    public var truncation: String? {
        var parts: [String] = []
        if rowsTruncated > 0 {
            parts.append("cut at max_length: \(counted(rowsTruncated, "row")), \(counted(tokensCut, "token"))")
        }
        if rowsSplit > 0 { parts.append("made several of \(counted(rowsSplit, "row")) longer than max_length") }
        return parts.isEmpty ? nil : parts.joined(separator: "; ")
    }

    /// Lines for people.
    public var report: [String] {
        var lines = [
            "rows: \(rowsIn) read, \(rowsKept) used, \(counted(duplicates, "duplicate")), \(rowsDropped) dropped",
            "tokens: \(tokens), of them trained \(trainedTokens)"
                + (tokens == 0 ? "" : " (\((Double(trainedTokens) / Double(tokens) * 1000).rounded() / 10) %)"),
        ]
        if let truncation { lines.append(truncation) }
        if !lengths.isEmpty {
            let parts = lengthPercentiles.map {
                ["0": "shortest", "50": "median", "100": "longest"]["\($0.percentile)", default: "\($0.percentile) %"]
                    + " \($0.tokens)"
            }
            lines.append("tokens a row: " + parts.joined(separator: ", "))
        }
        if paths.count > 1 {
            for (path, source) in zip(paths, sources) {
                lines.append(
                    "\(escapedForDisplay(path)): \(source.rowsIn) read, \(source.rowsKept) used, \(source.tokens) tokens, of "
                        + "them trained \(source.trainedTokens)")
            }
        }
        for (stage, count) in stages { lines.append("left out \(count) by \(escapedForDisplay(stage))") }
        for (reason, count) in droppedByReason where reason != .filtered {
            lines.append("dropped \(count) \(reason.rawValue)" + (examples[reason].map { ": \($0.message)" } ?? ""))
        }
        return lines
    }
}
