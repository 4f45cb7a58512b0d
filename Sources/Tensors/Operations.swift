// Operations, named as in LibTorch. Shapes in the comments; ... stands for any leading dimensions.
internal import CTorch

extension Tensor {
    // MARK: Type, device, copies

    public func to(_ dtype: DType) -> Tensor { dtype == self.dtype ? self : to(dtype, device) }
    public func to(_ device: Device) -> Tensor { device == self.device ? self : to(dtype, device) }
    public func to(_ dtype: DType, _ device: Device) -> Tensor {
        perform("to", self) { ct_to(handle, dtype.rawValue, device.handle, &$0) }
    }
    public func clone() -> Tensor { perform("clone", self) { ct_clone(handle, &$0) } }
    public func contiguous() -> Tensor { perform("contiguous", self) { ct_contiguous(handle, &$0) } }

    // MARK: Shape

    public func reshape(_ shape: Int...) -> Tensor { reshape(shape) }
    public func reshape(_ shape: [Int]) -> Tensor {
        perform("reshape", self) { ct_reshape(handle, shape.int64, shape.count, &$0) }
    }
    public func transpose(_ a: Int, _ b: Int) -> Tensor {
        perform("transpose", self) { ct_transpose(handle, Int64(a), Int64(b), &$0) }
    }
    /// `length` entries from `start` along `dim`; shares memory.
    public func narrow(_ dim: Int, _ start: Int, _ length: Int) -> Tensor {
        perform("narrow", self) { ct_narrow(handle, Int64(dim), Int64(start), Int64(length), &$0) }
    }
    /// Parts of the given sizes along `dim` that share memory; backward is one concatenation.
    public func split(_ sizes: [Int], _ dim: Int) -> [Tensor] {
        var parts = [ct_tensor](repeating: ct_tensor(impl: nil), count: sizes.count)
        let first = perform("split", self) { first in
            let status = ct_split(handle, sizes.int64, sizes.count, Int64(dim), &parts)
            first = parts[0]
            return status
        }
        return [first] + parts.dropFirst().map { Tensor(owning: $0) }
    }
    public func expand(_ shape: Int...) -> Tensor {
        perform("expand", self) { ct_expand(handle, shape.int64, shape.count, &$0) }
    }
    public static func cat(_ parts: [Tensor], dim: Int) -> Tensor {
        perform("cat", parts) { ct_cat(parts.handles, parts.count, Int64(dim), &$0) }
    }
    /// Rows (or other slices along `dim`) picked by an int64 index `[n]`.
    public func indexSelect(_ dim: Int, _ index: Tensor) -> Tensor {
        perform("indexSelect", self, index) { ct_index_select(handle, Int64(dim), index.handle, &$0) }
    }
    public func gather(_ dim: Int, _ index: Tensor) -> Tensor {
        perform("gather", self, index) { ct_gather(handle, Int64(dim), index.handle, &$0) }
    }

    // MARK: Arithmetic

    public static func + (a: Tensor, b: Tensor) -> Tensor { perform("+", a, b) { ct_add(a.handle, b.handle, &$0) } }
    public static func - (a: Tensor, b: Tensor) -> Tensor { perform("-", a, b) { ct_sub(a.handle, b.handle, &$0) } }
    public static func * (a: Tensor, b: Tensor) -> Tensor { perform("*", a, b) { ct_mul(a.handle, b.handle, &$0) } }
    public static func / (a: Tensor, b: Tensor) -> Tensor { perform("/", a, b) { ct_div(a.handle, b.handle, &$0) } }
    public static func + (a: Tensor, b: Double) -> Tensor { perform("+", a) { ct_add_scalar(a.handle, b, &$0) } }
    public static func - (a: Tensor, b: Double) -> Tensor { a + -b }
    public static func * (a: Tensor, b: Double) -> Tensor { perform("*", a) { ct_mul_scalar(a.handle, b, &$0) } }
    public static func / (a: Tensor, b: Double) -> Tensor { a * (1 / b) }
    public static prefix func - (a: Tensor) -> Tensor { a * -1 }
    public func pow(_ exponent: Double) -> Tensor { perform("pow", self) { ct_pow_scalar(handle, exponent, &$0) } }
    public func exp() -> Tensor { perform("exp", self) { ct_exp(handle, &$0) } }
    public func log() -> Tensor { perform("log", self) { ct_log(handle, &$0) } }
    public func sqrt() -> Tensor { perform("sqrt", self) { ct_sqrt(handle, &$0) } }

