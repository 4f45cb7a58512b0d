// Models small enough to compute by the thousand, filled from the formula of the goldens.
public import Formats
public import Layers
internal import ModelFiles
public import Models
internal import RandomStreams
public import Tensors
internal import Checkpoints

/// The families with what sets them apart switched on.
public enum TinyFamily: String, CaseIterable, Sendable {
    /// Grouped queries, a head of its own.
    case llama
    /// A window of 4 tokens, heads wider than hidden size / heads.
    case mistral
    /// Biases, a tied head.
    case qwen2
    /// Normalized heads, wider than hidden size / heads.
    case qwen3
    /// Norms behind attention and MLP, and of all heads together.
    case olmo2
    /// One map for q, k and v, one for gate and up, heads of which a half turns, a window.
    case phi3
    /// Four norms a block, GELU, a layer that sees a window and one that sees all, scaled tokens, capped scores and logits.
    case gemma2
    /// As Gemma 2, with normalized heads and no caps.
    case gemma3 = "gemma3_text"
    /// LayerNorm, attention and MLP side by side, heads of which a half turns.
    case gptNeoX = "gpt_neox"
    /// Learned positions, LayerNorm, one map for q, k and v, maps that lie transposed, a tied head.
    case gpt2

    /// config.json.
    public var config: JSONValue {
        let base: JSONValue = [
            "model_type": .string(rawValue), "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 1,
        ]
        switch self {
        case .llama: return base
        case .mistral: return base.changing(["sliding_window": 4, "head_dim": 16])
        case .qwen2: return base.changing(["tie_word_embeddings": true])
        case .qwen3: return base.changing(["head_dim": 16])
        case .olmo2: return base
        case .phi3: return base.changing(["sliding_window": 5, "partial_rotary_factor": 0.5])
        case .gemma2, .gemma3:
            let gemma = base.changing([
                "head_dim": 16, "tie_word_embeddings": true, "query_pre_attn_scalar": 12, "sliding_window": 4,
                "layer_types": ["sliding_attention", "full_attention"],
            ])
            if self == .gemma3 { return gemma }
            return gemma.changing(["attn_logit_softcapping": 2, "final_logit_softcapping": 10])
        case .gptNeoX: return base.changing(["layer_norm_eps": 1e-5, "rotary_pct": 0.5, "hidden_act": "gelu"])
        case .gpt2:
            return [
                "model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4,
                "n_positions": 128, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true, "bos_token_id": 0,
                "eos_token_id": 1,
            ]
        }
    }
}

extension TinyFamily {
    /// LongRoPE for heads of 8: documents of more than 12 tokens turn by other frequencies.
    public static let longRoPE: JSONValue = [
        "rope_type": "longrope", "rope_theta": 10000, "short_factor": [1, 1.5, 2, 3], "long_factor": [2, 4, 8, 16],
        "original_max_position_embeddings": 12,
    ]

    /// The families of one block.
    public static let llamas: [TinyFamily] = [.llama, .mistral, .qwen2, .qwen3]

    /// Some kinds of linear maps, not all.
    public var someMaps: [String] {
        switch self {
        case .gpt2: ["c_attn", "c_proj"]
        case .phi3: ["qkv_proj", "down_proj"]
        case .gptNeoX: ["query_key_value", "dense"]
        default: ["q_proj", "v_proj", "down_proj"]
        }
    }

    /// Linear maps of a block.
    public var maps: Int { [.gpt2, .phi3, .gptNeoX].contains(self) ? 4 : 7 }

    /// `modules_to_save` for the token table and the output table.
    public var tokenModule: String { self == .gpt2 ? "wte" : self == .gptNeoX ? "embed_in" : "embed_tokens" }
    public var headModule: String { self == .gptNeoX ? "embed_out" : "lm_head" }
}

extension JSONValue {
    /// The object with some entries replaced, or removed where the new value is nil.
    public func changing(_ changes: KeyValuePairs<String, JSONValue?>) -> JSONValue {
        var object = object!
        for (key, value) in changes { object[key] = value }
        return .object(object)
    }
}

