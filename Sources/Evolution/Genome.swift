// Merge parameters as one list of numbers for CMA-ES, laid out as mergekit-evolve has it:
// [layer groups, models, filters + 1, parameters].
internal import Diagnostics
internal import Glibc
public import Merging
internal import RandomStreams

/// What is searched: the parameters of a merge of given models.
public struct Genome: Sendable {
    public struct Options: Sendable {
        /// Layers that share their parameters; 0: all.
        public var layerGranularity = 0
        /// Interpolates between the groups instead of stepping.
        public var smooth = false
        /// Parts of tensor names with parameters of their own; what fits none has the last set.
        public var filters: [String] = []
        /// Nil: true for linear, ties and dare_ties.
        public var normalize: Bool?
        public var allowsNegativeWeights = false

        public init() {}
    }

    public let method: MergeMethod
    public let models: [MergeModelReference]
    public let base: MergeModelReference
    public let layers: Int
    public let options: Options
    private let parameters: [String]
    private let groups: Int

    /// Parameters of the methods that can be searched.
    private static let searched: [MergeMethod: [String]] = [
        .linear: ["weight"], .taskArithmetic: ["weight"], .ties: ["weight", "density"],
        .dareTies: ["weight", "density"],
        .slerp: ["t"],
    ]

    /// - Throws: `UserError` (64) for a method that cannot be searched, a granularity that does not divide the layers, and
    ///   options without effect on slerp.
    public init(
        method name: String, models: [MergeModelReference], base: MergeModelReference, layers: Int,
        _ options: Options = Options()
    ) throws {
        guard let method = MergeMethod(rawValue: name), let parameters = Self.searched[method] else {
            let names = Self.searched.keys.map(\.rawValue).sorted().joined(separator: ", ")
            throw UserError("merge.method: \(name) cannot be searched; use one of \(names)", .usage)
        }
        let step = options.layerGranularity
        guard step == 0 || step > 0 && layers % step == 0 else {
            throw UserError("cma.layer_granularity: \(step) does not divide the \(counted(layers, "layer"))", .usage)
        }
        if method == .slerp, options.smooth || !options.filters.isEmpty {
            throw UserError(
                "cma: smooth and filters have no place in slerp, which chooses two models a group of layers", .usage)
        }
        (self.method, self.models, self.base, self.layers, self.options) = (method, models, base, layers, options)
        self.parameters = parameters
        groups = step == 0 ? 1 : layers / step
    }

    private var sets: Int { options.filters.count + 1 }
    /// Numbers in a genotype.
    public var count: Int { groups * models.count * sets * parameters.count }

    private func gene(_ x: [Double], _ group: Int, _ model: Int, _ set: Int, _ parameter: Int) -> Double {
        x[((group * models.count + model) * sets + set) * parameters.count + parameter]
    }

    /// Equal weights and density 1; with a seed, anything in 0...1.
    public func start(randomSeed: UInt64? = nil) -> [Double] {
        if let randomSeed { return RandomStream(seed: randomSeed, 0x670).uniform(count).map(Double.init) }
        return (0..<count).map { $0 % parameters.count == 0 ? 1 / Double(models.count) : 1 }
    }

    /// The merge that a genotype stands for: |x| for weights unless negative ones are allowed, |x| cut at 1 for densities;
    /// for slerp, in every group the two models of the highest genes, t their softmax's second.
    ///
    /// - Precondition: `x.count == count`.
    public func config(_ x: [Double]) -> MergeConfig {
        precondition(x.count == count)
        if method == .slerp {
            return MergeConfig(method: .slerp, layout: .slices((0..<groups).map { slerpSlice(x, $0) }))
        }
        let normalize = options.normalize ?? [.linear, .ties, .dareTies].contains(method)
        let base = method.base == .required ? self.base : nil
        return MergeConfig(
            method: method,
            layout: options.smooth || groups == 1 ? .models(sources(x)) : .slices((0..<groups).map { slice(x, $0) }),
            base: base, parameters: ["normalize": .value(.flag(normalize))])
    }

    private func value(_ gene: Double, _ parameter: String) -> Double {
        if parameter == "density" { return min(1, abs(gene)) }
        return options.allowsNegativeWeights ? gene : abs(gene)
    }

    private func filtered(_ setting: (Int) -> MergeSetting) -> MergeSetting {
        if sets == 1 { return setting(0) }
        return .filtered((0..<sets).map { .init($0 < options.filters.count ? options.filters[$0] : nil, setting($0)) })
    }

    /// Whole models, with one value a group of layers as a gradient.
    private func sources(_ x: [Double]) -> [MergeSource] {
        models.indices.map { model in
            let settings = parameters.enumerated().map { p, name in
                let setting = filtered { set in
                    let values = (0..<groups).map { MergeValue.number(value(gene(x, $0, model, set, p), name)) }
                    return values.count == 1 ? .value(values[0]) : .gradient(values)
                }
                return (name, setting)
            }
            return MergeSource(models[model], parameters: Dictionary(uniqueKeysWithValues: settings))
        }
    }

    private func range(_ group: Int) -> Range<Int> {
        let step = layers / groups
        return group * step..<(group + 1) * step
    }

    private func slice(_ x: [Double], _ group: Int) -> MergeSlice {
        var sources = models.indices.map { model in
            let settings = parameters.enumerated().map { p, name in
                (name, filtered { .value(.number(value(gene(x, group, model, $0, p), name))) })
            }
            return MergeSource(
                models[model], layers: range(group), parameters: Dictionary(uniqueKeysWithValues: settings))
        }
        if method.base == .required, !models.contains(base) { sources.append(MergeSource(base, layers: range(group))) }
        return MergeSlice(sources)
    }

    private func slerpSlice(_ x: [Double], _ group: Int) -> MergeSlice {
        // Of equal genes the earlier model.
        let order = models.indices.sorted { (-gene(x, group, $0, 0, 0), $0) < (-gene(x, group, $1, 0, 0), $1) }
        let (first, second) = (order[0], order[1])
        let difference = gene(x, group, first, 0, 0) - gene(x, group, second, 0, 0)
        let t = 1 / (1 + exp(difference))
        return MergeSlice(
            [MergeSource(models[first], layers: range(group)), MergeSource(models[second], layers: range(group))],
            base: models[first], parameters: ["t": .number(t)])
    }
}
