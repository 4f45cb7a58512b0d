// Attention with rotary positions and grouped queries, as most families have it; what sets them apart are values.
// N tokens, D hidden size, H query heads, K key/value heads, E head dimension
internal import Layers
internal import Tensors

/// The shape of a family's attention.
struct AttentionShape {
    /// What is normalized of queries and keys before they turn.
    enum QueryKeyNorm { case none, eachHead, allHeads }

    var hiddenSize: Int, heads: Int, kvHeads: Int, headDim: Int
    /// Biases on the query, key and value maps; on the output map.
    var qkvBias = false, outputBias = false
    var queryKeyNorm = QueryKeyNorm.none
    var normEpsilon = 0.0, normOffset = 0.0
    /// What scores are multiplied by; nil: 1 / √E.
    var scale: Double?
    /// Cap of the scores; nil for none.
    var scoreCap: Double?

    /// Adds the names and shapes of the weights.
    func describe(_ at: String, in weights: inout WeightShapes) {
        let D = hiddenSize, Q = heads * headDim, KV = kvHeads * headDim
        weights.map(at + "q_proj", Q, D, bias: qkvBias)
        weights.map(at + "k_proj", KV, D, bias: qkvBias)
        weights.map(at + "v_proj", KV, D, bias: qkvBias)
        weights.map(at + "o_proj", D, Q, bias: outputBias)
        if let (q, k) = normWidths {
            weights.norm(at + "q_norm", q)
            weights.norm(at + "k_norm", k)
        }
    }

    fileprivate var normWidths: (q: Int, k: Int)? {
        switch queryKeyNorm {
        case .none: nil
        case .eachHead: (headDim, headDim)
        case .allHeads: (heads * headDim, kvHeads * headDim)
        }
    }
}

/// Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) with rotary positions, and with normalized queries and
/// keys where the family has them (Dehghani et al. 2023, arXiv:2302.05442, section 2).
final class GroupedQueryAttention: Module {
    let qProj, kProj, vProj, oProj: Linear
    let qNorm, kNorm: RMSNorm?
    let shape: AttentionShape, layer: Int, window: Int?
    var children: KeyValuePairs<String, any Module> {
        guard let qNorm, let kNorm else {
            return ["q_proj": qProj, "k_proj": kProj, "v_proj": vProj, "o_proj": oProj]
        }
        return [
            "q_proj": qProj, "k_proj": kProj, "v_proj": vProj, "o_proj": oProj, "q_norm": qNorm, "k_norm": kNorm,
        ]
    }

    /// - Parameter window: tokens seen, oneself included; nil for all.
    init(_ shape: AttentionShape, layer: Int, window: Int?, _ dtype: DType, on device: Device) {
        let D = shape.hiddenSize, E = shape.headDim
        qProj = Linear(D, shape.heads * E, bias: shape.qkvBias, dtype, on: device)
        kProj = Linear(D, shape.kvHeads * E, bias: shape.qkvBias, dtype, on: device)
        vProj = Linear(D, shape.kvHeads * E, bias: shape.qkvBias, dtype, on: device)
        oProj = Linear(shape.heads * E, D, bias: shape.outputBias, dtype, on: device)
        func norm(_ width: Int) -> RMSNorm {
            RMSNorm(width, epsilon: shape.normEpsilon, offset: shape.normOffset, dtype, on: device)
        }
        qNorm = shape.normWidths.map { norm($0.q) }
        kNorm = shape.normWidths.map { norm($0.k) }
        (self.shape, self.layer, self.window) = (shape, layer, window)
    }

    func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let (N, _) = x.shape2  // x [N, D]
        // q [N, H, E], k and v [N, K, E]
        let (q, k) = rotation(heads(qProj(x), qNorm), heads(kProj(x), kNorm))
        let v = vProj(x).reshape(N, -1, shape.headDim)
        let y = attention(
            q, k, v, plan, cache: cache, layer: layer, window: window, scale: shape.scale,
            cap: shape.scoreCap)
        return oProj(y.reshape(N, -1))  // [N, D]
    }

    /// `[N, heads · E]` -> `[N, heads, E]`, normalized.
    private func heads(_ x: Tensor, _ norm: RMSNorm?) -> Tensor {
        let apart = { (x: Tensor) in x.reshape(x.shape2.0, -1, self.shape.headDim) }
        guard let norm else { return apart(x) }
        return shape.queryKeyNorm == .allHeads ? apart(norm(x)) : norm(apart(x))
    }
}

extension FusedDecoder.Layer {
    /// Both parts of a block, without the norms around them.
    init(_ attention: GroupedQueryAttention, _ mlp: GatedMLP, _ weights: MergedWeights) {
        self.init(
            q: weights(attention.qProj), k: weights(attention.kProj), v: weights(attention.vProj),
            o: weights(attention.oProj), gate: weights(mlp.gateProj), up: weights(mlp.upProj),
            down: weights(mlp.downProj))
        (queryNorm, keyNorm) = (attention.qNorm.map { .init($0) }, attention.kNorm.map { .init($0) })
        window = attention.window
    }
}
