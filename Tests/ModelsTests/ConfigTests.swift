// config.json of the families: what is read, and what is refused in which words.
import Diagnostics
import Formats
import Layers
import Models
import TestSupport
import Testing

@Suite struct ConfigTests {
    private func message(_ config: JSONValue) -> String {
        do {
            _ = try modelShape(config, file: "config.json")
            return "accepted"
        } catch let error as UserError {
            return error.message
        } catch {
            return "another error: \(error)"
        }
    }

    static let refused: [(family: TinyFamily, key: String, value: JSONValue?, message: String)] = [
        (.llama, "model_type", nil, "no \"model_type\"; a string is needed"),
        (.llama, "model_type", 3, "\"model_type\" is 3; a string is needed"),
        (
            .llama, "model_type", "gemma",
            "model_type gemma is not supported; llama, mistral, qwen2, qwen3, olmo2, phi3, gemma2, gemma3_text, gpt_neox, gpt2 are"
        ),
        (.llama, "hidden_size", nil, "no \"hidden_size\"; a whole number from 1 to 2^30 is needed"),
        (.llama, "hidden_size", 0, "\"hidden_size\" is 0; a whole number from 1 to 2^30 is needed"),
        (.llama, "hidden_size", -32, "\"hidden_size\" is -32; a whole number from 1 to 2^30 is needed"),
        (.llama, "hidden_size", 32.5, "\"hidden_size\" is 32.5; a whole number from 1 to 2^30 is needed"),
        (.llama, "hidden_size", "32", "\"hidden_size\" is a string; a whole number from 1 to 2^30 is needed"),
        (
            .llama, "num_hidden_layers", 9_000_000_000,
            "\"num_hidden_layers\" is 9000000000; a whole number from 1 to 100,000 is needed"
        ),
        (.llama, "intermediate_size", nil, "no \"intermediate_size\"; a whole number from 1 to 2^30 is needed"),
        (.llama, "vocab_size", nil, "no \"vocab_size\"; a whole number from 1 to 2^30 is needed"),
        (
            .llama, "num_attention_heads", .some(.null),
            "no \"num_attention_heads\"; a whole number from 1 to 2^30 is needed"
        ),
        (.gpt2, "n_embd", nil, "no \"n_embd\"; a whole number from 1 to 2^30 is needed"),
        (.gpt2, "n_positions", nil, "no \"n_positions\"; a whole number from 1 to 2^30 is needed"),
        (.gpt2, "n_head", 5, "n_embd 32 is not a multiple of n_head 5"),
        (
            .gpt2, "activation_function", "relu",
            "\"activation_function\" is relu, which is not supported; gelu_new, gelu_pytorch_tanh, gelu_fast is"
        ),
        (.gpt2, "scale_attn_weights", false, "\"scale_attn_weights\": false is not supported"),
        (
            .gpt2, "scale_attn_by_inverse_layer_idx", true,
            "\"scale_attn_by_inverse_layer_idx\": true is not supported"
        ),
        (.gpt2, "add_cross_attention", true, "\"add_cross_attention\": true is not supported"),
        (.llama, "num_key_value_heads", 3, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        (.llama, "num_key_value_heads", 8, "num_attention_heads 4 is not a multiple of num_key_value_heads 8"),
        (.llama, "head_dim", 7, "head_dim 7 is odd; rotary positions need pairs"),
        (.llama, "rms_norm_eps", "small", "\"rms_norm_eps\" is a string; a number is needed"),
        (.llama, "tie_word_embeddings", 1, "\"tie_word_embeddings\" is 1; true or false is needed"),
        (.llama, "hidden_act", "gelu", "\"hidden_act\" is gelu, which is not supported; silu, swish is"),
        (.llama, "partial_rotary_factor", 0.5, "\"partial_rotary_factor\": 0.5 is not supported"),
        (.llama, "pretraining_tp", 2, "\"pretraining_tp\": 2 is not supported"),
        (.llama, "rope_scaling", "linear", "\"rope_scaling\" must be an object or null"),
        (
            .llama, "rope_scaling", ["rope_type": "ntk"],
            "rope_scaling: type ntk is not supported; default, linear, dynamic, llama3, yarn and longrope are"
        ),
        (
            .llama, "rope_parameters", ["rope_type": "proportional"],
            "rope_parameters: type proportional is not supported; default, linear, dynamic, llama3, yarn and longrope are"
        ),
        (.llama, "rope_scaling", ["type": "linear"], "rope_scaling: no \"factor\"; a number is needed"),
        (
            .llama, "rope_scaling", ["rope_type": "llama3", "factor": 8],
            "rope_scaling: no \"low_freq_factor\"; a number is needed"
        ),
        (.mistral, "sliding_window", 0, "\"sliding_window\" is 0; a whole number from 1 to 2^30 is needed"),
    ]

    @Test(arguments: refused.indices) func refusesWithAMessageOfItsOwn(_ index: Int) {
        let (family, key, value, expected) = Self.refused[index]
        let found = message(family.config.changing([key: value]))
        #expect(found == "config.json: \(expected)" || found == "config.json \(expected)")
    }

    @Test func aFaultIsNeverAcceptedByHalf() {
        for family in TinyFamily.allCases { #expect(message(family.config) == "accepted") }
        #expect(message([]) != "accepted" && message(nil) != "accepted" && message("x") != "accepted")
    }

    /// Both spellings of rotary settings, with and without the outer θ.
    @Test func ropeOfEitherVersion() throws {
        let llama3: JSONValue = [
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        ]
        let scaling = RotaryScaling.llama3(
            factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContext: 64)
        let cases: [(KeyValuePairs<String, JSONValue?>, Double, RotaryScaling)] = [
            ([:], 10_000, .none),
            (["rope_theta": 5e5], 5e5, .none),
            (["rope_theta": 5e5, "rope_scaling": .some(.null)], 5e5, .none),
            (["rope_theta": 5e5, "rope_scaling": llama3], 5e5, scaling),
            (["rope_scaling": ["type": "linear", "factor": 4]], 10_000, .linear(factor: 4)),
            (["rope_parameters": ["rope_type": "default", "rope_theta": 5e5]], 5e5, .none),
            (["rope_parameters": llama3.changing(["rope_theta": 2e5])], 2e5, scaling),
            (["rope_parameters": ["rope_type": "linear", "factor": 4, "rope_theta": 1e4]], 1e4, .linear(factor: 4)),
            (["rope_parameters": ["rope_type": "default"], "rope_theta": 3e5], 3e5, .none),
        ]
        for (changes, theta, scaling) in cases {
            let config = try LlamaConfig(TinyFamily.llama.config.changing(changes), file: "config.json")
            #expect(config.rotary == Rotary(theta: theta, scaling: scaling), "\(changes)")
        }
    }

    @Test func defaultsAreThoseOfTransformers() throws {
        func read(_ family: TinyFamily, _ changes: KeyValuePairs<String, JSONValue?>) throws -> LlamaConfig {
            try LlamaConfig(family.config.changing(changes), file: "config.json")
        }
        #expect(try read(.llama, ["num_key_value_heads": nil]).kvHeads == 4)
        #expect(try read(.mistral, ["num_key_value_heads": nil, "num_attention_heads": 16]).kvHeads == 8)
        #expect(try read(.llama, ["rms_norm_eps": nil]).normEpsilon == 1e-6)
        #expect(try read(.llama, [:]).headDim == 8 && read(.mistral, [:]).headDim == 16)
        // Mistral: absent means the published 4096, null means none; Llama has no window whatever it says.
        #expect(try read(.mistral, ["sliding_window": nil]).windows == [4096, 4096])
        #expect(try read(.mistral, ["sliding_window": .some(.null)]).windows == [nil, nil])
        #expect(try read(.llama, ["sliding_window": 4]).windows == [nil, nil])
        // Qwen2: only when switched on, and only from max_window_layers on.
        #expect(try read(.qwen2, ["sliding_window": 4]).windows == [nil, nil])
        #expect(
            try read(.qwen2, ["sliding_window": 4, "use_sliding_window": true, "max_window_layers": 1]).windows == [
                nil, 4,
            ])
        // A list of the layers counts before that.
        let listed: KeyValuePairs<String, JSONValue?> = [
            "use_sliding_window": true, "max_window_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
        ]
        for family in [TinyFamily.qwen2, .qwen3] {
            #expect(try read(family, listed).windows == [4096, nil])
            #expect(throws: UserError.self) {
                try read(family, ["layer_types": ["sliding_attention", "full_attention"]])
            }
            #expect(try read(family, ["layer_types": ["full_attention", "full_attention"]]).windows == [nil, nil])
        }
        let qwen = try read(.qwen2, [:]), llama = try read(.llama, ["attention_bias": true])
        #expect(qwen.qkvBias && !qwen.outputBias && !qwen.mlpBias)
        #expect(llama.qkvBias && llama.outputBias && !llama.mlpBias)
        #expect(try !read(.qwen2, ["attention_bias": true]).outputBias)  // the family has none there
    }

    @Test func gpt2sDefaultsAreItsOwn() throws {
        func read(_ changes: KeyValuePairs<String, JSONValue?>) throws -> GPT2Config {
            try GPT2Config(TinyFamily.gpt2.config.changing(changes), file: "config.json")
        }
        #expect(try read(["n_inner": .some(.null)]).intermediateSize == 128 && read([:]).intermediateSize == 48)
        #expect(try read(["tie_word_embeddings": nil]).tiedHead && !read(["tie_word_embeddings": false]).tiedHead)
        #expect(try read(["layer_norm_epsilon": nil]).normEpsilon == 1e-5)
        // fp32 softmax and dropout rates change nothing here.
        #expect(try read(["reorder_and_upcast_attn": true, "attn_pdrop": 0.1, "resid_pdrop": 0.1]) == read([:]))
    }
}
