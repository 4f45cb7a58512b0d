// Ids of recent words: a fixed block of memory, one cache line a word, the newer word wins its slot.

/// What one encoding thread works with; taken from a pool, never shared while in use.
final class Scratch: @unchecked Sendable {  // the pool hands each to one caller at a time
    let cache = WordCache()
    /// Room for one short word.
    let ids = UnsafeMutablePointer<Int32>.allocate(capacity: 64)
    let pairs = UnsafeMutablePointer<UInt64>.allocate(capacity: 64)
    /// Ends of pieces before and after a space was put before them.
    let ends = UnsafeMutablePointer<Int>.allocate(capacity: 2 * (PreTokenizer.maxSteps + 1))
    @exclusivity(unchecked) var output = IDBuffer()

    deinit {
        ids.deallocate()
        pairs.deallocate()
        ends.deallocate()
        output.deallocate()
    }
}

/// A growing list of ids without the checks of an array; owned by `Scratch`.
struct IDBuffer {
    private(set) var start = UnsafeMutablePointer<Int32>.allocate(capacity: 1024)
    private(set) var count = 0
    private var capacity = 1024

    /// Makes room for `more` ids.
    @inline(__always) mutating func reserve(_ more: Int) {
        if count + more > capacity { grow(to: max(count + more, capacity * 2)) }
    }

    private mutating func grow(to newCapacity: Int) {
        let new = UnsafeMutablePointer<Int32>.allocate(capacity: newCapacity)
        new.update(from: start, count: count)
        start.deallocate()
        (start, capacity) = (new, newCapacity)
    }

    /// Appends where `reserve` made room.
    @inline(__always) mutating func append(_ id: Int32) {
        start[count] = id
        count += 1
    }

    mutating func append(from ids: UnsafePointer<Int32>, _ number: Int) {
        (start + count).update(from: ids, count: number)
        count += number
    }

    /// The ids, and an empty buffer of modest size again.
    mutating func take() -> [Int32] {
        defer {
            count = 0
            if capacity > 1 << 18 { grow(to: 1024) }
        }
        return Array(UnsafeBufferPointer(start: start, count: count))
    }

    func deallocate() { start.deallocate() }
}

/// 2^15 words of at most 31 bytes and 7 tokens: 2 MB, whatever the text.
final class WordCache: @unchecked Sendable {  // part of one Scratch
    static let maxBytes = 31
    private static let maxTokens = 7, bits = 15

    /// The bytes of a word, zero-padded, its length in the last byte.
    struct Key {
        var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

        @inline(__always) init(_ text: UnsafeBufferPointer<UInt8>) {
            withUnsafeMutableBytes(of: &words) { key in
                key.baseAddress!.copyMemory(from: text.baseAddress!, byteCount: text.count)
                key[31] = UInt8(text.count)
            }
        }

        @inline(__always) var slot: Int {
            var hash = (words.0 ^ words.1 &* 0x9E37_79B9_7F4A_7C15) &* 0xFF51_AFD7_ED55_8CCD
            hash ^= (words.2 ^ words.3 &* 0x9E37_79B9_7F4A_7C15) &* 0xC4CE_B9FE_1A85_EC53
            hash = (hash ^ hash >> 32) &* 0x9E37_79B9_7F4A_7C15
            return Int(truncatingIfNeeded: hash >> (64 - UInt64(bits)))
        }
    }

    private struct Slot {
        var key: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        var ids: (Int32, Int32, Int32, Int32, Int32, Int32, Int32) = (0, 0, 0, 0, 0, 0, 0)
        var count: Int32 = 0
    }

    private let slots: UnsafeMutablePointer<Slot>

    init() {
        slots = .allocate(capacity: 1 << Self.bits)
        slots.initialize(repeating: Slot(), count: 1 << Self.bits)
    }

    deinit { slots.deallocate() }

    /// Appends the ids of a word that is there.
    @inline(__always) func append(_ key: Key, to output: inout IDBuffer) -> Bool {
        let slot = slots + key.slot
        guard slot.pointee.key == key.words else { return false }
        withUnsafeBytes(of: &slot.pointee.ids) { ids in
            let ids = ids.assumingMemoryBound(to: Int32.self)
            for i in 0..<Int(slot.pointee.count) { output.append(ids[i]) }
        }
        return true
    }

    /// What is known of a word, packed.
    @inline(__always) func tokens(_ key: Key) -> UnsafeBufferPointer<Int32>? {
        let slot = slots + key.slot
        guard slot.pointee.key == key.words else { return nil }
        let ids = UnsafeRawPointer(slot).advanced(by: MemoryLayout<Slot>.offset(of: \.ids)!)
        return UnsafeBufferPointer(
            start: ids.assumingMemoryBound(to: Int32.self), count: Int(slot.pointee.count))
    }

    /// Keeps tokens with what they cover, if they follow one another or share a place.
    func insert(_ key: Key, tokens: [WordToken]) {
        guard tokens.count <= Self.maxTokens else { return }
        var end: Int32 = 0
        withUnsafeTemporaryAllocation(of: Int32.self, capacity: Self.maxTokens) { packed in
            for (i, token) in tokens.enumerated() {
                guard let value = token.packed(after: end) else { return }
                packed.initializeElement(at: i, to: value)
                end = token.end
            }
            insert(key, UnsafeBufferPointer(rebasing: packed[..<tokens.count]))
        }
    }

    func insert(_ key: Key, _ ids: UnsafeBufferPointer<Int32>) {
        guard ids.count <= Self.maxTokens else { return }
        let slot = slots + key.slot
        slot.pointee.key = key.words
        slot.pointee.count = Int32(ids.count)
        withUnsafeMutableBytes(of: &slot.pointee.ids) { target in
            for (i, id) in ids.enumerated() { target.storeBytes(of: id, toByteOffset: i * 4, as: Int32.self) }
        }
    }
}

extension WordToken {
    /// Id (23 bits), length (5 bits), and whether it covers what the token before it covers, too.
    fileprivate func packed(after previous: Int32) -> Int32? {
        let length = end - start
        guard (start == previous || end == previous) && length < 32 else { return nil }
        return id << 6 | length << 1 | (start == previous ? 0 : 1)
    }

    init(packed: Int32, after previous: Int32) {
        let length = packed >> 1 & 31
        (id, start) = (packed >> 6, packed & 1 == 0 ? previous : previous - length)
        end = start + length
    }
}
