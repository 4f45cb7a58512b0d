// config.json of the Llama family: Llama, Mistral, Qwen2.
internal import Diagnostics
public import Formats
internal import Layers
public import ModelFiles
public import Tensors

extension LlamaConfig: ModelShape {
    public static let modelTypes = ["llama", "mistral", "qwen2"]
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
        headDim = try reader.positive("head_dim", hidden / heads)
        vocabSize = try reader.positive("vocab_size")
        contextLength = try reader.positive("max_position_embeddings")
        normEpsilon = try reader.number("rms_norm_eps", 1e-6)
        tiedHead = try reader.bool("tie_word_embeddings", false)
        let bias = try reader.bool("attention_bias", false)
        qkvBias = type == "qwen2" || bias
        outputBias = type != "qwen2" && bias
        mlpBias = try reader.bool("mlp_bias", false)
        windows = try Self.windows(reader, type, layers: layers)
        (ropeTheta, ropeScaling) = try Self.rope(reader)
        try reader.require("hidden_act", oneOf: ["silu", "swish"], default: "silu")
        try reader.refuse("partial_rotary_factor", unless: [1, 1.0])
        try reader.refuse("pretraining_tp", unless: [1])
        guard heads % kvHeads == 0 else {
            throw UserError("\(file): num_attention_heads \(heads) is not a multiple of num_key_value_heads \(kvHeads)")
        }
        guard headDim % 2 == 0 else {
            throw UserError("\(file): head_dim \(headDim) is odd; rotary positions need pairs")
        }
    }

    public var queryWidth: Int { heads * headDim }

    public var parameterShapes: [(name: String, shape: [Int])] {
        let D = hiddenSize, F = intermediateSize, Q = heads * headDim, KV = kvHeads * headDim
        var result: [(name: String, shape: [Int])] = [("model.embed_tokens.weight", [vocabSize, D])]
        for layer in 0..<layers {
            let at = "model.layers.\(layer)."
            func linear(_ name: String, _ out: Int, _ into: Int, bias: Bool) {
                result.append((at + name + ".weight", [out, into]))
                if bias { result.append((at + name + ".bias", [out])) }
            }
            linear("self_attn.q_proj", Q, D, bias: qkvBias)
            linear("self_attn.k_proj", KV, D, bias: qkvBias)
            linear("self_attn.v_proj", KV, D, bias: qkvBias)
            linear("self_attn.o_proj", D, Q, bias: outputBias)
            linear("mlp.gate_proj", F, D, bias: mlpBias)
            linear("mlp.up_proj", F, D, bias: mlpBias)
            linear("mlp.down_proj", D, F, bias: mlpBias)
            result.append((at + "input_layernorm.weight", [D]))
            result.append((at + "post_attention_layernorm.weight", [D]))
        }
        result.append(("model.norm.weight", [D]))
        if !tiedHead { result.append((TensorNaming.headTable, [vocabSize, D])) }
        return result
    }

    public func makeModel(_ dtype: DType, on device: Device) -> any CausalLanguageModel {
        Llama(self, dtype, on: device)
    }

    public func beginning(of name: String, range: Double) -> WeightBeginning {
        if name.hasSuffix(".bias") { return .constant(0) }
        return name.hasSuffix("norm.weight") ? .constant(1) : .normal(deviation: range)
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
        case "qwen2":
            guard try reader.bool("use_sliding_window", false), reader.isPresent("sliding_window") else { return all }
            let window = try reader.positive("sliding_window"), full = try reader.count("max_window_layers", 28)
            return all.indices.map { $0 >= full ? window : nil }
        default: return all
        }
    }

    /// θ and scaling: transformers 5 puts both into `rope_parameters`, transformers 4 into two keys.
    private static func rope(_ reader: ConfigReader) throws -> (Double, RotaryScaling) {
        let section = reader.isPresent("rope_parameters") ? "rope_parameters" : "rope_scaling"
        let scaling = try reader.section(section)
        let theta =
            try scaling?.number("rope_theta", reader.number("rope_theta", 10_000))
            ?? reader.number("rope_theta", 10_000)
        guard let scaling else { return (theta, .none) }
        let type = try scaling.string("rope_type", scaling.string("type", "default"))
        switch type {
        case "default": return (theta, .none)
        case "linear": return (theta, .linear(factor: try scaling.number("factor")))
        case "llama3":
            return (
                theta,
                .llama3(
                    factor: try scaling.number("factor"), lowFrequencyFactor: try scaling.number("low_freq_factor"),
                    highFrequencyFactor: try scaling.number("high_freq_factor"),
                    originalContext: try scaling.positive("original_max_position_embeddings"))
            )
        default:
            throw UserError("\(reader.file): \(section) type \(type) is not supported; default, linear and llama3 are")
        }
    }
}
