// Adapters of PEFT that differ from map to map (patterns of names, ranks and alphas, some layers only), adapt tables or
// bring some that adapter_config.json does not list, rewritten as one adapter of one rank with whole tables.
// r rank, R largest rank
internal import Diagnostics
internal import Formats
internal import Tokenizers

extension ForeignAdapter {
    /// Settings that pick maps, which the names of the tensors say too.
    private static let choices = ["target_modules", "layers_to_transform", "layers_pattern", "exclude_modules"]

    /// Whether a PEFT folder has to be rewritten.
    static func isPatterned(_ json: JSONValue, _ weights: SafetensorsFile, _ naming: TensorNaming) -> Bool {
        guard json["peft_type"]?.string == "LORA" else { return false }
        func isSet(_ key: String) -> Bool {
            let value = json[key] ?? .null
            return !value.isNull && value.array?.isEmpty != true && value.object?.keys.isEmpty != true
        }
        let target = json["target_modules"]?.string
        if target != nil && target != "all-linear" { return true }
        if (choices.dropFirst() + ["rank_pattern", "alpha_pattern"]).contains(where: isSet) { return true }
        let heads = [naming.headModule, TensorNaming.adapterHeadModule].map { "\(AdapterFiles.prefix)\($0).lora_" }
        if weights.tensors.contains(where: { isSecondCopy($0.name) }) { return true }
        let adapted = ["lora_embedding_"] + heads
        if weights.tensors.contains(where: { tensor in adapted.contains(where: tensor.name.contains) }) { return true }
        let listed = json["modules_to_save"]?.array?.compactMap(\.string) ?? []
        return !unlisted(weights.tensors.map(\.name), listed).isEmpty
    }

    /// What PEFT writes beside `X.weight` of a table X that is trained where the vocabulary has changed.
    private static func isSecondCopy(_ name: String) -> Bool {
        [".original_module.weight", ".modules_to_save.weight"].contains(where: name.hasSuffix)
    }

    /// Last components of the modules of whole weights that `modules_to_save` does not list: PEFT adds the tables of tokens
    /// and outputs when the vocabulary was changed.
    private static func unlisted(_ names: [String], _ listed: [String]) -> Set<String> {
        Set(
            names.filter {
                !$0.contains(".lora_") && $0.hasSuffix(".weight") && !isSecondCopy($0)
                    && !TensorNaming.belongs($0, to: listed)
            }.compactMap { $0.split(separator: ".").dropLast().last.map(String.init) })
    }

    /// PEFT: ranks are those of the tensors. α_i / r_i goes into B where maps differ, and the lower ranks are filled up with
    /// zeros to R, which changes no product.
    init(peft weights: SafetensorsFile, _ json: JSONValue, _ file: String, _ base: String) throws {
        var plain = json.object ?? JSONObject()
        for key in Self.choices + ["rank_pattern", "alpha_pattern"] { plain[key] = nil }
        var config = try AdapterConfig(.object(plain), file: file)
        let alphas = try Self.alphaPatterns(json, file)
        func scale(_ module: String, _ rank: Int) -> Double {
            let alpha = alphas.first { $0.pattern.matches(module) }?.alpha ?? config.alpha
            return config.scaling.value(alpha: alpha, rank: rank)
        }
        let adapted = try Self.adaptedTables(weights, base, scale)
        // What they are made of: `X.lora_embedding_A`, `X.base_layer.weight` ... of a table X.
        let beginnings = adapted.map { String($0.name.dropLast("weight".count)) }
        let own = weights.tensors.filter { tensor in
            !beginnings.contains(where: tensor.name.hasPrefix) && !Self.isSecondCopy(tensor.name)
        }
        let whole = own.map(\.name) + adapted.map(\.name)
        if let absent = config.savedModules.first(where: { module in
            !whole.contains { TensorNaming.belongs($0, to: [module]) }
        }) {
            throw UserError("\(weights.path): holds no \(absent), which adapter_config.json names in modules_to_save")
        }
        let scales = try Self.scales(own, weights.path, scale)
        let rank = scales.values.map(\.rank).max() ?? config.rank
        let largest = scales.values.map(\.scale).max { abs($0) < abs($1) } ?? config.scale
        let common = largest == 0 ? 1 : largest
        if rank != config.rank || common != config.scale || scales.values.contains(where: { $0 != (rank, common) }) {
            (config.rank, config.alpha) = (rank, common / config.scaling.value(alpha: 1, rank: rank))
        }
        parts = own.map { tensor in
            let module = tensor.name.firstRange(of: ".lora_").map { String(tensor.name[..<$0.lowerBound]) }
            let own = module.flatMap { scales[$0] }, isB = tensor.name.hasSuffix(".lora_B.weight")
            return Part(
                name: tensor.name, source: tensor, rank: own.flatMap { $0.rank == rank ? nil : rank },
                factor: isB ? own.map { $0.scale / common } ?? 1 : 1)
        }
        (self.weights, self.tables) = (weights, adapted)
        config.targets = Self.modules(parts.map(\.name))
        config.savedModules += Self.unlisted(whole, config.savedModules).sorted()
        self.config = config
        try checkMatrices(rank)
    }

    /// α of the modules whose names end as a pattern says; the first pattern counts.
    private static func alphaPatterns(
        _ json: JSONValue, _ file: String
    ) throws -> [(pattern: NamePattern, alpha: Double)] {
        try (json["alpha_pattern"]?.object?.keys ?? []).map { key in
            guard let alpha = json["alpha_pattern"]?[key]?.double else {
                throw UserError("\(file): \"alpha_pattern\" \(key) is no number")
            }
            do {
                return (pattern: try NamePattern("(?:.*\\.)?(?:\(key))"), alpha: alpha)
            } catch let problem as UserError {
                throw UserError("\(file): \"alpha_pattern\" \(key): \(problem.message)")
            }
        }
    }

    /// Rank and scale of each map, by the name before `.lora_`.
    private static func scales(
        _ tensors: [TensorInfo], _ path: String, _ scale: (_ module: String, _ rank: Int) -> Double
    ) throws -> [String: (rank: Int, scale: Double)] {
        var scales: [String: (rank: Int, scale: Double)] = [:]
        for tensor in tensors where tensor.name.hasSuffix(".lora_A.weight") {
            guard tensor.shape.count == 2, tensor.shape[0] > 0 else {
                throw UserError("\(path): tensor \(tensor.name) has shape \(tensor.shape), which is no matrix")
            }
            let module = String(tensor.name.dropLast(".lora_A.weight".count)), rank = tensor.shape[0]
            scales[module] = (rank, scale(String(module.dropFirst(AdapterFiles.prefix.count)), rank))
        }
        return scales
    }
}
