// Positions of the keys of a large JSON object.

/// Open addressing over an array of distinct keys; no key is stored twice.
///
/// The hash folds 64 x 64 bit products (as wyhash does) and is seeded anew in every process, so that no file can be
/// made to collide.
struct KeyIndex: Sendable {
    /// Position in the array and the upper half of the key's hash; position -1 is free.
    private var slots: [(position: Int32, tag: UInt32)] = []
    private var count = 0
    private static let seed = UInt64.random(in: .min ... .max)

    init(_ keys: [String]) {
        slots = Self.free(capacity: keys.count)
        for position in keys.indices { insert(position, in: keys) }
    }

    private static func free(capacity: Int) -> [(position: Int32, tag: UInt32)] {
        var size = 64
        while size < capacity * 2 { size *= 2 }
        return Array(repeating: (-1, 0), count: size)
    }

    func position(of key: String, in keys: [String]) -> Int? {
        let hash = Self.hash(key), tag = UInt32(truncatingIfNeeded: hash >> 32), mask = slots.count - 1
        var slot = Int(truncatingIfNeeded: hash) & mask
        while slots[slot].position >= 0 {
            if slots[slot].tag == tag, sameBytes(keys[Int(slots[slot].position)], key) {
                return Int(slots[slot].position)
            }
            slot = (slot + 1) & mask
        }
        return nil
    }

    /// Adds the key at `position`, which is not in the index.
    mutating func insert(_ position: Int, in keys: [String]) {
        if count * 2 >= slots.count {
            slots = Self.free(capacity: count * 2)
            for earlier in 0..<position { fill(earlier, Self.hash(keys[earlier])) }
        }
        fill(position, Self.hash(keys[position]))
        count += 1
    }

    private mutating func fill(_ position: Int, _ hash: UInt64) {
        let mask = slots.count - 1
        var slot = Int(truncatingIfNeeded: hash) & mask
        while slots[slot].position >= 0 { slot = (slot + 1) & mask }
        slots[slot] = (Int32(position), UInt32(truncatingIfNeeded: hash >> 32))
    }

    private static func hash(_ key: String) -> UInt64 {
        var key = key
        let seed = seed, multiplier = (seed ^ 0x9E37_79B9_7F4A_7C15) | 1
        return key.withUTF8 { bytes in
            let bytes = UnsafeRawBufferPointer(bytes)
            var hash = seed ^ UInt64(bytes.count), at = 0
            func fold(_ word: UInt64) {
                let product = (hash ^ word).multipliedFullWidth(by: multiplier)
                hash = (product.high ^ product.low) &+ 0xD6E8_FEB8_6659_FD93
            }
            while at + 8 <= bytes.count {
                fold(bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
                at += 8
            }
            var last: UInt64 = 0
            while at < bytes.count {
                last = last << 8 | UInt64(bytes[at])
                at += 1
            }
            fold(last)
            fold(0xA076_1D64_78BD_642F)
            return hash
        }
    }
}
