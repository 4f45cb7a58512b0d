// Models from folders: the family is found in config.json, every weight has its place, and nothing is dropped.
internal import Checkpoints
internal import Diagnostics
public import Formats
internal import Layers
public import ModelFiles
public import Tensors
public import Tokenizers

/// A model in memory with what is needed to write it back.
public final class LoadedModel {
    public let model: any CausalLanguageModel
    public let shape: any ModelShape
    /// config.json as it was read (with the vocabulary's new size after `resizeVocabulary`).
    public private(set) var config: JSONValue
    public let reference: ModelReference

    /// Loads the base weights and attaches the adapter that the reference names.
    ///
    /// - Parameters:
    ///   - dtype: the dtype of the computation and of the weights that are not trained.
    ///   - trainsAll: keeps fp32 masters and trains every weight.
    ///   - randomSeed: draws the weights, in a folder that holds none; nil reads them.
    ///   - quantization: how the blocks' linear maps are kept, on the CPU, for an adapter or to compute with; nil as
    ///     tensors.
    /// - Throws: `UserError` for files that do not fit the configuration, every missing or unexpected tensor included.
    public convenience init(
        _ reference: ModelReference, dtype: DType, device: Device = .cpu, trainsAll: Bool = false,
        randomSeed: UInt64? = nil, quantization: BaseQuantization? = nil
    ) throws {
        if randomSeed != nil { try refuseWeights(in: reference.baseFolder) }
        try self.init(
            reference, file: joinPath(reference.baseFolder, "config.json"), dtype, device, trainsAll, randomSeed,
            quantization)
    }

    /// A model of random weights from a config.json alone: for measurements.
    public convenience init(
        configuration file: String, dtype: DType, device: Device = .cpu, trainsAll: Bool, randomSeed: UInt64,
        quantization: BaseQuantization? = nil
    ) throws {
        try self.init(
            ModelReference(configuration: file), file: file, dtype, device, trainsAll, randomSeed, quantization)
    }

    /// The model of a GGUF file, its weights in fp32, without a folder in between; to compute with.
    public init(_ source: GGUFModel) throws {
        reference = ModelReference(configuration: source.file.path)
        config = source.config
        shape = try modelShape(config, file: source.file.path)
        let model = shape.makeModel(.float32, on: .cpu)
        let weights = Dictionary(uniqueKeysWithValues: source.weights.map { (ExactString($0.name), $0) })
        for (name, parameter) in model.namedParameters() {
            guard let weight = weights[ExactString(name)], weight.shape == parameter.fileShape else {
                throw UserError("\(source.file.path): its tensors make no \(name) of shape \(parameter.fileShape)")
            }
            parameter.fill(fromFile: Tensor(try source.floats(weight), weight.shape))
        }
        self.model = model
    }

    private init(
        _ reference: ModelReference, file: String, _ dtype: DType, _ device: Device, _ trainsAll: Bool,
        _ randomSeed: UInt64?, _ quantization: BaseQuantization?
    ) throws {
        precondition(!trainsAll || quantization == nil, "packed weights are not trained")
        self.reference = reference
        let adapter = try reference.adapterFolder.map(Adapter.init)
        let storage: DType = trainsAll && dtype != .float64 ? .float32 : dtype
        var config = try readJSONFile(file), shape = try modelShape(config, file: file)
        let isParted = try shape.tiedHead && adapter?.partsTables(type(of: shape).naming) == true
        if isParted {
            config = untied(config)
            shape = try modelShape(config, file: file)
        }
        (self.config, self.shape) = (config, shape)
        let weights = try randomSeed == nil ? Self.weights(of: reference.baseFolder, shape, sharesTable: isParted) : nil
        let model = shape.makeModel(storage, on: device)
        model.computeDType = dtype
        self.model = model
        let packing = try quantization.map { try BasePacking($0, model, reference) }
        if let randomSeed {
            try model.initialize(shape, seed: randomSeed, range: initializerRange(config, file: file)) {
                name, parameter in _ = try packing?.pack(name, parameter) { parameter.filed(parameter.value) }
            }
        } else if let weights {
            for (name, parameter) in model.namedParameters() {
                if try packing?.pack(name, parameter, { try weights.tensor(name) }) == true { continue }
                parameter.fill(fromFile: try weights.tensor(name))
            }
        }
        try packing?.finish(dtype)
        if trainsAll { for (_, parameter) in model.namedParameters() { parameter.isTrained = true } }
        try adapter?.attach(to: self)
    }

    /// The folder's weights, proven to fit.
    ///
    /// - Parameter sharesTable: the folder's token table is the output table's beginning too.
    private static func weights(of folder: String, _ shape: any ModelShape, sharesTable: Bool) throws -> FolderWeights {
        if try listFolder(folder).allSatisfy({ !hasWeightsExtension($0) }) {
            throw UserError(
                "\(folder): no weights (model.safetensors); to train from scratch set model.initialize: random")
        }
        return try FolderWeights(SafetensorsFolder(folder: folder), fitting: shape, sharesTable: sharesTable)
    }

    /// Grows (or keeps) the token tables to `size` rows; new rows are the mean of the old ones, as transformers' resize
    /// draws them around (Hewitt 2021), without its noise.
    public func resizeVocabulary(to size: Int) {
        guard size > model.vocabSize else { return }
        var tables = [model.tokenTable.weight]
        if !model.isTied { tables.append(model.headWeight) }
        withoutGradients {
            for table in tables {
                let old = table.masters, rows = old.shape[0]
                let mean = (old.to(.float32).sum(dim: 0, keepDim: true) / Double(rows)).to(old.dtype)
                table.replace(with: .cat([old, mean.expand(size - rows, old.shape[1])], dim: 0))
            }
        }
        if case .object(var object) = config {
            object["vocab_size"] = .init(size)
            config = .object(object)
        }
    }

    /// Splits the masters of trained matrices where that saves their copy: where products are in bf16, on the CPU
    /// (`Parameter.splitMasters`). Vectors stay whole, since norms and biases are read in fp32.
    public func splitMasters() {
        guard model.computeDType == .bfloat16, model.device == .cpu else { return }
        for (_, parameter) in model.namedParameters()
        where parameter.isTrained && parameter.shape.count == 2 && parameter.value.dtype == .float32 {
            parameter.splitMasters()
        }
    }

    /// Ids at which an answer ends: generation_config.json's, else config.json's, and the tokenizer's own.
    public func endTokens(_ tokenizer: Tokenizer) throws -> Set<Int32> {
        let file = joinPath(reference.baseFolder, "generation_config.json")
        let listed = fileExists(file) ? try readJSONFile(file)["eos_token_id"] : nil
        let value = listed ?? config["eos_token_id"] ?? .null
        let ids = value.array?.compactMap(\.int) ?? value.int.map { [$0] } ?? []
        return tokenizer.endTokens(with: ids)
    }

    /// How the family names its weights.
    public var naming: TensorNaming { type(of: shape).naming }

    /// Tokens per document, as config.json says.
    public var contextLength: Int { model.contextLength }
}

extension Tokenizer {
    /// A model's own end ids and the tokenizer's.
    func endTokens(with ids: [Int]) -> Set<Int32> {
        Set(ids.compactMap { Int32(exactly: $0) } + [eosToken?.id].compactMap { $0 })
    }
}