/// A model in memory, filled as the goldens are: norms around 1, biases within ±0.1, tables within ±`scale` / 2.
public func tinyModel(_ config: JSONValue, _ dtype: DType = .float32, scale: Double = 0.7) throws
    -> any CausalLanguageModel
{
    // Threads that wait for each other cost more than these models' products, on a busy machine a hundred times more.
    Engine.threads = 1
    let model = try modelShape(config, file: "config.json").makeModel(dtype, on: .cpu)
    let parameters = model.namedParameters().sorted { $0.name < $1.name }
    for (k, (name, parameter)) in parameters.enumerated() {
        let isNorm = name.hasSuffix("norm.weight") || name.contains("ln_") && name.hasSuffix("weight"),
            isBias = name.hasSuffix("bias")
        parameter.value.copyInPlace(
            filled(parameter.shape, k, scale: isNorm ? 0.4 : isBias ? 0.2 : scale, offset: isNorm ? 1 : 0))
    }
    return model
}

/// A tiny model of the Llama family, for what only that has.
public func tinyLlama(_ config: JSONValue, _ dtype: DType = .float32, scale: Double = 0.7) throws -> Llama {
    try tinyModel(config, dtype, scale: scale) as! Llama
}

extension CausalLanguageModel {
    /// Marks every weight as trained, as a full fine-tuning does.
    public func trainAll() -> Self {
        for (_, parameter) in namedParameters() { parameter.isTrained = true }
        return self
    }
}

/// Writes a Hugging Face folder: config.json and the parameters of `model`.
public func writeFolder(_ path: String, _ config: JSONValue, _ model: any CausalLanguageModel) throws {
    try writeFolder(path, config, fileTensors(of: model))
}

/// The weights as checkpoints hold them.
public func fileTensors(of model: any CausalLanguageModel, _ dtype: DType? = nil) -> [SafetensorsWriter.Tensor] {
    model.namedParameters().map { .init($0.name, $0.parameter.filed($0.parameter.value), dtype) }
}

public func writeFolder(_ path: String, _ config: JSONValue, _ tensors: [SafetensorsWriter.Tensor]) throws {
    try SafetensorsWriter.write(folder: path, tensors: tensors, metadata: [("format", "pt")])
    try writeFileAtomically(config.serialized(.pretty), to: joinPath(path, "config.json"))
}

/// Loads a folder in fp32.
public func load(_ folder: String, base: String? = nil, _ dtype: DType = .float32) throws -> LoadedModel {
    try LoadedModel(ModelReference(folder, base: base), dtype: dtype)
}

extension CausalLanguageModel {
    /// Logits `[N, V]` of documents side by side.
    public func allLogits(_ ids: [Int32], starts: [Int]? = nil) -> Tensor {
        withoutGradients {
            let plan = AttentionPlan(documentStarts: starts ?? [0, ids.count])
            return logits(hiddenStates(Tensor(ids.map(Int64.init)), plan, cache: nil))
        }
    }

    /// Loss of whole documents, every token but the first trained, times `factor`.
    public func documentLoss(_ documents: [[Int32]], factor: Double = 1) -> Tensor {
        let labels = documents.flatMap { $0.dropFirst() + [-100] }, ids = documents.flatMap { $0 }
        let starts = documents.reduce(into: [0]) { $0.append($0.last! + $1.count) }
        return lossSum(ids, labels: labels, documentStarts: starts, factors: ids.map { _ in factor })
    }
}

/// What backward has left in the trained parameters; all are cleared.
public func takeGradients(_ parameters: [(name: String, parameter: Parameter)]) -> [Tensor] {
    parameters.map { _, parameter in
        defer { parameter.value.clearGradient() }
        return parameter.value.gradient!.clone()
    }
}

/// ‖a - b‖ / ‖b‖ over all tensors together.
public func normDifference(_ a: [Tensor], _ b: [Tensor]) -> Double {
    globalNorm(zip(a, b).map { $0 - $1 }) / globalNorm(b)
}

/// Ids below `vocabulary` that look like nothing, the same for the same seed.
public func someIDs(_ count: Int, seed: UInt64, vocabulary: Int = 64) -> [Int32] {
    RandomStream(seed: seed, 0x1D5).words(count).map { Int32($0 % UInt32(vocabulary)) }
}
