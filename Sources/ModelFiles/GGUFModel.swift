// A GGUF file as a model in the words of Hugging Face, its weights where they lie.
internal import Diagnostics
public import Formats
public import Tokenizers

extension GGUFFile {
    /// - Throws: `UserError` for an adapter, and for a file of metadata alone.
    func refuseWithoutModel() throws {
        if metadata["general.type"]?.string == "adapter" {
            throw UserError(
                "\(path): a LoRA adapter (general.type is adapter), which is not read from GGUF; give the folder it was made "
                    + "of (adapter_config.json, adapter_model.safetensors)")
        }
        if tensors.isEmpty { throw UserError("\(path): holds no tensors, so it is no model") }
    }
}

/// A mapped GGUF file whose tensors have been proven to fit its metadata.
public struct GGUFModel {
    /// A tensor under its Hugging Face name.
    public struct Weight {
        public let name: String
        public let tensor: GGUFTensor
        /// Row-major, as a Hugging Face folder has it.
        public let shape: [Int]
        let change: GGUFChange

        /// For each row in Hugging Face's order, its place in the file; nil when the orders agree.
        public var rowOrder: [Int]? { change.rowOrder(tensor.shape[0]) }
    }

    public let file: GGUFFile
    /// What config.json would say.
    public let config: JSONValue
    /// Ids at which an answer ends.
    public let endTokens: [Int]
    public let weights: [Weight]
    public let tokenizer: Tokenizer

    /// - Throws: `UserError` for another architecture, a missing tensor or one without a place.
    public init(path: String) throws {
        guard fileExists(path), try isGGUF(path) else {
            throw UserError("\(path): not a GGUF file; only those keep their weights as they are", .usage)
        }
        file = try GGUFFile(path: path)
        let shape = try GGUFShape(file)
        config = shape.config(.f32)
        endTokens = shape.generationConfig["eos_token_id"]?.int.map { [$0] } ?? []
        tokenizer = try Tokenizer(gguf: file.metadata)
        weights = try shape.tensorPlan().map { rule, tensor in
            Weight(name: rule.name, tensor: tensor, shape: rule.folderShape, change: rule.change)
        }
    }

    /// The numbers of a weight as a Hugging Face folder has them.
    public func floats(_ weight: Weight) throws -> [Float] { try Self.floats(file, weight.tensor, weight.change) }

    static func floats(_ file: GGUFFile, _ tensor: GGUFTensor, _ change: GGUFChange) throws -> [Float] {
        let values = try [Float](unsafeUninitializedCapacity: tensor.elementCount) { buffer, count in
            try file.dequantize(tensor, into: buffer.baseAddress!)
            count = tensor.elementCount
        }
        return change.toFolder(values, tensor.shape)
    }
}
