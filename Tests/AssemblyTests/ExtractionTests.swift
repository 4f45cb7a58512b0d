// Adapters taken out of fine-tuned models: exact at full rank, the same adapter again at its own rank.
import Assembly
import Checkpoints
import Diagnostics
import Formats
import Layers
import Merging
import ModelFiles
import Models
import Tensors
import TestSupport
import Testing

@Suite struct ExtractionTests {
    let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
        try writeFolder(folder["base"], TinyFamily.qwen2.config, tinyModel(TinyFamily.qwen2.config))
    }

    /// Writes a model whose tensors that `changes` names have moved by small numbers.
    private func tune(_ name: String, _ family: TinyFamily = .qwen2, _ changes: (String) -> Bool) throws {
        let model = try tinyModel(family.config)
        for (k, (name, parameter)) in model.namedParameters().enumerated() where changes(name) {
            parameter.value.copyInPlace(parameter.value.detached() + filled(parameter.shape, 500 + k, scale: 0.05))
        }
        try writeFolder(folder[name], family.config, model)
    }

    private func extract(_ name: String, _ options: ExtractionOptions) throws -> ExtractionReport {
        let models = MergeModels()
        let extraction = try AdapterExtraction(
            models.model(MergeModelReference(folder[name])), base: models.model(MergeModelReference(folder["base"])),
            baseName: folder["base"], options)
        try extraction.write(to: folder["adapter"])
        return extraction.report
    }

    /// Largest difference between the tensors of the fine-tuned model and of base and adapter together.
    private func error(_ name: String) throws -> Double {
        let tuned = try SafetensorsFile(path: joinPath(folder[name], "model.safetensors"))
        let merged = try load(folder["adapter"])
        try merged.writeMerged(to: folder["merged"], .float32)
        let again = try SafetensorsFile(path: joinPath(folder["merged"], "model.safetensors"))
        return try tuned.tensors.map { info in
            try (tuned.tensor(info.name) - again.tensor(info.name)).maxAbs().item
        }.max()!
    }

    @Test func fullRankIsExact() throws {
        try tune("tuned") { $0.contains("proj.weight") || $0.contains("embed_tokens") }
        let report = try extract("tuned", ExtractionOptions())
        #expect(report.rank == 32 && report.maps.count == 14 && report.maps.allSatisfy { $0.share > 0.999999 })
        #expect(report.saved.map(\.name) == ["model.embed_tokens.weight"] && report.missed.isEmpty)
        #expect(try error("tuned") < 1e-5)
        #expect(abs(report.share - 1) < 1e-6)
    }

    /// GPT-2's maps lie transposed, and PEFT is told.
    @Test func fullRankIsExactForGPT2() throws {
        try writeFolder(folder["base"], TinyFamily.gpt2.config, tinyModel(TinyFamily.gpt2.config))
        try tune("tuned", .gpt2) { $0.contains(".c_") && $0.hasSuffix("weight") || $0.contains("wte") }
        let report = try extract("tuned", ExtractionOptions())
        #expect(report.maps.count == 8 && report.missed.isEmpty)
        #expect(report.saved.map(\.name) == ["transformer.wte.weight"])
        #expect(try readJSONFile(joinPath(folder["adapter"], "adapter_config.json"))["fan_in_fan_out"]?.bool == true)
        #expect(try error("tuned") < 1e-5)
    }

    @Test func anAdapterComesBackAtItsRank() throws {
        let loaded = try load(folder["base"]),
            config = AdapterConfig(
                rank: 3, alpha: 6, dropout: 0, scaling: .standard, hasMagnitude: false,
                targets: ["q_proj", "down_proj"],
                savedModules: [], baseModel: "")
        try Adapter.attachNew(config, to: loaded, seed: 5)
        for (k, part) in Adapter.parts(of: loaded, config).enumerated() {
            part.parameter.value.copyInPlace(filled(part.parameter.shape, 300 + k, scale: 0.3))
        }
        try loaded.writeMerged(to: folder["tuned"], .float32)
        try writeFileAtomically(TinyFamily.qwen2.config.serialized(), to: joinPath(folder["tuned"], "config.json"))
        var options = ExtractionOptions()
        options.rank = 3
        let report = try extract("tuned", options)
        #expect(try Set(Adapter(folder: folder["adapter"]).config.targets) == ["q_proj", "down_proj"])
        #expect(report.maps.filter { $0.norm > 0 }.count == 4 && report.share > 0.99999)
        #expect(try error("tuned") < 1e-5)
        // One rank less loses something, and says so.
        options.rank = 2
        try removeTree(folder["adapter"])
        let less = try extract("tuned", options)
        #expect(less.share < 0.99)
        try removeTree(folder["merged"])
        #expect(try error("tuned") > 1e-3)
    }

    /// A table, norms and maps that only one of the models rounds are no change; one number that moved is.
    @Test(arguments: [(DType.bfloat16, DType.float32), (.float32, .bfloat16), (.float16, .float32)])
    func roundingIsNoChange(_ tunedType: DType, _ baseType: DType) throws {
        func write(_ name: String, _ type: DType, _ changes: (String, Tensor) -> Tensor) throws {
            let tensors = try tinyModel(TinyFamily.qwen2.config).namedParameters().map { name, parameter in
                SafetensorsWriter.Tensor(name, changes(name, parameter.value.detached()), type)
            }
            if folderExists(folder[name]) { try removeTree(folder[name]) }
            try writeFolder(folder[name], TinyFamily.qwen2.config, tensors)
        }
        func moved(_ value: Tensor) -> Tensor { value + filled(value.shape, 7, scale: 0.05) }
        try write("base", baseType) { $1 }
        try write("tuned", tunedType) { $0.contains("q_proj.weight") ? moved($1) : $1 }
        let report = try extract("tuned", ExtractionOptions())
        #expect(report.saved.isEmpty && report.missed.isEmpty)
        #expect(report.rounded.contains("model.embed_tokens.weight") && report.json["only_rounded"] != nil)
        #expect(try Adapter(folder: folder["adapter"]).config.targets == ["q_proj"])

        try removeTree(folder["adapter"])
        try write("tuned", tunedType) { name, value in
            guard name == "model.embed_tokens.weight" else {
                return name.contains("q_proj.weight") ? moved(value) : value
            }
            let value = value.clone()
            value.narrow(0, 3, 1).copyInPlace(moved(value.narrow(0, 3, 1)))
            return value
        }
        #expect(try extract("tuned", ExtractionOptions()).saved.map(\.name) == ["model.embed_tokens.weight"])
    }

    @Test func aShareChoosesTheRank() throws {
        try tune("tuned") { $0.contains("q_proj.weight") }
        var options = ExtractionOptions()
        options.share = 0.9
        let report = try extract("tuned", options)
        let maps = report.maps.filter { $0.norm > 0 }
        #expect(report.rank < 32 && maps.allSatisfy { $0.share >= 0.9 })
        (options.share, options.rank) = (nil, report.rank - 1)
        try removeTree(folder["adapter"])
        #expect(try extract("tuned", options).maps.contains { $0.share < 0.9 })
    }

    @Test func whatNoAdapterHoldsIsNamed() throws {
        try tune("tuned") {
            $0 == "model.norm.weight" || $0.contains("layers.1.self_attn.q_proj") || $0.contains("embed_tokens")
        }
        var options = ExtractionOptions()
        options.savesTables = false
        let report = try extract("tuned", options)
        #expect(
            Set(report.missed.map(\.name)) == [
                "model.norm.weight", "model.layers.1.self_attn.q_proj.bias", "model.embed_tokens.weight",
            ])
        #expect(report.share < 0.9 && report.saved.isEmpty)
        #expect(report.json["not_captured"]!.array!.count == 3)
    }

    @Test func equalOrUnrelatedModelsAreRefused() throws {
        try tune("same") { _ in false }
        #expect(throws: UserError.self) { try extract("same", ExtractionOptions()) }
        try tune("norms") { $0.hasSuffix("norm.weight") }
        #expect(throws: UserError.self) { try extract("norms", ExtractionOptions()) }
        try writeFolder(folder["other"], TinyFamily.llama.config, tinyModel(TinyFamily.llama.config))
        #expect(throws: UserError.self) { try extract("other", ExtractionOptions()) }
        #expect(!folderExists(folder["adapter"]))
    }
}
