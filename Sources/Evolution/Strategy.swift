// Iterated merging: which pair of models to merge next, by score and kinship (arXiv:2410.12613, algorithms 1 and 2).
// M all models, G_i those of generation i, S the k best of M
internal import RandomStreams

/// What the loop does; see `Evolution`.
public struct EvolutionSettings: Sendable, Equatable {
    public enum Strategy: String, Sendable, CaseIterable {
        /// Merges the pairs of the best models.
        case greedy
        /// The same, and in each generation one exploration: the best model with its least related one of a pool.
        case kinship
        /// Random pairs of all models: the baseline.
        case random
    }
    /// Where the exploration's partner comes from.
    public enum Pool: String, Sendable, CaseIterable {
        /// G_{i-2}: what reproduces the paper's published run.
        case twoBack = "two_back"
        /// G_{i-1}: what the paper's pseudo-code says.
        case oneBack = "one_back"
        /// Every model of earlier generations.
        case all
    }
    /// Which model of the pool.
    public enum Partner: String, Sendable, CaseIterable {
        case lowest
        /// A control: the most related one.
        case highest
    }

    public var strategy = Strategy.greedy
    /// Models that are merged with each other; pairs a generation of the random strategy.
    public var k = 3
    public var pool = Pool.twoBack
    public var partner = Partner.lowest
    /// True when small values of the kinship mean related models (ed).
    public var kinshipIsDistance = false
    public var maxGenerations = 6
    /// Nil never stops early.
    public var earlyStop: EarlyStop? = EarlyStop()
    /// Of the random strategy.
    public var seed: UInt64 = 0

    public init() {}
}

/// Stops when models have become too alike to gain from each other.
public struct EarlyStop: Sendable, Equatable {
    /// Mean pairwise kinship of the best models beyond which they count as alike: above it, below it for a distance.
    public var threshold: Double
    /// Generations in a row; one alone is noise.
    public var patience: Int

    public init(threshold: Double = 0.9, patience: Int = 2) { (self.threshold, self.patience) = (threshold, patience) }

    /// The first position at which `patience` values in a row are beyond the threshold; nil when there is none.
    ///
    /// - Parameter kinships: one a generation; of a plain path, the kinship of each merge's parents.
    public func firstStop(_ kinships: [Double?], isDistance: Bool = false) -> Int? {
        var streak = 0
        for (i, value) in kinships.enumerated() {
            streak = value.map { isDistance ? $0 < threshold : $0 > threshold } == true ? streak + 1 : 0
            if streak >= patience { return i }
        }
        return nil
    }
}

/// A child that is to be made.
public struct PlannedChild: Sendable, Equatable {
    public let name: String
    public let generation: Int
    /// The better one first.
    public let parents: [String]
    public let isExploration: Bool
}

/// A model of the family.
public struct EvolvedModel: Sendable, Equatable {
    public let name: String
    /// 0 for foundations.
    public let generation: Int
    /// Two, or none for foundations.
    public let parents: [String]
    public let isExploration: Bool
    /// By task, higher is better.
    public let scores: [Double]
    /// P_avg(child) - mean of P_avg(parents); nil for foundations.
    public let gain: Double?
    /// P_avg minus the best P_avg before it; nil for foundations.
    public let deltaToTop: Double?
    /// Kinship of the parents; nil for foundations and where it is undefined.
    public let kinship: Double?
    /// How far apart the parents' scores are: mean over the tasks of |P_a - P_b|, the paper's ATPD; nil for foundations.
    public let parentsDifference: Double?

    /// P_avg, the mean over the tasks.
    public var average: Double { scores.reduce(0, +) / Double(max(1, scores.count)) }

    init(_ child: PlannedChild, scores: [Double], kinship: Double?, parents: [EvolvedModel], best: Double) {
        (name, generation, isExploration) = (child.name, child.generation, child.isExploration)
        (self.parents, self.scores, self.kinship) = (child.parents, scores, kinship)
        let average = scores.reduce(0, +) / Double(max(1, scores.count))
        gain = average - parents.reduce(0) { $0 + $1.average } / Double(max(1, parents.count))
        deltaToTop = average - best
        parentsDifference = averageTaskDifference(parents[0].scores, parents[1].scores)
    }

    init(foundation: String, scores: [Double]) {
        (name, generation, parents, isExploration) = (foundation, 0, [], false)
        self.scores = scores
        (gain, deltaToTop, kinship, parentsDifference) = (nil, nil, nil, nil)
    }
}

/// `mean_task |P_a - P_b|` (arXiv:2410.12613, average task performance difference).
func averageTaskDifference(_ a: [Double], _ b: [Double]) -> Double {
    zip(a, b).reduce(0) { $0 + abs($1.0 - $1.1) } / Double(max(1, a.count))
}

