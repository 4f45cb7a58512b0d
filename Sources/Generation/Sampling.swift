// From scores to the next token.
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
        logits.withUnsafeBufferPointer { pick($0, seen: seen, sequence: sequence, step: step) }
    }

    public func pick(_ logits: UnsafeBufferPointer<Float>, seen: Set<Int32>, sequence: Int, step: Int) -> Int32 {
        guard repetitionPenalty != 1 else { return pick(logits, sequence: sequence, step: step) }
        var scores = Array(logits)
        let penalty = Float(repetitionPenalty)
        for id in seen where scores.indices.contains(Int(id)) {
            scores[Int(id)] = scores[Int(id)] > 0 ? scores[Int(id)] / penalty : scores[Int(id)] * penalty
        }
        return scores.withUnsafeBufferPointer { pick($0, sequence: sequence, step: step) }
    }

    private func pick(_ scores: UnsafeBufferPointer<Float>, sequence: Int, step: Int) -> Int32 {
        if temperature == 0 { return Int32(argmax(scores)) }
        let (weights, all) = softmaxWeights(scores, factor: 1 / temperature)
        let draw = Double(RandomStream(seed: seed, 0x6E6, UInt64(sequence), UInt64(step)).uniform(1)[0])
        return weights.withUnsafeBufferPointer { weights in
            let (kept, total) = kept(weights, total: all)
            return kept.draw(draw * total, from: Descending(weights))
        }
    }

    /// How much of the descending order the filters leave.
    private enum Kept {
        case all
        case first([Candidate])

        /// The candidate at which the summed weights exceed `left`.
        func draw(_ left: Double, from order: Descending) -> Int32 {
            switch self {
            case .all: return Kept.draw(left, from: order)
            case .first(let candidates): return Kept.draw(left, from: candidates)
            }
        }

        private static func draw(_ amount: Double, from order: some Sequence<Candidate>) -> Int32 {
            var left = amount, last: Int32 = 0
            for candidate in order {
                left -= Double(candidate.weight)
                last = candidate.id
                if left < 0 { break }
            }
            return last
        }
    }

    /// Applies top-k, top-p and min-p.
    ///
    /// - Returns: what is left and its summed weight.
    private func kept(_ weights: UnsafeBufferPointer<Float>, total: Double) -> (Kept, Double) {
        let hasTopK = topK > 0 && topK < weights.count
        guard hasTopK || topP < 1 || minP > 0 else { return (.all, total) }
        var candidates: [Candidate] = [], total = total
        if hasTopK {
            for candidate in Descending(weights) {
                // Ties with the k-th stay, as in transformers' filter.
                if candidates.count >= topK, candidate.weight < candidates[topK - 1].weight { break }
                candidates.append(candidate)
            }
            total = candidates.reduce(0) { $0 + Double($1.weight) }
            candidates = first(of: candidates, total: total)
        } else {
            candidates = first(of: Descending(weights), total: total)
        }
        return (.first(candidates), candidates.reduce(0) { $0 + Double($1.weight) })
    }

    /// Top-p, then min-p.
    private func first(of order: some Sequence<Candidate>, total: Double) -> [Candidate] {
        var candidates: [Candidate] = [], sum = 0.0
        for candidate in order {
            if let best = candidates.first, Double(candidate.weight) < minP * Double(best.weight) { break }
            candidates.append(candidate)
            sum += Double(candidate.weight)
            if topP < 1, sum >= topP * total { break }
        }
        return candidates
    }
}

private struct Candidate {
    var id: Int32
    var weight: Float
}

/// Tokens from the heaviest on, equal ones by id. Sorted as far as it is asked for: one draw rarely looks beyond the
/// first few of a vocabulary.
private struct Descending: Sequence, IteratorProtocol {
    private let weights: UnsafeBufferPointer<Float>
    private var sorted: [Candidate] = [], position = 0
    /// Weights from here on have been given.
    private var bound = Float.infinity
    private var lower: Float = 0x1p-4
    /// Together less than 2^-60 of the total: no draw of 24 bits finds them.
    private static let least: Float = 0x1p-80

    /// - Parameter weights: the heaviest is 1.
    init(_ weights: UnsafeBufferPointer<Float>) { self.weights = weights }

    mutating func next() -> Candidate? {
        while position == sorted.count {
            if bound <= Self.least { return nil }
            let edge = Swift.max(lower, Self.least)
            sorted.removeAll(keepingCapacity: true)
            for (id, weight) in weights.enumerated() where weight >= edge && weight < bound {
                sorted.append(Candidate(id: Int32(id), weight: weight))
            }
            sorted.sort { ($1.weight, $0.id) < ($0.weight, $1.id) }
            (bound, lower, position) = (edge, edge * 0x1p-6, 0)
        }
        defer { position += 1 }
        return sorted[position]
    }
}
