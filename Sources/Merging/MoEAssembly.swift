// A mixture of experts from dense models: what is copied, what becomes an expert, and the folder that is written.
// E experts, H hidden size, F intermediate size
internal import Diagnostics
public import Formats
internal import Glibc
internal import RandomStreams
internal import RunConfig
internal import RunLog
internal import Tokenizers

/// Rows of the routers, one matrix for each layer.
public struct RouterRows: Sendable, Equatable {
    /// For each layer `[E, H]`, row-major.
    public var experts: [[Float]]
    /// For each layer `[1, H]`; empty without a shared expert.
    public var shared: [[Float]]

    public init(experts: [[Float]], shared: [[Float]]) { (self.experts, self.shared) = (experts, shared) }
}

/// A mixture that has been checked and can be written.
public final class MoEAssembly {
    public let config: MoEConfig
    public let architecture: MoEArchitecture
    public let base: MergeModel
    /// The folder and the adapter of the base, for whoever runs it.
    public var layers: Int { mlps.count }
    /// Whether the output has a shared expert with a gate.
    public var gatesShared: Bool { shared != nil && architecture.gatesSharedExpert }
    public let hiddenSize: Int
    private let experts: [MergeModel]
    private let shared: MergeModel?
    /// Type of the written weights.
    public let elementType: ElementType
    /// Of each layer: intermediate size.
    private let mlps: [Int]
    private static let maps = ["gate_proj", "up_proj", "down_proj"]

    /// Opens the models and checks that they fit together; reads no weights.
    ///
    /// - Parameter warn: told what does not stop the assembly but should be known.
    /// - Throws: `UserError` for models that cannot be one mixture.
    public init(_ config: MoEConfig, opened: MergeModels = MergeModels(), warn: (String) -> Void) throws {
        self.config = config
        func open(_ name: String) throws -> MergeModel { try opened.model(MergeModelReference(parsing: name)) }
        base = try open(config.baseModel)
        experts = try config.experts.map { try open($0.sourceModel!) }
        shared = try config.sharedExperts.first.map { try open($0.sourceModel!) }
        let all = [base] + experts + (shared.map { [$0] } ?? [])
        architecture = try .chosen(
            config,
            all.map { model in
                guard let json = model.config, json.object != nil else {
                    throw UserError("\(model.reference): no config.json; experts come from model folders")
                }
                return ("\(model.reference)", json)
            })
        guard let table = try base.form("model.embed_tokens.weight"), table.shape.count == 2 else {
            throw UserError(
                "\(base.reference): no tensor model.embed_tokens.weight; this is no model of the Llama family")
        }
        hiddenSize = table.shape[1]
        elementType = try Self.outputType(config, base, table.elementType)
        mlps = try Self.checkedMLPs(all, hiddenSize)
        let count = config.experts.count
        if count & (count - 1) != 0 {
            warn("\(count) experts are no power of two; llama.cpp does not run such a model")
        }
    }

    private static func outputType(_ config: MoEConfig, _ base: MergeModel, _ stored: ElementType) throws -> ElementType
    {
        if let name = config.dtype { return MergeConfig.elementType(named: name)! }
        let named = (base.config?["dtype"] ?? base.config?["torch_dtype"])?.string
        return named.flatMap(MergeConfig.elementType) ?? stored
    }

    /// Intermediate size of each layer, the same in all models.
    private static func checkedMLPs(_ models: [MergeModel], _ H: Int) throws -> [Int] {
        guard let layers = models[0].config?["num_hidden_layers"]?.int, layers > 0,
            layers <= models[0].tensorNames.count
        else {
            throw UserError("\(models[0].reference): config.json has no possible num_hidden_layers")
        }
        return try (0..<layers).map { layer in
            let wanted = try models[0].form(source(layer, "gate_proj"))?.shape.first ?? 0
            for model in models {
                for map in maps {
                    let name = source(layer, map), shape = map == "down_proj" ? [H, wanted] : [wanted, H]
                    guard let form = try model.form(name) else {
                        throw UserError("\(model.reference): no tensor \(name)")
                    }
                    guard form.shape == shape else {
                        throw UserError(
                            "\(model.reference): tensor \(name) has shape \(form.shape), the base's has \(shape)")
                    }
                }
                if model.tensorNames.contains(source(layers, "gate_proj")) {
                    throw UserError("\(model.reference): has more layers than the base's \(layers)")
                }
            }
            return wanted
        }
    }