/// How a generation stands.
public struct EvolutionGeneration: Sendable, Equatable {
    public let number: Int
    /// Names of S, the best first.
    public let top: [String]
    /// Mean pairwise kinship of S; nil where it is undefined.
    public let topKinship: Double?
    /// Best P_avg so far.
    public let best: Double
    /// Mean gain of the last three generations' children; above 0.1 the family is still improving.
    public let meanGain: Double?

    public var isImproving: Bool { (meanGain ?? 0) > 0.1 }
}

/// What the loop needs done; every call may be slow.
public struct EvolutionWork {
    /// Scores of a foundation, by task.
    public var scoreFoundation: (_ name: String) throws -> [Double]
    /// Merges and scores a child.
    public var makeChild: (_ child: PlannedChild) throws -> [Double]
    /// Kinship of two models; nil where it is undefined.
    public var kinship: (_ a: String, _ b: String) throws -> Double?
    /// Told after each child, with the most that may still follow, then after each generation.
    public var finishedChild: (_ model: EvolvedModel, _ left: Int) throws -> Void
    public var finishedGeneration: (_ generation: EvolutionGeneration, _ models: [EvolvedModel]) throws -> Void

    public init(
        scoreFoundation: @escaping (String) throws -> [Double], makeChild: @escaping (PlannedChild) throws -> [Double],
        kinship: @escaping (String, String) throws -> Double?,
        finishedChild: @escaping (EvolvedModel, Int) throws -> Void = { _, _ in },
        finishedGeneration: @escaping (EvolutionGeneration, [EvolvedModel]) throws -> Void = { _, _ in }
    ) {
        (self.scoreFoundation, self.makeChild, self.kinship) = (scoreFoundation, makeChild, kinship)
        (self.finishedChild, self.finishedGeneration) = (finishedChild, finishedGeneration)
    }
}

/// The loop of iterated merging:
///
///     M = G_0 = foundations; G_1 = all pairs of them merged; M += G_1; S = top_k(M); i = 1
///     repeat: i += 1
///       G_i = the unordered pairs of S never merged before, merged; M += G_i
///       with kinship: best = argmax_S f; m = the least related model of pool(i) not yet merged with best;
///                     G_i, M += merge(best, m)
///       S = top_k(M)          ties: the earlier model
///     until S stays, early stop, or i == maxGenerations
///
/// An object, since what does the work looks at what has been done so far.
///
/// The random strategy merges k random pairs of M in every generation, none twice, and ends only early or at the last
/// generation. It is deterministic: with the same answers it asks for the same children in the same order, so a run goes
/// on after an interruption by answering from its record.
public final class Evolution {
    public enum End: String, Sendable {
        /// The best models stayed the same for a generation.
        case converged
        case earlyStop = "early_stop"
        case maxGenerations = "max_generations"
        /// No pair is left that was not merged.
        case exhausted
    }

    public let settings: EvolutionSettings
    /// M, in the order in which they came.
    public private(set) var models: [EvolvedModel] = []
    public private(set) var generations: [EvolutionGeneration] = []
    private var merged: Set<Set<String>> = []

    /// - Precondition: k is 2 or more, patience and maxGenerations 1 or more.
    public init(_ settings: EvolutionSettings) {
        precondition(settings.k >= 2 && settings.maxGenerations >= 1 && (settings.earlyStop?.patience ?? 1) >= 1)
        self.settings = settings
    }

    /// Runs until one of the stop rules holds.
    ///
    /// - Precondition: two foundations or more, names unique; it has not run before.
    public func run(foundations: [String], _ work: EvolutionWork) throws -> End {
        precondition(foundations.count >= 2 && Set(foundations).count == foundations.count && models.isEmpty)
        for name in foundations {
            models.append(EvolvedModel(foundation: name, scores: try work.scoreFoundation(name)))
        }
        var previous: [String] = []
        for i in 1...settings.maxGenerations {
            let count = models.count
            try makeGeneration(i, work)
            if models.count == count, settings.strategy == .random { return .exhausted }
            try close(i, work)
            let top = generations[generations.count - 1].top
            if settings.strategy != .random, i > 1, top == previous { return .converged }
            previous = top
            let kinships = generations.map(\.topKinship)
            if settings.earlyStop?.firstStop(kinships, isDistance: settings.kinshipIsDistance) != nil {
                return .earlyStop
            }
        }
        return .maxGenerations
    }

