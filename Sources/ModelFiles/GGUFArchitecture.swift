// The architectures of GGUF files that this program computes: for each tensor its name and layout there and in a Hugging
// Face folder. Reading and writing follow the same table.
// D hidden size, F intermediate size, H query heads, K key/value heads, E head dimension, V vocabulary
import Formats

/// `general.architecture`, by its name in files.
enum GGUFArchitecture: String, CaseIterable {
    case llama, qwen2, qwen3, olmo2, phi3, gemma2, gemma3, gptneox, gpt2

    /// The `model_type` of config.json that a file of it becomes.
    var modelType: String {
        switch self {
        case .gemma3: "gemma3_text"
        case .gptneox: "gpt_neox"
        default: rawValue
        }
    }

    /// - Parameter modelType: config.json's; nil for families that llama.cpp has no architecture for here.
    init?(modelType: String) {
        guard let found = Self.allCases.first(where: { $0.modelType == modelType }) else {
            if modelType != "mistral" { return nil }
            self = .llama
            return
        }
        self = found
    }

    /// The class that transformers loads it with.
    var className: String {
        let names: [GGUFArchitecture: String] = [
            .llama: "Llama", .qwen2: "Qwen2", .qwen3: "Qwen3", .olmo2: "Olmo2", .phi3: "Phi3", .gemma2: "Gemma2",
            .gemma3: "Gemma3", .gptneox: "GPTNeoX",
        ]
        return names[self].map { $0 + "ForCausalLM" } ?? "GPT2LMHeadModel"
    }

    /// Whether norms subtract the mean and have biases.
    var hasLayerNorm: Bool { self == .gptneox || self == .gpt2 }
    var isGemma: Bool { self == .gemma2 || self == .gemma3 }
}

/// The sizes that decide names and shapes.
struct GGUFSizes {
    var layers: Int, hiddenSize: Int, intermediateSize: Int
    var heads: Int, kvHeads: Int, headDim: Int
    var vocabSize: Int, contextLength: Int
    /// Whether the output table is the token table.
    var tiedHead: Bool
    /// Biases of the maps of attention to q, k and v, of the one after it, and of the MLP.
    var qkvBias = false, outputBias = false, mlpBias = false
}

/// A tensor in both forms.
struct GGUFTensorRule {
    /// Its name in GGUF files.
    let stored: String
    /// Its name in Hugging Face folders.
    let name: String
    /// In a GGUF file, row-major.
    let shape: [Int]
    let change: GGUFChange

    /// In a Hugging Face folder, row-major.
    var folderShape: [Int] { change == .transposed ? shape.reversed() : shape }
}

/// How a tensor's numbers differ between the two forms.
enum GGUFChange: Equatable {
    case none
    /// llama.cpp stores the rows of a head as rotated pairs (0, E/2, 1, E/2 + 1, ...), a folder as two halves.
    case pairs(heads: Int)
    /// A folder has q, k and v of each head together `[H, 3, E, ...]`, llama.cpp all q first `[3, H, E, ...]`.
    case parts(heads: Int)
    /// Gemma's norms, which llama.cpp stores as what is multiplied with: the folder's numbers plus one.
    case plusOne
    /// A folder has the matrix as `[inputs, outputs]`.
    case transposed

    /// For each row of the folder's matrix, its place in the GGUF file; nil where rows lie alike.
    ///
    /// - Parameter rows: of the matrix.
    func rowOrder(_ rows: Int) -> [Int]? {
        switch self {
        case .pairs(let heads):
            let E = rows / heads
            return (0..<rows).map { $0 / E * E + $0 % E % (E / 2) * 2 + $0 % E / (E / 2) }
        case .parts(let heads):
            let E = rows / heads / 3
            return (0..<rows).map { $0 / E % 3 * heads * E + $0 / (3 * E) * E + $0 % E }
        case .none, .plusOne, .transposed: return nil
        }
    }

    /// Numbers of a GGUF file as a folder has them.
    func toFolder(_ values: [Float], _ shape: [Int]) -> [Float] {
        switch self {
        case .none: return values
        case .plusOne: return values.map { $0 - 1 }
        case .transposed: return Self.transposed(values, rows: shape[0])
        case .pairs, .parts: return Self.gathered(values, rowOrder(shape[0])!)
        }
    }

