// A model folder without weights: config.json and a tokenizer of bytes, for training a tiny model from scratch.
public import Formats
internal import Tokenizers

/// The shape of a tiny Llama.
public struct TinyModelShape: Sendable, Equatable {
    public var layers: Int
    public var width: Int
    public var heads: Int
    /// Tokens of the longest document.
    public var context: Int

    public init(layers: Int = 4, width: Int = 64, heads: Int = 4, context: Int = 256) {
        (self.layers, self.width, self.heads, self.context) = (layers, width, heads, context)
    }

    /// config.json: as many key/value heads as heads, an MLP four times as wide, an output table of its own.
    /// - Precondition: `width` is an even multiple of `heads`.
    public var config: JSONValue {
        precondition(width % (2 * heads) == 0, "width \(width) is no even multiple of \(heads) heads")
        return [
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 258,
            "hidden_size": .init(width), "intermediate_size": .init(4 * width), "num_hidden_layers": .init(layers),
            "num_attention_heads": .init(heads), "num_key_value_heads": .init(heads), "hidden_act": "silu",
            "max_position_embeddings": .init(context), "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false,
            "initializer_range": .init(initializerRange),
            "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32",
        ]
    }

    /// 0.02 at GPT-2's width of 768, growing as narrower models need it: 0.02 · √(768 / width), to four places.
    private var initializerRange: Double {
        (0.02 * (768 / Double(width)).squareRoot() * 10_000).rounded() / 10_000
    }

    /// Writes the folder, complete or not at all.
    ///
    /// - Throws: `UserError` (73) when it exists already or cannot be written.
    public func write(to folder: String) throws {
        try refuseExisting(folder)
        try writeFolderAtomically(folder) { temporary in
            let files = [
                ("config.json", config), ("tokenizer.json", byteTokenizerJSON()),
                ("tokenizer_config.json", byteTokenizerConfig),
            ]
            for (name, json) in files {
                try writeFileAtomically(json.serialized(.pretty) + "\n", to: joinPath(temporary, name))
            }
        }
    }
}
