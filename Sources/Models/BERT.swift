// BERT (Devlin et al. 2019, arXiv:1810.04805): an encoder. Every token sees its whole document; norms stand behind attention
// and MLP; positions and token types are learned. MiniLM and most models of sentence embeddings are of this shape.
// N tokens, D hiddenSize, H heads, E = D / H, F intermediateSize

internal import Diagnostics
public import Formats
public import Layers
public import ModelFiles
public import Tensors

/// The shape of a BERT encoder.
public struct BERTConfig: WeightLayout, Equatable {
    public static let naming = TensorNaming.bert

    public var hiddenSize: Int
    public var intermediateSize: Int
    public var layers: Int
    public var heads: Int
    public var vocabSize: Int
    /// Rows of the position table.
    public var contextLength: Int
    /// Rows of the table of token types; one text is of type 0.
    public var tokenTypes: Int
    public var normEpsilon: Double
    /// Whether GELU is its tanh form.
    public var usesTanhGELU: Bool
    /// Whether a map of the first token's state follows the layers, as in training on pairs of sentences.
    public var hasPooler: Bool

    /// Reads config.json as transformers writes it. The dropout rates in it are not applied.
    ///
    /// - Throws: `UserError` for a missing or impossible value and for every setting that would change the computation and
    ///   is not supported.
    public init(_ json: JSONValue, file: String, hasPooler: Bool) throws {
        let reader = ConfigReader(json: json, file: file)
        try reader.require("model_type", oneOf: ["bert"], default: "missing")
        hiddenSize = try reader.positive("hidden_size")
        heads = try reader.positive("num_attention_heads")
        intermediateSize = try reader.positive("intermediate_size")
        layers = try reader.layers()
        vocabSize = try reader.positive("vocab_size")
        contextLength = try reader.positive("max_position_embeddings")
        tokenTypes = try reader.positive("type_vocab_size", 2)
        normEpsilon = try reader.number("layer_norm_eps", 1e-12)
        try reader.require(
            "hidden_act", oneOf: ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"], default: "gelu")
        usesTanhGELU = try reader.string("hidden_act", "gelu") != "gelu"
        self.hasPooler = hasPooler
        try reader.refuse("position_embedding_type", unless: ["absolute"])
        try reader.refuse("is_decoder", unless: [false])
        try reader.refuse("add_cross_attention", unless: [false])
        guard hiddenSize % heads == 0 else {
            throw UserError("\(file): hidden_size \(hiddenSize) is not a multiple of num_attention_heads \(heads)")
        }
    }

    public var tiedHead: Bool { false }

    public var parameterShapes: [(name: String, shape: [Int])] {
        let D = hiddenSize, F = intermediateSize
        var weights = WeightShapes()
        weights.table(Self.naming.tokenTable, vocabSize, D)
        weights.table("bert.embeddings.position_embeddings.weight", contextLength, D)
        weights.table("bert.embeddings.token_type_embeddings.weight", tokenTypes, D)
        weights.norm("bert.embeddings.LayerNorm", D, bias: true)
        for layer in 0..<layers {
            let at = Self.naming.blocks + "\(layer)."
            for map in ["query", "key", "value"] { weights.map(at + "attention.self." + map, D, D, bias: true) }
            weights.map(at + "attention.output.dense", D, D, bias: true)
            weights.norm(at + "attention.output.LayerNorm", D, bias: true)
            weights.map(at + "intermediate.dense", F, D, bias: true)
            weights.map(at + "output.dense", D, F, bias: true)
            weights.norm(at + "output.LayerNorm", D, bias: true)
        }
        if hasPooler { weights.map("bert.pooler.dense", D, D, bias: true) }
        return weights.all
    }
}

final class BERTEmbeddings: Module {
    let words, positions, types: Embedding
    let norm: LayerNorm
    var children: KeyValuePairs<String, any Module> {
        [
            "word_embeddings": words, "position_embeddings": positions, "token_type_embeddings": types,
            "LayerNorm": norm,
        ]
    }

    init(_ config: BERTConfig, _ dtype: DType, on device: Device) {
        words = Embedding(config.vocabSize, config.hiddenSize, dtype, on: device)
        positions = Embedding(config.contextLength, config.hiddenSize, dtype, on: device)
        types = Embedding(config.tokenTypes, config.hiddenSize, dtype, on: device)
        norm = LayerNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
    }

    func callAsFunction(_ ids: Tensor, _ starts: [Int], _ dtype: DType) -> Tensor {
        let places = zip(starts, starts.dropFirst()).flatMap { 0..<Int64($1 - $0) }
        let type = types(Tensor([0] as [Int64], on: ids.device), dtype)  // [1, D]
        return norm(words(ids, dtype) + positions(Tensor(places, on: ids.device), dtype) + type)
    }
}

final class BERTSelfAttention: Module {
    let query, key, value: Linear
    let heads: Int
    var children: KeyValuePairs<String, any Module> { ["query": query, "key": key, "value": value] }

    init(_ config: BERTConfig, _ dtype: DType, on device: Device) {
        let D = config.hiddenSize
        query = Linear(D, D, bias: true, dtype, on: device)
        key = Linear(D, D, bias: true, dtype, on: device)
        value = Linear(D, D, bias: true, dtype, on: device)
        heads = config.heads
    }

