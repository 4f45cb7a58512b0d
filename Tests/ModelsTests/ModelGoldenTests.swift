// Logits, loss and gradients of every family against transformers (Fixtures/make_goldens.py).
import Formats
import Layers
import Models
import Tensors
import TestSupport
import Testing

@Suite struct ModelGoldenTests {
    static let names = [
        "llama_gqa", "llama_tied_mha", "llama_multi_query_theta", "llama_rope_llama3", "llama_rope_linear",
        "llama_attention_and_mlp_bias", "mistral_window_null_wide_heads", "mistral_window_4", "qwen2_biases",
        "llama_rope_yarn", "llama_rope_yarn_scaled", "llama_rope_dynamic", "llama_rope_dynamic_long",
        "qwen3_head_norms",
        "olmo2", "phi3_window", "phi3_longrope", "phi3_longrope_long", "gemma2", "gemma3", "gemma3_capped_linear",
        "gpt_neox_parallel", "gpt_neox_serial_tanh",
        "gpt2_tied", "gpt2_head_of_its_own",
    ]

    private func goldens() throws -> JSONValue { try golden("model_goldens.json", besideFile: #filePath) }

    @Test func everyCaseIsTested() throws { #expect(try goldens()["cases"]!.object!.keys == Self.names) }

    /// 1e-5 of the largest value: both sides are fp32 and add in other orders.
    @Test(arguments: names) func equalsTransformers(_ name: String) throws {
        let file = try goldens(), golden = file["cases"]![name]!
        let short = file["short_ids"]!.ints.map(Int32.init), long = file["long_ids"]!.ints.map(Int32.init)
        let model = try filledModel(golden).trainAll(), V = model.vocabSize

        let logits = model.allLogits(short)
        #expect(relativeDifference(logits, Tensor(golden["short_logits"]!.flatNumbers, [short.count, V])) < 1e-5)
        let last = model.allLogits(long).narrow(0, long.count - 1, 1)
        #expect(relativeDifference(last, Tensor(golden["long_last_logits"]!.flatNumbers, [1, V])) < 1e-5)

        let loss = model.documentLoss([long], factor: 1 / Double(long.count - 1))
        let expected = golden["long_mean_loss"]!.double!
        #expect(abs(loss.item - expected) < 1e-6 * expected)
        loss.backward()
        let norms = golden["gradient_norms"]!
        for (name, parameter) in model.namedParameters() {
            let norm = globalNorm([try #require(parameter.value.gradient)]), expected = norms[name]!.double!
            #expect(abs(norm - expected) < 2e-5 * expected, "\(name)")
        }
    }

    private func filledModel(_ golden: JSONValue) throws -> any CausalLanguageModel {
        let model = try modelShape(golden["config"]!, file: "config.json").makeModel(.float32, on: .cpu)
        let parameters = Dictionary(uniqueKeysWithValues: model.namedParameters().map { ($0.name, $0.parameter) })
        let tensors = golden["tensors"]!.array!
        #expect(Set(parameters.keys) == Set(tensors.map { $0["name"]!.string! }))
        for (k, tensor) in tensors.enumerated() {
            let parameter = parameters[tensor["name"]!.string!]!, shape = tensor["shape"]!.ints
            #expect(parameter.fileShape == shape)
            parameter.fill(
                fromFile: filled(shape, k, scale: tensor["scale"]!.double!, offset: tensor["offset"]!.double!))
        }
        return model
    }
}
