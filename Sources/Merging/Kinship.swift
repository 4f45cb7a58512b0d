// Model kinship: one pass over N models and their common base, tensor by tensor, in blocks (arXiv:2410.12613).
internal import Diagnostics
internal import Formats
internal import ModelFiles

/// Similarities of the weight changes of several models from one base.
public struct Kinship: Sendable {
    /// How the whole is broken down.
    public enum Breakdown: String, CaseIterable, Sendable {
        /// A group a layer; tensors outside the layers by their own names.
        case layer
        /// A group a part of the layers (`self_attn.q_proj` of all layers); tensors outside by their own names.
        case module
        /// A group a tensor.
        case tensor
    }

    /// What to measure.
    public struct Options: Sendable {
        public var breakdown: Breakdown?
        /// Counts the token table twice where the output table is tied to it, as the paper's program does.
        public var countsTiedTwice = false

        public init(breakdown: Breakdown? = nil, countsTiedTwice: Bool = false) {
            (self.breakdown, self.countsTiedTwice) = (breakdown, countsTiedTwice)
        }
    }

    /// A part of the model with its own sums.
    public struct Group: Sendable {
        public let name: String
        public var sums: KinshipSums
    }

    public let models: [String]
    public let total: KinshipSums
    /// The token table, the layers by number, the rest; within these in the order of the files. Empty without a breakdown.
    public let groups: [Group]
    /// What was decided for the user, one line each.
    public let notes: [String]

    /// Elements read at a time: those of a few models stay in the processor's second cache.
    static let blockElements = 8192

    /// - Parameters:
    ///   - models: two or more, adapters included.
    ///   - base: the model that all were trained from.
    /// - Throws: `UserError` (65) for models of different architectures, tensors that are missing or differ in shape
    ///   (other than in the length of the vocabulary), values that are not finite, and a base to which no matrix of a
    ///   model is closer than chance.
    public init(_ models: [MergeModel], base: MergeModel, _ options: Options = Options()) throws {
        self.models = models.map { $0.reference.adapter ?? $0.reference.description }
        let plan = try KinshipPlan(models, base: base, options)
        var pass = KinshipPass(models, base)
        for tensor in plan.tensors { try pass.add(tensor) }
        try pass.checkAncestor()
        groups = pass.groups.enumerated().sorted { ($0.element.depth, $0.offset) < ($1.element.depth, $1.offset) }.map(
            \.element)
        (total, notes) = (pass.total, plan.notes)
    }

    /// The mean of the tensors' values weighted by their elements, undefined ones left out: what the paper's program
    /// prints with `--split-calculation`. It is not the value of the whole, and for ed it is no distance.
    ///
    /// - Precondition: broken down by tensor.
    public func meanOverTensors(_ metric: KinshipMetric) -> [[Double?]] {
        models.indices.map { i in
            models.indices.map { j in
                var sum = 0.0, weight = 0.0
                for group in groups {
                    guard let value = group.sums.value(metric, i, j) else { continue }
                    sum += value * Double(group.sums.elements)
                    weight += Double(group.sums.elements)
                }
                return weight > 0 ? sum / weight : nil
            }
        }
    }
}

/// A tensor of the pass.
private struct KinshipTensor {
    let name: String
    /// What each model calls it; the base's name first.
    let names: [String]
    /// Elements that are compared: all, or those of the rows that every model has.
    let count: Int
    let times: Int
    let group: String?
    let isMatrix: Bool
}

/// Which tensors are compared, decided from the headers.
private struct KinshipPlan {
    private(set) var tensors: [KinshipTensor] = []
    private(set) var notes: [String] = []

    init(_ models: [MergeModel], base: MergeModel, _ options: Kinship.Options) throws {
        let all = [base] + models
        for model in models { try Self.checkArchitecture(model, base) }
        let head = all.flatMap(\.tensorNames).first(where: TensorName.isHead)
        let untied = head.map { head in all.contains { $0.has(head) && !$0.isTied } } ?? false
        for name in try base.tensorNames.filter(base.isCompared) {
            if TensorName.isHead(name), !untied { continue }
            try add(name, all, times: 1, options)
        }
        // A base with a tied head, and a model that was untied: the base's head is its token table.
        if untied, let head, !base.has(head) { try add(head, all, times: 1, options) }
        if options.countsTiedTwice, !untied, let i = tensors.firstIndex(where: { TensorName.isEmbedding($0.name) }) {
            let old = tensors[i]
            tensors[i] = KinshipTensor(
                name: old.name, names: old.names, count: old.count, times: 2, group: old.group, isMatrix: old.isMatrix)
        }
        for model in models { try checkExtra(model, base) }
        guard !tensors.isEmpty else { throw UserError("\(base.reference): no floating-point tensor to compare") }
    }

