// What GGUF metadata says about a model, in the words of config.json.
import Diagnostics
import Formats
internal import Glibc

/// A GGUF file's model: its architecture, its sizes and what else config.json says.
struct GGUFShape {
    let architecture: GGUFArchitecture
    let sizes: GGUFSizes
    private let file: GGUFFile
    private let ropeScaling: JSONValue
    private var metadata: GGUFMetadata { file.metadata }

    init(_ file: GGUFFile) throws {
        try file.refuseWithoutModel()
        self.file = file
        let path = file.path, found = file.metadata["general.architecture"]?.string ?? "none"
        guard let architecture = GGUFArchitecture(rawValue: found) else {
            let known = GGUFArchitecture.allCases.map(\.rawValue).joined(separator: ", ")
            throw UserError("\(path): architecture \(found) is not supported; \(known) are")
        }
        self.architecture = architecture
        func number(_ key: String, _ fallback: Int? = nil) throws -> Int {
            if let fallback, file.metadata["\(found).\(key)"] == nil { return fallback }
            guard let value = file.metadata["\(found).\(key)"]?.int, value > 0, value <= 1 << 30 else {
                throw UserError("\(path): metadata \(found).\(key) is missing or not a positive number")
            }
            return value
        }
        if file.metadata["\(found).expert_count"]?.int ?? 0 > 0 {
            throw UserError("\(path): mixture-of-experts models are not supported")
        }
        let heads = try number("attention.head_count"), hidden = try number("embedding_length")
        guard let table = file["token_embd.weight"], table.shape.count == 2 else {
            throw UserError("\(path): no tensor token_embd.weight; the file holds no model weights")
        }
        let positions = file["position_embd.weight"]?.shape.first
        sizes = GGUFSizes(
            layers: try number("block_count"), hiddenSize: hidden, intermediateSize: try number("feed_forward_length"),
            heads: heads, kvHeads: try number("attention.head_count_kv", heads),
            headDim: try number("attention.key_length", max(1, hidden / heads)), vocabSize: table.shape[0],
            contextLength: try positions ?? number("context_length", 2048), tiedHead: file["output.weight"] == nil,
            qkvBias: ["blk.0.attn_q.bias", "blk.0.attn_qkv.bias"].contains { file[$0] != nil },
            outputBias: file["blk.0.attn_output.bias"] != nil, mlpBias: file["blk.0.ffn_up.bias"] != nil)
        guard sizes.layers <= file.tensors.count else {
            throw UserError("\(path): \(found).block_count is \(sizes.layers); there are \(file.tensors.count) tensors")
        }
        ropeScaling = architecture == .phi3 ? try Self.longRoPE(file) : try Self.ropeScaling(file, found)
    }

    /// `rope_scaling` of config.json; null for none.
    private static func ropeScaling(_ file: GGUFFile, _ architecture: String) throws -> JSONValue {
        if let factors = file["rope_freqs.weight"] {
            let values = try floats(file, factors)
            let theta = file.metadata["\(architecture).rope.freq_base"]?.double ?? 10_000
            // The format has the divisors only; settings that give them are a note of this program's, or those of the
            // published models.
            let noted = try file.metadata[Llama3Scaling.noteKey]?.string.map { try Llama3Scaling(note: $0, file.path) }
            let known = [noted, Llama3Scaling(factor: 8), Llama3Scaling(factor: 32)].compactMap(\.self)
            for scaling in known
            where scaling.divisors(values.count, theta: theta).elementsEqual(values, by: nearlyEqual) {
                return scaling.json
            }
            throw UserError(
                "\(file.path): rope_freqs.weight holds divisors of no known model; convert the original folder instead")
        }
        switch file.metadata["\(architecture).rope.scaling.type"]?.string ?? "none" {
        case "none": return .null
        case "linear":
            let factor = file.metadata["\(architecture).rope.scaling.factor"]?.double ?? 1
            return ["rope_type": "linear", "factor": .init(factor)]
        case "yarn":
            guard let factor = file.metadata["\(architecture).rope.scaling.factor"]?.double,
                let context = file.metadata["\(architecture).rope.scaling.original_context_length"]?.int
            else { throw UserError("\(file.path): rotary scaling yarn without its factor and original context length") }
            if let key = YarnScaling.otherKeys.first(where: { file.metadata["\(architecture).\($0)"] != nil }) {
                throw UserError(
                    "\(file.path): \(architecture).\(key) is not supported; convert the original folder instead")
            }
            return [
                "rope_type": "yarn", "factor": .init(Double("\(Float(factor))")!),
                "original_max_position_embeddings": .init(context),
            ]
        case let other:
            throw UserError("\(file.path): rotary scaling \(other) is not supported; linear, yarn and llama3 are")
        }
    }

