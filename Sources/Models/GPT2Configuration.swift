// config.json of GPT-2.
internal import Diagnostics
public import Formats
public import ModelFiles
public import Tensors

extension GPT2Config: ModelShape {
    public static let modelTypes = ["gpt2"]
    public static let naming = TensorNaming.gpt2

    /// Reads config.json as transformers writes it. The dropout rates in it are not applied: training here has none but
    /// that of adapters.
    public init(_ json: JSONValue, file: String) throws {
        let (reader, _) = try Self.reader(json, file: file)
        let hidden = try reader.positive("n_embd"), heads = try reader.positive("n_head")
        hiddenSize = hidden
        self.heads = heads
        intermediateSize = try reader.positive("n_inner", 4 * hidden)
        layers = try reader.layers("n_layer")
        vocabSize = try reader.positive("vocab_size")
        contextLength = try reader.positive("n_positions")
        normEpsilon = try reader.number("layer_norm_epsilon", 1e-5)
        tiedHead = try reader.bool("tie_word_embeddings", true)
        // Three names of one formula.
        try reader.require(
            "activation_function", oneOf: ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"], default: "gelu_new")
        try reader.refuse("scale_attn_weights", unless: [true])
        try reader.refuse("scale_attn_by_inverse_layer_idx", unless: [false])
        try reader.refuse("add_cross_attention", unless: [false])
        guard hidden % heads == 0 else {
            throw UserError("\(file): n_embd \(hidden) is not a multiple of n_head \(heads)")
        }
    }

    public var queryWidth: Int { hiddenSize }

    public var parameterShapes: [(name: String, shape: [Int])] {
        let D = hiddenSize, F = intermediateSize
        var weights = WeightShapes()
        func norm(_ name: String) { weights.norm(name, D, bias: true) }
        func map(_ name: String, _ into: Int, _ out: Int) {
            weights.map(name, out, into, bias: true, transposed: true)
        }
        weights.table(Self.naming.tokenTable, vocabSize, D)
        weights.table("transformer.wpe.weight", contextLength, D)
        for layer in 0..<layers {
            let at = "transformer.h.\(layer)."
            norm(at + "ln_1")
            map(at + "attn.c_attn", D, 3 * D)
            map(at + "attn.c_proj", D, D)
            norm(at + "ln_2")
            map(at + "mlp.c_fc", D, F)
            map(at + "mlp.c_proj", F, D)
        }
        norm("transformer.ln_f")
        if !tiedHead { weights.table(Self.naming.headTable, vocabSize, D) }
        return weights.all
    }

    public func makeModel(_ dtype: DType, on device: Device) -> any CausalLanguageModel {
        GPT2(self, dtype, on: device)
    }

    /// Maps that add to the residual stream begin smaller by √(2 layers), the number of additions (Radford et al. 2019,
    /// section 2.3).
    public func beginning(of name: String, range: Double) -> WeightBeginning {
        if name.hasSuffix(".bias") { return .constant(0) }
        if name.contains("ln_") { return .constant(1) }
        let adds = name.hasSuffix("c_proj.weight")
        return .normal(deviation: adds ? range / Double(2 * layers).squareRoot() : range)
    }
}
