// What a fine-tuning run will take in memory, by formula: no weights are loaded and nothing is measured.
// N tokens of a micro-batch, V vocabulary, r rank, e bytes a number
public import ModelFiles
public import RunConfig

/// Bytes that a run holds at its peak, by what they are for. An estimate: the allocator, and the pages of the model's
/// file that are still mapped, come on top.
public struct MemoryEstimate: Sendable, Equatable {
    /// Numbers that are trained.
    public let trainedWeights: Int
    /// Weights that are computed with; quantised maps at their packed size.
    public let weights: Int
    /// Of what is trained, beside its weights where they are counted already: fp32 masters, gradients and the optimizer's
    /// moments, and the copies that an adapter's bf16 products use. 16 bytes a number, 12 of a full run, whose masters are
    /// its weights, also where products are in bf16 (they are split then; a step of one micro-batch takes up to 2 less);
    /// adapters in bf16 18. 8-bit moments of all but token tables take 6 less, and Muon's one moment of the blocks' matrices
    /// 4 less.
    public let trainedState: Int
    /// What forward keeps for backward of the largest micro-batch:
    ///
    ///     layers · N · e (numbers kept by a block + r each adapted map)
    ///
    /// See `ModelOutline.keptByBlock`; an adapter keeps its r-wide middle. DoRA also keeps every map's output. Blocks that are computed again keep D each stretch,
    /// beside the stretch under way. Compare Megatron's count for unfused GPT blocks (Korthikanti et al. 2022,
    /// arXiv:2205.05198, eq. 1).
    public let activations: Int
    /// The loss head's chunk of at most 512 rows of logits: 512 · V · e.
    public let logits: Int
    /// LibTorch and the program before the first tensor: 0.2 GiB, as measured on Linux x86-64.
    public let program = 200 << 20

    public var total: Int { weights + trainedState + activations + logits + program }

    /// - Parameters:
    ///   - bytesPerNumber: 4 for fp32, 2 for bf16.
    ///   - tokens: of the largest micro-batch; trained ones of them decide the logits.
    public init(
        _ run: SFTConfig, _ model: ModelOutline, bytesPerNumber e: Int, tokens: Int, trainedTokens: Int
    ) {
        let config = run.adapter
        let isFull = config.method == .full
        let adapted = isFull ? [] : config.adapted(model)
        let widths = adapted.reduce(0) {
            $0 + config.rank * ($1.inputs + $1.outputs) + (config.method == .dora ? $1.outputs : 0)
        }
        let tables = config.saveEmbeddings ? model.vocabSize * model.hiddenSize * (model.tiedHead ? 1 : 2) : 0
        trainedWeights = isFull ? model.weights : widths + tables
        weights = isFull ? model.weights * 4 : run.model.quantize.bytes(ofWeights: model, bytesPerNumber: e)
        let narrow = run.optimizer.state == .int8 ? trainedWeights - (isFull ? model.tables : tables) : 0
        let matrices = model.blockLinears.reduce(0) { $0 + $1.outputs * $1.inputs }
        // Rounded weights stand beside whole masters, which then are not split.
        let rounded = run.training.quantizeAware == .none ? 0 : e * model.weights
        let state = isFull ? 12 * trainedWeights + rounded : widths * (e == 2 ? 18 : 16) + tables * (16 - e)
        trainedState = state - 6 * narrow - (run.optimizer.name == .muon ? 4 * matrices : 0)
        let blocks = model.layers, stretch = run.training.recomputeBlocks
        let kept = stretch > 0 && stretch < blocks ? stretch : blocks
        let inputBytes = run.training.recomputeInBf16 ? 2 : e
        activations =
            tokens
            * (Self.activationBytes(run, model, adapted, e) * kept / max(1, blocks)
                + (kept < blocks ? inputBytes * model.hiddenSize * (blocks / kept) : 0))
        logits = min(512, trainedTokens) * model.vocabSize * e
    }

    /// Bytes a token over all layers.
    private static func activationBytes(
        _ run: SFTConfig, _ model: ModelOutline, _ adapted: [ModelOutline.LinearMap], _ e: Int
    ) -> Int {
        let config = run.adapter, madeAgain = run.training.recomputeSelective ? model.madeAgainByBlock : 0
        let middles = config.method == .full ? 0 : config.rank * adapted.count
        let outputs = config.method == .dora ? adapted.reduce(0) { $0 + $1.outputs } : 0
        return model.layers * e * (model.keptByBlock - madeAgain) + e * (middles + outputs)
    }
}

extension ModelSection.Quantize {
    /// All weights, with the blocks' maps in the form that this keeps them in.
    fileprivate func bytes(ofWeights model: ModelOutline, bytesPerNumber e: Int) -> Int {
        model.blockLinears.reduce(model.weights * e) { sum, map in
            let dense = map.outputs * map.inputs * e
            return sum - dense + bytes(of: map, dense: dense)
        }
    }

    /// - Parameter dense: bytes as a tensor.
    private func bytes(of map: ModelOutline.LinearMap, dense: Int) -> Int {
        func blocks(_ size: Int) -> Int { map.outputs * ((map.inputs + size - 1) / size) }
        return switch self {
        case .none: dense
        case .nf4: 33 * blocks(64) + 4 * ((blocks(64) + 255) / 256)  // codes and scale; a step for 256 scales
        case .int8: 34 * blocks(32)
        case .asStored: min(dense, map.storedBytes)
        }
    }
}
