// Weights from folders: every tensor has its place, and what does not fit is one line.
import Checkpoints
import Diagnostics
import Formats
import Layers
import ModelFiles
import Models
import Optimizers
import Tensors
import TestSupport
import Testing

@Suite struct LoadingTests {
    typealias Written = SafetensorsWriter.Tensor

    /// Loads a folder whose tensors `change` has spoiled; what it was told.
    private func message(_ config: JSONValue, _ change: (inout [Written]) -> Void) throws -> String {
        let folder = try TemporaryFolder()
        var tensors = try fileTensors(of: tinyModel(config))
        change(&tensors)
        try writeFolder(folder.path, config, tensors)
        do {
            _ = try load(folder.path)
            return "loaded"
        } catch let error as UserError {
            #expect(error.exitStatus == .badData && !error.message.contains("\n"))
            return String(error.message.dropFirst(folder.path.count))
        }
    }

    private func remove(_ names: String...) -> (inout [Written]) -> Void {
        { tensors in tensors.removeAll { names.contains($0.name) } }
    }
    private func add(_ name: String, _ value: Tensor) -> (inout [Written]) -> Void {
        { $0.append(Written(name, value)) }
    }
    private func replace(_ name: String, _ value: Tensor) -> (inout [Written]) -> Void {
        { tensors in
            tensors.removeAll { $0.name == name }
            tensors.append(Written(name, value))
        }
    }

