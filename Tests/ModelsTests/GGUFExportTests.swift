// Models written as GGUF files and read back: every family's tensors find their places again, and types do what they say.
import Diagnostics
import Formats
import Glibc
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

    /// A tiny Llama with one number of its first up_proj changed, not its first.
    private func spoiled(_ number: Double) throws -> any CausalLanguageModel {
        let model = try tinyModel(Self.config(.llama))
        model.namedParameters().first { $0.name == "model.layers.0.mlp.up_proj.weight" }!.parameter.value
            .narrow(0, 3, 1).copyInPlace(.full([1, 32], number, .float32))
        return model
    }

    private func message(_ body: () throws -> Void) throws -> String {
        do {
            try body()
            return "done"
        } catch let error as UserError { return error.message }
    }

    @Test(arguments: GGMLType.writable) func whatIsNoNumberIsNotExported(_ type: GGMLType) throws {
        let folder = try TemporaryFolder(), model = try spoiled(.nan)
        #expect(
            try message { _ = try export(model, Self.config(.llama), to: folder["tiny.gguf"], type) }
                == "tensor blk.0.ffn_up.weight holds the number nan; weights must be finite")
        #expect(!fileExists(folder["tiny.gguf"]))
    }

    /// Folders refuse in the words of `export`: those of a GGUF file and those of a folder.
    @Test(
        arguments: [
            (.f16, .float16, 1e30, "the number 1e+30, which F16 cannot; write bf16 or f32"),
            (.bf16, .bfloat16, 3.4e38, "the number 3.4e+38, which BF16 cannot; write f32"),
        ] as [(ElementType, DType, Double, String)]) func narrowFoldersRefuseInTheSameWords(
            _ type: ElementType, _ dtype: DType, _ number: Double, _ words: String
        ) throws
    {
        let folder = try TemporaryFolder(), model = try spoiled(number), config = Self.config(.llama)
        _ = try export(model, config, to: folder["tiny.gguf"])
        #expect(
            try message { try GGUFConversion.convert(folder["tiny.gguf"], to: folder["made"], type) }
                == "tensor blk.0.ffn_up.weight holds \(words)")
        #expect(!folderExists(folder["made"]))
        try GGUFConversion.convert(folder["tiny.gguf"], to: folder["wide"], .f32)
        try createDirectories(folder["narrow"])
        let loaded = try load(folder["wide"])
        #expect(
            try message { try loaded.writeMerged(to: folder["narrow"], dtype) }
                == "tensor model.layers.0.mlp.up_proj.weight holds \(words)")
        #expect(!fileExists(folder["narrow/model.safetensors"]))
        try loaded.writeMerged(to: folder["narrow"], .float32)
    }

    /// A difference that is no number is not passed over, wherever it stands.
    @Test func aDifferenceIsANumber() {
        #expect(LogProbabilityDifference([-1, -2, -3], [-1, -4, -3.5])?.largest == 2)
        #expect(LogProbabilityDifference([-1, -2], [-1, -3])?.mean == 0.5)
        for i in 0..<3 {
            var after: [Float] = [-1, -2, -3]
            after[i] = .nan
            #expect(LogProbabilityDifference([-1, -2, -3], after) == nil)
        }
        #expect(LogProbabilityDifference([-.infinity], [-1]) == nil)
    }

    /// Rewrites a file in two parts; the first one's path.
    private func split(_ path: String, into folder: String) throws -> String {
        let file = try GGUFFile(path: path), half = file.tensors.count / 2
        let tensors = file.tensors.map { tensor in
            GGUFWriter.Tensor(name: tensor.name, type: tensor.type, shape: tensor.shape) { emit in
                try emit(file.bytes(of: tensor))
            }
        }
        let paths = (1...2).map { joinPath(folder, "parts-0000\($0)-of-00002.gguf") }
        for (i, part) in [tensors[..<half], tensors[half...]].enumerated() {
            let said: [GGUFEntry] = [.uint32("split.no", i), .uint32("split.count", 2)]
            try GGUFWriter.write(
                path: paths[i], metadata: (i == 0 ? file.entries() : []) + said, tensors: Array(part))
        }
        return paths[0]
    }

    /// Two files are the model that one was, for every reader; half of it is never written.
    @Test func aModelInPartsIsTheWholeModel() throws {
        let folder = try TemporaryFolder(), config = Self.config(.llama), model = try tinyModel(config)
        _ = try export(model, config, to: folder["tiny.gguf"])
        let first = try split(folder["tiny.gguf"], into: folder.path)
        let ids = someIDs(19, seed: 2, vocabulary: 268)
        let back = try LoadedModel(GGUFModel(path: first)).model
        #expect(relativeDifference(back.allLogits(ids), model.allLogits(ids)) < 1e-6)
        try GGUFConversion.convert(first, to: folder["hf"], .f32)
        #expect(relativeDifference(try load(folder["hf"]).model.allLogits(ids), model.allLogits(ids)) < 1e-6)
        #expect(try Tokenizer(modelPath: first).encode("the user") == tinyTokenizerIDs("the user"))
        for (source, name) in [(folder["tiny.gguf"], "whole"), (first, "parts")] {
            _ = try GGUFRequantization.write(
                GGUFFile(path: source), to: folder[name], .q8_0, threads: 2, progress: { _ in })
        }
        #expect(try readFile(folder["whole"]) == readFile(folder["parts"]))
        let second = folder["parts-00002-of-00002.gguf"]
        func refuses(_ path: String) {
            #expect(throws: UserError.self) {
                try GGUFRequantization.write(
                    GGUFFile(path: path), to: folder["half"], .q8_0, threads: 2, progress: { _ in })
            }
            #expect(!fileExists(folder["half"]))
        }
        refuses(second)
        try moveFile(second, to: folder["away"])
        refuses(first)
    }

    /// Adapters and vocabularies are GGUF files, too, but no models to convert or to quantise.
    @Test func filesThatAreNoModelsAreRefused() throws {
        let folder = try TemporaryFolder(), path = folder["x.gguf"], architecture = "general.architecture"
        func messages(_ entries: [GGUFEntry], _ tensors: [GGUFWriter.Tensor]) throws -> Set<String> {
            try GGUFWriter.write(path: path, metadata: entries, tensors: tensors)
            let convert = try message { try GGUFConversion.convert(path, to: folder["hf"], .f32) }
            let quantize = try message {
                let file = try GGUFFile(path: path)
                _ = try GGUFRequantization.write(file, to: folder["q"], .q8_0, threads: 1, progress: { _ in })
            }
            #expect(!folderExists(folder["hf"]) && !fileExists(folder["q"]))
            return [convert, quantize]
        }
        let tensor = GGUFWriter.Tensor(name: "blk.0.attn_q.weight.lora_a", type: .f32, shape: [1, 4]) { emit in
            try [Float](repeating: 1, count: 4).withUnsafeBytes { try emit($0) }
        }
        #expect(
            try messages([.string(architecture, "llama"), .string("general.type", "adapter")], [tensor])
                == [
                    "\(path): a LoRA adapter (general.type is adapter), which is not read from GGUF; give the folder it was "
                        + "made of (adapter_config.json, adapter_model.safetensors)"
                ])
        #expect(
            try messages([.string(architecture, "llama")], []) == ["\(path): holds no tensors, so it is no model"])
    }

    /// Folders of the cache are named by the rules that made them and by all parts of the file.
    @Test func cachedFoldersAreOfOneVersion() throws {
        let folder = try TemporaryFolder(), config = Self.config(.llama)
        _ = try export(tinyModel(config), config, to: folder["tiny.gguf"])
        func name(_ path: String, _ version: Int = GGUFConversion.version) throws -> String {
            GGUFConversion.cacheName(of: try GGUFFile(path: path), version: version)
        }
        let now = try name(folder["tiny.gguf"])
        #expect(try now.hasPrefix("tiny.gguf-") && now == name(folder["tiny.gguf"]))
        #expect(try now != name(folder["tiny.gguf"], GGUFConversion.version - 1))
        let first = try split(folder["tiny.gguf"], into: folder.path), parts = try name(first)
        let second = folder["parts-00002-of-00002.gguf"]
        var bytes = try readFile(second)
        bytes[bytes.count - 1] ^= 1
        try writeFileAtomically(bytes, to: second)
        #expect(try name(first) != parts)
    }

    @Test func aDamagedFolderOfTheCacheNamesItsFile() async {
        await #expect(processExitsWith: .success) {
            let folder = try TemporaryFolder(), path = folder["tiny.gguf"], config = GGUFExportTests.config(.llama)
            setenv("NEEDLETAIL_CACHE", folder["cache"], 1)  // of this process alone
            _ = try GGUFExportTests().export(tinyModel(config), config, to: path)
            let made = try ModelReference(path).baseFolder
            let again = try ModelReference(path).baseFolder
            precondition(again == made)
            try writeFileAtomically("{}", to: joinPath(made, "model.safetensors"))
            do {
                _ = try ModelReference(path)
                preconditionFailure("opened")
            } catch let error as UserError {
                let words = "\(path): the folder made of it is damaged; remove \(made) ("
                precondition(error.message.hasPrefix(words), error.message)
            }
        }
    }
}
