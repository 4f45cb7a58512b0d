// From scores to the next token.
internal import RandomStreams
public import Tensors

/// How the next token is drawn. Applied in transformers' order: repetition penalty, temperature, top-k, top-p, min-p.
public struct SamplingSettings: Sendable, Equatable {
    /// Scores are divided by it; 0 takes the most probable token.
    public var temperature: Double
    /// Keeps the k most probable tokens; 0 keeps all.
    public var topK: Int
    /// Keeps the most probable tokens that together reach this probability (Holtzman et al. 2020, arXiv:1904.09751).
    public var topP: Double
    /// Keeps tokens at least this share as probable as the most probable one (Nguyen et al. 2024, arXiv:2407.01082).
    public var minP: Double
    /// Divides positive and multiplies negative scores of tokens seen before (Keskar et al. 2019, arXiv:1909.05858, 4.1).
    public var repetitionPenalty: Double
    public var seed: UInt64

    public init(
        temperature: Double = 0, topK: Int = 0, topP: Double = 1, minP: Double = 0, repetitionPenalty: Double = 1,
        seed: UInt64 = 0
    ) {
        (self.temperature, self.topK, self.topP, self.minP) = (temperature, topK, topP, minP)
        (self.repetitionPenalty, self.seed) = (repetitionPenalty, seed)
    }

    /// What a draw depends on beside the scores.
    public struct Draw: Sendable {
        /// Ids of prompt and answer so far, at which only the repetition penalty looks.
        public var seen: Set<Int32>
        /// They name the draw: equal ones under one seed give equal numbers.
        public var sequence: Int, step: Int

        public init(seen: Set<Int32> = [], sequence: Int, step: Int) {
            (self.seen, self.sequence, self.step) = (seen, sequence, step)
        }
    }

    /// A token for each row of scores, which the engine's threads share; how many there are changes nothing.
    public func pick(_ scores: FusedDecoder.Scores, _ draws: [Draw]) -> [Int32] {
        precondition(draws.count == scores.rows, "\(draws.count) draws from \(scores.rows) rows of scores")
        return scores.map { row, scores in pick(scores, draws[row]) }
    }

    /// A token.
    ///
    /// - Parameters:
    ///   - logits: one score per token of the vocabulary.
    ///   - seen, sequence, step: as in `Draw`.
    public func pick(_ logits: [Float], seen: Set<Int32>, sequence: Int, step: Int) -> Int32 {
        logits.withUnsafeBufferPointer { pick($0, Draw(seen: seen, sequence: sequence, step: step)) }
    }

    private func pick(_ logits: UnsafeBufferPointer<Float>, _ draw: Draw) -> Int32 {
        if temperature == 0 && repetitionPenalty == 1 { return Int32(argmax(logits)) }
        return withUnsafeTemporaryAllocation(of: Float.self, capacity: logits.count) { numbers in
            var scores = logits
            if repetitionPenalty != 1 {
                penalize(draw.seen, logits, into: numbers)
                scores = UnsafeBufferPointer(numbers)
            }
            if temperature == 0 { return Int32(argmax(scores)) }
            let total = softmaxWeights(scores, factor: 1 / temperature, into: numbers)
            // Scores that are no numbers have no probabilities.
            guard total.isFinite else { return Int32(argmax(logits)) }
            let stream = RandomStream(seed: seed, 0x6E6, UInt64(draw.sequence), UInt64(draw.step))
            return drawn(from: Weights(UnsafeBufferPointer(numbers), total), Double(stream.uniform(1)[0]))
        }
    }

    private func penalize(
        _ seen: Set<Int32>, _ logits: UnsafeBufferPointer<Float>, into scores: UnsafeMutableBufferPointer<Float>
    ) {
        _ = scores.initialize(from: logits)
        let penalty = Float(repetitionPenalty)
        for id in seen where scores.indices.contains(Int(id)) {
            scores[Int(id)] = scores[Int(id)] > 0 ? scores[Int(id)] / penalty : scores[Int(id)] * penalty
        }
    }

    /// The token at which the weights that the filters leave, summed from the heaviest on, exceed `share` of them all.
    private func drawn(from weights: Weights, _ share: Double) -> Int32 {
        guard isFiltering(weights) else { return weights.heaviest { $1 > share * weights.total }.last?.id ?? 0 }
        var left = kept(of: weights)
        let total = left.weight
        left.keepHeaviest { $1 > share * total }
        return left.last?.id ?? 0
    }

