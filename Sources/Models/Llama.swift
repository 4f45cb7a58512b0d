// Llama 2 and 3 (arXiv:2307.09288, arXiv:2407.21783): pre-norm, RMSNorm, SwiGLU, rotary positions, grouped queries.
// Mistral 7B (arXiv:2310.06825) adds a sliding window, Qwen2 (arXiv:2407.10671) biases on q, k and v; both are values of
// the configuration here, since nothing else of the block differs.
// N tokens, D hiddenSize, H query heads, K key/value heads, E headDim, F intermediateSize, V vocabSize

public import Layers
public import Tensors

/// The shape of a Llama-type model.
public struct LlamaConfig: Sendable, Equatable {
    public var hiddenSize: Int
    public var intermediateSize: Int
    public var layers: Int
    public var heads: Int
    public var kvHeads: Int
    public var headDim: Int
    public var vocabSize: Int
    public var contextLength: Int
    public var normEpsilon: Double
    public var ropeTheta: Double
    public var ropeScaling: RotaryScaling
    /// Whether the output table is the token table.
    public var tiedHead: Bool
    /// Biases on the query, key and value maps; on the output map; in the MLP.
    public var qkvBias: Bool, outputBias: Bool, mlpBias: Bool
    /// Tokens each layer sees back, itself included; nil for all. One entry a layer.
    public var windows: [Int?]
}

/// Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) with rotary positions.
final class LlamaAttention: Module {
    let qProj, kProj, vProj, oProj: Linear
    let headDim: Int, layer: Int, window: Int?
    var children: KeyValuePairs<String, any Module> {
        ["q_proj": qProj, "k_proj": kProj, "v_proj": vProj, "o_proj": oProj]
    }

    init(_ config: LlamaConfig, layer: Int, _ dtype: DType, on device: Device) {
        let D = config.hiddenSize, E = config.headDim
        qProj = Linear(D, config.heads * E, bias: config.qkvBias, dtype, on: device)
        kProj = Linear(D, config.kvHeads * E, bias: config.qkvBias, dtype, on: device)
        vProj = Linear(D, config.kvHeads * E, bias: config.qkvBias, dtype, on: device)
        oProj = Linear(config.heads * E, D, bias: config.outputBias, dtype, on: device)
        headDim = E
        self.layer = layer
        window = config.windows[layer]
    }

    func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let (N, _) = x.shape2  // x [N, D]
        // q [N, H, E], k and v [N, K, E]
        let (q, k) = rotation(qProj(x).reshape(N, -1, headDim), kProj(x).reshape(N, -1, headDim))
        let v = vProj(x).reshape(N, -1, headDim)
        let y = attention(q, k, v, plan, cache: cache, layer: layer, window: window)
        return oProj(y.reshape(N, -1))  // [N, D]
    }
}

/// The gated MLP `down(silu(gate x) · up x)` (Shazeer 2020, arXiv:2002.05202, eq. 6).
final class LlamaMLP: Module {
    let gateProj, upProj, downProj: Linear
    var children: KeyValuePairs<String, any Module> {
        ["gate_proj": gateProj, "up_proj": upProj, "down_proj": downProj]
    }

    init(_ config: LlamaConfig, _ dtype: DType, on device: Device) {
        let D = config.hiddenSize, F = config.intermediateSize
        gateProj = Linear(D, F, bias: config.mlpBias, dtype, on: device)
        upProj = Linear(D, F, bias: config.mlpBias, dtype, on: device)
        downProj = Linear(F, D, bias: config.mlpBias, dtype, on: device)
    }

    func callAsFunction(_ x: Tensor) -> Tensor { downProj(swiGLU(gateProj(x), upProj(x))) }
}

final class LlamaBlock: Module {
    let selfAttention: LlamaAttention
    let mlp: LlamaMLP
    let inputNorm, postAttentionNorm: RMSNorm
    var children: KeyValuePairs<String, any Module> {
        [
            "self_attn": selfAttention, "mlp": mlp, "input_layernorm": inputNorm,
            "post_attention_layernorm": postAttentionNorm,
        ]
    }

    init(_ config: LlamaConfig, layer: Int, _ dtype: DType, on device: Device) {
        selfAttention = LlamaAttention(config, layer: layer, dtype, on: device)
        mlp = LlamaMLP(config, dtype, on: device)
        inputNorm = RMSNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
        postAttentionNorm = RMSNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
    }

    func callAsFunction(_ x: Tensor, _ rotation: Rotation, _ plan: AttentionPlan, _ cache: KVCache?) -> Tensor {
        let h = x + selfAttention(inputNorm(x), rotation, plan, cache)
        return h + mlp(postAttentionNorm(h))
    }
}