    /// Phi-3's scaling of each frequency, in two tensors; null where there are none.
    private static func longRoPE(_ file: GGUFFile) throws -> JSONValue {
        guard let short = file["rope_factors_short.weight"], let long = file["rope_factors_long.weight"] else {
            return .null
        }
        func list(_ tensor: GGUFTensor) throws -> JSONValue {
            .array(try floats(file, tensor).map { .init(Double("\($0)")!) })
        }
        return ["type": "longrope", "short_factor": try list(short), "long_factor": try list(long)]
    }

    private static func floats(_ file: GGUFFile, _ tensor: GGUFTensor) throws -> [Float] {
        var values = [Float](repeating: 0, count: tensor.elementCount)
        try values.withUnsafeMutableBufferPointer { try file.dequantize(tensor, into: $0.baseAddress!) }
        return values
    }

    private static func nearlyEqual(_ a: Float, _ b: Float) -> Bool { abs(a - b) <= 1e-4 * max(abs(a), abs(b)) }

    // MARK: config.json

    private func value(_ key: String) -> GGUFValue? { metadata["\(architecture.rawValue).\(key)"] }

    /// Stored as fp32; its shortest spelling gives 1e-05 back.
    private func float(_ key: String, _ fallback: Float? = nil) -> JSONValue {
        (value(key)?.double.map { Float($0) } ?? fallback).map { .init(Double("\($0)")!) } ?? .null
    }

    func config(_ type: ElementType) -> JSONValue {
        var config = JSONObject()
        config["architectures"] = .array([.string(architecture.className)])
        config["model_type"] = .string(architecture.modelType)
        for (key, value) in architecture == .gpt2 ? gpt2 : architecture == .gptneox ? neoX : llama {
            config[key] = value
        }
        config["vocab_size"] = .init(sizes.vocabSize)
        config["tie_word_embeddings"] = .init(sizes.tiedHead)
        for (key, value) in tokenIDs { config[key] = value }
        config["torch_dtype"] = .string(type == .f32 ? "float32" : type == .f16 ? "float16" : "bfloat16")
        return .object(config)
    }

    private var gpt2: [(String, JSONValue)] {
        [
            ("n_embd", .init(sizes.hiddenSize)), ("n_head", .init(sizes.heads)), ("n_layer", .init(sizes.layers)),
            ("n_inner", .init(sizes.intermediateSize)), ("n_positions", .init(sizes.contextLength)),
            ("layer_norm_epsilon", float("attention.layer_norm_epsilon", 1e-5)), ("activation_function", "gelu_new"),
        ]
    }

    private var common: [(String, JSONValue)] {
        [
            ("hidden_size", .init(sizes.hiddenSize)), ("intermediate_size", .init(sizes.intermediateSize)),
            ("num_hidden_layers", .init(sizes.layers)), ("num_attention_heads", .init(sizes.heads)),
            ("max_position_embeddings", .init(sizes.contextLength)),
        ]
    }

    /// The key under which files written here note which form of GELU was trained with; the format has none.
    static let activationKey = "needletail.hidden_act"

