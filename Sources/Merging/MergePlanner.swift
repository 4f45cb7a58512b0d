// Planning tensor by tensor: which inputs an output tensor has, what its parameters are, what type it gets.
internal import Diagnostics
internal import Formats

/// A tensor's type and shape.
typealias TensorForm = (elementType: ElementType, shape: [Int])

struct Planner {
    let config: MergeConfig
    let models: [MergeModel]
    let vocabulary: MergedVocabulary?
    private(set) var tensors: [PlannedTensor] = []
    private(set) var notes: [String] = []
    /// Model and tensor with the layer left out -> whether the model has it in some layer.
    private var known: [Int: Set<String>] = [:]

    /// - Throws: `UserError` for a vocabulary that cannot be made.
    init(config: MergeConfig, models: [MergeModel]) throws {
        (self.config, self.models) = (config, models)
        var warnings: [String] = []
        vocabulary = try MergedVocabulary.planned(config, models) { warnings.append($0) }
        notes = warnings
    }

    mutating func add(_ module: LaidModule) throws {
        guard let first = module.slices.first, let last = module.slices.last else { return }
        for name in looseNames(first, module.owns) where TensorName.comesBeforeLayers(name) {
            try addLoose(name, first, module)
        }
        for stack in module.stacks {
            var layer = 0
            for slice in module.slices {
                let count = slice.sources[0].layers.count
                for i in 0..<count {
                    // A slice of one layer stands at the end of its gradients.
                    let t = count > 1 ? Double(i) / Double(count - 1) : 1
                    try addLayer(stack, i, output: layer, t: t, slice, module)
                    layer += 1
                }
            }
        }
        for name in looseNames(last, module.owns) where !TensorName.comesBeforeLayers(name) {
            try addLoose(name, last, module)
        }
    }

    // MARK: names

    /// Tensors outside the layers that some source of the slice has.
    private func looseNames(_ slice: LaidSlice, _ owns: (String) -> Bool) -> [String] {
        union(slice.sources) { source in
            source.model.tensorNames.filter {
                owns($0) && !TensorName.isDerived($0) && (source.model.folder == nil || LayeredName($0) == nil)
            }
        }
    }

    /// In the order of the first source; what only later ones have comes behind.
    private func union(_ sources: [LaidSource], _ names: (LaidSource) -> [String]) -> [String] {
        var seen: Set<ExactString> = []
        return sources.flatMap(names).filter { seen.insert(ExactString($0)).inserted }
    }

    private mutating func addLoose(_ name: String, _ slice: LaidSlice, _ module: LaidModule) throws {
        let names = slice.sources.map { $0.model.table(name) }
        try add(name, layer: nil, t: 0, slice, module, names: names, filterNames: slice.sources.map { _ in name })
    }

    private mutating func addLayer(
        _ stack: String, _ i: Int, output: Int, t: Double, _ slice: LaidSlice, _ module: LaidModule
    ) throws {
        let rests = union(slice.sources) { source in
            layerTensors(source.model, source.position, stack, source.layers.lowerBound + i)
        }
        guard !rests.isEmpty else {
            let source = slice.sources[0]
            throw UserError(
                "\(source.model.reference): layer \(source.layers.lowerBound + i) has no tensors (\(slice.name))")
        }
        for rest in rests {
            let inputs = slice.sources.map { "\(stack).\($0.layers.lowerBound + i).\(rest)" }
            let names = zip(slice.sources, inputs).map { $0.model.has($1) ? $1 : nil }
            try add("\(stack).\(output).\(rest)", layer: output, t: t, slice, module, names: names, filterNames: inputs)
        }
    }

    /// What follows the layer's number in the names of its tensors; indexed once a model.
    private mutating func layerTensors(_ model: MergeModel, _ position: Int, _ stack: String, _ layer: Int) -> [String]
    {
        if byLayer[position] == nil {
            var index: [String: [String]] = [:]
            for name in model.tensorNames where !TensorName.isDerived(name) {
                guard let layered = LayeredName(name) else { continue }
                index["\(layered.prefix).\(layered.layer)", default: []].append(layered.rest)
                known[position, default: []].insert("\(layered.prefix).\(layered.rest)")
            }
            byLayer[position] = index
        }
        return byLayer[position]?["\(stack).\(layer)"] ?? []
    }
    private var byLayer: [Int: [String: [String]]] = [:]

    // MARK: one tensor

    /// - Parameters:
    ///   - names: each source's tensor; nil where it has none.
    ///   - filterNames: what filters of each source's own settings are held against.
    private mutating func add(
        _ name: String, layer: Int?, t: Double, _ slice: LaidSlice, _ module: LaidModule, names: [String?],
        filterNames: [String]
    ) throws {
        let present = names.indices.filter { names[$0] != nil }
        if present.count < names.count {
            switch try decideMissing(name, slice, names) {
            case .merge: break
            case .leaveOut: return
            case .copy(let i):
                return try addMerge(name, layer, slice, [i], names, method: .passthrough, shared: [:]) { _ in
                    ["scale": .number(1)]
                }
            }
        }
        let infos = try forms(slice, present, names)
        if infos.contains(where: { !$0.elementType.isFloatingPoint }) {
            return try addCopy(name, layer, slice, names, infos)
        }
        let scope = ParameterScope(levels: [slice.parameters, module.parameters, config.parameters], t: t)
        let shared = try scope.shared(config.method, tensor: name)
        let method = config.method, base = slice.base
        try addMerge(name, layer, slice, present, names, method: method, shared: shared) { i in
            let source = slice.sources[i]
            return try scope.input(
                method, tensor: filterNames[i], model: source.model.reference, own: source.parameters,
                isBase: source.model.reference == base)
        }
    }

