// One text on its way to ids: added tokens cut out, the rest normalized, cut into words, and joined to tokens.

/// Where the bytes of a normalized stretch come from in the text.
struct Origin {
    /// Offset of the stretch in the text.
    var base: Int
    /// Offset in the text, from `base`, of each normalized byte's character; nil when nothing changed.
    var alignment: [Range<Int32>]?
    /// Offset in the stretch of a word that got a space before it, which counts as part of the word's first character.
    var prefixedWord: Int?

    /// The first and the last byte of the text that normalized bytes `range` (not empty) stand for.
    func bytes(_ range: Range<Int>) -> (first: Int, last: Int) {
        var first = range.lowerBound, last = range.upperBound - 1
        if let prefixedWord {
            first = prefixedWord + max(first - 1, 0)
            last = prefixedWord + max(last - 1, 0)
        }
        guard let alignment else { return (base + first, base + last) }
        return (base + Int(alignment[first].lowerBound), base + Int(alignment[last].upperBound) - 1)
    }
}

/// Counts the characters of a text up to a byte; quick when asked for neighbouring bytes.
struct ScalarCounter {
    private let text: UnsafeBufferPointer<UInt8>
    private var byte = 0, scalar = 0

    init(_ text: UnsafeBufferPointer<UInt8>) { self.text = text }

    /// Number of characters before a boundary between two.
    mutating func index(ofBoundary offset: Int) -> Int { offset == 0 ? 0 : index(ofByteAt: offset - 1) + 1 }

    /// Index of the character that the byte at `offset` belongs to.
    mutating func index(ofByteAt offset: Int) -> Int {
        while byte < offset {
            byte += 1
            if text[byte] & 0xC0 != 0x80 { scalar += 1 }
        }
        while byte > offset {
            if text[byte] & 0xC0 != 0x80 { scalar -= 1 }
            byte -= 1
        }
        return scalar
    }
}

/// Encodes one text; collects ids, and places only if asked.
struct TextEncoder {
    private let tokenizer: Tokenizer
    private let text: UnsafeBufferPointer<UInt8>
    private let scratch: Scratch
    private let wantsPlaces: Bool
    private let steps: UnsafeBufferPointer<PreTokenizer.Step>
    private let vocabulary: Vocabulary
    private var counter: ScalarCounter
    private(set) var places: [PlacedToken] = []
    /// Tokens of one word of the general kinds.
    private var tokens: [WordToken] = []

    init(_ tokenizer: Tokenizer, _ text: UnsafeBufferPointer<UInt8>, _ scratch: Scratch, wantsPlaces: Bool) {
        (self.tokenizer, self.text, self.scratch, self.wantsPlaces) = (tokenizer, text, scratch, wantsPlaces)
        (steps, vocabulary) = (tokenizer.steps, tokenizer.parts.vocabulary)
        counter = ScalarCounter(text)
        if wantsPlaces { places.reserveCapacity(text.count / 3) }
    }

    /// Encodes the text; ids come from `takeIDs`, in place order with `places`.
    mutating func encode() {
        for match in tokenizer.rawAdded.split(text) where !match.range.isEmpty {
            if let token = match.token {
                add(token, match.range, in: text, Origin(base: 0))
            } else {
                encodeStretch(match.range)
            }
        }
    }

    func takeIDs() -> [Int32] { scratch.output.take() }

    /// Text without tokens that are matched before normalization.
    private mutating func encodeStretch(_ range: Range<Int>) {
        let stretch = UnsafeBufferPointer(rebasing: text[range])
        if case .sentencePiece(let model) = tokenizer.parts.model {
            return encodeSentence(model, stretch, base: range.lowerBound)
        }
        var origin = Origin(base: range.lowerBound)
        if tokenizer.normalization == .none { return encodeNormalized(stretch, origin) }
        if tokenizer.normalization == .formC {
            guard let normal = NormalForm.normalizeC(stretch) else { return encodeNormalized(stretch, origin) }
            origin.alignment = normal.origins
            normal.bytes.withUnsafeBufferPointer { encodeNormalized($0, origin) }
            return
        }
        var aligned = AlignedText(stretch, base: range.lowerBound, tracksOrigins: wantsPlaces || tokenizer.needsOrigins)
        for normalizer in tokenizer.parts.normalizers { normalizer.apply(to: &aligned) }
        origin = Origin(base: 0, alignment: aligned.origins)
        aligned.bytes.withUnsafeBufferPointer { encodeNormalized($0, origin) }
    }

