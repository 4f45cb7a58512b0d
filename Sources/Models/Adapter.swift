// Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.
internal import Checkpoints
internal import Diagnostics
public import Formats
public import Layers
internal import ModelFiles
internal import RandomStreams
public import Tensors

/// What adapter_config.json says, as far as it is supported; everything else that would change the computation is refused.
public struct AdapterConfig: Sendable, Equatable {
    public var rank: Int
    public var alpha: Double
    public var dropout: Double
    public var scaling: AdapterScaling
    /// DoRA's magnitude vectors.
    public var hasMagnitude: Bool
    /// Last components of the names of the linear maps, such as `q_proj`.
    public var targets: [String]
    /// Whole tables trained beside the adapter: `embed_tokens`, `lm_head`.
    public var savedModules: [String]
    /// The base, as others will look for it.
    public var baseModel: String

    public init(
        rank: Int, alpha: Double, dropout: Double, scaling: AdapterScaling, hasMagnitude: Bool, targets: [String],
        savedModules: [String], baseModel: String
    ) {
        (self.rank, self.alpha, self.dropout, self.scaling) = (rank, alpha, dropout, scaling)
        (self.hasMagnitude, self.targets, self.savedModules, self.baseModel) = (hasMagnitude, targets, savedModules, baseModel)
    }

    init(_ json: JSONValue, file: String) throws {
        let reader = ConfigReader(json: json, file: file)
        let type = try reader.string("peft_type")
        guard type == "LORA" else { throw UserError("\(file): peft_type \(type) is not supported; LORA is") }
        rank = try reader.positive("r")
        alpha = try reader.number("lora_alpha", 8)
        dropout = try reader.number("lora_dropout", 0)
        scaling = try reader.bool("use_rslora", false) ? .rankStabilized : .standard
        hasMagnitude = try reader.bool("use_dora", false)
        savedModules = try Self.names(json["modules_to_save"], "modules_to_save", file)
        baseModel = try reader.string("base_model_name_or_path", "")
        targets = json["target_modules"]?.string == "all-linear" ? [] : try Self.names(json["target_modules"], "target_modules", file)
        for (key, harmless) in Self.harmless { try reader.refuse(key, unless: harmless) }
    }

    /// Settings of peft that change what is computed, with the values at which they do not.
    private static let harmless: [(String, [JSONValue])] = [
        ("bias", ["none"]), ("rank_pattern", [[:]]), ("alpha_pattern", [[:]]), ("layers_to_transform", [[]]),
        ("layers_pattern", [[]]), ("exclude_modules", [[]]), ("fan_in_fan_out", [false]), ("lora_bias", [false]),
        ("target_parameters", [[]]), ("trainable_token_indices", [[]]), ("layer_replication", [[]]), ("megatron_config", []),
        ("alora_invocation_tokens", [[]]), ("use_qalora", [false]), ("arrow_config", []), ("use_bdlora", [false]),
    ]

    private static func names(_ value: JSONValue?, _ key: String, _ file: String) throws -> [String] {
        guard let value, !value.isNull else { return [] }
        guard let list = value.array?.map(\.string), !list.contains(nil) else {
            throw UserError("\(file): \"\(key)\" must be a list of names; a pattern is not supported")
        }
        return list.compactMap { $0 }
    }

    public var json: JSONValue {
        [
            "alpha_pattern": [:], "auto_mapping": nil, "base_model_name_or_path": .string(baseModel), "bias": "none",
            "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "layers_pattern": nil,
            "layers_to_transform": nil, "lora_alpha": alpha == alpha.rounded() ? .init(Int(alpha)) : .init(alpha),
            "lora_dropout": .init(dropout),
            "modules_to_save": savedModules.isEmpty ? nil : .array(savedModules.map { .string($0) }),
            "peft_type": "LORA", "r": .init(rank), "rank_pattern": [:], "revision": nil,
            "target_modules": .array(targets.map { .string($0) }), "task_type": "CAUSAL_LM",
            "use_dora": .init(hasMagnitude), "use_rslora": .init(scaling == .rankStabilized),
        ]
    }

    /// True when the linear map of that name gets an adapter: PEFT's rule, the name or its end after a dot.
    func applies(to name: String) -> Bool {
        targets.isEmpty || targets.contains { name == $0 || name.hasSuffix("." + $0) }
    }
}

/// An adapter on disk.
public struct Adapter {
    public let config: AdapterConfig
    private let weights: SafetensorsFile
    private static let prefix = "base_model.model."
    public static let weightsName = "adapter_model.safetensors"
    public static let configName = "adapter_config.json"

    public init(folder: String) throws {
        let file = joinPath(folder, Self.configName)
        config = try AdapterConfig(readJSONFile(file), file: file)
        let path = joinPath(folder, Self.weightsName)
        if !fileExists(path), fileExists(joinPath(folder, "adapter_model.bin")) {
            throw UserError("\(joinPath(folder, "adapter_model.bin")): pickle files are never read; save the adapter as safetensors (peft's default)")
        }
        weights = try SafetensorsFile(path: path)
    }

