// GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): pre-norm, LayerNorm with bias,
// learned positions, one map for q, k and v, GELU in its tanh form, the output table tied to the token table. Checkpoints
// hold the linear maps of the blocks transposed.
// N tokens, D hiddenSize, H heads, E = D / H, F intermediateSize, V vocabSize

public import Layers
public import Tensors

/// The shape of a GPT-2 model.
public struct GPT2Config: Sendable, Equatable {
    public var hiddenSize: Int
    public var intermediateSize: Int
    public var layers: Int
    public var heads: Int
    public var vocabSize: Int
    /// Rows of the position table.
    public var contextLength: Int
    public var normEpsilon: Double
    /// Whether the output table is the token table.
    public var tiedHead: Bool
}

final class GPT2Attention: Module {
    let cAttn, cProj: Linear
    let heads: Int, layer: Int
    var children: KeyValuePairs<String, any Module> { ["c_attn": cAttn, "c_proj": cProj] }

    init(_ config: GPT2Config, layer: Int, _ dtype: DType, on device: Device) {
        let D = config.hiddenSize
        cAttn = Linear(D, 3 * D, parts: 3, bias: true, liesTransposed: true, dtype, on: device)
        cProj = Linear(D, D, bias: true, liesTransposed: true, dtype, on: device)
        heads = config.heads
        self.layer = layer
    }

    func callAsFunction(_ x: Tensor, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let (N, D) = x.shape2  // x [N, D]
        let H = heads, parts = cAttn(x).reshape(N, 3 * H, D / H).split([H, H, H], 1)  // [N, H, E] each
        let y = attention(parts[0], parts[1], parts[2], plan, cache: cache, layer: layer, window: nil)
        return cProj(y.reshape(N, D))
    }
}

final class GPT2MLP: Module {
    let cFC, cProj: Linear
    var children: KeyValuePairs<String, any Module> { ["c_fc": cFC, "c_proj": cProj] }

    init(_ config: GPT2Config, _ dtype: DType, on device: Device) {
        let D = config.hiddenSize, F = config.intermediateSize
        cFC = Linear(D, F, bias: true, liesTransposed: true, dtype, on: device)
        cProj = Linear(F, D, bias: true, liesTransposed: true, dtype, on: device)
    }

    func callAsFunction(_ x: Tensor) -> Tensor { cProj(gelu(cFC(x))) }
}

final class GPT2Block: Module {
    let ln1, ln2: LayerNorm
    let attn: GPT2Attention
    let mlp: GPT2MLP
    var children: KeyValuePairs<String, any Module> { ["ln_1": ln1, "attn": attn, "ln_2": ln2, "mlp": mlp] }

    init(_ config: GPT2Config, layer: Int, _ dtype: DType, on device: Device) {
        ln1 = LayerNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
        ln2 = LayerNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
        attn = GPT2Attention(config, layer: layer, dtype, on: device)
        mlp = GPT2MLP(config, dtype, on: device)
    }

    func callAsFunction(_ x: Tensor, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let (h, normed) = ln2(attn(ln1(x), plan, cache), adding: x)
        return h + mlp(normed)
    }

    func fusedLayer(_ weights: MergedWeights) -> FusedDecoder.Layer {
        let D = attn.cProj.inFeatures, qkv = weights.split(attn.cAttn, [D, D, D])
        var layer = FusedDecoder.Layer(
            q: qkv[0], k: qkv[1], v: qkv[2], o: weights(attn.cProj), gate: nil, up: weights(mlp.cFC),
            down: weights(mlp.cProj))
        (layer.inputNorm, layer.mlpInputNorm) = (.init(ln1), .init(ln2))
        return layer
    }
}

/// The decoder without its output table; a module of its own since checkpoints name it `transformer`.
final class GPT2Decoder: Module {
    let wte, wpe: Embedding
    let h: ModuleList<GPT2Block>
    let lnF: LayerNorm
    var layerObserver: ((Int, Tensor) -> Void)?
    var recomputation = Recomputation()
    var children: KeyValuePairs<String, any Module> { ["wte": wte, "wpe": wpe, "h": h, "ln_f": lnF] }

