// adapter_config.json as PEFT writes it: what an adapter's tensors mean. Whoever computes with them reads it here.
internal import Diagnostics
public import Formats

/// How the scaling follows from alpha and rank.
public enum AdapterScaling: String, Sendable {
    /// α / r (Hu et al. 2021, arXiv:2106.09685, 4.1)
    case standard
    /// α / √r (Kalajdzievski 2023, arXiv:2312.03732, eq. 6)
    case rankStabilized

    public func value(alpha: Double, rank: Int) -> Double {
        self == .standard ? alpha / Double(rank) : alpha / Double(rank).squareRoot()
    }
}

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
        (self.hasMagnitude, self.targets, self.savedModules, self.baseModel) = (
            hasMagnitude, targets, savedModules, baseModel
        )
    }

    /// - Parameter file: the path named in messages.
    /// - Throws: `UserError` for a missing or impossible value and for every setting that would change the computation and
    ///   is not supported.
    public init(_ json: JSONValue, file: String) throws {
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
        targets =
            json["target_modules"]?.string == "all-linear"
            ? [] : try Self.names(json["target_modules"], "target_modules", file)
        for (key, harmless) in Self.harmless { try reader.refuse(key, unless: harmless) }
    }

    /// Settings of peft that change what is computed, with the values at which they do not.
    private static let harmless: [(String, [JSONValue])] = [
        ("bias", ["none"]), ("rank_pattern", [[:]]), ("alpha_pattern", [[:]]), ("layers_to_transform", [[]]),
        ("layers_pattern", [[]]), ("exclude_modules", [[]]), ("lora_bias", [false]),
        ("target_parameters", [[]]), ("trainable_token_indices", [[]]), ("layer_replication", [[]]),
        ("megatron_config", []),
        ("alora_invocation_tokens", [[]]), ("use_qalora", [false]), ("arrow_config", []), ("use_bdlora", [false]),
    ]

    private static func names(_ value: JSONValue?, _ key: String, _ file: String) throws -> [String] {
        guard let value, !value.isNull else { return [] }
        guard let list = value.array?.map(\.string), !list.contains(nil) else {
            throw UserError("\(file): \"\(key)\" must be a list of names; a pattern is not supported")
        }
        return list.compactMap { $0 }
    }

    /// Contents for adapter_config.json of an adapter on a base so named. `fan_in_fan_out` follows from the base: what a file
    /// says of it changes nothing, here as in PEFT.
    public func json(_ naming: TensorNaming) -> JSONValue {
        [
            "alpha_pattern": [:], "auto_mapping": nil, "base_model_name_or_path": .string(baseModel), "bias": "none",
            "fan_in_fan_out": .init(naming.mapsLieTransposed), "inference_mode": true, "init_lora_weights": true,
            "layers_pattern": nil,
            "layers_to_transform": nil, "lora_alpha": Int(exactly: alpha).map { .init($0) } ?? .init(alpha),
            "lora_dropout": .init(dropout),
            "modules_to_save": savedModules.isEmpty ? nil : .array(savedModules.map { .string($0) }),
            "peft_type": "LORA", "r": .init(rank), "rank_pattern": [:], "revision": nil,
            "target_modules": .array(targets.map { .string($0) }), "task_type": "CAUSAL_LM",
            "use_dora": .init(hasMagnitude), "use_rslora": .init(scaling == .rankStabilized),
        ]
    }

    /// What `B A` is multiplied by.
    public var scale: Double { scaling.value(alpha: alpha, rank: rank) }

    /// True when the linear map of that name gets an adapter: PEFT's rule, the name or its end after a dot.
    public func applies(to name: String) -> Bool {
        targets.isEmpty || targets.contains { name == $0 || name.hasSuffix("." + $0) }
    }
}
