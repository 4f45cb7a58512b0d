// From a configuration and the models' tensor names to what each output tensor is made of: modules, slices, layers.
internal import Diagnostics
internal import Formats

/// A source with its layers known.
struct LaidSource {
    let model: MergeModel
    /// Position among the configuration's models.
    let position: Int
    let layers: Range<Int>
    let parameters: MergeParameters
}

/// Sources merged layer by layer.
struct LaidSlice {
    /// As messages call it: "slices[2]".
    let name: String
    let sources: [LaidSource]
    let base: MergeModelReference?
    let parameters: MergeParameters
}

/// One part of the output: its slices, and which of the models' tensors are its own.
struct LaidModule {
    let name: String?
    let slices: [LaidSlice]
    let parameters: MergeParameters
    /// Names of a stack of layers, as "model.layers"; empty for a part without layers.
    let stacks: [String]
    let owns: (String) -> Bool
}

/// Lays a configuration out over opened models.
struct MergeLayout {
    let config: MergeConfig
    /// In the order of `config.models`.
    let models: [MergeModel]
    private(set) var modules: [LaidModule] = []

    /// - Throws: `UserError` for architectures that differ, layers that are not there, slices of unequal sources, a model
    ///   twice in one slice, and inputs that the method does not take.
    init(_ config: MergeConfig, _ models: [MergeModel]) throws {
        (self.config, self.models) = (config, models)
        try checkArchitectures()
        switch config.layout {
        case .models(let sources): modules = [try module(nil, sources, [:], owns: { _ in true })]
        case .slices(let slices): modules = [try module(nil, slices, [:], owns: { _ in true })]
        case .modules(let parts): modules = try assigned(parts)
        }
        for module in modules { try module.slices.forEach(checkInputs) }
    }

    private func checkArchitectures() throws {
        guard let first = models.first else { throw UserError("no models to merge") }
        for model in models.dropFirst() {
            guard (model.folder == nil) == (first.folder == nil) else {
                throw UserError(
                    "\(model.reference): bare safetensors files and model folders cannot be merged with each other")
            }
            if let a = first.architecture, let b = model.architecture, a != b {
                throw UserError(
                    "\(model.reference): is a \(b), and \(first.reference) a \(a); merged models need one architecture")
            }
        }
    }

    // MARK: modules

    /// Names under which the same part goes in different families.
    private static let aliases: [String: [String]] = [
        "text_decoder": ["language_model", "text_model", "lm_head"],
        "vision_tower": ["vision_tower", "vision_model", "visual"],
        "vision_model": ["vision_model", "vision_tower", "visual"],
        "multi_modal_projector": ["multi_modal_projector", "connector"],
    ]

    /// Gives every tensor name to the module that it names; names that name none belong to the one module that no tensor
    /// names ("default"), if there is one.
    private func assigned(_ parts: [MergeModule]) throws -> [LaidModule] {
        func names(_ part: MergeModule, _ tensor: String) -> Bool {
            let words = Self.aliases[part.name] ?? [part.name]
            return tensor.split(separator: ".").contains { word in words.contains { $0 == word } }
        }
        let all = models[0].tensorNames.filter { !TensorName.isDerived($0) }
        let named = parts.indices.filter { part in all.contains { names(parts[part], $0) } }
        let rest = parts.indices.filter { !named.contains($0) }
        guard rest.count <= 1 else {
            throw UserError("modules.\(parts[rest[1]].name): no tensor of \(models[0].reference) belongs to it")
        }
        func owner(_ tensor: String) -> Int? { named.first { names(parts[$0], tensor) } ?? rest.first }
        if let stray = all.first(where: { owner($0) == nil }) {
            throw UserError("modules: tensor \(stray) belongs to none of them; add a module named default")
        }
        return try parts.enumerated().map { i, part in
            let owns = { (tensor: String) in owner(tensor) == i }
            switch part.layout {
            case .models(let sources): return try module(part.name, sources, part.parameters, owns: owns)
            case .slices(let slices): return try module(part.name, slices, part.parameters, owns: owns)
            }
        }
    }

