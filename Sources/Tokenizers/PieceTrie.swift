// The pieces of a vocabulary that a text begins with.

/// A trie over bytes as a double array (Aoe 1989): the child of a node by a byte stands at the node's base xor the byte.
final class PieceTrie: @unchecked Sendable {  // nothing writes after init
    /// A node: the base of its children (32 bits), the id of the piece that ends here plus 1 (23 bits), and the byte
    /// that leads here with bit 8 set; 0 where there is no node.
    private let units: UnsafeMutablePointer<UInt64>

    static let idBits = 23
    /// Where the root's children are; the 256 places from 0 stay empty, for nodes without children.
    fileprivate static let root = 256

    /// Texts by id; the empty one is left out.
    ///
    /// - Parameters:
    ///   - dropped: bytes at the beginning of each text that are not part of the piece.
    ///   - isPiece: the ids whose texts are pieces; all of them have `dropped` bytes at least.
    init(_ strings: ByteStrings, dropping dropped: Int = 0, where isPiece: (Int32) -> Bool = { _ in true }) {
        units = strings.bytes.withUnsafeBufferPointer { bytes in
            var builder = PieceTrieBuilder(bytes)
            for id in 0..<Int32(strings.count) {
                guard let range = strings[id], isPiece(id) else { continue }
                builder.add(range.lowerBound + dropped..<range.upperBound, id)
            }
            return builder.finish()
        }
    }

    deinit { units.deallocate() }

    /// Calls `body` with id and length of each piece that the text begins with, shortest first.
    @inline(__always) func forEachPrefix(_ text: UnsafeBufferPointer<UInt8>, _ body: (Int32, Int) -> Void) {
        let units = units
        var base = Self.root, at = 0
        while at < text.count {
            let byte = text[at], unit = units[base ^ Int(byte)]
            guard unit & 0x1FF == UInt64(byte) | 0x100 else { return }
            at += 1
            let id = Int32(truncatingIfNeeded: unit >> 9 & (1 << UInt64(Self.idBits) - 1)) - 1
            if id >= 0 { body(id, at) }
            base = Int(truncatingIfNeeded: unit >> 32)
        }
    }

    /// The longest piece that the text begins with.
    @inline(__always) func longest(_ text: UnsafeBufferPointer<UInt8>) -> (id: Int32, length: Int)? {
        var found: (Int32, Int)?
        forEachPrefix(text) { found = ($0, $1) }
        return found
    }
}

/// Sorts the pieces and lays the nodes out, each node's children at once.
private struct PieceTrieBuilder {
    private struct Piece {
        /// The first eight bytes, most significant first, so that most comparisons need no look at the text.
        var key: UInt64
        var start: UInt32, end: UInt32
        var id: Int32

        var count: Int { Int(end - start) }
    }

    private let bytes: UnsafeBufferPointer<UInt8>
    private var pieces: [Piece] = []
    private var units: UnsafeMutablePointer<UInt64>
    /// Blocks of 256 places, within which a node's children stand.
    private var blocks = 2, capacity = 64
    /// Bit for each place: taken by a node; and for each base: given to a node.
    private var taken = [UInt64](repeating: 0, count: 64 * 4), given = [UInt64](repeating: 0, count: 64 * 4)
    /// Blocks that may have room, the oldest first.
    private var open: [Int] = []

    init(_ bytes: UnsafeBufferPointer<UInt8>) {
        self.bytes = bytes
        units = .allocate(capacity: capacity * 256)
        units.initialize(repeating: 0, count: capacity * 256)
    }

    mutating func add(_ range: Range<Int>, _ id: Int32) {
        if range.isEmpty { return }
        let first = bytes[range.lowerBound..<min(range.lowerBound + 8, range.upperBound)]
        let key = first.reduce(UInt64(0)) { $0 << 8 | UInt64($1) } << UInt64(8 * (8 - first.count))
        pieces.append(Piece(key: key, start: UInt32(range.lowerBound), end: UInt32(range.upperBound), id: id))
    }

    /// Pieces `first..<end` go through `node` (a place; nil for the root), which is `depth` bytes deep.
    private struct Task {
        var first: Int, end: Int, depth: Int
        var isSorted = false
        var node: Int?
    }

