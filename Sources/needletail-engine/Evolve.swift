// evolve: iterated merging and CMA-ES over merge parameters, judged in this process; runs drawn side by side.
import CommandLineInterface
import Diagnostics
import Evolution
import Formats
import Glibc
import Merging
import ModelFiles
import RunConfig
import RunLog
import Tensors

/// `evolve plot`
func plotRuns(_ command: EvolvePlotCommand) throws {
    try refuseExisting(command.output)
    let comparison = try RunComparison(folders: command.runs)
    try writeFileAtomically(comparison.chart.svg(), to: command.output)
    try StandardOutput.write(comparison.table.map { $0 + "\n" }.joined())
}

/// `evolve`
func evolve(_ command: EvolveRunCommand) throws {
    let config = try ConfigLoader.load(EvolveConfig.self, file: command.config, overrides: command.settings).resolved()
    if let threads = config.threads { Engine.threads = threads }
    let base = MergeModelReference(config.base)
    let foundations = try config.foundations.map {
        try MergeModels { ProgressLine.print($0) }.model(descendant: $0, of: base)
    }
    let ancestor = try MergeModels().model(base)
    let work = try plannedWork(config, base, foundations)
    let judge = try Judge(config, tokenizerOf: ancestor)
    // One pass over the weights: a base that is no ancestor and values that are no numbers end it here.
    _ = try Kinship(foundations, base: ancestor)
    // Everything that can be checked has been; the run folder may be made.
    let run = try openRun(config, [ancestor] + foundations, judge)
    defer { run.finish() }
    SignalFlags.install()
    let stopWhenAsked = { if let status = SignalFlags.stopRequested { throw StopRequested(status: status) } }
    do {
        switch work {
        case .family(let merge): try iterate(config, base, merge, judge, run, stopWhenAsked)
        case .search(let genome): try search(config, genome, judge, run, stopWhenAsked)
        }
    } catch let stop as StopRequested {
        run.log("stopped on request; the same command goes on")
        exit(stop.status.rawValue)
    }
}

/// What the config asks for, proven to be possible.
private enum EvolveWork {
    case family(PairMerge)
    case search(Genome)
}

private func plannedWork(
    _ config: EvolveConfig, _ base: MergeModelReference, _ foundations: [MergeModel]
) throws -> EvolveWork {
    let merge = config.merge
    if config.search == .iterate {
        return .family(try PairMerge(method: merge.method, parameters: merge.parameters, base: base))
    }
    guard merge.parameters.isEmpty else {
        throw UserError("merge.parameters: has no effect with search: cma_es, which finds them; remove it", .usage)
    }
    let config0 = foundations[0].config
    guard let layers = (config0?["num_hidden_layers"] ?? config0?["n_layer"])?.int else {
        throw UserError("\(foundations[0].reference): config.json has no num_hidden_layers")
    }
    var options = Genome.Options()
    (options.layerGranularity, options.smooth) = (config.cma.layerGranularity, config.cma.smooth)
    (options.filters, options.normalize) = (config.cma.filters, config.cma.normalize)
    options.allowsNegativeWeights = config.cma.allowNegativeWeights
    return .search(
        try Genome(method: merge.method, models: foundations.map(\.reference), base: base, layers: layers, options))
}

/// Leaves the loop at a place where everything is recorded.
private struct StopRequested: Error { let status: ExitStatus }

private func openRun(_ config: EvolveConfig, _ models: [MergeModel], _ judge: Judge) throws -> RunFolder {
    var hashes: [(name: String, sha256: String)] = []
    for (i, model) in models.enumerated() {
        var lines = try model.files.map { "\(try sha256(ofFile: $0.path))\n" }.joined()
        if let adapter = model.adapterFolder {
            lines += try sha256(ofFile: joinPath(adapter, AdapterFiles.weightsName))
        }
        hashes.append((i == 0 ? "base" : "foundations[\(i - 1)]", sha256(ofBytes: Array(lines.utf8))))
    }
    for (name, path) in judge.files { hashes.append(("task \(name)", try sha256(ofFile: path))) }
    let identity = RunIdentity(config: config.flattened, hashes: hashes, mayChange: EvolveConfig.mayChangeOnResume)
    var record = JSONObject()
    record["versions"] = ["needletail": .string(programVersion), "libtorch": .string(Engine.version)]
    record["command"] = .array(CommandLine.arguments.map { .string($0) })
    return try RunFolder(path: config.output, identity: identity, configYAML: config.yaml, record: record)
}

// MARK: iterated merging

