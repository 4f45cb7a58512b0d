// One fine-tuning run under way: gradients, guards, reports, judging, saving, resuming.
internal import Checkpoints
internal import Datasets
internal import Diagnostics
internal import Evaluation
internal import Formats
internal import Generation
internal import Layers
internal import ModelFiles
internal import Models
internal import Optimizers
internal import RecipeData
internal import RunConfig
internal import RunLog
internal import Tensors

/// The state of a run beside weights and moments, and what is done with it at every step.
final class SFTSession {
    private(set) var step = 0
    private(set) var stoppedEarly = false
    /// A stop came while the step was judged: it is saved, and judged when the run goes on.
    private(set) var judgementIsOpen = false
    private var trainedTokens = 0
    private var tokens = 0
    private var seconds = 0.0
    private var spikes: SpikeGuard
    private var finiteness: NonFiniteGuard
    private var bestLoss: Double?
    private var judgementsSinceBest = 0
    private var lastJudged: (step: Int, loss: Double)?
    private var lastSaved = -1
    private var timeLeft = TimeLeft()

    private let config: SFTConfig
    private let inputs: SFTInputs
    private let run: RunFolder
    private let trained: TrainedModel
    private let optimizer: any Optimizer
    private let store: CheckpointStore
    private let metrics: MetricsLog
    private let batches: BatchRecord?
    private let prompts: ChatPrompts?

    /// Fresh, or as the newest valid checkpoint left it.
    init(
        _ config: SFTConfig, _ inputs: SFTInputs, _ run: RunFolder, _ trained: TrainedModel,
        _ optimizer: any Optimizer
    ) throws {
        (self.config, self.inputs, self.run, self.trained, self.optimizer) = (config, inputs, run, trained, optimizer)
        let training = config.training
        spikes = SpikeGuard(window: training.spikeWindow, threshold: training.spikeThreshold)
        finiteness = NonFiniteGuard(policy: training.onNonfinite == .skip ? .skip : .stop)
        var space = SpacePolicy()
        space.givesUp = { SignalFlags.stopRequested != nil }
        store = try run.checkpointStore(keep: training.keepCheckpoints, space: space)
        let checkpoint = try store.newestValid()
        metrics = try MetricsLog(folder: run.path, resumingAt: checkpoint?.state["metrics_offsets"])
        batches = try training.recordBatches ? BatchRecord(run.path, from: checkpoint?.step ?? 0) : nil
        prompts =
            training.samplePrompts.isEmpty
            ? nil : try ChatPrompts(inputs.tokenizer, template: config.data.template.map(SFTData.templateSource))
        if let checkpoint {
            try restore(checkpoint)
        } else if training.recordBatches, trained.adapter != nil {
            let folder = joinPath(run.path, "initial_adapter")
            try removeTree(folder)
            try createDirectories(folder)
            try trained.write(to: folder)
        }
        trained.prepare(step: step)
    }

    // MARK: a step

    /// Adds the gradients of the step, which is recorded first if asked; its loss as `StepGradients` gives it.
    func accumulateGradients(_ plan: StepPlan) throws -> Double {
        if let batches { try store.waitingForSpace("batches.jsonl") { try batches.write(plan, inputs.sampler) } }
        return StepGradients(config.training, inputs.sampler, trained).accumulate(plan)
    }

    /// Makes the update unless a guard forbids it; stops the run, with its state as it was, where policy says so.
    ///
    /// A guard that may forbid the update is told its norm beforehand, which takes a pass over gradients and moments. One
    /// that only reports is told it by the pass that makes the update.
    /// - Returns: the update's norm.
    func update(loss: Double, norm: Double, gradientScale: Double, learningRate: Double) throws -> Double {
        func make() -> Double { optimizer.step(learningRate: learningRate, gradientScale: gradientScale) }
        let isFinite = try allowsUpdate(loss: loss, norm: norm)
        if isFinite, config.training.onSpike == .log {
            let updateNorm = make()
            try judgeSpike(loss: loss, norm: norm, updateNorm: updateNorm)
            return updateNorm
        }
        let updateNorm = optimizer.updateNorm(gradientScale: gradientScale)
        if isFinite, try judgeSpike(loss: loss, norm: norm, updateNorm: updateNorm) { _ = make() }
        return updateNorm
    }

