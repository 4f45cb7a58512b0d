// Byte-pair encoding of one word: repeatedly join the pair of lowest rank, leftmost first (Sennrich et al. 2016,
// arXiv:1508.07909, as `tokenizers` does it).

/// The model half of a tokenizer: vocabulary, merges and what to do with bytes that have no token.
final class BPE: @unchecked Sendable {  // nothing writes after init, so threads only read
    let vocabulary: Vocabulary
    let merges: MergeTable
    /// A word that is a token is taken whole, whatever the merges say (Llama 3).
    let ignoreMerges: Bool
    let unknownID: Int32?
    let fuseUnknown: Bool
    /// Ids by raw bytes, for `ignoreMerges`.
    private let rawIndex: ByteStringIndex?
    /// Joins by rank instead of by merges.
    private let ranked: TextBPE?
    /// Whether every byte is a token, so that every word can be spelled.
    let hasAllBytes: Bool
    /// Id of each byte.
    private let byteIDs = UnsafeMutablePointer<Int32>.allocate(capacity: 256)
    /// Number of bytes of each token.
    let lengths: UnsafeMutablePointer<Int32>

    /// A model whose tokens merge in the order of their ids (tiktoken): a word that is a token is taken whole.
    convenience init(ranked vocabulary: Vocabulary) {
        self.init(
            vocabulary: vocabulary, merges: MergeTable([]),
            ranked: TextBPE(vocabulary.raw, order: (0...UInt32(max(vocabulary.maxID, 0))).map { $0 }))
    }

    init(
        vocabulary: Vocabulary, merges: MergeTable, ignoreMerges: Bool = false, unknownID: Int32? = nil,
        fuseUnknown: Bool = false, ranked: TextBPE? = nil
    ) {
        self.ranked = ranked
        self.vocabulary = vocabulary
        self.merges = merges
        self.ignoreMerges = ignoreMerges
        self.unknownID = unknownID
        self.fuseUnknown = fuseUnknown
        rawIndex = ignoreMerges ? vocabulary.rawIndex() : nil
        hasAllBytes = vocabulary.byteIDs.allSatisfy { $0 >= 0 }
        for (byte, id) in vocabulary.byteIDs.enumerated() { byteIDs[byte] = id }
        lengths = .allocate(capacity: Int(vocabulary.maxID) + 1)
        for id in 0...max(vocabulary.maxID, 0) where id <= vocabulary.maxID {
            lengths[Int(id)] = Int32(vocabulary.raw[id]?.count ?? 0)
        }
    }

    deinit {
        byteIDs.deallocate()
        lengths.deallocate()
    }

    /// Longest word joined by searching all its pairs each time; longer ones keep their pairs sorted.
    private static let shortWord = 48

    /// Appends the ids of one word; false, and nothing appended, when a byte of it has no token.
    @inline(__always)
    func append(_ word: UnsafeBufferPointer<UInt8>, _ scratch: Scratch) -> Bool {
        scratch.output.reserve(word.count)
        if let rawIndex, let id = rawIndex.id(of: word) {
            scratch.output.append(id)
            return true
        }
        guard word.count <= WordCache.maxBytes else { return appendUncached(word, scratch) }
        let key = WordCache.Key(word)
        if scratch.cache.append(key, to: &scratch.output) { return true }
        let start = scratch.output.count
        guard appendUncached(word, scratch) else { return false }
        scratch.cache.insert(
            key, UnsafeBufferPointer(start: scratch.output.start + start, count: scratch.output.count - start))
        return true
    }

    private func appendUncached(_ word: UnsafeBufferPointer<UInt8>, _ scratch: Scratch) -> Bool {
        if let ranked {
            appendRanked(word, ranked, scratch)
            return true
        }
        if !hasAllBytes, word.contains(where: { byteIDs[Int($0)] < 0 }) { return false }
        if word.count <= Self.shortWord {
            mergeShort(word, scratch)
            return true
        }
        var long = LongWord(word.map { byteIDs[Int($0)] })
        long.merge(merges)
        for id in long.ids where id >= 0 { scratch.output.append(id) }
        return true
    }

    private func appendRanked(_ word: UnsafeBufferPointer<UInt8>, _ ranked: TextBPE, _ scratch: Scratch) {
        if let id = ranked.id(of: word) { return scratch.output.append(id) }
        var ends = (1...Int32(word.count)).map { $0 }, start = 0
        ranked.join(word, &ends)
        for end in ends {
            // Every byte is a token, and what joined is one.
            scratch.output.append(ranked.id(of: UnsafeBufferPointer(rebasing: word[start..<Int(end)]))!)
            start = Int(end)
        }
    }

