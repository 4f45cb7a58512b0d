// Models that turn one word into tokens: whole words, pieces of words, likeliest pieces.
import Diagnostics

/// A token of a word and the bytes of the word that it covers.
struct WordToken: Equatable {
    var id: Int32
    var start: Int32, end: Int32
}

/// What encodes words where the byte-level path does not.
protocol WordModel: AnyObject, Sendable {
    var vocabulary: Vocabulary { get }
    /// Appends the tokens of a word (valid UTF-8, not empty).
    func encode(_ word: UnsafeBufferPointer<UInt8>, _ tokens: inout [WordToken])
    /// Pieces of a long word that are encoded independently; one for the whole where there is no such place.
    func parts(_ word: UnsafeBufferPointer<UInt8>, _ body: (Range<Int>) -> Void)
}

extension WordModel {
    func parts(_ word: UnsafeBufferPointer<UInt8>, _ body: (Range<Int>) -> Void) { body(0..<word.count) }
}

/// A whole word is one token or the unknown one (`WordLevel`).
final class WordLevel: WordModel {
    let vocabulary: Vocabulary
    private let unknownID: Int32

    init(_ vocabulary: Vocabulary, unknownID: Int32) { (self.vocabulary, self.unknownID) = (vocabulary, unknownID) }

    func encode(_ word: UnsafeBufferPointer<UInt8>, _ tokens: inout [WordToken]) {
        tokens.append(WordToken(id: vocabulary.id(of: word) ?? unknownID, start: 0, end: Int32(word.count)))
    }
}

/// The longest piece first, from left to right (Schuster and Nakajima 2012, as BERT uses it).
final class WordPiece: WordModel {
    let vocabulary: Vocabulary
    private let unknownID: Int32
    private let maxCharacters: Int
    /// Pieces that begin a word, and those that go on with one (without their prefix).
    private let first: PieceTrie, following: PieceTrie

    init(_ vocabulary: Vocabulary, unknownID: Int32, prefix: String, maxCharacters: Int) {
        (self.vocabulary, self.unknownID, self.maxCharacters) = (vocabulary, unknownID, maxCharacters)
        let prefix = Array(prefix.utf8), texts = vocabulary.texts
        first = PieceTrie(texts)
        following =
            prefix.isEmpty
            ? first : PieceTrie(texts, dropping: prefix.count) { texts.bytes[texts[$0]!].starts(with: prefix) }
    }

    func encode(_ word: UnsafeBufferPointer<UInt8>, _ tokens: inout [WordToken]) {
        let count = tokens.count
        func unknown() {
            tokens.removeSubrange(count...)
            tokens.append(WordToken(id: unknownID, start: 0, end: Int32(word.count)))
        }
        if word.count > maxCharacters, word.count(where: { $0 & 0xC0 != 0x80 }) > maxCharacters { return unknown() }
        var at = 0
        while at < word.count {
            let rest = UnsafeBufferPointer(rebasing: word[at...])
            guard let (id, length) = at == 0 ? first.longest(rest) : following.longest(rest) else { return unknown() }
            tokens.append(WordToken(id: id, start: Int32(at), end: Int32(at + length)))
            at += length
        }
    }
}

/// The most probable pieces (Kudo 2018, arXiv:1804.10959) by the Viterbi algorithm.
final class Unigram: WordModel {
    let vocabulary: Vocabulary
    private let scores: [Double]
    private let unknownID: Int32
    private let unknownScore: Double
    private let hasByteFallback: Bool
    private let trie: PieceTrie
    /// Ids of `<0x00>` and its like; used when all are there.
    private let bytes: [Int32]

    /// How much less likely than any piece an unknown character is (as in SentencePiece).
    static let unknownPenalty = 10.0

    init(_ vocabulary: Vocabulary, scores: [Double], unknownID: Int32, hasByteFallback: Bool) {
        (self.vocabulary, self.scores, self.unknownID) = (vocabulary, scores, unknownID)
        self.hasByteFallback = hasByteFallback
        unknownScore = (scores.min() ?? 0) - Self.unknownPenalty
        bytes = ByteTokens.ids(in: vocabulary)
        trie = PieceTrie(vocabulary.texts)
    }

    private struct Node {
        var score = 0.0
        var start: Int32 = -1
        var id: Int32 = 0
    }

    func encode(_ word: UnsafeBufferPointer<UInt8>, _ tokens: inout [WordToken]) {
        withUnsafeTemporaryAllocation(of: Node.self, capacity: word.count + 1) { best in
            best.initialize(repeating: Node())
            var at = 0
            while at < word.count {
                let length = utf8Length(word[at]), reached = best[at].score
                var isCovered = false
                func offer(_ id: Int32, _ end: Int, _ score: Double) {
                    if best[end].start < 0 || score > best[end].score {
                        best[end] = Node(score: score, start: Int32(at), id: id)
                    }
                }
                trie.forEachPrefix(UnsafeBufferPointer(rebasing: word[at...])) { id, count in
                    offer(id, at + count, scores[Int(id)] + reached)
                    if count == length { isCovered = true }
                }
                if !isCovered { offer(unknownID, at + length, unknownScore + reached) }
                at += length
            }
            emit(word, best, &tokens)
        }
    }