    private var neoX: [(String, JSONValue)] {
        common + [
            ("hidden_act", .string(metadata[Self.activationKey]?.string ?? "gelu")),
            ("layer_norm_eps", float("attention.layer_norm_epsilon", 1e-5)),
            ("rotary_pct", .init(rotaryShare)), ("rotary_emb_base", float("rope.freq_base", 10_000)),
            ("use_parallel_residual", .bool(value("use_parallel_residual")?.bool ?? true)),
            ("attention_bias", .init(sizes.qkvBias)), ("rope_scaling", ropeScaling),
        ]
    }

    /// The part of each head that turns.
    private var rotaryShare: Double {
        Double(value("rope.dimension_count")?.int ?? sizes.headDim) / Double(sizes.headDim)
    }

    private var llama: [(String, JSONValue)] {
        var pairs = common
        pairs += [
            ("num_key_value_heads", .init(sizes.kvHeads)), ("head_dim", .init(sizes.headDim)),
            (
                architecture.isGemma ? "hidden_activation" : "hidden_act",
                architecture.isGemma ? "gelu_pytorch_tanh" : "silu"
            ),
            ("rms_norm_eps", float("attention.layer_norm_rms_epsilon", 1e-6)),
            ("rope_theta", float("rope.freq_base", architecture == .gemma3 ? 1_000_000 : 10_000)),
            ("rope_scaling", ropeScaling),
            // Qwen2's are not a setting.
            ("attention_bias", .init(architecture != .qwen2 && sizes.qkvBias)),
        ]
        if architecture == .llama { pairs.append(("mlp_bias", .init(sizes.mlpBias))) }
        if architecture.isGemma { pairs += gemma }
        if architecture == .phi3 { pairs += phi3 }
        return pairs
    }

    private var gemma: [(String, JSONValue)] {
        let isSecond = architecture == .gemma2, window = value("attention.sliding_window")?.int ?? (isSecond ? 4096 : 0)
        let key = "attention.sliding_window_pattern", period = max(1, value(key)?.int ?? (isSecond ? 2 : 6))
        let slides = value(key)?.bools ?? (1...sizes.layers).map { $0 % period != 0 }
        let types = slides.map { JSONValue.string($0 && window > 0 ? "sliding_attention" : "full_attention") }
        var pairs: [(String, JSONValue)] = [
            ("sliding_window", window > 0 ? .init(window) : .null), ("layer_types", .array(types)),
            ("query_pre_attn_scalar", .init(GGUFShape.gemmaDivisor(architecture, sizes))),
            ("final_logit_softcapping", float("final_logit_softcapping", isSecond ? 30 : nil)),
        ]
        if isSecond {
            pairs.append(("attn_logit_softcapping", float("attn_logit_softcapping", 50)))
        } else {
            pairs.append(("rope_local_base_freq", float("rope.freq_base_swa", 10_000)))
        }
        return pairs
    }

    /// What llama.cpp divides scores by the root of: the head dimension, but in the 27B models, which it knows by their
    /// number of layers.
    static func gemmaDivisor(_ architecture: GGUFArchitecture, _ sizes: GGUFSizes) -> Int {
        sizes.layers == (architecture == .gemma2 ? 46 : 62) ? sizes.hiddenSize / sizes.heads : sizes.headDim
    }

    private var phi3: [(String, JSONValue)] {
        let window = value("attention.sliding_window")?.int ?? 0,
            context = value("rope.scaling.original_context_length")?.int
        return [
            ("sliding_window", window > 0 ? .init(window) : .null), ("partial_rotary_factor", .init(rotaryShare)),
            ("original_max_position_embeddings", .init(context ?? sizes.contextLength)),
        ]
    }

    var generationConfig: JSONValue { .object(JSONObject(tokenIDs)) }

