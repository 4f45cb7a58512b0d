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
    /// Dynamic NTK (transformers' `dynamic`): a document of L tokens, L above `context`, turns with the base
    /// θ (factor L / context - (factor - 1))^(R / (R - 2)); shorter ones as always.
    case dynamic(factor: Double, context: Int)
    /// LongRoPE (Ding et al. 2024, arXiv:2402.13753): each frequency divided by its own factor, one list for documents of
    /// up to `originalContext` tokens and one for longer ones; cosines and sines times `attention`.
    case longRoPE(LongRoPE)

    public struct LongRoPE: Sendable, Equatable {
        public var short: [Double], long: [Double]  // [R / 2]
        public var originalContext: Int
        public var attention: Double

        public init(short: [Double], long: [Double], originalContext: Int, attention: Double) {
            (self.short, self.long) = (short, long)
            (self.originalContext, self.attention) = (originalContext, attention)
        }
    }

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

    public init(cos: Tensor, sin: Tensor, positions: Tensor) {
        (self.cos, self.sin, self.positions) = (cos, sin, positions)
    }

    /// Rotates q `[N, H, E]` and k `[N, K, E]`, the first R numbers of each head.
    public func callAsFunction(_ q: Tensor, _ k: Tensor) -> (q: Tensor, k: Tensor) {
        rotary(q, k, cos: cos, sin: sin, at: positions)
    }
}

extension RotaryScaling {
    /// Documents whose lengths are of one kind turn by the same frequencies. 0: the frequencies of all but long documents.
    public func kind(ofLength length: Int) -> Int {
        switch self {
        case .dynamic(_, let context): length > context ? length : 0
        case .longRoPE(let settings): length > settings.originalContext ? 1 : 0
        case .none, .linear, .llama3, .yarn: 0
        }
    }

    /// What cosines and sines are multiplied by, so that scores of attention are by its square.
    fileprivate var attention: Double {
        switch self {
        case .yarn(let yarn): yarn.attention
        case .longRoPE(let settings): settings.attention
        case .none, .linear, .llama3, .dynamic: 1
        }
    }

    /// `[R / 2]`, of documents whose lengths are of a kind. Frequencies and angles are fp32, as the reference
    /// implementations compute them.
    func frequencies(width: Int, theta: Double, kind: Int = 0) -> [Float] {
        func unscaled(_ theta: Double) -> [Float] {
            stride(from: 0, to: width, by: 2).map { 1 / powf(Float(theta), Float($0) / Float(width)) }
        }
        let base = unscaled(theta)
        switch self {
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
        case .dynamic(let factor, let context):
            if kind == 0 { return base }
            let stretch = factor * Double(kind) / Double(context) - (factor - 1)
            return unscaled(theta * pow(stretch, Double(width) / Double(width - 2)))
        case .longRoPE(let settings):
            let factors = kind == 0 ? settings.short : settings.long
            precondition(factors.count == base.count, "\(factors.count) factors for \(base.count) frequencies")
            return zip(base, factors).map { $0 / Float($1) }
        }
    }
}

/// Tables of cos(p·f_i) and sin(p·f_i), f_i = θ^(-2i/R) changed by the scaling; both halves of the R numbers that turn
/// share them.
public final class RotaryEmbedding {
    private let width: Int, theta: Double
    private let scaling: RotaryScaling
    private let device: Device
    /// By the kind of the document's length.
    private var tables: [Int: RotaryTable] = [:]

    /// - Parameter width: R, how many numbers of a head turn; even.
    public init(width: Int, theta: Double, scaling: RotaryScaling, on device: Device) {
        (self.width, self.theta, self.scaling, self.device) = (width, theta, scaling, device)
    }

    /// See `RotaryScaling.kind`.
    public func kind(ofLength length: Int) -> Int { scaling.kind(ofLength: length) }

    /// The rotation to the positions of a plan, each document by the frequencies for its length.
    public func rotation(_ plan: AttentionPlan) -> Rotation {
        let kinds = plan.reaches.map(kind), lengths = zip(plan.starts, plan.starts.dropFirst()).map { $1 - $0 }
        var bounds: [Int: Int] = [:]  // one more than the largest position of each kind
        for (i, kind) in kinds.enumerated() { bounds[kind] = max(bounds[kind] ?? 0, plan.pasts[i] + lengths[i]) }
        // With dynamic scaling every long length has a table of its own: those of other steps are not all kept.
        if tables.count > Self.keptTables { tables = tables.filter { bounds[$0.key] != nil } }
        if bounds.count <= 1 {
            let (cos, sin) = tables(below: plan.positionBound, kind: kinds.first ?? 0)
            return Rotation(cos: cos, sin: sin, positions: plan.positions)
        }
        // One table below the other; the positions of a document count from the beginning of its own.
        var parts: [(cos: Tensor, sin: Tensor)] = [], firsts: [Int: Int64] = [:], rows = 0
        for (kind, bound) in bounds.sorted(by: { $0.key < $1.key }) {
            let (cos, sin) = tables(below: bound, kind: kind)
            parts.append((cos.narrow(0, 0, bound), sin.narrow(0, 0, bound)))
            firsts[kind] = Int64(rows)
            rows += bound
        }
        let shifts = kinds.indices.flatMap { [Int64](repeating: firsts[kinds[$0]]!, count: lengths[$0]) }
        return Rotation(
            cos: .cat(parts.map(\.cos), dim: 0), sin: .cat(parts.map(\.sin), dim: 0),
            positions: plan.positions + Tensor(shifts, on: device))
    }

    private static let keptTables = 64

    /// Cosines and sines `[at least bound, R / 2]`, fp32, for documents whose lengths are of a kind.
    public func tables(below bound: Int, kind: Int) -> (cos: Tensor, sin: Tensor) {
        if tables.count > 2 * Self.keptTables { tables.removeAll() }
        var table =
            tables[kind]
            ?? RotaryTable(
                scaling.frequencies(width: width, theta: theta, kind: kind), attention: Float(scaling.attention),
                on: device)
        if bound > table.positions {
            table.grow(to: bound)
            tables[kind] = table
        }
        return (table.cos, table.sin)
    }
}

/// Cosines and sines of the positions so far, by one list of frequencies.
private struct RotaryTable {
    private let frequencies: [Float]  // [R / 2]
    private let attention: Float
    private let device: Device
    private(set) var cos: Tensor, sin: Tensor  // [positions, R / 2]
    private(set) var positions = 0

    init(_ frequencies: [Float], attention: Float, on device: Device) {
        (self.frequencies, self.attention, self.device) = (frequencies, attention, device)
        cos = .zeros([0, frequencies.count], on: device)
        sin = cos
    }

    mutating func grow(to bound: Int) {
        let rows = max(bound, 2 * positions), half = frequencies.count
        var cosines = [Float](repeating: 0, count: rows * half), sines = cosines
        for position in 0..<rows {
            for (i, frequency) in frequencies.enumerated() {
                let angle = Double(Float(position) * frequency), at = position * half + i
                cosines[at] = attention * Float(Glibc.cos(angle))
                sines[at] = attention * Float(Glibc.sin(angle))
            }
        }
        cos = Tensor(cosines, [rows, half], on: device)
        sin = Tensor(sines, [rows, half], on: device)
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
