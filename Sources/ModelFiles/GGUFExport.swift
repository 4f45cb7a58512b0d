// From a model in the words of Hugging Face to a GGUF file: metadata from config.json, tensors by the architecture's table.
internal import Diagnostics
public import Formats
internal import Glibc
public import Tokenizers

/// A model that is about to be written as a GGUF file; whatever the format cannot hold has been refused.
public struct GGUFExport {
    /// Sentences on what programs that read the file will do otherwise.
    public let notes: [String]
    private let architecture: GGUFArchitecture
    private let rules: [GGUFTensorRule]
    private let metadata: [GGUFEntry]
    /// Tensors that are settings: name and numbers.
    private let settings: [(name: String, values: [Float])]

    /// - Parameters:
    ///   - config: config.json's contents, found in `file`.
    ///   - name: `general.name`.
    /// - Throws: `UserError` for a family that llama.cpp does not know and for settings it would compute otherwise.
    public init(config: JSONValue, file: String, tokenizer: Tokenizer, name: String) throws {
        let reader = ConfigReader(json: config, file: file)
        var metadata = try GGUFMetadataWriter(reader)
        architecture = metadata.architecture
        rules = architecture.tensors(metadata.sizes)
        try metadata.addAll(name: name)
        let vocabulary = try tokenizer.ggufMetadata(size: metadata.sizes.vocabSize, path: file)
        self.metadata = metadata.entries + vocabulary.entries
        settings = metadata.settings
        notes = metadata.notes + vocabulary.notes
    }

    /// Writes the file, complete or not at all.
    ///
    /// - Parameters:
    ///   - type: of the matrices; vectors and the position table stay in 32 bits (`GGUFTensorTypes`).
    ///   - values: gives the numbers of a weight as a folder holds them, by its name there.
    ///   - progress: told the share that is written.
    /// - Returns: how many tensors of each type the file has.
    public func write(
        to path: String, _ type: GGMLType, threads: Int, values: @escaping (String) throws -> [Float],
        progress: @escaping (Double) -> Void
    ) throws -> [(type: GGMLType, count: Int)] {
        let types = GGUFTensorTypes(type)
        var tensors = rules.map { rule in
            let stored = types.type(of: rule.stored, rule.shape)
            return GGUFWriter.Tensor(name: rule.stored, type: stored, shape: rule.shape) { emit in
                let numbers = rule.change.toFile(try values(rule.name), rule.shape)
                try stored.emit(numbers, of: rule.stored, threads: threads, emit)
            }
        }
        for (name, values) in settings {
            tensors.append(
                .init(name: name, type: .f32, shape: [values.count]) { emit in try values.withUnsafeBytes(emit) })
        }
        try GGUFWriter.write(path: path, metadata: metadata + types.entries, tensors: tensors, progress: progress)
        return types.counts(tensors)
    }
}

/// `general.*` and the architecture's keys, from config.json.
private struct GGUFMetadataWriter {
    let architecture: GGUFArchitecture
    let sizes: GGUFSizes
    private let reader: ConfigReader
    private(set) var entries: [GGUFEntry] = []
    private(set) var settings: [(name: String, values: [Float])] = []
    private(set) var notes: [String] = []

    init(_ reader: ConfigReader) throws {
        self.reader = reader
        let type = try reader.string("model_type")
        guard let architecture = GGUFArchitecture(modelType: type) else {
            throw UserError("\(reader.file): model_type \(type) has no GGUF architecture that this program writes")
        }
        self.architecture = architecture
        let isGPT2 = architecture == .gpt2
        let D = try reader.positive(isGPT2 ? "n_embd" : "hidden_size")
        let heads = try reader.positive(isGPT2 ? "n_head" : "num_attention_heads")
        let isGemma = architecture.isGemma
        let bias = try isGPT2 || reader.bool("attention_bias", architecture == .gptneox)
        sizes = GGUFSizes(
            layers: try reader.layers(isGPT2 ? "n_layer" : "num_hidden_layers"), hiddenSize: D,
            intermediateSize: try isGPT2 ? reader.positive("n_inner", 4 * D) : reader.positive("intermediate_size"),
            heads: heads,
            kvHeads: try isGPT2
                ? heads : reader.positive("num_key_value_heads", type == "mistral" ? 8 : isGemma ? 4 : heads),
            headDim: try isGPT2
                ? D / heads : reader.positive("head_dim", architecture == .qwen3 ? 128 : isGemma ? 256 : D / heads),
            vocabSize: try reader.positive("vocab_size"),
            contextLength: try reader.positive(isGPT2 ? "n_positions" : "max_position_embeddings", isGPT2 ? nil : 2048),
            tiedHead: try reader.tiesTables(),
            qkvBias: architecture == .qwen2 || bias, outputBias: architecture != .qwen2 && bias,
            mlpBias: try architecture.hasLayerNorm || reader.bool("mlp_bias", false))
        let takesBias: [GGUFArchitecture] = [.llama, .qwen2, .gptneox, .gpt2]
        if bias, !takesBias.contains(architecture) { throw refusal("biases of attention") }
    }

