// The configuration of `evolve`: every key, its default, its range.

/// Iterated merging, or a search over merge parameters.
public struct EvolveConfig: RecipeConfig {
    public static let recipeName = "evolve"

    public enum Recipe: String, ConfigChoice { case evolve }
    public enum Search: String, ConfigChoice {
        /// Merge, select, merge again (arXiv:2410.12613).
        case iterate
        /// CMA-ES over the parameters of one merge.
        case cmaES = "cma_es"
    }
    public enum Strategy: String, ConfigChoice { case greedy, kinship, random }
    public enum Metric: String, ConfigChoice {
        case pcc, cs, ed
        case absCS = "abs_cs"
    }
    public enum Pool: String, ConfigChoice {
        case all
        case twoBack = "two_back"
        case oneBack = "one_back"
    }
    /// Which model of the pool an exploration takes; `highest` is a control.
    public enum Explore: String, ConfigChoice { case lowest, highest }
    public enum Keep: String, ConfigChoice {
        case all
        /// The best models and those that may still be merged; the others keep their recipes.
        case topK = "top_k"
    }

    public var recipe = Recipe.evolve
    public var search = Search.iterate
    /// The model that the foundations were trained from. Required.
    public var base = ""
    /// Two models or more, adapters included. Required.
    public var foundations: [String] = []
    public var merge = MergeSection()
    public var evaluate = EvaluateSection()

    // iterate
    public var strategy = Strategy.greedy
    /// Models that are merged with each other; pairs a generation of the random strategy.
    public var k = 3
    public var metric = Metric.pcc
    public var pool = Pool.twoBack
    public var explore = Explore.lowest
    public var maxGenerations = 6
    public var earlyStop = EarlyStopSection()
    public var keep = Keep.all

    public var cma = CMASection()
    /// Of random pairs and of CMA-ES.
    public var seed: UInt64 = 0
    /// The run folder.
    public var output = "runs/evolve"
    /// Worker threads; null takes one a physical core.
    public var threads: Int?
    public var device = SFTConfig.Device.auto
    /// What models are computed in while they are judged; `auto` is bf16 where the machine has instructions for it.
    public var dtype = ModelSection.Precision.auto

    public init() {}

    public func validate() -> [ConfigProblem] {
        var problems: [ConfigProblem] = []
        if base.isEmpty { problems.append(.init("base", "required: the model that the foundations were trained from")) }
        if foundations.count < 2 { problems.append(.init("foundations", "name two models or more")) }
        if Set(foundations).count < foundations.count { problems.append(.init("foundations", "names a model twice")) }
        problems += evaluate.validate().inSection("evaluate")
        problems += search == .iterate ? validateIteration() : cma.validate().inSection("cma")
        if output.isEmpty { problems.append(.init("output", "name the run folder, as in output: runs/family")) }
        return problems + threadProblems(threads) + withoutEffect()
    }

    private func validateIteration() -> [ConfigProblem] {
        var problems = atLeast(2, k, "k") + atLeast(1, maxGenerations, "max_generations")
        problems += atLeast(1, earlyStop.patience, "early_stop.patience")
        if keep == .topK, strategy == .random || strategy == .kinship && pool == .all {
            problems.append(.init("keep", "top_k would drop models that may still be merged here; use all"))
        }
        return problems
    }

    /// Settings that this search does not read.
    private func withoutEffect() -> [ConfigProblem] {
        let plain = EvolveConfig()
        var idle: [(String, Bool)] = []
        if search == .cmaES {
            idle = [
                ("strategy", strategy != plain.strategy), ("k", k != plain.k), ("metric", metric != plain.metric),
                ("pool", pool != plain.pool), ("explore", explore != plain.explore),
                ("max_generations", maxGenerations != plain.maxGenerations),
                ("early_stop", earlyStop != plain.earlyStop),
                ("keep", keep != plain.keep),
            ]
        } else {
            idle = [("cma", cma != plain.cma)]
            if strategy != .kinship { idle += [("pool", pool != plain.pool), ("explore", explore != plain.explore)] }
        }
        let name =
            search == .cmaES
            ? "search: cma_es" : strategy == .kinship ? "search: iterate" : "strategy: \(strategy.rawValue)"
        return idle.filter(\.1).map { .init($0.0, "has no effect with \(name); remove it") }
    }

    public func resolved() -> EvolveConfig { self }

    /// Keys that another start of the same run may change: they decide how long it goes on, not what it computes.
    public static let mayChangeOnResume: Set<String> = [
        "output", "threads", "max_generations", "early_stop.threshold", "early_stop.patience", "keep", "cma.max_fevals",
        "cma.timeout_minutes",
    ]
}

/// How two models become one.
public struct MergeSection: Codable, Sendable, Equatable {
    /// A merge method as mergekit spells it.
    public var method = "slerp"
    /// Its parameters by name, each a YAML value: `t: 0.5`, `t: "[0, 0.5, 1]"`. Required ones default to 0.5.
    public var parameters: [String: String] = [:]

