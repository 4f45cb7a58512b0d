// The merges of a BPE model as a hash table from a pair of ids to its rank and result.
import Diagnostics
import Formats

/// Pairs of token ids that may be joined. Immutable after `init`; the memory is freed with the object.
final class MergeTable: @unchecked Sendable {  // nothing writes after init, so threads only read
    /// No merge; larger than every packed value.
    static let none = UInt64.max

    private let keys: UnsafeMutablePointer<UInt64>
    /// Rank in the high half (compared first), resulting id in the low half.
    private let values: UnsafeMutablePointer<UInt64>
    private let mask: Int

    /// - Parameter merges: left, right and resulting id in order of rank; of a pair given twice the later rank counts.
    init(_ merges: [(left: Int32, right: Int32, joined: Int32)]) {
        var capacity = 16
        while capacity < merges.count * 2 { capacity *= 2 }
        mask = capacity - 1
        keys = .allocate(capacity: capacity)
        values = .allocate(capacity: capacity)
        keys.initialize(repeating: .max, count: capacity)
        values.initialize(repeating: Self.none, count: capacity)
        for (rank, merge) in merges.enumerated() {
            let key = Self.key(merge.left, merge.right)
            var slot = slot(of: key)
            while keys[slot] != .max, keys[slot] != key { slot = (slot + 1) & mask }
            keys[slot] = key
            values[slot] = UInt64(rank) << 32 | UInt64(merge.joined)
        }
    }

    deinit {
        keys.deallocate()
        values.deallocate()
    }

    @inline(__always) static func key(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }

    @inline(__always) private func slot(of key: UInt64) -> Int {
        let mixed = key &* 0x9E37_79B9_7F4A_7C15
        return Int(truncatingIfNeeded: mixed ^ mixed >> 32) & mask
    }

    /// Rank and result of a pair, packed, or `none`.
    @inline(__always) func merge(_ left: Int32, _ right: Int32) -> UInt64 {
        let key = Self.key(left, right)
        var slot = slot(of: key)
        while true {
            let found = keys[slot]
            if found == key { return values[slot] }
            if found == .max { return Self.none }
            slot = (slot + 1) & mask
        }
    }
}
