// Linear maps and embeddings, the parts that hold most of a model's weights, and norms.
public import Tensors

/// `y = x Wᵀ + b`, with a low-rank adapter on top when one is attached.
public final class Linear: Module {
    public let weight: Parameter  // [O, I], perhaps packed
    public let bias: Parameter?  // [O]
    /// Equal maps whose outputs lie side by side in this one's, as q, k and v of one product.
    public let parts: Int
    public var adapter: LowRankAdapter?
    /// Records input and output gradient while it is attached.
    public var probe: GradientProbe?

    /// - Parameter liesTransposed: checkpoints hold the weight as `[I, O]` (transformers' `Conv1D`).
    public init(
        _ inFeatures: Int, _ outFeatures: Int, parts: Int = 1, bias: Bool = false, liesTransposed: Bool = false,
        _ dtype: DType, on device: Device
    ) {
        self.parts = parts
        weight = Parameter(shape: [outFeatures, inFeatures], liesTransposed: liesTransposed, dtype, on: device)
        self.bias = bias ? Parameter(shape: [outFeatures], dtype, on: device) : nil
    }

    public var parameters: KeyValuePairs<String, Parameter> {
        if let bias { ["weight": weight, "bias": bias] } else { ["weight": weight] }
    }

    public var inFeatures: Int { weight.shape[1] }
    public var outFeatures: Int { weight.shape[0] }

    /// x `[N, I]` -> `[N, O]`, in x's dtype.
    public func callAsFunction(_ x: Tensor) -> Tensor {
        guard let probe else { return output(x) }
        return probe(x, output(x))
    }

    private func output(_ x: Tensor) -> Tensor {
        guard let adapter else {
            if let packed = weight.packed { return linear(x, packed, bias?.value) }
            return linear(x, weight.value, bias?.value, copy: weight.copy(in: x.dtype))
        }
        let y = adapter(x, on: weight)
        return bias.map { y + $0.read(in: x.dtype) } ?? y
    }
}

/// Rows of a table `[V, D]`, picked by token id.
public final class Embedding: Module {
    public let weight: Parameter

    public init(_ vocabSize: Int, _ dimension: Int, _ dtype: DType, on device: Device) {
        weight = Parameter(shape: [vocabSize, dimension], dtype, on: device)
    }

    public var parameters: KeyValuePairs<String, Parameter> { ["weight": weight] }

    /// ids int64 `[N]` -> `[N, D]` in `dtype`.
    public func callAsFunction(_ ids: Tensor, _ dtype: DType) -> Tensor {
        embedding(weight.value, ids, copy: weight.copy(in: dtype))
    }
}

/// What brings the rows of activations `[..., D]` to one size.
public protocol Normalization: Module {
    func callAsFunction(_ x: Tensor) -> Tensor
    /// x + residual, and that normalized.
    func callAsFunction(_ x: Tensor, adding residual: Tensor) -> (sum: Tensor, normed: Tensor)
}

/// Root mean square normalization (Zhang and Sennrich 2019, arXiv:1910.07467).
public final class RMSNorm: Normalization {
    public let weight: Parameter  // [D]
    public let epsilon: Double
    /// Added to the weight: 1 in Gemma, whose weights are kept as differences from 1.
    public let offset: Double

    public init(_ dimension: Int, epsilon: Double, offset: Double = 0, _ dtype: DType, on device: Device) {
        weight = Parameter(shape: [dimension], dtype, on: device)
        (self.epsilon, self.offset) = (epsilon, offset)
    }

    public var parameters: KeyValuePairs<String, Parameter> { ["weight": weight] }

    public func callAsFunction(_ x: Tensor) -> Tensor { rmsNorm(x, weight.value, offset: offset, epsilon: epsilon) }

    public func callAsFunction(_ x: Tensor, adding residual: Tensor) -> (sum: Tensor, normed: Tensor) {
        rmsNorm(x, adding: residual, weight.value, offset: offset, epsilon: epsilon)
    }
}

/// Layer normalization (Ba et al. 2016, arXiv:1607.06450) with weight and bias.
public final class LayerNorm: Normalization {
    public let weight: Parameter, bias: Parameter  // [D]
    public let epsilon: Double

    public init(_ dimension: Int, epsilon: Double, _ dtype: DType, on device: Device) {
        weight = Parameter(shape: [dimension], dtype, on: device)
        bias = Parameter(shape: [dimension], dtype, on: device)
        self.epsilon = epsilon
    }

    public var parameters: KeyValuePairs<String, Parameter> { ["weight": weight, "bias": bias] }

    public func callAsFunction(_ x: Tensor) -> Tensor { layerNorm(x, weight.value, bias.value, epsilon: epsilon) }

    public func callAsFunction(_ x: Tensor, adding residual: Tensor) -> (sum: Tensor, normed: Tensor) {
        layerNorm(x, adding: residual, weight.value, bias.value, epsilon: epsilon)
    }
}
