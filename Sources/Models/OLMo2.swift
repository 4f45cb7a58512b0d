// OLMo 2 (OLMo Team 2025, arXiv:2501.00656, section 3): what attention and MLP add is normalized, not what they read, and
// so are all heads' queries and keys together.
// N tokens, D hiddenSize, V vocabSize
internal import Diagnostics
public import Formats
public import Layers
public import ModelFiles
public import Tensors

/// The shape of an OLMo 2 model.
public struct OLMo2Config: RotaryFamily, Equatable {
    public static let modelTypes = ["olmo2"]
    public static let naming = TensorNaming.llama

    public let hiddenSize: Int, intermediateSize: Int, layers: Int, heads: Int, kvHeads: Int, headDim: Int
    public let vocabSize: Int, contextLength: Int
    public let normEpsilon: Double
    public let rotary: Rotary
    public let positionLimit: Int?
    public let tiedHead: Bool
    /// Biases on all four maps of attention.
    public let attentionBias: Bool

    public init(_ json: JSONValue, file: String) throws {
        let (reader, _) = try Self.reader(json, file: file)
        hiddenSize = try reader.positive("hidden_size")
        intermediateSize = try reader.positive("intermediate_size")
        layers = try reader.positive("num_hidden_layers")
        heads = try reader.positive("num_attention_heads")
        kvHeads = try reader.positive("num_key_value_heads", heads)
        headDim = try reader.positive("head_dim", hiddenSize / heads)
        vocabSize = try reader.positive("vocab_size")
        contextLength = try reader.positive("max_position_embeddings")
        normEpsilon = try reader.number("rms_norm_eps", 1e-5)
        rotary = try reader.rotary(width: headDim)
        positionLimit = ModelFiles.positionLimit(json)
        tiedHead = try reader.bool("tie_word_embeddings", false)
        attentionBias = try reader.bool("attention_bias", false)
        try reader.require("hidden_act", oneOf: ["silu", "swish"], default: "silu")
        try reader.checkHeads(heads, kvHeads, headDim)
    }

    var attention: AttentionShape {
        AttentionShape(
            hiddenSize: hiddenSize, heads: heads, kvHeads: kvHeads, headDim: headDim, qkvBias: attentionBias,
            outputBias: attentionBias, queryKeyNorm: .allHeads, normEpsilon: normEpsilon)
    }

    public var queryWidth: Int { heads * headDim }
    public var rotaries: [Rotary] { [rotary] }

    public var parameterShapes: [(name: String, shape: [Int])] {
        var weights = WeightShapes()
        weights.table(Self.naming.tokenTable, vocabSize, hiddenSize)
        for layer in 0..<layers {
            let at = "model.layers.\(layer)."
            attention.describe(at + "self_attn.", in: &weights)
            GatedMLP.describe(at + "mlp.", hiddenSize, intermediateSize, in: &weights)
            weights.norm(at + "post_attention_layernorm", hiddenSize)
            weights.norm(at + "post_feedforward_layernorm", hiddenSize)
        }
        weights.norm("model.norm", hiddenSize)
        if !tiedHead { weights.table(Self.naming.headTable, vocabSize, hiddenSize) }
        return weights.all
    }

    public func makeBlock(layer: Int, _ dtype: DType, on device: Device) -> OLMo2Block {
        OLMo2Block(self, layer: layer, dtype, on: device)
    }

    public func makeFinalNorm(_ dtype: DType, on device: Device) -> any Normalization {
        RMSNorm(hiddenSize, epsilon: normEpsilon, dtype, on: device)
    }
}

public final class OLMo2Block: RotaryBlock {
    let selfAttention: GroupedQueryAttention
    let mlp: GatedMLP
    let postAttentionNorm, postMLPNorm: RMSNorm
    public var children: KeyValuePairs<String, any Module> {
        [
            "self_attn": selfAttention, "mlp": mlp, "post_attention_layernorm": postAttentionNorm,
            "post_feedforward_layernorm": postMLPNorm,
        ]
    }

    init(_ config: OLMo2Config, layer: Int, _ dtype: DType, on device: Device) {
        selfAttention = GroupedQueryAttention(config.attention, layer: layer, window: nil, dtype, on: device)
        mlp = GatedMLP(config.hiddenSize, config.intermediateSize, dtype, on: device)
        postAttentionNorm = RMSNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
        postMLPNorm = RMSNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
    }

    public func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let h = x + postAttentionNorm(selfAttention(x, rotation, plan, cache))
        return h + postMLPNorm(mlp(h))
    }
}
