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
    private var lastNorms: Norms?

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

    /// ‖W_i + s (B A)_i‖ `[O]`, made once after each change of A or B: the micro-batches of an update share it.
    private func rowNorms(_ weight: Parameter) -> Tensor {
        if let lastNorms, lastNorms.areOf(a.value, b.value) { return lastNorms.values }
        let norms = Norms(newRowNorms(weight), of: a.value, b.value)
        lastNorms = norms
        return norms.values
    }

    /// The norms without forming B A: ‖W_i‖² + 2 s B_i·(W Aᵀ)_i + s² B_i (A Aᵀ) B_iᵀ.
    private func newRowNorms(_ weight: Parameter) -> Tensor {
        withoutGradients {
            let A = a.value.detached(), B = b.value.detached()
            let projected = weight.mapRows(in: A.dtype) { linear($0, A) }  // W Aᵀ [O, r]
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

/// Norms with the A and B they are of.
private struct Norms {
    let values: Tensor  // [O]
    private let a: Tensor, b: Tensor
    private let versions: [Int]

    init(_ values: Tensor, of a: Tensor, _ b: Tensor) {
        (self.values, self.a, self.b, versions) = (values, a, b, [a.version, b.version])
    }

    func areOf(_ a: Tensor, _ b: Tensor) -> Bool {
        a === self.a && b === self.b && versions == [a.version, b.version]
    }
}

extension Parameter {
    /// ‖W_i‖² of every row, `[O]`.
    fileprivate func squaredRowNorms(in dtype: DType) -> Tensor {
        withoutGradients { mapRows(in: dtype) { $0.pow(2).sum(dim: 1) } }
    }

    /// What `body` makes of the rows of a frozen matrix, one below the other. At most 4 MiB of it are in `dtype` at a time.
    fileprivate func mapRows(in dtype: DType, _ body: (Tensor) -> Tensor) -> Tensor {
        let most = max(1, (1 << 20) / max(1, shape[1]))
        let parts = stride(from: 0, to: shape[0], by: most).map { first in
            let count = min(most, shape[0] - first)
            return body(
                packed.map { $0.decoded(first..<first + count, in: dtype) }
                    ?? value.detached().narrow(0, first, count).to(dtype))
        }
        return .cat(parts, dim: 0)
    }
}
