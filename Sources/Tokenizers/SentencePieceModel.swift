// A SentencePiece model (Kudo and Richardson 2018, arXiv:1808.06226) by its own rules: normalization with the text,
// BPE or Unigram over all of it, bytes for what it does not know.
import Diagnostics

/// Encodes and decodes as the `sentencepiece` package does. Control pieces are the tokenizer's added tokens.
final class SentencePieceModel: Sendable {
    let file: SentencePieceFile
    let vocabulary: Vocabulary
    private let charsmap: Charsmap?
    private let unknownID: Int32
    private let bytes: [Int32]
    /// Symbols that the user defined: kept as they are.
    private let userDefined: PieceTrie?
    private let algorithm: Algorithm
    /// Whether no piece has the space mark after anything else, so that words are independent.
    private let splitsWords: Bool
    /// Bytes that stand for themselves in a normalized text when no character beyond ASCII follows.
    private let isPlain: [Bool]

    private enum Algorithm: Sendable {
        case bpe(TextBPE)
        case unigram(PieceTrie, scores: [Float], unknownScore: Float)
    }

    static let mark: [UInt8] = [0xE2, 0x96, 0x81]

    /// - Throws: `UserError` naming what the model lacks.
    init(_ file: SentencePieceFile, _ path: String) throws {
        guard file.algorithm == .bpe || file.algorithm == .unigram else {
            throw UserError("\(path): models of words or characters are not supported; BPE and Unigram models are")
        }
        guard !file.treatsSpaceAsSuffix else { throw UserError("\(path): spaces as suffixes are not supported") }
        guard file.escapesSpaces else {
            throw UserError("\(path): a model that does not escape spaces is not supported")
        }
        self.file = file
        let pieces = file.pieces
        vocabulary = try Vocabulary(pieces: file.texts, where: "\(path): pieces")
        guard let unknown = pieces.firstIndex(where: { $0.kind == .unknown }) else {
            throw UserError("\(path): has no unknown piece")
        }
        unknownID = Int32(unknown)
        charsmap = file.charsmap.isEmpty ? nil : try Charsmap(file.charsmap, "\(path): precompiled_charsmap")
        bytes = ByteTokens.ids(in: vocabulary)
        if file.hasByteFallback, bytes.contains(-1) {
            throw UserError("\(path): byte_fallback is on, but not every byte has a piece")
        }
        let hasUserDefined = pieces.contains { $0.kind == .userDefined }
        userDefined = hasUserDefined ? PieceTrie(vocabulary.texts) { pieces[Int($0)].kind == .userDefined } : nil
        if file.algorithm == .bpe, pieces.contains(where: { $0.kind == .unused }) {
            throw UserError("\(path): a BPE model with unused pieces is not supported")
        }
        splitsWords = Self.marksBeginPieces(file)
        var isPlain = (0..<256).map { [charsmap] byte in
            byte < 0x80 && byte != 0x20 && charsmap?.isPlain(UInt8(byte)) ?? true
        }
        for (id, piece) in pieces.enumerated() where piece.kind == .userDefined {
            if let first = file.text(id).utf8.first { isPlain[Int(first)] = false }
        }
        self.isPlain = isPlain
        algorithm = file.algorithm == .bpe ? Self.bpe(pieces, vocabulary) : Self.unigram(pieces, vocabulary)
    }

    private static func isJoinable(_ kind: SentencePieceFile.Kind) -> Bool {
        kind == .normal || kind == .userDefined || kind == .unused
    }

    private static func marksBeginPieces(_ file: SentencePieceFile) -> Bool {
        file.texts.bytes.withUnsafeBufferPointer { bytes in
            file.pieces.indices.allSatisfy { id in
                guard file.pieces[id].kind == .normal || file.pieces[id].kind == .unused else { return true }
                let text = bytes[file.texts[Int32(id)]!]
                func isMark(_ at: Int) -> Bool {
                    text[at] == mark[0] && at + 2 < text.endIndex && text[at + 1] == mark[1] && text[at + 2] == mark[2]
                }
                var at = text.startIndex
                while at < text.endIndex, isMark(at) { at += 3 }
                return !(at..<text.endIndex).contains(where: isMark)
            }
        }
    }

    private static func bpe(_ pieces: [SentencePieceFile.Piece], _ vocabulary: Vocabulary) -> Algorithm {
        // Higher scores first: floats in the order of integers.
        let order = pieces.map { piece -> UInt32 in
            let bits = (-piece.score + 0).bitPattern
            return bits >> 31 == 1 ? ~bits : bits | 1 << 31
        }
        return .bpe(TextBPE(vocabulary.texts, order: order) { isJoinable(pieces[Int($0)].kind) })
    }

