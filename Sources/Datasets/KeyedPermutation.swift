// The order of training: a keyed permutation, so that row i of epoch e is known without having drawn the ones before.

/// A bijection of 0 ..< count chosen by (seed, stream), with O(1) access and no state.
///
/// A balanced Feistel network of eight rounds over the smallest even number of bits that holds `count`, walked until it
/// lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): fewer than four steps on average.
public struct KeyedPermutation: Sendable {
    public let count: Int
    private let halfBits: UInt64
    private let keys: [UInt64]
    private static let rounds = 8

    /// - Parameters:
    ///   - count: size of the domain, at least 0.
    ///   - stream: what the order is for; the epoch, for training.
    public init(count: Int, seed: UInt64, stream: UInt64) {
        precondition(count >= 0, "a permutation of \(count) items")
        self.count = count
        var half: UInt64 = 1
        while count > 1 << (2 * half) { half += 1 }
        halfBits = half
        let key = mixed(mixed(seed) ^ stream)
        keys = (0..<UInt64(Self.rounds)).map { mixed(key &+ $0) }
    }

    /// The row at `position` of the order.
    public subscript(position: Int) -> Int {
        precondition(0 <= position && position < count, "position \(position) in an order of \(count)")
        var x = UInt64(position)
        repeat { x = encrypted(x) } while x >= UInt64(count)
        return Int(x)
    }

    private func encrypted(_ x: UInt64) -> UInt64 {
        let mask = (1 << halfBits) - 1 as UInt64
        var left = x >> halfBits, right = x & mask
        for key in keys { (left, right) = (right, left ^ (mixed(right ^ key) & mask)) }
        return left << halfBits | right
    }
}

/// Sebastiano Vigna's splitmix64: one step from `x`, then its finaliser.
func mixed(_ x: UInt64) -> UInt64 {
    var z = x &+ 0x9E37_79B9_7F4A_7C15
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
}