    private static func checkArchitecture(_ model: MergeModel, _ base: MergeModel) throws {
        guard let a = base.architecture, let b = model.architecture, a != b else { return }
        throw UserError(
            "\(model.reference): is a \(b), the base \(base.reference) a \(a); kinship needs one architecture")
    }

    private mutating func add(_ name: String, _ all: [MergeModel], times: Int, _ options: Kinship.Options) throws {
        let names = try all.map { model in
            if model.has(name) { return name }
            if TensorName.isHead(name), let table = model.tensorNames.first(where: TensorName.isEmbedding) {
                return table
            }
            throw UserError(
                "\(model.reference): no tensor \(name), which the base \(all[0].reference) has; it is no descendant of it"
            )
        }
        let forms = try zip(all, names).map { try $0.form($1)! }
        let shape = forms[0].shape
        func elements(_ shape: [Int]) -> Int { shape.reduce(1, *) }
        var count = elements(forms[0].shape)
        for (model, info) in zip(all, forms) where info.shape != shape {
            guard TensorName.hasVocabularyAxis(name), info.shape.dropFirst() == shape.dropFirst() else {
                throw UserError(
                    "\(model.reference): tensor \(name) has shape \(info.shape), in the base \(all[0].reference) it has \(shape); "
                        + "it is no descendant of it")
            }
            count = min(count, elements(info.shape))
        }
        if forms.contains(where: { $0.shape != shape }) {
            notes.append(
                "tensor \(name): the \(count / max(1, shape.dropFirst().reduce(1, *))) rows that all models have are compared"
            )
        }
        tensors.append(
            KinshipTensor(
                name: name, names: names, count: count, times: times,
                group: options.breakdown.map { Self.group(name, $0) },
                isMatrix: shape.count >= 2))
    }

    /// Tensors that a model has and the base has not.
    private func checkExtra(_ model: MergeModel, _ base: MergeModel) throws {
        let known = Set(tensors.map { ExactString($0.name) })
        for name in try model.tensorNames.filter(model.isCompared)
        where !TensorName.isHead(name) && !known.contains(ExactString(name)) {
            throw UserError(
                "\(model.reference): has a tensor \(name), which the base \(base.reference) lacks; it is no descendant of it"
            )
        }
    }

    private static func group(_ name: String, _ breakdown: Kinship.Breakdown) -> String {
        let stem = name.hasSuffix(".weight") ? String(name.dropLast(".weight".count)) : name
        guard breakdown != .tensor, let layered = LayeredName(name) else {
            // Outside the layers: without the common prefix.
            return breakdown == .tensor
                ? name : stem.hasPrefix("model.") ? String(stem.dropFirst("model.".count)) : stem
        }
        if breakdown == .layer { return "layer \(layered.layer)" }
        return layered.rest.hasSuffix(".weight") ? String(layered.rest.dropLast(".weight".count)) : layered.rest
    }
}

extension MergeModel {
    /// Weights, as opposed to counters and buffers that every loader computes anew.
    fileprivate func isCompared(_ name: String) throws -> Bool {
        try !TensorName.isDerived(name) && form(name)?.elementType.isFloatingPoint == true
    }

    /// Whether the output table is the token table: config.json's word, else what the files hold.
    fileprivate var isTied: Bool {
        config?["tie_word_embeddings"]?.bool ?? !tensorNames.contains(where: TensorName.isHead)
    }
}

/// The pass over the elements.
private struct KinshipPass {
    private let models: [MergeModel], base: MergeModel
    private(set) var total: KinshipSums
    private(set) var groups: [Kinship.Group] = []
    /// By model: whether a matrix of it is closer to the base's than chance.
    private var isClose: [Bool]
    private var hasMatrix = false

    init(_ models: [MergeModel], _ base: MergeModel) {
        (self.models, self.base) = (models, base)
        total = KinshipSums(models: models.count)
        isClose = models.map { _ in false }
    }

