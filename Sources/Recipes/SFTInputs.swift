// What a fine-tuning run is made from, checked before any weight is loaded: tokenizer, rows, order, hashes.
internal import ChatTemplates
internal import Datasets
internal import Diagnostics
internal import Formats
internal import Layers
internal import ModelFiles
internal import Optimizers
internal import Models
internal import RecipeData
internal import RunConfig
internal import RunLog
internal import Tensors
internal import Tokenizers

/// Tokenizer, rows and their order.
struct SFTInputs {
    /// As given, with the settings of an adapter that training continues.
    let config: SFTConfig
    let device: Tensors.Device
    let reference: ModelReference
    let tokenizer: Tokenizer
    let data: SFTData
    let sampler: BatchSampler
    /// Optimizer steps of the whole run.
    let steps: Int
    /// What chat templates that print a date print: the moment of the run's first start, so that it resumes with the
    /// same tokens on another day.
    let time: TemplateTime

    init(_ given: SFTConfig) throws {
        device = try given.engineDevice()
        reference = try Self.reference(given)
        config = try given.continuing(reference.adapterFolder)
        tokenizer = try config.data.tokenizer(at: reference.tokenizerFolder)
        time = try RunFolder.record(in: config.output)?[Self.timeKey]?.string.flatMap { TemplateTime(text: $0) } ?? .now
        data = try SFTData(config.data, tokenizer, time: time, threads: config.threads ?? Engine.threads)
        try data.check(positions: positionLimit(ofModel: reference.baseFolder))
        sampler = try config.sampler(data)
        steps = config.totalSteps(sampler)
        try refuseWithoutEffect()
    }

    private static let timeKey = "template_time"

    /// The model with the adapter that training continues, if any.
    private static func reference(_ config: SFTConfig) throws -> ModelReference {
        let model = try ModelReference(config.model.path, base: config.model.base) { ProgressLine.print($0) }
        if let adapter = model.adapterFolder, config.adapter.method == .full {
            throw UserError(
                "model.path: \(adapter) is an adapter; merge it first (needletail merge-adapter) or train with adapter.method: lora",
                .usage)
        }
        guard let folder = config.adapter.continueFrom else { return model }
        if let adapter = model.adapterFolder {
            throw UserError(
                "adapter.continue_from: model.path leads to an adapter already (\(adapter)); name one of the two",
                .usage)
        }
        let reference = try ModelReference(folder, base: model.storedFile ?? model.baseFolder) {
            ProgressLine.print($0)
        }
        guard reference.adapterFolder != nil else {
            throw UserError("adapter.continue_from: \(folder) is no adapter folder", .usage)
        }
        return reference
    }

    /// Settings that only the data show to be idle.
    private func refuseWithoutEffect() throws {
        if data.validation.isEmpty, config.training.earlyStopPatience != nil {
            throw UserError(
                "training.early_stop_patience: has no effect without held-out rows, and there are none", .usage)
        }
        if config.optimizer.state == .int8, device != .cpu {
            throw UserError("optimizer.state: int8 is for the CPU; remove it, or set device: cpu", .usage)
        }
        if config.training.quantizeAware != .none, config.training.quantizeAwareAfter >= steps {
            throw UserError(
                "training.quantize_aware_after: \(config.training.quantizeAwareAfter) is not before the end of the run at \(counted(steps, "step"))",
                .usage)
        }
        if config.training.quantizeAware != .none, device != .cpu {
            throw UserError(
                "training.quantize_aware: \(config.training.quantizeAware.rawValue) is for the CPU; remove it, or set device: cpu",
                .usage)
        }
        if config.model.quantize != .none, device != .cpu {
            throw UserError(
                "model.quantize: \(config.model.quantize.rawValue) is for the CPU; remove it, or set device: cpu",
                .usage)
        }
        let schedule = config.learningRateSchedule(steps: steps)
        if (0..<steps).allSatisfy({ schedule($0) == 0 }) {
            throw UserError(
                "schedule: warmup_steps or warmup_ratio make \(schedule.warmupSteps) of \(counted(steps, "step")) a warm-up from 0, so nothing would be learned; "
                    + "give fewer", .usage)
        }
    }

