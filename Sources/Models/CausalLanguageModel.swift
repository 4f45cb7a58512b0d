// What every family of causal language models offers to recipes, generation and evaluation.
public import Layers
public import Tensors

/// A decoder that predicts the next token from those before it.
public protocol CausalLanguageModel: Module {
    /// Rows of the token table; ids run below it.
    var vocabSize: Int { get }
    /// Longest document the model was made for, in tokens.
    var contextLength: Int { get }
    /// Rows of the position table, which no document may pass; nil where positions are computed.
    var positionLimit: Int? { get }
    /// Documents of which these are equal turn by the same frequencies, one entry for each rotation of the model.
    func rotationKinds(ofLength length: Int) -> [Int]
    /// Scores are capped to within ± this (`softCap`); nil: not at all.
    var logitCap: Double? { get }
    /// The dtype in which activations flow.
    var computeDType: DType { get set }
    var device: Device { get }
    /// The output table `[V, D]`; the token table itself when the two are tied.
    var headWeight: Parameter { get }
    var tokenTable: Embedding { get }

    /// What training keeps of a forward pass; everything at first.
    var recomputation: Recomputation { get set }

    /// Told the input `[N, D]` of each layer, from 0, as a forward pass comes to it; nil: nobody looks.
    var layerObserver: ((_ layer: Int, _ input: Tensor) -> Void)? { get set }

    /// Final normed hidden states `[N, D]` of the flat row of ids (int64 `[N]`) under the plan.
    func hiddenStates(_ ids: Tensor, _ plan: AttentionPlan, cache: KVCache?) -> Tensor
    /// An empty cache for as many sequences of at most `capacity` tokens.
    func makeCache(sequences: Int, capacity: Int) -> KVCache
}

extension CausalLanguageModel {
    public var positionLimit: Int? { nil }
    public func rotationKinds(ofLength length: Int) -> [Int] { [] }
    public var logitCap: Double? { nil }
    /// Whether the output table is the token table.
    public var isTied: Bool { headWeight === tokenTable.weight }

    /// Scores of every token of the vocabulary: hidden `[M, D]` -> fp32 `[M, V]` (fp64 in an fp64 model).
    public func logits(_ hidden: Tensor) -> Tensor {
        let product = linear(hidden, headWeight.read(in: hidden.dtype))
        let scores = product.dtype == .float64 ? product : product.to(.float32)
        return logitCap.map { softCap(scores, $0) } ?? scores
    }

    /// `Σ -log p(label)` in nats over the rows of a flat batch that have a label.
    ///
    /// - Parameters:
    ///   - labels: the id that follows each token, -100 where none is trained; `[N]`
    ///   - factors: what each row's term is multiplied by, `[N]`; ones when nil.
    ///   - terms: what training adds to each row's term.
    ///   - headChunk: rows of logits that exist at a time (`linearCrossEntropySum`).
    /// - Returns: a scalar.
    public func lossSum(
        _ ids: [Int32], labels: [Int32], documentStarts: [Int], factors: [Double]? = nil, terms: LossTerms = .init(),
        headChunk: Int? = nil
    ) -> Tensor {
        let (hidden, targets) = trainedRows(ids, labels, documentStarts)
        let kept = factors.map { factors in
            Tensor(labels.indices.filter { labels[$0] >= 0 }.map { factors[$0] }, on: device)
                .to(hidden.dtype == .float64 ? .float64 : .float32)
        }
        return linearCrossEntropySum(
            hidden, headWeight.value, copy: headWeight.copy(in: hidden.dtype), labels: targets, factors: kept,
            cap: logitCap, terms: terms, chunk: headChunk)
    }

    /// `log p(label)` in nats for every row that has a label, in order, fp32 at least, without gradients.
    public func logProbabilities(_ ids: [Int32], labels: [Int32], documentStarts: [Int]) -> Tensor {
        withoutGradients {
            let (hidden, targets) = trainedRows(ids, labels, documentStarts)
            return linearLogProbabilities(hidden, headWeight.read(in: hidden.dtype), labels: targets, cap: logitCap)
        }
    }

    /// Hidden states and targets of the rows with a label: no logits are computed for the others.
    private func trainedRows(_ ids: [Int32], _ labels: [Int32], _ starts: [Int]) -> (Tensor, Tensor) {
        let plan = AttentionPlan(documentStarts: starts, on: device)
        let hidden = hiddenStates(Tensor(ids.map(Int64.init), on: device), plan, cache: nil)
        let rows = labels.indices.filter { labels[$0] >= 0 }
        precondition(!rows.isEmpty, "a batch without a single label")
        let targets = Tensor(rows.map { Int64(labels[$0]) }, on: device)
        if rows.count == labels.count { return (hidden, targets) }
        return (hidden.indexSelect(0, Tensor(rows.map(Int64.init), on: device)), targets)
    }

    /// The tables of tokens, positions and outputs.
    public var tables: [Parameter] {
        let embeddings = namedModules().compactMap { ($0.module as? Embedding)?.weight }
        return embeddings.contains { $0 === headWeight } ? embeddings : embeddings + [headWeight]
    }

    /// The kinds of linear maps in the blocks, such as q_proj, sorted.
    public var blockLinearKinds: [String] {
        Set(blockLinears.compactMap { $0.name.split(separator: ".").last.map(String.init) }).sorted()
    }

    /// The linear maps of the blocks (not the output table) with their names: what adapters attach to.
    public var blockLinears: [(name: String, linear: Linear)] {
        namedModules().compactMap { name, module in (module as? Linear).map { (name, $0) } }.filter {
            $0.linear.weight !== headWeight
        }
    }
}
