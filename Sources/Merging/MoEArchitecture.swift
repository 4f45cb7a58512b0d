// The families of mixtures that dense models can become: names of their tensors, and their config.json.
// E experts, H hidden size, F intermediate size
internal import Diagnostics
internal import Formats
internal import RunConfig

/// How expert weights are laid out in the files.
public enum ExpertLayout: String, CaseIterable, Sendable {
    /// A matrix for each expert: read by transformers 4 and 5, and by other programs.
    case separate
    /// All experts of a layer in one tensor, gate and up together, as transformers 5 keeps them.
    case fused
}

/// A family of output models.
public enum MoEArchitecture: String, CaseIterable, Sendable {
    case mixtral = "Mixtral"
    /// DeepSeekMoE (Dai et al. 2024, arXiv:2401.06066), whose shared expert has no gate.
    case deepseek = "DeepSeek MoE"
    case qwen2 = "Qwen MoE"
    case qwen3 = "Qwen3 MoE"

    /// The `model_type`s of dense models it can be made from.
    var sources: [String] {
        switch self {
        case .mixtral, .deepseek: ["llama", "mistral"]
        case .qwen2: ["llama", "mistral", "qwen2"]
        case .qwen3: ["qwen3"]
        }
    }

    /// Why these models cannot become this family; nil when they can.
    func objection(_ config: MoEConfig, _ models: [(name: String, config: JSONValue)]) -> String? {
        let types = models.map { $0.config["model_type"]?.string ?? "unknown" }
        if let odd = types.firstIndex(where: { $0 != types[0] }) {
            return "\(models[odd].name) is of type \(types[odd]), the base of type \(types[0])"
        }
        guard sources.contains(types[0]) else {
            return "it is made from \(sources.joined(separator: ", ")), not from \(types[0])"
        }
        if models[0].config["mlp_bias"]?.bool == true { return "its experts have no biases, these MLPs have" }
        // Qwen2's own attention biases are on q, k and v only, where Qwen-MoE has them too.
        if models[0].config["attention_bias"]?.bool == true {
            return "its attention has no biases as the base has them"
        }
        switch self {
        case .mixtral, .qwen3: return config.sharedExperts.isEmpty ? nil : "it has no shared experts"
        case .deepseek:
            let prompts = config.sharedExperts.flatMap { ($0.positivePrompts ?? []) + ($0.negativePrompts ?? []) }
            return prompts.isEmpty ? nil : "its shared expert has no gate, so it takes no prompts"
        case .qwen2:
            guard let shared = config.sharedExperts.first else { return "it needs one entry in shared_experts" }
            let needsPrompts = config.gateMode.readsPrompts && shared.positivePrompts?.isEmpty ?? true
            return needsPrompts ? "its shared expert has a gate, so it needs positive_prompts" : nil
        }
    }

    /// The family that a configuration asks for, or that its models can become: Mixtral before the others.
    static func chosen(_ config: MoEConfig, _ models: [(name: String, config: JSONValue)]) throws -> MoEArchitecture {
        var candidates = allCases
        if let wanted = config.architecture {
            candidates = allCases.filter { $0.rawValue.lowercased().hasPrefix(wanted.lowercased()) }
            if candidates.isEmpty {
                let names = allCases.map(\.rawValue).joined(separator: ", ")
                throw UserError("architecture: \(wanted) is not offered; \(names) are")
            }
        }
        var reasons: [String] = []
        for candidate in candidates {
            guard let objection = candidate.objection(config, models) else { return candidate }
            reasons.append("\(candidate.rawValue): \(objection)")
        }
        throw UserError("these models make no mixture: \(reasons.joined(separator: "; "))")
    }

    func router(_ layer: Int, _ layout: ExpertLayout) -> String {
        self == .mixtral && layout == .separate
            ? "model.layers.\(layer).block_sparse_moe.gate.weight" : "model.layers.\(layer).mlp.gate.weight"
    }

    /// Whether a shared expert has a gate of its own.
    public var gatesSharedExpert: Bool { self == .qwen2 }

