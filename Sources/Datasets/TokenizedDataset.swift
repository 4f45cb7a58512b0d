// Tokenised rows in flat arrays: five bytes a token and a few words a row.

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

/// Rows as tokens, by index, in the order in which they were added.
public struct TokenizedDataset: Sendable, RandomAccessCollection {
    private var ids: [Int32] = []
    private var trained: [Bool] = []
    private var ends: [Int] = []
    private var trainedCounts: [Int32] = []
    private var files: [String] = []
    private var sources: [(file: Int32, unit: RowLocation.Unit, number: Int32)] = []

    public init() {}
    public init(_ examples: some Sequence<TokenizedExample>) { for example in examples { append(example) } }

    public var startIndex: Int { 0 }
    public var endIndex: Int { ends.count }
    public var tokens: Int { ids.count }
    public var trainedTokens: Int { trainedCounts.reduce(0) { $0 + Int($1) } }

    public mutating func append(_ example: TokenizedExample) {
        ids.append(contentsOf: example.ids)
        trained.append(contentsOf: example.trained)
        ends.append(ids.count)
        trainedCounts.append(Int32(example.trainedTokens))
        if files.last != example.source.file { files.append(example.source.file) }
        sources.append((Int32(files.count - 1), example.source.unit, Int32(example.source.number)))
    }

    public subscript(index: Int) -> TokenizedExample {
        let range = range(index)
        return TokenizedExample(ids: Array(ids[range]), trained: Array(trained[range]), source: source(index))
    }

    /// How many of the rows came from each file.
    public var rowsByFile: [String: Int] {
        sources.reduce(into: [:]) { $0[files[Int($1.file)], default: 0] += 1 }
    }

    public func length(_ index: Int) -> Int { range(index).count }
    public func trainedTokens(_ index: Int) -> Int { Int(trainedCounts[index]) }
    public func source(_ index: Int) -> RowLocation {
        let source = sources[index]
        return RowLocation(file: files[Int(source.file)], unit: source.unit, number: Int(source.number))
    }

    private func range(_ index: Int) -> Range<Int> { (index == 0 ? 0 : ends[index - 1])..<ends[index] }

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
