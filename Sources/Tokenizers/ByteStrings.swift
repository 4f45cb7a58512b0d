// Many byte strings in one block of memory, and their ids by content.

/// Byte strings numbered by non-negative ids that need not be dense, in one block of memory.
struct ByteStrings: Sendable {
    private(set) var bytes: [UInt8] = []
    /// Start and end of each string; a start of `absent` where there is none.
    private var places: [(start: UInt32, end: UInt32)] = []
    private static let absent = UInt32.max

    var count: Int { places.count }

    @inline(__always) subscript(id: Int32) -> Range<Int>? {
        guard id >= 0, Int(id) < places.count else { return nil }
        let (start, end) = places[Int(id)]
        return start == Self.absent ? nil : Range(uncheckedBounds: (Int(start), Int(end)))
    }

    mutating func reserve(strings: Int, bytes count: Int) {
        places.reserveCapacity(strings)
        bytes.reserveCapacity(count)
    }

    /// Writes one string through `body`, which appends to the block.
    @inline(__always) mutating func set<R>(_ id: Int32, _ body: (inout [UInt8]) throws -> R) rethrows -> R {
        let start = UInt32(bytes.count)
        let result = try body(&bytes)
        while places.count <= Int(id) { places.append((Self.absent, Self.absent)) }
        places[Int(id)] = (start, UInt32(bytes.count))
        return result
    }
}

/// Ids by byte string: open addressing over a `ByteStrings` block, no string object per entry.
final class ByteStringIndex: @unchecked Sendable {  // nothing writes after init
    /// The upper half of the hash, then the id; `free` where nothing is.
    private let slots: UnsafeMutablePointer<UInt64>
    private let mask: Int
    private static let free = UInt64.max, tagBits: UInt64 = 0xFFFF_FFFF_0000_0000
    /// Anew in every process, so that no file can be made to collide.
    private static let seed = UInt64.random(in: .min ... .max)

    /// An id whose string an earlier id has too; the earlier one is found.
    let repeated: Int32?

    init(_ strings: ByteStrings, where isIndexed: (Int32) -> Bool = { _ in true }) {
        var capacity = 16
        while capacity < strings.count * 2 { capacity *= 2 }
        let slots = UnsafeMutablePointer<UInt64>.allocate(capacity: capacity), mask = capacity - 1
        slots.initialize(repeating: Self.free, count: capacity)
        var repeated: Int32?
        let seed = Self.seed
        strings.bytes.withUnsafeBufferPointer { all in
            for id in 0..<Int32(strings.count) {
                guard let range = strings[id], isIndexed(id) else { continue }
                let text = UnsafeBufferPointer(rebasing: all[range]), hash = Self.hash(text, seed)
                let tag = hash & Self.tagBits
                var slot = Int(truncatingIfNeeded: hash) & mask, isNew = true
                while isNew, slots[slot] != Self.free {
                    let found = slots[slot]
                    isNew = found & Self.tagBits != tag || !Self.isSame(text, all, strings, Self.id(found))
                    slot = (slot + 1) & mask
                }
                if isNew { slots[slot] = tag | UInt64(UInt32(id)) } else { repeated = repeated ?? id }
            }
        }
        (self.slots, self.mask, self.repeated) = (slots, mask, repeated)
    }

    deinit { slots.deallocate() }

    @inline(__always) private static func id(_ slot: UInt64) -> Int32 { Int32(truncatingIfNeeded: slot) }

    /// Folds products of 64 bits, as wyhash does.
    @inline(__always) private static func hash(_ text: UnsafeBufferPointer<UInt8>, _ seed: UInt64) -> UInt64 {
        let bytes = UnsafeRawPointer(text.baseAddress), count = text.count
        var hash = seed ^ UInt64(count)
        func fold(_ word: UInt64) {
            let product = (hash ^ word).multipliedFullWidth(by: 0x9E37_79B9_7F4A_7C15)
            hash = product.high ^ product.low
        }
        guard let bytes else { return hash }
        if count >= 8 {
            var at = 0
            while at + 8 < count {
                fold(bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
                at += 8
            }
            fold(bytes.loadUnaligned(fromByteOffset: count - 8, as: UInt64.self))
        } else if count >= 4 {
            let low = bytes.loadUnaligned(as: UInt32.self)
            let high = bytes.loadUnaligned(fromByteOffset: count - 4, as: UInt32.self)
            fold(UInt64(high) << 32 | UInt64(low))
        } else if count > 0 {
            fold(UInt64(text[0]) | UInt64(text[count >> 1]) << 8 | UInt64(text[count - 1]) << 16)
        }
        fold(0xA076_1D64_78BD_642F)
        return hash
    }

    @inline(__always) private static func isSame(
        _ text: UnsafeBufferPointer<UInt8>, _ all: UnsafeBufferPointer<UInt8>, _ strings: ByteStrings, _ id: Int32
    ) -> Bool {
        guard let range = strings[id], range.count == text.count else { return false }
        let other = all.baseAddress! + range.lowerBound
        for i in 0..<text.count where text[i] != other[i] { return false }
        return true
    }

    @inline(__always) func id(of text: UnsafeBufferPointer<UInt8>, in strings: ByteStrings) -> Int32? {
        let hash = Self.hash(text, Self.seed), tag = hash & Self.tagBits
        var slot = Int(truncatingIfNeeded: hash) & mask
        while true {
            let found = slots[slot]
            if found == Self.free { return nil }
            if found & Self.tagBits == tag {
                let isSame = strings.bytes.withUnsafeBufferPointer { Self.isSame(text, $0, strings, Self.id(found)) }
                if isSame { return Self.id(found) }
            }
            slot = (slot + 1) & mask
        }
    }
}
