// Generation without an operation at a time: what a family hands to a `FusedDecoder`.
public import Layers
public import Tensors

/// Computes the next scores of cached sequences.
public protocol SequenceScorer: AnyObject {
    /// Tokens of the longest sequence.
    var contextLength: Int { get }
    func makeCache(sequences: Int, capacity: Int) -> KVCache
    /// See `CausalLanguageModel.rotationKinds`.
    func rotationKinds(ofLength length: Int) -> [Int]
    /// Feeds tokens to cached sequences; scores after the last token of each, valid until the next call.
    func scores(after tokens: [[Int32]], rows: [Int], _ cache: KVCache) -> FusedDecoder.Scores
    /// Whether the rows of a step should be 0, 1, ...: other ones cost a copy of the cache.
    var wantsDenseRows: Bool { get }
    var vocabSize: Int { get }
    /// What computes a step in one call; nil where operations follow each other.
    var fused: FusedDecoder? { get }
}

extension SequenceScorer {
    /// Steps that a fused decoder has computed.
    public var fusedSteps: Int { fused?.steps ?? 0 }
}

/// A family that can hand its weights to a fused decoder.
public protocol FusedDecoding: CausalLanguageModel {
    /// What its layers turn by.
    var ropes: [RotaryEmbedding] { get }
    /// A decoder over the weights, which is only asked for where it can serve.
    func makeFusedDecoder(_ weights: MergedWeights) -> FusedDecoder
}

extension FusedDecoding {
    /// A decoder over the weights as they are now, adapters merged; nil where the plain path has to do: another device
    /// or dtype, or something that looks into the layers.
    public func fusedDecoder() -> FusedDecoder? {
        guard FusedDecoder.isFast, let weights = MergedWeights(of: self), layerObserver == nil,
            blockLinears.allSatisfy({ $0.linear.probe == nil && $0.linear.weight.packed == nil })
        else { return nil }
        return withoutGradients { makeFusedDecoder(weights) }
    }
}

/// Weights as a fused decoder reads them: in the type of computation, adapters merged. What lies in that order and type is
/// read where it is, anything else is copied.
public struct MergedWeights {
    private let dtype: DType

    /// nil where no kernel reads a model's weights.
    init?(of model: some CausalLanguageModel) {
        guard model.device == .cpu, [.float32, .bfloat16].contains(model.computeDType) else { return nil }
        dtype = model.computeDType
    }

    func callAsFunction(_ linear: Linear) -> StoredWeight { stored(weight(linear), linear.bias?.value) }

    func callAsFunction(_ table: Parameter) -> StoredWeight { stored(table.read(in: dtype), nil) }

    /// Stretches of rows of a map, one after the other.
    func split(_ linear: Linear, _ sizes: [Int]) -> [StoredWeight] {
        let weight = weight(linear), starts = sizes.reduce(into: [0]) { $0.append($0.last! + $1) }
        return zip(starts, sizes).map { start, size in
            stored(weight.narrow(0, start, size), linear.bias?.value.narrow(0, start, size))
        }
    }

    /// Three maps whose rows take turns, `width` rows of each.
    func interleaved(_ linear: Linear, width: Int) -> [StoredWeight] {
        let weight = weight(linear), (O, I) = weight.shape2
        return (0..<3).map { part in
            let rows = { (x: Tensor) in x.reshape(O / (3 * width), 3, width, -1).narrow(1, part, 1) }
            return stored(rows(weight).reshape(O / 3, I), (linear.bias?.value).map { rows($0).reshape(O / 3) })
        }
    }

    private func weight(_ linear: Linear) -> Tensor {
        linear.adapter.map { $0.merged(linear.weight).to(dtype) } ?? linear.weight.read(in: dtype)
    }

    private func stored(_ weight: Tensor, _ bias: Tensor?) -> StoredWeight {
        StoredWeight(weight, bias: bias)!  // on the CPU, of a type that kernels read
    }
}

extension FusedDecoder.Norm {
    init(_ norm: any Normalization) {
        switch norm {
        case let norm as RMSNorm: self.init(norm.weight.value, offset: norm.offset)
        case let norm as LayerNorm: self.init(norm.weight.value, bias: norm.bias.value)
        default: preconditionFailure("a norm without a kernel")
        }
    }
}

extension CausalLanguageModel {
    /// The fastest way to generate with the weights as they are now. A change of weights needs a new one.
    public func makeScorer() -> any SequenceScorer {
        if let model = self as? any FusedDecoding, let decoder = model.fusedDecoder() {
            return FusedScorer(model, decoder)
        }
        return makePlainScorer()
    }

    /// Layer by layer, whatever the model offers: what the fast path is compared with.
    public func makePlainScorer() -> any SequenceScorer { PlainScorer(self) }
}

/// Layer by layer, in LibTorch's operations.
final class PlainScorer: SequenceScorer {
    private let model: any CausalLanguageModel
    let fused: FusedDecoder? = nil
    let wantsDenseRows = true

    init(_ model: any CausalLanguageModel) { self.model = model }

    var contextLength: Int { model.contextLength }
    var vocabSize: Int { model.vocabSize }
    func makeCache(sequences: Int, capacity: Int) -> KVCache {
        model.makeCache(sequences: sequences, capacity: capacity)
    }
    func rotationKinds(ofLength length: Int) -> [Int] { model.rotationKinds(ofLength: length) }

    func scores(after tokens: [[Int32]], rows: [Int], _ cache: KVCache) -> FusedDecoder.Scores {
        withoutGradients {
            let plan = AttentionPlan(continuing: cache, rows: rows, lengths: tokens.map(\.count), on: model.device)
            let ids = Tensor(tokens.joined().map(Int64.init), on: model.device)
            let hidden = model.hiddenStates(ids, plan, cache: cache)
            let last = Tensor(plan.starts.dropFirst().map { Int64($0 - 1) }, on: model.device)
            return .init(model.logits(hidden.indexSelect(0, last)))
        }
    }
}

/// One call a step. Long prompts go through the layers, whose products of many rows are the library's, and so do sequences
/// that turn by different frequencies.
final class FusedScorer: SequenceScorer {
    private let model: any FusedDecoding
    private let plain: PlainScorer
    private let decoder: FusedDecoder
    /// Tokens of a step from which on the library's products are faster.
    private let longStep: Int

    init(_ model: any FusedDecoding, _ decoder: FusedDecoder) {
        (self.model, self.decoder) = (model, decoder)
        plain = PlainScorer(model)
        longStep = model.computeDType == .bfloat16 ? 512 : 64
    }

    var contextLength: Int { model.contextLength }
    var vocabSize: Int { model.vocabSize }
    var fused: FusedDecoder? { decoder }
    let wantsDenseRows = false
    func makeCache(sequences: Int, capacity: Int) -> KVCache {
        model.makeCache(sequences: sequences, capacity: capacity)
    }
    func rotationKinds(ofLength length: Int) -> [Int] { model.rotationKinds(ofLength: length) }

    func scores(after tokens: [[Int32]], rows: [Int], _ cache: KVCache) -> FusedDecoder.Scores {
        let kinds = Set(rows.map { rotationKinds(ofLength: cache.reaches[$0]) })
        if kinds.count > 1 || tokens.reduce(0, { $0 + $1.count }) > longStep {
            return plain.scores(after: tokens, rows: rows, cache)
        }
        return decoder(tokens, rows: rows, cache: cache, ropes: model.ropes)
    }
}
