// Exact selection by magnitude without sorting: digit by digit, one histogram a pass.
internal import Kernels

/// Finds the keys (bits of |x|) at given ranks of a tensor's elements, in rising order, over as many passes as
/// `MergeElement.digits` has entries.
struct RankSearch<T: MergeElement> {
    /// One rank on its way: the key's leading digits so far, and the rank among the elements that share them.
    struct Target {
        var prefix: UInt64 = 0
        /// Elements with a smaller key, and with that very key.
        var below: UInt64 = 0
        var equal: UInt64 = 0
        var rest: UInt64
    }
    private(set) var targets: [Target]
    private var histograms: [[UInt64]] = []
    private var owners: [Int] = []
    private let kernels = T.kernels

    /// - Parameter ranks: positions from 0 in rising order.
    init(_ ranks: [Int]) { targets = ranks.map { Target(rest: UInt64($0)) } }

    /// Before a pass for digit `digit`: one histogram for every prefix in question.
    mutating func begin(_ digit: Int) {
        let size = 1 << Int(T.digits[digit].bits)
        var prefixes: [UInt64] = []
        owners = targets.map { target in
            if let known = prefixes.firstIndex(of: target.prefix) { return known }
            prefixes.append(target.prefix)
            return prefixes.count - 1
        }
        histograms = prefixes.map { _ in [UInt64](repeating: 0, count: size) }
    }

    mutating func count(_ elements: UnsafePointer<T>, _ length: Int, _ digit: Int) {
        let (shift, bits) = T.digits[digit]
        for (index, owner) in owners.enumerated() where owners.firstIndex(of: owner) == index {
            kernels.absHistogram(elements, length, shift, bits, targets[index].prefix, &histograms[owner])
        }
    }

    /// After a pass: one more digit of every key.
    mutating func end(_ digit: Int) {
        let bits = T.digits[digit].bits
        for index in targets.indices {
            let histogram = histograms[owners[index]]
            var target = targets[index], value = 0
            while value + 1 < histogram.count, target.rest >= histogram[value] {
                target.rest -= histogram[value]
                target.below += histogram[value]
                value += 1
            }
            target.equal = histogram[value]
            target.prefix = target.prefix << UInt64(bits) | UInt64(value)
            targets[index] = target
        }
        histograms = []
    }

    /// The keys found, in the order of the ranks asked for.
    var keys: [UInt64] { targets.map(\.prefix) }
}

extension nt_window {
    /// Above every key of a finite number.
    private static var noEdge: UInt64 { UInt64.max >> 1 }

    /// The `kept` largest of `count` elements; of equal ones the first by position.
    /// - Parameter edge: the element at rank `count - kept`.
    init<T>(largest kept: Int, of count: Int, edge: RankSearch<T>.Target) {
        let stay = edge.below + edge.equal - UInt64(count - kept)
        self.init(low: edge.prefix, low_from: 0, low_to: stay, high: Self.noEdge, high_to: 0)
    }

    /// The elements at ranks `ranks`, not empty, where equal ones rank by position.
    /// - Parameters:
    ///   - first: the element at the first of the ranks.
    ///   - last: the element at the last.
    init<T>(ranks: Range<Int>, first: RankSearch<T>.Target, last: RankSearch<T>.Target) {
        let from = UInt64(ranks.lowerBound) - first.below, to = UInt64(ranks.upperBound) - last.below
        let sameEdge = first.prefix == last.prefix
        self.init(
            low: first.prefix, low_from: from, low_to: sameEdge ? to : .max, high: last.prefix,
            high_to: sameEdge ? 0 : to)
    }
}
