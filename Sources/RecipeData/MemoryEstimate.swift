// What a fine-tuning run will take in memory, by formula: no weights are loaded and nothing is measured.
// N tokens of a micro-batch, D hidden size, Q query width, F MLP width, V vocabulary, r rank, e bytes a number
public import ModelFiles
public import RunConfig

/// Bytes that a run holds at its peak, by what they are for. An estimate: the allocator, and the pages of the model's
/// file that are still mapped, come on top.
public struct MemoryEstimate: Sendable, Equatable {
    /// Numbers that are trained.
    public let trainedWeights: Int
    /// Weights that are computed with.
    public let weights: Int
    /// fp32 master, gradient and AdamW's two moments of what is trained: 16 bytes a number (a full run's masters are its
    /// weights, so 12).
    public let trainedState: Int
    /// What forward keeps for backward of the largest micro-batch:
    ///
    ///     layers · N · (8 D + e (2 D + 5 Q + 4 F + 7 r))
    ///
    /// Each of the two norms keeps an fp32 copy of its input (8 D); the maps keep their inputs (2 D, and Q and F again
    /// below); attention q, its out, and k and v repeated to the query heads (5 Q with the output map's input); the MLP
    /// gate, silu, up and their product (4 F); an adapter its r-wide middle. DoRA also keeps every map's output. Compare
    /// Megatron's count for unfused GPT blocks (Korthikanti et al. 2022, arXiv:2205.05198, eq. 1).
    public let activations: Int
    /// The loss head's chunk of at most 256 rows of logits, fp32 and in the compute dtype: 256 · V · (4 + e).
    public let logits: Int
    /// LibTorch and the program before the first tensor: 0.2 GiB, as measured on Linux x86-64.
    public let program = 200 << 20

    public var total: Int { weights + trainedState + activations + logits + program }

    /// - Parameters:
    ///   - bytesPerNumber: 4 for fp32, 2 for bf16.
    ///   - tokens: of the largest micro-batch; trained ones of them decide the logits.
    public init(_ config: AdapterSection, _ model: ModelOutline, bytesPerNumber e: Int, tokens: Int, trainedTokens: Int)
    {
        let isFull = config.method == .full
        let adapted = isFull ? [] : model.blockLinears.filter { Self.applies(config.targets, to: $0.name) }
        let widths = adapted.reduce(0) {
            $0 + config.rank * ($1.inputs + $1.outputs) + (config.method == .dora ? $1.outputs : 0)
        }
        let tables = config.saveEmbeddings ? model.vocabSize * model.hiddenSize * (model.tiedHead ? 1 : 2) : 0
        trainedWeights = isFull ? model.weights : widths + tables
        weights = model.weights * (isFull ? 4 : e)
        trainedState = trainedWeights * (isFull ? 12 : 16)
        activations = tokens * Self.activationBytes(config, model, adapted, e)
        logits = min(256, trainedTokens) * model.vocabSize * (4 + e)
    }

    /// Bytes a token over all layers.
    private static func activationBytes(
        _ config: AdapterSection, _ model: ModelOutline, _ adapted: [ModelOutline.LinearMap], _ e: Int
    ) -> Int {
        func width(_ name: String) -> Int { model.blockLinears.first { $0.name.hasSuffix(".\(name)") }?.outputs ?? 0 }
        let D = model.hiddenSize, Q = width("q_proj"), F = width("gate_proj")
        let middles = config.method == .full ? 0 : config.rank * adapted.count
        let outputs = config.method == .dora ? adapted.reduce(0) { $0 + $1.outputs } : 0
        return model.layers * (8 * D + e * (2 * D + 5 * Q + 4 * F)) + e * (middles + outputs)
    }

    /// PEFT's rule: the map's name or its end after a dot; `all_linear` for all.
    private static func applies(_ targets: [String], to name: String) -> Bool {
        targets == ["all_linear"] || targets.contains { name == $0 || name.hasSuffix("." + $0) }
    }
}
