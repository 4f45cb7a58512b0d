// From files to tokens: rows are checked and encoded on all threads, or the tokens come from the cache.
internal import ChatTemplates
internal import Diagnostics
internal import Formats

/// Which rows of a source are wanted.
public enum RowSelection: Sendable {
    case all
    /// - Parameters:
    ///   - name: equal for equal choices.
    ///   - rows: indexes of the wanted rows, given the number of usable ones.
    case some(name: String, rows: @Sendable (Int) throws -> [Int])
}

/// The usable rows of a source as tokens.
public struct EncodedRows: Sendable {
    /// Usable rows of the source: those that were read, less bad ones and duplicates.
    public let count: Int
    public let statistics: RowStatistics
    public let fingerprint: DataFingerprint
    /// Things to tell the person once: folders in folders, columns that nothing uses, keys that rows have twice.
    public let warnings: [String]
    /// What became of the cache, a line each; empty without one.
    public let notes: [String]
    private let table: TokenTable
    /// Name of the source in messages.
    private let name: String
    /// Tokens of a row at most, where longer ones become several.
    private let pieceLength: Int?
    /// Of each file, the position of its path in the list of sources.
    private let sourceOfFile: [Int]
    private let paths: [String]

    /// Encodes the rows of `source`, or takes their tokens from the cache, where they are kept.
    ///
    /// Every result is the same for any number of threads: ids, marks, order, counts, and which row is the first bad one.
    /// Rows whose mask cannot be proven, that are too long under `.drop`, or that have nothing to train are left out and
    /// counted. A row that the template refuses is a bad row like any other: `source.badRows` decides. Trouble with the
    /// cache is told in `notes` and stops nothing.
    ///
    /// - Parameters:
    ///   - cache: nil keeps the tokens in memory.
    ///   - selection: rows that are not chosen get no tokens, unless the cache has them.
    ///   - check: given the number of usable rows, before any is encoded.
    /// - Throws: `UserError` for files that cannot be read or have no usable row; `BadRow` for the first bad row under
    ///   `.stop`.
    public init(
        _ source: DataSource, _ encoder: ExampleEncoder, threads: Int = 1, cache: TokenCache? = nil,
        selection: RowSelection = .all, check: (Int) throws -> Void = { _ in }
    ) throws {
        let files = try source.files()
        fingerprint = DataFingerprint(files)
        (name, sourceOfFile, paths) = (source.name, files.map(\.sourceIndex), source.paths)
        pieceLength = encoder.options.truncation == .split ? encoder.options.maxLength : nil
        var notes: [String] = [], stored: StoredTokens?
        let work = EncodingWork(source: source, files: files, encoder: encoder, threads: threads, selection: selection)
        if let cache {
            let keys = try work.keys(fingerprint)
            stored = cache.find(keys, work.sources, encoder, threads: threads, &notes)
            if stored == nil { stored = try cache.make(keys[keys.count - 1], work, fingerprint, check, &notes) }
        }
        let tokens = try stored ?? work.inMemory(check)
        (count, statistics, table) = (tokens.table.count, tokens.statistics, tokens.table)
        warnings = try source.folderRemarks() + tokens.remarks.map { $0.warning(source.name) }
        self.notes = notes
    }

    /// The rows `indexes` that could be encoded, in that order, and what became of all of them. Under `.split` longer ones
    /// are several rows, and both count those.
    ///
    /// - Parameter isPart: the statistics are of `indexes` alone, without what was dropped while the files were read.
    /// - Throws: `UserError` when every row was left out.
    public func dataset(
        _ indexes: some Collection<Int>, isPart: Bool = false
    ) throws -> (TokenizedDataset, DatasetStatistics) {
        let (kept, statistics) = chosen(indexes, isPart: isPart)
        if kept.count == 0, let why = statistics.whyNoneIsLeft { throw UserError(prefixed(name, why)) }
        return (TokenizedDataset(table, kept), statistics)
    }

    /// Which of the paths in the list of sources the row comes from.
    public func source(_ index: Int) -> Int { sourceOfFile[Int(table.record(index).file)] }

    /// All rows.
    public func dataset() throws -> (TokenizedDataset, DatasetStatistics) { try dataset(0..<count) }

    /// Indexes in a data set of these rows, by the path in the list of sources.
    public func sets(of dataset: TokenizedDataset) -> [[Int]] {
        var sets = [[Int]](repeating: [], count: paths.count)
        for index in dataset.indices { sets[sourceOfFile[dataset.file(index)]].append(index) }
        return sets
    }

