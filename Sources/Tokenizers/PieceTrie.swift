// The pieces of a vocabulary that a text begins with.

/// A trie over bytes: the children of all nodes in one hash table, those of the root in an array.
final class PieceTrie: @unchecked Sendable {  // filled by one owner, then only read
    /// Node and byte (node << 8 | byte) in the upper half, the child in the lower; `free` where nothing is.
    private let slots: UnsafeMutablePointer<UInt64>
    private let mask: Int
    private static let free = UInt64.max
    private var roots = [UInt32](repeating: 0, count: 256)
    /// Id of the piece that ends at a node, else -1; node 0 is the root.
    private let ends: UnsafeMutablePointer<Int32>
    private var nodes = 1
    private let capacity: Int

    /// - Parameter bytes: at least the bytes of all pieces together, at most 2^24.
    init(bytes: Int) {
        precondition(bytes < 1 << 24, "a vocabulary of 16 MB cannot be loaded; readers check that")
        var size = 1024
        while size < bytes * 2 { size *= 2 }
        (mask, capacity) = (size - 1, bytes + 2)
        slots = .allocate(capacity: size)
        slots.initialize(repeating: Self.free, count: size)
        ends = .allocate(capacity: capacity)
        ends.initialize(repeating: -1, count: capacity)
    }

    deinit {
        slots.deallocate()
        ends.deallocate()
    }

    /// All tokens of a vocabulary.
    convenience init(_ vocabulary: Vocabulary, where isPiece: (Int32) -> Bool = { _ in true }) {
        self.init(bytes: vocabulary.texts.bytes.count)
        vocabulary.forEachText { id, text in if isPiece(id) { insert(text, id) } }
    }

    @inline(__always) private static func slot(_ key: UInt64, _ mask: Int) -> Int {
        Int(truncatingIfNeeded: (key &* 0x9E37_79B9_7F4A_7C15) >> 32) & mask
    }

    /// Adds a piece; of two with one text the later one counts. The empty piece is left out.
    func insert(_ text: UnsafeBufferPointer<UInt8>, _ id: Int32) {
        guard let first = text.first else { return }
        var node = roots[Int(first)]
        if node == 0 {
            node = addNode()
            roots[Int(first)] = node
        }
        for byte in text.dropFirst() {
            let key = UInt64(node) << 8 | UInt64(byte)
            var slot = Self.slot(key, mask)
            while slots[slot] != Self.free, slots[slot] >> 32 != key { slot = (slot + 1) & mask }
            if slots[slot] == Self.free { slots[slot] = key << 32 | UInt64(addNode()) }
            node = UInt32(truncatingIfNeeded: slots[slot])
        }
        ends[Int(node)] = id
    }

    private func addNode() -> UInt32 {
        defer { nodes += 1 }
        precondition(nodes < capacity, "more pieces than the trie was made for")
        return UInt32(nodes)
    }

    /// Calls `body` with id and length of each piece that the text begins with, shortest first.
    @inline(__always) func forEachPrefix(_ text: UnsafeBufferPointer<UInt8>, _ body: (Int32, Int) -> Void) {
        guard let first = text.first, case var node = roots[Int(first)], node != 0 else { return }
        if ends[Int(node)] >= 0 { body(ends[Int(node)], 1) }
        let slots = slots, mask = mask
        var at = 1
        while at < text.count {
            let key = UInt64(node) << 8 | UInt64(text[at])
            var slot = Self.slot(key, mask)
            while slots[slot] >> 32 != key {
                if slots[slot] == Self.free { return }
                slot = (slot + 1) & mask
            }
            node = UInt32(truncatingIfNeeded: slots[slot])
            at += 1
            if ends[Int(node)] >= 0 { body(ends[Int(node)], at) }
        }
    }

    /// The longest piece that the text begins with.
    @inline(__always) func longest(_ text: UnsafeBufferPointer<UInt8>) -> (id: Int32, length: Int)? {
        var found: (Int32, Int)?
        forEachPrefix(text) { found = ($0, $1) }
        return found
    }
}