    private func hasTopK(_ weights: Weights) -> Bool { topK > 0 && topK < weights.values.count }
    private func isFiltering(_ weights: Weights) -> Bool { hasTopK(weights) || topP < 1 || minP > 0 }

    /// What top-k, top-p and min-p leave, in no order.
    private func kept(of weights: Weights) -> [Candidate] {
        var kept: [Candidate]
        if hasTopK(weights) {
            let last = weights.heaviest { count, _ in count >= topK }.last
            // Ties with the k-th stay, as in transformers' filter.
            kept = last.map { weights.candidates(atLeast: $0.weight) } ?? []
            let total = kept.weight
            if topP < 1 { kept.keepHeaviest { $1 >= topP * total } }
        } else if topP < 1 {
            kept = weights.heaviest { $1 >= topP * weights.total }
        } else {
            kept = weights.candidates(atLeast: Float(minP).nextDown)
        }
        if minP > 0 { kept.removeAll { Double($0.weight) < minP } }
        return kept
    }
}

private struct Candidate {
    var id: Int32
    var weight: Float

    /// Heavier ones come first, equal ones by id.
    func precedes(_ other: Candidate) -> Bool {
        weight > other.weight || (weight == other.weight && id < other.id)
    }
}

/// Weights of a vocabulary, the heaviest 1, and their sum. Only those at the top are ever looked at one by one: a draw rarely
/// comes beyond the first few.
private struct Weights {
    let values: UnsafeBufferPointer<Float>
    let total: Double
    /// Lighter ones together are less than 2^-60 of the total: no draw of 24 bits finds them.
    private static let least: Float = 0x1p-80

    init(_ values: UnsafeBufferPointer<Float>, _ total: Double) { (self.values, self.total) = (values, total) }

    func candidates(atLeast least: Float) -> [Candidate] {
        indices(of: values, atLeast: least).map { Candidate(id: $0, weight: values[Int($0)]) }
    }

    /// The fewest heaviest ones that suffice, as `keepHeaviest` has it.
    func heaviest(until suffice: (_ count: Int, _ weight: Double) -> Bool) -> [Candidate] {
        var edge: Float = 0x1p-4, found = candidates(atLeast: edge)
        while edge > Self.least, !suffice(found.count, found.weight) {
            edge = max(edge * 0x1p-6, Self.least)
            found = candidates(atLeast: edge)
        }
        found.keepHeaviest(until: suffice)
        return found
    }
}

extension [Candidate] {
    /// Their sum, which is exact in any order while none is below 2^-29 of it (24 bits each, 53 in a sum).
    fileprivate var weight: Double { reduce(0) { $0 + Double($1.weight) } }

    /// Keeps the fewest heaviest ones that suffice, told by their number and summed weight, or all. They are ordered no further
    /// than that takes: the last one is the lightest.
    fileprivate mutating func keepHeaviest(until suffice: (_ count: Int, _ weight: Double) -> Bool) {
        // Those before `low`, of weight `sum`, precede the others and do not suffice; those before `high` do, or are all.
        var low = 0, high = count, sum = 0.0
        withUnsafeMutableBufferPointer { candidates in
            while high - low > 1 {
                let middle = candidates.parted(low..<high)
                let more = candidates[low..<middle].reduce(sum) { $0 + Double($1.weight) }
                if suffice(middle, more) { high = middle } else { (low, sum) = (middle, more) }
            }
        }
        removeLast(count - high)
    }
}

extension UnsafeMutableBufferPointer<Candidate> {
    /// Moves heavier ones to the beginning of a range of two or more.
    ///
    /// - Returns: where lighter ones begin; both parts have some (Hoare 1961, algorithm 63, with the middle one as bound).
    fileprivate func parted(_ range: Range<Int>) -> Int {
        let bound = self[(range.lowerBound + range.upperBound - 1) / 2]
        var i = range.lowerBound - 1, j = range.upperBound
        while true {
            repeat { i += 1 } while self[i].precedes(bound)
            repeat { j -= 1 } while bound.precedes(self[j])
            if i >= j { return j + 1 }
            swapAt(i, j)
        }
    }
}
