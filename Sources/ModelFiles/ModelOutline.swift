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
    /// Numbers in the tables of tokens, positions and outputs.
    public let tables: Int
    /// Longest document the position table allows; nil where positions are computed.
    public let positions: Int?

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
        let naming = try TensorNaming(folder: place)
        let weights = tensors.compactMap { tensor in naming.weight(tensor.name).map { (name: $0, shape: tensor.shape) }
        }
        guard let table = weights.first(where: { $0.name == naming.tokenTable })?.shape, table.count == 2 else {
            throw UserError("\(place): no tensor \(naming.tokenTable); this is no model of a supported family")
        }
        (vocabSize, hiddenSize) = (table[0], table[1])
        tiedHead = !weights.contains { $0.name == TensorNaming.headTable }
        self.weights = weights.reduce(0) { $0 + $1.shape.reduce(1, *) }
        blockLinears = weights.compactMap { name, shape in
            guard naming.isBlockMap(name, shape) else { return nil }
            let (outputs, inputs) = naming.mapsLieTransposed ? (shape[1], shape[0]) : (shape[0], shape[1])
            return LinearMap(name: String(name.dropLast(".weight".count)), outputs: outputs, inputs: inputs)
        }
        layers = Set(blockLinears.map { $0.name.split(separator: ".")[2] }).count
        positions = try positionLimit(ofModel: place)
        tables = weights.filter { $0.shape.count == 2 && !$0.name.hasPrefix(naming.blocks) }
            .reduce(0) { $0 + $1.shape.reduce(1, *) }
    }

    /// Numbers that a block keeps of each token from forward to backward.
    ///
    /// The two norms keep their inputs and the maps theirs, attention q, k and v, the MLP what its activation is made of.
    public var keptByBlock: Int {
        func width(_ name: String) -> Int { blockLinears.first { $0.name.hasSuffix(".\(name)") }?.outputs ?? 0 }
        let qkv = width("q_proj") + width("k_proj") + width("v_proj") + width("c_attn")
        return 4 * hiddenSize + qkv + queryWidth + 3 * width("gate_proj") + 2 * width("c_fc")
    }

    /// Width of all query heads of a block together: what its attention hands to the map after it.
    public var queryWidth: Int {
        blockLinears.first { $0.name.hasSuffix(".o_proj") || $0.name.hasSuffix(".attn.c_proj") }?.inputs ?? 0
    }
}