    private mutating func encodeNormalized(_ text: UnsafeBufferPointer<UInt8>, _ origin: Origin) {
        if text.isEmpty { return }
        for match in tokenizer.normalizedAdded.split(text) where !match.range.isEmpty {
            if let token = match.token {
                add(token, match.range, in: text, origin)
            } else {
                switch tokenizer.parts.model {
                case .byteLevel(let bpe, let preTokenizer):
                    encodeBytes(bpe, preTokenizer, text, match.range, origin)
                case .words(let model, let splitters): encodePieces(model, splitters, text, match.range, origin)
                case .sentencePiece: preconditionFailure("SentencePiece models encode stretches")
                }
            }
        }
    }

    // MARK: Words of the general kinds

    private mutating func encodePieces(
        _ model: any WordModel, _ splitters: [PieceSplitter], _ text: UnsafeBufferPointer<UInt8>, _ range: Range<Int>,
        _ origin: Origin
    ) {
        let part = UnsafeBufferPointer(rebasing: text[range])
        var aligned: AlignedText
        if let alignment = origin.alignment {
            aligned = AlignedText(bytes: Array(part), origins: Array(alignment[range]))
        } else {
            aligned = AlignedText(
                part, base: origin.base + range.lowerBound, tracksOrigins: wantsPlaces || tokenizer.needsOrigins)
        }
        var pieces = PieceText(aligned)
        aligned = AlignedText(bytes: [], origins: nil)  // one owner, so that rewriting need not copy
        for splitter in splitters { splitter.apply(to: &pieces) }
        let origins = pieces.text.origins
        pieces.text.bytes.withUnsafeBufferPointer { bytes in
            for piece in pieces.pieces {
                let word = UnsafeBufferPointer(rebasing: bytes[piece])
                model.parts(word) { part in
                    addTokens(
                        model, UnsafeBufferPointer(rebasing: word[part]), at: piece.lowerBound + part.lowerBound,
                        origins)
                }
            }
        }
    }

    /// A word by the cache or the model.
    private mutating func addTokens(
        _ model: any WordModel, _ word: UnsafeBufferPointer<UInt8>, at start: Int, _ origins: [Range<Int32>]?
    ) {
        let isShort = word.count <= WordCache.maxBytes
        let key = isShort ? WordCache.Key(word) : nil
        if let key, let packed = scratch.cache.tokens(key) {
            var end: Int32 = 0
            for value in packed {
                let token = WordToken(packed: value, after: end)
                end = token.end
                emit(token, start, origins)
            }
            return
        }
        tokens.removeAll(keepingCapacity: true)
        model.encode(word, &tokens)
        if let key { scratch.cache.insert(key, tokens: tokens) }
        for i in tokens.indices { emit(tokens[i], start, origins) }
    }

    private mutating func emit(_ token: WordToken, _ start: Int, _ origins: [Range<Int32>]?) {
        scratch.output.reserve(1)
        scratch.output.append(token.id)
        guard wantsPlaces, let origins else { return }
        let first = Int(origins[start + Int(token.start)].lowerBound)
        let last = Int(origins[start + Int(token.end) - 1].upperBound)
        place(token.id, from: first, to: last)
    }

    private mutating func encodeSentence(_ model: SentencePieceModel, _ stretch: UnsafeBufferPointer<UInt8>, base: Int)
    {
        model.encode(stretch, scratch, wantsPlaces: wantsPlaces) { id, start, end in
            scratch.output.reserve(1)
            scratch.output.append(id)
            if wantsPlaces { place(id, from: base + start, to: base + end) }
        }
    }

    /// - Parameters start, end: bytes of the text, at character boundaries.
    private mutating func place(_ id: Int32, from start: Int, to end: Int) {
        let edges = vocabulary.blankEdges(of: id)
        places.append(
            PlacedToken(
                id: id, start: counter.index(ofBoundary: start), end: counter.index(ofBoundary: end),
                blanksBefore: edges.before, blanksAfter: edges.after))
    }

    // MARK: Bytes

