// A family of models in a run folder: foundations, children as folders, scores and kinships in a journal.
internal import Diagnostics
internal import Formats
public import Merging
internal import RunLog

/// Scores of one model.
public typealias JudgeModel = (_ model: MergeModelReference) throws -> [Double]

/// Runs iterated merging in a run folder and goes on where an earlier start was ended.
///
///     journal.jsonl     what is finished: scores, children, kinships
///     models/NAME       the children; recipes/NAME.yaml how each was merged
public final class Family {
    public let folder: String
    public let tasks: [String]
    public let base: MergeModelReference
    public let metric: KinshipMetric
    public let evolution: Evolution
    /// Seconds that merging and judging each child took.
    public private(set) var seconds: [String: Double] = [:]
    private let foundations: [(name: String, reference: MergeModelReference)]
    private let merge: PairMerge
    private let judge: JudgeModel
    private let log: (String) -> Void
    private let journal: Journal
    private var scores: [String: [Double]] = [:]
    private var kinships: [Set<String>: Double?] = [:]
    private var recipes: [String: MergeConfig] = [:]
    private let settings: EvolutionSettings
    private let keepsAll: Bool
    /// Asked after each child: throws to end the run there.
    private let pause: () throws -> Void

    /// - Parameters:
    ///   - foundations: paths; their last components name them, longer ends where two are alike.
    ///   - log: a line for people.
    ///   - pause: called after each child; what it throws ends the run.
    public init(
        folder: String, foundations paths: [String], base: MergeModelReference, tasks: [String], merge: PairMerge,
        metric: KinshipMetric, settings: EvolutionSettings, keepsAll: Bool, log: @escaping (String) -> Void,
        pause: @escaping () throws -> Void, judge: @escaping JudgeModel
    ) throws {
        (self.folder, self.tasks, self.base, self.merge, self.metric) = (folder, tasks, base, merge, metric)
        (self.settings, self.keepsAll, self.log, self.pause, self.judge) = (settings, keepsAll, log, pause, judge)
        foundations = zip(
            shortNames(paths), try paths.map { try MergeModels().model(descendant: $0, of: base).reference }
        ).map { ($0, $1) }
        for part in ["models", "recipes", "plots"] {
            try createDirectories(joinPath(folder, part))
            try removeUnfinished(in: joinPath(folder, part))
        }
        var known = Known()
        journal = try Journal(joinPath(folder, "journal.jsonl")) { known.read($0, tasks: tasks.count) }
        evolution = Evolution(settings)
        (scores, seconds, kinships) = (known.scores, known.seconds, known.kinships)
        if !scores.isEmpty { log("going on with \(counted(scores.count, "model")) scored already") }
    }

    /// What a journal says.
    private struct Known {
        var scores: [String: [Double]] = [:], seconds: [String: Double] = [:]
        var kinships: [Set<String>: Double?] = [:]

        /// - Returns: false for a row that no family writes.
        mutating func read(_ row: JSONValue, tasks: Int) -> Bool {
            if let name = row["model"]?.string, let values = row["scores"]?.array?.compactMap(\.double) {
                guard values.count == tasks, let spent = row["seconds"]?.double else { return false }
                (scores[name], seconds[name]) = (values, spent)
                return true
            }
            guard let pair = row["kinship"]?.array?.compactMap(\.string), pair.count == 2, let value = row["value"]
            else { return false }
            kinships[Set(pair)] = .some(value.double)
            return value.isNull || value.double != nil
        }
    }

    /// Runs to the end.
    ///
    /// - Parameter finished: told after each generation.
    public func run(finished: @escaping (EvolutionGeneration, [EvolvedModel]) throws -> Void) throws -> Evolution.End {
        let work = EvolutionWork(
            scoreFoundation: { [unowned self] name in
                let values = try self.score(name, began: .now)
                self.log("\(name)  \(self.shown(values))")
                return values
            },
            makeChild: { [unowned self] in try self.make($0) },
            kinship: { [unowned self] in try self.kinship($0, $1) },
            finishedChild: { [unowned self] in try self.report($0, left: $1) },
            finishedGeneration: { [unowned self] generation, models in
                let kinship = generation.topKinship.map { ", their kinship \(decimals($0, 3))" } ?? ""
                self.log(
                    "generation \(generation.number): best \(decimals(generation.best, 2)), top \(generation.top.joined(separator: ", "))"
                        + kinship + (generation.isImproving ? "" : "; saturated"))
                try self.drop(generation, models)
                try finished(generation, models)
            })
        return try evolution.run(foundations: foundations.map(\.name), work)
    }

    // MARK: one child

    private func make(_ child: PlannedChild) throws -> [Double] {
        let began = ContinuousClock.now
        let config = recipe(child)
        recipes[child.name] = config
        let recipeFile = joinPath(folder, "recipes/\(child.name).yaml")
        if !fileExists(recipeFile) { try writeFileAtomically(config.yaml, to: recipeFile) }
        if let done = scores[child.name] { return done }
        try mergeIfMissing(child.name)
        return try score(child.name, began: began)
    }

