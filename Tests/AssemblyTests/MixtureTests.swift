// Mixtures of experts: what is written for each family and layout, gates, and what is refused.
import Assembly
import Checkpoints
import Diagnostics
import Formats
import Layers
import Merging
import ModelFiles
import Models
import RunConfig
import Tensors
import TestSupport
import Testing
import Tokenizers

@Suite struct MixtureTests {
    let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
        for (name, shift) in [("base", 0), ("one", 700), ("two", 800)] {
            let config = textConfig(), model = try tinyModel(config)
            for (k, (_, parameter)) in model.namedParameters().enumerated() where shift > 0 {
                parameter.value.copyInPlace(parameter.value.detached() + filled(parameter.shape, shift + k, scale: 0.1))
            }
            try writeTextFolder(folder[name], config, model)
        }
    }

    private func config(_ gate: String = "hidden", _ more: String = "", experts: String? = nil) throws -> MoEConfig {
        let list =
            experts ?? """
                - source_model: \(folder["one"])
                  positive_prompts: [the user]
                - source_model: \(folder["two"])
                  positive_prompts: ["in the string", thus]
                  negative_prompts: [x]
                """
        let text = "base_model: \(folder["base"])\ngate_mode: \(gate)\n\(more)\nexperts:\n\(list)\n"
        return try ConfigLoader.load(MoEConfig.self, text: text, name: "moe.yaml")
    }

    private func source() throws -> GateSource {
        GateSource(try load(folder["base"]).model, try Tokenizer(modelPath: folder["base"]))
    }

    private func write(_ config: MoEConfig, layout: ExpertLayout = .separate) throws -> SafetensorsFile {
        let assembly = try MoEAssembly(config) { _ in }
        try assembly.write(to: folder["out"], try assembly.routerRows(source()), layout: layout, source: "x")
        return try SafetensorsFile(path: joinPath(folder["out"], "model.safetensors"))
    }

    private func values(_ name: String, _ tensor: String) throws -> [Float] {
        try SafetensorsFile(path: joinPath(folder[name], "model.safetensors")).tensor(tensor).values(Float.self)
    }

    @Test func expertsAreTheModelsAndTheRestIsTheBases() throws {
        let file = try write(config())
        #expect(
            try file.tensor("model.layers.1.block_sparse_moe.experts.1.w3.weight").values(Float.self)
                == values("two", "model.layers.1.mlp.up_proj.weight"))
        #expect(
            try file.tensor("model.layers.0.block_sparse_moe.experts.0.w2.weight").values(Float.self)
                == values("one", "model.layers.0.mlp.down_proj.weight"))
        for name in [
            "model.embed_tokens.weight", "lm_head.weight", "model.layers.1.self_attn.q_proj.weight",
            "model.norm.weight",
        ] {
            #expect(try file.tensor(name).values(Float.self) == values("base", name))
        }
        #expect(file.tensors.count == 3 + 2 * (4 + 2 + 6 + 1))
        let json = try readJSONFile(joinPath(folder["out"], "config.json"))
        #expect(json["model_type"] == "mixtral" && json["num_local_experts"] == 2 && json["num_experts_per_tok"] == 2)
        #expect(
            try Tokenizer(modelPath: folder["out"]).encode("the user")
                == Tokenizer(modelPath: folder["base"]).encode("the user"))
    }

    @Test func fusedHoldsTheSameNumbers() throws {
        let noisy = try config(
            "random",
            experts: """
                - source_model: \(folder["one"])
                  noise_scale: 0.25
                  residual_scale: 0.5
                - source_model: \(folder["two"])
                """)
        let file = try write(noisy)
        func separate(_ map: String, _ e: Int) throws -> [Float] {
            try file.tensor("model.layers.0.block_sparse_moe.experts.\(e).\(map).weight").values(Float.self)
        }
        let gateUp = try separate("w1", 0) + separate("w3", 0) + separate("w1", 1) + separate("w3", 1)
        let down = try separate("w2", 0) + separate("w2", 1)
        try removeTree(folder["out"])
        let fused = try write(noisy, layout: .fused)
        #expect(fused["model.layers.0.mlp.experts.gate_up_proj"]?.shape == [2, 96, 32])
        #expect(try fused.tensor("model.layers.0.mlp.experts.gate_up_proj").values(Float.self) == gateUp)
        #expect(try fused.tensor("model.layers.0.mlp.experts.down_proj").values(Float.self) == down)
        #expect(fused["model.layers.1.mlp.gate.weight"]?.shape == [2, 32])
        // Noise of the asked size, and the scale after it.
        let clean = try values("one", "model.layers.0.mlp.down_proj.weight")
        let noise = zip(down, clean).map { Double($0) / 0.5 - Double($1) }
        let deviation = (noise.reduce(0) { $0 + $1 * $1 } / Double(noise.count)).squareRoot()
        #expect(abs(deviation - 0.25) < 0.02)
        let up = zip(try separate("w1", 1), try values("two", "model.layers.0.mlp.gate_proj.weight"))
        #expect(up.allSatisfy { $0 == $1 })
    }

    /// The same sum by hand: a forward pass of each prompt alone.
    @Test(arguments: ["hidden", "hidden_avg"]) func gatesAreHiddenStates(_ mode: String) throws {
        let assembly = try MoEAssembly(config(mode)) { _ in }, rows = try assembly.routerRows(source())
        let model = try load(folder["base"]).model, tokenizer = try Tokenizer(modelPath: folder["base"])
        func state(_ prompt: String, _ layer: Int) -> [Double] {
            let ids = tokenizer.encode("<s>" + prompt, addSpecialTokens: false)
            var found: [Double] = []
            model.layerObserver = { index, x in
                let values = x.values(Float.self).map(Double.init)
                if index == layer {
                    found = (0..<32).map { i in
                        mode == "hidden"
                            ? values[(ids.count - 1) * 32 + i]
                            : stride(from: i, to: values.count, by: 32).reduce(0) { $0 + values[$1] }
                                / Double(ids.count)
                    }
                }
            }
            _ = model.allLogits(ids)
            model.layerObserver = nil
            return found
        }
        for layer in 0..<2 {
            let pair = (0..<32).map {
                (state("in the string", layer)[$0] + state("thus", layer)[$0]) / 2 - state("x", layer)[$0]
            }
            let norm = pair.reduce(0) { $0 + $1 * $1 }.squareRoot()
            for i in 0..<32 { #expect(abs(Double(rows.experts[layer][32 + i]) - pair[i] / norm) < 1e-5) }
        }
    }

    @Test func otherGates() throws {
        let cheap = try MoEAssembly(config("cheap_embed")) { _ in }.routerRows(source())
        #expect(cheap.experts[0] == cheap.experts[1])
        #expect(abs(cheap.experts[0].prefix(32).reduce(0) { $0 + $1 * $1 } - 1) < 1e-5)
        let random = try MoEAssembly(config("random")) { _ in }.routerRows(nil)
        let other = try MoEAssembly(config("random", "seed: 1")) { _ in }.routerRows(nil)
        #expect(random != other && random.experts[0] != random.experts[1])
        let uniform = try MoEAssembly(config("uniform_random")) { _ in }.routerRows(nil)
        let bound = 1 / Float(32).squareRoot()
        #expect(
            uniform.experts.joined().allSatisfy { abs($0) <= bound }
                && uniform.experts.joined().contains { abs($0) > bound / 2 })
    }

    @Test func likeRowsAreSeen() throws {
        let assembly = try MoEAssembly(config("random")) { _ in }
        var rows = try assembly.routerRows(nil)
        #expect(assembly.degenerateLayers(rows).isEmpty)
        rows.experts[1] =
            Array(rows.experts[1].prefix(32))
            + rows.experts[1].prefix(32).enumerated().map { $1 + ($0 == 0 ? 0.01 : 0) }
        #expect(assembly.degenerateLayers(rows) == [1])
    }

    @Test func aSharedExpertMakesAQwenMoE() throws {
        let shared = """
            shared_experts:
            - source_model: \(folder["base"])
              positive_prompts: [all]
              residual_scale: 0
            dtype: bfloat16
            """
        let file = try write(config("hidden", shared))
        #expect(file["model.layers.0.mlp.shared_expert_gate.weight"]?.shape == [1, 32])
        #expect(file["model.layers.0.self_attn.q_proj.bias"]?.elementType == .bf16)
        #expect(try file.tensor("model.layers.0.mlp.shared_expert.down_proj.weight").maxAbs().item == 0)
        let json = try readJSONFile(joinPath(folder["out"], "config.json"))
        #expect(
            json["model_type"] == "qwen2_moe" && json["shared_expert_intermediate_size"] == 48
                && json["dtype"] == "bfloat16")
    }

    /// Names and settings as mergekit writes them (verify/moe_assembly.py compares whole folders).
    @Test func aSharedExpertWithoutPromptsMakesADeepSeekMoE() throws {
        let file = try write(config("hidden", "shared_experts:\n- source_model: \(folder["base"])"))
        #expect(file["model.layers.1.mlp.experts.1.up_proj.weight"]?.shape == [48, 32])
        #expect(file["model.layers.1.mlp.shared_experts.down_proj.weight"]?.shape == [32, 48])
        #expect(file["model.layers.0.mlp.gate.weight"]?.shape == [2, 32])
        #expect(!file.tensors.contains { $0.name.contains("shared_expert_gate") })
        let json = try readJSONFile(joinPath(folder["out"], "config.json"))
        #expect(json["model_type"] == "deepseek" && json["n_routed_experts"] == 2 && json["n_shared_experts"] == 1)
    }

    @Test func badConfigurationsSayWhere() throws {
        func message(_ body: () throws -> Void) -> String {
            do {
                try body()
                return ""
            } catch let error as any UserFacing {
                return error.message
            } catch {
                return "other"
            }
        }
        let one = folder["one"], two = folder["two"]
        let cases: [(String, String)] = [
            (message { _ = try config(experts: "- source_model: \(one)\n  positive_promts: [a]") }, "positive_prompts"),
            (
                message { _ = try config(experts: "- source_model: \(one)\n  positive_prompts: [a]") },
                "fewer than experts_per_token"
            ),
            (message { _ = try config("hiden") }, "hidden"),
            (
                message { _ = try config(experts: "- source_model: \(one)\n- source_model: \(two)") },
                "positive_prompts: missing"
            ),
            (
                message {
                    _ = try config(
                        experts: [one, two].map { "- source_model: \($0)\n  positive_prompts: [a]" }.joined(
                            separator: "\n"))
                }, "same prompts"
            ),
            (
                message {
                    let same = try config(
                        experts: ["a", "b"].map { "- source_model: \(one)\n  positive_prompts: [\($0)]" }.joined(
                            separator: "\n"))
                    try same.refuseEqualExperts()
                }, "allow-equal-experts"
            ),
            (
                message { _ = try MoEAssembly(config("hidden", "architecture: olmoe")) { _ in } },
                "Mixtral, DeepSeek MoE"
            ),
            (message { _ = try MoEAssembly(config("hidden", "architecture: qwen")) { _ in } }, "shared_experts"),
        ]
        for (found, wanted) in cases { #expect(found.contains(wanted), "\(found) should say \(wanted)") }
        var warnings: [String] = []
        let three = try config(
            "random", experts: [one, two, one].map { "- source_model: \($0)" }.joined(separator: "\n"))
        _ = try MoEAssembly(three) { warnings.append($0) }
        #expect(warnings.count == 1 && warnings[0].contains("power of two"))
    }
}
