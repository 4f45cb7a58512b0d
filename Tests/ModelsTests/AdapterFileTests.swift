// Adapters in PEFT's format: round trip, merging, and what is refused.
import Checkpoints
import Diagnostics
import Formats
import Layers
import ModelFiles
import Models
import Tensors
import TestSupport
import Testing

/// The kinds of adapter under test.
enum AdapterKind: String, CaseIterable, Sendable {
    case lora, rslora, dora, rsdora

    func config(_ family: TinyFamily) -> AdapterConfig { config(targets: family.someMaps) }

    func config(targets: [String] = TinyFamily.llama.someMaps, saved: [String] = []) -> AdapterConfig {
        AdapterConfig(
            rank: 3, alpha: 5, dropout: 0, scaling: self == .rslora || self == .rsdora ? .rankStabilized : .standard,
            hasMagnitude: self == .dora || self == .rsdora, targets: targets, savedModules: saved, baseModel: "")
    }
}

/// Gives every tensor of the adapters, and the tables beside them, a value of its own.
func moveAdapters(_ loaded: LoadedModel, _ config: AdapterConfig) {
    for (k, part) in Adapter.parts(of: loaded, config).enumerated() {
        let value = part.parameter.value
        if part.name.hasSuffix("magnitude_vector") {
            value.copyInPlace(value.detached() + filled(value.shape, 100 + k, scale: 0.3))
        } else if part.name.contains("lora_") {
            value.copyInPlace(filled(value.shape, 100 + k, scale: 0.5))
        } else {
            value.copyInPlace(value.detached() * 1.25)
        }
    }
}

@Suite struct AdapterFileTests {
    let folder: TemporaryFolder
    let ids = someIDs(12, seed: 3)

    init() throws {
        folder = try TemporaryFolder()
        for family in TinyFamily.allCases {
            try writeFolder(folder[family.rawValue], family.config, tinyModel(family.config))
        }
        try createDirectories(folder["adapter"])
    }

    private func adapted(_ family: TinyFamily, _ config: AdapterConfig) throws -> LoadedModel {
        let loaded = try load(folder[family.rawValue])
        try Adapter.attachNew(config, to: loaded, seed: 1)
        return loaded
    }

    @Test(arguments: AdapterKind.allCases, TinyFamily.allCases)
    func theFirstOutputIsTheBases(_ kind: AdapterKind, _ family: TinyFamily) throws {
        let base = try load(folder[family.rawValue]).model.allLogits(ids)
        let loaded = try adapted(family, kind.config(family))
        #expect(loaded.model.allLogits(ids).values(Float.self) == base.values(Float.self))
        // ... and not because the adapters are not there.
        moveAdapters(loaded, kind.config(family))
        #expect(relativeDifference(loaded.model.allLogits(ids), base) > 0.01)
    }

    @Test(arguments: AdapterKind.allCases, TinyFamily.allCases)
    func filesGiveTheSameModel(_ kind: AdapterKind, _ family: TinyFamily) throws {
        let config = kind.config(targets: family.someMaps, saved: [family.tokenModule, "lm_head"]),
            loaded = try adapted(family, config)
        moveAdapters(loaded, config)
        try Adapter.write(loaded, config, to: folder["adapter"])
        let again = try load(folder["adapter"], base: folder[family.rawValue])
        #expect(again.model.allLogits(ids).values(Float.self) == loaded.model.allLogits(ids).values(Float.self))
        #expect(try Adapter(folder: folder["adapter"]).config == config)
    }

    /// With their biases, and modules inside of them; GPT-2's matrices lie transposed in files.
    @Test(arguments: [
        (TinyFamily.gpt2, "c_attn", ["ln_f", "mlp"], 2 + 2 * 4), (.qwen2, "v_proj", ["q_proj", "norm"], 2 * 2 + 1),
        (.llama, "q_proj", ["layers.1.mlp"], 3),
    ])
    func savedModulesAreWhole(_ family: TinyFamily, _ target: String, _ modules: [String], _ count: Int) throws {
        let config = AdapterKind.lora.config(targets: [target], saved: modules), loaded = try adapted(family, config)
        moveAdapters(loaded, config)
        try Adapter.write(loaded, config, to: folder["adapter"])
        let file = try SafetensorsFile(path: joinPath(folder["adapter"], AdapterFiles.weightsName))
        #expect(file.tensors.count { !$0.name.contains(".lora_") } == count)
        let again = try load(folder["adapter"], base: folder[family.rawValue])
        #expect(again.model.allLogits(ids).values(Float.self) == loaded.model.allLogits(ids).values(Float.self))
        let bare = try load(folder[family.rawValue]).model.allLogits(ids)
        #expect(relativeDifference(again.model.allLogits(ids), bare) > 0.01)
    }

