// Low-rank adapters on a frozen linear map: LoRA, rank-stabilized LoRA, DoRA.
// N tokens, I input features, O output features, r rank, s scaling
public import RandomStreams
public import Tensors

/// `y = W x + s · B A dropout(x)`; with a magnitude `m` (DoRA, Liu et al. 2024, arXiv:2402.09353, eq. 5):
///
///     y = m / ‖W + s B A‖ · (W x + s · B A dropout(x))
///
/// The norm is taken per output row and is a constant in backward (section 4.3 of the paper). A starts uniform in
/// ±1/√I (Kaiming with a = √5), B at zero, m at ‖W‖, so that the first output is exactly the base's.
public final class LowRankAdapter: Module {
    public let a: Parameter  // [r, I]
    public let b: Parameter  // [O, r]
    public let magnitude: Parameter?  // [O]
    public let scaling: Double
    /// Share of inputs set to zero while `dropoutStream` is set.
    public var dropout: Double
    /// Where this micro-batch's dropout comes from; nil outside training.
    public var dropoutStream: RandomStream?
    /// ‖W_i‖² of the frozen base, fp32 `[O]`.
    private let squaredBaseNorms: Tensor?

    public init(
        on base: Linear, rank: Int, scaling: Double, dropout: Double, hasMagnitude: Bool, initialization: RandomStream
    ) {
        let bound = 1 / Float(base.inFeatures).squareRoot()
        let device = base.weight.device
        // A model kept in fp64 (gradient checks) gets adapters in fp64; every other one fp32 masters.
        let dtype: DType = base.weight.dtype == .float64 ? .float64 : .float32
        a = Parameter(initialization.uniform([rank, base.inFeatures], -bound, bound).to(dtype, device))
        b = Parameter(.zeros([base.outFeatures, rank], dtype, on: device))
        self.scaling = scaling
        self.dropout = dropout
        let squares = hasMagnitude ? base.weight.squaredRowNorms(in: dtype) : nil
        squaredBaseNorms = squares
        magnitude = squares.map { Parameter($0.sqrt()) }
    }

    public var parameters: KeyValuePairs<String, Parameter> {
        if let magnitude { ["a": a, "b": b, "magnitude": magnitude] } else { ["a": a, "b": b] }
    }

    /// - Parameters:
    ///   - x: `[N, I]`
    ///   - weight: W, frozen, `[O, I]`
    /// - Returns: the adapted output without bias, `[N, O]`.
    func callAsFunction(_ x: Tensor, on weight: Parameter) -> Tensor {
        let drawn = dropoutStream.map { Dropout($0, probability: dropout) }
        let (aCopy, bCopy) = (a.copy(in: x.dtype), b.copy(in: x.dtype))
        let sum =
            weight.packed.map {
                adaptedLinear(
                    x, $0, a: a.value, aCopy: aCopy, b: b.value, bCopy: bCopy, scaling: scaling, dropout: drawn)
            }
            ?? adaptedLinear(
                x, weight.read(in: x.dtype), a: a.value, aCopy: aCopy, b: b.value, bCopy: bCopy, scaling: scaling,
                dropout: drawn)
        guard let magnitude else { return sum }
        return sum * (magnitude.value / rowNorms(weight)).to(x.dtype)
    }

    /// ‖W_i + s (B A)_i‖ `[O]` without forming B A: ‖W_i‖² + 2 s B_i·(W Aᵀ)_i + s² B_i (A Aᵀ) B_iᵀ.
    func rowNorms(_ weight: Parameter) -> Tensor {
        withoutGradients {
            let A = a.value.detached(), B = b.value.detached()
            // W Aᵀ [O, r]
            let projected =
                weight.packed.map { linear(A, $0).transpose(0, 1) } ?? linear(weight.value.detached().to(A.dtype), A)
            let cross = (projected * B).sum(dim: 1)
            let own = (B.matmul(linear(A, A)) * B).sum(dim: 1)
            return (squaredBaseNorms! + cross * (2 * scaling) + own * (scaling * scaling)).sqrt()
        }
    }

    /// The weight that acts like base and adapter together, fp32 `[O, I]`; a packed base counts as its decoded numbers.
    public func merged(_ weight: Parameter) -> Tensor {
        withoutGradients {
            let dtype = a.value.dtype
            let base = weight.packed.map { $0.decoded(in: dtype) } ?? weight.value.detached().to(dtype)
            let sum = base + b.value.detached().matmul(a.value.detached()) * scaling
            guard let magnitude else { return sum }
            return sum * (magnitude.value.detached() / sum.pow(2).sum(dim: 1).sqrt()).reshape(-1, 1)
        }
    }
}

extension Parameter {
    /// ‖W_i‖² of every row, `[O]`.
    fileprivate func squaredRowNorms(in dtype: DType) -> Tensor {
        withoutGradients {
            guard let packed else { return value.detached().to(dtype).pow(2).sum(dim: 1) }
            return .cat(packed.panels.map { packed.decoded($0, in: dtype).pow(2).sum(dim: 1) }, dim: 0)
        }
    }
}
