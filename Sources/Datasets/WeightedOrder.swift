// Rows of several sets in the ratio of weights: which row comes at a position is a pure function of the position.
import Diagnostics

/// Sets that rows are drawn from, each with its weight.
public struct WeightedSets: Sendable, Equatable {
    /// Of each set the indexes of its rows in the data set.
    public let rows: [[Int]]
    /// Of each set the share of draws it gets; they add up to 1.
    public let shares: [Double]

    /// - Parameters:
    ///   - weights: one a set, above 0, in any scale.
    ///   - names: how messages call the weights.
    /// - Throws: `UserError` for a set without rows.
    public init(_ rows: [[Int]], weights: [Double], names: [String]) throws {
        precondition(rows.count == weights.count && names.count == weights.count, "a weight for each set")
        precondition(weights.allSatisfy { $0 > 0 && $0.isFinite }, "weights \(weights)")
        if let empty = rows.firstIndex(where: \.isEmpty) {
            throw UserError("\(names[empty]): no row of its path is left to draw; remove the path and its weight")
        }
        let sum = weights.reduce(0, +)
        (self.rows, shares) = (rows, weights.map { $0 / sum })
    }
}

/// An order of draws: any beginning of it has each set in its share, and of a set every row comes once before one comes
/// again, in an order of its own each time.
///
/// Position p goes to the set that is furthest behind, by `share · (p + 1) - drawn`, the first of equal ones; so no set is
/// ever a whole draw ahead of its share. How often each was drawn before a position follows from the position: nothing has
/// to be kept between runs.
struct WeightedOrder: Sendable {
    private let sets: WeightedSets
    private let seed: UInt64
    /// Draws from each set before every position that is a multiple of `stride`.
    private let marks: [[Int]]

    private static let stride = 4096
    /// Keeps these permutations apart from those of splits, mixtures and epochs.
    private static let stream: UInt64 = 0x7765_6967_6874  // "weight"

    /// - Parameter count: positions that may be asked for.
    init(_ sets: WeightedSets, seed: UInt64, count: Int) {
        (self.sets, self.seed) = (sets, seed)
        var draws = Draws(counts: Array(repeating: 0, count: sets.shares.count)), marks: [[Int]] = []
        for position in 0...count {
            if position % Self.stride == 0 { marks.append(draws.counts) }
            _ = draws.next(sets.shares)
        }
        self.marks = marks
    }

    /// The rows at some positions.
    func rows(_ positions: Range<Int>) -> [Int] {
        var draws = draws(before: positions.lowerBound)
        return positions.map { _ in
            let set = draws.next(sets.shares)
            return row(of: set, draw: draws.counts[set] - 1)
        }
    }

    /// How often each set was drawn before a position.
    func counts(before position: Int) -> [Int] { draws(before: position).counts }

    private func draws(before position: Int) -> Draws {
        var draws = Draws(counts: marks[position / Self.stride])
        for _ in 0..<position % Self.stride { _ = draws.next(sets.shares) }
        return draws
    }

    private func row(of set: Int, draw: Int) -> Int {
        let rows = sets.rows[set], (round, place) = draw.quotientAndRemainder(dividingBy: rows.count)
        let stream = Self.stream &+ UInt64(set) << 32 &+ UInt64(round)
        return rows[KeyedPermutation(count: rows.count, seed: seed, stream: stream)[place]]
    }

    /// The sets while they are drawn from, one position after the other.
    private struct Draws {
        var counts: [Int]
        private var position: Int

        init(counts: [Int]) { (self.counts, position) = (counts, counts.reduce(0, +)) }

        /// The set of the next position, counted.
        mutating func next(_ shares: [Double]) -> Int {
            position += 1
            var best = 0, behind = -Double.infinity
            for (set, share) in shares.enumerated() {
                let lag = share * Double(position) - Double(counts[set])
                if lag > behind { (best, behind) = (set, lag) }
            }
            counts[best] += 1
            return best
        }
    }
}
