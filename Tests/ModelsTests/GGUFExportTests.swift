// Models written as GGUF files and read back: every family's tensors find their places again, and types do what they say.
import Diagnostics
import Formats
import Layers
import ModelFiles
import Models
import Tensors
import TestSupport
import Testing
import Tokenizers

@Suite struct GGUFExportTests {
    /// A configuration of the family that llama.cpp computes too.
    private static func config(_ family: TinyFamily) -> JSONValue {
        let sized = family.config.changing(["vocab_size": 268])
        return switch family {
        case .mistral: sized.changing(["sliding_window": nil])
        case .gemma2, .gemma3: sized.changing(["query_pre_attn_scalar": 16])
        default: sized
        }
    }

    private func export(
        _ model: any CausalLanguageModel, _ config: JSONValue, to path: String, _ type: GGMLType = .f32
    ) throws -> [(type: GGMLType, count: Int)] {
        let folder = try TemporaryFolder()
        try writeFolder(folder.path, config, model)
        let loaded = try load(folder.path), weights = loaded.floatsByName
        let plan = try GGUFExport(config: config, file: "config.json", tokenizer: tinyTokenizer(), name: "tiny")
        return try plan.write(to: path, type, threads: 2, values: { weights[$0]!() }, progress: { _ in })
    }

    @Test(arguments: TinyFamily.allCases) func everyFamilySurvives(_ family: TinyFamily) throws {
        let folder = try TemporaryFolder(), config = Self.config(family), model = try tinyModel(config)
        _ = try export(model, config, to: folder["tiny.gguf"])
        let source = try GGUFModel(path: folder["tiny.gguf"]), back = try LoadedModel(source)
        for (a, b) in zip(model.namedParameters(), back.model.namedParameters()) {
            let off = relativeDifference(b.parameter.value, a.parameter.value)
            // Gemma's norms have one added and taken away.
            #expect(a.name == b.name && off <= (family.rawValue.hasPrefix("gemma") ? 1e-6 : 0), "\(a.name): \(off)")
        }
        let ids = someIDs(19, seed: 2, vocabulary: 268)
        #expect(relativeDifference(back.model.allLogits(ids), model.allLogits(ids)) < 1e-6)
        #expect(back.contextLength == 128 && source.endTokens == [1])
        #expect(source.tokenizer.encode("the user's  12 \u{E9}") == tinyTokenizerIDs("the user's  12 \u{E9}"))
        #expect(source.tokenizer.chatTemplate == tinyChatTemplate)
        // The folder made of the file is the same model.
        try GGUFConversion.convert(folder["tiny.gguf"], to: folder["hf"], .f32)
        #expect(relativeDifference(try load(folder["hf"]).model.allLogits(ids), model.allLogits(ids)) < 1e-6)
    }