    /// PEFT puts the value right by the base's kind of map; so it may say anything, and is written as PEFT would.
    @Test(arguments: [TinyFamily.llama, .gpt2]) func whereMapsLieTransposedFollowsFromTheBase(_ family: TinyFamily)
        throws
    {
        let config = AdapterKind.lora.config(family), loaded = try adapted(family, config)
        moveAdapters(loaded, config)
        try Adapter.write(loaded, config, to: folder["adapter"])
        let file = joinPath(folder["adapter"], AdapterFiles.configName), json = try readJSONFile(file)
        #expect(json["fan_in_fan_out"]?.bool == (family == .gpt2))
        try writeFileAtomically(json.changing(["fan_in_fan_out": .init(family != .gpt2)]).serialized(), to: file)
        let again = try load(folder["adapter"], base: folder[family.rawValue])
        #expect(again.model.allLogits(ids).values(Float.self) == loaded.model.allLogits(ids).values(Float.self))
    }

    @Test func namesAreThoseOfPeft() throws {
        let config = AdapterKind.dora.config(targets: ["q_proj"], saved: ["lm_head"]),
            loaded = try adapted(.llama, config)
        try Adapter.write(loaded, config, to: folder["adapter"])
        let file = try SafetensorsFile(path: joinPath(folder["adapter"], "adapter_model.safetensors"))
        let expected = (0..<2).flatMap { layer in
            ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"].map {
                "base_model.model.model.layers.\(layer).self_attn.q_proj.\($0)"
            }
        }
        #expect(Set(file.tensors.map(\.name)) == Set(expected + ["base_model.model.lm_head.weight"]))
    }

    /// PEFT parts tied tables once one is saved, so the head is saved with them and found again.
    @Test(arguments: [TinyFamily.qwen2, .gpt2]) func tiedTablesAreSavedTwice(_ family: TinyFamily) throws {
        let table = family.tokenModule
        let config = AdapterKind.lora.config(targets: [family.someMaps[0]], saved: [table])
        let loaded = try adapted(family, config)
        moveAdapters(loaded, config)
        try Adapter.write(loaded, config, to: folder["adapter"])
        let file = try SafetensorsFile(path: joinPath(folder["adapter"], AdapterFiles.weightsName))
        let tables = ["lm_head.weight", family == .gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight"]
            .map { "base_model.model." + $0 }
        let values = try tables.map { try file.tensor($0).values(Float.self) }
        #expect(values[0] == values[1])
        #expect(try Adapter(folder: folder["adapter"]).config.savedModules == [table, "lm_head"])
        let again = try load(folder["adapter"], base: folder[family.rawValue])
        #expect(again.model.allLogits(ids).values(Float.self) == loaded.model.allLogits(ids).values(Float.self))
    }

    @Test(arguments: AdapterKind.allCases, TinyFamily.allCases)
    func mergedWeightsActAlike(_ kind: AdapterKind, _ family: TinyFamily) throws {
        let config = kind.config(targets: []), loaded = try adapted(family, config)
        moveAdapters(loaded, config)
        try loaded.writeMerged(to: folder["merged"], .float32)
        let merged = try load(folder["merged"])
        #expect(merged.model.blockLinears.allSatisfy { $0.linear.adapter == nil })
        #expect(relativeDifference(merged.model.allLogits(ids), loaded.model.allLogits(ids)) < 1e-5)
    }

    @Test func oneOutOfManyTargetsIsFound() throws {
        let loaded = try load(folder["llama"])
        #expect(
            try Adapter.attachNew(AdapterKind.lora.config(targets: ["q_proj", "o_proj"]), to: loaded, seed: 1) == 4)
        #expect(
            try Adapter.attachNew(AdapterKind.lora.config(targets: ["layers.1.mlp.up_proj"]), to: loaded, seed: 1) == 1)
        #expect(try Adapter.attachNew(AdapterKind.lora.config(targets: []), to: loaded, seed: 1) == 14)
        #expect(throws: UserError("adapter.targets: the model has no linear map q_pro; did you mean q_proj?", .usage)) {
            try Adapter.attachNew(AdapterKind.lora.config(targets: ["q_proj", "q_pro"]), to: loaded, seed: 1)
        }
    }

    @Test func adaptersDrawFromTheSeed() throws {
        func firstValues(_ seed: UInt64) throws -> [[Float]] {
            let loaded = try load(folder["llama"])
            try Adapter.attachNew(AdapterKind.lora.config(targets: []), to: loaded, seed: seed)
            return loaded.model.blockLinears.map { $0.linear.adapter!.a.value.values(Float.self) }
        }
        let first = try firstValues(1)
        #expect(try first == firstValues(1))
        #expect(try first != firstValues(2))
        #expect(Set(first.map { $0[0] }).count == first.count)  // each layer its own
        for values in first.prefix(3) { #expect(values.allSatisfy { abs($0) <= 1 / Float(32).squareRoot() }) }
    }

    static let refusedSettings: [(key: String, value: JSONValue?, message: String)] = [
        ("peft_type", "LOHA", "peft_type LOHA is not supported; LORA is"),
        ("peft_type", nil, "no \"peft_type\"; a string is needed"),
        ("r", 0, "\"r\" is 0; a whole number from 1 to 2^30 is needed"),
        ("bias", "all", "\"bias\": \"all\" is not supported"),
        ("lora_bias", true, "\"lora_bias\": true is not supported"),
        ("trainable_token_indices", [5], "\"trainable_token_indices\": [5] is not supported"),
        ("target_modules", [1], "\"target_modules\" must be a list of names; a pattern is not supported"),
        ("lora_alpha", "8", "\"lora_alpha\" is a string; a number is needed"),
    ]

    @Test(arguments: refusedSettings.indices) func settingsThatWouldChangeTheResultAreRefused(_ index: Int) throws {
        let (key, value, message) = Self.refusedSettings[index]
        let config = AdapterKind.lora.config(), loaded = try adapted(.llama, config)
        try Adapter.write(loaded, config, to: folder["adapter"])
        let file = joinPath(folder["adapter"], "adapter_config.json")
        try writeFileAtomically(readJSONFile(file).changing([key: value]).serialized(), to: file)
        #expect(throws: UserError("\(file): \(message)")) { try load(folder["adapter"], base: folder["llama"]) }
    }

    @Test func tensorsThatDoNotFitAreRefused() throws {
        let config = AdapterKind.lora.config(targets: ["q_proj"]), loaded = try adapted(.llama, config)
        let path = joinPath(folder["adapter"], AdapterFiles.weightsName)
        let parts = Adapter.parts(of: loaded, config).map { ($0.name, $0.parameter.value) }
        func message(_ tensors: [(String, Tensor)]) throws -> String {
            try Adapter.write(loaded, config, to: folder["adapter"])
            try SafetensorsWriter.write(path: path, tensors: tensors.map { .init($0.0, $0.1) })
            do {
                _ = try load(folder["adapter"], base: folder["llama"])
                return "loaded"
            } catch let error as UserError {
                return String(error.message.dropFirst(path.count))
            }
        }
        let fit = ": tensors do not fit the base model and adapter_config.json: "
        #expect(try message(parts) == "loaded")
        #expect(try message(Array(parts.dropFirst())) == fit + "missing \(parts[0].0)")
        #expect(
            try message(parts + [("base_model.model.more", .zeros([1]))]) == fit + "unexpected base_model.model.more")
        #expect(
            try message([(parts[0].0, .zeros([2, 32]))] + parts.dropFirst())
                == ": tensor \(parts[0].0) has shape [2, 32], the base model asks for [3, 32]")
    }

    /// PEFT's and torchtune's names.
    @Test(arguments: ["adapter_model.bin", "adapter_model.pt", "adapter_0.pt"])
    func pickledAdaptersAreNotRead(_ name: String) throws {
        let config = AdapterKind.lora.config(), loaded = try adapted(.llama, config)
        try Adapter.write(loaded, config, to: folder["adapter"])
        let weights = joinPath(folder["adapter"], AdapterFiles.weightsName),
            bin = joinPath(folder["adapter"], name)
        try moveFile(weights, to: bin)
        #expect(
            throws: UserError("\(bin): pickle files are never read; save the adapter as safetensors (peft's default)")
        ) {
            try load(folder["adapter"], base: folder["llama"])
        }
    }
}
