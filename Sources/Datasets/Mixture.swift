// How much of each source is taken: whole copies and a random rest, as open-instruct's `dataset_mixer_list` has it.
import Diagnostics

/// How many rows of a source are taken. With a decimal point it is a share: `1.0` is all rows, `2.5` two copies and half
/// of the rows once more. Without it is a number of rows: `1` is one row.
public enum MixAmount: Sendable, Equatable {
    case rows(Int)
    case share(Double)

    /// - Throws: `UserError` for anything but a number from 0, or one that no set of rows could give.
    public init(_ text: String, source: String = "") throws {
        let fault = UserError(
            prefixed(
                source,
                "\(quoted(text)) is no amount; give a number of rows, as 500, or with a decimal point a share, as 0.5"),
            .usage)
        if text.contains(".") {
            guard let share = Double(text), (0...1e6).contains(share) else { throw fault }
            self = .share(share)
        } else {
            guard let rows = Int(text), (0...Int(Int32.max)).contains(rows) else { throw fault }
            self = .rows(rows)
        }
    }

    /// Rows taken of `count`, rounded down.
    public func taken(of count: Int) -> Int {
        switch self {
        case .rows(let rows): rows
        case .share(let share): Int(share * Double(count))
        }
    }
}

/// The rows of several sources, each in its amount.
public struct Mixture: Sendable {
    /// What became of one source.
    public struct Part: Sendable, Equatable {
        /// Rows that were there.
        public let rows: Int
        public let taken: Int
        /// How often each row is taken on average.
        public var factor: Double { rows == 0 ? 0 : Double(taken) / Double(rows) }

        public init(rows: Int, taken: Int) { (self.rows, self.taken) = (rows, taken) }
    }

    /// Indexes of the rows, source by source, those of a source in their order, copies one behind the other.
    public let rows: [Int]
    public let parts: [Part]
    /// Amounts that were hardly meant.
    public let warnings: [String]

    /// The seed that open-instruct takes.
    public static let defaultSeed: UInt64 = 42
    /// Keeps this permutation apart from those of splits and epochs.
    private static let stream: UInt64 = 0x6D69_7874_7572_65  // "mixture"

    /// - Parameters:
    ///   - sources: the rows of each source.
    ///   - amounts: one a source.
    ///   - names: how messages call the amounts.
    /// - Throws: `UserError` when rows are wanted of a source that has none, or none of any.
    public init(_ sources: [[Int]], _ amounts: [MixAmount], seed: UInt64 = defaultSeed, names: [String]) throws {
        precondition(sources.count == amounts.count && names.count == amounts.count, "an amount for each source")
        var rows: [Int] = [], parts: [Part] = [], warnings: [String] = []
        for (i, source) in sources.enumerated() {
            let taken = amounts[i].taken(of: source.count)
            if taken > 0, source.isEmpty { throw UserError("\(names[i]): \(taken) rows of a source that has none") }
            if case .rows(let count) = amounts[i], count <= 10, source.count > 100 {
                warnings.append(
                    "\(names[i]): \(count) is \(counted(count, "row")) of \(grouped(source.count)); for all of them write "
                        + "\(max(1, count)).0")
            }
            let (copies, rest) = source.isEmpty ? (0, 0) : taken.quotientAndRemainder(dividingBy: source.count)
            for _ in 0..<copies { rows += source }
            let order = KeyedPermutation(count: source.count, seed: seed, stream: Self.stream &+ UInt64(i))
            rows += (0..<rest).map { order[$0] }.sorted().map { source[$0] }
            parts.append(Part(rows: source.count, taken: taken))
        }
        if rows.isEmpty { throw UserError("the amounts take no row of any source; raise one", .usage) }
        (self.rows, self.parts, self.warnings) = (rows, parts, warnings)
    }
}
