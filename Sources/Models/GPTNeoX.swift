// GPT-NeoX (Black et al. 2022, arXiv:2204.06745) and Pythia (Biderman et al. 2023, arXiv:2304.01373): LayerNorm with bias,
// one map for q, k and v of each head, rotary positions on a part of each head, GELU; attention and MLP read the same x.
// N tokens, D hiddenSize, H heads, E = D / H, V vocabSize
internal import Diagnostics
public import Formats
public import Layers
public import ModelFiles
public import Tensors

/// The shape of a GPT-NeoX model.
public struct GPTNeoXConfig: RotaryFamily, Equatable {
    public static let modelTypes = ["gpt_neox"]
    public static let naming = TensorNaming.gptNeoX

    public let sizes: DecoderSizes
    public let rotary: Rotary, rotaryWidth: Int
    public let attentionBias: Bool
    /// Whether attention and MLP both read x, or the MLP what attention has added to.
    public let isParallel: Bool
    /// Whether GELU is computed in its tanh form.
    public let hasTanhGELU: Bool

    public init(_ json: JSONValue, file: String) throws {
        let (reader, _) = try Self.reader(json, file: file)
        let hidden = try reader.positive("hidden_size"), heads = try reader.positive("num_attention_heads")
        guard hidden % heads == 0 else {
            throw UserError("\(file): hidden_size \(hidden) is not a multiple of num_attention_heads \(heads)")
        }
        sizes = DecoderSizes(
            hiddenSize: hidden, intermediateSize: try reader.positive("intermediate_size"),
            layers: try reader.layers(), heads: heads, kvHeads: heads, headDim: hidden / heads,
            vocabSize: try reader.positive("vocab_size"),
            contextLength: try reader.contextLength(2048),
            normEpsilon: try reader.number("layer_norm_eps", 1e-5),
            tiedHead: try reader.bool("tie_word_embeddings", false))
        rotaryWidth = try reader.rotaryWidth(hidden / heads, key: "rotary_pct", share: 0.25)
        rotary = try reader.rotary(thetaKey: "rotary_emb_base", width: rotaryWidth)
        attentionBias = try reader.bool("attention_bias", true)
        isParallel = try reader.bool("use_parallel_residual", true)
        let tanhNames = ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"]
        try reader.require("hidden_act", oneOf: ["gelu"] + tanhNames, default: "gelu")
        hasTanhGELU = try tanhNames.contains(reader.string("hidden_act", "gelu"))
    }

    public var rotaries: [Rotary] { [rotary] }
    public var hasNormBias: Bool { true }

    public func describeBlock(_ at: String, in weights: inout WeightShapes) {
        weights.norm(at + "input_layernorm", hiddenSize, bias: true)
        weights.norm(at + "post_attention_layernorm", hiddenSize, bias: true)
        weights.map(at + "attention.query_key_value", 3 * hiddenSize, hiddenSize, bias: attentionBias)
        weights.map(at + "attention.dense", hiddenSize, hiddenSize, bias: attentionBias)
        weights.map(at + "mlp.dense_h_to_4h", intermediateSize, hiddenSize, bias: true)
        weights.map(at + "mlp.dense_4h_to_h", hiddenSize, intermediateSize, bias: true)
    }

    public func beginning(of name: String, range: Double) -> WeightBeginning {
        if name.hasSuffix(".bias") { return .constant(0) }
        return name.contains("norm.") ? .constant(1) : .normal(deviation: range)
    }

    public func makeBlock(layer: Int, _ dtype: DType, on device: Device) -> GPTNeoXBlock {
        GPTNeoXBlock(self, layer: layer, dtype, on: device)
    }

    public func makeFinalNorm(_ dtype: DType, on device: Device) -> any Normalization { makeNorm(dtype, on: device) }

    public func adapt(_ shape: inout FusedDecoder.Shape) {
        shape.activation = hasTanhGELU ? .tanhGELU : .gelu
        shape.isParallel = isParallel
    }

    func makeNorm(_ dtype: DType, on device: Device) -> LayerNorm {
        LayerNorm(hiddenSize, epsilon: normEpsilon, dtype, on: device)
    }
}

final class GPTNeoXAttention: Module {
    let queryKeyValue, dense: Linear
    let heads: Int
    private let layer: Int
    var children: KeyValuePairs<String, any Module> { ["query_key_value": queryKeyValue, "dense": dense] }

    init(_ config: GPTNeoXConfig, layer: Int, _ dtype: DType, on device: Device) {
        let D = config.hiddenSize
        queryKeyValue = Linear(D, 3 * D, bias: config.attentionBias, dtype, on: device)
        dense = Linear(D, D, bias: config.attentionBias, dtype, on: device)
        (heads, self.layer) = (config.heads, layer)
    }

    func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let (N, D) = x.shape2, E = D / heads  // x [N, D]
        let parts = queryKeyValue(x).reshape(N, heads, 3 * E).split([E, E, E], 2)  // [N, H, E] each
        let (q, k) = rotation(parts[0], parts[1])
        let y = attention(q, k, parts[2], plan, cache: cache, layer: layer, window: nil)
        return dense(y.reshape(N, D))
    }
}

final class GPTNeoXMLP: Module {
    let widen, narrow: Linear
    private let hasTanhGELU: Bool
    var children: KeyValuePairs<String, any Module> { ["dense_h_to_4h": widen, "dense_4h_to_h": narrow] }

    init(_ config: GPTNeoXConfig, _ dtype: DType, on device: Device) {
        let D = config.hiddenSize, F = config.intermediateSize
        widen = Linear(D, F, bias: true, dtype, on: device)
        narrow = Linear(F, D, bias: true, dtype, on: device)
        hasTanhGELU = config.hasTanhGELU
    }

    func callAsFunction(_ x: Tensor) -> Tensor {
        let wide = widen(x)
        return narrow(hasTanhGELU ? gelu(wide) : exactGELU(wide))
    }
}

public final class GPTNeoXBlock: RotaryBlock {
    let inputNorm, postAttentionNorm: LayerNorm
    let attention: GPTNeoXAttention
    let mlp: GPTNeoXMLP
    private let isParallel: Bool
    public var children: KeyValuePairs<String, any Module> {
        [
            "input_layernorm": inputNorm, "post_attention_layernorm": postAttentionNorm, "attention": attention,
            "mlp": mlp,
        ]
    }

    init(_ config: GPTNeoXConfig, layer: Int, _ dtype: DType, on device: Device) {
        inputNorm = config.makeNorm(dtype, on: device)
        postAttentionNorm = config.makeNorm(dtype, on: device)
        attention = GPTNeoXAttention(config, layer: layer, dtype, on: device)
        mlp = GPTNeoXMLP(config, dtype, on: device)
        isParallel = config.isParallel
    }

    public func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let y = attention(inputNorm(x), rotation, plan, cache)
        if isParallel { return x + y + mlp(postAttentionNorm(x)) }
        let (h, normed) = postAttentionNorm(y, adding: x)
        return h + mlp(normed)
    }

    public func fusedLayer(_ weights: MergedWeights) -> FusedDecoder.Layer {
        let map = attention.queryKeyValue, qkv = weights.interleaved(map, width: map.inFeatures / attention.heads)
        var layer = FusedDecoder.Layer(
            q: qkv[0], k: qkv[1], v: qkv[2], o: weights(attention.dense), gate: nil, up: weights(mlp.widen),
            down: weights(mlp.narrow))
        (layer.inputNorm, layer.mlpInputNorm) = (.init(inputNorm), .init(postAttentionNorm))
        return layer
    }
}
