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
}

/// The rotation to one step's positions.
public struct Rotation {
    public let cos: Tensor, sin: Tensor  // [*, E / 2]
    public let positions: Tensor  // [N], rows of the tables

    /// Rotates q `[N, H, E]` and k `[N, K, E]`.
    public func callAsFunction(_ q: Tensor, _ k: Tensor) -> (q: Tensor, k: Tensor) {
        rotary(q, k, cos: cos, sin: sin, at: positions)
    }
}

/// Tables of cos(p·f_i) and sin(p·f_i), f_i = θ^(-2i/E) changed by the scaling; both halves of E share them.
/// Frequencies and angles are fp32, as the reference implementations compute them.
public final class RotaryEmbedding {
    private let frequencies: [Float]  // [E / 2]
    private var cosTable: Tensor, sinTable: Tensor  // [positions so far, E / 2]
    private var positions = 0
    private let device: Device

    public init(headDim: Int, theta: Double, scaling: RotaryScaling, on device: Device) {
        let base = stride(from: 0, to: headDim, by: 2).map { 1 / powf(Float(theta), Float($0) / Float(headDim)) }
        frequencies = base.map { Self.scaled($0, scaling) }
        self.device = device
        cosTable = .zeros([0, headDim / 2], on: device)
        sinTable = cosTable
    }

    static func scaled(_ frequency: Float, _ scaling: RotaryScaling) -> Float {
        switch scaling {
        case .none: return frequency
        case .linear(let factor): return frequency / Float(factor)
        case .llama3(let factor, let low, let high, let context):
            let wavelength = 2 * Float.pi / frequency
            if wavelength < Float(context) / Float(high) { return frequency }
            if wavelength > Float(context) / Float(low) { return frequency / Float(factor) }
            let smooth = (Float(context) / wavelength - Float(low)) / Float(high - low)
            return (1 - smooth) * frequency / Float(factor) + smooth * frequency
        }
    }

    /// - Parameters:
    ///   - positions: int64 `[N]`
    ///   - bound: one more than the largest of them
    public func rotation(at positions: Tensor, below bound: Int) -> Rotation {
        let (cos, sin) = tables(below: bound)
        return Rotation(cos: cos, sin: sin, positions: positions)
    }

    /// Cosines and sines `[at least bound, E / 2]`, fp32.
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
                cosines[at] = Float(cos(angle))
                sines[at] = Float(sin(angle))
            }
        }
        cosTable = Tensor(cosines, [rows, half], on: device)
        sinTable = Tensor(sines, [rows, half], on: device)
        positions = rows
    }
}
