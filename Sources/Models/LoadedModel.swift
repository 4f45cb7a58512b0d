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
    /// config.json as it was read (with the vocabulary's new size after `resizeVocabulary`).
    public private(set) var config: JSONValue
    public let reference: ModelReference

    /// Loads the base weights and attaches the adapter that the reference names.
    ///
    /// - Parameters:
    ///   - dtype: the dtype of the computation and of the weights that are not trained.
    ///   - trainsAll: keeps fp32 masters and trains every weight.
    ///   - randomSeed: draws the weights, in a folder that holds none; nil reads them.
    /// - Throws: `UserError` for files that do not fit the configuration, every missing or unexpected tensor included.
    public convenience init(
        _ reference: ModelReference, dtype: DType, device: Device = .cpu, trainsAll: Bool = false,
        randomSeed: UInt64? = nil
    ) throws {
        if randomSeed != nil { try refuseWeights(in: reference.baseFolder) }
        try self.init(
            reference, file: joinPath(reference.baseFolder, "config.json"), dtype, device, trainsAll, randomSeed)
    }

    /// A model of random weights from a config.json alone: for measurements.
    public convenience init(
        configuration file: String, dtype: DType, device: Device = .cpu, trainsAll: Bool, randomSeed: UInt64
    ) throws {
        try self.init(ModelReference(configuration: file), file: file, dtype, device, trainsAll, randomSeed)
    }

    private init(
        _ reference: ModelReference, file: String, _ dtype: DType, _ device: Device, _ trainsAll: Bool,
        _ randomSeed: UInt64?
    ) throws {
        self.reference = reference
        config = try readJSONFile(file)
        let storage: DType = trainsAll && dtype != .float64 ? .float32 : dtype
        let shape = try LlamaConfig(config, file: file)
        let weights = try randomSeed == nil ? Self.weights(of: reference.baseFolder, shape) : nil
        let model = Llama(shape, storage, on: device)
        model.computeDType = dtype
        self.model = model
        if let randomSeed {
            try model.initialize(seed: randomSeed, deviation: initializerRange(config, file: file))
        } else if let weights {
            for (name, parameter) in model.namedParameters() { try Self.fill(parameter, name, from: weights) }
        }
        if trainsAll { for (_, parameter) in model.namedParameters() { parameter.isTrained = true } }
        if let adapter = reference.adapterFolder {
            try Adapter(folder: adapter).attach(to: self)
        }
    }

    /// Copies left by old exporters that hold nothing of the model.
    package static func isLeftover(_ name: String) -> Bool { name.hasSuffix(".rotary_emb.inv_freq") }

    /// The folder's weights, proven to fit.
    private static func weights(of folder: String, _ shape: LlamaConfig) throws -> SafetensorsFolder {
        if try listFolder(folder).allSatisfy({ !hasWeightsExtension($0) }) {
            throw UserError(
                "\(folder): no weights (model.safetensors); to train from scratch set model.initialize: random")
        }
        let weights = try SafetensorsFolder(folder: folder)
        try check(weights, against: shape, in: folder)
        return weights
    }

    /// Names and shapes, before any memory is taken.
    private static func check(_ weights: SafetensorsFolder, against config: LlamaConfig, in folder: String) throws {
        // Before listing what every layer needs: the number may be absurd.
        guard config.layers <= weights.names.count else {
            throw UserError(
                "\(folder): config.json has num_hidden_layers \(config.layers), and there are \(weights.names.count) tensors"
            )
        }
        let wanted = config.parameterShapes
        var names = weights.names.filter { !isLeftover($0) }
        if config.tiedHead, let head = weights.info("lm_head.weight") {
            // A tied model may carry its table twice; two different ones would mean that config.json lies.
            guard try weights.bytes(of: head.name).elementsEqual(weights.bytes(of: "model.embed_tokens.weight")) else {
                throw UserError(
                    "\(folder): config.json ties the output table to the token table, but lm_head.weight differs from it"
                )
            }
            names.removeAll { $0 == head.name }
        }
        if let problem = mismatch(parameters: wanted.map(\.name), tensors: names) {
            throw UserError("\(folder): weights do not fit config.json: \(problem)")
        }
        for (name, shape) in wanted {
            guard let info = weights.info(name), info.shape == shape else {
                let found = weights.info(name)?.shape ?? []
                throw UserError("\(folder): tensor \(name) has shape \(found), config.json asks for \(shape)")
            }
            guard info.elementType.isFloatingPoint else {
                throw UserError(
                    "\(folder): tensor \(name) has type \(info.elementType.rawValue); weights must be floating point")
            }
        }
    }

    private static func fill(_ parameter: Parameter, _ name: String, from weights: SafetensorsFolder) throws {
        let source = try tensor(weights.info(name)!, weights.bytes(of: name), in: weights.folder)
        parameter.value.copyInPlace(source)
    }

    /// Grows (or keeps) the token tables to `size` rows; new rows are the mean of the old ones, as transformers' resize
    /// draws them around (Hewitt 2021), without its noise.
    public func resizeVocabulary(to size: Int) {
        guard size > model.vocabSize else { return }
        var tables = [model.tokenTable.weight]
        if model.headWeight !== model.tokenTable.weight { tables.append(model.headWeight) }
        withoutGradients {
            for table in tables {
                let old = table.value.detached(), rows = old.shape[0]
                let mean = (old.to(.float32).sum(dim: 0, keepDim: true) / Double(rows)).to(old.dtype)
                table.replace(with: .cat([old, mean.expand(size - rows, old.shape[1])], dim: 0))
            }
        }
        if case .object(var object) = config {
            object["vocab_size"] = .init(size)
            config = .object(object)
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

    /// Tokens per document, as config.json says.
    public var contextLength: Int { model.contextLength }
}

extension Tokenizer {
    /// A model's own end ids and the tokenizer's.
    func endTokens(with ids: [Int]) -> Set<Int32> {
        Set(ids.compactMap { Int32(exactly: $0) } + [eosToken?.id].compactMap { $0 })
    }
}

extension LlamaConfig {
    /// Name and shape of every weight, without making any.
    var parameterShapes: [(name: String, shape: [Int])] {
        let D = hiddenSize, F = intermediateSize, Q = heads * headDim, KV = kvHeads * headDim
        var result: [(name: String, shape: [Int])] = [("model.embed_tokens.weight", [vocabSize, D])]
        for layer in 0..<layers {
            let at = "model.layers.\(layer)."
            func linear(_ name: String, _ out: Int, _ into: Int, bias: Bool) {
                result.append((at + name + ".weight", [out, into]))
                if bias { result.append((at + name + ".bias", [out])) }
            }
            linear("self_attn.q_proj", Q, D, bias: qkvBias)
            linear("self_attn.k_proj", KV, D, bias: qkvBias)
            linear("self_attn.v_proj", KV, D, bias: qkvBias)
            linear("self_attn.o_proj", D, Q, bias: outputBias)
            linear("mlp.gate_proj", F, D, bias: mlpBias)
            linear("mlp.up_proj", F, D, bias: mlpBias)
            linear("mlp.down_proj", D, F, bias: mlpBias)
            result.append((at + "input_layernorm.weight", [D]))
            result.append((at + "post_attention_layernorm.weight", [D]))
        }
        result.append(("model.norm.weight", [D]))
        if !tiedHead { result.append(("lm_head.weight", [vocabSize, D])) }
        return result
    }

    /// Number of weights.
    public var parameterCount: Int { parameterShapes.reduce(0) { $0 + $1.shape.reduce(1, *) } }
}
