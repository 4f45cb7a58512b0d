// Toy rows: what they say, that they depend on their seed alone, and that irrelevant responses differ.
import Datasets
import Formats
import Testing

@Suite struct ToyReasoningTests {
    @Test(arguments: ReasoningStyle.allCases)
    func sumsAreRight(_ style: ReasoningStyle) {
        for row in ToyReasoning(.sums, style: style, seed: 3).rows(50) {
            let numbers = row.prompt.dropLast(3).split(separator: "+").map { Int($0)! }
            let (a, b, sum) = (numbers[0], numbers[1], numbers.reduce(0, +))
            let expected =
                switch style {
                case .none: "\(sum)"
                case .simplified: "\(a)+\(b)=\(a + b), \(sum)"
                case .detailed: "First \(a)+\(b)=\(a + b). Then \(a + b)+\(numbers[2])=\(sum). The sum is \(sum)."
                }
            #expect(row.response == expected)
            #expect(row.prompt.hasSuffix("=?\n") && numbers.count == 3)
        }
    }

    @Test func styleChangesOnlyTheResponse() {
        let plain = ToyReasoning(.sums, style: .none).rows(20), long = ToyReasoning(.sums, style: .detailed).rows(20)
        #expect(plain.map(\.prompt) == long.map(\.prompt))
    }

    @Test(arguments: ToyReasoning.Task.allCases)
    func rowsDependOnTheSeedAlone(_ task: ToyReasoning.Task) {
        let rows = ToyReasoning(task, seed: 5).rows(30)
        #expect(ToyReasoning(task, seed: 5).row(29) == rows[29])
        #expect(ToyReasoning(task, seed: 6).rows(30) != rows)
    }

    @Test func factsRepeatAndUnseenOnesDoNot() {
        let facts = ToyReasoning(.facts, pairs: 6, seed: 1).rows(12)
        #expect(Array(facts[..<6]) == Array(facts[6...]))
        #expect(facts.map { $0.response.split(separator: " ").count } == [2, 4, 8, 2, 4, 8, 2, 4, 8, 2, 4, 8])
        let unseen = ToyReasoning(.unseenFacts, words: 4, pairs: 6, seed: 1).rows(200)
        #expect(Set(unseen.map(\.prompt)).isDisjoint(with: facts.map(\.prompt)))
        #expect(unseen.allSatisfy { $0.response.split(separator: " ").count == 4 })
        let mixture = ToyReasoning(.mixture, pairs: 6, seed: 1).rows(300)
        #expect(mixture.filter { $0.prompt.hasPrefix("who") }.allSatisfy { facts.contains($0) })
    }

    /// 60, 15, 25 % within four standard deviations of 2000 draws.
    @Test func mixtureShares() {
        let rows = ToyReasoning(.mixture).rows(2000)
        let detailed = rows.count { $0.response.hasPrefix("First") }, facts = rows.count { $0.prompt.hasPrefix("who") }
        #expect(abs(detailed - 1200) < 88 && abs(facts - 500) < 78 && abs(2000 - detailed - facts - 300) < 64)
    }

    @Test func fillerStandsBeforeTheAnswer() {
        let plain = ToyReasoning(.sums, style: .none).rows(5)
        for (row, bare) in zip(ToyReasoning(.sums, style: .none, filler: 5).rows(5), plain) {
            #expect(row.prompt == bare.prompt && row.response.hasSuffix(" " + bare.response))
            #expect(row.response.split(separator: " ").count == 6)
        }
    }

    @Test func plainTasksAreSolved() {
        for row in ToyReasoning(.reverse).rows(20) {
            #expect(row.prompt == "reverse " + String(row.response.reversed()) + "\n")
        }
        for row in ToyReasoning(.sort).rows(20) {
            #expect(row.prompt.dropFirst(5).dropLast().sorted() == Array(row.response))
        }
        for row in ToyReasoning(.add).rows(20) {
            let numbers = row.prompt.dropFirst(4).dropLast().split(separator: " ").map { Int($0)! }
            #expect(row.response == "\(numbers[0] + numbers[1])")
        }
    }
}

@Suite struct IrrelevantPairingTests {
    @Test func partnersDifferAndCollisionsAreCounted() {
        let answers = (0..<100).map { $0 % 2 == 0 ? "yes" : "no" }
        let pairing = IrrelevantPairing(responses: answers, seed: 2)
        for (i, partner) in pairing.partners.enumerated() { #expect(answers[partner!] != answers[i]) }
        // Half of all draws meet the same answer; four standard deviations are 20.
        #expect(abs(pairing.collisions - 50) < 20)
        #expect(pairing.collisionRate == Double(pairing.collisions) / 100)
        let plain = IrrelevantPairing(responses: answers, seed: 2, forbidsEqual: false)
        #expect(plain.collisions == pairing.collisions)
        #expect(zip(answers, plain.partners).count { $0 == answers[$1!] } == pairing.collisions)
        #expect(Set(plain.partners.map { $0! }).count == 100)
    }

    @Test func equalResponsesHaveNoPartner() {
        let pairing = IrrelevantPairing(responses: ["a", "a", "a"], seed: 0)
        #expect(pairing.partners == [nil, nil, nil] && pairing.collisions == 3)
        #expect(IrrelevantPairing(responses: ["a", "b"], seed: 0).partners == [1, 0])
    }

    /// é as one scalar and as two: equal for Swift's ==, two texts for a tokenizer.
    @Test func spellingsAreDifferentTexts() {
        #expect(IrrelevantPairing(responses: ["\u{E9}", "e\u{301}"], seed: 0).partners == [1, 0])
    }
}

@Suite struct TinyModelTests {
    @Test func configSaysTheShape() {
        let config = TinyModelShape(layers: 2, width: 16, heads: 2, context: 32).config
        #expect(config["num_hidden_layers"]?.int == 2 && config["hidden_size"]?.int == 16)
        #expect(config["num_attention_heads"]?.int == 2 && config["vocab_size"]?.int == 258)
    }
}