    @Test func whatDoesNotFitIsOneLine() throws {
        let llama = TinyFamily.llama.config, fit = ": weights do not fit config.json: "
        #expect(try message(llama) { _ in } == "loaded")
        #expect(try message(llama, remove("model.norm.weight")) == fit + "missing model.norm.weight")
        #expect(try message(llama, remove("lm_head.weight")) == fit + "missing lm_head.weight")
        #expect(try message(llama, add("model.extra", .zeros([2]))) == fit + "unexpected model.extra")
        let bias = "model.layers.0.self_attn.q_proj.bias"
        #expect(try message(llama, add(bias, .zeros([32]))) == fit + "unexpected \(bias)")
        let layer = (0..<9).map { "model.layers.7.part\($0)" }
        #expect(
            try message(llama) { tensors in
                tensors.removeAll { $0.name == "model.norm.weight" }
                tensors += layer.map { Written($0, .zeros([1])) }
            } == fit + "missing model.norm.weight; unexpected model.layers.7.part0, model.layers.7.part1, "
                + "model.layers.7.part2 and 6 more")
        #expect(
            try message(llama, replace("model.norm.weight", .zeros([31])))
                == ": tensor model.norm.weight has shape [31], config.json asks for [32]")
        #expect(
            try message(llama, replace("model.layers.1.mlp.up_proj.weight", .zeros([32, 48])))
                == ": tensor model.layers.1.mlp.up_proj.weight has shape [32, 48], config.json asks for [48, 32]")
        #expect(
            try message(llama, replace("model.norm.weight", .zeros([32], .int64)))
                == ": tensor model.norm.weight has type I64; weights must be floating point")
    }

    /// Weights of another program's method are called by its name; a leftover of one beside plain weights is nothing.
    @Test(arguments: ["gptq", "awq", "bitsandbytes"]) func quantisedWeightsAreRefusedByName(_ method: String) throws {
        let settings: JSONValue = ["quant_method": .string(method), "bits": 4]
        let config = TinyFamily.llama.config.changing(["quantization_config": settings])
        #expect(
            try message(config) { tensors in
                tensors.removeAll { $0.name == "model.layers.0.mlp.up_proj.weight" }
                tensors.append(Written("model.layers.0.mlp.up_proj.qweight", .zeros([4, 48], .int32)))
            }
                == ": weights quantised by \(method) (quantization_config in config.json) are not read; give the model "
                + "they were made of")
        #expect(try message(config) { _ in } == "loaded")
    }

    @Test func aTiedHeadMayBeThereTwiceButNotTwoHeads() throws {
        let config = TinyFamily.qwen2.config, table = try tinyModel(config).tokenTable.weight.value
        #expect(try message(config, add("lm_head.weight", table)) == "loaded")
        #expect(
            try message(config, add("lm_head.weight", table + 1))
                == ": config.json ties the output table to the token table, but lm_head.weight differs from it")
    }

    @Test func leftoversOfOldExportersAreNoWeights() throws {
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq"
        #expect(try message(TinyFamily.llama.config, add(name, .zeros([4]))) == "loaded")
    }

    /// The published GPT-2 folders: no prefix, and the masks of attention as tensors.
    @Test func bareNamesOfGPT2AreItsWeights() throws {
        let folder = try TemporaryFolder(), config = TinyFamily.gpt2.config, model = try tinyModel(config)
        func bare(_ name: String) -> String { String(name.dropFirst("transformer.".count)) }
        var tensors = model.namedParameters().map {
            Written(bare($0.name), $0.parameter.filed($0.parameter.value))
        }
        let table = model.tokenTable.weight.value
        tensors += [
            Written("h.0.attn.bias", .zeros([1, 1, 128, 128])), Written("h.1.attn.masked_bias", .zeros([])),
            Written("lm_head.weight", table),
        ]
        try writeFolder(folder.path, config, tensors)
        #expect(
            try load(folder.path).model.allLogits([1, 2, 3]).values(Float.self)
                == model.allLogits([1, 2, 3]).values(Float.self))
        // What is written has the names that transformers gives, and nothing left over.
        try load(folder.path).writeMerged(to: folder.path, .float32)
        let names = try SafetensorsFile(path: folder["model.safetensors"]).tensors.map(\.name)
        #expect(names.sorted() == model.namedParameters().map(\.name).sorted())
        #expect(
            try message(config, add("wte.weight", table))
                == ": tensors transformer.wte.weight and wte.weight are the same weight")
        #expect(
            try message(config, add("lm_head.weight", table + 1))
                == ": config.json ties the output table to the token table, but lm_head.weight differs from it")
        let map = "transformer.h.0.mlp.c_fc.weight"
        #expect(
            try message(config, replace(map, .zeros([48, 32])))
                == ": tensor \(map) has shape [48, 32], config.json asks for [32, 48]")
    }

    /// A map of GPT-2 lies in its file as `[inputs, outputs]`, and comes back there.
    @Test func mapsOfGPT2LieTransposed() throws {
        let folder = try TemporaryFolder(), config = TinyFamily.gpt2.config, model = try tinyModel(config)
        try writeFolder(folder.path, config, model)
        let file = try SafetensorsFile(path: folder["model.safetensors"])
        let name = "transformer.h.1.attn.c_attn.weight", stored = try file.tensor(name)
        #expect(stored.shape == [32, 96])
        let linear = try #require(load(folder.path).model.blockLinears.first { name.hasPrefix($0.name + ".") }).linear
        #expect(linear.weight.shape == [96, 32] && linear.outFeatures == 96)
        let x = filled([2, 32], 3, scale: 1)
        #expect(relativeDifference(linear(x), x.matmul(stored) + linear.bias!.value) < 1e-6)
        try load(folder.path).writeMerged(to: folder["again"], .float32)
        let again = try SafetensorsFile(path: joinPath(folder["again"], "model.safetensors"))
        for info in file.tensors {
            #expect(try again.tensor(info.name).values(Float.self) == file.tensor(info.name).values(Float.self))
        }
    }

    /// Merges tried in memory hand over tensors as files name and hold them.
    @Test func replacementsLieAsInFiles() throws {
        let folder = try TemporaryFolder(), config = TinyFamily.gpt2.config
        try writeFolder(folder.path, config, tinyModel(config))
        let loaded = try load(folder.path), weights = ReplaceableWeights(of: loaded)
        let name = try #require(weights.weight("h.1.mlp.c_fc.weight")), new = filled([32, 48], 9, scale: 1)
        #expect(name == "transformer.h.1.mlp.c_fc.weight" && weights.weight("h.1.attn.bias") == nil)
        try new.withBytes { try weights.replace(name, .f32, [32, 48], $0) }
        let linear = try #require(loaded.model.blockLinears.first { name.hasPrefix($0.name + ".") }).linear
        #expect(linear.weight.value.values(Float.self) == new.transpose(0, 1).contiguous().values(Float.self))
        #expect(throws: UserError.self) { try new.withBytes { try weights.replace(name, .f32, [48, 32], $0) } }
    }

    @Test(arguments: TinyFamily.allCases) func everyTensorGoesToItsPlace(_ family: TinyFamily) throws {
        let folder = try TemporaryFolder(), model = try tinyModel(family.config)
        try writeFolder(folder.path, family.config, model)
        let loaded = try load(folder.path).model
        for (a, b) in zip(model.namedParameters(), loaded.namedParameters()) {
            #expect(a.name == b.name && a.parameter.value.values(Float.self) == b.parameter.value.values(Float.self))
        }
    }

    @Test(arguments: [DType.bfloat16, .float16, .float64]) func otherFloatsAreConverted(_ dtype: DType) throws {
        let folder = try TemporaryFolder(), model = try tinyModel(TinyFamily.llama.config)
        let tensors = model.namedParameters().map { Written($0.name, $0.parameter.value, dtype) }
        try writeFolder(folder.path, TinyFamily.llama.config, tensors)
        let loaded = try load(folder.path).model
        for (a, b) in zip(model.namedParameters(), loaded.namedParameters()) {
            #expect(b.parameter.value.dtype == .float32)
            #expect(a.parameter.value.to(dtype).values(Float.self) == b.parameter.value.values(Float.self))
        }
    }

    @Test func trainingAllWeightsKeepsMasters() throws {
        let folder = try TemporaryFolder()
        try writeFolder(folder.path, TinyFamily.llama.config, tinyModel(TinyFamily.llama.config))
        let loaded = try LoadedModel(ModelReference(folder.path), dtype: .bfloat16, trainsAll: true).model
        #expect(loaded.computeDType == .bfloat16)
        for (_, parameter) in loaded.namedParameters() {
            #expect(parameter.value.dtype == .float32 && parameter.isTrained)
        }
        loaded.documentLoss([someIDs(8, seed: 1)]).backward()
        for (_, parameter) in loaded.namedParameters() { #expect(parameter.value.gradient?.dtype == .float32) }
        let frozen = try LoadedModel(ModelReference(folder.path), dtype: .bfloat16).model
        for (_, parameter) in frozen.namedParameters() {
            #expect(parameter.value.dtype == .bfloat16 && !parameter.isTrained)
        }
    }

    /// The same loss, gradients and files as with whole masters; only matrices in bf16 training are split.
    @Test(arguments: [TinyFamily.llama, .gpt2]) func splitMastersAreTheSameModel(_ family: TinyFamily) throws {
        let folder = try TemporaryFolder()
        // Of these no two bf16 numbers are equally near.
        try writeFolder(folder.path, family.config, fileTensors(of: tinyModel(family.config), .bfloat16))
        func loaded(_ dtype: DType) throws -> LoadedModel {
            try LoadedModel(ModelReference(folder.path), dtype: dtype, trainsAll: true)
        }
        let whole = try loaded(.bfloat16), split = try loaded(.bfloat16), fp32 = try loaded(.float32)
        for each in [split, fp32] { each.splitMasters() }
        #expect(fp32.model.namedParameters().allSatisfy { $0.parameter.value.dtype == .float32 })
        let losses = [whole, split].map { each in
            let loss = each.model.documentLoss([someIDs(9, seed: 1), someIDs(5, seed: 2)])
            loss.backward()
            return loss.item
        }
        #expect(losses[0] == losses[1])
        for (a, b) in zip(whole.model.namedParameters(), split.model.namedParameters()) {
            #expect(b.parameter.value.dtype == (a.parameter.shape.count == 2 ? .bfloat16 : .float32), "\(a.name)")
            let gradients = [a, b].map { $0.parameter.value.gradient! }
            #expect(gradients[0].dtype == .float32)
            #expect(gradients[1].dtype == .float32 || b.parameter.value.dtype == .bfloat16)
            #expect(gradients[0].values(Float.self) == gradients[1].values(Float.self), "\(a.name)")
        }
        for (name, each) in [("whole", whole), ("split", split)] {
            AdamW(each.model.namedParameters(), .init()).step(learningRate: 0.01)
            each.resizeVocabulary(to: 70)
            try each.writeMerged(to: folder[name], .float32)
        }
        let files = try ["whole", "split"].map { try SafetensorsFile(path: joinPath(folder[$0], "model.safetensors")) }
        for info in files[0].tensors {
            let (a, b) = (try files[0].tensor(info.name), try files[1].tensor(info.name))
            #expect(a.shape == b.shape && a.values(Float.self) == b.values(Float.self), "\(info.name)")
        }
    }

    @Test(arguments: TinyFamily.allCases) func newTokensBeginAtTheMean(_ family: TinyFamily) throws {
        let folder = try TemporaryFolder(), model = try tinyModel(family.config)
        try writeFolder(folder.path, family.config, model)
        let loaded = try load(folder.path), before = loaded.model.allLogits([1, 2, 3])
        loaded.resizeVocabulary(to: 60)
        #expect(loaded.model.vocabSize == 64)
        loaded.resizeVocabulary(to: 67)
        #expect(loaded.model.vocabSize == 67 && loaded.config["vocab_size"]?.int == 67)
        let logits = loaded.model.allLogits([1, 2, 3])
        #expect(relativeDifference(logits.narrow(1, 0, 64), before) < 1e-6)
        // Linear in the table: a mean row's score is the mean score, before scores are capped.
        let cap = model.logitCap
        func uncapped(_ x: Tensor) -> Tensor { cap.map { c in ((x + c) / (x * -1 + c)).log() * (c / 2) } ?? x }
        let mean = uncapped(before).sum(dim: 1, keepDim: true) / 64
        for i in 64..<67 { #expect(relativeDifference(uncapped(logits.narrow(1, i, 1)), mean) < 1e-5) }
    }

    @Test func contextAndEndTokensAreRead() throws {
        let folder = try TemporaryFolder(), config = TinyFamily.llama.config.changing(["eos_token_id": [5, 6]])
        try writeFolder(folder.path, config, tinyModel(config))
        let loaded = try load(folder.path), tokenizer = try tinyTokenizer()
        #expect(try loaded.endTokens(tokenizer) == [1, 5, 6] && loaded.contextLength == 128)
        try writeFileAtomically("{\"eos_token_id\": 7}", to: folder["generation_config.json"])
        #expect(try loaded.endTokens(tokenizer) == [1, 7])
    }
}

/// Models that start from random weights.
@Suite struct RandomWeightTests {
    private let config = TinyFamily.qwen2.config.changing(["initializer_range": 0.05])

    private func folder(_ temporary: TemporaryFolder) throws -> String {
        try writeFileAtomically(config.serialized(), to: temporary["config.json"])
        return temporary.path
    }

    private func weights(_ folder: String, seed: UInt64) throws -> [(name: String, values: [Float])] {
        let loaded = try LoadedModel(ModelReference(folder), dtype: .float32, randomSeed: seed)
        return loaded.model.namedParameters().map { ($0.name, $0.parameter.value.values(Float.self)) }
    }

    @Test func weightsHaveTheSpreadThatConfigSays() throws {
        let temporary = try TemporaryFolder()
        for (name, values) in try weights(folder(temporary), seed: 1) {
            if name.hasSuffix("norm.weight") { #expect(values.allSatisfy { $0 == 1 }) }
            if name.hasSuffix(".bias") { #expect(values.allSatisfy { $0 == 0 }) }
            if name.hasSuffix("proj.weight") || name.hasSuffix("tokens.weight") {
                let deviation = (values.map { Double($0 * $0) }.reduce(0, +) / Double(values.count)).squareRoot()
                #expect(abs(deviation / 0.05 - 1) < 0.12, "\(name): \(deviation)")
            }
        }
    }

    /// GPT-2's maps into the residual stream begin smaller by √(2 layers).
    @Test func gpt2BeginsAsTransformersBeginsIt() throws {
        let temporary = try TemporaryFolder(), config = TinyFamily.gpt2.config.changing(["initializer_range": 0.05])
        try writeFileAtomically(config.serialized(), to: temporary["config.json"])
        for (name, values) in try weights(temporary.path, seed: 1) {
            let deviation = (values.map { Double($0 * $0) }.reduce(0, +) / Double(values.count)).squareRoot()
            if name.hasSuffix(".bias") {
                #expect(deviation == 0)
            } else if name.contains(".ln_") {
                #expect(values.allSatisfy { $0 == 1 })
            } else {
                let expected = name.hasSuffix("c_proj.weight") ? 0.025 : 0.05
                #expect(abs(deviation / expected - 1) < 0.12, "\(name): \(deviation)")
            }
        }
    }

    @Test func seedsDecideAndTensorsDiffer() throws {
        let temporary = try TemporaryFolder(), folder = try folder(temporary)
        let first = try weights(folder, seed: 1), again = try weights(folder, seed: 1),
            other = try weights(folder, seed: 2)
        #expect(first.map(\.values) == again.map(\.values))
        for (a, b) in zip(first, other) where a.name.hasSuffix("proj.weight") { #expect(a.values != b.values) }
        let matrices = first.filter { $0.name.hasSuffix("proj.weight") }.map { Array($0.values.prefix(8)) }
        #expect(Set(matrices).count == matrices.count)
    }

    @Test func weightsThatAreThereAreNotPassedOver() throws {
        let temporary = try TemporaryFolder()
        try writeFolder(temporary["model"], config, tinyModel(config))
        #expect(throws: UserError.self) { try weights(temporary["model"], seed: 1) }
    }

    @Test func withoutWeightsTheWayOutIsNamed() throws {
        let temporary = try TemporaryFolder(), folder = try folder(temporary)
        let error = #expect(throws: UserError.self) { try load(folder) }
        #expect(error?.message.contains("model.initialize: random") == true)
    }
}
