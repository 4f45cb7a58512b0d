// The pieces of a vocabulary that a text begins with.

/// A trie over bytes as a double array (Aoe 1989): the child of a node by a byte stands at the node's base xor the byte. Where
/// only one piece goes on, the rest of it is kept as a text and no nodes are made.
final class PieceTrie: @unchecked Sendable {  // nothing writes after init
    /// A node: the base of its children (32 bits), the id of the piece that ends here plus 1 (23 bits), and the byte
    /// that leads here with bit 8 set; 0 where there is no node. With `tailBit` the piece does not end here: the place in
    /// `tails` where its rest is stands in place of the base.
    private let units: UnsafeMutablePointer<UInt64>
    /// The length of each rest (32 bits), then its bytes.
    private let tails: UnsafeMutableRawPointer

    static let idBits = 23
    fileprivate static let tailBit: UInt64 = 1 << 63
    /// Where the root's children are; the 256 places from 0 stay empty, for nodes without children.
    fileprivate static let root = 256

    /// Texts by id; the empty one is left out.
    ///
    /// - Parameters:
    ///   - dropped: bytes at the beginning of each text that are not part of the piece.
    ///   - isPiece: the ids whose texts are pieces; all of them have `dropped` bytes at least.
    init(_ strings: ByteStrings, dropping dropped: Int = 0, where isPiece: (Int32) -> Bool = { _ in true }) {
        (units, tails) = strings.bytes.withUnsafeBufferPointer { bytes in
            var builder = PieceTrieBuilder(bytes, capacity: strings.count)
            for id in 0..<Int32(strings.count) {
                guard let range = strings[id], isPiece(id) else { continue }
                builder.add(range.lowerBound + dropped..<range.upperBound, id)
            }
            return builder.finish()
        }
    }

    deinit {
        units.deallocate()
        tails.deallocate()
    }

