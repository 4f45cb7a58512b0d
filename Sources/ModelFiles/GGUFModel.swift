// A GGUF file as a model in the words of Hugging Face, its weights where they lie.
internal import Diagnostics
public import Formats
public import Tokenizers

/// A mapped GGUF file of the Llama family whose tensors have been proven to fit its metadata.
public struct GGUFModel {
    /// A tensor under its Hugging Face name.
    public struct Weight {
        public let name: String
        public let tensor: GGUFTensor
        /// Heads whose rows llama.cpp stores as rotated pairs; nil for tensors that need no other order.
        public let interleavedHeads: Int?

        /// For each row in Hugging Face's order, its place in the file; nil when the orders agree.
        public var rowOrder: [Int]? {
            interleavedHeads.map { heads in
                let rows = tensor.shape[0], E = rows / heads
                return (0..<rows).map { $0 / E * E + $0 % E % (E / 2) * 2 + $0 % E / (E / 2) }
            }
        }
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
        weights = try shape.tensorPlan(file).map {
            Weight(name: $0.name, tensor: $0.tensor, interleavedHeads: $0.interleavedHeads)
        }
    }
}
