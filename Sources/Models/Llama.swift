// Llama 2 and 3 (arXiv:2307.09288, arXiv:2407.21783): pre-norm, RMSNorm, SwiGLU, rotary positions, grouped queries.
// Mistral 7B (arXiv:2310.06825) adds a sliding window, Qwen2 (arXiv:2407.10671) biases on q, k and v, Qwen3
// (arXiv:2505.09388) in their place a norm of each head's queries and keys; all are values of the configuration here,
// since nothing else of the block differs.
// N tokens, D hiddenSize, H query heads, K key/value heads, E headDim, F intermediateSize, V vocabSize

public import Layers
public import Tensors

/// The shape of a Llama-type model.
public struct LlamaConfig: Sendable, Equatable {
    public var sizes: DecoderSizes
    public var rotary: Rotary
    /// Biases on the query, key and value maps; on the output map; in the MLP.
    public var qkvBias: Bool, outputBias: Bool, mlpBias: Bool
    /// Whether each head's queries and keys are normalized before they turn.
    public var normalizesHeads: Bool
    /// Tokens each layer sees back, itself included; nil for all. One entry a layer.
    public var windows: [Int?]
}

public final class LlamaBlock: RotaryBlock {
    let selfAttention: GroupedQueryAttention
    let mlp: GatedMLP
    let inputNorm, postAttentionNorm: RMSNorm
    public var children: KeyValuePairs<String, any Module> {
        [
            "self_attn": selfAttention, "mlp": mlp, "input_layernorm": inputNorm,
            "post_attention_layernorm": postAttentionNorm,
        ]
    }

    init(_ config: LlamaConfig, layer: Int, _ dtype: DType, on device: Device) {
        selfAttention = GroupedQueryAttention(
            config.attention, layer: layer, window: config.windows[layer], dtype, on: device)
        mlp = GatedMLP(config.hiddenSize, config.intermediateSize, bias: config.mlpBias, dtype, on: device)
        inputNorm = RMSNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
        postAttentionNorm = RMSNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
    }

    public func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let (h, normed) = postAttentionNorm(selfAttention(inputNorm(x), rotation, plan, cache), adding: x)
        return h + mlp(normed)
    }

    public func fusedLayer(_ weights: MergedWeights) -> FusedDecoder.Layer {
        var layer = FusedDecoder.Layer(selfAttention, mlp, weights)
        (layer.inputNorm, layer.mlpInputNorm) = (.init(inputNorm), .init(postAttentionNorm))
        return layer
    }
}

/// A Llama-type causal language model.
public typealias Llama = RotaryModel<LlamaConfig>