    private static func source(_ layer: Int, _ map: String) -> String { "model.layers.\(layer).mlp.\(map).weight" }

    // MARK: tensors

    /// Writes the model folder, complete or not at all.
    ///
    /// - Parameters:
    ///   - source: the configuration's text, kept beside the model.
    ///   - threads: tensors made at once.
    public func write(
        to path: String, _ rows: RouterRows, layout: ExpertLayout, source: String, maxShardBytes: Int = 5_000_000_000,
        threads: Int = 2
    ) throws {
        precondition(
            rows.experts.count == layers && rows.shared.count == (gatesShared ? layers : 0), "a router for each layer")
        let tensors = try self.tensors(rows, layout)
        try writeFolderAtomically(path) { folder in
            try SafetensorsWriter.writeParallel(
                folder: folder, tensors: tensors, metadata: [("format", "pt")], maxShardBytes: maxShardBytes,
                threads: threads)
            if let tokenizer = base.tokenizerFolder, fileExists(joinPath(tokenizer, "tokenizer.json")) {
                try TokenizerVocabulary(folder: tokenizer).save(to: folder)
            }
            if let generation = base.folder.map({ joinPath($0, "generation_config.json") }), fileExists(generation) {
                try writeFileAtomically(readFile(generation), to: joinPath(folder, "generation_config.json"))
            }
            try writeFileAtomically(source, to: joinPath(folder, "mergekit_moe_config.yml"))
            let json = architecture.outputConfig(base.config!, config, elementType)
            try writeFileAtomically(json.serialized(.pretty) + "\n", to: joinPath(folder, "config.json"))
        }
    }

    func tensors(_ rows: RouterRows, _ layout: ExpertLayout) throws -> [SafetensorsWriter.Tensor] {
        if layout == .fused, architecture == .deepseek {
            throw UserError("--layout fused: DeepSeek MoE's code reads a matrix for each expert; leave it out", .usage)
        }
        var tensors: [SafetensorsWriter.Tensor] = []
        for name in base.tensorNames where !name.contains(".mlp.") && !TensorName.isDerived(name) {
            tensors.append(made(name, try base.form(name)!.shape, [Part(reader: try base.tensor(name))]))
        }
        if architecture == .qwen2 { tensors += missingBiases() }
        for layer in 0..<layers {
            tensors += try expertTensors(layer, layout)
            tensors.append(
                row(architecture.router(layer, layout), [config.experts.count, hiddenSize], rows.experts[layer]))
            guard let shared else { continue }
            for map in Self.maps {
                let name = architecture.sharedExpert(layer, map)
                let part = try part(shared, config.sharedExperts[0], layer, map, noise: name)
                tensors.append(made(name, part.reader.shape, [part]))
            }
            if gatesShared {
                tensors.append(row(architecture.sharedRouter(layer), [1, hiddenSize], rows.shared[layer]))
            }
        }
        return tensors
    }

    private func expertTensors(_ layer: Int, _ layout: ExpertLayout) throws -> [SafetensorsWriter.Tensor] {
        let F = mlps[layer], E = experts.count
        // Noise is named after the separate tensor, so that both layouts hold the same numbers.
        func part(_ e: Int, _ map: String) throws -> Part {
            try self.part(experts[e], config.experts[e], layer, map, noise: architecture.expert(layer, e, map))
        }
        if layout == .separate {
            return try (0..<E).flatMap { e in
                try Self.maps.map { map in
                    let part = try part(e, map)
                    return made(architecture.expert(layer, e, map), part.reader.shape, [part])
                }
            }
        }
        let at = "model.layers.\(layer).mlp.experts."
        return [
            made(
                at + "gate_up_proj", [E, 2 * F, hiddenSize],
                try (0..<E).flatMap { [try part($0, "gate_proj"), try part($0, "up_proj")] }),
            made(at + "down_proj", [E, hiddenSize, F], try (0..<E).map { try part($0, "down_proj") }),
        ]
    }