    private mutating func addMerge(
        _ name: String, _ layer: Int?, _ slice: LaidSlice, _ present: [Int], _ names: [String?], method: MergeMethod,
        shared: [String: MergeValue], settings: (Int) throws -> [String: MergeValue]
    ) throws {
        let isAligned = vocabulary != nil && layer == nil && TensorName.hasVocabularyAxis(name)
        let infos = try isAligned ? alignedForms(name, slice, present) : forms(slice, present, names)
        try checkShapes(name, slice, present, infos)
        let inputs = try present.map { i in
            PlannedInput(
                model: slice.sources[i].position, tensor: names[i]!,
                isBase: slice.sources[i].model.reference == slice.base, settings: try settings(i))
        }
        let type = config.outDtype ?? config.dtype ?? infos.map(\.elementType).reduce(infos[0].elementType, promoted)
        tensors.append(
            PlannedTensor(
                name: name, shape: infos[0].shape, elementType: type, layer: layer,
                work: .merge(method: method, inputs: inputs, settings: shared, isAligned: isAligned)))
    }

    private func forms(_ slice: LaidSlice, _ present: [Int], _ names: [String?]) throws -> [TensorForm] {
        try present.compactMap { try slice.sources[$0].model.form(names[$0]!) }
    }

    /// Forms of a token table once its rows are those of the output's vocabulary.
    private mutating func alignedForms(_ name: String, _ slice: LaidSlice, _ present: [Int]) throws -> [TensorForm] {
        var warnings: [String] = []
        let tables = try vocabulary?.tables(name, models) { warnings.append($0) } ?? []
        warnings.forEach { note($0) }
        return present.compactMap { tables[slice.sources[$0].position].map { ($0.elementType, $0.shape) } }
    }

    private mutating func addCopy(
        _ name: String, _ layer: Int?, _ slice: LaidSlice, _ names: [String?], _ infos: [TensorForm]
    ) throws {
        let sources = names.indices.filter { names[$0] != nil }
        guard
            let odd = infos.firstIndex(where: { $0.elementType != infos[0].elementType || $0.shape != infos[0].shape })
        else {
            tensors.append(
                PlannedTensor(
                    name: name, shape: infos[0].shape, elementType: infos[0].elementType, layer: layer,
                    work: .copy(sources.map { (slice.sources[$0].position, names[$0]!) })))
            return
        }
        throw UserError(
            "tensor \(name): \(infos[0].elementType.rawValue) \(infos[0].shape) in \(slice.sources[sources[0]].model.reference), "
                + "\(infos[odd].elementType.rawValue) \(infos[odd].shape) in \(slice.sources[sources[odd]].model.reference)"
        )
    }

    private func checkShapes(_ name: String, _ slice: LaidSlice, _ present: [Int], _ infos: [TensorForm]) throws {
        guard let odd = infos.firstIndex(where: { $0.shape != infos[0].shape }) else { return }
        let isVocabulary =
            TensorName.hasVocabularyAxis(name) && infos[odd].shape.dropFirst() == infos[0].shape.dropFirst()
        let hint = isVocabulary ? "; the vocabularies differ: add tokenizer_source (union, base or a model)" : ""
        throw UserError(
            "tensor \(name): shape \(infos[0].shape) in \(slice.sources[present[0]].model.reference), \(infos[odd].shape) in "
                + "\(slice.sources[present[odd]].model.reference)\(hint)")
    }

    // MARK: missing tensors

    private enum Decision { case merge, leaveOut, copy(Int) }

    /// A tensor that a model lacks in this layer only is damage; one that it lacks in every layer is a difference between
    /// architectures, for which some methods have a rule.
    private mutating func decideMissing(_ name: String, _ slice: LaidSlice, _ names: [String?]) throws -> Decision {
        let lacking = names.firstIndex { $0 == nil }!, having = names.firstIndex { $0 != nil }!
        let fault = UserError(
            "\(slice.sources[lacking].model.reference): no tensor \(name), which \(slice.sources[having].model.reference) has; "
                + "the models cannot be merged (\(slice.name))")
        if let layered = LayeredName(name) {
            let kind = "\(layered.prefix).\(layered.rest)"
            let isDamage = names.indices.contains {
                names[$0] == nil && known[slice.sources[$0].position]?.contains(kind) == true
            }
            if isDamage { throw fault }
        }
        let present = names.indices.filter { names[$0] != nil }
        let onlyBase = present.count == 1 && slice.sources[present[0]].model.reference == slice.base
        switch config.method.missingTensorRule {
        case .error: throw fault
        case .copyOnly where present.count == 1: break
        case .copyBaseOnly where onlyBase, .copyBaseOrSkip where onlyBase: break
        case .copyBaseOrSkip where config.method.check(inputCount: present.count, hasBase: false) != nil:
            note("tensor \(name) is left out: too few of the models have it")
            return .leaveOut
        case .copyBaseOrSkip: return .merge
        default: throw fault
        }
        note("tensor \(name) is taken from \(slice.sources[present[0]].model.reference), the only model that has it")
        return .copy(present[0])
    }

    private mutating func note(_ text: String) { if !notes.contains(text) { notes.append(text) } }
}
