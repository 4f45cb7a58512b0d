// All rows of a source as tokens, by index: blocks of equal numbers of rows, in memory or in a mapped file.
internal import Formats

/// A file that rows came from.
struct RowSource: Sendable, Equatable {
    let path: String
    let unit: RowLocation.Unit
    /// How the configuration calls it: `data.train[1]`.
    let name: String

    func location(_ number: Int) -> RowLocation { RowLocation(file: path, unit: unit, number: number) }
}

/// Rows by index, five bytes a token and 20 a row.
final class TokenTable: Sendable {
    /// Of every block but the last.
    static let rowsPerChunk = 256

    let sources: [RowSource]
    let count: Int
    private let chunks: [TokenChunk]
    /// What the blocks lie in.
    private let memory: [any AnyObject & Sendable]

    /// Blocks made here.
    convenience init(_ blocks: [TokenBlock], _ sources: [RowSource]) {
        self.init(blocks.map { TokenChunk($0.bytes, files: sources.count)! }, sources, keeping: blocks)
    }

    /// - Parameter memory: what the blocks lie in.
    init(_ chunks: [TokenChunk], _ sources: [RowSource], keeping memory: [any AnyObject & Sendable]) {
        precondition(chunks.dropLast().allSatisfy { $0.rows == Self.rowsPerChunk }, "a block that is not full")
        (self.chunks, self.sources, self.memory) = (chunks, sources, memory)
        count = chunks.reduce(0) { $0 + $1.rows }
    }

    private func chunk(_ row: Int) -> (TokenChunk, Int) {
        (chunks[row / Self.rowsPerChunk], row % Self.rowsPerChunk)
    }

    func record(_ row: Int) -> TokenChunk.Record {
        let (chunk, place) = chunk(row)
        return chunk.record(place)
    }

    func length(_ row: Int) -> Int {
        let (chunk, place) = chunk(row)
        return chunk.range(place).count
    }

    func location(_ row: Int) -> RowLocation {
        let record = record(row)
        return sources[Int(record.file)].location(Int(record.number))
    }

    /// Targets among some of a row's tokens; the first of them is none, as nothing stands before it.
    func trained(_ row: Int, _ tokens: Range<Int>) -> Int {
        let (chunk, place) = chunk(row), start = chunk.range(place).lowerBound
        return withExtendedLifetime(self) { tokens.dropFirst().count { chunk.marks[start + $0] != 0 } }
    }

    func example(_ row: Int) -> TokenizedExample {
        let (chunk, place) = chunk(row), range = chunk.range(place)
        return withExtendedLifetime(self) {
            TokenizedExample(
                ids: Array(chunk.ids[range]), trained: chunk.marks[range].map { $0 != 0 }, source: location(row))
        }
    }

    /// Why rows have no tokens, for callers that ask in the order of the rows.
    struct LeftOut {
        private let table: TokenTable
        private var chunk = -1
        private var faults: [Int: RowFault] = [:]

        init(_ table: TokenTable) { self.table = table }

        mutating func reason(_ row: Int) -> BadRow? {
            let (number, place) = row.quotientAndRemainder(dividingBy: TokenTable.rowsPerChunk)
            if number != chunk { (chunk, faults) = (number, table.chunks[number].leftOut) }
            let source = table.sources[Int(table.record(row).file)]
            return faults[place].map { BadRow($0, source: source.name, location: table.location(row)) }
        }
    }
}
