// Sampling against cases worked out by hand.
import Generation
import Glibc
import TestSupport
import Testing

@Suite struct SamplingTests {
    /// Logits that give these probabilities.
    private func logits(_ probabilities: [Double]) -> [Float] { probabilities.map { Float(log($0)) } }

    /// Tokens that are ever drawn.
    private func support(_ logits: [Float], _ settings: SamplingSettings, seen: Set<Int32> = []) -> Set<Int32> {
        Set((0..<400).map { settings.pick(logits, seen: seen, sequence: 0, step: $0) })
    }

    @Test func temperatureZeroTakesTheFirstOfTheBest() {
        let greedy = SamplingSettings()
        #expect(greedy.pick([0, 3, 1, 3], seen: [], sequence: 0, step: 0) == 1)
        #expect(greedy.pick([-5, -3, -4], seen: [], sequence: 9, step: 9) == 1)
    }

    @Test func topKKeepsTiesWithTheLast() {
        let equal: [Float] = [1, 3, 2, 2, 0]
        #expect(support(equal, .init(temperature: 1, topK: 1)) == [1])
        #expect(support(equal, .init(temperature: 1, topK: 2)) == [1, 2, 3])
        #expect(support(equal, .init(temperature: 1, topK: 3)) == [1, 2, 3])
        #expect(support(equal, .init(temperature: 1, topK: 4)) == [0, 1, 2, 3])
        #expect(support(equal, .init(temperature: 1, topK: 9)) == [0, 1, 2, 3, 4])
        #expect(support(equal, .init(temperature: 1)) == [0, 1, 2, 3, 4])
    }

    /// Quarters are exact, so the boundary is: the tokens that first reach p, and no more.
    @Test func topPStopsWhereItIsReached() {
        let quarters: [Float] = [0, 0, 0, 0]
        #expect(support(quarters, .init(temperature: 1, topP: 0.5)) == [0, 1])
        #expect(support(quarters, .init(temperature: 1, topP: 0.501)) == [0, 1, 2])
        #expect(support(quarters, .init(temperature: 1, topP: 0.01)) == [0])
        #expect(support(quarters, .init(temperature: 1, topP: 1)) == [0, 1, 2, 3])
        #expect(support(logits([0.1, 0.6, 0.3]), .init(temperature: 1, topP: 0.65)) == [1, 2])
    }

    @Test func minPIsAShareOfTheBest() {
        let p = logits([0.1, 0.5, 0.15, 0.25])  // shares 0.2, 1, 0.3, 0.5
        #expect(support(p, .init(temperature: 1, minP: 0.6)) == [1])
        #expect(support(p, .init(temperature: 1, minP: 0.4)) == [1, 3])
        #expect(support(p, .init(temperature: 1, minP: 0.25)) == [1, 2, 3])
        #expect(support([0, 0, 0], .init(temperature: 1, minP: 1)) == [0, 1, 2])
    }

    /// Top-k first, then top-p of what is left: 0.4 alone is below 0.5, but 0.4 / 0.7 is not.
    @Test func filtersFollowEachOther() {
        let p = logits([0.4, 0.3, 0.2, 0.1])
        #expect(support(p, .init(temperature: 1, topP: 0.5)) == [0, 1])
        #expect(support(p, .init(temperature: 1, topK: 2, topP: 0.5)) == [0])
        // A low temperature comes before them: 0.16 / (0.16 + 0.09 + 0.04 + 0.01) is 0.53.
        #expect(support(p, .init(temperature: 0.5, topP: 0.5)) == [0])
    }

    @Test func repetitionIsPenalized() {
        let greedy = SamplingSettings(repetitionPenalty: 2)
        #expect(greedy.pick([2, -1, 1.5], seen: [0], sequence: 0, step: 0) == 2)  // 2 / 2 < 1.5
        #expect(greedy.pick([2, -1, 0.9], seen: [0], sequence: 0, step: 0) == 0)  // 2 / 2 > 0.9
        #expect(greedy.pick([-1, -1.5], seen: [0], sequence: 0, step: 0) == 1)  // -1 · 2 < -1.5
        #expect(greedy.pick([2, -1, 1.5], seen: [], sequence: 0, step: 0) == 0)
        #expect(greedy.pick([2, 1], seen: [99, -1], sequence: 0, step: 0) == 0)  // ids beyond the scores
    }

    /// Pearson's statistic of 20,000 draws, four degrees of freedom: above 18.47 once in a thousand.
    @Test(arguments: [0.5, 1, 2]) func drawsFollowTheDistribution(_ temperature: Double) {
        let scores: [Float] = [0.3, -1, 2, 1.2, 0], n = 20_000
        let weights = scores.map { exp(Double($0) / temperature) }, total = weights.reduce(0, +)
        var counts = [0, 0, 0, 0, 0]
        let settings = SamplingSettings(temperature: temperature, seed: 5)
        for step in 0..<n { counts[Int(settings.pick(scores, seen: [], sequence: step / 100, step: step % 100))] += 1 }
        let statistic = zip(counts, weights).reduce(0.0) { sum, pair in
            let expected = pair.1 / total * Double(n)
            return sum + (Double(pair.0) - expected) * (Double(pair.0) - expected) / expected
        }
        #expect(statistic < 18.47)
    }

    @Test func drawsAreNamedBySeedSequenceAndStep() {
        let flat = [Float](repeating: 0, count: 1000)
        func draws(_ seed: UInt64, _ sequence: Int) -> [Int32] {
            (0..<20).map {
                SamplingSettings(temperature: 1, seed: seed).pick(flat, seen: [], sequence: sequence, step: $0)
            }
        }
        #expect(draws(1, 2) == draws(1, 2))
        #expect(draws(1, 2) != draws(2, 2) && draws(1, 2) != draws(1, 3) && Set(draws(1, 2)).count > 10)
    }

    /// Far tails are cut before sorting; what is left still gives every likely token.
    @Test func hugeAndTinyScoresAreNoTrouble() {
        #expect(support([-1e30, 1e4, 0, -.infinity], .init(temperature: 1)) == [1])
        #expect(support([88, 88, -.infinity], .init(temperature: 0.01)) == [0, 1])
    }
}