    /// Numbers of a folder as a GGUF file has them.
    ///
    /// - Parameter shape: in the GGUF file.
    func toFile(_ values: [Float], _ shape: [Int]) -> [Float] {
        switch self {
        case .none: return values
        case .plusOne: return values.map { $0 + 1 }
        case .transposed: return Self.transposed(values, rows: values.count / shape[0])
        case .pairs, .parts:
            let order = rowOrder(shape[0])!
            var inverse = order
            for (row, place) in order.enumerated() { inverse[place] = row }
            return Self.gathered(values, inverse)
        }
    }

    /// Row i of the result is row `order[i]` of `values`.
    private static func gathered(_ values: [Float], _ order: [Int]) -> [Float] {
        let columns = values.count / order.count
        return [Float](unsafeUninitializedCapacity: values.count) { output, count in
            for (row, from) in order.enumerated() {
                for column in 0..<columns {
                    output.initializeElement(at: row * columns + column, to: values[from * columns + column])
                }
            }
            count = values.count
        }
    }

    private static func transposed(_ values: [Float], rows: Int) -> [Float] {
        let columns = values.count / rows
        return [Float](unsafeUninitializedCapacity: values.count) { output, count in
            for row in 0..<rows {
                for column in 0..<columns {
                    output.initializeElement(at: column * rows + row, to: values[row * columns + column])
                }
            }
            count = values.count
        }
    }
}

extension GGUFArchitecture {
    /// Every tensor of a model of these sizes.
    func tensors(_ sizes: GGUFSizes) -> [GGUFTensorRule] {
        var rules = GGUFRules(norms: isGemma ? .plusOne : .none, normBias: hasLayerNorm)
        let D = sizes.hiddenSize, V = sizes.vocabSize
        switch self {
        case .gpt2:
            rules.add("token_embd.weight", "transformer.wte.weight", [V, D])
            rules.add("position_embd.weight", "transformer.wpe.weight", [sizes.contextLength, D])
            for layer in 0..<sizes.layers { gpt2Block(layer, sizes, &rules) }
            rules.norm("output_norm", "transformer.ln_f", D)
            if !sizes.tiedHead { rules.add("output.weight", "lm_head.weight", [V, D]) }
        case .gptneox:
            rules.add("token_embd.weight", "gpt_neox.embed_in.weight", [V, D])
            for layer in 0..<sizes.layers { neoXBlock(layer, sizes, &rules) }
            rules.norm("output_norm", "gpt_neox.final_layer_norm", D)
            if !sizes.tiedHead { rules.add("output.weight", "embed_out.weight", [V, D]) }
        default:
            rules.add("token_embd.weight", "model.embed_tokens.weight", [V, D])
            for layer in 0..<sizes.layers { llamaBlock(layer, sizes, &rules) }
            rules.norm("output_norm", "model.norm", D)
            if !sizes.tiedHead { rules.add("output.weight", "lm_head.weight", [V, D]) }
        }
        return rules.all
    }