    func sharedRouter(_ layer: Int) -> String { "model.layers.\(layer).mlp.shared_expert_gate.weight" }

    func sharedExpert(_ layer: Int, _ map: String) -> String {
        "model.layers.\(layer).mlp.\(self == .deepseek ? "shared_experts" : "shared_expert").\(map).weight"
    }

    /// Name of one map (`gate_proj`, `up_proj`, `down_proj`) of one expert.
    func expert(_ layer: Int, _ expert: Int, _ map: String) -> String {
        guard self == .mixtral else { return "model.layers.\(layer).mlp.experts.\(expert).\(map).weight" }
        let short = ["gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"][map]!
        return "model.layers.\(layer).block_sparse_moe.experts.\(expert).\(short).weight"
    }

    /// The base's config.json as that of the mixture.
    func outputConfig(_ base: JSONValue, _ config: MoEConfig, _ type: ElementType) -> JSONValue {
        var object = base.object!
        for key in ["dtype", "torch_dtype"] { object[key] = .string(type.configName) }
        for key in ["pretraining_tp", "mlp_bias", "attention_bias", "auto_map"] { object[key] = nil }
        let experts = JSONValue(config.experts.count), used = JSONValue(config.expertsPerToken)
        object["output_router_logits"] = false
        object["num_experts_per_tok"] = used
        switch self {
        case .mixtral:
            object["architectures"] = ["MixtralForCausalLM"]
            object["model_type"] = "mixtral"
            object["num_local_experts"] = experts
            object["sliding_window"] = Self.window(base).map { .init($0) } ?? .null
        case .deepseek:
            object["architectures"] = ["DeepseekForCausalLM"]
            object["model_type"] = "deepseek"
            object["n_routed_experts"] = experts
            object["n_shared_experts"] = config.sharedExperts.isEmpty ? .null : 1
            object["first_k_dense_replace"] = 0
            object["moe_layer_freq"] = 1
            object["scoring_func"] = "softmax"
            object["norm_topk_prob"] = true
            object["moe_intermediate_size"] = object["intermediate_size"]
            // transformers has no such model of its own; where its code is kept.
            let code = "deepseek-ai/deepseek-moe-16b-base--"
            object["auto_map"] = [
                "AutoConfig": .string(code + "configuration_deepseek.DeepseekConfig"),
                "AutoModel": .string(code + "modeling_deepseek.DeepseekModel"),
                "AutoModelForCausalLM": .string(code + "modeling_deepseek.DeepseekForCausalLM"),
            ]
        case .qwen2, .qwen3:
            object["architectures"] = [self == .qwen2 ? "Qwen2MoeForCausalLM" : "Qwen3MoeForCausalLM"]
            object["model_type"] = self == .qwen2 ? "qwen2_moe" : "qwen3_moe"
            object["num_experts"] = experts
            object["norm_topk_prob"] = true
            object["decoder_sparse_step"] = 1
            object["mlp_only_layers"] = []
            object["moe_intermediate_size"] = object["intermediate_size"]
            if self == .qwen2 {
                object["shared_expert_intermediate_size"] = object["intermediate_size"]
                if base["model_type"]?.string != "qwen2" { setWindow(base, in: &object) }
            }
        }
        return .object(object)
    }

    /// Tokens a Mistral base sees back; nil for all. Absent means the published model's 4096, null none.
    private static func window(_ base: JSONValue) -> Int? {
        guard base["model_type"]?.string == "mistral" else { return nil }
        guard let value = base["sliding_window"] else { return 4096 }
        return value.int
    }

    /// Qwen's keys for what Mistral does: a window in every layer, or none.
    private func setWindow(_ base: JSONValue, in object: inout JSONObject) {
        let window = Self.window(base)
        object["use_sliding_window"] = .bool(window != nil)
        object["sliding_window"] = window.map { .init($0) } ?? .null
        object["max_window_layers"] = 0
        object["layer_types"] = nil
    }
}