    private func refusal(_ what: String) -> UserError {
        UserError("\(reader.file): \(what): llama.cpp's architecture \(architecture.rawValue) does not compute this")
    }

    private mutating func add(_ key: String, _ value: Int) {
        entries.append(.uint32("\(architecture.rawValue).\(key)", value))
    }
    private mutating func add(_ key: String, _ value: Double) {
        entries.append(.float("\(architecture.rawValue).\(key)", Float(value)))
    }

    mutating func addAll(name: String) throws {
        entries.append(.string("general.architecture", architecture.rawValue))
        entries.append(.string("general.type", "model"))
        // llama.cpp matches special tokens otherwise in models so called; a name alone must not decide that.
        let changing = ["phi-3", "phi3", "modern-bert"]
        if !changing.contains(where: name.lowercased().contains) { entries.append(.string("general.name", name)) }
        add("context_length", sizes.contextLength)
        add("embedding_length", sizes.hiddenSize)
        add("block_count", sizes.layers)
        add("feed_forward_length", sizes.intermediateSize)
        add("attention.head_count", sizes.heads)
        add("vocab_size", sizes.vocabSize)
        switch architecture {
        case .gpt2: add("attention.layer_norm_epsilon", try reader.number("layer_norm_epsilon", 1e-5))
        case .gptneox: try addNeoX()
        default: try addLlama()
        }
    }

    private mutating func addNeoX() throws {
        add("attention.layer_norm_epsilon", try reader.number("layer_norm_eps", 1e-5))
        let key = "\(architecture.rawValue).use_parallel_residual"
        entries.append(.bool(key, try reader.bool("use_parallel_residual", true)))
        try addRotary(thetaKey: "rotary_emb_base", shareKey: "rotary_pct", share: 0.25)
        let activation = try reader.string("hidden_act", "gelu")
        entries.append(.string(GGUFShape.activationKey, activation))
        if activation == "gelu" {
            notes.append("llama.cpp computes this family's GELU in its tanh form")
        }
    }

    private mutating func addLlama() throws {
        add("attention.head_count_kv", sizes.kvHeads)
        add("attention.key_length", sizes.headDim)
        add("attention.value_length", sizes.headDim)
        let epsilon = architecture == .olmo2 || architecture == .phi3 ? 1e-5 : 1e-6
        add("attention.layer_norm_rms_epsilon", try reader.number("rms_norm_eps", epsilon))
        switch architecture {
        case .gemma2, .gemma3: try addGemma()
        case .phi3: try addPhi3()
        default:
            try addRotary()
            try refuseWindow()
        }
    }

    /// Rotary positions: how much of a head turns, how fast, and its scaling.
    private mutating func addRotary(
        thetaKey: String = "rope_theta", theta: Double = 10_000, shareKey: String = "partial_rotary_factor",
        share: Double = 1, kind: String? = nil
    ) throws {
        let parameters = try reader.section("rope_parameters")
        let newer = try kind.flatMap { try parameters?.section($0) } ?? parameters
        let settings = try newer ?? reader.positions()
        let theta = try settings?.number("rope_theta", reader.number(thetaKey, theta)) ?? reader.number(thetaKey, theta)
        let share =
            try newer?.number("partial_rotary_factor", reader.number(shareKey, share)) ?? reader.number(shareKey, share)
        let width = Int(Double(sizes.headDim) * share)
        add("rope.dimension_count", width)
        add("rope.freq_base", theta)
        guard let settings else { return }
        let type = try settings.positionScaling()
        switch type {
        case "default": break
        case "linear":
            entries.append(.string("\(architecture.rawValue).rope.scaling.type", "linear"))
            add("rope.scaling.factor", try settings.number("factor"))
        case "yarn" where architecture != .phi3:
            if let setting = try YarnScaling.setting(beyond: settings) {
                throw refusal("rotary scaling yarn with \(setting)")
            }
            entries.append(.string("\(architecture.rawValue).rope.scaling.type", "yarn"))
            let context = try reader.originalContext(settings) ?? sizes.contextLength
            add("rope.scaling.factor", try settings.number("factor", Double(sizes.contextLength) / Double(context)))
            add("rope.scaling.original_context_length", context)
        case "llama3":
            let scaling = try Llama3Scaling(settings)
            entries.append(.string(Llama3Scaling.noteKey, scaling.json.serialized()))
            self.settings.append(("rope_freqs.weight", scaling.divisors(width / 2, theta: theta)))
        // Phi-3's first configurations used the other names.
        case "longrope" where architecture == .phi3, "su" where architecture == .phi3, "yarn":
            try addLongRoPE(settings, width)
        default: throw refusal("rotary scaling \(type)")
        }
    }

