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

    /// Work grows little faster than the text.
    private func joinLong(_ text: UnsafeBufferPointer<UInt8>, _ ends: inout [Int32]) {
        let count = ends.count
        var next = (1...Int32(count)).map { $0 }, previous = (-1..<Int32(count) - 1).map { $0 }
        // Of each symbol with the one after it; none for one that was joined to an earlier one.
        var ranks = [UInt32](repeating: .max, count: count), places = RankedPlaces()
        func offer(_ left: Int) {
            let right = Int(next[left]), start = previous[left] < 0 ? 0 : Int(ends[Int(previous[left])])
            ranks[left] = right < count ? rank(text, start, Int(ends[right])) ?? .max : .max
            if ranks[left] != .max { places.note(left, rank: ranks[left]) }
        }
        for left in 0..<count { offer(left) }
        while let (rank, left) = places.next() {
            if ranks[left] != rank { continue }  // one side was joined to something else since
            let right = Int(next[left]), after = next[right]
            ends[left] = ends[right]
            ranks[right] = .max
            next[left] = after
            if Int(after) < count { previous[Int(after)] = Int32(left) }
            if previous[left] >= 0 { offer(Int(previous[left])) }
            offer(left)
        }
        var kept = 0, at = 0
        while at < count {
            ends[kept] = ends[at]
            (kept, at) = (kept + 1, Int(next[at]))
        }
        ends.removeLast(count - kept)
    }
}
