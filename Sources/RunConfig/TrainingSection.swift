// The section `training` that recipes share: length, batches, cadence, guards.

/// How long, in what batches, how often to report and save, and what to do when numbers go wrong.
public struct TrainingSection: Codable, Sendable, Equatable {
    /// What the loss of an optimiser step is divided by.
    public enum Reduction: String, ConfigChoice {
        /// Trained tokens of the whole step.
        case token
        /// Mean of each row, then mean of the rows.
        case sequence
        /// Nothing.
        case sum
    }
    /// Blocks of a GGUF file that weights are trained for.
    public enum QuantizeAware: String, ConfigChoice { case none, q8_0, q4_0, q4_k, q5_k, q6_k }
    public enum OnNonfinite: String, ConfigChoice { case stop, skip }
    public enum OnSpike: String, ConfigChoice { case log, skip, stop }

    /// Passes over the training rows; fractions are allowed. Null and no `steps`: 1.
    public var epochs: Double?
    /// Optimiser steps; instead of `epochs`.
    public var steps: Int?
    /// Rows an optimiser step.
    public var batchRows = 16
    /// Tokens a forward pass at most, which decides memory, not results; null: chosen by the program.
    public var microBatchTokens: Int?
    /// Blocks of which only the first one's input is kept for backward, where the rest is computed again: less memory for
    /// about a third more time; results stay the same. 0 keeps everything.
    public var recomputeBlocks = 0
    /// Whether backward computes the outputs of norms and gates again instead of keeping them (selective checkpointing):
    /// less memory; results stay the same.
    public var recomputeSelective = false
    /// Whether what `recompute_blocks` keeps is rounded to bf16, also where training computes in fp32: half the memory, and
    /// gradients of the rounded states.
    public var recomputeInBf16 = false
    /// Quantization-aware training of all weights, on the CPU: products see every matrix rounded to this block type, and
    /// `needletail export --type` of the same name then loses nothing that was trained.
    public var quantizeAware = QuantizeAware.none
    /// Steps before that begins.
    public var quantizeAwareAfter = 0
    public var lossReduction = Reduction.token
    /// Share of a token's target that all tokens of the vocabulary have in common; only in training, not in validation.
    public var labelSmoothing = 0.0
    /// What the squared logarithm of the softmax's denominator counts in the loss, which keeps it near 0; only in training.
    public var zLoss = 0.0
    /// Largest norm of all gradients; null does not clip.
    public var maxGradNorm: Double? = 1.0
    /// Adapter weights, dropout and, unless `data.seed` is given, the order of rows.
    public var seed: UInt64 = 0

    /// Steps between lines of progress and rows of metrics.
    public var logEvery = 1
    /// Steps between validations; null: ten times a run.
    public var evalEvery: Int?
    /// Steps between checkpoints; null: ten times a run.
    public var saveEvery: Int?
    /// Newest checkpoints kept, beside the best one.
    public var keepCheckpoints = 2
    /// Validations without improvement after which the run ends; null never.
    public var earlyStopPatience: Int?
    /// Prompts answered during training, printed and logged.
    public var samplePrompts: [String] = []
    /// Steps between samples; null: at every validation.
    public var sampleEvery: Int?

    /// Writes every step's tokens to `batches.jsonl` and the untrained adapter to `initial_adapter/`, so that another
    /// program can repeat the run.
    public var recordBatches = false

    public var onNonfinite = OnNonfinite.stop
    public var onSpike = OnSpike.log
    /// Steps that spikes are measured against.
    public var spikeWindow = 128
    /// Robust standard deviations above the median that count as a spike.
    public var spikeThreshold = 6.0

    public init() {}

    func validate() -> [ConfigProblem] {
        var problems: [ConfigProblem] = []
        if epochs != nil, steps != nil { problems.append(.init("steps", "give epochs or steps, not both")) }
        if let epochs, !(epochs > 0) { problems.append(.init("epochs", "\(epochs) is not above 0")) }
        let atLeastOne = [
            ("steps", steps), ("batch_rows", batchRows), ("micro_batch_tokens", microBatchTokens),
            ("log_every", logEvery), ("eval_every", evalEvery), ("save_every", saveEvery),
            ("early_stop_patience", earlyStopPatience), ("sample_every", sampleEvery),
        ]
        for (key, value) in atLeastOne { problems += atLeast(1, value, key) }
        problems += atLeast(0, recomputeBlocks, "recompute_blocks")
        if recomputeInBf16, recomputeBlocks == 0 {
            problems.append(.init("recompute_in_bf16", "has no effect without recompute_blocks; remove it"))
        }
        if !(labelSmoothing >= 0 && labelSmoothing < 1) {
            problems.append(.init("label_smoothing", "\(labelSmoothing) is not from 0 to below 1"))
        }
        if !(zLoss >= 0 && zLoss.isFinite) { problems.append(.init("z_loss", "\(zLoss) is not 0 or more")) }
        problems += atLeast(0, quantizeAwareAfter, "quantize_aware_after")
        if quantizeAwareAfter > 0, quantizeAware == .none {
            problems.append(.init("quantize_aware_after", "has no effect without quantize_aware; remove it"))
        }
        if keepCheckpoints < 2 {
            problems.append(.init("keep_checkpoints", "\(keepCheckpoints) is less than 2, which resuming safely takes"))
        }
        if let norm = maxGradNorm, !(norm > 0) { problems.append(.init("max_grad_norm", "\(norm) is not above 0")) }
        if sampleEvery != nil, samplePrompts.isEmpty {
            problems.append(.init("sample_every", "has no effect without sample_prompts; remove it"))
        }
        problems += atLeast(16, spikeWindow, "spike_window")
        if !(spikeThreshold > 1) { problems.append(.init("spike_threshold", "\(spikeThreshold) is not above 1")) }
        return problems
    }
}
