// Learning rate over steps.
internal import Glibc

/// A learning-rate schedule: warm-up from 0, then a shape, over a known number of steps. Pure: no state to save.
public struct Schedule: Sendable, Equatable {
    public enum Shape: String, Sendable, CaseIterable {
        /// After warm-up straight down to `minRatio · peak` at the last step.
        case linear
        /// After warm-up half a cosine down to `minRatio · peak` (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5).
        case cosine
        /// Warm-up, stable, then straight down over the last `decayRatio` of the steps (Hu et al. 2024, arXiv:2404.06395).
        case wsd
        case constant
    }

    public let shape: Shape
    public let peak: Double
    public let steps: Int
    public let warmupSteps: Int
    public let minRatio: Double
    public let decayRatio: Double

    public init(
        _ shape: Shape, peak: Double, steps: Int, warmupSteps: Int = 0, minRatio: Double = 0, decayRatio: Double = 0.1
    ) {
        (self.shape, self.peak, self.steps, self.warmupSteps) = (shape, peak, steps, warmupSteps)
        (self.minRatio, self.decayRatio) = (minRatio, decayRatio)
    }

    /// The rate of the update after `step` updates (so from 0): as transformers' schedulers count, the first update of a
    /// warm-up has rate 0.
    public func callAsFunction(_ step: Int) -> Double {
        if step < warmupSteps { return peak * Double(step) / Double(warmupSteps) }
        let span = max(1, steps - warmupSteps), progress = min(1, Double(step - warmupSteps) / Double(span))
        switch shape {
        case .constant: return peak
        case .linear: return peak * (minRatio + (1 - minRatio) * (1 - progress))
        case .cosine: return peak * (minRatio + (1 - minRatio) * 0.5 * (1 + cos(Double.pi * progress)))
        case .wsd:
            let decaySteps = max(1, Int((Double(steps) * decayRatio).rounded()))
            let left = Double(max(0, steps - step)) / Double(decaySteps)
            return peak * (minRatio + (1 - minRatio) * min(1, left))
        }
    }
}