    /// Follows the best way back; unknown characters in a row are one token.
    private func emit(
        _ word: UnsafeBufferPointer<UInt8>, _ best: UnsafeMutableBufferPointer<Node>, _ tokens: inout [WordToken]
    ) {
        let first = tokens.count
        var end = word.count
        while end > 0 {
            let node = best[end], last = tokens.count - 1
            if node.id == unknownID, last >= first, tokens[last].id == unknownID, Int(tokens[last].start) == end {
                tokens[last].start = node.start
            } else {
                tokens.append(WordToken(id: node.id, start: node.start, end: Int32(end)))
            }
            end = Int(node.start)
        }
        tokens[first...].reverse()
        guard tokens[first...].contains(where: { $0.id == unknownID }) else { return }
        let found = Array(tokens[first...])
        tokens.removeSubrange(first...)
        for token in found {
            let text = UnsafeBufferPointer(rebasing: word[Int(token.start)..<Int(token.end)])
            if token.id != unknownID {
                tokens.append(token)
            } else if let id = vocabulary.id(of: text) {  // joined characters can be a piece after all
                tokens.append(WordToken(id: id, start: token.start, end: token.end))
            } else if hasByteFallback, text.allSatisfy({ bytes[Int($0)] >= 0 }) {
                tokens += text.map { WordToken(id: bytes[Int($0)], start: token.start, end: token.end) }
            } else {
                tokens.append(token)
            }
        }
    }
}

/// The pieces of the highest sum of scores, of equal sums the one whose pieces are longest from the left (PLaMo 2). A
/// character of no piece is spelled in bytes.
final class PLaMo2: WordModel {
    /// The type's name in tokenizer.json, which is Needletail's own.
    static let typeName = "PLaMo2"

    let vocabulary: Vocabulary
    /// In ten-thousandths, so that sums are exact.
    private let scores: [Int64]
    private let trie: PieceTrie
    private let bytes: [Int32]

    /// Score of a character of no piece; and the score up to which pieces are never taken.
    private static let unknownScore: Int64 = -10_000_000, unusedScore: Int64 = -20_000_000

    /// - Throws: `UserError` for a byte without a token and a score that llama.cpp would take for something else.
    init(_ vocabulary: Vocabulary, scores: [Double], where place: String) throws {
        let bytes = ByteTokens.ids(in: vocabulary)
        guard bytes.allSatisfy({ $0 >= 0 }) else { throw UserError("\(place) lacks a token for some bytes") }
        let spelled = Set(bytes)
        self.scores = try scores.enumerated().map { id, score in
            let scaled = (score * 10_000).rounded()
            guard scaled.magnitude < Double(Int32.max), scaled != Double(Self.unknownScore) else {
                throw UserError("\(place)[\(id)]: the score \(score) is not possible")
            }
            return Int64(scaled)
        }
        let used = self.scores.map { $0 > Self.unusedScore }
        trie = PieceTrie(vocabulary.texts) { used[Int($0)] && !spelled.contains($0) }
        (self.vocabulary, self.bytes) = (vocabulary, bytes)
    }

    private struct Node {
        var score: Int64 = 0
        var length: Int32 = 0
        /// -1 for a character of no piece.
        var id: Int32 = -1
    }

    func encode(_ word: UnsafeBufferPointer<UInt8>, _ tokens: inout [WordToken]) {
        withUnsafeTemporaryAllocation(of: Node.self, capacity: word.count + 1) { best in
            best.initialize(repeating: Node())
            var at = word.count
            while at > 0 {
                at = UTF8Scalars.start(word, before: at)
                let length = utf8Length(word[at])
                var node = Node(score: best[at + length].score + Self.unknownScore, length: Int32(length))
                trie.forEachPrefix(UnsafeBufferPointer(rebasing: word[at...])) { id, length in
                    let score = best[at + length].score + scores[Int(id)]
                    // Of equal ones the last, which is the longest.
                    if score >= node.score { node = Node(score: score, length: Int32(length), id: id) }
                }
                best[at] = node
            }
            while at < word.count {
                let node = best[at], end = at + Int(node.length)
                if node.id >= 0 {
                    tokens.append(WordToken(id: node.id, start: Int32(at), end: Int32(end)))
                } else {
                    tokens += word[at..<end].map { WordToken(id: bytes[Int($0)], start: Int32(at), end: Int32(end)) }
                }
                at = end
            }
        }
    }
}

/// Tokens that stand for single bytes: `<0x0A>`.
enum ByteTokens {
    static func spelling(_ byte: UInt8) -> String {
        let digits = String(byte, radix: 16, uppercase: true)
        return "<0x" + (byte < 16 ? "0" : "") + digits + ">"
    }

    /// Id of each byte's token, -1 where there is none.
    static func ids(in vocabulary: Vocabulary) -> [Int32] {
        (0..<256).map { vocabulary.id(of: spelling(UInt8($0))) ?? -1 }
    }
}

extension Vocabulary {
    /// The texts of all tokens, in the order of their ids.
    func forEachText(_ body: (Int32, UnsafeBufferPointer<UInt8>) -> Void) {
        texts.bytes.withUnsafeBufferPointer { all in
            for id in 0..<Int32(texts.count) {
                if let range = texts[id] { body(id, UnsafeBufferPointer(rebasing: all[range])) }
            }
        }
    }
}