    mutating func finish() -> UnsafeMutablePointer<UInt64> {
        var tasks = [Task(first: 0, end: pieces.count, depth: 0)], labels: [UInt8] = [], starts: [Int] = []
        while var task = tasks.popLast() {
            sort(&task)
            if let node = task.node, task.first < task.end, pieces[task.first].count == task.depth {
                units[node] |= UInt64(pieces[task.first].id + 1) << 9
                task.first += 1
            }
            if task.first == task.end { continue }
            labels.removeAll(keepingCapacity: true)
            starts.removeAll(keepingCapacity: true)
            for i in task.first..<task.end {
                let byte = byte(of: pieces[i], task.depth)
                if labels.last == byte { continue }
                labels.append(byte)
                starts.append(i)
            }
            let base = task.node == nil ? PieceTrie.root : self.base(for: labels)
            if let node = task.node { units[node] |= UInt64(base) << 32 }
            for (i, label) in labels.enumerated() {
                let place = base ^ Int(label)
                units[place] = UInt64(label) | 0x100
                taken[place >> 6] |= 1 << UInt64(place & 63)
                tasks.append(
                    Task(
                        first: starts[i], end: i + 1 < starts.count ? starts[i + 1] : task.end, depth: task.depth + 1,
                        isSorted: task.isSorted, node: place))
            }
        }
        return units
    }

    private func byte(of piece: Piece, _ depth: Int) -> UInt8 {
        depth < 8
            ? UInt8(truncatingIfNeeded: piece.key >> UInt64(56 - 8 * depth)) : bytes[Int(piece.start) + depth]
    }

    /// Puts the pieces of a node in the order of their next byte, the one that ends here first: few of them for good,
    /// many by counting.
    private mutating func sort(_ task: inout Task) {
        if task.isSorted { return }
        if task.end - task.first <= 64 {
            let bytes = bytes
            pieces[task.first..<task.end].sort { a, b in
                if a.key != b.key { return a.key < b.key }
                return bytes[Int(a.start)..<Int(a.end)].lexicographicallyPrecedes(bytes[Int(b.start)..<Int(b.end)])
            }
            return task.isSorted = true
        }
        func group(_ piece: Piece) -> Int { piece.count == task.depth ? 0 : Int(byte(of: piece, task.depth)) + 1 }
        let unsorted = Array(pieces[task.first..<task.end])
        var places = [Int](repeating: 0, count: 258)
        for piece in unsorted { places[group(piece) + 1] += 1 }
        for i in 1..<places.count { places[i] += places[i - 1] }
        for piece in unsorted {
            pieces[task.first + places[group(piece)]] = piece
            places[group(piece)] += 1
        }
    }

    /// A base whose places for these bytes are free and that no other node has.
    private mutating func base(for labels: [UInt8]) -> Int {
        // Single children fill what the others leave.
        if labels.count == 1 {
            while let block = open.first {
                if let base = base(for: labels, in: block) { return base }
                open.removeFirst()
            }
        }
        for block in open.reversed() {
            if let base = base(for: labels, in: block) { return base }
        }
        if open.count == Self.maxOpen { open.removeFirst() }
        open.append(addBlock())
        return base(for: labels, in: open.last!)!
    }

    /// Blocks tried for a node: more of them save memory and cost time.
    private static let maxOpen = 16

    private mutating func base(for labels: [UInt8], in block: Int) -> Int? {
        for word in block * 4..<block * 4 + 4 {
            var free = ~taken[word]
            while free != 0 {
                let place = word << 6 | free.trailingZeroBitCount, base = place ^ Int(labels[0])
                free &= free - 1
                if isSet(given, base) || labels.contains(where: { isSet(taken, base ^ Int($0)) }) { continue }
                given[base >> 6] |= 1 << UInt64(base & 63)
                return base
            }
        }
        return nil
    }

    private func isSet(_ bits: [UInt64], _ place: Int) -> Bool { bits[place >> 6] >> UInt64(place & 63) & 1 != 0 }

    private mutating func addBlock() -> Int {
        if blocks == capacity {
            let larger = UnsafeMutablePointer<UInt64>.allocate(capacity: capacity * 2 * 256)
            larger.moveInitialize(from: units, count: capacity * 256)
            (larger + capacity * 256).initialize(repeating: 0, count: capacity * 256)
            units.deallocate()
            taken += repeatElement(0, count: capacity * 4)
            given += repeatElement(0, count: capacity * 4)
            (units, capacity) = (larger, capacity * 2)
        }
        blocks += 1
        return blocks - 1
    }
}
