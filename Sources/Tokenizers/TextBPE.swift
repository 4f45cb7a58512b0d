// Byte-pair encoding that asks the vocabulary itself which pieces of the text join: SentencePiece's and tiktoken's way.

/// Joins neighbours whose text together is a piece, the best piece first and of equals the leftmost.
final class TextBPE: Sendable {
    private let index: ByteStringIndex
    /// Lower joins first, by id.
    private let order: [UInt32]
    private let longest: Int

    /// - Parameter isPiece: whether the token with this id can come of joining.
    init(_ pieces: ByteStrings, order: [UInt32], where isPiece: (Int32) -> Bool = { _ in true }) {
        self.order = order
        index = ByteStringIndex(pieces, where: isPiece)
        var longest = 0
        for id in 0..<Int32(pieces.count) where isPiece(id) { longest = max(longest, pieces[id]?.count ?? 0) }
        self.longest = longest
    }

    /// Id of a text that is a piece.
    @inline(__always) func id(of text: UnsafeBufferPointer<UInt8>) -> Int32? { index.id(of: text) }

    @inline(__always) private func rank(_ text: UnsafeBufferPointer<UInt8>, _ start: Int, _ end: Int) -> UInt32? {
        guard end - start <= longest else { return nil }
        return id(of: UnsafeBufferPointer(rebasing: text[start..<end])).map { order[Int($0)] }
    }

    private static let shortWord = 64

    /// Joins the symbols of a word.
    ///
    /// - Parameter ends: where each symbol ends, in order; what is left of them after joining.
    func join(_ text: UnsafeBufferPointer<UInt8>, _ ends: inout [Int32]) {
        if ends.count <= Self.shortWord { joinShort(text, &ends) } else { joinLong(text, &ends) }
    }

    private func joinShort(_ text: UnsafeBufferPointer<UInt8>, _ ends: inout [Int32]) {
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: Self.shortWord) { ranks in
            func start(_ i: Int) -> Int { i == 0 ? 0 : Int(ends[i - 1]) }
            func pair(_ i: Int) -> UInt32 { rank(text, start(i), Int(ends[i + 1])) ?? .max }
            for i in 0..<max(ends.count - 1, 0) { ranks[i] = pair(i) }
            while ends.count > 1 {
                var best = UInt32.max, at = 0
                for i in 0..<ends.count - 1 where ranks[i] < best { (best, at) = (ranks[i], i) }
                if best == .max { return }
                ends.remove(at: at)
                for i in at..<max(ends.count - 1, at) { ranks[i] = ranks[i + 1] }
                if at > 0 { ranks[at - 1] = pair(at - 1) }
                if at + 1 < ends.count { ranks[at] = pair(at) }
            }
        }
    }

    private struct Candidate: Comparable {
        var rank: UInt32
        var left: Int32, right: Int32
        /// End of the joined text: says whether either side has changed since.
        var end: Int32

        static func < (a: Candidate, b: Candidate) -> Bool { (a.rank, a.left) < (b.rank, b.left) }
    }

    /// With a heap: work grows with n log n.
    private func joinLong(_ text: UnsafeBufferPointer<UInt8>, _ ends: inout [Int32]) {
        let count = ends.count
        var starts = [Int32](repeating: 0, count: count)
        for i in 1..<max(count, 1) { starts[i] = ends[i - 1] }
        var next = (0..<Int32(count)).map { $0 + 1 }, previous = (0..<Int32(count)).map { $0 - 1 }
        var isAlive = [Bool](repeating: true, count: count)
        var heap = Heap<Candidate>()
        func offer(_ left: Int, _ right: Int) {
            guard left >= 0, right < count, let rank = rank(text, Int(starts[left]), Int(ends[right])) else { return }
            heap.push(Candidate(rank: rank, left: Int32(left), right: Int32(right), end: ends[right]))
        }
        for i in 0..<max(count - 1, 0) { offer(i, i + 1) }
        while let best = heap.pop() {
            let left = Int(best.left), right = Int(best.right)
            guard isAlive[left], isAlive[right], Int(next[left]) == right, ends[right] == best.end else { continue }
            ends[left] = ends[right]
            isAlive[right] = false
            next[left] = next[right]
            if Int(next[left]) < count { previous[Int(next[left])] = Int32(left) }
            offer(Int(previous[left]), left)
            offer(left, Int(next[left]))
        }
        ends = ends.indices.filter { isAlive[$0] }.map { ends[$0] }
    }
}

/// A binary heap, the smallest first.
struct Heap<Element: Comparable> {
    private var items: [Element] = []

    mutating func push(_ element: Element) {
        items.append(element)
        var child = items.count - 1
        while child > 0, items[child] < items[(child - 1) / 2] {
            items.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func pop() -> Element? {
        guard let first = items.first else { return nil }
        let last = items.removeLast()
        if items.isEmpty { return first }
        var parent = 0
        while true {
            var child = parent * 2 + 1
            if child >= items.count { break }
            if child + 1 < items.count, items[child + 1] < items[child] { child += 1 }
            if last <= items[child] { break }
            items[parent] = items[child]
            parent = child
        }
        items[parent] = last
        return first
    }
}
