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
        if !fileExists(path), fileExists(joinPath(folder, "adapter_model.bin")) {
            throw UserError(
                "\(joinPath(folder, "adapter_model.bin")): pickle files are never read; save the adapter as safetensors (peft's default)"
            )
        }
        weights = try SafetensorsFile(path: path)
    }

    /// Some versions of peft end the magnitude's name in `.weight`.
    public static func normalized(_ name: String) -> String {
        name.hasSuffix("lora_magnitude_vector.weight") ? String(name.dropLast(7)) : name
    }

    /// What a saved output table means on a base whose output table is the token table.
    public enum SavedHead: Sendable {
        /// None is saved.
        case absent
        /// The saved token table once more: PEFT keeps the two apart once one of them is saved.
        case copy
        /// Another one: with this adapter the model has two tables.
        case own
    }

    public func savedHead(_ naming: TensorNaming) throws -> SavedHead {
        let head = Self.prefix + naming.headTable, table = Self.prefix + naming.tokenTable
        guard weights[head] != nil else { return .absent }
        guard weights[table] != nil else { return .own }
        return try weights.bytes(of: head).elementsEqual(weights.bytes(of: table)) ? .copy : .own
    }
}

/// config.json of a model that an adapter gives an output table of its own.
public func untied(_ config: JSONValue) -> JSONValue {
    guard var object = config.object else { return config }
    object["tie_word_embeddings"] = false
    return .object(object)
}
