// Supervised fine-tuning: data, model, optimizer, loop.
internal import Datasets
public import Diagnostics
internal import Formats
internal import Models
internal import Optimizers
public import RunConfig
internal import RunLog
public import Tensors

/// Supervised fine-tuning of all weights or of an adapter (recipe `sft`).
public enum SFT {
    /// Runs the recipe, or goes on where its run folder stands.
    ///
    /// - Parameters:
    ///   - config: resolved.
    ///   - commandLine: recorded with the run.
    ///   - isDryRun: checks everything that is cheap, says what would run, and stops before weights are loaded.
    ///   - show: given the config once model, rows and run folder are known to be good, before anything else is said.
    /// - Returns: `success`, or the status to exit with when a signal asked to stop and the run was saved.
    /// - Throws: `UserError` for configuration, data, model and disk.
    public static func run(
        _ config: SFTConfig, commandLine: [String], isDryRun: Bool = false, show: (SFTConfig) throws -> Void = { _ in }
    ) throws -> ExitStatus {
        guard isDryRun else { return try train(config, commandLine: commandLine, show: show).status }
        let inputs = try SFTInputs(config)
        try show(inputs.config)
        inputs.describe().forEach { ProgressLine.print($0) }
        return .success
    }

    /// How a training ended; the figures count all starts of the run.
    struct Outcome {
        var status: ExitStatus
        /// Tokens computed, and those of them that were labels.
        var tokens: Int, trainedTokens: Int
        var seconds: Double
    }

    static func train(
        _ given: SFTConfig, commandLine: [String], show: (SFTConfig) throws -> Void = { _ in }
    ) throws -> Outcome {
        let inputs = try SFTInputs(given), config = inputs.config
        SignalFlags.install()
        defer { SignalFlags.uninstall() }
        let run = try inputs.openRun(commandLine)
        defer { run.finish() }
        let schedule = config.learningRateSchedule(steps: inputs.steps)
        let (optimizer, session) = try run.beginning {
            try show(config)
            inputs.describe().forEach { run.log($0) }
            let trained = try TrainedModel(config, inputs)
            let optimizer = config.optimizer(of: trained)
            return (optimizer, try SFTSession(config, inputs, run, trained, optimizer))
        }

        if session.judgementIsOpen {
            try session.judge()
            if let status = try session.saveAsAsked() { return session.outcome(status) }
        }
        while session.step < inputs.steps, !session.stoppedEarly {
            let clock = StepClock()
            let plan = inputs.sampler.plan(step: session.step)
            let loss = try session.accumulateGradients(plan)
            let norm = optimizer.gradientNorm()
            let clip = config.training.maxGradNorm.map { clipScale(norm: norm, max: $0) } ?? 1
            let updateNorm = try session.update(
                loss: loss, norm: norm, gradientScale: clip, learningRate: schedule(session.step))
            optimizer.zeroGradients()
            session.advance(plan)
            try session.report(
                loss: loss, norm: norm, updateNorm: updateNorm, learningRate: schedule(session.step - 1), plan, clock)
            try session.judge()
            if let status = try session.saveAsAsked() { return session.outcome(status) }
        }
        try session.complete()
        return session.outcome(.success)
    }
}

extension SFTConfig {
    func optimizer(of trained: TrainedModel) -> any Optimizer {
        let o = optimizer
        let adamw = AdamW.Settings(
            beta1: o.beta1, beta2: o.beta2, epsilon: o.epsilon, weightDecay: o.weightDecay,
            hasNarrowMoments: o.state == .int8)
        guard o.name == .muon else {
            return AdamW(trained.parameters, tables: trained.loaded.model.tables, adamw)
        }
        let products = trained.loaded.model.computeDType
        let settings = Muon.Settings(
            momentum: o.momentum, momentumWarmupSteps: o.momentumWarmupSteps, weightDecay: o.weightDecay,
            orthogonalization: o.orthogonalization == .newtonSchulz
                ? .newtonSchulz(products) : .polarExpress(products),
            rest: adamw, restRateShare: o.adamwLearningRate.map { $0 / o.learningRate! } ?? 1)
        return Muon(trained.parameters, matrices: trained.blockMatrices, settings)
    }

    func learningRateSchedule(steps: Int) -> Schedule {
        let warmup = schedule.warmupSteps ?? Int(((schedule.warmupRatio ?? 0) * Double(steps)).rounded(.up))
        return Schedule(
            Schedule.Shape(rawValue: schedule.name.rawValue)!, peak: optimizer.learningRate!, steps: steps,
            warmupSteps: warmup, minRatio: schedule.minRatio, decayRatio: schedule.decayRatio ?? 0.1)
    }

    /// Where the run computes.
    func engineDevice() throws -> Tensors.Device { try device.engineDevice() }

    /// The dtype of products and activations.
    func computeDType(on device: Tensors.Device) -> DType { model.dtype.computeDType(on: device) }
}

extension SFTConfig.Device {
    /// - Throws: `UserError` when the choice is not there.
    public func engineDevice() throws -> Tensors.Device {
        switch self {
        case .cpu: return .cpu
        case .auto: return Engine.hasCUDA ? .cuda(0) : .cpu
        case .cuda:
            guard Engine.hasCUDA else {
                throw UserError("device: no CUDA device is usable here (see needletail doctor)", .usage)
            }
            return .cuda(0)
        }
    }
}

extension ModelSection.Quantize {
    var quantization: BaseQuantization? {
        switch self {
        case .none: nil
        case .nf4: .nf4
        case .int8: .int8
        case .asStored: .asStored
        }
    }
}

extension ModelSection.Precision {
    public func computeDType(on device: Tensors.Device) -> DType {
        switch self {
        case .fp32: .float32
        case .bf16: .bfloat16
        case .auto: Engine.prefersBFloat16(on: device) ? .bfloat16 : .float32
        }
    }
}
