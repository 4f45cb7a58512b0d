// config.json of the Llama family: Llama, Mistral, Qwen2.
internal import Diagnostics
public import Formats
internal import Layers
internal import ModelFiles

extension LlamaConfig {
    /// The families this file reads, by `model_type`.
    static let modelTypes = ["llama", "mistral", "qwen2"]

    /// Reads config.json as transformers 4 and 5 write it.
    ///
    /// - Parameter file: the path named in messages.
    /// - Throws: `UserError` for a missing or impossible value and for every setting that would change the computation
    ///   and is not supported.
    public init(_ json: JSONValue, file: String) throws {
        let reader = ConfigReader(json: json, file: file)
        let type = try reader.string("model_type")
        guard Self.modelTypes.contains(type) else {
            throw UserError(
                "\(file): model_type \(type) is not supported; \(Self.modelTypes.joined(separator: ", ")) are")
        }
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
