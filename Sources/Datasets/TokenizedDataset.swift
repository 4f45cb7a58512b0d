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

    /// Some of its tokens as an example of their own: the first is no target, as what stood before it is not there.
    ///
    /// - Precondition: not empty, within the tokens.
    public func piece(_ tokens: Range<Int>) -> TokenizedExample {
        TokenizedExample(ids: Array(ids[tokens]), trained: Array(trained[tokens]), source: source)
    }
}

/// Rows of a table, all of their tokens or some.
struct ChosenRows: Sendable {
    private var rows: [Int32]
    /// The tokens that are meant of each row; nil where they are all.
    private var spans: [Range<Int32>]?

    init(inPieces: Bool) { (rows, spans) = ([], inPieces ? [] : nil) }

    /// All tokens of the first `count` rows.
    init(count: Int) { (rows, spans) = (Array(0..<Int32(count)), nil) }

    /// - Parameter tokens: all of the row's, unless this is in pieces.
    mutating func append(_ row: Int, _ tokens: Range<Int>) {
        rows.append(Int32(row))
        spans?.append(Int32(tokens.lowerBound)..<Int32(tokens.upperBound))
    }

    var count: Int { rows.count }

    /// The row at an index and, where they are not all, its tokens that are meant.
    subscript(index: Int) -> (row: Int, tokens: Range<Int>?) {
        (Int(rows[index]), spans.map { Int($0[index].lowerBound)..<Int($0[index].upperBound) })
    }
}

/// Rows as tokens, by index.
public struct TokenizedDataset: Sendable, RandomAccessCollection {
    private let table: TokenTable
    private let rows: ChosenRows
    public private(set) var tokens = 0
    public private(set) var trainedTokens = 0

    /// The rows `rows` of a table.
    init(_ table: TokenTable, _ rows: ChosenRows) {
        (self.table, self.rows) = (table, rows)
        for index in 0..<rows.count {
            tokens += length(index)
            trainedTokens += trainedTokens(index)
        }
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
        self.init(TokenTable(blocks, sources), ChosenRows(count: rows))
    }

    public var startIndex: Int { 0 }
    public var endIndex: Int { rows.count }

    public subscript(index: Int) -> TokenizedExample {
        let (row, tokens) = rows[index], example = table.example(row)
        return tokens.map(example.piece) ?? example
    }

    /// How many of the rows came from each file.
    public var rowsByFile: [String: Int] {
        indices.reduce(into: [:]) { $0[table.sources[file($1)].path, default: 0] += 1 }
    }

    public func length(_ index: Int) -> Int {
        let (row, tokens) = rows[index]
        return tokens?.count ?? table.length(row)
    }
    public func trainedTokens(_ index: Int) -> Int {
        let (row, tokens) = rows[index]
        return tokens.map { table.trained(row, $0) } ?? Int(table.record(row).trained)
    }
    /// Place of the row's file in the list of files.
    func file(_ index: Int) -> Int { Int(table.record(rows[index].row).file) }
    public func source(_ index: Int) -> RowLocation { table.location(rows[index].row) }

    /// The rows `indexes` side by side.
    public func batch(_ indexes: some Sequence<Int>) -> PackedBatch { PackedBatch(indexes.lazy.map { self[$0] }) }

    /// The stretches `pieces` of rows side by side, each a document of its own.
    public func batch(_ pieces: some Sequence<DocumentPiece>) -> PackedBatch {
        PackedBatch(pieces.lazy.map { self[$0.document].piece($0.tokens) })
    }

    /// All rows in order, packed in windows of `window` rows: what an evaluation runs over.
    public func evaluationBatches(maxTokens: Int, window: Int = 256) -> [[Int]] {
        stride(from: 0, to: count, by: window).flatMap { start in
            let rows = start..<Swift.min(start + window, count)
            return packed(lengths: rows.map(length), maxTokens: maxTokens).map { $0.map { start + $0 } }
        }
    }
}
