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

/// Ids by byte string: open addressing over a copy of a `ByteStrings` block, no string object per entry, and nothing that
/// a search would have to retain.
final class ByteStringIndex: @unchecked Sendable {  // nothing writes after init
    /// The upper half of the hash, then the id; `free` where nothing is.
    private let slots: UnsafeMutablePointer<UInt64>
    private let mask: Int
    private let count: Int32
    private let bytes: UnsafeMutablePointer<UInt8>
    /// Start and end of each id's string; both 0 where there is none.
    private let places: UnsafeMutablePointer<(start: UInt32, end: UInt32)>
    private static let free = UInt64.max, tagBits: UInt64 = 0xFFFF_FFFF_0000_0000
    /// Anew in every process, so that no file can be made to collide.
    private static let processSeed = UInt64.random(in: .min ... .max)
    private let seed = ByteStringIndex.processSeed

    /// An id whose string an earlier id has too; the earlier one is found.
    private(set) var repeated: Int32?

    init(_ strings: ByteStrings, where isIndexed: (Int32) -> Bool = { _ in true }) {
        var capacity = 16
        while capacity < strings.count * 2 { capacity *= 2 }
        (mask, count) = (capacity - 1, Int32(strings.count))
        slots = .allocate(capacity: capacity)
        slots.initialize(repeating: Self.free, count: capacity)
        bytes = .allocate(capacity: max(strings.bytes.count, 1))
        places = .allocate(capacity: max(strings.count, 1))
        UnsafeMutableRawBufferPointer(start: bytes, count: strings.bytes.count).copyBytes(from: strings.bytes)
        for id in 0..<Int32(strings.count) {
            let range = strings[id] ?? 0..<0
            (places + Int(id)).initialize(to: (UInt32(range.lowerBound), UInt32(range.upperBound)))
            if strings[id] != nil, isIndexed(id) {
                insert(id, UnsafeBufferPointer(start: bytes + range.lowerBound, count: range.count))
            }
        }
    }

    private func insert(_ id: Int32, _ text: UnsafeBufferPointer<UInt8>) {
        let hash = hash(text)
        let tag = hash & Self.tagBits
        var slot = Int(truncatingIfNeeded: hash) & mask
        while slots[slot] != Self.free {
            if slots[slot] & Self.tagBits == tag, isSame(text, Self.id(slots[slot])) {
                repeated = repeated ?? id
                return
            }
            slot = (slot + 1) & mask
        }
        slots[slot] = tag | UInt64(UInt32(id))
    }

    deinit {
        slots.deallocate()
        bytes.deallocate()
        places.deallocate()
    }

    @inline(__always) private static func id(_ slot: UInt64) -> Int32 {
        Int32(truncatingIfNeeded: slot)
    }

    /// Folds products of 64 bits, as wyhash does.
    @inline(__always) private func hash(_ text: UnsafeBufferPointer<UInt8>) -> UInt64 {
        let bytes = UnsafeRawPointer(text.baseAddress)
        let count = text.count
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

    @inline(__always) private func isSame(_ text: UnsafeBufferPointer<UInt8>, _ id: Int32) -> Bool {
        let (start, end) = places[Int(id)], count = text.count
        guard count == Int(end - start) else { return false }
        guard let text = UnsafeRawPointer(text.baseAddress) else { return true }
        let other = UnsafeRawPointer(bytes + Int(start))
        func same<Word: FixedWidthInteger>(_ at: Int, _: Word.Type) -> Bool {
            text.loadUnaligned(fromByteOffset: at, as: Word.self)
                == other.loadUnaligned(fromByteOffset: at, as: Word.self)
        }
        // The last word of a text ends with the text, and overlaps the one before.
        if count >= 8 {
            var at = 0
            while at + 8 < count {
                if !same(at, UInt64.self) { return false }
                at += 8
            }
            return same(count - 8, UInt64.self)
        }
        if count >= 4 { return same(0, UInt32.self) && same(count - 4, UInt32.self) }
        for at in 0..<count where !same(at, UInt8.self) { return false }
        return true
    }

    /// The same as `id(of:)`, with an id that it may well be: looking at that one's string first costs less than finding it.
    ///
    /// - Precondition: every string is indexed.
    @inline(__always) func id(of text: UnsafeBufferPointer<UInt8>, guess: Int32) -> Int32? {
        if repeated == nil, !text.isEmpty, guess >= 0, guess < count, isSame(text, guess) { return guess }
        return id(of: text)
    }

    @inline(__always) func id(of text: UnsafeBufferPointer<UInt8>) -> Int32? {
        let hash = hash(text)
        let tag = hash & Self.tagBits
        var slot = Int(truncatingIfNeeded: hash) & mask
        while true {
            let found = slots[slot]
            if found == Self.free { return nil }
            if found & Self.tagBits == tag, isSame(text, Self.id(found)) { return Self.id(found) }
            slot = (slot + 1) & mask
        }
    }
}