    private static func unigram(_ pieces: [SentencePieceFile.Piece], _ vocabulary: Vocabulary) -> Algorithm {
        let lowest = pieces.lazy.filter { $0.kind == .normal }.map(\.score).min() ?? 0
        // What the user defined gains where others cost, the more the longer, and so wins over all that it is made of.
        let scores = pieces.enumerated().map {
            $1.kind == .userDefined ? Float(0.1 * Double(vocabulary.texts[Int32($0)]!.count - 1)) : $1.score
        }
        let trie = PieceTrie(vocabulary.texts) {
            pieces[Int($0)].kind == .normal || pieces[Int($0)].kind == .userDefined
        }
        return .unigram(trie, scores: scores, unknownScore: lowest - Float(Unigram.unknownPenalty))
    }

    // MARK: Encoding

    /// Emits id and bytes of `text` of each token.
    func encode(
        _ text: UnsafeBufferPointer<UInt8>, _ scratch: Scratch, wantsPlaces: Bool, _ emit: (Int32, Int, Int) -> Void
    ) {
        let normal = normalize(text, wantsPlaces)
        var output = Output(model: self, origins: normal.origins), tokens: [WordToken] = []
        normal.bytes.withUnsafeBufferPointer { bytes in
            switch algorithm {
            case .unigram(let trie, let scores, let unknownScore):
                viterbi(bytes, trie, scores, unknownScore, &tokens)
                for token in tokens { output.add(token, 0, bytes, emit) }
            case .bpe(let bpe):
                forEachWord(bytes) { range, userDefined in
                    if let userDefined {
                        let token = WordToken(id: userDefined, start: 0, end: Int32(range.count))
                        return output.add(token, range.lowerBound, bytes, emit)
                    }
                    let word = UnsafeBufferPointer(rebasing: bytes[range])
                    let key = word.count <= WordCache.maxBytes ? WordCache.Key(word) : nil
                    if let key, let packed = scratch.cache.tokens(key) {
                        var end: Int32 = 0
                        for value in packed {
                            let token = WordToken(packed: value, after: end)
                            end = token.end
                            output.add(token, range.lowerBound, bytes, emit)
                        }
                        return
                    }
                    tokens.removeAll(keepingCapacity: true)
                    join(word, bpe, &tokens)
                    if let key { scratch.cache.insert(key, tokens: tokens) }
                    for token in tokens { output.add(token, range.lowerBound, bytes, emit) }
                }
            }
        }
        output.flush(emit)
    }

    /// Stretches that are encoded independently: symbols that the user defined, with their ids, and what lies between.
    private func forEachWord(_ bytes: UnsafeBufferPointer<UInt8>, _ body: (Range<Int>, Int32?) -> Void) {
        func words(_ range: Range<Int>) {
            if range.isEmpty { return }
            guard splitsWords else { return body(range, nil) }
            forEachMarkedWord(UnsafeBufferPointer(rebasing: bytes[range])) { word in
                body(range.lowerBound + word.lowerBound..<range.lowerBound + word.upperBound, nil)
            }
        }
        guard let userDefined else { return words(0..<bytes.count) }
        var start = 0, at = 0
        while at < bytes.count {
            guard let (id, length) = userDefined.longest(UnsafeBufferPointer(rebasing: bytes[at...])) else {
                at += utf8Length(bytes[at])
                continue
            }
            words(start..<at)
            body(at..<at + length, id)
            at += length
            start = at
        }
        words(start..<at)
    }

    private func join(_ text: UnsafeBufferPointer<UInt8>, _ bpe: TextBPE, _ tokens: inout [WordToken]) {
        var ends: [Int32] = []
        ends.reserveCapacity(text.count)
        var at = 0
        while at < text.count {
            at += utf8Length(text[at])
            ends.append(Int32(at))
        }
        bpe.join(text, &ends)
        var start: Int32 = 0
        for end in ends {
            let id = bpe.id(of: UnsafeBufferPointer(rebasing: text[Int(start)..<Int(end)]))
            tokens.append(WordToken(id: id ?? unknownID, start: start, end: end))
            start = end
        }
    }

