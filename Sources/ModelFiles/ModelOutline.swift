// How large a model is, from its files' headers: no weight is read and nothing is converted.
internal import Diagnostics
internal import Formats

/// The sizes of a model that memory and time depend on.
public struct ModelOutline: Sendable, Equatable {
    /// A linear map of a block: `[outputs, inputs]`, under its checkpoint name without `.weight`.
    public struct LinearMap: Sendable, Equatable {
        public let name: String
        public let outputs: Int
        public let inputs: Int
    }

    /// Numbers in all tensors; a table that serves twice counts once.
    public let weights: Int
    /// The maps of all blocks, without the output table.
    public let blockLinears: [LinearMap]
    /// Rows and columns of the token table.
    public let vocabSize: Int, hiddenSize: Int
    /// Whether the output table is the token table.
    public let tiedHead: Bool
    public let layers: Int

    /// - Parameters:
    ///   - model: a Hugging Face, adapter or run folder, or a GGUF file; of an adapter, its base counts.
    ///   - base: overrides the base that an adapter names.
    /// - Throws: `UserError` saying what is missing.
    public init(_ model: String, base: String? = nil) throws {
        let path = try ModelReference.weightsPath(model)
        if fileExists(path) {
            guard try isGGUF(path) else { throw ModelReference.notAModel(path) }
            let file = try GGUFFile(path: path)
            let plan = try GGUFShape(file).tensorPlan(file)
            try self.init(plan.map { ($0.name, $0.tensor.shape) }, in: path)
        } else if fileExists(joinPath(path, AdapterFiles.configName)) {
            try self.init(ModelReference.basePath(ofAdapter: path, override: base))
        } else if fileExists(joinPath(path, "config.json")) {
            let files = try SafetensorsFolder(folder: path)
            try self.init(files.names.compactMap { name in files.info(name).map { (name, $0.shape) } }, in: path)
        } else {
            throw ModelReference.notAModel(path)
        }
    }

    private init(_ tensors: [(name: String, shape: [Int])], in place: String) throws {
        guard let table = tensors.first(where: { $0.name == "model.embed_tokens.weight" })?.shape, table.count == 2
        else {
            throw UserError("\(place): no tensor model.embed_tokens.weight; this is no model of the Llama family")
        }
        (vocabSize, hiddenSize) = (table[0], table[1])
        tiedHead = !tensors.contains { $0.name == "lm_head.weight" }
        weights = tensors.reduce(0) { $0 + $1.shape.reduce(1, *) }
        blockLinears = tensors.compactMap { name, shape in
            guard name.hasPrefix("model.layers."), name.hasSuffix(".weight"), shape.count == 2 else { return nil }
            return LinearMap(name: String(name.dropLast(".weight".count)), outputs: shape[0], inputs: shape[1])
        }
        layers = Set(blockLinears.map { $0.name.split(separator: ".")[2] }).count
    }
}