    private func llamaBlock(_ layer: Int, _ sizes: GGUFSizes, _ rules: inout GGUFRules) {
        let from = "blk.\(layer).", to = "model.layers.\(layer)."
        let D = sizes.hiddenSize, F = sizes.intermediateSize, E = sizes.headDim, H = sizes.heads, K = sizes.kvHeads
        if self == .phi3 {
            rules.map(from + "attn_qkv", to + "self_attn.qkv_proj", [(H + 2 * K) * E, D], bias: false)
            rules.map(from + "ffn_up", to + "mlp.gate_up_proj", [2 * F, D], bias: false)
        } else {
            for (part, heads) in [("q", H), ("k", K), ("v", K)] {
                rules.map(
                    from + "attn_\(part)", to + "self_attn.\(part)_proj", [heads * E, D], bias: sizes.qkvBias,
                    self == .llama && part != "v" ? .pairs(heads: heads) : .none)
            }
            rules.map(from + "ffn_gate", to + "mlp.gate_proj", [F, D], bias: sizes.mlpBias)
            rules.map(from + "ffn_up", to + "mlp.up_proj", [F, D], bias: sizes.mlpBias)
        }
        rules.map(from + "attn_output", to + "self_attn.o_proj", [D, H * E], bias: sizes.outputBias)
        rules.map(from + "ffn_down", to + "mlp.down_proj", [D, F], bias: sizes.mlpBias)
        if self == .qwen3 || self == .gemma3 || self == .olmo2 {
            let all = self == .olmo2
            rules.norm(from + "attn_q_norm", to + "self_attn.q_norm", all ? H * E : E)
            rules.norm(from + "attn_k_norm", to + "self_attn.k_norm", all ? K * E : E)
        }
        if self != .olmo2 { rules.norm(from + "attn_norm", to + "input_layernorm", D) }
        if self == .olmo2 || isGemma {
            rules.norm(from + "post_attention_norm", to + "post_attention_layernorm", D)
            rules.norm(from + "post_ffw_norm", to + "post_feedforward_layernorm", D)
        }
        if isGemma { rules.norm(from + "ffn_norm", to + "pre_feedforward_layernorm", D) }
        if self != .olmo2, !isGemma { rules.norm(from + "ffn_norm", to + "post_attention_layernorm", D) }
    }

    private func neoXBlock(_ layer: Int, _ sizes: GGUFSizes, _ rules: inout GGUFRules) {
        let from = "blk.\(layer).", to = "gpt_neox.layers.\(layer)."
        let D = sizes.hiddenSize, F = sizes.intermediateSize
        rules.norm(from + "attn_norm", to + "input_layernorm", D)
        rules.norm(from + "ffn_norm", to + "post_attention_layernorm", D)
        rules.map(
            from + "attn_qkv", to + "attention.query_key_value", [3 * D, D], bias: sizes.qkvBias,
            .parts(heads: sizes.heads))
        rules.map(from + "attn_output", to + "attention.dense", [D, D], bias: sizes.outputBias)
        rules.map(from + "ffn_up", to + "mlp.dense_h_to_4h", [F, D], bias: true)
        rules.map(from + "ffn_down", to + "mlp.dense_4h_to_h", [D, F], bias: true)
    }

    private func gpt2Block(_ layer: Int, _ sizes: GGUFSizes, _ rules: inout GGUFRules) {
        let from = "blk.\(layer).", to = "transformer.h.\(layer)."
        let D = sizes.hiddenSize, F = sizes.intermediateSize
        rules.norm(from + "attn_norm", to + "ln_1", D)
        rules.norm(from + "ffn_norm", to + "ln_2", D)
        rules.map(from + "attn_qkv", to + "attn.c_attn", [3 * D, D], bias: true, .transposed)
        rules.map(from + "attn_output", to + "attn.c_proj", [D, D], bias: true, .transposed)
        rules.map(from + "ffn_up", to + "mlp.c_fc", [F, D], bias: true, .transposed)
        rules.map(from + "ffn_down", to + "mlp.c_proj", [D, F], bias: true, .transposed)
    }
}

/// The table of a model while it is being put together.
private struct GGUFRules {
    let norms: GGUFChange
    let normBias: Bool
    private(set) var all: [GGUFTensorRule] = []

    init(norms: GGUFChange, normBias: Bool) { (self.norms, self.normBias) = (norms, normBias) }

    mutating func add(_ stored: String, _ name: String, _ shape: [Int], _ change: GGUFChange = .none) {
        all.append(GGUFTensorRule(stored: stored, name: name, shape: shape, change: change))
    }

    mutating func map(
        _ stored: String, _ name: String, _ shape: [Int], bias: Bool, _ change: GGUFChange = .none
    ) {
        add(stored + ".weight", name + ".weight", shape, change)
        // A bias is one row for each output, whichever way its matrix lies.
        if bias { add(stored + ".bias", name + ".bias", [shape[0]], change == .transposed ? .none : change) }
    }

    mutating func norm(_ stored: String, _ name: String, _ width: Int) {
        add(stored + ".weight", name + ".weight", [width], norms)
        if normBias { add(stored + ".bias", name + ".bias", [width]) }
    }
}