    private func viterbi(
        _ text: UnsafeBufferPointer<UInt8>, _ trie: PieceTrie, _ scores: [Float], _ unknownScore: Float,
        _ tokens: inout [WordToken]
    ) {
        // In single precision, as in the reference: its rounding decides ties. Sums that have grown large begin at 0 again.
        let largestSum: Float = 100_000
        struct Node {
            var score: Float = 0
            var start: Int32 = -1
            var id: Int32 = 0
        }
        var best = [Node](repeating: Node(), count: text.count + 1), furthest = 0
        best.withUnsafeMutableBufferPointer { best in
            scores.withUnsafeBufferPointer { scores in
                @inline(__always) func offer(_ id: Int32, _ at: Int, _ end: Int, _ score: Float) {
                    if best[end].start < 0 || score > best[end].score {
                        best[end] = Node(score: score, start: Int32(at), id: id)
                    }
                    furthest = max(furthest, end)
                }
                var at = 0
                while at < text.count {
                    if abs(best[at].score) > largestSum {
                        let sum = best[at].score
                        for place in at...furthest where best[place].start >= 0 { best[place].score -= sum }
                    }
                    let length = utf8Length(text[at]), reached = best[at].score
                    var isCovered = false
                    trie.forEachPrefix(UnsafeBufferPointer(rebasing: text[at...])) { id, count in
                        offer(id, at, at + count, scores[Int(id)] + reached)
                        if count == length { isCovered = true }
                    }
                    if !isCovered { offer(unknownID, at, at + length, unknownScore + reached) }
                    at += length
                }
            }
        }
        let first = tokens.count
        var end = text.count
        while end > 0 {
            tokens.append(WordToken(id: best[end].id, start: best[end].start, end: Int32(end)))
            end = Int(best[end].start)
        }
        tokens[first...].reverse()
    }

    /// Puts unknown pieces in a row together, or spells them in bytes.
    private struct Output {
        let model: SentencePieceModel
        /// Byte of the text that each normalized byte comes from, and the end; nil when nobody asks.
        let origins: [Int32]?
        private var unknown: (start: Int, end: Int)?

        init(model: SentencePieceModel, origins: [Int32]?) { (self.model, self.origins) = (model, origins) }

        mutating func add(
            _ token: WordToken, _ base: Int, _ bytes: UnsafeBufferPointer<UInt8>, _ emit: (Int32, Int, Int) -> Void
        ) {
            let first = base + Int(token.start), last = base + Int(token.end)
            let start = origin(first), end = origin(last)
            guard token.id == model.unknownID else {
                flush(emit)
                return emit(token.id, start, end)
            }
            if model.file.hasByteFallback {
                // The last byte stands for the character, the others for nothing.
                for at in first..<last { emit(model.bytes[Int(bytes[at])], start, at == last - 1 ? end : start) }
            } else {
                unknown = (unknown?.start ?? start, end)
            }
        }

        mutating func flush(_ emit: (Int32, Int, Int) -> Void) {
            if let unknown { emit(model.unknownID, unknown.start, unknown.end) }
            unknown = nil
        }

        private func origin(_ at: Int) -> Int { origins.map { Int($0[at]) } ?? 0 }
    }

    // MARK: Normalization

    /// The text as the model's rules make it.
    private func normalize(_ text: UnsafeBufferPointer<UInt8>, _ wantsPlaces: Bool) -> NormalText {
        var normal = NormalText(capacity: text.count + text.count / 2, tracksOrigins: wantsPlaces), at = 0
        while file.removesExtraSpaces, at < text.count, case let (length, replacement) = step(text, at),
            replacement.map({ $0.elementsEqual([0x20]) }) ?? (length == 1 && text[at] == 0x20)
        {
            at += length
        }
        if at == text.count {
            normal.end(at: 0)
            return normal
        }
        if file.addsDummyPrefix { normal.append([0x20], from: at) }
        var wasSpace = file.removesExtraSpaces
        while at < text.count {
            let end = plainEnd(text, at)
            if end > at {
                normal.append(plain: text, at..<end)
                (at, wasSpace) = (end, false)
                continue
            }
            let (length, replacement) = step(text, at)
            let last =
                replacement.map { normal.append($0, from: at, dropsSpaces: wasSpace) }
                ?? normal.append(text[at..<at + length], from: at, dropsSpaces: wasSpace)
            if let last, file.removesExtraSpaces { wasSpace = last == 0x20 }
            at += length
        }
        normal.end(at: at)
        if file.removesExtraSpaces { normal.removeLastSpaces() }
        return normal
    }

    /// Length of what is normalized at once at `at`, and what it becomes; nil where it stays as it is.
    private func step(_ text: UnsafeBufferPointer<UInt8>, _ at: Int) -> (length: Int, replacement: ArraySlice<UInt8>?) {
        let rest = UnsafeBufferPointer(rebasing: text[at...])
        if let userDefined, let (_, length) = userDefined.longest(rest) { return (length, nil) }
        if let charsmap, let (length, replacement) = charsmap.longest(rest) { return (length, replacement) }
        return (utf8Length(text[at]), nil)
    }