    /// What will run, a line each.
    func describe() -> [String] {
        let rows = data.training.count, tokens = data.training.tokens
        var lines = [
            "model \(config.model.path), \(config.adapter.method.rawValue), \(config.computeDType(on: device)), "
                + (config.model.quantize == .none ? "" : "base \(config.model.quantize.rawValue), ")
                + (config.training.quantizeAware == .none ? "" : "for \(config.training.quantizeAware.rawValue), ")
                + "\(counted(Engine.threads, "thread"))",
            "data \(counted(rows, "row")), \(counted(tokens, "token")), \(grouped(data.training.trainedTokens)) trained; "
                + "held out \(counted(data.validation.count, "row")), \(counted(data.validation.trainedTokens, "trained token"))",
            "\(counted(steps, "step")) of \(counted(config.training.batchRows, "row")), output \(config.output)",
        ]
        lines += data.notes + data.warnings + drawn
        lines += data.trainingStatistics.droppedByReason.map {
            "left out \(counted($0.count, "training row")): \($0.reason.rawValue)"
        }
        lines += data.validationStatistics.droppedByReason.map {
            "left out \(counted($0.count, "held-out row")): \($0.reason.rawValue)"
        }
        if data.trainingStatistics.duplicates > 0 {
            lines.append("left out \(counted(data.trainingStatistics.duplicates, "exact duplicate"))")
        }
        if data.trainingStatistics.rowsTruncated > 0 {
            lines.append(
                "cut \(counted(data.trainingStatistics.rowsTruncated, "training row")) to \(counted(config.data.maxLength, "token")) (data.truncation: \(config.data.truncation.rawValue))"
            )
        }
        if data.trainingStatistics.rowsSplit > 0 {
            let rows = counted(data.trainingStatistics.rowsSplit, "training row")
            lines.append("made several of \(rows) (data.truncation: split)")
        }
        return lines
    }

    /// What the whole run draws from paths with weights, a line each.
    private var drawn: [String] {
        guard let sets = data.weightedSets, let draws = sampler.draws(steps: steps) else { return [] }
        return zip(config.data.train, zip(draws, sets.rows)).map { path, set in
            let times = (Double(set.0) / Double(set.1.count) * 10).rounded() / 10
            return "draws: \(counted(set.0, "row")) of \(escapedForDisplay(path)), which has \(grouped(set.1.count)) "
                + "to train on: each \(times) times"
        }
    }

    /// Creates or takes up the run folder; a folder made from something else is refused with the differences.
    func openRun(_ commandLine: [String]) throws -> RunFolder {
        let yaml = config.yaml
        var hashes = data.sources.map { (name: $0.name, sha256: $0.fingerprint.sha256) }
        hashes.append(("tokenizer", sha256(ofBytes: tokenizer.fingerprintBytes)))
        hashes.append(("base", try reference.baseHash()))
        if let adapter = reference.adapterFolder {
            hashes.append(("adapter", try sha256(ofFile: joinPath(adapter, AdapterFiles.weightsName))))
        }
        if let template = config.data.template {
            hashes.append(("template", sha256(ofBytes: Array(try SFTData.templateSource(template).utf8))))
        }
        let identity = RunIdentity(
            config: config.flattened, hashes: hashes,
            mayChange: SFTConfig.mayChangeOnResume,
            paths: Dictionary(uniqueKeysWithValues: data.sources.map { ($0.name, $0.fingerprint.files.map(\.path)) }))
        var record = JSONObject()
        record["versions"] = [
            "needletail": .string(programVersion), "libtorch": .string(Engine.version),
            "compiler": .string(Machine.compiler),
        ]
        record["machine"] = [
            "system": .string(Machine.system), "processor": .string(Machine.processor),
            "processors": .init(Machine.processors), "memory_bytes": .init(Machine.memoryBytes),
            "cpu_capability": .string(Engine.cpuCapability), "threads": .init(Engine.threads),
        ]
        record["seeds"] = [
            "training": .string("\(config.training.seed)"),
            "data": .string("\(config.data.seed ?? config.training.seed)"),
        ]
        record[Self.timeKey] = .string(time.text)
        record["command"] = .array(commandLine.map { .string($0) })
        return try RunFolder(path: config.output, identity: identity, configYAML: yaml, record: record)
    }
}

extension SFTConfig {
    /// With the settings of the adapter in `folder`; one that was given otherwise is refused, as it would have no effect.
    fileprivate func continuing(_ folder: String?) throws -> SFTConfig {
        guard let folder else { return self }
        let found = try Adapter(folder: folder).config, defaults = AdapterSection()
        var config = self
        func take<V: Equatable>(_ key: String, _ path: WritableKeyPath<AdapterSection, V>, _ value: V) throws {
            let given = adapter[keyPath: path]
            guard given == value || given == defaults[keyPath: path] else {
                throw UserError(
                    "adapter.\(key): \(given) cannot change in the adapter that is continued, whose value is \(value) (\(folder))",
                    .usage)
            }
            config.adapter[keyPath: path] = value
        }
        try take("method", \.method, found.hasMagnitude ? .dora : found.scaling == .rankStabilized ? .rslora : .lora)
        try take("rank", \.rank, found.rank)
        try take("alpha", \.alpha, found.alpha)
        try take("targets", \.targets, found.targets.isEmpty ? ["all_linear"] : found.targets)
        try take("save_embeddings", \.saveEmbeddings, !found.savedModules.isEmpty)
        if !data.addTokens.isEmpty, found.savedModules.allSatisfy({ $0 == TensorNaming.adapterHeadModule }) {
            throw UserError(
                "data.add_tokens: the adapter that is continued has no embeddings to learn them (\(folder))", .usage)
        }
        return config
    }
}