    /// What became of all rows.
    public var datasetStatistics: DatasetStatistics { chosen(0..<count, isPart: false).statistics }

    private func chosen(
        _ indexes: some Collection<Int>, isPart: Bool
    ) -> (kept: ChosenRows, statistics: DatasetStatistics) {
        var statistics = isPart ? DatasetStatistics() : DatasetStatistics(self.statistics)
        if isPart { statistics.rowsIn = indexes.count } else { statistics.paths = paths }
        var kept = ChosenRows(inPieces: pieceLength != nil), leftOut = TokenTable.LeftOut(table)
        for index in indexes {
            let length = table.length(index)
            if let pieceLength, length > pieceLength {
                split(index, pieceLength, &kept, &statistics)
            } else if length > 0 {
                let record = table.record(index)
                statistics.keep(
                    tokens: length, trained: Int(record.trained), cut: Int(record.cut), source: source(index))
                kept.append(index, 0..<length)
            } else {
                guard let reason = leftOut.reason(index) else { preconditionFailure("row \(index) was not selected") }
                statistics.drop(reason)
            }
        }
        return (kept, statistics)
    }

    /// Takes a row in pieces of `limit` tokens. The first token of each is no target, and those without any are left out.
    private func split(_ row: Int, _ limit: Int, _ kept: inout ChosenRows, _ statistics: inout DatasetStatistics) {
        let length = table.length(row)
        let spans = stride(from: 0, to: length, by: limit).map { $0..<min($0 + limit, length) }
        let pieces = spans.map { (span: $0, trained: table.trained(row, $0)) }.filter { $0.trained > 0 }
        if pieces.isEmpty {
            let fault = RowFault(.noTrainedTokens, "has no token to train in pieces of \(limit)")
            let source = table.sources[Int(table.record(row).file)].name
            return statistics.drop(BadRow(fault, source: source, location: table.location(row)))
        }
        var cut = length - pieces.reduce(0) { $0 + $1.span.count }
        for piece in pieces {
            statistics.keep(tokens: piece.span.count, trained: piece.trained, cut: cut, source: source(row))
            kept.append(row, piece.span)
            cut = 0
        }
        statistics.rowsSplit += 1
    }
}

/// Tokens with what was counted while they were made.
struct StoredTokens {
    let table: TokenTable
    let statistics: RowStatistics
    let remarks: [RowRemark]
}

/// The way from the files of a source to blocks of tokens.
struct EncodingWork {
    let source: DataSource
    let files: [DataFile]
    let encoder: ExampleEncoder
    let threads: Int
    let selection: RowSelection

    /// The files as messages name them.
    var sources: [RowSource] {
        files.map { RowSource(path: $0.path, unit: $0.format.rowUnit, name: source.name(of: $0)) }
    }

    /// Reads and checks all rows, and gives the blocks of those that are selected to `take`, in order.
    func run(_ check: (Int) throws -> Void, _ take: (TokenBlock) throws -> Void) throws -> Rows {
        let rows = try Rows(source, files, threads: threads)
        try check(rows.count)
        let wanted = try wanted(rows.count)
        let size = TokenTable.rowsPerChunk, encoder = encoder, stops = source.badRows == .stop
        try runInOrder((rows.count + size - 1) / size, threads: threads) { part in
            var block = TokenBlockBuilder()
            for index in part * size..<min((part + 1) * size, rows.count) {
                let (file, number) = rows.place(index)
                guard wanted?[index] ?? true else {
                    block.leaveOut(nil, file: file, number: number)
                    continue
                }
                do {
                    let encoded = try encoder.encode(rows[index], source: rows.sourceName(index))
                    block.keep(encoded.example, cut: encoded.truncated, file: file)
                } catch let bad as BadRow {
                    if stops, bad.reason == .templateRefused { throw bad }
                    block.leaveOut(RowFault(bad.reason, bad.detail), file: file, number: number)
                }
            }
            return block.block()
        } consume: {
            try take($0)
        }
        return rows
    }

    private func wanted(_ count: Int) throws -> [Bool]? {
        guard case .some(_, let choose) = selection else { return nil }
        var wanted = [Bool](repeating: false, count: count)
        for row in try choose(count) { wanted[row] = true }
        return wanted
    }

    func inMemory(_ check: (Int) throws -> Void) throws -> StoredTokens {
        var blocks: [TokenBlock] = []
        let rows = try run(check) { blocks.append($0) }
        return StoredTokens(
            table: TokenTable(blocks, sources), statistics: rows.statistics, remarks: rows.remarks)
    }
}
