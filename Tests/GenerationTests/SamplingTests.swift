// Sampling against cases worked out by hand.
import Generation
import Glibc
import RandomStreams
import Tensors
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

    /// NaN among the scores, and nothing but NaN or -infinity: the best of what is left, never a token for being NaN.
    @Test func scoresThatAreNoNumbers() {
        var scores = [Float](repeating: 1, count: 1000)
        (scores[7], scores[999]) = (.nan, 5)
        for (k, p) in [(0, 1.0), (3, 1), (0, 0.5)] {
            let settings = SamplingSettings(temperature: 1, topK: k, topP: p)
            #expect(support(scores, settings) == [999])
            #expect(support([Float](repeating: .nan, count: 1000), settings).count == 1)
            #expect(support([Float](repeating: -.infinity, count: 1000), settings) == [0])
            #expect(support([3], settings) == [0])
        }
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

    static let settings: [SamplingSettings] = [
        .init(temperature: 1), .init(temperature: 0.7, topP: 0.9), .init(temperature: 1, topK: 40),
        .init(temperature: 1, topK: 700, topP: 0.8), .init(temperature: 1, topP: 0.95, minP: 0.02),
        .init(temperature: 1, minP: 0.1), .init(temperature: 1, topK: 900, topP: 0.99, minP: 0.3),
        .init(temperature: 1.5, topP: 0.9, repetitionPenalty: 1.4),
    ]

    /// Everything sorted, then summed token by token: what a draw is, whatever it leaves unsorted.
    private func sortedPick(_ logits: [Float], _ settings: SamplingSettings, seen: Set<Int32>, step: Int) -> Int32 {
        var weights = logits
        let penalty = Float(settings.repetitionPenalty)
        for id in seen.map(Int.init) { weights[id] = weights[id] > 0 ? weights[id] / penalty : weights[id] * penalty }
        var total = weights.withUnsafeMutableBufferPointer {
            softmaxWeights(UnsafeBufferPointer($0), factor: 1 / settings.temperature, into: $0)
        }
        var order = weights.indices.sorted { (weights[$1], $0) < (weights[$0], $1) }
        func sum() -> Double { order.reduce(0) { $0 + Double(weights[$1]) } }
        if settings.topK > 0 {
            let least = weights[order[settings.topK - 1]]
            order.removeAll { weights[$0] < least }
            total = sum()
        }
        if settings.topP < 1 {
            var reached = 0.0
            let kept = order.prefix { id in
                let before = reached
                reached += Double(weights[id])
                return before < settings.topP * total
            }
            order = Array(kept)
        }
        order.removeAll { Double(weights[$0]) < settings.minP }
        if settings.topK > 0 || settings.topP < 1 || settings.minP > 0 { total = sum() }
        var left = total * Double(RandomStream(seed: settings.seed, 0x6E6, 3, UInt64(step)).uniform(1)[0])
        let drawn = order.first { id in
            left -= Double(weights[id])
            return left < 0
        }
        return Int32(drawn ?? order.last!)
    }

    /// Peaked scores, flat ones of which a draw lies deep, and many equal ones.
    @Test(arguments: settings.indices, [5.0, 0.3, 0]) func drawsAreThoseOfAFullSort(_ index: Int, _ spread: Double) {
        let settings = Self.settings[index], n = 1000
        let numbers = RandomStream(seed: 4, 2).normal([n]).values(Float.self)
        // Steps of an eighth: many are equal, but for some of the best.
        let logits = numbers.map { (number: Float) -> Float in
            let level = (8 * Float(spread) * number).rounded() / 8
            return number > 2.5 ? level + number / 1000 : level
        }
        let seen = Set((0..<60).map { Int32(7 * $0) })
        for step in 0..<200 {
            let pick = settings.pick(logits, seen: seen, sequence: 3, step: step)
            #expect(pick == sortedPick(logits, settings, seen: seen, step: step))
        }
    }

    /// Rows of real size, many enough that threads share them: each as alone, on any number of threads.
    @Test func rowsAreDrawnAsAlone() async {
        await #expect(processExitsWith: .success) {
            let (rows, V) = (7, 40_000), scores = RandomStream(seed: 8, 1).normal([rows, V], deviation: 3)
            for settings in [SamplingSettings()] + SamplingTests.settings {
                let draws = (0..<rows).map {
                    SamplingSettings.Draw(seen: Set(0..<Int32(50 * $0)), sequence: 3 * $0, step: 5)
                }
                let alone = (0..<rows).map { row in
                    let logits = scores.narrow(0, row, 1).values(Float.self), draw = draws[row]
                    return settings.pick(logits, seen: draw.seen, sequence: draw.sequence, step: draw.step)
                }
                for threads in [1, 2, 3, 8] {
                    Engine.threads = threads
                    precondition(settings.pick(.init(scores), draws) == alone, "\(settings), \(threads) threads")
                }
                precondition(Set(alone).count > 1)
            }
        }
    }
}