    mutating func add(_ tensor: KinshipTensor) throws {
        let readers = try zip([base] + models, tensor.names).map { try $0.tensor($1) }
        var sums = KinshipSums(models: models.count)
        var likeness = models.map { _ in Likeness() }
        let block = min(Kinship.blockElements, max(1, tensor.count)), n = readers.count
        try withUnsafeTemporaryAllocation(of: Double.self, capacity: block * n) { buffer in
            let places = (0..<n).map { buffer.baseAddress! + $0 * block }
            for start in stride(from: 0, to: tensor.count, by: block) {
                let range = start..<min(start + block, tensor.count)
                for (reader, place) in zip(readers, places) { try reader.read(range, into: place) }
                for i in models.indices {
                    if tensor.isMatrix { likeness[i].add(places[i + 1], places[0], range.count) }
                    for k in 0..<range.count { places[i + 1][k] -= places[0][k] }
                }
                sums.add(places.dropFirst().map { UnsafePointer($0) }, count: range.count, times: tensor.times)
            }
        }
        if let bad = sums.nonFiniteModel { try refuseNonFinite(tensor, bad, readers) }
        if tensor.isMatrix {
            hasMatrix = true
            for i in models.indices { isClose[i] = isClose[i] || likeness[i].isAboveChance(tensor.count) }
        }
        total.add(sums)
        guard let name = tensor.group else { return }
        if let i = groups.firstIndex(where: { ExactString($0.name) == ExactString(name) }) {
            groups[i].sums.add(sums)
        } else {
            groups.append(Kinship.Group(name: name, sums: sums))
        }
    }

    /// Says whose value it was: the base's makes every difference useless.
    private func refuseNonFinite(_ tensor: KinshipTensor, _ model: Int, _ readers: [any TensorReader]) throws -> Never {
        var values = [Double](repeating: 0, count: Kinship.blockElements)
        for (reader, owner) in [(readers[0], base), (readers[model + 1], models[model])] {
            for start in stride(from: 0, to: tensor.count, by: values.count) {
                let range = start..<min(start + values.count, tensor.count)
                try values.withUnsafeMutableBufferPointer { try reader.read(range, into: $0.baseAddress!) }
                if let k = values[..<range.count].firstIndex(where: { !$0.isFinite }) {
                    throw UserError(
                        "\(owner.reference): tensor \(tensor.name): element \(start + k) is \(values[k]); the model cannot be compared"
                    )
                }
            }
        }
        throw UserError("\(models[model].reference): tensor \(tensor.name): its values are too large to be compared")
    }

    func checkAncestor() throws {
        guard hasMatrix, let stranger = isClose.firstIndex(of: false) else { return }
        throw UserError(
            "\(models[stranger].reference): none of its matrices is closer to the base \(base.reference) than chance; "
                + "name the model that it was trained from with --base")
    }
}

/// How alike a tensor of a model and the base's are.
private struct Likeness {
    private var product = 0.0, model = 0.0, base = 0.0

    mutating func add(_ w: UnsafePointer<Double>, _ w0: UnsafePointer<Double>, _ count: Int) {
        for k in 0..<count {
            product += w[k] * w0[k]
            model += w[k] * w[k]
            base += w0[k] * w0[k]
        }
    }

    /// Cosines of unrelated tensors of n elements scatter by 1/√n about 0: five times that does not happen by chance,
    /// and less than 0.05 is no trace of training from there.
    func isAboveChance(_ n: Int) -> Bool {
        guard model > 0, base > 0 else { return model == base }
        let cosine = product / (model.squareRoot() * base.squareRoot())
        return cosine > 0.05 && cosine * Double(n).squareRoot() > min(5, 0.5 * Double(n).squareRoot())
    }
}

extension MergeModels {
    /// A model as the command line names it; an adapter folder is put on the given base.
    public func model(descendant path: String, of base: MergeModelReference) throws -> MergeModel {
        guard pathExists(path), try ModelReference.isAdapter(path) else { return try model(MergeModelReference(path)) }
        return try model(MergeModelReference(base.path, revision: base.revision, adapter: path))
    }
}

extension Kinship.Group {
    /// Its place in the model: files are sorted by text, "layer 10" before "layer 2".
    fileprivate var depth: Int {
        if let layer = LayeredName(name)?.layer ?? Int(name.split(separator: " ").last ?? "") { return layer }
        return name.contains("embed") ? -1 : .max
    }

    /// Layer and module of a tensor's name; tensors outside the layers are one row, "outside".
    public var place: (layer: String, module: String) {
        func stem(_ text: String) -> String {
            text.hasSuffix(".weight") ? String(text.dropLast(".weight".count)) : text
        }
        guard let layered = LayeredName(name) else {
            return ("outside", stem(name.hasPrefix("model.") ? String(name.dropFirst("model.".count)) : name))
        }
        return ("layer \(layered.layer)", stem(layered.rest))
    }
}
