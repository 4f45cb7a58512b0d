// Documents put side by side in rows of limited length, and the arrays a model is given.

/// Shares documents out over packs of at most `maxTokens` tokens: a pure function of the window's lengths.
///
/// Best fit, longest first: documents are taken by falling length (equal ones in their order) and each goes into the
/// pack that it fills best, the earliest of equal ones, or opens a new one. Documents of a pack keep the window's order,
/// and packs are ordered by their first document.
///
/// - Parameter lengths: tokens of each document; a document longer than `maxTokens` gets a pack of its own.
/// - Returns: positions in the window, each exactly once.
public func packed(lengths: [Int], maxTokens: Int) -> [[Int]] {
    let order = lengths.indices.sorted { (-lengths[$0], $0) < (-lengths[$1], $1) }
    var packs: [[Int]] = []
    // Packs with room, by (room, pack): the first with enough room is the best fit.
    var open: [(room: Int, pack: Int)] = []
    func firstIndex(atLeast key: (room: Int, pack: Int)) -> Int {
        var low = 0, high = open.count
        while low < high {
            let middle = (low + high) / 2
            if open[middle] < key { low = middle + 1 } else { high = middle }
        }
        return low
    }
    for document in order {
        let length = lengths[document]
        let found = firstIndex(atLeast: (length, 0))
        var entry = (room: maxTokens, pack: packs.count)
        if found < open.count { entry = open.remove(at: found) } else { packs.append([]) }
        packs[entry.pack].append(document)
        entry.room -= length
        if entry.room > 0 { open.insert(entry, at: firstIndex(atLeast: entry)) }
    }
    return packs.map { $0.sorted() }.sorted { $0[0] < $1[0] }
}

/// Shares documents out over packs in their order: each goes into the pack at hand, or opens the next one.
///
/// - Parameter lengths: tokens of each document; a document longer than `maxTokens` gets a pack of its own.
public func packedInOrder(lengths: [Int], maxTokens: Int) -> [[Int]] {
    var packs: [[Int]] = [], room = 0
    for (document, length) in lengths.enumerated() {
        if packs.isEmpty || length > room {
            packs.append([])
            room = maxTokens
        }
        packs[packs.count - 1].append(document)
        room -= length
    }
    return packs
}

/// A stretch of a document that stands in a pack.
public struct DocumentPiece: Sendable, Equatable {
    /// Position in the window.
    public let document: Int
    /// Which of its tokens.
    public let tokens: Range<Int>

    public init(document: Int, tokens: Range<Int>) { (self.document, self.tokens) = (document, tokens) }
}

/// Shares documents out over packs in their order, cutting them where a pack is full: every pack but the last has exactly
/// `maxTokens` tokens. A document may go on over any number of packs; each piece is a document of its own there.
///
/// - Parameter lengths: tokens of each document, at least one.
/// - Returns: pieces, each token exactly once, in the order of the documents.
public func packedAcross(lengths: [Int], maxTokens: Int) -> [[DocumentPiece]] {
    precondition(maxTokens > 0, "packs of \(maxTokens) tokens")
    var packs: [[DocumentPiece]] = [], room = 0
    for (document, length) in lengths.enumerated() {
        var start = 0
        while start < length {
            if room == 0 {
                packs.append([])
                room = maxTokens
            }
            let end = min(length, start + room)
            packs[packs.count - 1].append(DocumentPiece(document: document, tokens: start..<end))
            room -= end - start
            start = end
        }
    }
    return packs
}

/// One or more documents as a single row `[1, N]` for the model: no padding; attention and positions start anew with
/// each document.
public struct PackedBatch: Sendable, Equatable {
    /// What a label is where nothing is to be learned.
    public static let ignoredLabel: Int32 = -100

    /// `[N]`
    public let inputIDs: [Int32]
    /// `[N]`: the token after `inputIDs[t]` in the same document where that token is trained, else -100; so the last
    /// token of each document always has -100.
    public let labels: [Int32]
    /// `[N]`: from 0 in each document.
    public let positions: [Int32]
    /// Offsets of the documents and the end: first 0, last N.
    public let documentStarts: [Int]
    /// Labels that are not -100: the shifted targets, as the loss counts them.
    public let trainedTokens: Int

    public var count: Int { inputIDs.count }
    public var documentCount: Int { documentStarts.count - 1 }

    public init(_ documents: some Sequence<TokenizedExample>) {
        var ids: [Int32] = [], labels: [Int32] = [], positions: [Int32] = [], starts = [0], trained = 0
        for document in documents {
            let n = document.ids.count
            ids.append(contentsOf: document.ids)
            positions.append(contentsOf: 0..<Int32(n))
            for t in 0..<n {
                let learns = t + 1 < n && document.trained[t + 1]
                labels.append(learns ? document.ids[t + 1] : Self.ignoredLabel)
                if learns { trained += 1 }
            }
            starts.append(ids.count)
        }
        (inputIDs, self.labels, self.positions, documentStarts, trainedTokens) = (
            ids, labels, positions, starts, trained
        )
    }
}
