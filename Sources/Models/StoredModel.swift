// Generation with the weights of a GGUF file as they are stored: matrices are read where the file is mapped, but for types
// that no kernel multiplies, which are converted, and rows in another order, which are copied.
internal import Diagnostics
internal import Formats
public import Layers
public import ModelFiles
public import Tensors
public import Tokenizers

/// A model of the Llama family whose matrices stay the blocks of a mapped file. It generates on the CPU; it cannot train.
///
/// Matrices of types that no kernel multiplies (`StoredWeight.Format.init`: F16 and Q5_K, say) are converted to `dtype` in
/// memory, norms and biases to fp32; where the file has the rows of queries and keys in llama.cpp's order, their blocks are
/// copied into Hugging Face's.
public final class StoredModel: SequenceScorer {
    private let config: LlamaConfig
    private let decoder: FusedDecoder
    private let rope: RotaryEmbedding
    private let endIDs: [Int]
    private let dtype: DType

    /// - Parameter dtype: of the cache and of what has to be converted; fp32 or bf16.
    /// - Throws: `UserError` for another family.
    public init(_ source: GGUFModel, dtype: DType) throws {
        let type = source.config["model_type"]?.string ?? ""
        guard LlamaConfig.modelTypes.contains(type) else {
            throw UserError(
                "\(source.file.path): blocks of \(type) models are not multiplied as they are; use --weights converted",
                .usage)
        }
        config = try LlamaConfig(source.config, file: source.file.path)
        self.dtype = dtype
        endIDs = source.endTokens
        rope = RotaryEmbedding(
            width: config.headDim, theta: config.rotary.theta, scaling: config.rotary.scaling, on: .cpu)
        decoder = try withoutGradients { [config] in
            let reader = StoredReader(source, dtype)
            let layers = try (0..<config.layers).map { try reader.layer($0, config) }
            let table = try reader.matrix("model.embed_tokens")
            return FusedDecoder(
                config.decoderShape(in: dtype), layers: layers,
                finalNorm: .init(try reader.vector("model.norm.weight")), table: table,
                head: config.tiedHead ? table : try reader.matrix("lm_head"))
        }
    }

    public var contextLength: Int { config.contextLength }
    public var fused: FusedDecoder? { decoder }
    public var wantsDenseRows: Bool { false }
    public var vocabSize: Int { config.vocabSize }

    public func makeCache(sequences: Int, capacity: Int) -> KVCache {
        KVCache(
            layers: config.layers, sequences: sequences, capacity: capacity, kvHeads: config.kvHeads,
            headDim: config.headDim, dtype, on: .cpu)
    }

    public func rotationKinds(ofLength length: Int) -> [Int] { [rope.kind(ofLength: length)] }

    public func scores(after tokens: [[Int32]], rows: [Int], _ cache: KVCache) -> FusedDecoder.Scores {
        decoder(tokens, rows: rows, cache: cache, ropes: [rope])
    }

    /// Ids at which an answer ends: the file's, and the tokenizer's own.
    public func endTokens(_ tokenizer: Tokenizer) -> Set<Int32> {
        tokenizer.endTokens(with: endIDs)
    }
}

/// Weights of a file by their Hugging Face names.
private struct StoredReader {
    private let file: GGUFFile
    private let weights: [String: GGUFModel.Weight]
    private let dtype: DType

    init(_ source: GGUFModel, _ dtype: DType) {
        file = source.file
        weights = Dictionary(uniqueKeysWithValues: source.weights.map { ($0.name, $0) })
        self.dtype = dtype
    }

    func layer(_ index: Int, _ config: LlamaConfig) throws -> FusedDecoder.Layer {
        let at = "model.layers.\(index)."
        var layer = FusedDecoder.Layer(
            q: try matrix(at + "self_attn.q_proj"), k: try matrix(at + "self_attn.k_proj"),
            v: try matrix(at + "self_attn.v_proj"), o: try matrix(at + "self_attn.o_proj"),
            gate: try matrix(at + "mlp.gate_proj"), up: try matrix(at + "mlp.up_proj"),
            down: try matrix(at + "mlp.down_proj"))
        layer.inputNorm = .init(try vector(at + "input_layernorm.weight"))
        layer.mlpInputNorm = .init(try vector(at + "post_attention_layernorm.weight"))
        if config.normalizesHeads {
            layer.queryNorm = .init(try vector(at + "self_attn.q_norm.weight"))
            layer.keyNorm = .init(try vector(at + "self_attn.k_norm.weight"))
        }
        layer.window = config.windows[index]
        return layer
    }

    /// fp32, rows in Hugging Face's order.
    func vector(_ name: String) throws -> Tensor {
        let weight = weights[name]!  // the plan has every tensor that the configuration asks for
        var values = [Float](repeating: 0, count: weight.tensor.elementCount)
        try values.withUnsafeMutableBufferPointer { try file.dequantize(weight.tensor, into: $0.baseAddress!) }
        let tensor = Tensor(values, weight.tensor.shape)
        return weight.rowOrder.map { tensor.indexSelect(0, Tensor($0.map(Int64.init))) } ?? tensor
    }

    func matrix(_ name: String) throws -> StoredWeight {
        let weight = weights[name + ".weight"]!, tensor = weight.tensor
        let bias = try weights[name + ".bias"].map { try vector($0.name) }
        guard let format = StoredWeight.Format(tensor.type) else {
            return StoredWeight(try vector(weight.name).to(dtype), bias: bias)!
        }
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]), bytes = try file.bytes(of: tensor)
        guard let order = weight.rowOrder else {
            return StoredWeight(format, rows: rows, columns: columns, bytes: bytes, owner: file, bias: bias)!
        }
        let ordered = Tensor.copying(bytes, dtype: .uint8, shape: [rows, bytes.count / rows])
            .indexSelect(0, Tensor(order.map(Int64.init)))
        return ordered.withBytes {
            StoredWeight(format, rows: rows, columns: columns, bytes: $0, owner: ordered, bias: bias)!
        }
    }
}

extension StoredWeight.Format {
    /// The format of a GGUF type that kernels multiply.
    init?(_ type: GGMLType) {
        switch type {
        case .f32: self = .float32
        case .bf16: self = .bfloat16
        case .q8_0: self = .q8_0
        case .q4_0: self = .q4_0
        case .q4_1: self = .q4_1
        case .q4_K: self = .q4_K
        case .q6_K: self = .q6_K
        default: return nil
        }
    }
}