    /// Whether loss and gradients are numbers that may change the weights.
    private func allowsUpdate(loss: Double, norm: Double) throws -> Bool {
        let place = norm.isFinite ? nil : optimizer.nonFiniteGradients().first
        switch finiteness.judge(
            step: step, isFinite: loss.isFinite && norm.isFinite, quantity: loss.isFinite ? "gradient" : "loss",
            place: place)
        {
        case .proceed: return true
        case .skip(let message):
            run.log(message)
            return false
        case .stop(let message):
            try run.write(failureReport(place).serialized(.pretty) + "\n", to: "failure.json")
            throw UserError(message + " (rows and gradients of the step: \(joinPath(run.path, "failure.json")))")
        }
    }

    /// Whether the step may be made although it may be a spike.
    @discardableResult
    private func judgeSpike(loss: Double, norm: Double, updateNorm: Double) throws -> Bool {
        guard let spike = spikes.observe(step: step, loss: loss, gradNorm: norm, updateNorm: updateNorm) else {
            return true
        }
        let message = spike.message(window: config.training.spikeWindow)
        switch config.training.onSpike {
        case .log:
            run.log(message)
            return true
        case .skip:
            run.log(message + "; step skipped")
            return false
        case .stop: throw UserError(message + "; stopped before the update, as training.on_spike asks")
        }
    }

    /// The rows of the step and, per parameter, the range and the count of what is not finite.
    private func failureReport(_ place: String?) -> JSONValue {
        let plan = inputs.sampler.plan(step: step)
        let gradients: [JSONValue] = optimizer.parameters.compactMap { name, parameter in
            guard let gradient = parameter.value.gradient else { return nil }
            let values = gradient.values(Float.self), finite = values.filter(\.isFinite)
            return [
                "name": .string(name), "not_finite": .init(values.count - finite.count),
                "min": .init(Double(finite.min() ?? .nan)), "max": .init(Double(finite.max() ?? .nan)),
            ]
        }
        return [
            "step": .init(step), "rows": .array(plan.rows.map { .string("\(inputs.data.training.source($0))") }),
            "gradients": .array(gradients),
        ]
    }

    func advance(_ plan: StepPlan) {
        step += 1
        trainedTokens += plan.trainedTokens
        tokens += plan.tokens
        trained.prepare(step: step)
    }

    // MARK: reports

    func report(
        loss: Double, norm: Double, updateNorm: Double, learningRate: Double, _ plan: StepPlan, _ clock: StepClock
    ) throws {
        let elapsed = clock.seconds
        seconds += elapsed
        let left = timeLeft.update(step: step, of: inputs.steps)
        guard step % config.training.logEvery == 0 || step == inputs.steps else { return }
        let speed = Double(plan.tokens) / elapsed, memory = peakMemoryBytes()
        try writeMetrics([
            (LossMetric.training, loss), ("train/grad_norm", norm), ("train/update_norm", updateNorm),
            ("train/learning_rate", learningRate),
            ("train/epoch", Double(plan.epoch)), ("train/trained_tokens", Double(trainedTokens)),
            ("tokens_per_second", speed), ("step_time_ms", elapsed * 1000), ("peak_memory_bytes", Double(memory)),
        ])
        ProgressLine.show(
            StepFigures(
                step: step, steps: inputs.steps, loss: loss, gradNorm: norm, learningRate: learningRate,
                tokensPerSecond: speed, memoryBytes: memory, secondsLeft: left))
    }

    private func writeMetrics(_ values: [(name: String, value: Double)], texts: [(name: String, value: String)] = [])
        throws
    {
        try store.waitingForSpace(MetricsLog.fileName) { try metrics.write(step: step, values, texts: texts) }
    }

