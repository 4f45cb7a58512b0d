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

    public let sizes: DecoderSizes
    public let rotary: Rotary
    /// Biases on all four maps of attention.
    public let attentionBias: Bool

    public init(_ json: JSONValue, file: String) throws {
        let (reader, _) = try Self.reader(json, file: file)
        sizes = try DecoderSizes(reader, normEpsilon: 1e-5)
        rotary = try reader.rotary(width: sizes.headDim)
        attentionBias = try reader.bool("attention_bias", false)
        try reader.require("hidden_act", oneOf: ["silu", "swish"], default: "silu")
    }

    var attention: AttentionShape {
        AttentionShape(
            hiddenSize: hiddenSize, heads: heads, kvHeads: kvHeads, headDim: headDim, qkvBias: attentionBias,
            outputBias: attentionBias, queryKeyNorm: .allHeads, normEpsilon: normEpsilon)
    }

    public var rotaries: [Rotary] { [rotary] }

    public func describeBlock(_ at: String, in weights: inout WeightShapes) {
        attention.describe(at + "self_attn.", in: &weights)
        GatedMLP.describe(at + "mlp.", hiddenSize, intermediateSize, in: &weights)
        weights.norm(at + "post_attention_layernorm", hiddenSize)
        weights.norm(at + "post_feedforward_layernorm", hiddenSize)
    }

    public func adapt(_ shape: inout FusedDecoder.Shape) { shape.normalizesAllHeads = true }

    public func makeBlock(layer: Int, _ dtype: DType, on device: Device) -> OLMo2Block {
        OLMo2Block(self, layer: layer, dtype, on: device)
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

    public func fusedLayer(_ weights: MergedWeights) -> FusedDecoder.Layer {
        var layer = FusedDecoder.Layer(selfAttention, mlp, weights)
        (layer.attentionNorm, layer.mlpNorm) = (.init(postAttentionNorm), .init(postMLPNorm))
        return layer
    }
}
