// Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.
internal import Checkpoints
internal import Diagnostics
package import Formats
public import Layers
public import ModelFiles
internal import RandomStreams
public import Tensors

/// An adapter on disk.
public struct Adapter {
    public let config: AdapterConfig
    private let weights: SafetensorsFile
    private let files: AdapterFiles
    private static let prefix = AdapterFiles.prefix

    public init(folder: String) throws {
        let files = try AdapterFiles(folder: folder)
        self.files = files
        (config, weights) = (files.config, files.weights)
    }

    /// Adds untrained adapters to the linear maps that the configuration names.
    ///
    /// - Returns: how many.
    /// - Throws: `UserError` when a target names no linear map of the model.
    @discardableResult
    public static func attachNew(_ config: AdapterConfig, to loaded: LoadedModel, seed: UInt64) throws -> Int {
        let linears = loaded.model.blockLinears
        for target in config.targets
        where !linears.contains(where: { $0.name == target || $0.name.hasSuffix("." + target) }) {
            let kinds = loaded.model.blockLinearKinds
            let hint =
                nearestName(to: target, among: kinds).map { "; did you mean \($0)?" }
                ?? "; it has \(kinds.joined(separator: ", "))"
            throw UserError("adapter.targets: the model has no linear map \(target)\(hint)", .usage)
        }
        let chosen = linears.filter { config.applies(to: $0.name) }
        for (i, (_, linear)) in chosen.enumerated() {
            linear.adapter = LowRankAdapter(
                on: linear, rank: config.rank, scaling: config.scale,
                dropout: config.dropout, hasMagnitude: config.hasMagnitude,
                initialization: RandomStream(seed: seed, adapterStream, UInt64(i)))
        }
        return chosen.count
    }

    /// Distinguishes the draws of adapters from others under one seed.
    private static let adapterStream: UInt64 = 0x10A

    /// Whether a base with tied tables has two with this adapter.
    func partsTables(_ naming: TensorNaming) throws -> Bool { try files.partsTables(naming) }

    /// Attaches adapters with the weights of this file; every tensor must find its place.
    func attach(to loaded: LoadedModel) throws {
        try Self.attachNew(config, to: loaded, seed: 0)
        let naming = loaded.naming, head = Self.prefix + naming.headTable
        // A tied model's output table is a copy of its token table.
        let tensors = weights.tensors.map { (name: AdapterFiles.normalized($0.name, naming), info: $0) }
            .filter { !(loaded.model.isTied && $0.name == head) }
        // A table of this adapter may have more rows than the base: tokens were added before training.
        for (name, _) in loaded.savedWeights(config.savedModules)
        where [naming.tokenTable, naming.headTable].contains(name) {
            if let info = tensors.first(where: { $0.name == Self.prefix + name })?.info, info.shape.count == 2 {
                loaded.resizeVocabulary(to: info.shape[0])
            }
        }
        let parts = Self.parts(of: loaded, config)
        if let problem = mismatch(parameters: parts.map(\.name), tensors: tensors.map(\.name)) {
            throw UserError("\(weights.path): tensors do not fit the base model and adapter_config.json: \(problem)")
        }
        for (name, info) in tensors {
            let parameter = parts.first { $0.name == name }!.parameter
            guard info.shape == parameter.fileShape else {
                throw UserError(
                    "\(weights.path): tensor \(info.name) has shape \(info.shape), the base model asks for \(parameter.fileShape)"
                )
            }
            parameter.fill(fromFile: try weights.tensor(info.name))
        }
    }

    /// Every tensor of the adapter under PEFT's name.
    public static func parts(of loaded: LoadedModel, _ config: AdapterConfig) -> [(name: String, parameter: Parameter)]
    {
        var parts: [(name: String, parameter: Parameter)] = []
        for (name, linear) in loaded.model.blockLinears {
            guard let adapter = linear.adapter else { continue }
            parts.append((prefix + name + ".lora_A.weight", adapter.a))
            parts.append((prefix + name + ".lora_B.weight", adapter.b))
            if let magnitude = adapter.magnitude { parts.append((prefix + name + ".lora_magnitude_vector", magnitude)) }
        }
        return parts + loaded.savedWeights(config.savedModules).map { (prefix + $0.name, $0.parameter) }
    }