    /// Validation loss and samples where their turn has come; saves the best; early stop. Left off when a stop is asked
    /// for, since judging may take longer than whoever stops the run waits.
    func judge() throws {
        let training = config.training
        let every = config.judgementInterval(steps: inputs.steps), isLast = step == inputs.steps
        let isDue = step % every == 0 || isLast
        let judged = isDue && !inputs.data.validation.isEmpty ? try judgeLoss() : false
        judgementIsOpen = judged == nil
        guard let isBest = judged else { return }
        if training.sampleEvery.map({ step % $0 == 0 || isLast }) ?? isDue { try sample() }
        // Last, so that the checkpoint covers all that the metrics file holds.
        if isBest { try save() }
    }

    /// - Returns: whether no earlier loss was as low; nil when a stop was asked for.
    private func judgeLoss() throws -> Bool? {
        let judged = trained.withoutDropout {
            averageLoss(trained.loaded.model, inputs.data.validation, maxTokens: config.microBatchTokens) {
                SignalFlags.stopRequested != nil
            }
        }
        guard let loss = judged else { return nil }
        try writeMetrics([(LossMetric.heldOut, loss)])
        run.log("step \(grouped(step)): held-out loss \(decimals(loss, 4)) nats a token")
        // Of weights not yet rounded it is lower than any that the run is for, which no checkpoint shall be the best by.
        if trained.awaitsRounding { return false }
        lastJudged = (step, loss)
        if loss.isFinite, bestLoss.map({ loss < $0 }) ?? true {
            (bestLoss, judgementsSinceBest) = (loss, 0)
            return true
        }
        judgementsSinceBest += 1
        if let patience = config.training.earlyStopPatience, judgementsSinceBest >= patience {
            run.log("stopping early: \(counted(judgementsSinceBest, "validation")) without improvement")
            stoppedEarly = true
        }
        return false
    }

    private func sample() throws {
        guard let prompts else { return }
        let questions = config.training.samplePrompts
        let answers = try trained.withoutDropout {
            try chatAnswers(trained.loaded, inputs.tokenizer, prompts, to: questions, .init(maxNewTokens: 64))
        }
        for (question, answer) in zip(questions, answers) {
            run.log("step \(grouped(step)): \(escapedForDisplay(question)) -> \(escapedForDisplay(answer.text))")
        }
        try writeMetrics([], texts: answers.enumerated().map { ("sample/\($0.offset)", $0.element.text) })
    }

    // MARK: saving and resuming

    /// Saves at its turn and on request.
    ///
    /// - Returns: the status to exit with, when a signal asked to stop.
    func saveAsAsked() throws -> ExitStatus? {
        let every = config.training.saveEvery ?? max(1, inputs.steps / 10)
        let stop = SignalFlags.stopRequested, asked = SignalFlags.takeSaveRequest()
        if stop != nil || asked || step % every == 0 { try save() }
        if asked, stop == nil { run.log("saved step \(grouped(step)), as asked") }
        guard let stop, step < inputs.steps || judgementIsOpen else { return nil }
        run.log("saved step \(grouped(step)); run the same command again to go on")
        ProgressLine.finish()
        return stop
    }

    private func save() throws {
        if lastSaved == step { return }
        try store.save(
            step: step, state: state(), expectedBytes: trained.stateBytes,
            score: lastJudged.flatMap { $0.step == step ? $0.loss : nil }
        ) { folder in
            try trained.write(to: folder)
            try SafetensorsWriter.write(
                path: joinPath(folder, "optimizer.safetensors"),
                tensors: optimizer.state.map { .init($0.name, $0.tensor) })
        }
        lastSaved = step
    }

    private func state() throws -> JSONValue {
        [
            "step": .init(step), CheckpointStore.plannedSteps: .init(inputs.steps),
            "optimizer_steps": .init(optimizer.steps), "trained_tokens": .init(trainedTokens),
            "tokens": .init(tokens),
            "train_seconds": .init(seconds), "metrics_offsets": try metrics.position(),
            "best_loss": bestLoss.map { .init($0) } ?? nil, "judgements_since_best": .init(judgementsSinceBest),
            CheckpointStore.stoppedEarly: .init(stoppedEarly), "judgement_open": .init(judgementIsOpen),
            "spike_guard": spikes.json,
            "nonfinite_guard": finiteness.json,
        ]
    }