    /// Whole models in parallel; a base that is not among them comes last.
    private func module(
        _ name: String?, _ sources: [MergeSource], _ parameters: MergeParameters, owns: @escaping (String) -> Bool
    ) throws -> LaidModule {
        var sources = sources
        if let base = config.base, !sources.contains(where: { $0.model == base }) { sources.append(MergeSource(base)) }
        let stacks = stacks(owns)
        let laid = try sources.map { source in
            let model = try model(source.model)
            return LaidSource(
                model: model.model, position: model.position,
                layers: 0..<(stacks.map { layerCount(model.model, $0) }.max() ?? 0),
                parameters: source.parameters)
        }
        let path = name.map { "modules.\($0).models" } ?? "models"
        if let odd = laid.first(where: { $0.layers.count != laid[0].layers.count }) {
            throw UserError(
                "\(path): \(odd.model.reference) has \(counted(odd.layers.count, "layer")), \(laid[0].model.reference) has "
                    + "\(laid[0].layers.count); merge slices of equal length instead")
        }
        let slice = LaidSlice(name: path, sources: laid, base: config.base, parameters: [:])
        return LaidModule(name: name, slices: [slice], parameters: parameters, stacks: stacks, owns: owns)
    }

    private func module(
        _ name: String?, _ slices: [MergeSlice], _ parameters: MergeParameters, owns: @escaping (String) -> Bool
    ) throws -> LaidModule {
        let stacks = stacks(owns)
        guard stacks.count == 1 else {
            let found =
                stacks.isEmpty
                ? "no layers" : "several stacks of layers (\(stacks.joined(separator: ", "))); use modules"
            throw UserError("slices: \(models[0].reference) has \(found)")
        }
        let laid = try slices.enumerated().map { i, slice in
            let path = (name.map { "modules.\($0)." } ?? "") + "slices[\(i)]"
            let sources = try slice.sources.map { try laidSource($0, path, stacks[0]) }
            if let odd = sources.first(where: { $0.layers.count != sources[0].layers.count }) {
                throw UserError(
                    "\(path): \(odd.model.reference) gives \(counted(odd.layers.count, "layer")), \(sources[0].model.reference) "
                        + "\(sources[0].layers.count); all sources of a slice need the same number")
            }
            return LaidSlice(
                name: path, sources: sources, base: slice.base ?? config.base, parameters: slice.parameters)
        }
        return LaidModule(name: name, slices: laid, parameters: parameters, stacks: stacks, owns: owns)
    }

    private func laidSource(_ source: MergeSource, _ path: String, _ stack: String) throws -> LaidSource {
        let model = try model(source.model), count = layerCount(model.model, stack)
        let layers = source.layers ?? 0..<count
        guard layers.upperBound <= count else {
            throw UserError(
                "\(path): \(source.model) has layers 0 to \(count - 1); layer_range [\(layers.lowerBound), "
                    + "\(layers.upperBound)] goes beyond")
        }
        return LaidSource(model: model.model, position: model.position, layers: layers, parameters: source.parameters)
    }

    // MARK: pieces

    private func model(_ reference: MergeModelReference) throws -> (model: MergeModel, position: Int) {
        guard let position = models.firstIndex(where: { $0.reference == reference }) else {
            preconditionFailure("\(reference) was not opened")
        }
        return (models[position], position)
    }

    /// Stacks of layers among the tensors of a part, in the order of the first model. Bare files have none.
    private func stacks(_ owns: (String) -> Bool) -> [String] {
        guard models[0].folder != nil else { return [] }
        var seen: Set<String> = []
        return models[0].tensorNames.filter { owns($0) && !TensorName.isDerived($0) }
            .compactMap { LayeredName($0)?.prefix }.filter { seen.insert($0).inserted }
    }

    private func layerCount(_ model: MergeModel, _ stack: String) -> Int {
        model.tensorNames.reduce(0) { count, name in
            guard let layered = LayeredName(name), layered.prefix == stack else { return count }
            return max(count, layered.layer + 1)
        }
    }

    private func checkInputs(_ slice: LaidSlice) throws {
        var seen: Set<MergeModelReference> = []
        for source in slice.sources where !seen.insert(source.model.reference).inserted {
            throw UserError("\(slice.name): \(source.model.reference) is listed twice; a model can be one input only")
        }
        let hasBase = slice.base.map { base in slice.sources.contains { $0.model.reference == base } } ?? false
        if config.method.base == .required, let base = slice.base, !hasBase {
            throw UserError("\(slice.name): the base \(base) is not among its sources; add it with its layer_range")
        }
        if let fault = config.method.check(inputCount: slice.sources.count, hasBase: hasBase) {
            throw UserError("\(slice.name): \(fault)")
        }
    }
}
