// config.json of the Llama family: Llama, Mistral, Qwen2, Qwen3.
public import Formats
public import Layers
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
        let hidden = try reader.positive("hidden_size"), heads = try reader.positive("num_attention_heads")
        hiddenSize = hidden
        self.heads = heads
        intermediateSize = try reader.positive("intermediate_size")
        layers = try reader.positive("num_hidden_layers")
        kvHeads = try reader.positive("num_key_value_heads", type == "mistral" ? 8 : heads)
        headDim = try reader.positive("head_dim", type == "qwen3" ? 128 : hidden / heads)
        vocabSize = try reader.positive("vocab_size")
        contextLength = try reader.positive("max_position_embeddings")
        normEpsilon = try reader.number("rms_norm_eps", 1e-6)
        tiedHead = try reader.bool("tie_word_embeddings", false)
        let bias = try reader.bool("attention_bias", false)
        qkvBias = type == "qwen2" || bias
        outputBias = type != "qwen2" && bias
        normalizesHeads = type == "qwen3"
        mlpBias = try reader.bool("mlp_bias", false)
        windows = try Self.windows(reader, type, layers: layers)
        rotary = try reader.rotary(width: headDim)
        positionLimit = ModelFiles.positionLimit(json)
        try reader.require("hidden_act", oneOf: ["silu", "swish"], default: "silu")
        try reader.refuse("partial_rotary_factor", unless: [1, 1.0])
        try reader.refuse("pretraining_tp", unless: [1])
        try reader.checkHeads(heads, kvHeads, headDim)
    }

    public var queryWidth: Int { heads * headDim }

    public var parameterShapes: [(name: String, shape: [Int])] {
        var weights = WeightShapes()
        weights.table("model.embed_tokens.weight", vocabSize, hiddenSize)
        for layer in 0..<layers {
            let at = "model.layers.\(layer)."
            attention.describe(at + "self_attn.", in: &weights)
            GatedMLP.describe(at + "mlp.", hiddenSize, intermediateSize, bias: mlpBias, in: &weights)
            weights.norm(at + "input_layernorm", hiddenSize)
            weights.norm(at + "post_attention_layernorm", hiddenSize)
        }
        weights.norm("model.norm", hiddenSize)
        if !tiedHead { weights.table(Self.naming.headTable, vocabSize, hiddenSize) }
        return weights.all
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

    public func makeFinalNorm(_ dtype: DType, on device: Device) -> any Normalization {
        RMSNorm(hiddenSize, epsilon: normEpsilon, dtype, on: device)
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
            guard try reader.bool("use_sliding_window", false), reader.isPresent("sliding_window") else { return all }
            let window = try reader.positive("sliding_window"), full = try reader.count("max_window_layers", 28)
            return all.indices.map { $0 >= full ? window : nil }
        default: return all
        }
    }
}
