// The two files of a PEFT adapter folder, adapter_config.json and adapter_model.safetensors.
internal import Diagnostics
public import Formats

/// An adapter on disk: what it means, and its tensors.
public struct AdapterFiles: Sendable {
    public let config: AdapterConfig
    public let weights: SafetensorsFile
    /// What stands before the base model's names.
    public static let prefix = "base_model.model."
    public static let weightsName = "adapter_model.safetensors"
    public static let configName = "adapter_config.json"

    public init(folder: String) throws {
        let file = joinPath(folder, Self.configName)
        config = try AdapterConfig(readJSONFile(file), file: file)
        let path = joinPath(folder, Self.weightsName)
        if !fileExists(path), let pickle = try Self.pickle(in: folder) {
            throw UserError(
                "\(joinPath(folder, pickle)): pickle files are never read; save the adapter as safetensors (peft's default)"
            )
        }
        weights = try SafetensorsFile(path: path)
    }

    /// PEFT's adapter_model.bin, torchtune's adapter_model.pt and adapter_0.pt; nil in a folder without.
    private static func pickle(in folder: String) throws -> String? {
        try listFolder(folder).filter { $0.hasPrefix("adapter_") && hasPickleExtension($0) }.min()
    }

    /// The model's own name for a tensor, after the prefix: some versions of peft end the magnitude's in `.weight`, and all
    /// call the output table as transformers 5 does.
    public static func normalized(_ name: String, _ naming: TensorNaming) -> String {
        let name = name.hasSuffix("lora_magnitude_vector.weight") ? String(name.dropLast(7)) : name
        let head = prefix + TensorNaming.adapterHeadModule + "."
        return name.hasPrefix(head) ? prefix + naming.headModule + "." + name.dropFirst(head.count) : name
    }

    /// Whether a base whose output table is the token table has two tables with this adapter: the output table is saved, or
    /// only the token table, so that the base's goes on as the output table. One saved as a copy of the other says nothing,
    /// since PEFT keeps the two apart once one of them is saved.
    ///
    /// - Parameter naming: of a base whose tables are tied.
    public func partsTables(_ naming: TensorNaming) throws -> Bool {
        func saved(_ name: String) -> TensorInfo? {
            weights.tensors.first { Self.normalized($0.name, naming) == Self.prefix + name }
        }
        let table = saved(naming.tokenTable), head = saved(naming.headTable)
        guard let table, let head else { return table != nil || head != nil }
        return try !weights.bytes(of: head.name).elementsEqual(weights.bytes(of: table.name))
    }
}

extension ConfigReader {
    /// Whether config.json ties the output table to the token table.
    package func tiesTables() throws -> Bool {
        let type = try string("model_type", "")
        return try bool("tie_word_embeddings", type == "gpt2" || type.hasPrefix("gemma"))
    }
}

/// config.json of a model that an adapter gives an output table of its own.
public func untied(_ config: JSONValue) -> JSONValue {
    guard var object = config.object else { return config }
    object["tie_word_embeddings"] = false
    return .object(object)
}
