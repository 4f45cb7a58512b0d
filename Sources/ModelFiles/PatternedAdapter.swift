// Adapters of PEFT that differ from map to map (patterns of names, ranks and alphas, some layers only) or bring tables that
// adapter_config.json does not list, rewritten as one adapter of one rank.
// r rank, R largest rank
internal import Diagnostics
internal import Formats
internal import Tokenizers

extension ForeignAdapter {
    /// Settings that pick maps, which the names of the tensors say too.
    private static let choices = ["target_modules", "layers_to_transform", "layers_pattern", "exclude_modules"]

    /// Whether a PEFT folder has to be rewritten.
    static func isPatterned(_ json: JSONValue, _ weights: SafetensorsFile) -> Bool {
        guard json["peft_type"]?.string == "LORA" else { return false }
        func isSet(_ key: String) -> Bool {
            let value = json[key] ?? .null
            return !value.isNull && value.array?.isEmpty != true && value.object?.keys.isEmpty != true
        }
        let target = json["target_modules"]?.string
        if target != nil && target != "all-linear" { return true }
        if (choices.dropFirst() + ["rank_pattern", "alpha_pattern"]).contains(where: isSet) { return true }
        if weights.tensors.contains(where: { $0.name.contains("lora_embedding_") }) { return true }
        let listed = Set(json["modules_to_save"]?.array?.compactMap(\.string) ?? [])
        return !tables(weights).isSubset(of: listed)
    }

    /// Last components of the names of whole tables: PEFT adds those of tokens and outputs when the vocabulary was changed.
    private static func tables(_ weights: SafetensorsFile) -> Set<String> {
        Set(
            weights.tensors.map(\.name).filter { !$0.contains(".lora_") && $0.hasSuffix(".weight") }
                .compactMap { $0.split(separator: ".").dropLast().last.map(String.init) })
    }

    /// PEFT: ranks are those of the tensors. α_i / r_i goes into B where maps differ, and the lower ranks are filled up with
    /// zeros to R, which changes no product.
    init(peft weights: SafetensorsFile, _ json: JSONValue, _ file: String) throws {
        var plain = json.object ?? JSONObject()
        for key in Self.choices + ["rank_pattern", "alpha_pattern"] { plain[key] = nil }
        var config = try AdapterConfig(.object(plain), file: file)
        let alphas = try (json["alpha_pattern"]?.object?.keys ?? []).map { key in
            guard let alpha = json["alpha_pattern"]?[key]?.double else {
                throw UserError("\(file): \"alpha_pattern\" \(key) is no number")
            }
            do {
                return (pattern: try NamePattern("(?:.*\\.)?(?:\(key))"), alpha: alpha)
            } catch let problem as UserError {
                throw UserError("\(file): \"alpha_pattern\" \(key): \(problem.message)")
            }
        }
        if let odd = weights.tensors.first(where: { $0.name.contains("lora_embedding_") }) {
            throw UserError(
                "\(weights.path): tensor \(odd.name) adapts the token table; merge it with peft, or train the table whole (modules_to_save)"
            )
        }
        let tables = Self.tables(weights)
        if let absent = config.savedModules.first(where: { !tables.contains($0) }) {
            throw UserError("\(weights.path): holds no \(absent), which adapter_config.json names in modules_to_save")
        }
        let scales = try Self.scales(weights) { name, rank in
            let alpha = alphas.first { $0.pattern.matches(name) }?.alpha ?? config.alpha
            return config.scaling.value(alpha: alpha, rank: rank)
        }
        let rank = scales.values.map(\.rank).max() ?? config.rank
        let largest = scales.values.map(\.scale).max { abs($0) < abs($1) } ?? config.scale
        let scale = largest == 0 ? 1 : largest
        if rank != config.rank || scale != config.scale || scales.values.contains(where: { $0 != (rank, scale) }) {
            (config.rank, config.alpha) = (rank, scale / config.scaling.value(alpha: 1, rank: rank))
        }
        parts = weights.tensors.map { tensor in
            let module = tensor.name.firstRange(of: ".lora_").map { String(tensor.name[..<$0.lowerBound]) }
            let own = module.flatMap { scales[$0] }, isB = tensor.name.hasSuffix(".lora_B.weight")
            return Part(
                name: tensor.name, source: tensor, rank: own.flatMap { $0.rank == rank ? nil : rank },
                factor: isB ? own.map { $0.scale / scale } ?? 1 : 1)
        }
        self.weights = weights
        config.targets = Self.modules(parts.map(\.name))
        config.savedModules = tables.sorted()
        self.config = config
        try checkMatrices(rank)
    }

    /// Rank and scale of each map, by the name before `.lora_`.
    private static func scales(
        _ weights: SafetensorsFile, _ scale: (_ name: String, _ rank: Int) -> Double
    ) throws -> [String: (rank: Int, scale: Double)] {
        var scales: [String: (rank: Int, scale: Double)] = [:]
        for tensor in weights.tensors where tensor.name.hasSuffix(".lora_A.weight") {
            guard tensor.shape.count == 2, tensor.shape[0] > 0 else {
                throw UserError("\(weights.path): tensor \(tensor.name) has shape \(tensor.shape), which is no matrix")
            }
            let module = String(tensor.name.dropLast(".lora_A.weight".count)), rank = tensor.shape[0]
            scales[module] = (rank, scale(String(module.dropFirst(AdapterFiles.prefix.count)), rank))
        }
        return scales
    }
}
