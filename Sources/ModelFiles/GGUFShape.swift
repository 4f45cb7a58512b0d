// What GGUF metadata says about a Llama-type model, in the words of config.json.
import Diagnostics
import Formats
internal import Glibc

/// Architecture `llama` (Llama, SmolLM2, Mistral) or `qwen2` as read from a GGUF file.
struct GGUFShape {
    private let metadata: GGUFMetadata
    private let architecture: String
    private let layers: Int, hiddenSize: Int, heads: Int, kvHeads: Int, headDim: Int, vocabSize: Int
    private let intermediateSize: Int
    private let tiedHead: Bool
    private let ropeScaling: JSONValue

    init(_ file: GGUFFile) throws {
        metadata = file.metadata
        let path = file.path
        guard let architecture = metadata["general.architecture"]?.string, ["llama", "qwen2"].contains(architecture)
        else {
            let found = metadata["general.architecture"]?.string ?? "none"
            throw UserError("\(path): architecture \(found) is not supported; llama and qwen2 are")
        }
        self.architecture = architecture
        func number(_ key: String) throws -> Int {
            guard let value = file.metadata["\(architecture).\(key)"]?.int, value > 0, value < 1 << 32 else {
                throw UserError("\(path): metadata \(architecture).\(key) is missing or not a positive number")
            }
            return value
        }
        if file.metadata["\(architecture).expert_count"]?.int ?? 0 > 0 {
            throw UserError("\(path): mixture-of-experts models are not supported")
        }
        layers = try number("block_count")
        hiddenSize = try number("embedding_length")
        intermediateSize = try number("feed_forward_length")
        heads = try number("attention.head_count")
        kvHeads =
            metadata["\(architecture).attention.head_count_kv"] == nil ? heads : try number("attention.head_count_kv")
        headDim = metadata["\(architecture).attention.key_length"]?.int ?? hiddenSize / heads
        guard let table = file["token_embd.weight"], table.shape.count == 2 else {
            throw UserError("\(path): no tensor token_embd.weight; the file holds no model weights")
        }
        vocabSize = table.shape[0]
        tiedHead = file["output.weight"] == nil
        ropeScaling = try Self.ropeScaling(file, architecture)
    }

    /// `rope_scaling` of config.json; null for none.
    private static func ropeScaling(_ file: GGUFFile, _ architecture: String) throws -> JSONValue {
        if let factors = file["rope_freqs.weight"] {
            var values = [Float](repeating: 0, count: factors.elementCount)
            try values.withUnsafeMutableBufferPointer { try file.dequantize(factors, into: $0.baseAddress!) }
            let theta = file.metadata["\(architecture).rope.freq_base"]?.double ?? 10_000
            // The file keeps the divisors only; of the published models' settings, the one that gives them is taken.
            for factor in [8.0, 32.0]
            where llama3Divisors(values.count, theta, factor).elementsEqual(values, by: nearlyEqual) {
                return [
                    "rope_type": "llama3", "factor": .init(factor), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                ]
            }
            throw UserError(
                "\(file.path): rope_freqs.weight holds divisors of no known model; convert the original folder instead")
        }
        switch file.metadata["\(architecture).rope.scaling.type"]?.string ?? "none" {
        case "none": return .null
        case "linear":
            let factor = file.metadata["\(architecture).rope.scaling.factor"]?.double ?? 1
            return ["rope_type": "linear", "factor": .init(factor)]
        case let other: throw UserError("\(file.path): rotary scaling \(other) is not supported; linear and llama3 are")
        }
    }

    /// What Llama 3.1 divides each frequency by, with its published bounds (1, 4, context 8,192).
    private static func llama3Divisors(_ count: Int, _ theta: Double, _ factor: Double) -> [Float] {
        (0..<count).map { i in
            let wavelength = 2 * Double.pi * pow(theta, Double(i) / Double(count))
            if wavelength < 8192.0 / 4 { return 1 }
            if wavelength > 8192 { return Float(factor) }
            let smooth = (8192 / wavelength - 1) / (4 - 1)
            return Float(1 / ((1 - smooth) / factor + smooth))
        }
    }

    private static func nearlyEqual(_ a: Float, _ b: Float) -> Bool { abs(a - b) <= 1e-4 * max(abs(a), abs(b)) }

