// Adapters read as merged tensors, without LibTorch, against the engine's own merging.
import Checkpoints
import Diagnostics
import Formats
import Merging
import ModelFiles
import Models
import Tensors
import TestSupport
import Testing

@Suite struct LowRankReaderTests {
    let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
        for family in TinyFamily.allCases {
            try writeFolder(folder[family.rawValue], family.config, tinyModel(family.config))
        }
        try createDirectories(folder["adapter"])
    }

    /// Writes an adapter with every part moved, and what merge-adapter makes of it.
    private func adapt(_ family: TinyFamily, _ config: AdapterConfig, rows: Int = 0) throws {
        let loaded = try load(folder[family.rawValue])
        try Adapter.attachNew(config, to: loaded, seed: 1)
        loaded.resizeVocabulary(to: rows)
        moveAdapters(loaded, config)
        try Adapter.write(loaded, config, to: folder["adapter"])
        let again = try load(folder["adapter"], base: folder[family.rawValue])
        try again.writeMerged(to: folder["merged"], .float32)
    }

    private func read<Element: TensorElement & FloatingPoint>(
        _ count: Int, blocks: Int, zero: Element, _ body: (Range<Int>, UnsafeMutablePointer<Element>) throws -> Void
    ) rethrows -> [Element] {
        var values = [Element](repeating: zero, count: count)
        try values.withUnsafeMutableBufferPointer { buffer in
            for start in stride(from: 0, to: count, by: blocks) {
                try body(start..<min(start + blocks, count), buffer.baseAddress! + start)
            }
        }
        return values
    }

    /// Every tensor, in blocks that end within rows, in whole rows, and at once.
    private func expectMerged(_ family: TinyFamily) throws {
        let tensors = try AdaptedTensors(
            base: SafetensorsFolder(folder: folder[family.rawValue]), adapterFolder: folder["adapter"])
        let merged = try SafetensorsFile(path: joinPath(folder["merged"], "model.safetensors"))
        for info in merged.tensors {
            let wanted = try merged.tensor(info.name).values(Float.self)
            let reader = try tensors.reader(info.name)
            #expect(reader.shape == info.shape, "\(info.name)")
            for blocks in [37, info.shape.last!, wanted.count] {
                let found = try read(wanted.count, blocks: blocks, zero: Float.nan) { try reader.read($0, into: $1) }
                #expect(zip(found, wanted).allSatisfy { abs($0 - $1) <= 1e-6 }, "\(info.name), blocks of \(blocks)")
            }
            let wide = try read(wanted.count, blocks: 41, zero: Double.nan) { try reader.read($0, into: $1) }
            #expect(zip(wide, wanted).allSatisfy { abs($0 - Double($1)) <= 1e-6 }, "\(info.name) in 64 bits")
        }
    }

    @Test(arguments: AdapterKind.allCases, TinyFamily.llamas)
    func isWhatMergeAdapterWrites(_ kind: AdapterKind, _ family: TinyFamily) throws {
        try adapt(family, kind.config(saved: family == .qwen2 ? ["embed_tokens"] : ["lm_head"]))
        try expectMerged(family)
        let tensors = try AdaptedTensors(
            base: SafetensorsFolder(folder: folder[family.rawValue]), adapterFolder: folder["adapter"])
        #expect(tensors.vocabularySize == nil)
    }

    /// Maps that lie transposed take the transposed product; DoRA's norms would run down their columns.
    @Test(arguments: AdapterKind.allCases) func isWhatMergeAdapterWritesForGPT2(_ kind: AdapterKind) throws {
        try adapt(.gpt2, kind.config(targets: [], saved: ["wte"]))
        if !kind.config().hasMagnitude { return try expectMerged(.gpt2) }
        let error = #expect(throws: UserError.self) { try expectMerged(.gpt2) }
        #expect(error?.message.hasSuffix("needletail merge-adapter it first") == true)
    }

    /// PEFT's name of the output table is another one than the folder's.
    @Test func headsOfNeoX() throws {
        try adapt(.gptNeoX, AdapterKind.lora.config(targets: [], saved: ["embed_out"]))
        let file = try SafetensorsFile(path: joinPath(folder["adapter"], "adapter_model.safetensors"))
        #expect(file["base_model.model.lm_head.weight"] != nil)
        let config = try readJSONFile(joinPath(folder["adapter"], "adapter_config.json"))
        #expect(config["modules_to_save"] == ["lm_head"])
        try expectMerged(.gptNeoX)
    }

    @Test func addedTokensGrowBothTables() throws {
        try adapt(.llama, AdapterKind.lora.config(saved: ["embed_tokens"]), rows: 67)
        try expectMerged(.llama)
        let tensors = try AdaptedTensors(
            base: SafetensorsFolder(folder: folder["llama"]), adapterFolder: folder["adapter"])
        #expect(tensors.vocabularySize == 67)
    }

    @Test func anAdapterOfAnotherModelIsRefused() throws {
        try adapt(.llama, AdapterKind.lora.config(targets: ["o_proj"]))
        #expect(throws: UserError.self) {
            try AdaptedTensors(base: SafetensorsFolder(folder: folder["mistral"]), adapterFolder: folder["adapter"])
        }
        var json = try readJSONFile(joinPath(folder["adapter"], "adapter_config.json"))
        json = json.changing(["target_modules": ["o_proj", "q_proj"]])
        try writeFileAtomically(json.serialized(), to: joinPath(folder["adapter"], "adapter_config.json"))
        #expect(throws: UserError.self) {
            try AdaptedTensors(base: SafetensorsFolder(folder: folder["llama"]), adapterFolder: folder["adapter"])
        }
    }
}