    /// Calls `body` with id and length of each piece that the text begins with, shortest first.
    @inline(__always) func forEachPrefix(_ text: UnsafeBufferPointer<UInt8>, _ body: (Int32, Int) -> Void) {
        let units = units
        var base = Self.root, at = 0
        while at < text.count {
            let byte = text[at], unit = units[base ^ Int(byte)]
            guard unit & 0x1FF == UInt64(byte) | 0x100 else { return }
            at += 1
            let id = Int32(truncatingIfNeeded: unit >> 9 & (1 << UInt64(Self.idBits) - 1)) - 1
            base = Int(truncatingIfNeeded: unit >> 32)
            if unit & Self.tailBit != 0 {
                let tail = tails + (base & 0x7FFF_FFFF), count = Int(tail.loadUnaligned(as: UInt32.self))
                guard count <= text.count - at else { return }
                let rest = (tail + 4).assumingMemoryBound(to: UInt8.self)
                for i in 0..<count where rest[i] != text[at + i] { return }
                return body(id, at + count)
            }
            if id >= 0 { body(id, at) }
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
        /// Eight bytes of the text from some depth on, most significant first, so that most comparisons need no look at it.
        var key: UInt64
        var start: UInt32, end: UInt32
        var id: Int32

        var count: Int { Int(end - start) }
    }

    private let bytes: UnsafeBufferPointer<UInt8>
    private var pieces: [Piece] = []
    private var units: UnsafeMutablePointer<UInt64>
    private var tails: [UInt8] = []
    /// Blocks of 256 places, within which a node's children stand.
    private var blocks = 2, capacity = 64
    /// Bit for each place: taken by a node; and for each base: given to a node.
    private var taken = [UInt64](repeating: 0, count: 64 * 4), given = [UInt64](repeating: 0, count: 64 * 4)
    /// Blocks that may have room, the oldest first.
    private var open: [Int] = []

    init(_ bytes: UnsafeBufferPointer<UInt8>, capacity count: Int) {
        self.bytes = bytes
        pieces.reserveCapacity(count)
        units = .allocate(capacity: capacity * 256)
        units.initialize(repeating: 0, count: capacity * 256)
    }

    mutating func add(_ range: Range<Int>, _ id: Int32) {
        if range.isEmpty { return }
        pieces.append(
            Piece(
                key: key(range.lowerBound, range.upperBound), start: UInt32(range.lowerBound),
                end: UInt32(range.upperBound), id: id))
    }

    /// Up to eight bytes from a place on, zeros after the end.
    private func key(_ at: Int, _ end: Int) -> UInt64 {
        if at + 8 <= bytes.count {
            let word = UInt64(bigEndian: UnsafeRawPointer(bytes.baseAddress! + at).loadUnaligned(as: UInt64.self))
            return end - at >= 8 ? word : end > at ? word & ~(.max >> UInt64(8 * (end - at))) : 0
        }
        return (0..<8).reduce(0) { $0 << 8 | (at + $1 < end ? UInt64(bytes[at + $1]) : 0) }
    }

    /// Pieces `first..<end` go through `node` (a place; nil for the root), which is `depth` bytes deep.
    private struct Task {
        var first: Int, end: Int, depth: Int
        /// How deep the pieces' keys begin.
        var keyDepth = 0
        var isSorted = false
        var node: Int?
    }

    mutating func finish() -> (UnsafeMutablePointer<UInt64>, UnsafeMutableRawPointer) {
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
                let byte = byte(of: pieces[i], task)
                if labels.last == byte { continue }
                labels.append(byte)
                starts.append(i)
            }
            starts.append(task.end)
            let base = task.node == nil ? PieceTrie.root : self.base(for: labels)
            if let node = task.node { units[node] |= UInt64(base) << 32 }
            for (i, label) in labels.enumerated() {
                let place = base ^ Int(label)
                units[place] = UInt64(label) | 0x100
                taken[place >> 6] |= 1 << UInt64(place & 63)
                if starts[i + 1] == starts[i] + 1 {
                    end(pieces[starts[i]], task.depth + 1, at: place)
                } else {
                    tasks.append(
                        Task(
                            first: starts[i], end: starts[i + 1], depth: task.depth + 1, keyDepth: task.keyDepth,
                            isSorted: task.isSorted, node: place))
                }
            }
        }
        let copy = UnsafeMutableRawPointer.allocate(byteCount: max(tails.count, 1), alignment: 1)
        tails.withUnsafeBytes { copy.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(copy), byteCount: $0.count) }
        return (units, copy)
    }

    /// Makes a node the last of a piece of which no other has so much.
    private mutating func end(_ piece: Piece, _ depth: Int, at place: Int) {
        units[place] |= UInt64(piece.id + 1) << 9
        if piece.count == depth { return }
        units[place] |= PieceTrie.tailBit | UInt64(tails.count) << 32
        withUnsafeBytes(of: UInt32(piece.count - depth)) { tails += $0 }
        tails += bytes[Int(piece.start) + depth..<Int(piece.end)]
    }

    @inline(__always) private func byte(of piece: Piece, _ task: Task) -> UInt8 {
        let at = task.depth - task.keyDepth
        return at < 8
            ? UInt8(truncatingIfNeeded: piece.key >> UInt64(56 - 8 * at)) : bytes[Int(piece.start) + task.depth]
    }

    /// Puts the pieces of a node in the order of their next byte, the one that ends here first: few of them for good,
    /// many by counting.
    private mutating func sort(_ task: inout Task) {
        if task.isSorted { return }
        if task.end - task.first <= 64 || task.depth - task.keyDepth >= 8 {
            for i in task.first..<task.end {
                pieces[i].key = key(Int(pieces[i].start) + task.depth, Int(pieces[i].end))
            }
            task.keyDepth = task.depth
        }
        if task.end - task.first <= 64 {
            let bytes = bytes, depth = task.depth
            pieces[task.first..<task.end].sort { a, b in
                if a.key != b.key { return a.key < b.key }
                return bytes[Int(a.start) + depth..<Int(a.end)].lexicographicallyPrecedes(
                    bytes[Int(b.start) + depth..<Int(b.end)])
            }
            return task.isSorted = true
        }
        let current = task
        func group(_ piece: Piece) -> Int { piece.count == current.depth ? 0 : Int(byte(of: piece, current)) + 1 }
        var places = [Int](repeating: 0, count: 258)
        for i in task.first..<task.end { places[group(pieces[i]) + 1] += 1 }
        if places.contains(task.end - task.first) { return }
        for i in 1..<places.count { places[i] += places[i - 1] }
        for piece in Array(pieces[task.first..<task.end]) {
            let group = group(piece)
            pieces[task.first + places[group]] = piece
            places[group] += 1
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