    /// Adds untrained adapters to the linear maps that the configuration names.
    ///
    /// - Returns: how many.
    /// - Throws: `UserError` when a target names no linear map of the model.
    @discardableResult
    public static func attachNew(_ config: AdapterConfig, to loaded: LoadedModel, seed: UInt64) throws -> Int {
        let linears = loaded.model.blockLinears
        for target in config.targets where !linears.contains(where: { $0.name == target || $0.name.hasSuffix("." + target) }) {
            let parts = Set(linears.compactMap { $0.name.split(separator: ".").last.map(String.init) })
            let hint = nearestName(to: target, among: parts).map { "; did you mean \($0)?" } ?? "; it has \(parts.sorted().joined(separator: ", "))"
            throw UserError("adapter.targets: the model has no linear map \(target)\(hint)", .usage)
        }
        let chosen = linears.filter { config.applies(to: $0.name) }
        for (i, (_, linear)) in chosen.enumerated() {
            linear.adapter = LowRankAdapter(
                on: linear, rank: config.rank, scaling: config.scaling.value(alpha: config.alpha, rank: config.rank),
                dropout: config.dropout, hasMagnitude: config.hasMagnitude,
                initialization: RandomStream(seed: seed, adapterStream, UInt64(i)))
        }
        return chosen.count
    }

    /// Distinguishes the draws of adapters from others under one seed.
    private static let adapterStream: UInt64 = 0x10A

    /// Attaches adapters with the weights of this file; every tensor must find its place.
    func attach(to loaded: LoadedModel) throws {
        try Self.attachNew(config, to: loaded, seed: 0)
        let tables = loaded.savedTables(config.savedModules)
        // A table of this adapter may have more rows than the base: tokens were added before training.
        for (name, _) in tables {
            if let info = weights[Self.prefix + name], info.shape.count == 2 { loaded.resizeVocabulary(to: info.shape[0]) }
        }
        let parts = Self.parts(of: loaded, config)
        if let problem = mismatch(parameters: parts.map(\.name), tensors: weights.tensors.map { Self.normalized($0.name) }) {
            throw UserError("\(weights.path): tensors do not fit the base model and adapter_config.json: \(problem)")
        }
        for info in weights.tensors {
            let parameter = parts.first { $0.name == Self.normalized(info.name) }!.parameter
            guard info.shape == parameter.value.shape else {
                throw UserError("\(weights.path): tensor \(info.name) has shape \(info.shape), the base model asks for \(parameter.value.shape)")
            }
            parameter.value.copyInPlace(try weights.tensor(info.name))
        }
    }

    /// Some versions of peft end the magnitude's name in `.weight`.
    private static func normalized(_ name: String) -> String {
        name.hasSuffix("lora_magnitude_vector.weight") ? String(name.dropLast(7)) : name
    }

    /// Every tensor of the adapter under PEFT's name.
    public static func parts(of loaded: LoadedModel, _ config: AdapterConfig) -> [(name: String, parameter: Parameter)] {
        var parts: [(name: String, parameter: Parameter)] = []
        for (name, linear) in loaded.model.blockLinears {
            guard let adapter = linear.adapter else { continue }
            parts.append((prefix + name + ".lora_A.weight", adapter.a))
            parts.append((prefix + name + ".lora_B.weight", adapter.b))
            if let magnitude = adapter.magnitude { parts.append((prefix + name + ".lora_magnitude_vector", magnitude)) }
        }
        return parts + loaded.savedTables(config.savedModules).map { (prefix + $0.name, $0.parameter) }
    }

    /// Writes adapter_config.json and adapter_model.safetensors (fp32) into an existing folder.
    public static func write(_ loaded: LoadedModel, _ config: AdapterConfig, to folder: String) throws {
        let tensors = parts(of: loaded, config).map { SafetensorsWriter.Tensor($0.name, $0.parameter.value, .float32) }
        try SafetensorsWriter.write(path: joinPath(folder, weightsName), tensors: tensors, metadata: [("format", "pt")])
        try writeFileAtomically(config.json.serialized(.pretty) + "\n", to: joinPath(folder, configName))
    }
}

extension LoadedModel {
    /// The token tables among `modules_to_save`, with their checkpoint names.
    func savedTables(_ names: [String]) -> [(name: String, parameter: Parameter)] {
        model.namedParameters().filter { name, _ in
            names.contains { name == $0 + ".weight" || name.hasSuffix("." + $0 + ".weight") }
        }
    }

    /// Writes a Hugging Face folder (config.json and weights) in which adapters are merged into their linear maps.
    ///
    /// - Parameter dtype: of the written weights; merging itself is fp32.
    public func writeMerged(to folder: String, _ dtype: DType) throws {
        let adapted = Dictionary(
            uniqueKeysWithValues: model.blockLinears.compactMap { name, linear in
                linear.adapter.map { (name + ".weight", (linear, $0)) }
            })
        let tensors = model.namedParameters().map { name, parameter in
            guard let (linear, adapter) = adapted[name] else { return SafetensorsWriter.Tensor(name, parameter.value, dtype) }
            return SafetensorsWriter.Tensor(name: name, elementType: dtype.elementType, shape: parameter.shape) { emit in
                try adapter.merged(linear.weight).to(dtype, .cpu).contiguous().withBytes { try emit($0) }
            }
        }
        try SafetensorsWriter.write(folder: folder, tensors: tensors, metadata: [("format", "pt")])
        try writeFileAtomically(configJSON(dtype).serialized(.pretty) + "\n", to: joinPath(folder, "config.json"))
        let generation = joinPath(reference.baseFolder, "generation_config.json")
        if fileExists(generation) {
            try writeFileAtomically(readFile(generation), to: joinPath(folder, "generation_config.json"))
        }
    }

    /// config.json with the dtype of the weights beside it.
    private func configJSON(_ dtype: DType) -> JSONValue {
        guard case .object(var object) = config else { return config }
        for key in ["torch_dtype", "dtype"] where object[key] != nil { object[key] = .string("\(dtype)") }
        return .object(object)
    }
}