    private func restore(_ checkpoint: Checkpoint) throws {
        let state = checkpoint.state
        guard let step = state["step"]?.int, let updates = state["optimizer_steps"]?.int,
            let trainedTokens = state["trained_tokens"]?.int, let tokens = state["tokens"]?.int,
            let spikes = SpikeGuard(
                json: state["spike_guard"] ?? nil, window: spikes.window, threshold: spikes.threshold),
            let finiteness = NonFiniteGuard(json: state["nonfinite_guard"] ?? nil, policy: finiteness.policy)
        else { throw UserError("\(checkpoint.folder): its state is not one of this recipe") }
        try trained.restore(from: checkpoint.folder)
        let moments = try SafetensorsFile(path: checkpoint.path(of: "optimizer.safetensors"))
        try optimizer.restore(steps: updates) { try moments.tensor($0) }
        judgementIsOpen = state["judgement_open"]?.bool ?? false
        // An open judgement is saved again with its result.
        (self.step, self.trainedTokens, self.tokens, lastSaved) = (
            step, trainedTokens, tokens, judgementIsOpen ? -1 : step
        )
        (self.spikes, self.finiteness) = (spikes, finiteness)
        seconds = state["train_seconds"]?.double ?? 0
        bestLoss = state["best_loss"]?.double
        judgementsSinceBest = state["judgements_since_best"]?.int ?? 0
        stoppedEarly = state[CheckpointStore.stoppedEarly]?.bool ?? false
        lastJudged = checkpoint.score.map { (step, $0) }
        run.log("going on from step \(grouped(step)) of \(grouped(inputs.steps))")
    }

    /// The last save, the plot, and the final model: the best checkpoint's weights with their card.
    func complete() throws {
        try save()
        ProgressLine.finish()
        try run.write(
            lossPlot(
                title: config.output, trainingUnit: config.training.lossReduction.unit,
                metrics: readMetrics(joinPath(run.path, MetricsLog.fileName))),
            to: "plots/loss.svg")
        let best = store.best()
        if let best, best.step != step { try trained.restore(from: best.folder) }
        let folder = joinPath(run.path, trained.adapter == nil ? "model" : "adapter")
        try removeTree(folder)
        try writeFolderAtomically(folder) { temporary in
            try trained.write(to: temporary)
            try writeFileAtomically(card(best).markdown, to: joinPath(temporary, "README.md"))
        }
        let loss = best?.score.map { ", held-out loss \(decimals($0, 4)) at step \(grouped(best!.step))" } ?? ""
        run.log("done: \(folder)\(loss)")
    }

    private func card(_ best: Checkpoint?) throws -> ModelCard {
        let section = config.adapter
        let method =
            section.method == .full
            ? "all weights" : "\(section.method.rawValue), rank \(section.rank), alpha \(significant(section.alpha, 3))"
        var figures: [(name: String, value: String)] = [
            ("optimizer steps", grouped(step)), ("trained tokens", grouped(trainedTokens)),
            ("training time", duration(seconds: seconds)), ("peak memory", byteSize(peakMemoryBytes())),
        ]
        let trainedRows = inputs.data.training.rowsByFile, heldOutRows = inputs.data.validation.rowsByFile
        if let score = best?.score { figures.append(("held-out loss (nats a token)", decimals(score, 4))) }
        return ModelCard(
            title: fileName(of: config.output), baseModel: inputs.reference.baseFolder,
            isAdapter: trained.adapter != nil,
            method: method,
            data: inputs.data.sources.flatMap(\.fingerprint.files).map { file in
                (file.path, trainedRows[file.path] ?? 0, heldOutRows[file.path] ?? 0, file.sha256)
            },
            settings: config.flattened.map { ($0.key, $0.value) }, figures: figures,
            versions: [("Needletail", programVersion), ("LibTorch", Engine.version)])
    }

    func outcome(_ status: ExitStatus) -> SFT.Outcome {
        .init(status: status, tokens: tokens, trainedTokens: trainedTokens, seconds: seconds)
    }
}

extension TrainingSection.Reduction {
    /// What the training loss counts.
    var unit: String {
        switch self {
        case .token: "nats per token"
        case .sequence: "nats per token of a row, mean of the rows"
        case .sum: "nats of a whole step"
        }
    }
}
