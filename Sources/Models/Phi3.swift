// Phi-3 (Abdin et al. 2024, arXiv:2404.14219): Llama's block with one map for q, k and v and one for gate and up; perhaps
// a sliding window, heads of which only a part turns, and LongRoPE.
// N tokens, D hiddenSize, H query heads, K key/value heads, E headDim, F intermediateSize, V vocabSize
internal import Diagnostics
public import Formats
public import Layers
public import ModelFiles
public import Tensors

/// The shape of a Phi-3 model.
public struct Phi3Config: RotaryFamily, Equatable {
    public static let modelTypes = ["phi3"]
    public static let naming = TensorNaming.llama

    public let sizes: DecoderSizes
    public let rotary: Rotary, rotaryWidth: Int
    /// Tokens each layer sees back, itself included; nil for all.
    public let window: Int?

    public init(_ json: JSONValue, file: String) throws {
        let (reader, _) = try Self.reader(json, file: file)
        sizes = try DecoderSizes(reader, normEpsilon: 1e-5)
        rotaryWidth = try reader.rotaryWidth(sizes.headDim)
        rotary = try reader.rotary(width: rotaryWidth)
        window = try reader.isPresent("sliding_window") ? reader.positive("sliding_window") : nil
        try reader.require("hidden_act", oneOf: ["silu", "swish"], default: "silu")
    }

    /// Width of all keys of a layer.
    var keyWidth: Int { kvHeads * headDim }
    public var rotaries: [Rotary] { [rotary] }

    public func describeBlock(_ at: String, in weights: inout WeightShapes) {
        weights.map(at + "self_attn.qkv_proj", queryWidth + 2 * keyWidth, hiddenSize)
        weights.map(at + "self_attn.o_proj", hiddenSize, queryWidth)
        weights.map(at + "mlp.gate_up_proj", 2 * intermediateSize, hiddenSize)
        weights.map(at + "mlp.down_proj", hiddenSize, intermediateSize)
        weights.norm(at + "input_layernorm", hiddenSize)
        weights.norm(at + "post_attention_layernorm", hiddenSize)
    }

    public func makeBlock(layer: Int, _ dtype: DType, on device: Device) -> Phi3Block {
        Phi3Block(self, layer: layer, dtype, on: device)
    }
}

final class Phi3Attention: Module {
    let qkvProj, oProj: Linear
    let config: Phi3Config
    private let layer: Int
    var children: KeyValuePairs<String, any Module> { ["qkv_proj": qkvProj, "o_proj": oProj] }

    init(_ config: Phi3Config, layer: Int, _ dtype: DType, on device: Device) {
        qkvProj = Linear(config.hiddenSize, config.queryWidth + 2 * config.keyWidth, dtype, on: device)
        oProj = Linear(config.queryWidth, config.hiddenSize, dtype, on: device)
        (self.config, self.layer) = (config, layer)
    }

    func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let (N, _) = x.shape2, H = config.heads, K = config.kvHeads  // x [N, D]
        let parts = qkvProj(x).reshape(N, H + 2 * K, config.headDim).split([H, K, K], 1)
        let (q, k) = rotation(parts[0], parts[1])  // [N, H, E], [N, K, E]
        let y = attention(q, k, parts[2], plan, cache: cache, layer: layer, window: config.window)
        return oProj(y.reshape(N, -1))
    }
}

final class Phi3MLP: Module {
    let gateUpProj, downProj: Linear
    var children: KeyValuePairs<String, any Module> { ["gate_up_proj": gateUpProj, "down_proj": downProj] }

    init(_ config: Phi3Config, _ dtype: DType, on device: Device) {
        gateUpProj = Linear(config.hiddenSize, 2 * config.intermediateSize, parts: 2, dtype, on: device)
        downProj = Linear(config.intermediateSize, config.hiddenSize, dtype, on: device)
    }

    func callAsFunction(_ x: Tensor) -> Tensor {
        let F = downProj.inFeatures, parts = gateUpProj(x).split([F, F], 1)
        return downProj(swiGLU(parts[0], parts[1]))
    }
}

public final class Phi3Block: RotaryBlock {
    let selfAttention: Phi3Attention
    let mlp: Phi3MLP
    let inputNorm, postAttentionNorm: RMSNorm
    public var children: KeyValuePairs<String, any Module> {
        [
            "self_attn": selfAttention, "mlp": mlp, "input_layernorm": inputNorm,
            "post_attention_layernorm": postAttentionNorm,
        ]
    }

    init(_ config: Phi3Config, layer: Int, _ dtype: DType, on device: Device) {
        selfAttention = Phi3Attention(config, layer: layer, dtype, on: device)
        mlp = Phi3MLP(config, dtype, on: device)
        inputNorm = RMSNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
        postAttentionNorm = RMSNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
    }

    public func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let (h, normed) = postAttentionNorm(selfAttention(inputNorm(x), rotation, plan, cache), adding: x)
        return h + mlp(normed)
    }

    public func fusedLayer(_ weights: MergedWeights) -> FusedDecoder.Layer {
        let config = selfAttention.config, F = config.intermediateSize
        let qkv = weights.split(selfAttention.qkvProj, [config.queryWidth, config.keyWidth, config.keyWidth])
        let gateUp = weights.split(mlp.gateUpProj, [F, F])
        var layer = FusedDecoder.Layer(
            q: qkv[0], k: qkv[1], v: qkv[2], o: weights(selfAttention.oProj), gate: gateUp[0], up: gateUp[1],
            down: weights(mlp.downProj))
        (layer.inputNorm, layer.mlpInputNorm) = (.init(inputNorm), .init(postAttentionNorm))
        layer.window = config.window
        return layer
    }
}