    private func mergeShort(_ word: UnsafeBufferPointer<UInt8>, _ scratch: Scratch) {
        var count = word.count
        let ids = scratch.ids, pairs = scratch.pairs
        for i in 0..<count { ids[i] = byteIDs[Int(word[i])] }
        for i in 0..<count - 1 { pairs[i] = merges.merge(ids[i], ids[i + 1]) }
        while count > 1 {
            var best = MergeTable.none, at = 0
            for i in 0..<count - 1 where pairs[i] < best { (best, at) = (pairs[i], i) }
            if best == MergeTable.none { break }
            ids[at] = Int32(truncatingIfNeeded: best & 0xFFFF_FFFF)
            count -= 1
            for i in at + 1..<max(count, at + 1) { ids[i] = ids[i + 1] }
            for i in at..<max(count - 1, at) { pairs[i] = pairs[i + 1] }
            if at > 0 { pairs[at - 1] = merges.merge(ids[at - 1], ids[at]) }
            if at + 1 < count { pairs[at] = merges.merge(ids[at], ids[at + 1]) }
        }
        scratch.output.append(from: ids, count)
    }

    /// A word of a vocabulary that lacks some bytes: ids and, for each, how many bytes of the word's spelling in the
    /// byte alphabet it covers. A byte without token becomes the unknown token, or is left out where there is none,
    /// as in the reference.
    func partial(_ word: UnsafeBufferPointer<UInt8>) -> (ids: [Int32], widths: [Int]) {
        if let rawIndex, let id = rawIndex.id(of: word) { return ([id], [Self.width(word)]) }
        var ids: [Int32] = [], widths: [Int] = [], unknownWidth = 0
        func flushUnknown() {
            if unknownWidth > 0, let unknownID {
                ids.append(unknownID)
                widths.append(unknownWidth)
            }
            unknownWidth = 0
        }
        for byte in word {
            let width = ByteAlphabet.scalars[Int(byte)] < 0x80 ? 1 : 2
            let id = vocabulary.byteIDs[Int(byte)]
            if id >= 0 || !fuseUnknown { flushUnknown() }
            if id >= 0 {
                ids.append(id)
                widths.append(width)
            } else {
                unknownWidth += width
            }
        }
        flushUnknown()
        var long = LongWord(ids)
        long.merge(merges)
        var joined: [Int32] = [], joinedWidths: [Int] = []
        for i in 0..<ids.count {
            if long.ids[i] >= 0 {
                joined.append(long.ids[i])
                joinedWidths.append(widths[i])
            } else {
                joinedWidths[joinedWidths.count - 1] += widths[i]
            }
        }
        return (joined, joinedWidths)
    }

    /// Bytes of the word's spelling in the byte alphabet.
    static func width(_ word: UnsafeBufferPointer<UInt8>) -> Int {
        word.reduce(0) { $0 + (ByteAlphabet.scalars[Int($1)] < 0x80 ? 1 : 2) }
    }
}

/// A long word under merging: a linked list of tokens, and the pairs that can be joined by their ranks.
struct LongWord {
    /// Id at the position of each token's first byte; -1 at positions that were joined to an earlier one.
    private(set) var ids: [Int32]
    private var next: [Int32], previous: [Int32]
    private var places = RankedPlaces()

    init(_ ids: [Int32]) {
        self.ids = ids
        let count = Int32(ids.count)
        next = Array(1..<count + 1)
        previous = Array(-1..<count - 1)
    }

    mutating func merge(_ merges: MergeTable) {
        guard ids.count > 1 else { return }
        for at in 0..<ids.count - 1 { note(at, merges) }
        while let (rank, at) = places.next() { join(at, rank, merges) }
    }

    /// What the token at a place and the one after it give.
    private func pair(_ at: Int, _ merges: MergeTable) -> UInt64 {
        let following = Int(next[at])
        guard ids[at] >= 0, following < ids.count else { return MergeTable.none }
        return merges.merge(ids[at], ids[following])
    }

    private mutating func note(_ at: Int, _ merges: MergeTable) {
        let pair = pair(at, merges)
        if pair != MergeTable.none { places.note(at, rank: UInt32(pair >> 32)) }
    }

    private mutating func join(_ at: Int, _ rank: UInt32, _ merges: MergeTable) {
        let pair = pair(at, merges)
        guard pair >> 32 == UInt64(rank) else { return }  // one side was joined to something else since
        let following = Int(next[at]), after = Int(next[following])
        ids[at] = Int32(truncatingIfNeeded: pair)
        ids[following] = -1
        next[at] = Int32(after)
        if after < ids.count { previous[after] = Int32(at) }
        if previous[at] >= 0 { note(Int(previous[at]), merges) }
        note(at, merges)
    }
}
