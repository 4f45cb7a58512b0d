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

    /// The name of the saved output table on a base whose output table is the token table: a second copy of that table,
    /// since PEFT keeps the two apart once one of them is saved.
    ///
    /// - Throws: `UserError` when the copies differ: the base cannot hold two tables.
    public func tiedHead(_ naming: TensorNaming) throws -> String? {
        let head = Self.prefix + naming.headTable, table = Self.prefix + naming.tokenTable
        guard weights[head] != nil, weights[table] != nil else { return nil }
        guard try weights.bytes(of: head).elementsEqual(weights.bytes(of: table)) else {
            throw UserError(
                "\(weights.path): brings an output table of its own, and the base's is tied to its token table")
        }
        return head
    }
}
