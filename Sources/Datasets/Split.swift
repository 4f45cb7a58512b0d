// Which rows are held out for judging and which are trained: a pure function of (seed, number of rows).
import Diagnostics

/// How many rows are held out.
public enum HeldOut: Sendable, Equatable {
    case none
    case count(Int)
    /// Of all rows, 0 < x < 1; at least one row.
    case fraction(Double)
}

/// Indexes of the rows to train on and of those held out, both in the order of the files.
public struct Split: Sendable, Equatable {
    public let training: [Int]
    public let heldOut: [Int]

    /// The stream number that keeps this permutation apart from those of the epochs.
    private static let stream: UInt64 = 0x7370_6C69_74  // "split"

    /// Held-out rows are the first of a keyed permutation of all rows; training takes the next ones. So a limit on
    /// training leaves the held-out rows as they are, and takes a fair sample of sorted files.
    ///
    /// - Parameter limit: rows to train on at most.
    /// - Throws: `UserError` when nothing would be left to train on.
    public init(rows: Int, heldOut: HeldOut, seed: UInt64, limit: Int? = nil, source: String = "") throws {
        let held =
            switch heldOut {
            case .none: 0
            case .count(let count): count
            case .fraction(let part): part <= 0 ? 0 : max(1, Int((Double(rows) * part).rounded()))
            }
        guard held >= 0, held < rows else {
            throw UserError(
                prefixed(
                    source,
                    "cannot hold out \(grouped(held)) of \(counted(rows, "row")) and train on the rest; give more rows (of plain text with "
                        + "data.text_unit: paragraph), others in data.validation, or data.validation_rows: 0"))
        }
        if let limit, limit < 1 {
            throw UserError(prefixed(source, "a limit of \(limit) rows leaves nothing to train on"), .usage)
        }
        let order = KeyedPermutation(count: rows, seed: seed, stream: Self.stream)
        let taken = min(rows - held, limit ?? .max)
        self.heldOut = (0..<held).map { order[$0] }.sorted()
        training = (held..<held + taken).map { order[$0] }.sorted()
    }
}
