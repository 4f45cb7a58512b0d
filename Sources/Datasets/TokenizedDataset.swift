// Tokenised rows of a data set: a choice of the rows of a table, which may be a mapped file.
internal import Formats

/// One row as tokens.
public struct TokenizedExample: Sendable, Equatable {
    public let ids: [Int32]
    /// Whether token i is a target of the loss. The first token never is: nothing comes before it.
    public let trained: [Bool]
    public let source: RowLocation

    /// - Precondition: as many marks as tokens.
    public init(ids: [Int32], trained: [Bool], source: RowLocation) {
        precondition(ids.count == trained.count, "\(trained.count) marks for \(ids.count) tokens")
        var trained = trained
        if !trained.isEmpty { trained[0] = false }
        (self.ids, self.trained, self.source) = (ids, trained, source)
    }

    public var trainedTokens: Int { trained.count { $0 } }
}

/// Rows as tokens, by index.
public struct TokenizedDataset: Sendable, RandomAccessCollection {
    private let table: TokenTable
    private let rows: [Int32]
    public let tokens: Int
    public let trainedTokens: Int

    /// The rows `rows` of a table.
    init(_ table: TokenTable, _ rows: [Int32]) {
        (self.table, self.rows) = (table, rows)
        tokens = rows.reduce(0) { $0 + table.length(Int($1)) }
        trainedTokens = rows.reduce(0) { $0 + Int(table.record(Int($1)).trained) }
    }

    /// Rows in memory, in their order.
    public init(_ examples: some Sequence<TokenizedExample> = EmptyCollection()) {
        var blocks: [TokenBlock] = [], block = TokenBlockBuilder(), sources: [RowSource] = [],
            places: [ExactString: Int] = [:]
        var rows = 0
        for example in examples {
            let source = example.source, key = ExactString("\(source.unit.rawValue) \(source.file)")
            let file = places[key] ?? sources.count
            if file == sources.count {
                places[key] = file
                sources.append(RowSource(path: source.file, unit: source.unit, name: ""))
            }
            block.keep(example, cut: 0, file: file)
            rows += 1
            if block.rows == TokenTable.rowsPerChunk {
                blocks.append(block.block())
                block = TokenBlockBuilder()
            }
        }
        if block.rows > 0 { blocks.append(block.block()) }
        self.init(TokenTable(blocks, sources), Array(0..<Int32(rows)))
    }

    public var startIndex: Int { 0 }
    public var endIndex: Int { rows.count }

    public subscript(index: Int) -> TokenizedExample { table.example(Int(rows[index])) }

    /// How many of the rows came from each file.
    public var rowsByFile: [String: Int] {
        rows.reduce(into: [:]) { counts, row in
            counts[table.sources[Int(table.record(Int(row)).file)].path, default: 0] += 1
        }
    }

    public func length(_ index: Int) -> Int { table.length(Int(rows[index])) }
    public func trainedTokens(_ index: Int) -> Int { Int(table.record(Int(rows[index])).trained) }
    public func source(_ index: Int) -> RowLocation { table.location(Int(rows[index])) }

    /// The rows `indexes` side by side.
    public func batch(_ indexes: some Sequence<Int>) -> PackedBatch { PackedBatch(indexes.lazy.map { self[$0] }) }

    /// All rows in order, packed in windows of `window` rows: what an evaluation runs over.
    public func evaluationBatches(maxTokens: Int, window: Int = 256) -> [[Int]] {
        stride(from: 0, to: count, by: window).flatMap { start in
            let rows = start..<Swift.min(start + window, count)
            return packed(lengths: rows.map(length), maxTokens: maxTokens).map { $0.map { start + $0 } }
        }
    }
}
