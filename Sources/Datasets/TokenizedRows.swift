// Rows, encoder, policy: the step from files to a data set in memory.
import Diagnostics

extension TokenizedDataset {
    /// Encodes the rows `indexes`, in that order.
    ///
    /// Rows whose mask cannot be proven, that are too long under `.drop`, or that have nothing to train are left out
    /// and counted. A row that the template refuses is a bad row like any other: `badRows` decides.
    ///
    /// - Throws: `BadRow` under `.stop`; `UserError` when every row was left out.
    public init(
        _ rows: Rows, _ indexes: some Sequence<Int>, _ encoder: ExampleEncoder, badRows: BadRowPolicy,
        statistics: inout DatasetStatistics
    ) throws {
        self.init()
        for index in indexes {
            do {
                let encoded = try encoder.encode(rows[index], source: rows.sourceName(index))
                statistics.keep(encoded)
                append(encoded.example)
            } catch let bad as BadRow {
                if badRows == .stop, bad.reason == .templateRefused { throw bad }
                statistics.drop(bad)
            }
        }
        if isEmpty, statistics.rowsDropped > 0 {
            let why = statistics.droppedByReason.map { "\($0.reason.rawValue) \($0.count)" }.joined(separator: ", ")
            let example = statistics.droppedByReason.first.flatMap { statistics.examples[$0.reason] }
            throw UserError("no row is left: dropped \(why)" + (example.map { "; first: \($0)" } ?? ""))
        }
    }
}
