// How far a written model is from its source.

/// The difference of two models' log-probabilities of the same tokens.
public struct LogProbabilityDifference: Sendable, Equatable {
    /// Nats.
    public let largest: Float, mean: Float
    /// Tokens.
    public let count: Int

    /// nil when a difference is no finite number, wherever it stands: a maximum would pass over it.
    public init?(_ before: [Float], _ after: [Float]) {
        let off = zip(before, after).map { abs($0 - $1) }
        guard off.allSatisfy(\.isFinite) else { return nil }
        (largest, mean, count) = (off.max() ?? 0, off.reduce(0, +) / Float(max(off.count, 1)), off.count)
    }
}