    private var tokenIDs: [(String, JSONValue)] {
        ["bos", "eos", "padding"].compactMap { kind in
            metadata["tokenizer.ggml.\(kind)_token_id"]?.int.map {
                ("\(kind == "padding" ? "pad" : kind)_token_id", .init($0))
            }
        }
    }

    // MARK: Tensors

    /// Tensors that are settings, not weights.
    private static let settings: Set<ExactString> = [
        "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight",
    ]

    /// Every tensor of the model with its rule, shapes checked; unknown and missing ones are errors.
    func tensorPlan() throws -> [(rule: GGUFTensorRule, tensor: GGUFTensor)] {
        var used = Self.settings
        let plan = try architecture.tensors(sizes).map { rule in
            guard let tensor = file[rule.stored] else {
                throw UserError("\(file.path): tensor \(rule.stored) is missing")
            }
            guard tensor.shape == rule.shape else {
                throw UserError(
                    "\(file.path): tensor \(rule.stored) has shape \(tensor.shape), the metadata asks for \(rule.shape)"
                )
            }
            used.insert(ExactString(rule.stored))
            return (rule, tensor)
        }
        let unknown = file.tensors.filter { !used.contains(ExactString($0.name)) }
        guard unknown.isEmpty else {
            throw UserError(
                "\(file.path): \(counted(unknown.count, "tensor")) with no place in a \(architecture.rawValue) model, such as \(unknown[0].name)"
            )
        }
        return plan
    }
}

/// How Llama 3.1 and later divide rotary frequencies.
struct Llama3Scaling {
    var factor: Double
    var lowFactor = 1.0, highFactor = 4.0, context = 8192.0

    /// The key under which files written here note the settings.
    static let noteKey = "needletail.rope_scaling"

    init(factor: Double) { self.factor = factor }

    /// - Throws: `UserError` for missing and impossible values.
    init(_ settings: ConfigReader) throws {
        factor = try settings.number("factor")
        (lowFactor, highFactor) = (try settings.number("low_freq_factor"), try settings.number("high_freq_factor"))
        context = Double(try settings.positive("original_max_position_embeddings"))
    }

    init(note: String, _ path: String) throws {
        guard let json = try? JSONValue.parse(note, maxDepth: 4) else {
            throw UserError("\(path): metadata \(Self.noteKey) is no JSON")
        }
        try self.init(ConfigReader(json: json, file: "\(path) \(Self.noteKey)"))
    }

    /// What each frequency is divided by.
    func divisors(_ count: Int, theta: Double) -> [Float] {
        (0..<count).map { i in
            let wavelength = 2 * Double.pi * pow(theta, Double(i) / Double(count))
            if wavelength < context / highFactor { return 1 }
            if wavelength > context / lowFactor { return Float(factor) }
            let smooth = (context / wavelength - lowFactor) / (highFactor - lowFactor)
            return Float(1 / ((1 - smooth) / factor + smooth))
        }
    }

    var json: JSONValue {
        [
            "rope_type": "llama3", "factor": .init(factor), "low_freq_factor": .init(lowFactor),
            "high_freq_factor": .init(highFactor), "original_max_position_embeddings": .init(Int(context)),
        ]
    }
}

/// YaRN in GGUF: a factor and the original context; ramp and magnitude are the published ones.
enum YarnScaling {
    /// Keys that change them.
    static let otherKeys = [
        "attn_factor", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_log_multiplier",
    ].map { "rope.scaling.\($0)" }

    /// The setting of a ramp or magnitude of its own, which the format's two keys do not say; nil for none.
    static func setting(beyond settings: ConfigReader) throws -> String? {
        let plain = [("beta_fast", 32.0), ("beta_slow", 1), ("mscale", 0), ("mscale_all_dim", 0)]
        if let (key, _) = try plain.first(where: { try settings.number($0.0, $0.1) != $0.1 }) { return key }
        if settings.isPresent("attention_factor") { return "attention_factor" }
        return try settings.bool("truncate", true) ? nil : "truncate"
    }
}