    // MARK: Comparison and reduction

    /// Elementwise, bool.
    public func equal(to other: Tensor) -> Tensor {
        perform("equal", self, other) { ct_compare_equal(handle, other.handle, &$0) }
    }
    public func lessOrEqual(to other: Tensor) -> Tensor {
        perform("lessOrEqual", self, other) { ct_less_equal(handle, other.handle, &$0) }
    }
    public func maskedFill(_ mask: Tensor, _ value: Double) -> Tensor {
        perform("maskedFill", self, mask) { ct_masked_fill(handle, mask.handle, value, &$0) }
    }
    public func isFinite() -> Tensor { perform("isFinite", self) { ct_isfinite(handle, &$0) } }
    public func sum() -> Tensor { perform("sum", self) { ct_sum(handle, &$0) } }
    public func sum(dim: Int, keepDim: Bool = false) -> Tensor {
        perform("sum", self) { ct_sum_dim(handle, Int64(dim), keepDim, &$0) }
    }
    /// Largest absolute value, a scalar.
    public func maxAbs() -> Tensor { perform("maxAbs", self) { ct_max_abs(handle, &$0) } }
    public func argmax(dim: Int) -> Tensor { perform("argmax", self) { ct_argmax(handle, Int64(dim), &$0) } }
    public func softmax(dim: Int) -> Tensor { perform("softmax", self) { ct_softmax(handle, Int64(dim), &$0) } }
    public func logSoftmax(dim: Int) -> Tensor {
        perform("logSoftmax", self) { ct_log_softmax(handle, Int64(dim), &$0) }
    }

    // MARK: Products

    public func matmul(_ other: Tensor) -> Tensor {
        perform("matmul", self, other) { ct_matmul(handle, other.handle, &$0) }
    }
}

/// `x weightᵀ + bias`; x `[..., I]`, weight `[O, I]`, bias `[O]`.
///
/// The gradient of a weight that is a leaf is added into the leaf's own as backward comes to it, in the leaf's dtype or
/// the one that was set for it (`setGradientDType`).
/// - Parameter copy: the weight in x's dtype, when it is kept in another.
public func linear(_ x: Tensor, _ weight: Tensor, _ bias: Tensor? = nil, copy: Tensor? = nil) -> Tensor {
    perform("linear", x, weight, bias, copy) {
        ct_linear(x.handle, weight.handle, copy.handle, bias.handle, &$0)
    }
}

/// `x weightᵀ + scaling · (x' aᵀ) bᵀ` with a frozen weight: x `[N, I]`, weight `[O, I]`, a `[r, I]`, b `[O, r]`.
///
/// - Parameters:
///   - aCopy, bCopy: a and b in x's dtype, when they are kept in another.
///   - dropout: makes x' of x, and again in backward: only x is kept. x' is x when nil.
public func adaptedLinear(
    _ x: Tensor, _ weight: Tensor, a: Tensor, aCopy: Tensor?, b: Tensor, bCopy: Tensor?, scaling: Double,
    dropout: Dropout? = nil
) -> Tensor {
    perform("adaptedLinear", x, weight, a, aCopy, b, bCopy) {
        ct_adapted_linear(
            x.handle, weight.handle, nil, a.handle, aCopy.handle, b.handle, bCopy.handle, scaling, dropout.options, &$0)
    }
}

/// Rows of weight `[V, D]` picked by int64 ids `[N]`: `[N, D]` in the dtype of `copy`, or of the weight when nil.
public func embedding(_ weight: Tensor, _ ids: Tensor, copy: Tensor? = nil) -> Tensor {
    perform("embedding", weight, ids, copy) { ct_embedding(weight.handle, copy.handle, ids.handle, &$0) }
}

/// `x / √(mean(x²) + ε) · (weight + offset)` over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4).
/// Statistics in fp32 at least; the result has x's dtype.
public func rmsNorm(_ x: Tensor, _ weight: Tensor, offset: Double = 0, epsilon: Double) -> Tensor {
    perform("rmsNorm", x, weight) {
        ct_rms_norm(x.handle, ct_tensor(impl: nil), weight.handle, offset, epsilon, &$0, nil)
    }
}

