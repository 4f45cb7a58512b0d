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
        /// Bytes of its weight in the model's file.
        public let storedBytes: Int
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
    /// Longest document the model can take; nil for any.
    public let positions: Int?
    /// Norms of a block; whether queries and keys are normalized too.
    private let norms: Int, normalizesInputs: Bool, normalizesHeads: Bool

    /// - Parameters:
    ///   - model: a Hugging Face, adapter or run folder, or a GGUF file; of an adapter, its base counts.
    ///   - base: overrides the base that an adapter names.
    /// - Throws: `UserError` saying what is missing.
    public init(_ model: String, base: String? = nil) throws {
        let path = try ModelReference.weightsPath(model)
        if fileExists(path) {
            guard try isGGUF(path) else { throw ModelReference.notAModel(path) }
            let file = try GGUFFile(path: path)
            let shape = try GGUFShape(file)
            let tensors = try shape.tensorPlan().map { ($0.name, $0.folderShape, $1.byteRange.count) }
            try self.init(tensors, shape.config(.f32), in: path)
        } else if fileExists(joinPath(path, AdapterFiles.configName)) {
            try self.init(ModelReference.basePath(ofAdapter: path, override: base))
        } else if fileExists(joinPath(path, "config.json")) {
            let files = try SafetensorsFolder(folder: path)
            let tensors = files.names.compactMap { name in
                files.info(name).map { (name, $0.shape, $0.byteRange.count) }
            }
            try self.init(tensors, readJSONFile(joinPath(path, "config.json")), in: path)
        } else {
            throw ModelReference.notAModel(path)
        }
    }

    private init(
        _ tensors: [(name: String, shape: [Int], bytes: Int)], _ config: JSONValue, in place: String
    ) throws {
        let naming = TensorNaming(modelType: config["model_type"]?.string)
        let weights = tensors.compactMap { tensor in
            naming.weight(tensor.name).map { (name: $0, shape: tensor.shape, bytes: tensor.bytes) }
        }
        guard let table = weights.first(where: { $0.name == naming.tokenTable })?.shape, table.count == 2 else {
            throw UserError("\(place): no tensor \(naming.tokenTable); this is no model of a supported family")
        }
        (vocabSize, hiddenSize) = (table[0], table[1])
        tiedHead = !weights.contains { $0.name == naming.headTable }
        self.weights = weights.reduce(0) { $0 + $1.shape.reduce(1, *) }
        blockLinears = weights.compactMap { name, shape, bytes in
            guard naming.isBlockMap(name, shape) else { return nil }
            let (outputs, inputs) = naming.mapsLieTransposed ? (shape[1], shape[0]) : (shape[0], shape[1])
            return LinearMap(
                name: String(name.dropLast(".weight".count)), outputs: outputs, inputs: inputs, storedBytes: bytes)
        }
        layers = Set(blockLinears.map { $0.name.split(separator: ".")[2] }).count
        positions = positionLimit(config)
        let first = weights.filter { $0.name.hasPrefix(naming.blocks + "0.") && $0.name.hasSuffix(".weight") }
        norms = first.count { $0.name.hasSuffix("layernorm.weight") || $0.name.contains(".ln_") }
        let inputNorms = [".input_layernorm.weight", ".ln_1.weight"]
        normalizesInputs = first.contains { weight in inputNorms.contains { weight.name.hasSuffix($0) } }
        normalizesHeads = first.contains { $0.name.hasSuffix(".q_norm.weight") }
        tables = weights.filter { $0.shape.count == 2 && !$0.name.hasPrefix(naming.blocks) }
            .reduce(0) { $0 + $1.shape.reduce(1, *) }
    }

    /// Numbers that a block keeps of each token from forward to backward.
    ///
    /// Norms keep their inputs and the maps theirs, attention q, k and v, the MLP what its activation is made of.
    public var keptByBlock: Int {
        let qkv = width("q_proj", "k_proj", "v_proj", "c_attn", "qkv_proj", "query_key_value")
        let beforeNorm = normalizesHeads ? width("q_proj", "k_proj") : 0
        return (norms + 2) * hiddenSize + qkv + beforeNorm + queryWidth + 3 * gatedWidth + 2 * plainWidth
    }

    /// Of these, what selective checkpointing makes again: what norms in front of maps give, and what gates and activations do.
    public var madeAgainByBlock: Int {
        (normalizesInputs ? 2 * hiddenSize : 0) + gatedWidth + plainWidth
    }

    private func width(_ names: String...) -> Int {
        names.reduce(0) { sum, name in
            sum + (blockLinears.first { $0.name.hasSuffix(".\(name)") }?.outputs ?? 0)
        }
    }
    /// Of the MLP, with a gate and without.
    private var gatedWidth: Int { width("gate_proj") + width("gate_up_proj") / 2 }
    private var plainWidth: Int { width("c_fc", "dense_h_to_4h") }

    /// Width of all query heads of a block together: what its attention hands to the map after it.
    public var queryWidth: Int {
        let names = [".o_proj", ".attn.c_proj", ".attention.dense"]
        return blockLinears.first { map in names.contains { map.name.hasSuffix($0) } }?.inputs ?? 0
    }
}
