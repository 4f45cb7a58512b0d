// The model of a run with what is trained of it, and the files that hold that.
internal import Checkpoints
internal import Diagnostics
internal import Formats
internal import Layers
internal import ModelFiles
internal import Models
internal import RandomStreams
internal import RunConfig
internal import RunLog
internal import Tensors
internal import Tokenizers

/// A loaded model, its trained parameters under their checkpoint names, and how they are saved.
final class TrainedModel {
    let loaded: LoadedModel
    /// nil when all weights are trained.
    let adapter: AdapterConfig?
    let parameters: [(name: String, parameter: Parameter)]
    private let tokenizer: Tokenizer
    private let seed: UInt64
    private let hasNewTokens: Bool
    /// The block type that products are to see weights in, and the steps before they do.
    private var awareness: (type: GGMLType, after: Int)?

    init(_ config: SFTConfig, _ inputs: SFTInputs) throws {
        let device = inputs.device
        let isFull = config.adapter.method == .full
        loaded = try LoadedModel(
            inputs.reference, dtype: config.computeDType(on: device), device: device, trainsAll: isFull,
            randomSeed: config.model.initialize == .random ? config.training.seed : nil,
            quantization: config.model.quantize.quantization)
        loaded.model.recomputation = .init(
            stride: config.training.recomputeBlocks, isSelective: config.training.recomputeSelective,
            keepsBFloat16: config.training.recomputeInBf16)
        tokenizer = inputs.tokenizer
        seed = config.training.seed
        // Also those of an adapter that is continued: its tokenizer lies beside it.
        hasNewTokens =
            !config.data.addTokens.isEmpty || inputs.reference.tokenizerFolder != inputs.reference.baseFolder
        loaded.resizeVocabulary(to: inputs.tokenizer.vocabularySize)
        adapter = isFull ? nil : try Self.adapter(config, loaded, inputs.reference)
        if let adapter {
            parameters = Adapter.parts(of: loaded, adapter)
            for (_, parameter) in parameters { parameter.train() }
        } else {
            parameters = loaded.model.namedParameters()
        }
        awareness = config.training.quantizeAware.type.map { ($0, config.training.quantizeAwareAfter) }
        if awareness == nil { loaded.splitMasters() }
    }

    /// Begins quantization-aware training where its turn has come, also when a run goes on behind it.
    func prepare(step: Int) {
        guard let (type, after) = awareness, step >= after else { return }
        loaded.roundWeights(to: type)
        awareness = nil
    }

    /// Whether quantization-aware training is still to begin.
    var awaitsRounding: Bool { awareness != nil }

    /// The adapter that the reference brought (with this run's dropout), else a new one.
    private static func adapter(_ config: SFTConfig, _ loaded: LoadedModel, _ reference: ModelReference) throws
        -> AdapterConfig
    {
        if let folder = reference.adapterFolder {
            var adapter = try Adapter(folder: folder).config
            adapter.dropout = config.adapter.dropout
            for (_, linear) in loaded.model.blockLinears { linear.adapter?.dropout = adapter.dropout }
            return adapter
        }
        let section = config.adapter
        let tables =
            [loaded.naming.tokenModule]
            + (loaded.model.isTied ? [] : [loaded.naming.headModule])
        let adapter = AdapterConfig(
            rank: section.rank, alpha: section.alpha, dropout: section.dropout,
            scaling: section.method == .rslora ? .rankStabilized : .standard, hasMagnitude: section.method == .dora,
            targets: section.targets == ["all_linear"] ? loaded.model.blockLinearKinds : section.targets,
            savedModules: section.saveEmbeddings ? tables : [],
            baseModel: reference.baseFolder)
        try Adapter.attachNew(adapter, to: loaded, seed: config.training.seed)
        return adapter
    }

    /// The matrices of the blocks: parameters' names with the number of equal maps that lie in each.
    var blockMatrices: [String: Int] {
        Dictionary(uniqueKeysWithValues: loaded.model.blockLinears.map { ($0.name + ".weight", $0.linear.parts) })
    }

    /// Chooses this micro-batch's dropout; nil turns it off.
    func drawDropout(step: Int, microBatch: Int) {
        for (i, (_, linear)) in loaded.model.blockLinears.enumerated() {
            linear.adapter?.dropoutStream = RandomStream(seed: seed, 0xD0, UInt64(i), UInt64(step), UInt64(microBatch))
        }
    }

    func withoutDropout<R>(_ body: () throws -> R) rethrows -> R {
        for (_, linear) in loaded.model.blockLinears { linear.adapter?.dropoutStream = nil }
        return try body()
    }

    /// Writes the trained model: a PEFT folder, or a Hugging Face folder in fp32; the tokenizer where it is needed.
    func write(to folder: String) throws {
        if let adapter {
            try Adapter.write(loaded, adapter, to: folder)
            if hasNewTokens { try tokenizer.save(to: folder) }
        } else {
            try loaded.writeMerged(to: folder, .float32)
            try tokenizer.save(to: folder)
        }
    }

    /// Bytes of the trained weights with both moments.
    var stateBytes: Int { parameters.reduce(0) { $0 + 3 * 4 * $1.parameter.shape.reduce(1, *) } + 8 << 20 }

    /// Overwrites the trained weights with those of a checkpoint.
    func restore(from folder: String) throws {
        if adapter != nil {
            let file = try SafetensorsFile(path: joinPath(folder, AdapterFiles.weightsName))
            for (name, parameter) in parameters { parameter.fill(try file.tensor(name)) }
        } else {
            let weights = try SafetensorsFolder(folder: folder)
            for (name, parameter) in parameters {
                guard let info = weights.info(name) else { throw UserError("\(folder): no tensor \(name)") }
                parameter.fill(fromFile: try tensor(info, weights.bytes(of: name), in: folder))
            }
        }
    }
}

extension TrainingSection.QuantizeAware {
    fileprivate var type: GGMLType? {
        switch self {
        case .none: nil
        case .q8_0: .q8_0
        case .q4_0: .q4_0
        case .q4_k: .q4_K
        case .q5_k: .q5_K
        case .q6_k: .q6_K
        }
    }
}

extension Parameter {
    /// Makes it a master: fp32 (fp64 stays) and trained.
    fileprivate func train() {
        if value.dtype != .float64, value.dtype != .float32 { replace(with: value.to(.float32)) }
        isTrained = true
    }
}