    /// Writes adapter_config.json and adapter_model.safetensors (fp32) into an existing folder.
    public static func write(_ loaded: LoadedModel, _ config: AdapterConfig, to folder: String) throws {
        var config = config
        let naming = loaded.naming, peftHead = TensorNaming.adapterHeadModule
        var tensors = parts(of: loaded, config).map { name, parameter in
            let isHead = name == prefix + naming.headTable
            return SafetensorsWriter.Tensor(isHead ? "\(prefix)\(peftHead).weight" : name, parameter, .float32)
        }
        config.savedModules = config.savedModules.map { $0 == naming.headModule ? peftHead : $0 }
        // PEFT parts tied tables once one of them is saved, and would go on with the base's head: it is given both.
        if loaded.model.isTied, config.savedModules.contains(naming.tokenModule) {
            tensors.append(.init("\(prefix)\(peftHead).weight", loaded.model.headWeight, .float32))
            config.savedModules = [naming.tokenModule, peftHead]
        }
        try SafetensorsWriter.write(
            path: joinPath(folder, AdapterFiles.weightsName), tensors: tensors, metadata: [("format", "pt")])
        try writeFileAtomically(
            config.json(naming).serialized(.pretty) + "\n", to: joinPath(folder, AdapterFiles.configName))
    }
}

extension LoadedModel {
    /// The weights of `modules_to_save`, with their checkpoint names.
    func savedWeights(_ modules: [String]) -> [(name: String, parameter: Parameter)] {
        let modules = naming.modules(saved: modules)
        return model.namedParameters().filter { name, _ in TensorNaming.belongs(name, to: modules) }
    }

    /// Writes a Hugging Face folder (config.json and weights) in which adapters are merged into their linear maps.
    ///
    /// - Parameter dtype: of the written weights; merging itself is fp32.
    /// - Throws: `UserError` for a number that the dtype cannot hold.
    public func writeMerged(to folder: String, _ dtype: DType) throws {
        let tensors = mergedWeights.map { name, parameter, merged in
            SafetensorsWriter.Tensor(name, parameter, dtype, merged)
        }
        try SafetensorsWriter.write(folder: folder, tensors: tensors, metadata: [("format", "pt")])
        try writeFileAtomically(configJSON(dtype).serialized(.pretty) + "\n", to: joinPath(folder, "config.json"))
        let generation = joinPath(reference.baseFolder, "generation_config.json")
        if fileExists(generation) {
            try writeFileAtomically(readFile(generation), to: joinPath(folder, "generation_config.json"))
        }
    }

    /// Every weight with what an adapter makes of it; nil: the weight itself.
    private var mergedWeights: [(name: String, parameter: Parameter, merged: () -> Tensor?)] {
        let adapted = Dictionary(
            uniqueKeysWithValues: model.blockLinears.compactMap { name, linear in
                linear.adapter.map { (name + ".weight", (linear, $0)) }
            })
        return model.namedParameters().map { name, parameter in
            (name, parameter, { adapted[name].map { linear, adapter in adapter.merged(linear.weight) } })
        }
    }

    /// The fp32 numbers of every weight as a folder holds them, by name, adapters merged; each is made when it is asked for.
    public var floatsByName: [String: () -> [Float]] {
        let entries = mergedWeights.map { name, parameter, merged in
            let floats = {
                parameter.filed(merged() ?? parameter.masters).to(.float32, .cpu).contiguous().values(Float.self)
            }
            return (name, floats)
        }
        return Dictionary(uniqueKeysWithValues: entries)
    }

    /// config.json with the dtype of the weights beside it.
    private func configJSON(_ dtype: DType) -> JSONValue {
        guard case .object(var object) = config else { return config }
        for key in ["torch_dtype", "dtype"] where object[key] != nil { object[key] = .string("\(dtype)") }
        return .object(object)
    }
}

extension SafetensorsWriter.Tensor {
    /// Writes a parameter as checkpoints hold it, converted to `dtype` when its turn comes.
    ///
    /// - Parameter changed: what takes the value's place, unless nil.
    package init(
        _ name: String, _ parameter: Parameter, _ dtype: DType? = nil, _ changed: @escaping () -> Tensor? = { nil }
    ) {
        let dtype = dtype ?? parameter.dtype
        self.init(name: name, elementType: dtype.elementType, shape: parameter.fileShape) { emit in
            let value = parameter.filed(changed() ?? parameter.masters)
            try value.stored(as: dtype, of: name).withBytes { try emit($0) }
        }
    }
}