    /// A window of the layers that attention of this architecture would not keep to.
    private func refuseWindow() throws {
        let isMistral = try reader.string("model_type") == "mistral"
        guard try isMistral ? !reader.isNull("sliding_window") : reader.bool("use_sliding_window", false) else {
            return
        }
        let window = try reader.positive("sliding_window", 4096)
        if window >= sizes.contextLength { return }
        throw UserError(
            "\(reader.file): sliding_window \(window): llama.cpp's architecture \(architecture.rawValue) sees all tokens; for "
                + "texts of at most \(window) tokens set max_position_embeddings to that in a copy of the folder")
    }

    private mutating func addGemma() throws {
        let isSecond = architecture == .gemma2, divisor = try reader.number("query_pre_attn_scalar", 256)
        guard divisor == Double(GGUFShape.gemmaDivisor(architecture, sizes)) else {
            throw refusal("query_pre_attn_scalar \(divisor) beside heads of \(sizes.headDim)")
        }
        if isSecond {
            try addRotary()
        } else {
            try addRotary(theta: 1_000_000, kind: "full_attention")
            let local = try reader.section("rope_parameters")?.section("sliding_attention")
            let theta = try reader.number("rope_local_base_freq", 10_000)
            add("rope.freq_base_swa", try local?.number("rope_theta", theta) ?? theta)
        }
        func cap(_ key: String, _ value: Double) throws -> Double? {
            reader.isNull(key) ? nil : try reader.number(key, value)
        }
        if isSecond {
            guard let scores = try cap("attn_logit_softcapping", 50) else {
                throw refusal("scores that are not capped")
            }
            add("attn_logit_softcapping", scores)
        } else if try (cap("attn_logit_softcapping", 0) ?? 0) > 0 {
            throw refusal("capped scores")
        }
        if let logits = try cap("final_logit_softcapping", isSecond ? 30 : 0), logits > 0 {
            add("final_logit_softcapping", logits)
        } else if isSecond {
            throw refusal("logits that are not capped")
        }
        try addGemmaWindow(period: isSecond ? 2 : 6)
    }

    private mutating func addGemmaWindow(period: Int) throws {
        guard !reader.isNull("sliding_window") else { throw refusal("no sliding_window") }
        add("attention.sliding_window", try reader.positive("sliding_window", 4096))
        let usual = try reader.positive("sliding_window_pattern", period)
        let slides = try reader.slidingLayers(of: sizes.layers) ?? (1...sizes.layers).map { $0 % usual != 0 }
        entries.append(.bools("\(architecture.rawValue).attention.sliding_window_pattern", slides))
    }

    private mutating func addPhi3() throws {
        try addRotary()
        let window = try reader.isPresent("sliding_window") ? reader.positive("sliding_window") : 0
        add("attention.sliding_window", window)
        let context = try reader.originalContext(reader.positions()) ?? sizes.contextLength
        add("rope.scaling.original_context_length", context)
        if window > 0, window < min(context, sizes.contextLength) {
            notes.append(
                "llama.cpp does not keep to the window of \(grouped(window)) tokens; longer texts differ there")
        }
    }

    private mutating func addLongRoPE(_ settings: ConfigReader, _ width: Int) throws {
        let found = try LongRoPESettings(reader, settings, width: width)
        for (name, factors) in [("short", found.short), ("long", found.long)] {
            self.settings.append(("rope_factors_\(name).weight", factors.map { Float($0) }))
        }
        add("rope.scaling.attn_factor", found.attention)
    }
}