    /// End of the characters from `at` that no rule can touch.
    private func plainEnd(_ text: UnsafeBufferPointer<UInt8>, _ at: Int) -> Int {
        var end = at
        while end < text.count, isPlain[Int(text[end])], end + 1 == text.count || text[end + 1] < 0x80 { end += 1 }
        return end
    }

    /// A normalized text, spaces as marks.
    private struct NormalText {
        private(set) var bytes: [UInt8] = []
        /// Byte of the text that each byte comes from, and the end; nil when nobody asks.
        private(set) var origins: [Int32]?

        init(capacity: Int, tracksOrigins: Bool) {
            bytes.reserveCapacity(capacity)
            if tracksOrigins { origins = [] }
            origins?.reserveCapacity(capacity)
        }

        /// Appends bytes that all come from one place; the last of them, if any.
        ///
        /// - Parameter dropsSpaces: leave spaces at the beginning out.
        @discardableResult
        mutating func append(_ part: some Collection<UInt8>, from origin: Int, dropsSpaces: Bool = false) -> UInt8? {
            let count = bytes.count
            var last: UInt8?
            for byte in part where !(byte == 0x20 && dropsSpaces && last == nil) {
                if byte == 0x20 { bytes += SentencePieceModel.mark } else { bytes.append(byte) }
                last = byte
            }
            origins?.append(contentsOf: repeatElement(Int32(origin), count: bytes.count - count))
            return last
        }

        /// Appends a stretch of the text without spaces.
        mutating func append(plain text: UnsafeBufferPointer<UInt8>, _ range: Range<Int>) {
            bytes.append(contentsOf: UnsafeBufferPointer(rebasing: text[range]))
            origins?.append(contentsOf: Int32(range.lowerBound)..<Int32(range.upperBound))
        }

        mutating func end(at end: Int) { origins?.append(Int32(end)) }

        mutating func removeLastSpaces() {
            while bytes.count >= 3, bytes.suffix(3).elementsEqual(SentencePieceModel.mark) {
                bytes.removeLast(3)
                origins?.removeLast(3)  // the end is now where the first of them was
            }
        }
    }

    func kind(_ id: Int32) -> SentencePieceFile.Kind? {
        file.pieces.indices.contains(Int(id)) ? file.pieces[Int(id)].kind : nil
    }
}

/// Puts pieces together as `sentencepiece` does; control pieces, which it leaves out, come as their text.
struct SentencePieceDecoder: Sendable {
    private let model: SentencePieceModel
    private var bytes: [UInt8] = []
    private var hasText = false, sawSpace = false, isAtStart = true

    init(_ model: SentencePieceModel) { self.model = model }

    mutating func push(_ id: Int32, _ text: ArraySlice<UInt8>, to output: inout [UInt8]) {
        let kind = model.kind(id)
        if kind == .byte {
            bytes.append(UInt8(String(decoding: text.dropFirst(3).prefix(2), as: UTF8.self), radix: 16) ?? 0)
            return spellBytes(to: &output, isEnd: false)
        }
        spellBytes(to: &output, isEnd: true)
        if sawSpace || hasText { isAtStart = false }
        var piece = text
        let file = model.file
        if kind == .unknown {
            piece = Array(file.unknownSurface.utf8)[...]
        } else if kind == .normal || kind == .userDefined || kind == .unused {
            if isAtStart, file.addsDummyPrefix || file.removesExtraSpaces, piece.starts(with: SentencePieceModel.mark) {
                piece = piece.dropFirst(3)
                if !file.removesExtraSpaces { sawSpace = true }
            }
            var at = piece.startIndex
            while at < piece.endIndex {
                if piece[at...].starts(with: SentencePieceModel.mark) {
                    output.append(0x20)
                    at += 3
                } else {
                    output.append(piece[at])
                    at += 1
                }
            }
            if !piece.isEmpty { hasText = true }
            return
        }
        output += piece
        if !piece.isEmpty { hasText = true }
    }

    mutating func finish(to output: inout [UInt8]) { spellBytes(to: &output, isEnd: true) }

    /// Whole characters; a replacement character for each byte that belongs to none.
    private mutating func spellBytes(to output: inout [UInt8], isEnd: Bool) {
        var at = 0
        while at < bytes.count {
            let length = utf8Length(bytes[at]), rest = bytes[at...]
            if length <= rest.count, String(validating: rest.prefix(length), as: UTF8.self) != nil {
                output += rest.prefix(length)
                at += length
            } else if !isEnd, unfinishedBytes(Array(rest)) == rest.count {
                break
            } else {
                output += [0xEF, 0xBF, 0xBD]
                at += 1
            }
            hasText = true
        }
        bytes.removeFirst(at)
    }
}