private func iterate(
    _ config: EvolveConfig, _ base: MergeModelReference, _ merge: PairMerge, _ judge: Judge, _ run: RunFolder,
    _ pause: @escaping () throws -> Void
) throws {
    let family = try Family(
        folder: config.output, foundations: config.foundations, base: base, tasks: judge.names, merge: merge,
        metric: KinshipMetric(rawValue: config.metric.rawValue)!, settings: config.evolution,
        keepsAll: config.keep == .all,
        log: run.log, pause: pause, judge: { try judge.scores($0) })
    let end = try family.run { [unowned family] _, _ in try family.writeReport() }
    try family.writeWeightReport()
    let best = family.evolution.top[0]
    run.log(
        "ended: \(end.rawValue); best \(best.name) \(decimals(best.average, 2)), family tree \(config.output)/plots/family-tree.svg"
    )
    let pairs = Family.gains(family.evolution.models)
    var result = JSONObject([
        ("end", .string(end.rawValue)), ("best", .string(best.name)),
        (
            "folder",
            .string(
                best.generation == 0
                    ? config.foundations[family.evolution.models.firstIndex(of: best)!] : family.childFolder(best.name))
        ),
        ("average", .init(best.average)), ("generations", .init(family.evolution.generations.count)),
        ("merges", .init(pairs.count)),
    ])
    for (key, values) in [
        ("corr_kinship_gain", pairs.map(\.gain)), ("corr_kinship_abs_gain", pairs.map { abs($0.gain) }),
        ("corr_kinship_parents_atpd", pairs.map(\.parentsDifference)),
    ] {
        let found = Correlation(pairs.map(\.kinship), values)
        result[key] = found.map { ["r": .init($0.r), "p": .init($0.p), "n": .init($0.count)] } ?? .null
    }
    // The control: how often chance alone stays below a correlation of 0.5.
    let share = shuffledShare(
        pairs.map(\.kinship), pairs.map { abs($0.gain) }, below: 0.5, shuffles: 1000, seed: config.seed)
    result["shuffled_below_half"] = share.map { .init($0) } ?? .null
    try StandardOutput.write(JSONValue.object(result).serialized() + "\n")
}

extension EvolveConfig {
    fileprivate var evolution: EvolutionSettings {
        var settings = EvolutionSettings()
        settings.strategy = .init(rawValue: strategy.rawValue)!
        settings.pool = .init(rawValue: pool.rawValue)!
        settings.partner = .init(rawValue: explore.rawValue)!
        (settings.k, settings.maxGenerations, settings.seed) = (k, maxGenerations, seed)
        settings.kinshipIsDistance = metric == .ed
        settings.earlyStop = earlyStop.patience.map { EarlyStop(threshold: earlyStop.threshold, patience: $0) }
        return settings
    }
}

// MARK: CMA-ES

private func search(
    _ config: EvolveConfig, _ genome: Genome, _ judge: Judge, _ run: RunFolder, _ pause: @escaping () throws -> Void
) throws {
    let opened = MergeModels { run.log($0) }
    let merged = try MergedInMemory(judge, genome.models[0])
    let tasks = zip(judge.names, config.evaluate.tasks).map { (name: $0, weight: $1.weight ?? 1) }
    let search = try ParameterSearch(
        folder: config.output, genome: genome, tasks: tasks, log: run.log, pause: pause
    ) { try merged.scores(MergePlan($0, opened: opened)) }
    let deadline = config.cma.timeoutMinutes.map { ContinuousClock.now + .seconds($0 * 60) }
    let isWhole = try search.run(
        start: genome.start(randomSeed: config.cma.randomInit ? config.seed : nil), sigma: config.cma.sigma0,
        seed: config.seed,
        budget: config.cma.maxFevals, deadline: deadline)
    try run.write(search.chart().svg(), to: "plots/search.svg")
    try run.write(search.csv(), to: "trials.csv")
    guard let best = search.best else { throw UserError("no merge gave a number; see \(config.output)/journal.jsonl") }
    run.log(
        "ended: \(isWhole ? "budget spent" : "time over"); the best merge is \(config.output)/best.yaml: needletail merge it into a folder"
    )
    let result = JSONObject([
        ("merges", .init(search.trials.count)), ("objective", .init(best.trial.objective)),
        ("start", .init(search.trials[0].objective)),
        ("scores", .object(JSONObject(zip(judge.names, best.trial.scores).map { ($0, .init($1)) }))),
        ("config", .string("\(config.output)/best.yaml")),
    ])
    try StandardOutput.write(JSONValue.object(result).serialized() + "\n")
}
