// A decoder of equal blocks with rotary positions: what the families share. A family's file has its configuration and its
// block.
// N tokens, D hidden size
public import Layers
internal import ModelFiles
public import Tensors

/// A block: `[N, D]` -> `[N, D]`.
public protocol RotaryBlock: Module {
    func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor
    /// The same block for a fused decoder.
    func fusedLayer(_ weights: MergedWeights) -> FusedDecoder.Layer
}

/// The configuration of a family of such decoders.
public protocol RotaryFamily: ModelShape, DecoderConfiguration {
    associatedtype Block: RotaryBlock

    /// How many numbers of a head turn.
    var rotaryWidth: Int { get }
    /// Frequencies and scaling; layer i takes `rotaries[rotary(ofLayer: i)]`.
    var rotaries: [Rotary] { get }
    func rotary(ofLayer layer: Int) -> Int

    func makeBlock(layer: Int, _ dtype: DType, on device: Device) -> Block
    /// Adds the names and shapes of a block's weights; `at` is what its names begin with.
    func describeBlock(_ at: String, in weights: inout WeightShapes)
    /// The norm before the output table.
    func makeFinalNorm(_ dtype: DType, on device: Device) -> any Normalization
    /// Whether that norm has a bias.
    var hasNormBias: Bool { get }
    /// What rows of the token table are multiplied by.
    var embeddingScale: Double { get }
    /// Cap of the logits; nil for none.
    var logitCap: Double? { get }
    /// Tells a fused decoder what sets the family's blocks apart.
    func adapt(_ shape: inout FusedDecoder.Shape)
}

/// Frequencies of a rotation.
public struct Rotary: Sendable, Equatable {
    public var theta: Double
    public var scaling: RotaryScaling

    public init(theta: Double, scaling: RotaryScaling = .none) { (self.theta, self.scaling) = (theta, scaling) }
}

extension RotaryFamily {
    public var rotaryWidth: Int { headDim }
    public func rotary(ofLayer layer: Int) -> Int { 0 }
    public var embeddingScale: Double { 1 }
    public var logitCap: Double? { nil }
    public var hasNormBias: Bool { false }
    public func adapt(_ shape: inout FusedDecoder.Shape) {}

    public func makeFinalNorm(_ dtype: DType, on device: Device) -> any Normalization {
        RMSNorm(hiddenSize, epsilon: normEpsilon, dtype, on: device)
    }

    public var parameterShapes: [(name: String, shape: [Int])] {
        let naming = Self.naming
        var weights = WeightShapes()
        weights.table(naming.tokenTable, vocabSize, hiddenSize)
        for layer in 0..<layers { describeBlock("\(naming.blocks)\(layer).", in: &weights) }
        weights.norm("\(naming.decoderModule).\(naming.finalNormModule)", hiddenSize, bias: hasNormBias)
        if !tiedHead { weights.table(naming.headTable, vocabSize, hiddenSize) }
        return weights.all
    }

    public func makeModel(_ dtype: DType, on device: Device) -> any CausalLanguageModel {
        RotaryModel(self, dtype, on: device)
    }

    /// Norms begin at 1, biases at 0, everything else is drawn.
    public func beginning(of name: String, range: Double) -> WeightBeginning {
        if name.hasSuffix(".bias") { return .constant(0) }
        return name.hasSuffix("norm.weight") ? .constant(1) : .normal(deviation: range)
    }
}

/// The decoder without its output table; a module of its own since checkpoints name it.
public final class RotaryDecoder<Family: RotaryFamily>: Module {
    let embedTokens: Embedding
    let layers: ModuleList<Family.Block>
    let norm: any Normalization
    let ropes: [RotaryEmbedding]
    private let family: Family
    var layerObserver: ((Int, Tensor) -> Void)?
    var recomputation = Recomputation()

    public var children: KeyValuePairs<String, any Module> {
        let naming = Family.naming
        return [naming.tokenModule: embedTokens, naming.blockModule: layers, naming.finalNormModule: norm]
    }

    init(_ family: Family, _ dtype: DType, on device: Device) {
        embedTokens = Embedding(family.vocabSize, family.hiddenSize, dtype, on: device)
        layers = ModuleList((0..<family.layers).map { family.makeBlock(layer: $0, dtype, on: device) })
        norm = family.makeFinalNorm(dtype, on: device)
        ropes = family.rotaries.map {
            RotaryEmbedding(width: family.rotaryWidth, theta: $0.theta, scaling: $0.scaling, on: device)
        }
        self.family = family
    }