/// The decoder without its output table; a module of its own since checkpoints name it `model`.
final class LlamaDecoder: Module {
    let embedTokens: Embedding
    let layers: ModuleList<LlamaBlock>
    let norm: RMSNorm
    let rope: RotaryEmbedding
    var layerObserver: ((Int, Tensor) -> Void)?
    var recomputation = Recomputation()
    var children: KeyValuePairs<String, any Module> {
        ["embed_tokens": embedTokens, "layers": layers, "norm": norm]
    }

    init(_ config: LlamaConfig, _ dtype: DType, on device: Device) {
        embedTokens = Embedding(config.vocabSize, config.hiddenSize, dtype, on: device)
        layers = ModuleList((0..<config.layers).map { LlamaBlock(config, layer: $0, dtype, on: device) })
        norm = RMSNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
        rope = RotaryEmbedding(
            headDim: config.headDim, theta: config.ropeTheta, scaling: config.ropeScaling, on: device)
    }

    func callAsFunction(_ ids: Tensor, _ plan: AttentionPlan, _ cache: KVCache?, _ dtype: DType) -> Tensor {
        let rotation = rope.rotation(at: plan.positions, below: plan.positionBound)
        let x = embedTokens(ids, dtype)  // [N, D]
        let y = recomputation.run(x, blocks: layers.items.count, recomputes: cache == nil) { i, x in
            self.layerObserver?(i, x)
            return self.layers.items[i](x, rotation, plan, cache)
        }
        cache?.advance(plan)
        return norm(y)
    }
}

/// A Llama-type causal language model.
public final class Llama: CausalLanguageModel {
    public let config: LlamaConfig
    public var computeDType: DType
    public let device: Device
    let model: LlamaDecoder
    let lmHead: Linear?

    /// Memory for the weights in `dtype`, to be filled by a checkpoint.
    public init(_ config: LlamaConfig, _ dtype: DType, on device: Device) {
        self.config = config
        self.device = device
        computeDType = dtype
        model = LlamaDecoder(config, dtype, on: device)
        lmHead = config.tiedHead ? nil : Linear(config.hiddenSize, config.vocabSize, dtype, on: device)
    }

    public var children: KeyValuePairs<String, any Module> {
        if let lmHead { ["model": model, "lm_head": lmHead] } else { ["model": model] }
    }

    public var vocabSize: Int { tokenTable.weight.shape[0] }
    public var contextLength: Int { config.contextLength }
    public var tokenTable: Embedding { model.embedTokens }
    public var headWeight: Parameter { lmHead?.weight ?? model.embedTokens.weight }

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

extension Llama: FusedDecoding {
    public var rope: RotaryEmbedding { model.rope }

    public func fusedDecoder() -> FusedDecoder? {
        guard FusedDecoder.isFast, device == .cpu, [.float32, .bfloat16].contains(computeDType), layerObserver == nil,
            blockLinears.allSatisfy({ $0.linear.probe == nil })
        else { return nil }
        func stored(_ linear: Linear) -> StoredWeight? {
            let weight = linear.adapter.map { $0.merged(linear.weight).to(computeDType) }
            return StoredWeight(weight ?? linear.weight.read(in: computeDType), bias: linear.bias?.value)
        }
        return withoutGradients {
            var layers: [FusedDecoder.Layer] = []
            for (i, block) in model.layers.items.enumerated() {
                let (a, m) = (block.selfAttention, block.mlp)
                guard let q = stored(a.qProj), let k = stored(a.kProj), let v = stored(a.vProj),
                    let o = stored(a.oProj), let gate = stored(m.gateProj), let up = stored(m.upProj),
                    let down = stored(m.downProj)
                else { return nil }
                layers.append(
                    .init(
                        q: q, k: k, v: v, o: o, gate: gate, up: up, down: down,
                        inputNorm: block.inputNorm.weight.value, postNorm: block.postAttentionNorm.weight.value,
                        window: config.windows[i]))
            }
            guard let table = StoredWeight(tokenTable.weight.read(in: computeDType)) else { return nil }
            let isTied = headWeight === tokenTable.weight
            let head = isTied ? table : StoredWeight(headWeight.read(in: computeDType))
            return head.map {
                FusedDecoder(config, layers: layers, finalNorm: model.norm.weight.value, table: table, head: $0)
            }
        }
    }
}

extension FusedDecoder {
    /// A decoder of this shape.
    convenience init(
        _ config: LlamaConfig, layers: [Layer], finalNorm: Tensor, table: StoredWeight, head: StoredWeight
    ) {
        self.init(
            hiddenSize: config.hiddenSize, heads: config.heads, kvHeads: config.kvHeads, headDim: config.headDim,
            intermediateSize: config.intermediateSize, epsilon: config.normEpsilon,
            scale: 1 / Double(config.headDim).squareRoot(), layers: layers, finalNorm: finalNorm, table: table,
            head: head)
    }
}