/// x + residual and `rmsNorm` of it, in one pass.
public func rmsNorm(
    _ x: Tensor, adding residual: Tensor, _ weight: Tensor, offset: Double = 0, epsilon: Double
) -> (sum: Tensor, normed: Tensor) {
    var sum = ct_tensor(impl: nil)
    let normed = perform("rmsNorm", x, residual, weight) {
        ct_rms_norm(x.handle, residual.handle, weight.handle, offset, epsilon, &$0, &sum)
    }
    return (Tensor(owning: sum), normed)
}

/// `(x - mean) / √(variance + ε) · weight + bias` over the last dimension (Ba et al. 2016, arXiv:1607.06450, eq. 4).
/// Statistics in fp32 at least; the result has x's dtype.
public func layerNorm(_ x: Tensor, _ weight: Tensor, _ bias: Tensor, epsilon: Double) -> Tensor {
    perform("layerNorm", x, weight, bias) {
        ct_layer_norm(x.handle, ct_tensor(impl: nil), weight.handle, bias.handle, epsilon, &$0, nil)
    }
}

/// x + residual and `layerNorm` of it, in one pass.
public func layerNorm(
    _ x: Tensor, adding residual: Tensor, _ weight: Tensor, _ bias: Tensor, epsilon: Double
) -> (sum: Tensor, normed: Tensor) {
    var sum = ct_tensor(impl: nil)
    let normed = perform("layerNorm", x, residual, weight, bias) {
        ct_layer_norm(x.handle, residual.handle, weight.handle, bias.handle, epsilon, &$0, &sum)
    }
    return (Tensor(owning: sum), normed)
}

/// Rotary positions, the half-split form (Su et al. 2021, arXiv:2104.09864, eq. 34): q `[N, H, E]`, k `[N, K, E]`.
///
/// - Parameters:
///   - cos, sin: tables `[*, R / 2]`; the first R of a head's E numbers turn.
///   - positions: rows of them, int64 `[N]`.
public func rotary(_ q: Tensor, _ k: Tensor, cos: Tensor, sin: Tensor, at positions: Tensor) -> (q: Tensor, k: Tensor) {
    var turnedK = ct_tensor(impl: nil)
    let turnedQ = perform("rotary", q, k, cos, sin, positions) {
        ct_rotary(q.handle, k.handle, cos.handle, sin.handle, positions.handle, &$0, &turnedK)
    }
    return (turnedQ, Tensor(owning: turnedK))
}

/// `silu(gate) · up`, elementwise (Shazeer 2020, arXiv:2002.05202, eq. 6 inside); backward keeps gate and up only.
public func swiGLU(_ gate: Tensor, _ up: Tensor) -> Tensor {
    perform("swiGLU", gate, up) { ct_gated(gate.handle, up.handle, false, &$0) }
}

/// `gelu(gate) · up`, elementwise, with `gelu` in its tanh form (Shazeer 2020, arXiv:2002.05202, eq. 6 inside).
public func geGLU(_ gate: Tensor, _ up: Tensor) -> Tensor {
    perform("geGLU", gate, up) { ct_gated(gate.handle, up.handle, true, &$0) }
}

/// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, elementwise: GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415, 2) in
/// the form that GPT-2 uses; backward keeps x only.
public func gelu(_ x: Tensor) -> Tensor { perform("gelu", x) { ct_gelu(x.handle, false, &$0) } }

/// `x · Φ(x)` with the normal distribution function Φ, elementwise (Hendrycks and Gimpel 2016, arXiv:1606.08415, 2).
public func exactGELU(_ x: Tensor) -> Tensor { perform("exactGELU", x) { ct_gelu(x.handle, true, &$0) } }

/// `cap · tanh(x / cap)`, elementwise (Gemma 2, arXiv:2408.00118, section 2).
public func softCap(_ x: Tensor, _ cap: Double) -> Tensor { perform("softCap", x) { ct_soft_cap(x.handle, cap, &$0) } }