    init(_ config: GPT2Config, _ dtype: DType, on device: Device) {
        wte = Embedding(config.vocabSize, config.hiddenSize, dtype, on: device)
        wpe = Embedding(config.contextLength, config.hiddenSize, dtype, on: device)
        h = ModuleList((0..<config.layers).map { GPT2Block(config, layer: $0, dtype, on: device) })
        lnF = LayerNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
    }

    func callAsFunction(_ ids: Tensor, _ plan: AttentionPlan, _ cache: KVCache?, _ dtype: DType) -> Tensor {
        let positions = wpe.weight.shape[0]
        precondition(plan.positionBound <= positions, "position \(plan.positionBound - 1) of \(positions)")
        let x = wte(ids, dtype) + wpe(plan.positions, dtype)  // [N, D]
        let y = recomputation.run(x, blocks: h.items.count, recomputes: cache == nil) { i, x in
            self.layerObserver?(i, x)
            return self.h.items[i](x, plan, cache)
        }
        cache?.advance(plan)
        return lnF(y)
    }
}

/// A GPT-2 causal language model.
public final class GPT2: CausalLanguageModel, FusedDecoding {
    public let config: GPT2Config
    public var computeDType: DType
    public let device: Device
    let transformer: GPT2Decoder
    let lmHead: Linear?

    /// Memory for the weights in `dtype`, to be filled by a checkpoint.
    public init(_ config: GPT2Config, _ dtype: DType, on device: Device) {
        self.config = config
        self.device = device
        computeDType = dtype
        transformer = GPT2Decoder(config, dtype, on: device)
        lmHead = config.tiedHead ? nil : Linear(config.hiddenSize, config.vocabSize, dtype, on: device)
    }

    public var children: KeyValuePairs<String, any Module> {
        if let lmHead { ["transformer": transformer, "lm_head": lmHead] } else { ["transformer": transformer] }
    }

    public var vocabSize: Int { tokenTable.weight.shape[0] }
    public var contextLength: Int { config.contextLength }
    public var positionLimit: Int? { config.contextLength }
    public var tokenTable: Embedding { transformer.wte }
    public var headWeight: Parameter { lmHead?.weight ?? transformer.wte.weight }

    public func hiddenStates(_ ids: Tensor, _ plan: AttentionPlan, cache: KVCache?) -> Tensor {
        transformer(ids, plan, cache, computeDType)
    }

    public var recomputation: Recomputation {
        get { transformer.recomputation }
        set { transformer.recomputation = newValue }
    }

    public var layerObserver: ((Int, Tensor) -> Void)? {
        get { transformer.layerObserver }
        set { transformer.layerObserver = newValue }
    }

    /// None: positions are learned.
    public var ropes: [RotaryEmbedding] { [] }

    public func makeFusedDecoder(_ weights: MergedWeights) -> FusedDecoder {
        var shape = FusedDecoder.Shape(
            hiddenSize: config.hiddenSize, heads: config.heads, kvHeads: config.heads,
            headDim: config.hiddenSize / config.heads, intermediateSize: config.intermediateSize,
            epsilon: config.normEpsilon, rotaryWidth: 0)
        shape.activation = .tanhGELU
        let table = weights(tokenTable.weight)
        return FusedDecoder(
            shape, layers: transformer.h.items.map { $0.fusedLayer(weights) }, finalNorm: .init(transformer.lnF),
            table: table, head: isTied ? table : weights(headWeight), positions: weights(transformer.wpe.weight))
    }

    public func makeCache(sequences: Int, capacity: Int) -> KVCache {
        KVCache(
            layers: config.layers, sequences: sequences, capacity: capacity, kvHeads: config.heads,
            headDim: config.hiddenSize / config.heads, computeDType, on: device)
    }
}
