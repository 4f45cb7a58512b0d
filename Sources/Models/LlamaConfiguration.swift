// config.json of the Llama family: Llama, Mistral, Qwen2, Qwen3.
internal import Diagnostics
public import Formats
internal import Layers
public import ModelFiles
public import Tensors

extension LlamaConfig: RotaryFamily {
    public static let modelTypes = ["llama", "mistral", "qwen2", "qwen3"]
    public static let naming = TensorNaming.llama

    /// Reads config.json as transformers 4 and 5 write it.
    ///
    /// - Parameter file: the path named in messages.
    /// - Throws: `UserError` for a missing or impossible value and for every setting that would change the computation
    ///   and is not supported.
    public init(_ json: JSONValue, file: String) throws {
        let (reader, type) = try Self.reader(json, file: file)
        sizes = try DecoderSizes(
            reader, kvHeads: type == "mistral" ? 8 : nil, headDim: type == "qwen3" ? 128 : nil, normEpsilon: 1e-6)
        let bias = try reader.bool("attention_bias", false)
        qkvBias = type == "qwen2" || bias
        outputBias = type != "qwen2" && bias
        normalizesHeads = type == "qwen3"
        mlpBias = try reader.bool("mlp_bias", false)
        windows = try Self.windows(reader, type, layers: sizes.layers)
        rotary = try reader.rotary(width: sizes.headDim)
        try reader.require("hidden_act", oneOf: ["silu", "swish"], default: "silu")
        try reader.refuse("partial_rotary_factor", unless: [1, 1.0])
        try reader.refuse("pretraining_tp", unless: [1])
    }

    public func describeBlock(_ at: String, in weights: inout WeightShapes) {
        attention.describe(at + "self_attn.", in: &weights)
        GatedMLP.describe(at + "mlp.", hiddenSize, intermediateSize, bias: mlpBias, in: &weights)
        weights.norm(at + "input_layernorm", hiddenSize)
        weights.norm(at + "post_attention_layernorm", hiddenSize)
    }

    var attention: AttentionShape {
        AttentionShape(
            hiddenSize: hiddenSize, heads: heads, kvHeads: kvHeads, headDim: headDim, qkvBias: qkvBias,
            outputBias: outputBias, queryKeyNorm: normalizesHeads ? .eachHead : .none, normEpsilon: normEpsilon)
    }

    public var rotaries: [Rotary] { [rotary] }

    public func makeBlock(layer: Int, _ dtype: DType, on device: Device) -> LlamaBlock {
        LlamaBlock(self, layer: layer, dtype, on: device)
    }

    private static func windows(_ reader: ConfigReader, _ type: String, layers: Int) throws -> [Int?] {
        let all = [Int?](repeating: nil, count: layers)
        switch type {
        case "mistral":
            // Absent means the default of the published model, null means none.
            guard reader.isPresent("sliding_window") else {
                return reader.isNull("sliding_window") ? all : all.map { _ in 4096 }
            }
            let window = try reader.positive("sliding_window")
            return all.map { _ in window }
        case "qwen2", "qwen3":
            let isUsed = try reader.bool("use_sliding_window", false) && !reader.isNull("sliding_window")
            let window = isUsed ? try reader.positive("sliding_window", 4096) : nil
            if let slides = try reader.slidingLayers(of: layers) {
                guard window != nil || !slides.contains(true) else {
                    throw UserError(
                        "\(reader.file): \"layer_types\" names sliding_attention, and use_sliding_window or sliding_window turns it off"
                    )
                }
                return slides.map { $0 ? window : nil }
            }
            let full = try reader.count("max_window_layers", 28)
            return all.indices.map { $0 >= full ? window : nil }
        default: return all
        }
    }
}
