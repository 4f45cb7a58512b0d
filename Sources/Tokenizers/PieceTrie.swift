// The pieces of a vocabulary that a text begins with.

/// A trie over bytes: the children of all nodes in one hash table, those of the root in an array.
struct PieceTrie: @unchecked Sendable {  // value semantics by arrays
    /// Node and byte (node << 8 | byte) of each slot; -1 is free.
    private var keys: [Int64] = Array(repeating: -1, count: 1024)
    private var children: [Int32] = Array(repeating: 0, count: 1024)
    private var roots = [Int32](repeating: 0, count: 256)
    /// Id of the piece that ends at a node, else -1; node 0 is the root.
    private var ends: [Int32] = [-1]
    private var used = 0

    @inline(__always) private static func slot(_ key: Int64, _ mask: Int) -> Int {
        let mixed = UInt64(bitPattern: key) &* 0x9E37_79B9_7F4A_7C15
        return Int(truncatingIfNeeded: mixed >> 32) & mask
    }

    /// Adds a piece; of two with one text the later one counts. The empty piece is left out.
    mutating func insert(_ text: UnsafeBufferPointer<UInt8>, _ id: Int32) {
        guard let first = text.first else { return }
        var node = roots[Int(first)]
        if node == 0 {
            node = addNode()
            roots[Int(first)] = node
        }
        for byte in text.dropFirst() {
            let key = Int64(node) << 8 | Int64(byte)
            var slot = Self.slot(key, keys.count - 1)
            while keys[slot] >= 0, keys[slot] != key { slot = (slot + 1) & (keys.count - 1) }
            if keys[slot] == key {
                node = children[slot]
                continue
            }
            node = addNode()
            (keys[slot], children[slot]) = (key, node)
            used += 1
            if used * 2 > keys.count { grow() }
        }
        ends[Int(node)] = id
    }

    private mutating func addNode() -> Int32 {
        ends.append(-1)
        return Int32(ends.count - 1)
    }

    private mutating func grow() {
        let (oldKeys, oldChildren) = (keys, children), count = keys.count * 4
        keys = Array(repeating: -1, count: count)
        children = Array(repeating: 0, count: count)
        for (i, key) in oldKeys.enumerated() where key >= 0 {
            var slot = Self.slot(key, count - 1)
            while keys[slot] >= 0 { slot = (slot + 1) & (count - 1) }
            (keys[slot], children[slot]) = (key, oldChildren[i])
        }
    }

    /// Calls `body` with id and length of each piece that the text begins with, shortest first.
    @inline(__always) func forEachPrefix(_ text: UnsafeBufferPointer<UInt8>, _ body: (Int32, Int) -> Void) {
        guard let first = text.first, case var node = roots[Int(first)], node != 0 else { return }
        if ends[Int(node)] >= 0 { body(ends[Int(node)], 1) }
        keys.withUnsafeBufferPointer { keys in
            children.withUnsafeBufferPointer { children in
                ends.withUnsafeBufferPointer { ends in
                    let mask = keys.count - 1
                    var at = 1
                    while at < text.count {
                        let key = Int64(node) << 8 | Int64(text[at])
                        var slot = Self.slot(key, mask)
                        while keys[slot] >= 0, keys[slot] != key { slot = (slot + 1) & mask }
                        if keys[slot] < 0 { return }
                        node = children[slot]
                        at += 1
                        if ends[Int(node)] >= 0 { body(ends[Int(node)], at) }
                    }
                }
            }
        }
    }

    /// The longest piece that the text begins with.
    func longest(_ text: UnsafeBufferPointer<UInt8>) -> (id: Int32, length: Int)? {
        var found: (Int32, Int)?
        forEachPrefix(text) { found = ($0, $1) }
        return found
    }
}