    func config(_ type: ElementType) -> JSONValue {
        func float(_ key: String, _ fallback: Float) -> JSONValue {
            let value = metadata["\(architecture).\(key)"]?.double.map { Float($0) } ?? fallback
            // Stored as fp32; its shortest spelling gives 1e-05 back.
            return .init(Double("\(value)")!)
        }
        var config = JSONObject()
        config["architectures"] = .array([.string(architecture == "qwen2" ? "Qwen2ForCausalLM" : "LlamaForCausalLM")])
        config["model_type"] = .string(architecture)
        config["hidden_size"] = .init(hiddenSize)
        config["intermediate_size"] = .init(intermediateSize)
        config["num_hidden_layers"] = .init(layers)
        config["num_attention_heads"] = .init(heads)
        config["num_key_value_heads"] = .init(kvHeads)
        config["head_dim"] = .init(headDim)
        config["hidden_act"] = "silu"
        config["vocab_size"] = .init(vocabSize)
        config["max_position_embeddings"] = .init(metadata["\(architecture).context_length"]?.int ?? 2048)
        config["rms_norm_eps"] = float("attention.layer_norm_rms_epsilon", 1e-6)
        config["rope_theta"] = float("rope.freq_base", 10_000)
        config["rope_scaling"] = ropeScaling
        config["attention_bias"] = false
        config["mlp_bias"] = false
        config["tie_word_embeddings"] = .init(tiedHead)
        for (key, value) in tokenIDs { config[key] = value }
        config["torch_dtype"] = .string(type == .f32 ? "float32" : type == .f16 ? "float16" : "bfloat16")
        return .object(config)
    }

    var generationConfig: JSONValue { .object(JSONObject(tokenIDs)) }

    private var tokenIDs: [(String, JSONValue)] {
        ["bos", "eos", "padding"].compactMap { kind in
            metadata["tokenizer.ggml.\(kind)_token_id"]?.int.map {
                ("\(kind == "padding" ? "pad" : kind)_token_id", .init($0))
            }
        }
    }

    struct PlannedTensor {
        let name: String
        let tensor: GGUFTensor
        /// Heads whose rows llama.cpp interleaves for its rotation; nil for tensors stored as they are.
        let interleavedHeads: Int?
    }

    /// Every tensor of the model under its Hugging Face name, shapes checked; unknown and missing ones are errors.
    func tensorPlan(_ file: GGUFFile) throws -> [PlannedTensor] {
        var plan: [PlannedTensor] = [], used: Set<ExactString> = ["rope_freqs.weight"]
        func add(_ source: String, _ name: String, _ shape: [Int], heads: Int? = nil, optional: Bool = false) throws {
            guard let tensor = file[source] else {
                if optional { return }
                throw UserError("\(file.path): tensor \(source) is missing")
            }
            guard tensor.shape == shape else {
                throw UserError(
                    "\(file.path): tensor \(source) has shape \(tensor.shape), the metadata asks for \(shape)")
            }
            used.insert(ExactString(source))
            plan.append(PlannedTensor(name: name, tensor: tensor, interleavedHeads: heads))
        }
        let D = hiddenSize, F = intermediateSize, isLlama = architecture == "llama"
        try add("token_embd.weight", "model.embed_tokens.weight", [vocabSize, D])
        for layer in 0..<layers {
            let from = "blk.\(layer)", to = "model.layers.\(layer)"
            for (part, name, outputs) in [("q", "q", heads), ("k", "k", kvHeads), ("v", "v", kvHeads)] {
                let interleaved = isLlama && part != "v" ? outputs : nil
                try add(
                    "\(from).attn_\(part).weight", "\(to).self_attn.\(name)_proj.weight", [outputs * headDim, D],
                    heads: interleaved)
                try add(
                    "\(from).attn_\(part).bias", "\(to).self_attn.\(name)_proj.bias", [outputs * headDim],
                    heads: interleaved, optional: isLlama)
            }
            try add("\(from).attn_output.weight", "\(to).self_attn.o_proj.weight", [D, heads * headDim])
            try add("\(from).ffn_gate.weight", "\(to).mlp.gate_proj.weight", [F, D])
            try add("\(from).ffn_up.weight", "\(to).mlp.up_proj.weight", [F, D])
            try add("\(from).ffn_down.weight", "\(to).mlp.down_proj.weight", [D, F])
            try add("\(from).attn_norm.weight", "\(to).input_layernorm.weight", [D])
            try add("\(from).ffn_norm.weight", "\(to).post_attention_layernorm.weight", [D])
        }
        try add("output_norm.weight", "model.norm.weight", [D])
        if !tiedHead { try add("output.weight", "lm_head.weight", [vocabSize, D]) }
        let unknown = file.tensors.filter { !used.contains(ExactString($0.name)) }
        guard unknown.isEmpty else {
            throw UserError(
                "\(file.path): \(counted(unknown.count, "tensor")) with no place in a \(architecture) model, such as \(unknown[0].name)"
            )
        }
        return plan
    }
}