    func callAsFunction(_ x: Tensor, _ starts: [Int]) -> Tensor {
        let (N, D) = x.shape2, E = D / heads, split = { (y: Tensor) in y.reshape(N, self.heads, E) }
        return documentAttention(
            split(query(x)), split(key(x)), split(value(x)), starts: starts, causal: false, window: nil,
            scale: 1 / Double(E).squareRoot()
        ).reshape(N, D)
    }
}

/// A linear map whose result is added to what came before and normed.
final class BERTOutput: Module {
    let dense: Linear
    let norm: LayerNorm
    var children: KeyValuePairs<String, any Module> { ["dense": dense, "LayerNorm": norm] }

    init(_ width: Int, _ config: BERTConfig, _ dtype: DType, on device: Device) {
        dense = Linear(width, config.hiddenSize, bias: true, dtype, on: device)
        norm = LayerNorm(config.hiddenSize, epsilon: config.normEpsilon, dtype, on: device)
    }

    func callAsFunction(_ x: Tensor, addedTo before: Tensor) -> Tensor { norm(dense(x) + before) }
}

final class BERTAttention: Module {
    let own: BERTSelfAttention
    let output: BERTOutput
    var children: KeyValuePairs<String, any Module> { ["self": own, "output": output] }

    init(_ config: BERTConfig, _ dtype: DType, on device: Device) {
        own = BERTSelfAttention(config, dtype, on: device)
        output = BERTOutput(config.hiddenSize, config, dtype, on: device)
    }

    func callAsFunction(_ x: Tensor, _ starts: [Int]) -> Tensor { output(own(x, starts), addedTo: x) }
}

/// A linear map under the name `dense`.
final class BERTDense: Module {
    let dense: Linear
    var children: KeyValuePairs<String, any Module> { ["dense": dense] }

    init(_ inputs: Int, _ outputs: Int, _ dtype: DType, on device: Device) {
        dense = Linear(inputs, outputs, bias: true, dtype, on: device)
    }
}

final class BERTLayer: Module {
    let attention: BERTAttention
    let intermediate: BERTDense
    let output: BERTOutput
    let usesTanhGELU: Bool
    var children: KeyValuePairs<String, any Module> {
        ["attention": attention, "intermediate": intermediate, "output": output]
    }

    init(_ config: BERTConfig, _ dtype: DType, on device: Device) {
        attention = BERTAttention(config, dtype, on: device)
        intermediate = BERTDense(config.hiddenSize, config.intermediateSize, dtype, on: device)
        output = BERTOutput(config.intermediateSize, config, dtype, on: device)
        usesTanhGELU = config.usesTanhGELU
    }

    func callAsFunction(_ x: Tensor, _ starts: [Int]) -> Tensor {
        let h = attention(x, starts), wide = intermediate.dense(h)  // [N, F]
        return output(usesTanhGELU ? gelu(wide) : exactGELU(wide), addedTo: h)
    }
}

/// The layers; a module of its own since checkpoints name it `encoder`.
final class BERTLayers: Module {
    let layer: ModuleList<BERTLayer>
    var children: KeyValuePairs<String, any Module> { ["layer": layer] }

    init(_ config: BERTConfig, _ dtype: DType, on device: Device) {
        layer = ModuleList((0..<config.layers).map { _ in BERTLayer(config, dtype, on: device) })
    }
}

/// Embeddings, layers and pooler; a module of its own since checkpoints with heads name it `bert`.
final class BERTEncoder: Module {
    let embeddings: BERTEmbeddings
    let encoder: BERTLayers
    let pooler: BERTDense?
    var children: KeyValuePairs<String, any Module> {
        if let pooler {
            ["embeddings": embeddings, "encoder": encoder, "pooler": pooler]
        } else {
            ["embeddings": embeddings, "encoder": encoder]
        }
    }

    init(_ config: BERTConfig, _ dtype: DType, on device: Device) {
        embeddings = BERTEmbeddings(config, dtype, on: device)
        encoder = BERTLayers(config, dtype, on: device)
        pooler = config.hasPooler ? BERTDense(config.hiddenSize, config.hiddenSize, dtype, on: device) : nil
    }
}

/// A BERT encoder.
public final class BERT: Module {
    public let config: BERTConfig
    public let dtype: DType
    public let device: Device
    let bert: BERTEncoder
    public var children: KeyValuePairs<String, any Module> { ["bert": bert] }

    /// Memory for the weights in `dtype`, to be filled by a checkpoint.
    public init(_ config: BERTConfig, _ dtype: DType, on device: Device) {
        (self.config, self.dtype, self.device) = (config, dtype, device)
        bert = BERTEncoder(config, dtype, on: device)
    }

    /// Hidden states `[N, D]` of documents side by side.
    ///
    /// - Parameter starts: offsets of the documents, from 0 to N; none is longer than `config.contextLength`.
    public func hiddenStates(_ ids: [Int32], starts: [Int]) -> Tensor {
        precondition(
            zip(starts, starts.dropFirst()).allSatisfy { $1 - $0 <= config.contextLength }, "too long a document")
        var x = bert.embeddings(Tensor(ids.map(Int64.init), on: device), starts, dtype)
        for layer in bert.encoder.layer.items { x = layer(x, starts) }
        return x
    }

    /// The pooler's output `[M, D]`, tanh of a linear map, for states of first tokens `[M, D]`; nil where there is no pooler.
    public func pooled(_ first: Tensor) -> Tensor? { bert.pooler.map { softCap($0.dense(first), 1) } }
}
