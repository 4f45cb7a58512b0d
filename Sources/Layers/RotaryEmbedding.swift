// Rotary positions (Su et al. 2021, arXiv:2104.09864) and the ways their frequencies are stretched for long context.
internal import Glibc
public import Tensors

/// How trained frequencies are changed to reach further than they were trained for.
public enum RotaryScaling: Sendable, Equatable {
    case none
    /// All positions divided by a factor (Chen et al. 2023, arXiv:2306.15595).
    case linear(factor: Double)
    /// Llama 3.1: low frequencies divided, high ones kept, a ramp between (arXiv:2407.21783, section 3.4.3; the
    /// published model code).
    case llama3(factor: Double, lowFrequencyFactor: Double, highFrequencyFactor: Double, originalContext: Int)
    /// YaRN (Peng et al. 2023, arXiv:2309.00071, section 3): frequencies that turn less than `slow` times in the original
    /// context divided, those that turn more than `fast` times kept, a ramp between; cosines and sines times `attention`.
    case yarn(Yarn)
    /// LongRoPE (Ding et al. 2024, arXiv:2402.13753): each frequency divided by its own factor, `[R / 2]`; cosines and
    /// sines times `attention`.
    case perFrequency(factors: [Double], attention: Double)

    public struct Yarn: Sendable, Equatable {
        public var factor: Double, fast: Double, slow: Double
        public var originalContext: Int
        public var attention: Double
        /// Whether the ends of the ramp are rounded to whole frequencies.
        public var roundsEnds: Bool

        public init(
            factor: Double, fast: Double, slow: Double, originalContext: Int, attention: Double, roundsEnds: Bool
        ) {
            (self.factor, self.fast, self.slow) = (factor, fast, slow)
            (self.originalContext, self.attention, self.roundsEnds) = (originalContext, attention, roundsEnds)
        }
    }
}

/// The rotation to one step's positions.
public struct Rotation {
    public let cos: Tensor, sin: Tensor  // [*, R / 2]
    public let positions: Tensor  // [N], rows of the tables

    /// Rotates q `[N, H, E]` and k `[N, K, E]`, the first R numbers of each head.
    public func callAsFunction(_ q: Tensor, _ k: Tensor) -> (q: Tensor, k: Tensor) {
        rotary(q, k, cos: cos, sin: sin, at: positions)
    }
}

/// Tables of cos(p·f_i) and sin(p·f_i), f_i = θ^(-2i/R) changed by the scaling; both halves of the R numbers that turn
/// share them.
/// Frequencies and angles are fp32, as the reference implementations compute them.
public final class RotaryEmbedding {
    private let frequencies: [Float]  // [R / 2]
    /// What cosines and sines are multiplied by, so that scores of attention are by its square.
    private let attention: Float
    private var cosTable: Tensor, sinTable: Tensor  // [positions so far, R / 2]
    private var positions = 0
    private let device: Device

    /// - Parameter width: R, how many numbers of a head turn; even.
    public init(width: Int, theta: Double, scaling: RotaryScaling, on device: Device) {
        let base = stride(from: 0, to: width, by: 2).map { 1 / powf(Float(theta), Float($0) / Float(width)) }
        frequencies = Self.scaled(base, theta: theta, scaling)
        attention =
            switch scaling {
            case .yarn(let yarn): Float(yarn.attention)
            case .perFrequency(_, let attention): Float(attention)
            default: 1
            }
        self.device = device
        cosTable = .zeros([0, width / 2], on: device)
        sinTable = cosTable
    }

    static func scaled(_ base: [Float], theta: Double, _ scaling: RotaryScaling) -> [Float] {
        switch scaling {
        case .none: return base
        case .linear(let factor): return base.map { $0 / Float(factor) }
        case .llama3(let factor, let low, let high, let context):
            return base.map { frequency in
                let wavelength = 2 * Float.pi / frequency
                if wavelength < Float(context) / Float(high) { return frequency }
                if wavelength > Float(context) / Float(low) { return frequency / Float(factor) }
                let smooth = (Float(context) / wavelength - Float(low)) / Float(high - low)
                return (1 - smooth) * frequency / Float(factor) + smooth * frequency
            }
        case .yarn(let yarn):
            let (low, high) = yarn.ramp(frequencies: base.count, theta: theta)
            return base.enumerated().map { i, frequency in
                let divided = min(max((Float(i) - low) / (high - low), 0), 1)
                return frequency / Float(yarn.factor) * divided + frequency * (1 - divided)
            }
        case .perFrequency(let factors, _):
            precondition(factors.count == base.count, "\(factors.count) factors for \(base.count) frequencies")
            return zip(base, factors).map { $0 / Float($1) }
        }
    }

    /// - Parameters:
    ///   - positions: int64 `[N]`
    ///   - bound: one more than the largest of them
    public func rotation(at positions: Tensor, below bound: Int) -> Rotation {
        let (cos, sin) = tables(below: bound)
        return Rotation(cos: cos, sin: sin, positions: positions)
    }

    /// Cosines and sines `[at least bound, R / 2]`, fp32.
    public func tables(below bound: Int) -> (cos: Tensor, sin: Tensor) {
        if bound > positions { grow(to: bound) }
        return (cosTable, sinTable)
    }

    private func grow(to bound: Int) {
        let rows = max(bound, 2 * positions), half = frequencies.count
        var cosines = [Float](repeating: 0, count: rows * half), sines = cosines
        for position in 0..<rows {
            for (i, frequency) in frequencies.enumerated() {
                let angle = Double(Float(position) * frequency), at = position * half + i
                cosines[at] = attention * Float(cos(angle))
                sines[at] = attention * Float(sin(angle))
            }
        }
        cosTable = Tensor(cosines, [rows, half], on: device)
        sinTable = Tensor(sines, [rows, half], on: device)
        positions = rows
    }
}

extension RotaryScaling.Yarn {
    /// Numbers of the frequencies at which dividing begins and is whole (arXiv:2309.00071, eq. 17 to 19; the published
    /// code).
    fileprivate func ramp(frequencies count: Int, theta: Double) -> (low: Float, high: Float) {
        func frequency(turning turns: Double) -> Double {
            Double(2 * count) * log(Double(originalContext) / (turns * 2 * .pi)) / (2 * log(theta))
        }
        var (low, high) = (frequency(turning: fast), frequency(turning: slow))
        if roundsEnds { (low, high) = (low.rounded(.down), high.rounded(.up)) }
        low = max(low, 0)
        high = min(high, Double(2 * count - 1))
        return (Float(low), Float(high == low ? high + 0.001 : high))
    }
}
