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
        for _ in 0..<20 {
            var tokens = ["a", "b", "c"], merges: [(String, String)] = []
            for _ in 0..<30 {
                let left = tokens[random.below(tokens.count)], right = tokens[random.below(tokens.count)]
                if left.count + right.count > 9 || tokens.contains(left + right) { continue }
                tokens.append(left + right)
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
                let word = (0..<length).map { _ in ["a", "b", "c"][random.below(3)] }.joined()
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