/// Softmax attention inside each document of one flat row of tokens.
///
/// - Parameters:
///   - q: `[N, H, E]`; k and v `[N, K, E]` with H a multiple of K (grouped queries, arXiv:2305.13245).
///   - starts: offsets of the documents, from 0 to N; one more than there are documents.
///   - causal: whether a query sees keys up to itself; else it sees its whole document, as in an encoder.
///   - window: keys a causal query sees, itself included (Mistral's sliding window); nil for all.
///   - cap: of the scores, as `softCap`; nil for none.
/// - Returns: `[N, H, E]`.
public func documentAttention(
    _ q: Tensor, _ k: Tensor, _ v: Tensor, starts: [Int], causal: Bool = true, window: Int?, scale: Double,
    cap: Double? = nil
) -> Tensor {
    perform("documentAttention", q, k, v) {
        ct_document_attention(
            q.handle, k.handle, v.handle, starts.int64, starts.count - 1, causal, Int64(window ?? 0), scale, cap ?? 0,
            &$0)
    }
}

/// The same, causal, behind a past: the queries of a document are the newest of its keys. It has no backward.
///
/// - Parameters:
///   - k, v: `[M, K, E]`, such as all slots of a cache.
///   - keys: rows of k and v that belong to each document, no fewer than its queries.
/// - Returns: `[N, H, E]`.
public func continuedAttention(
    _ q: Tensor, _ k: Tensor, _ v: Tensor, starts: [Int], keys: [Range<Int>], window: Int?, scale: Double,
    cap: Double? = nil
) -> Tensor {
    precondition(keys.count == starts.count - 1, "\(keys.count) stretches of keys, \(starts.count - 1) documents")
    return perform("continuedAttention", q, k, v) {
        ct_continued_attention(
            q.handle, k.handle, v.handle, starts.int64, keys.map(\.lowerBound).int64, keys.map(\.count).int64,
            keys.count, Int64(window ?? 0), scale, cap ?? 0, &$0)
    }
}

/// `Σ -log softmax(hidden weightᵀ)[label] · factor` over rows: hidden `[M, D]`, weight `[V, D]`, labels int64 `[M]`,
/// factors `[M]` in the dtype of the result, ones when nil.
///
/// Exact; `chunk` rows of logits exist at a time, and none are kept for backward (Liger, arXiv:2410.10989, 3.2).
/// - Parameters:
///   - copy: the weight in hidden's dtype, when it is kept in another.
///   - cap: of the logits, as `softCap`; nil for none.
///   - terms: what training adds; a loss without gradients is the plain one.
///   - chunk: 1 or more; nil: 512. More than there are rows: all at once.
/// - Returns: a scalar, fp32 (fp64 for fp64 input).
public func linearCrossEntropySum(
    _ hidden: Tensor, _ weight: Tensor, copy: Tensor? = nil, labels: Tensor, factors: Tensor? = nil,
    cap: Double? = nil, terms: LossTerms = .init(), chunk: Int? = nil
) -> Tensor {
    precondition(chunk ?? 1 > 0, "chunks of \(chunk ?? 0) rows")
    let options = ct_loss_options(cap: cap ?? 0, label_smoothing: terms.labelSmoothing, z_loss: terms.zLoss)
    return perform("linearCrossEntropySum", hidden, weight, copy, labels, factors) {
        ct_linear_cross_entropy(
            hidden.handle, weight.handle, copy.handle, labels.handle, factors.handle, options, Int64(chunk ?? 512),
            &$0)
    }
}

/// What training may add to a row's cross-entropy `-log p(label)`, with z the logarithm of the softmax's denominator.
public struct LossTerms: Sendable, Equatable {
    /// α: the target is `1 - α` of the label and `α / V` of every token (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    public var labelSmoothing: Double
    /// ζ: plus `ζ z²`, which keeps z near 0 (Chowdhery et al. 2022, arXiv:2204.02311, section 5).
    public var zLoss: Double

    public init(labelSmoothing: Double = 0, zLoss: Double = 0) {
        (self.labelSmoothing, self.zLoss) = (labelSmoothing, zLoss)
    }
}

/// `log softmax(hidden weightᵀ)[label]` per row `[M]`, in nats, fp32 at least, without gradients.
public func linearLogProbabilities(
    _ hidden: Tensor, _ weight: Tensor, labels: Tensor, cap: Double? = nil, chunk: Int = 256
) -> Tensor {
    perform("linearLogProbabilities", hidden, weight, labels) {
        ct_linear_log_probabilities(hidden.handle, weight.handle, labels.handle, cap ?? 0, Int64(chunk), &$0)
    }
}