    /// The k best of all models, the best first.
    public var top: [EvolvedModel] {
        // Sorting by position among equals: the earlier model is kept.
        Array(
            models.enumerated().sorted { ($0.element.average, $1.offset) > ($1.element.average, $0.offset) }.map(
                \.element
            ).prefix(settings.k))
    }

    private func makeGeneration(_ i: Int, _ work: EvolutionWork) throws {
        let pairs: [(EvolvedModel, EvolvedModel)] =
            switch settings.strategy {
            case .random: randomPairs(i)
            case .greedy, .kinship: freshPairs(of: i == 1 ? models : top)
            }
        let best = top.first, explores = settings.strategy == .kinship && i > 1
        let later = (settings.maxGenerations - i) * mostChildren
        for (number, pair) in pairs.enumerated() {
            let left = pairs.count - number - 1 + (explores ? 1 : 0) + later
            try add(pair, i, "\(i)-\(number + 1)", left: left, work)
        }
        if explores, let best, let partner = try explorationPartner(of: best, i, work) {
            try add((best, partner), i, "\(i)-exp", isExploration: true, left: later, work)
        }
    }

    /// The most that a generation after the first has.
    private var mostChildren: Int {
        let pairs = settings.k * (settings.k - 1) / 2
        switch settings.strategy {
        case .greedy: return pairs
        case .kinship: return pairs + 1
        case .random: return settings.k
        }
    }

    /// Pairs in the order of their models, without those merged before.
    private func freshPairs(of group: [EvolvedModel]) -> [(EvolvedModel, EvolvedModel)] {
        group.indices.flatMap { a in group.indices.filter { $0 > a }.map { (group[a], group[$0]) } }
            .filter { !merged.contains([$0.0.name, $0.1.name]) }
    }

    private func randomPairs(_ i: Int) -> [(EvolvedModel, EvolvedModel)] {
        var pairs = freshPairs(of: models), chosen: [(EvolvedModel, EvolvedModel)] = []
        let draws = RandomStream(seed: settings.seed, UInt64(i)).words(settings.k)
        for draw in draws where !pairs.isEmpty {
            // The bias of a remainder is below one in a million for any family that fits on a disk.
            chosen.append(pairs.remove(at: Int(draw) % pairs.count))
        }
        return chosen
    }

    /// The model of the pool whose kinship to `best` is lowest (highest for the control); of equal ones the earlier.
    private func explorationPartner(of best: EvolvedModel, _ i: Int, _ work: EvolutionWork) throws -> EvolvedModel? {
        let pool = models.filter { model in
            switch settings.pool {
            case .twoBack: model.generation == i - 2
            case .oneBack: model.generation == i - 1
            case .all: model.generation < i
            }
        }
        let sign = (settings.partner == .lowest) != settings.kinshipIsDistance ? 1.0 : -1.0
        var found: (model: EvolvedModel, value: Double)?
        for model in pool where model.name != best.name && !merged.contains([best.name, model.name]) {
            guard let kinship = try work.kinship(best.name, model.name) else { continue }
            if found == nil || sign * kinship < found!.value { found = (model, sign * kinship) }
        }
        return found?.model
    }

    private func add(
        _ pair: (EvolvedModel, EvolvedModel), _ generation: Int, _ name: String, isExploration: Bool = false,
        left: Int, _ work: EvolutionWork
    ) throws {
        let ordered = pair.1.average > pair.0.average ? [pair.1, pair.0] : [pair.0, pair.1]
        let child = PlannedChild(
            name: name, generation: generation, parents: ordered.map(\.name), isExploration: isExploration)
        let best = models.map(\.average).max() ?? 0
        let kinship = try work.kinship(child.parents[0], child.parents[1])
        let model = EvolvedModel(
            child, scores: try work.makeChild(child), kinship: kinship, parents: ordered, best: best)
        merged.insert(Set(child.parents))
        models.append(model)
        try work.finishedChild(model, left)
    }

    private func close(_ i: Int, _ work: EvolutionWork) throws {
        let top = top
        var kinships: [Double] = []
        for a in top.indices {
            for b in top.indices where b > a {
                if let value = try work.kinship(top[a].name, top[b].name) { kinships.append(value) }
            }
        }
        let gains = models.filter { $0.generation > i - 3 }.compactMap(\.gain)
        let generation = EvolutionGeneration(
            number: i, top: top.map(\.name),
            topKinship: kinships.isEmpty ? nil : kinships.reduce(0, +) / Double(kinships.count),
            best: models.map(\.average).max() ?? 0,
            meanGain: gains.isEmpty ? nil : gains.reduce(0, +) / Double(gains.count))
        generations.append(generation)
        try work.finishedGeneration(generation, models)
    }
}