    private func recipe(_ child: PlannedChild) -> MergeConfig {
        merge.config(better: reference(child.parents[0]), other: reference(child.parents[1]))
    }

    /// A child whose folder is gone is merged again from its recipe, its parents first.
    private func mergeIfMissing(_ name: String) throws {
        let path = childFolder(name)
        guard let recipe = recipes[name], !folderExists(path) else { return }
        for model in recipe.models {
            if let parent = recipes.keys.first(where: { childFolder($0) == model.path }) { try mergeIfMissing(parent) }
        }
        var options = MergeOptions()
        // A foundation far from the base is refused by the kinship, with a better message; progress is told by the child.
        (options.acceptsAnyBase, options.showsProgress) = (true, false)
        try MergePlan(recipe, opened: MergeModels { [log] in log($0) }).write(to: path, nil, options)
    }

    private func score(_ name: String, began: ContinuousClock.Instant) throws -> [Double] {
        if let done = scores[name] { return done }
        let values = try judge(reference(name))
        guard values.count == tasks.count, values.allSatisfy(\.isFinite) else {
            throw UserError(
                "\(name): a score is not a number: \(zip(tasks, values).map { "\($0) \($1)" }.joined(separator: ", "))")
        }
        let spent = began.duration(to: .now) / .seconds(1)
        try journal.append([
            "model": .string(name), "scores": .array(values.map { .init($0) }), "seconds": .init(spent),
        ])
        (scores[name], seconds[name]) = (values, spent)
        return values
    }

    /// - Parameter left: merges that may follow; a family that converges makes fewer.
    private func report(_ model: EvolvedModel, left: Int) throws {
        let made = evolution.models.filter { $0.generation > 0 }.compactMap { seconds[$0.name] }
        let time = Double(left) * made.reduce(0, +) / Double(max(1, made.count))
        log(
            "\(model.name) = \(model.parents.joined(separator: " + "))\(model.isExploration ? " (exploration)" : "")  "
                + "\(shown(model.scores))  gain \(signed(model.gain ?? 0))  kinship \(model.kinship.map { decimals($0, 3) } ?? "undefined")  "
                + duration(seconds: seconds[model.name] ?? 0)
                + (left == 0
                    ? "" : ", at most \(left) \(left == 1 ? "merge" : "merges") (\(duration(seconds: time))) left"))
        try pause()
    }

    private func shown(_ values: [Double]) -> String {
        let parts = zip(tasks, values).map { "\($0) \(decimals($1, 2))" }.joined(separator: "  ")
        return values.count == 1 ? parts : parts + "  mean \(decimals(values.reduce(0, +) / Double(values.count), 2))"
    }

    private func signed(_ value: Double) -> String { (value < 0 ? "" : "+") + decimals(value, 2) }

    // MARK: kinship

    private func kinship(_ a: String, _ b: String) throws -> Double? {
        if let known = kinships[[a, b]] { return known }
        for name in [a, b] { try mergeIfMissing(name) }
        let opened = MergeModels()
        let kinship = try Kinship([a, b].map { try opened.model(reference($0)) }, base: opened.model(base))
        let value = kinship.total.value(metric, 0, 1)
        try journal.append(["kinship": [.string(a), .string(b)], "value": value.map { .init($0) } ?? .null])
        kinships[[a, b]] = .some(value)
        return value
    }

    /// The kinship of all models whose weights are there, in the order in which they came.
    public func finalKinship() throws -> Kinship {
        let opened = MergeModels()
        let models = try evolution.models.filter(hasWeights).map { try opened.model(reference($0.name)) }
        return try Kinship(models, base: opened.model(base))
    }

    /// Models whose weights are there.
    public func hasWeights(_ model: EvolvedModel) -> Bool {
        model.generation == 0 || folderExists(childFolder(model.name))
    }

    /// Changes of two models from a third, tensor by tensor.
    public func changes(of names: [String], from origin: String) throws -> Kinship {
        let opened = MergeModels()
        return try Kinship(
            names.map { try opened.model(reference($0)) }, base: opened.model(reference(origin)),
            .init(breakdown: .tensor))
    }

    // MARK: folders

    public func childFolder(_ name: String) -> String { joinPath(folder, "models/\(name)") }

    private func reference(_ name: String) -> MergeModelReference {
        foundations.first { $0.name == name }?.reference ?? MergeModelReference(childFolder(name))
    }

    /// Removes children that no rule can ask for again: not among the best, and older than the pools of what follows.
    private func drop(_ generation: EvolutionGeneration, _ models: [EvolvedModel]) throws {
        if keepsAll { return }
        for model in models where model.generation > 0 && model.generation < generation.number - 1 {
            if !generation.top.contains(model.name) { try removeTree(childFolder(model.name)) }
        }
    }
}

/// What a run that was killed while writing left behind.
private func removeUnfinished(in folder: String) throws {
    for name in try listFolder(folder) where name.contains(".partial-") { try removeTree(joinPath(folder, name)) }
}