    @Test func yarnSurvives() throws {
        let folder = try TemporaryFolder()
        let scaling: JSONValue = ["rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16]
        let config = Self.config(.qwen3).changing(["rope_scaling": scaling]), model = try tinyModel(config)
        _ = try export(model, config, to: folder["tiny.gguf"])
        let back = try LoadedModel(GGUFModel(path: folder["tiny.gguf"])), ids = someIDs(19, seed: 2, vocabulary: 268)
        #expect(back.config["rope_scaling"] == scaling)
        #expect(relativeDifference(back.model.allLogits(ids), model.allLogits(ids)) < 1e-6)
    }

    /// The format keeps divisors of frequencies; the settings behind them are found again, whatever they are.
    @Test(arguments: [8192, 64]) func rotaryScalingSurvives(_ context: Int) throws {
        let folder = try TemporaryFolder()
        let scaling: JSONValue = [
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": .init(context),
        ]
        let config = Self.config(.llama).changing(["rope_scaling": scaling]), model = try tinyModel(config)
        _ = try export(model, config, to: folder["tiny.gguf"])
        let back = try LoadedModel(GGUFModel(path: folder["tiny.gguf"])), ids = someIDs(40, seed: 2, vocabulary: 268)
        #expect(back.config["rope_scaling"] == scaling)
        #expect(relativeDifference(back.model.allLogits(ids), model.allLogits(ids)) < 1e-6)
    }

    private func tinyTokenizerIDs(_ text: String) -> [Int32] { (try? tinyTokenizer().encode(text)) ?? [] }

    /// What a file holds of a matrix is its source rounded to the type; what blocks do not fit gets another type.
    @Test(arguments: GGMLType.writable) func matricesAreRoundedAndVectorsAreNot(_ type: GGMLType) throws {
        let folder = try TemporaryFolder()
        let config = Self.config(.llama).changing(["hidden_size": 256, "intermediate_size": 96])
        let model = try tinyModel(config)
        let counts = try export(model, config, to: folder["tiny.gguf"], type)
        let file = try GGUFFile(path: folder["tiny.gguf"])
        for tensor in file.tensors {
            let isDown = tensor.name.hasSuffix("ffn_down.weight")
            let expected: GGMLType =
                tensor.shape.count == 1 ? .f32 : isDown && type.block.elements == 256 ? .q8_0 : type
            #expect(tensor.type == expected, "\(tensor.name)")
        }
        #expect(counts.reduce(0) { $0 + $1.count } == file.tensors.count)
        let ups = model.namedParameters().first { $0.name == "model.layers.1.mlp.up_proj.weight" }!.parameter.value
        let values = ups.values(Float.self)
        var blocks = [UInt8](repeating: 0, count: type.byteCount(of: values.count))
        values.withUnsafeBufferPointer { values in
            blocks.withUnsafeMutableBytes { type.quantize(values, into: $0.baseAddress!) }
        }
        #expect(try file.bytes(of: file["blk.1.ffn_up.weight"]!).elementsEqual(blocks))
        #expect(file.metadata["general.architecture"]?.string == "llama")
    }

    /// From one type to another directly, or from the source: the same blocks, the same metadata but for the type.
    @Test func requantisationIsExportInAnotherType() throws {
        let folder = try TemporaryFolder()
        let config = Self.config(.llama).changing(["hidden_size": 256, "intermediate_size": 96])
        let model = try tinyModel(config)
        _ = try export(model, config, to: folder["f32.gguf"])
        _ = try export(model, config, to: folder["q4.gguf"], .q4_K)
        _ = try GGUFRequantization.write(
            GGUFFile(path: folder["f32.gguf"]), to: folder["again.gguf"], .q4_K, threads: 2, progress: { _ in })
        #expect(try readFile(folder["again.gguf"]) == readFile(folder["q4.gguf"]))
    }

    private func refusal(_ family: TinyFamily, _ changes: KeyValuePairs<String, JSONValue?>) throws -> String {
        let config = Self.config(family).changing(changes)
        do {
            _ = try GGUFExport(config: config, file: "config.json", tokenizer: tinyTokenizer(), name: "tiny")
            return "accepted"
        } catch let error as UserError { return error.message }
    }

    @Test func whatLlamaCppComputesOtherwiseIsRefused() throws {
        #expect(try refusal(.mistral, ["sliding_window": 4]).contains("sliding_window 4: llama.cpp's"))
        #expect(
            try refusal(.gemma2, ["query_pre_attn_scalar": 12]).contains(
                "query_pre_attn_scalar 12.0 beside heads of 16"))
        #expect(try refusal(.llama, ["vocab_size": 64]).contains("ids up to 267, the model's table 64 rows"))
        let yarn: JSONValue = ["rope_type": "yarn", "factor": 4.0, "beta_fast": 16]
        #expect(try refusal(.llama, ["rope_scaling": yarn]).contains("rotary scaling yarn with beta_fast"))
        #expect(try refusal(.llama, ["model_type": "bert"]).contains("model_type bert has no GGUF architecture"))
        let scaling: JSONValue = [
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        ]
        #expect(try refusal(.llama, ["rope_scaling": scaling]) == "accepted")
    }

    @Test func numbersThatATypeCannotHoldAreNamed() throws {
        let folder = try TemporaryFolder(), config = Self.config(.llama), model = try tinyModel(config)
        model.namedParameters().first { $0.name == "model.layers.0.mlp.up_proj.weight" }!.parameter.value
            .narrow(0, 3, 1).copyInPlace(.full([1, 32], 1e6, .float32))
        #expect {
            _ = try export(model, config, to: folder["tiny.gguf"], .f16)
        } throws: {
            ($0 as? UserError)?.message
                == "tensor blk.0.ffn_up.weight holds the number 1000000.0, which F16 cannot; write bf16 or f32"
        }
        #expect(!fileExists(folder["tiny.gguf"]))
    }
}
