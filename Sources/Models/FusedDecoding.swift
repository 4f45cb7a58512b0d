// Generation without an operation at a time: what a family offers when its blocks are those of `FusedDecoder`.
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
    var rope: RotaryEmbedding { get }
    /// A decoder over the weights as they are now, adapters merged; nil where the plain path has to do: another device
    /// or dtype, or something that looks into the layers.
    func fusedDecoder() -> FusedDecoder?
}

extension CausalLanguageModel {
    /// The fastest way to generate with the weights as they are now. A change of weights needs a new one.
    public func makeScorer() -> any SequenceScorer {
        if let model = self as? any FusedDecoding, let decoder = model.fusedDecoder() {
            return FusedScorer(model, decoder, rope: model.rope)
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
    private let model: any CausalLanguageModel
    private let plain: PlainScorer
    private let decoder: FusedDecoder
    private let rope: RotaryEmbedding
    /// Tokens of a step from which on the library's products are faster.
    private let longStep: Int

    init(_ model: any CausalLanguageModel, _ decoder: FusedDecoder, rope: RotaryEmbedding) {
        (self.model, self.decoder, self.rope) = (model, decoder, rope)
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
        let kinds = Set(rows.map { rope.kind(ofLength: cache.reaches[$0]) })
        if kinds.count > 1 || tokens.reduce(0, { $0 + $1.count }) > longStep {
            return plain.scores(after: tokens, rows: rows, cache)
        }
        return decoder(tokens, rows: rows, cache: cache, rope: rope)
    }
}