    public init() {}
}

/// What models are judged on.
public struct EvaluateSection: Codable, Sendable, Equatable {
    /// Rows that show what a model can do.
    public struct Task: Codable, Sendable, Equatable {
        /// Required: names the score.
        public var name: String?
        /// Required: rows as `eval` reads them.
        public var data: String?
        /// Labels: the score is the accuracy in per cent. Without them it is 100 exp(-loss), the geometric mean of the
        /// tokens' probabilities in per cent.
        public var choice: [String]?
        /// Rows used of this task; null: `evaluate.limit`.
        public var limit: Int?
        /// Factor of the score in the objective of cma_es; null: 1.
        public var weight: Double?

        public init() {}
    }

    public var tasks: [Task] = []
    /// Rows used of each task, drawn by `seed`; null: all.
    public var limit: Int?
    public var seed: UInt64 = 0
    /// Tokens of a forward pass; decides memory and speed, not scores.
    public var batchTokens = 4096
    /// Allows tasks that are named like a benchmark's test split.
    public var allowTestSplits = false

    public init() {}

    /// Beginnings of the names of benchmarks whose public rows are their tests; training splits end in `_train`.
    public static let benchmarks = [
        "mmlu", "hendrycks", "agieval", "gsm8k", "hellaswag", "winogrande", "arc_", "ai2_arc", "truthfulqa", "bigbench",
        "piqa", "openbookqa", "leaderboard",
    ]

    func validate() -> [ConfigProblem] {
        var problems: [ConfigProblem] = []
        if tasks.isEmpty { problems.append(.init("tasks", "required: at least one task of name and data")) }
        let names = tasks.compactMap(\.name)
        if Set(names).count < names.count { problems.append(.init("tasks", "names a task twice")) }
        for (i, task) in tasks.enumerated() {
            let key = "tasks[\(i)]"
            if task.name?.isEmpty ?? true { problems.append(.init(key, "needs a name")) }
            if task.data?.isEmpty ?? true { problems.append(.init(key, "needs data, a file of rows")) }
            if let choice = task.choice, choice.count < 2 || Set(choice).count < choice.count {
                problems.append(.init("\(key).choice", "name two labels or more, each once"))
            }
            problems += atLeast(1, task.limit, "\(key).limit")
            if let benchmark = task.benchmark, !allowTestSplits {
                problems.append(
                    .init(
                        key,
                        "looks like the test split of \(benchmark), and what is optimised on it cannot be judged by it; "
                            + "use training rows under a name that ends in _train, or set evaluate.allow_test_splits: true"
                    ))
            }
        }
        problems += atLeast(1, limit, "limit")
        return problems + atLeast(16, batchTokens, "batch_tokens")
    }
}

extension EvaluateSection.Task {
    /// The benchmark that the task's name, or that of its file, begins with.
    var benchmark: String? {
        let file = data.map { String($0.split(separator: "/").last ?? "") } ?? ""
        let stem = String(file.prefix { $0 != "." })
        for name in [name ?? "", stem].map({ $0.lowercased() }) where !name.hasSuffix("_train") {
            if let found = EvaluateSection.benchmarks.first(where: name.hasPrefix) { return found }
        }
        return nil
    }
}

/// When the best models count as too alike.
public struct EarlyStopSection: Codable, Sendable, Equatable {
    /// Mean pairwise kinship of the best models above which (below which, for ed) a generation counts.
    public var threshold = 0.9
    /// Generations in a row; one alone is noise. Null never stops early.
    public var patience: Int? = 2

    public init() {}
}

/// CMA-ES over merge parameters.
public struct CMASection: Codable, Sendable, Equatable {
    /// Layers that share their parameters; 0: all of them. Must divide the number of layers.
    public var layerGranularity = 0
    /// Interpolates between the groups of layers instead of stepping.
    public var smooth = false
    /// Parts of tensor names with parameters of their own.
    public var filters: [String] = []
    /// Divides by the sum of weights; null: true for ties, dare_ties and linear.
    public var normalize: Bool?
    public var allowNegativeWeights = false
    /// Starts anywhere in 0...1 instead of at equal weights and density 1.
    public var randomInit = false
    public var sigma0 = 1.0 / 6
    /// Merges judged; a generation that is begun is finished.
    public var maxFevals = 100
    public var timeoutMinutes: Double?

    public init() {}

    func validate() -> [ConfigProblem] {
        var problems = atLeast(0, layerGranularity, "layer_granularity") + atLeast(1, maxFevals, "max_fevals")
        if !(sigma0 > 0) { problems.append(.init("sigma0", "\(sigma0) is not above 0")) }
        if let minutes = timeoutMinutes, !(minutes > 0) {
            problems.append(.init("timeout_minutes", "\(minutes) is not above 0"))
        }
        if smooth, layerGranularity == 0 {
            problems.append(.init("smooth", "has no effect with layer_granularity: 0, one group of layers"))
        }
        return problems
    }
}
