// What a fine-tuning run multiplies, by formula: no weights are loaded and nothing is measured.
// N tokens computed, T of them labels, n tokens of a row, W weights of the blocks' maps, A of their adapters,
// V vocabulary, D hidden size, Q query width, L layers
public import ModelFiles
public import RunConfig

/// Floating-point operations of a run's matrix products; a multiplication and an addition are two.
///
///     forward    2 (W + A) N + 2 V D T + 2 L Q Σ n²                (causal: half of the n² pairs of query and key)
///     backward   the same for the inputs of each product, and 2 per weight and token for the weights that are trained
///
///     Muon       5 (3 m² n + m³) a step and block matrix of sides m ≤ n  (a symmetric product counts half)
///
/// An adapter's frozen maps have no weight gradients: 4 W N where full training takes 6 W N. Blocks that are computed
/// again take their forward twice. Not counted: norms of DoRA's weights, what kernels compute again within themselves,
/// everything that is no product, and judging.
public struct OperationCount: Sendable, Equatable {
    public let total: Double

    /// - Parameters:
    ///   - steps: of the whole run.
    ///   - tokens: computed in the whole run.
    ///   - trainedTokens: those that are labels.
    ///   - squares: Σ n² over the rows of the whole run.
    public init(_ run: SFTConfig, _ model: ModelOutline, steps: Int, tokens: Int, trainedTokens: Int, squares: Int) {
        let isFull = run.adapter.method == .full
        let W = Double(model.blockLinears.reduce(0) { $0 + $1.outputs * $1.inputs })
        let A = Double(
            isFull ? 0 : run.adapter.adapted(model).reduce(0) { $0 + run.adapter.rank * ($1.inputs + $1.outputs) })
        let LQ = Double(model.layers * model.queryWidth)
        let head = Double(model.vocabSize * model.hiddenSize)
        let again = run.training.shareComputedAgain(of: model.layers)
        let blocks = 2 * (W * (isFull ? 3 : 2) + A * 3 + (W + A) * again) * Double(tokens)
        let logits = 2 * head * (isFull || run.adapter.saveEmbeddings ? 3 : 2) * Double(trainedTokens)
        let muon = run.optimizer.name == .muon ? Double(steps) * model.blockLinears.reduce(0) { $0 + $1.muon } : 0
        total = blocks + logits + 2 * LQ * (3 + again) * Double(squares) + muon
    }
}

extension ModelOutline.LinearMap {
    /// Operations of one step of Muon; q, k and v of one map are three matrices.
    fileprivate var muon: Double {
        let parts = name.hasSuffix(".c_attn") ? 3 : 1, rows = outputs / parts
        let m = Double(min(rows, inputs)), n = Double(max(rows, inputs))
        return Double(parts) * 5 * (3 * m * m * n + m * m * m)
    }
}

extension AdapterSection {
    /// The maps that get an adapter, by PEFT's rule: the map's name or its end after a dot; `all_linear` for all.
    func adapted(_ model: ModelOutline) -> [ModelOutline.LinearMap] {
        model.blockLinears.filter { map in
            targets == ["all_linear"] || targets.contains { map.name == $0 || map.name.hasSuffix("." + $0) }
        }
    }
}

extension TrainingSection {
    /// Blocks of all but the last stretch are computed again, as a share of all blocks.
    fileprivate func shareComputedAgain(of blocks: Int) -> Double {
        guard recomputeBlocks > 0, recomputeBlocks < blocks else { return 0 }
        return Double((blocks - 1) / recomputeBlocks * recomputeBlocks) / Double(blocks)
    }
}