    private mutating func encodeBytes(
        _ bpe: BPE, _ preTokenizer: PreTokenizer, _ text: UnsafeBufferPointer<UInt8>, _ range: Range<Int>,
        _ origin: Origin
    ) {
        if let splitters = preTokenizer.splitters {
            var pieces = PieceText(AlignedText(bytes: Array(text[range]), origins: nil))
            for splitter in splitters { splitter.apply(to: &pieces) }
            for piece in pieces.pieces {
                addWord(bpe, text, piece.lowerBound + range.lowerBound..<piece.upperBound + range.lowerBound, origin)
            }
            return
        }
        let utf8 = UTF8Text(text.baseAddress!), ends = scratch.ends
        guard let prefixBefore = preTokenizer.prefixBefore else {
            var pieces = PreTokenizer.Pieces(utf8, range, steps, ends)
            while let piece = pieces.next() { addWord(bpe, text, piece, origin) }
            return
        }
        let outerSteps = UnsafeBufferPointer(rebasing: steps[..<prefixBefore])
        let innerSteps = UnsafeBufferPointer(rebasing: steps[prefixBefore...])
        let innerEnds = ends + PreTokenizer.maxSteps + 1
        var outer = PreTokenizer.Pieces(utf8, range, outerSteps, ends)
        while let piece = outer.next() {
            if text[piece.lowerBound] == 0x20 {
                var inner = PreTokenizer.Pieces(utf8, piece, innerSteps, innerEnds)
                while let word = inner.next() { addWord(bpe, text, word, origin) }
                continue
            }
            var origin = origin
            origin.prefixedWord = piece.lowerBound
            ([0x20] + text[piece]).withUnsafeBufferPointer { text in
                var inner = PreTokenizer.Pieces(UTF8Text(text.baseAddress!), 0..<text.count, innerSteps, innerEnds)
                while let word = inner.next() { addWord(bpe, text, word, origin) }
            }
        }
    }

    @inline(__always)
    private mutating func addWord(
        _ bpe: BPE, _ text: UnsafeBufferPointer<UInt8>, _ range: Range<Int>, _ origin: Origin
    ) {
        let word = UnsafeBufferPointer(start: text.baseAddress! + range.lowerBound, count: range.count)
        let done = scratch.output.count
        guard bpe.append(word, scratch) else { return addPartial(bpe, word, range, origin) }
        guard wantsPlaces else { return }
        var at = range.lowerBound
        for i in done..<scratch.output.count {
            let id = scratch.output.start[i], end = at + Int(bpe.lengths[Int(id)])
            place(id, at..<end, origin)
            at = end
        }
    }

    /// A word of a vocabulary without some bytes: tokens cover stretches of the word's spelling in the byte alphabet.
    private mutating func addPartial(
        _ bpe: BPE, _ word: UnsafeBufferPointer<UInt8>, _ range: Range<Int>, _ origin: Origin
    ) {
        let (joined, widths) = bpe.partial(word)
        scratch.output.reserve(joined.count)
        for id in joined { scratch.output.append(id) }
        guard wantsPlaces else { return }
        var byteOfSpelling: [Int] = []
        for (i, byte) in word.enumerated() {
            byteOfSpelling += repeatElement(range.lowerBound + i, count: ByteAlphabet.scalars[Int(byte)] < 0x80 ? 1 : 2)
        }
        var at = 0
        for (id, width) in zip(joined, widths) {
            place(id, byteOfSpelling[at]..<byteOfSpelling[at + width - 1] + 1, origin)
            at += width
        }
    }

    @inline(__always) private mutating func place(_ id: Int32, _ range: Range<Int>, _ origin: Origin) {
        let (first, last) = origin.bytes(range)
        let start = counter.index(ofByteAt: first), end = counter.index(ofByteAt: last) + 1
        let edges = vocabulary.blankEdges(of: id)
        places.append(PlacedToken(id: id, start: start, end: end, blanksBefore: edges.before, blanksAfter: edges.after))
    }

    private mutating func add(
        _ token: AddedToken, _ range: Range<Int>, in text: UnsafeBufferPointer<UInt8>, _ origin: Origin
    ) {
        scratch.output.reserve(1)
        scratch.output.append(token.id)
        guard wantsPlaces else { return }
        let (first, last) = origin.bytes(range)
        let start = counter.index(ofByteAt: first), end = counter.index(ofByteAt: last) + 1
        let edges = blankEdges(of: String(decoding: text[range], as: UTF8.self))
        places.append(
            PlacedToken(id: token.id, start: start, end: end, blanksBefore: edges.before, blanksAfter: edges.after))
    }
}
