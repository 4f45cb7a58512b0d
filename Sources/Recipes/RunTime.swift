// How long a run will take, from some of its own steps: made in memory, so that nothing of a run is written.
internal import Datasets
internal import Diagnostics
internal import Evaluation
internal import Models
internal import Optimizers
internal import RecipeData
public import RunConfig
internal import RunLog
internal import Tensors

/// Steps of a run as they were measured, and the whole run's time by them.
public struct RunTime: Sendable {
    /// Steps measured, with their tokens and seconds.
    public let steps: Int, tokens: Int, seconds: Double
    /// The whole run: steps by their tokens, and judging.
    public let trainingSeconds: Double, judgingSeconds: Double
    public let judgements: Int
    public let peakMemoryBytes: Int

    /// Loads the model and makes steps that are spread over the run, at their learning rate, after one that is not
    /// counted: at least three, and more for about `seconds`, but never more than the run has. Held-out rows are judged in
    /// part.
    ///
    /// A run's time is that of its tokens. Loading, saving and samples are not in it. A GGUF file is converted into the
    /// cache and tokens are kept there, as for a run; nothing else is written.
    ///
    /// - Parameter given: resolved.
    /// - Throws: `UserError` for what a run would refuse.
    public init(_ given: SFTConfig, seconds budget: Double = 20) throws {
        let inputs = try SFTInputs(given), config = inputs.config
        let trained = try TrainedModel(config, inputs)
        let optimizer = config.optimizer(of: trained)
        let gradients = StepGradients(config.training, inputs.sampler, trained)
        let schedule = config.learningRateSchedule(steps: inputs.steps)
        func take(_ step: Int) -> (tokens: Int, seconds: Double) {
            let clock = StepClock(), plan = inputs.sampler.plan(step: step)
            _ = gradients.accumulate(plan)
            let norm = optimizer.gradientNorm()
            let clip = config.training.maxGradNorm.map { clipScale(norm: norm, max: $0) } ?? 1
            if config.training.onSpike != .log { _ = optimizer.updateNorm(gradientScale: clip) }
            optimizer.step(learningRate: schedule(step), gradientScale: clip)
            optimizer.zeroGradients()
            return (plan.tokens, clock.seconds)
        }
        _ = take(0)
        var (steps, tokens, seconds) = (0, 0, 0.0)
        while steps < inputs.steps, steps < 3 || seconds < budget {
            let taken = take(Self.position(steps, of: inputs.steps))
            (steps, tokens, seconds) = (steps + 1, tokens + taken.tokens, seconds + taken.seconds)
            ProgressLine.show("measured \(counted(steps, "step"))", isLast: false)
        }
        ProgressLine.finish()
        let all = (0..<inputs.steps).reduce(0) { $0 + inputs.sampler.plan(step: $1).tokens }
        (self.steps, self.tokens, self.seconds) = (steps, tokens, seconds)
        trainingSeconds = seconds / Double(tokens) * Double(all)
        judgements = inputs.data.validation.isEmpty ? 0 : config.judgements(steps: inputs.steps)
        judgingSeconds = Double(judgements) * Self.judging(trained, inputs)
        peakMemoryBytes = RunLog.peakMemoryBytes()
    }

    /// The k-th of positions that are spread over 0 ..< count, however many are taken: multiples of the golden section.
    static func position(_ k: Int, of count: Int) -> Int {
        let place = Double(k) * 0.618_033_988_749_895
        return min(count - 1, Int((place - place.rounded(.down)) * Double(count)))
    }

    /// Seconds of one judgement: of a part of the held-out rows, by its tokens.
    private static func judging(_ trained: TrainedModel, _ inputs: SFTInputs) -> Double {
        let rows = inputs.data.validation
        guard !rows.isEmpty else { return 0 }
        var count = 0, tokens = 0
        while count < rows.count, tokens < 8192 { (count, tokens) = (count + 1, tokens + rows.length(count)) }
        let part = TokenizedDataset(rows.prefix(count)), clock = StepClock()
        _ = trained.withoutDropout {
            averageLoss(trained.loaded.model, part, maxTokens: inputs.config.microBatchTokens)
        }
        return clock.seconds / Double(tokens) * Double(rows.tokens)
    }
}
