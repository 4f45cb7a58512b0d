// From scores to the next token.
internal import Glibc
internal import RandomStreams
internal import Tensors

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

    /// Draws a token.
    ///
    /// - Parameters:
    ///   - logits: one score per token of the vocabulary.
    ///   - seen: ids of prompt and answer so far.
    ///   - sequence, step: name the draw; equal ones under one seed give equal numbers.
    public func pick(_ logits: [Float], seen: Set<Int32>, sequence: Int, step: Int) -> Int32 {
        var scores = logits
        if repetitionPenalty != 1 {
            let penalty = Float(repetitionPenalty)
            for id in seen where scores.indices.contains(Int(id)) {
                scores[Int(id)] = scores[Int(id)] > 0 ? scores[Int(id)] / penalty : scores[Int(id)] * penalty
            }
        }
        if temperature == 0 { return Int32(argmax(scores)) }
        var candidates = sortedCandidates(scores)
        if topP < 1 {
            var sum = 0.0
            let count = candidates.firstIndex { candidate in
                sum += candidate.probability
                return sum >= topP
            }
            if let count { candidates.removeSubrange((count + 1)...) }
        }
        if minP > 0 {
            let threshold = minP * candidates[0].probability
            candidates.removeAll { $0.probability < threshold }
        }
        let total = candidates.reduce(0) { $0 + $1.probability }
        var left = Double(RandomStream(seed: seed, 0x6E6, UInt64(sequence), UInt64(step)).uniform(1)[0]) * total
        for candidate in candidates {
            left -= candidate.probability
            if left < 0 { return Int32(candidate.id) }
        }
        return Int32(candidates.last!.id)
    }

    /// Tokens left by top-k with their probabilities, most probable first; ties by id.
    private func sortedCandidates(_ scores: [Float]) -> [(id: Int, probability: Double)] {
        let highest = Double(scores[argmax(scores)]) / temperature
        let weights = scores.map { exp(Double($0) / temperature - highest) }
        var ids = Array(weights.indices)
        if topK > 0 && topK < ids.count {
            // Ties with the k-th stay, as in transformers' filter.
            let threshold = weights.sorted(by: >)[topK - 1]
            ids.removeAll { weights[$0] < threshold }
        } else {
            // Together less than 2⁻⁵³ of the total: they cannot change a sum of doubles.
            ids.removeAll { weights[$0] < 0x1p-80 }
        }
        let total = ids.reduce(0) { $0 + weights[$1] }
        ids.sort { (weights[$1], $0) < (weights[$0], $1) }
        return ids.map { ($0, weights[$0] / total) }
    }
}

private func argmax(_ values: [Float]) -> Int {
    var best = 0
    for i in values.indices where values[i] > values[best] { best = i }
    return best
}
