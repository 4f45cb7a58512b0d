// Gemma 2 (Gemma Team 2024, arXiv:2408.00118) and Gemma 3's text decoder (arXiv:2503.19786): norms before and after
// attention and MLP, GELU in the gate, tokens scaled by √D, layers that see a window between layers that see all. Gemma 2
// caps scores and logits; Gemma 3 normalizes heads instead and turns windowed layers by frequencies of their own.
// N tokens, D hiddenSize, V vocabSize
internal import Diagnostics
public import Formats
public import Layers
public import ModelFiles
public import Tensors

/// The shape of a Gemma 2 or 3 model.
public struct GemmaConfig: RotaryFamily, Equatable {
    public static let modelTypes = ["gemma2", "gemma3_text"]
    public static let naming = TensorNaming.llama

    public let sizes: DecoderSizes
    /// Of layers that see all, and of layers that see a window.
    public let global: Rotary, local: Rotary
    public let attentionBias: Bool
    /// Scores of attention are divided by its root.
    public let scoreDivisor: Double
    public let scoreCap: Double?, logitCap: Double?
    public let normalizesHeads: Bool
    /// Tokens each layer sees back, itself included; nil for all. One entry a layer.
    public let windows: [Int?]

    public init(_ json: JSONValue, file: String) throws {
        let (reader, type) = try Self.reader(json, file: file), isSecond = type == "gemma2"
        sizes = try DecoderSizes(
            reader, kvHeads: 4, headDim: 256, vocabSize: isSecond ? 256_000 : 262_208,
            contextLength: isSecond ? 8192 : 131_072, normEpsilon: 1e-6, tiedHead: true)
        let headDim = sizes.headDim
        if isSecond {
            global = try reader.rotary(width: headDim)
            local = global
        } else {
            global = try reader.rotary("full_attention", theta: 1_000_000, width: headDim)
            local = try reader.rotary(
                "sliding_attention", thetaKey: "rope_local_base_freq", theta: 10_000, width: headDim, scales: false)
        }
        attentionBias = try reader.bool("attention_bias", false)
        scoreDivisor = try reader.number("query_pre_attn_scalar", 256)
        scoreCap = try reader.cap("attn_logit_softcapping", isSecond ? 50 : nil)
        logitCap = try reader.cap("final_logit_softcapping", isSecond ? 30 : nil)
        normalizesHeads = !isSecond
        windows = try Self.windows(reader, layers: sizes.layers, pattern: isSecond ? 2 : 6)
        try reader.require("hidden_activation", oneOf: ["gelu_pytorch_tanh"], default: "gelu_pytorch_tanh")
        try reader.refuse("use_bidirectional_attention", unless: [false])
    }

    /// `layer_types`; where there are none, every layer whose number is a multiple of the pattern sees all.
    private static func windows(_ reader: ConfigReader, layers: Int, pattern: Int) throws -> [Int?] {
        guard !reader.isNull("sliding_window") else { return Array(repeating: nil, count: layers) }
        let window = try reader.positive("sliding_window", 4096)
        if let slides = try reader.slidingLayers(of: layers) { return slides.map { $0 ? window : nil } }
        let pattern = try reader.positive("sliding_window_pattern", pattern)
        return (1...layers).map { $0 % pattern == 0 ? nil : window }
    }

    var attention: AttentionShape {
        AttentionShape(
            hiddenSize: hiddenSize, heads: heads, kvHeads: kvHeads, headDim: headDim, qkvBias: attentionBias,
            outputBias: attentionBias, queryKeyNorm: normalizesHeads ? .eachHead : .none,
            normEpsilon: normEpsilon, normOffset: 1, scale: 1 / scoreDivisor.squareRoot(), scoreCap: scoreCap)
    }

    public var rotaries: [Rotary] { [global, local] }
    public func rotary(ofLayer layer: Int) -> Int { windows[layer] == nil ? 0 : 1 }
    public var embeddingScale: Double { Double(hiddenSize).squareRoot() }

    public func describeBlock(_ at: String, in weights: inout WeightShapes) {
        attention.describe(at + "self_attn.", in: &weights)
        GatedMLP.describe(at + "mlp.", hiddenSize, intermediateSize, in: &weights)
        for norm in ["input", "post_attention", "pre_feedforward", "post_feedforward"] {
            weights.norm(at + norm + "_layernorm", hiddenSize)
        }
    }

    /// Norms are kept as differences from 1.
    public func beginning(of name: String, range: Double) -> WeightBeginning {
        name.hasSuffix(".bias") || name.hasSuffix("norm.weight") ? .constant(0) : .normal(deviation: range)
    }

    public func makeBlock(layer: Int, _ dtype: DType, on device: Device) -> GemmaBlock {
        GemmaBlock(self, layer: layer, dtype, on: device)
    }

    public func makeFinalNorm(_ dtype: DType, on device: Device) -> any Normalization { makeNorm(dtype, on: device) }

    public func adapt(_ shape: inout FusedDecoder.Shape) {
        shape.activation = .tanhGELU
        (shape.scale, shape.scoreCap) = (1 / scoreDivisor.squareRoot(), scoreCap)
    }

    func makeNorm(_ dtype: DType, on device: Device) -> RMSNorm {
        RMSNorm(hiddenSize, epsilon: normEpsilon, offset: 1, dtype, on: device)
    }
}

public final class GemmaBlock: RotaryBlock {
    let selfAttention: GroupedQueryAttention
    let mlp: GatedMLP
    let inputNorm, postAttentionNorm, preMLPNorm, postMLPNorm: RMSNorm
    public var children: KeyValuePairs<String, any Module> {
        [
            "self_attn": selfAttention, "mlp": mlp, "input_layernorm": inputNorm,
            "post_attention_layernorm": postAttentionNorm, "pre_feedforward_layernorm": preMLPNorm,
            "post_feedforward_layernorm": postMLPNorm,
        ]
    }

    init(_ config: GemmaConfig, layer: Int, _ dtype: DType, on device: Device) {
        selfAttention = GroupedQueryAttention(
            config.attention, layer: layer, window: config.windows[layer], dtype, on: device)
        mlp = GatedMLP(config.hiddenSize, config.intermediateSize, activation: .gelu, dtype, on: device)
        inputNorm = config.makeNorm(dtype, on: device)
        postAttentionNorm = config.makeNorm(dtype, on: device)
        preMLPNorm = config.makeNorm(dtype, on: device)
        postMLPNorm = config.makeNorm(dtype, on: device)
    }

    public func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let y = postAttentionNorm(selfAttention(inputNorm(x), rotation, plan, cache))
        let (h, normed) = preMLPNorm(y, adding: x)
        return h + postMLPNorm(mlp(normed))
    }

    public func fusedLayer(_ weights: MergedWeights) -> FusedDecoder.Layer {
        var layer = FusedDecoder.Layer(selfAttention, mlp, weights)
        (layer.inputNorm, layer.attentionNorm) = (.init(inputNorm), .init(postAttentionNorm))
        (layer.mlpInputNorm, layer.mlpNorm) = (.init(preMLPNorm), .init(postMLPNorm))
        return layer
    }
}

extension ConfigReader {
    /// A cap above 0; nil where the file says null, `fallback` where it says nothing.
    fileprivate func cap(_ key: String, _ fallback: Double?) throws -> Double? {
        guard isPresent(key) else { return isNull(key) ? nil : fallback }
        let cap = try number(key)
        guard cap > 0 else { throw UserError("\(file): \"\(key)\" is \(cap); a number above 0 is needed") }
        return cap
    }
}