    /// Qwen-MoE has biases on q, k and v; a base without them gets zeros.
    private func missingBiases() -> [SafetensorsWriter.Tensor] {
        (0..<layers).flatMap { layer in
            ["q_proj", "k_proj", "v_proj"].compactMap { map in
                let name = "model.layers.\(layer).self_attn.\(map)"
                guard !base.has(name + ".bias"), let form = try? base.form(name + ".weight") else { return nil }
                return row(name + ".bias", [form.shape[0]], [Float](repeating: 0, count: form.shape[0]))
            }
        }
    }

    private func row(_ name: String, _ shape: [Int], _ values: [Float]) -> SafetensorsWriter.Tensor {
        let rounding = Rounding(to: elementType, name: name)
        return .init(name: name, elementType: elementType, shape: shape) { emit in
            try values.withUnsafeBufferPointer { try rounding.emit(.float32($0), emit) }
        }
    }

    /// A stretch of a tensor: a model's tensor, changed on the way.
    private struct Part {
        let reader: any TensorReader
        var noise: (stream: RandomStream, scale: Float)?
        var scale: Float = 1
    }

    private func part(_ model: MergeModel, _ expert: MoEConfig.Expert, _ layer: Int, _ map: String, noise name: String)
        throws -> Part
    {
        var part = Part(reader: try model.tensor(Self.source(layer, map)))
        if let scale = expert.noiseScale, scale > 0 {
            part.noise = (RandomStream(seed: config.seed, fnv1a(name)), Float(scale))
        }
        if map == "down_proj", let scale = expert.residualScale { part.scale = Float(scale) }
        return part
    }

    /// The parts one after the other, in blocks, rounded once.
    private func made(_ name: String, _ shape: [Int], _ parts: [Part]) -> SafetensorsWriter.Tensor {
        let rounding = Rounding(to: elementType, name: name), block = 1 << 16
        return .init(name: name, elementType: elementType, shape: shape) { emit in
            try withUnsafeTemporaryAllocation(of: Float.self, capacity: block) { buffer in
                for part in parts {
                    let count = part.reader.elementCount
                    for start in stride(from: 0, to: count, by: block) {
                        let range = start..<min(start + block, count)
                        try part.reader.read(range, into: buffer.baseAddress!)
                        let values = UnsafeMutableBufferPointer(rebasing: buffer[..<range.count])
                        if let noise = part.noise { noise.stream.addNormal(to: values, noise.scale, from: start) }
                        if part.scale != 1 { for i in values.indices { values[i] *= part.scale } }
                        try rounding.emit(.float32(UnsafeBufferPointer(values)), emit)
                    }
                }
            }
        }
    }
}

extension RandomStream {
    /// Adds N(0, scale²) to elements `offset...` of a tensor (Box and Muller 1958); `offset` is even.
    func addNormal(to values: UnsafeMutableBufferPointer<Float>, _ scale: Float, from offset: Int) {
        precondition(offset.isMultiple(of: 2), "pairs of normal numbers are made together")
        let words = words(values.count + values.count % 2, offset: UInt64(offset))
        for i in stride(from: 0, to: values.count, by: 2) {
            let radius = (2 * -log((Double(words[i]) + 0.5) * 0x1p-32)).squareRoot()
            let angle = 2 * Double.pi * Double(words[i + 1]) * 0x1p-32
            values[i] += scale * Float(radius * cos(angle))
            if i + 1 < values.count { values[i + 1] += scale * Float(radius * sin(angle)) }
        }
    }
}