    func callAsFunction(_ ids: Tensor, _ plan: AttentionPlan, _ cache: KVCache?, _ dtype: DType) -> Tensor {
        let rotations = ropes.map { $0.rotation(plan) }
        var x = embedTokens(ids, dtype)  // [N, D]
        if family.embeddingScale != 1 { x = x * dtype.rounded(family.embeddingScale) }
        let y = recomputation.run(x, blocks: layers.items.count, recomputes: cache == nil) { i, x in
            self.layerObserver?(i, x)
            return self.layers.items[i](x, rotations[self.family.rotary(ofLayer: i)], plan, cache)
        }
        cache?.advance(plan)
        return norm(y)
    }
}

/// A causal language model of such a family.
public final class RotaryModel<Family: RotaryFamily>: CausalLanguageModel {
    public let config: Family
    public var computeDType: DType
    public let device: Device
    let model: RotaryDecoder<Family>
    let head: Linear?

    /// Memory for the weights in `dtype`, to be filled by a checkpoint.
    public init(_ config: Family, _ dtype: DType, on device: Device) {
        self.config = config
        self.device = device
        computeDType = dtype
        model = RotaryDecoder(config, dtype, on: device)
        head = config.tiedHead ? nil : Linear(config.hiddenSize, config.vocabSize, dtype, on: device)
    }

    public var children: KeyValuePairs<String, any Module> {
        let naming = Family.naming
        guard let head else { return [naming.decoderModule: model] }
        return [naming.decoderModule: model, naming.headModule: head]
    }

    public var vocabSize: Int { tokenTable.weight.shape[0] }
    public var contextLength: Int { config.contextLength }
    public func rotationKinds(ofLength length: Int) -> [Int] { model.ropes.map { $0.kind(ofLength: length) } }
    public var tokenTable: Embedding { model.embedTokens }
    public var headWeight: Parameter { head?.weight ?? model.embedTokens.weight }
    public var logitCap: Double? { config.logitCap }

    public func hiddenStates(_ ids: Tensor, _ plan: AttentionPlan, cache: KVCache?) -> Tensor {
        model(ids, plan, cache, computeDType)
    }

    public var recomputation: Recomputation {
        get { model.recomputation }
        set { model.recomputation = newValue }
    }

    public var layerObserver: ((Int, Tensor) -> Void)? {
        get { model.layerObserver }
        set { model.layerObserver = newValue }
    }

    public func makeCache(sequences: Int, capacity: Int) -> KVCache {
        KVCache(
            layers: config.layers, sequences: sequences, capacity: capacity, kvHeads: config.kvHeads,
            headDim: config.headDim, computeDType, on: device)
    }
}

extension RotaryModel: FusedDecoding {
    public var ropes: [RotaryEmbedding] { model.ropes }

    public func makeFusedDecoder(_ weights: MergedWeights) -> FusedDecoder {
        let layers = model.layers.items.enumerated().map { i, block in
            var layer = block.fusedLayer(weights)
            layer.rotation = config.rotary(ofLayer: i)
            return layer
        }
        let table = weights(tokenTable.weight)
        return FusedDecoder(
            config.decoderShape(in: computeDType), layers: layers, finalNorm: .init(model.norm), table: table,
            head: isTied ? table : weights(headWeight))
    }
}

extension RotaryFamily {
    /// What a fused decoder computes between products.
    func decoderShape(in dtype: DType) -> FusedDecoder.Shape {
        var shape = FusedDecoder.Shape(
            hiddenSize: hiddenSize, heads: heads, kvHeads: kvHeads, headDim: headDim,
            intermediateSize: intermediateSize, epsilon: normEpsilon, rotaryWidth: rotaryWidth)
        (shape.tableScale, shape.logitCap) = (dtype.rounded(embeddingScale), logitCap)
        adapt(&shape)
        return shape
    }
}

extension DType {
    /// A number as a tensor of this type would hold it: models published in bf16 were trained with constants rounded to it.
    func rounded(_ value: Double) -> Double { Tensor.full([1], value, .float64).to(self).to(.float64).item }
}
