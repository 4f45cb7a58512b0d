// Long words against joining as it is defined: of all pairs the one of lowest rank, of equals the leftmost.
import Formats
import TestClock
import Testing
import Tokenizers

/// Numbers that are the same in every run.
struct SeededNumbers {
    var state: UInt64

    mutating func below(_ count: Int) -> Int {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int(state >> 33) % count
    }
}

@Suite struct LongWordTests {
    private func joined(_ word: String, rank: (String, String) -> Int?) -> [String] {
        var tokens = word.map { String($0) }
        while true {
            var best = (rank: Int.max, at: -1)
            for i in tokens.indices.dropLast() {
                if let rank = rank(tokens[i], tokens[i + 1]), rank < best.rank { best = (rank, i) }
            }
            if best.at < 0 { return tokens }
            let right = tokens.remove(at: best.at + 1)
            tokens[best.at] += right
        }
    }

    private func expectEqual(_ tokenizer: Tokenizer, _ word: String, rank: (String, String) -> Int?) {
        let tokens = tokenizer.encode(word, addSpecialTokens: false).map { tokenizer.token(of: $0)! }
        #expect(tokens == joined(word, rank: rank), "\(word)")
    }

    /// Ranks in an order that training never gives, where what is longer may come first.
    @Test func mergesInAnyOrder() throws {
        var random = SeededNumbers(state: 3)
        for _ in 0..<40 {
            var tokens = ["a", "b"], merges: [(String, String)] = []
            for _ in 0..<60 {
                let left = tokens[random.below(tokens.count)], right = tokens[random.below(tokens.count)]
                if left.count + right.count > 7 || merges.contains(where: { $0 == (left, right) }) { continue }
                if !tokens.contains(left + right) { tokens.append(left + right) }
                merges.insert((left, right), at: random.below(merges.count + 1))
            }
            let vocab = JSONObject(tokens.enumerated().map { ($1, JSONValue($0)) })
            let tokenizer = try Tokenizer(tokenizerJSON: [
                "pre_tokenizer": ["type": "ByteLevel", "add_prefix_space": false], "decoder": ["type": "ByteLevel"],
                "model": [
                    "type": "BPE", "vocab": .object(vocab),
                    "merges": .array(merges.map { [.string($0), .string($1)] }),
                ],
            ])
            let ranks = Dictionary(uniqueKeysWithValues: merges.enumerated().map { ("\($1.0) \($1.1)", $0) })
            for length in [2, 47, 48, 49, 250] {
                let word = (0..<length).map { _ in ["a", "b"][random.below(2)] }.joined()
                expectEqual(tokenizer, word) { ranks["\($0) \($1)"] }
            }
        }
    }

    /// The rank of a token whose parts do not matter.
    @Test func ranksOfTokens() throws {
        let tokenizer = try Tokenizer(modelPath: fixtures + "goldens/tekken_file.json")
        var random = SeededNumbers(state: 5)
        for length in [2, 63, 64, 65, 66, 300, 900] {
            let letters = Array(length.isMultiple(of: 2) ? "theoqui" : "abcdefghijklmnopqrstuvwxyz")
            let word = String((0..<length).map { _ in letters[random.below(letters.count)] })
            expectEqual(tokenizer, word) { left, right in tokenizer.id(of: left + right).map { Int($0) } }
        }
    }

    /// Equal scores, with which a place further left can come up when those to the right of it wait already.
    @Test func equalScores() throws {
        var random = SeededNumbers(state: 9)
        let path = "/tmp/needletail-tokenizer-\(UInt64.random(in: 0 ... .max)).model"
        defer { try? removeTree(path) }  // a leftover in /tmp harms nobody
        for _ in 0..<40 {
            var pieces = ["<unk>", "<s>", "</s>", "a", "b"].map { (text: $0, score: 0) }
            for _ in 0..<40 {
                let text = (0..<2 + random.below(4)).map { _ in ["a", "b"][random.below(2)] }.joined()
                if !pieces.contains(where: { $0.text == text }) { pieces.append((text, -1 - random.below(3))) }
            }
            try writeFileAtomically(sentencePieceModel(pieces), to: path)
            let tokenizer = try Tokenizer(modelPath: path)
            let ranks = Dictionary(uniqueKeysWithValues: pieces.map { ($0.text, -$0.score) })
            for length in [2, 64, 65, 250] {
                let word = (0..<length).map { _ in ["a", "b"][random.below(2)] }.joined()
                expectEqual(tokenizer, word) { ranks[$0 + $1] }
            }
        }
    }

    /// A BPE model without normalization. The first piece is the unknown one.
    private func sentencePieceModel(_ pieces: [(text: String, score: Int)]) -> [UInt8] {
        func field(_ number: UInt8, _ bytes: [UInt8]) -> [UInt8] { [number << 3 | 2, UInt8(bytes.count)] + bytes }
        var model: [UInt8] = []
        for (id, piece) in pieces.enumerated() {
            let score = withUnsafeBytes(of: Float(piece.score).bitPattern.littleEndian) { Array($0) }
            model += field(1, field(1, Array(piece.text.utf8)) + [2 << 3 | 5] + score + (id == 0 ? [3 << 3, 2] : []))
        }
        return model + field(2, [3 << 3, 2]) + field(3, [3 << 3, 0, 4 << 3, 0])
    }

    /// Four million characters that join, of which work must not grow with the square or a long logarithm.
    @Test(arguments: ["tekken_file", "gpt2"])
    func runsTakeTheirTimeOnly(_ name: String) throws {
        let tokenizer =
            try name == "gpt2"
            ? Tokenizer(tokenizerJSON: golden(name)["tokenizer"]!)
            : Tokenizer(modelPath: fixtures + "goldens/\(name).json")
        for piece in ["e", "the"] {
            let text = String(repeating: piece, count: 1_000_000)
            #expect(processorSeconds { _ = tokenizer.encode(text) } < 4)
        }
    }
}
