// Models whose linear maps are packed: equal to dense models of the decoded numbers, in scores, training and files.
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

@Suite struct QuantizedBaseTests {
    static let forms: [BaseQuantization] = [.nf4, .int8]

    let folder: TemporaryFolder
    let ids = someIDs(12, seed: 3)

    init() throws {
        folder = try TemporaryFolder()
        for family in TinyFamily.allCases {
            try writeFolder(folder[family.rawValue], family.config, tinyModel(family.config))
        }
    }

    private func quantised(
        _ family: TinyFamily, _ form: BaseQuantization, _ dtype: DType = .float32, base: String? = nil
    ) throws -> LoadedModel {
        try LoadedModel(ModelReference(base ?? folder[family.rawValue]), dtype: dtype, quantization: form)
    }

    /// A model of plain tensors that hold the numbers of a packed one.
    private func decoded(_ packed: LoadedModel, _ family: TinyFamily, _ name: String) throws -> LoadedModel {
        let tensors = packed.model.namedParameters().map { SafetensorsWriter.Tensor($0.name, $0.parameter, .float32) }
        try writeFolder(folder[name], family.config, tensors)
        return try load(folder[name])
    }

    @Test(arguments: TinyFamily.allCases, [0, 1]) func scoresOfTheDecodedNumbers(_ family: TinyFamily, _ k: Int) throws
    {
        let packed = try quantised(family, Self.forms[k])
        let linears = packed.model.blockLinears
        #expect(!linears.isEmpty && linears.allSatisfy { $0.linear.weight.packed != nil })
        let others = packed.model.namedParameters().filter { $0.parameter.packed == nil }
        let names = Set(linears.map { $0.name + ".weight" })
        #expect(others.count + linears.count == packed.model.namedParameters().count)
        #expect(others.allSatisfy { !names.contains($0.name) })
        let dense = try decoded(packed, family, "decoded"), whole = try load(folder[family.rawValue])
        let scores = packed.model.allLogits(ids)
        #expect(relativeDifference(scores, dense.model.allLogits(ids)) < 1e-5)
        let off = relativeDifference(scores, whole.model.allLogits(ids))
        #expect(off > 1e-4 && off < (k == 0 ? 0.8 : 0.05), "\(off)")
    }

    /// Ten steps of LoRA, DoRA and rsLoRA: the same losses and adapters as on the dense model.
    @Test(arguments: TinyFamily.allCases, AdapterKind.allCases)
    func trainingIsThatOnTheDecodedNumbers(_ family: TinyFamily, _ kind: AdapterKind) throws {
        for form in Self.forms {
            let packed = try quantised(family, form), dense = try decoded(packed, family, "\(kind) \(form)")
            let (a, b) = (try losses(packed, kind, family), try losses(dense, kind, family))
            #expect(a.last! < 0.95 * a[0])
            for (x, y) in zip(a, b) { #expect(abs(x - y) < 1e-4 * y, "\(family), \(kind), \(form)") }
        }
    }

    private func losses(_ loaded: LoadedModel, _ kind: AdapterKind, _ family: TinyFamily) throws -> [Double] {
        let config = kind.config(family)
        try Adapter.attachNew(config, to: loaded, seed: 1)
        let parameters = Adapter.parts(of: loaded, config), documents = [ids, someIDs(7, seed: 4)]
        for (_, parameter) in parameters { parameter.isTrained = true }
        let optimizer = AdamW(parameters, .init())
        return (0..<10).map { _ in
            let loss = loaded.model.documentLoss(documents, factor: 1.0 / 17)
            loss.backward()
            optimizer.step(learningRate: 0.02, gradientScale: 1)
            optimizer.zeroGradients()
            return loss.item
        }
    }

    /// Blocks that run twice give the gradients of blocks that run once.
    @Test func recomputationIsBitEqual() throws {
        let kind = AdapterKind.lora, loaded = try quantised(.llama, .nf4)
        try Adapter.attachNew(kind.config(.llama), to: loaded, seed: 1)
        let parts = Adapter.parts(of: loaded, kind.config(.llama))
        for (_, parameter) in parts { parameter.isTrained = true }
        func gradients() -> [[Float]] {
            loaded.model.documentLoss([ids]).backward()
            return takeGradients(parts).map { $0.values(Float.self) }
        }
        let plain = gradients()
        loaded.model.recomputation = .init(stride: 1)
        #expect(gradients() == plain)
    }

    /// Merged with the quantised numbers, a model is what was trained; merged with the base, it is not.
    @Test(arguments: AdapterKind.allCases) func mergedIntoTheQuantisedNumbers(_ kind: AdapterKind) throws {
        let config = kind.config(.llama)
        let trained = try quantised(.llama, .nf4)
        try Adapter.attachNew(config, to: trained, seed: 1)
        moveAdapters(trained, config)
        try createDirectories(folder["adapter"])
        try Adapter.write(trained, config, to: folder["adapter"])
        let reference = try ModelReference(folder["adapter"], base: folder["llama"])
        let scores = trained.model.allLogits(ids)
        for (form, largest) in [(BaseQuantization?.some(.nf4), 1e-5), (nil, 0.9)] {
            let name = form == nil ? "onto base" : "onto quantised"
            let loaded = try LoadedModel(reference, dtype: .float32, quantization: form)
            if form != nil { #expect(relativeDifference(loaded.model.allLogits(ids), scores) < 1e-6) }
            try createDirectories(folder[name])
            try loaded.writeMerged(to: folder[name], .float32)
            let off = relativeDifference(try load(folder[name]).model.allLogits(ids), scores)
            #expect(off < largest && (form != nil || off > 1e-4), "\(name): \(off)")
        }
    }

    /// A bf16 folder kept as it is, computed in fp32: bit for bit the model that was widened.
    @Test(arguments: TinyFamily.allCases) func storedHalvesAreExact(_ family: TinyFamily) throws {
        for (name, dtype) in [("bf16", DType.bfloat16), ("fp16", .float16)] {
            let path = folder["\(family)-\(name)"]
            try writeFolder(path, family.config, fileTensors(of: tinyModel(family.config), dtype))
            let packed = try quantised(family, .asStored, base: path), dense = try load(path)
            #expect(packed.model.blockLinears.allSatisfy { $0.linear.weight.packed != nil })
            #expect(packed.model.allLogits(ids).values(Float.self) == dense.model.allLogits(ids).values(Float.self))
        }
    }

    @Test func whatIsRefused() throws {
        func message(_ body: () throws -> LoadedModel) -> String {
            do {
                _ = try body()
                return "loaded"
            } catch { return "\(error)".replacingOccurrences(folder.path, "") }
        }
        #expect(
            message { try quantised(.llama, .asStored) }
                == "/llama: its weights are stored as in float32 or wider, so as_stored would save nothing; use nf4 or int8"
        )
        for (number, form, rest) in [
            (Double.nan, BaseQuantization.nf4, ""), (.infinity, .int8, " or beyond 8 million"),
            (1e8, .int8, " or beyond 8 million"),
        ] {
            let model = try tinyModel(TinyFamily.llama.config)
            let weight = model.blockLinears[1].linear.weight.value
            weight.narrow(0, 0, 1).copyInPlace(.full([1, 32], number))
            try writeFolder(folder["spoilt"], TinyFamily.llama.config, model)
            #expect(
                message { try quantised(.llama, form, base: folder["spoilt"]) }
                    == "/spoilt: tensor \(model.blockLinears[1].name).weight cannot be quantised: a number in it is not finite"
                    + rest)
        }
    }

    /// Layer by layer, since the fused decoder does not read packed weights with adapters.
    @Test func generationDecodesThem() throws {
        let packed = try quantised(.llama, .nf4), dense = try decoded(packed, .llama, "dense")
        let (a, b) = (packed.model.makeScorer(), dense.model.makePlainScorer())
        let caches = [a.makeCache(sequences: 1, capacity: 20), b.makeCache(sequences: 1, capacity: 20)]
        for token in ids {
            let scores = [
                a.scores(after: [[token]], rows: [0], caches[0]), b.scores(after: [[token]], rows: [0], caches[1]),
            ]
            .map { $0.withRow(0) { Tensor(Array($0)) } }
            #expect(relativeDifference(scores[0], scores[1]) < 1e-5)
        }
        #expect(a.fusedSteps == 0)
    }
}

extension String {
    fileprivate func replacingOccurrences(_ part: String, _ other: String) -> String {
        split(separator: part, omittingEmptySubsequences: false).joined(separator: other)
    }

    /// Each matrix leaves memory as it is packed, though freed memory stays with a process that trains.
    @Test func packedBasesAreMadeInLittleMemory() async {
        await #expect(processExitsWith: .success) {
            func peak() throws -> Int {
                let line = try readTextFile("/proc/self/status").split(separator: "\n").first { $0.hasPrefix("VmHWM") }
                return Int(line!.split(whereSeparator: { !$0.isNumber })[0])! << 10
            }
            Engine.prepareForTraining()
            let folder = try TemporaryFolder()
            let config = TinyFamily.llama.config.changing([
                "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 12,
                "num_key_value_heads": 4,
            ])
            try writeFileAtomically(config.serialized(), to: folder["config.json"])
            let before = try peak()
            let loaded = try LoadedModel(
                configuration: folder["config.json"], dtype: .float32, trainsAll: false, randomSeed: 1,
                quantization: .nf4)
            let grown = try peak() - before, whole = 4 * loaded.shape.parameterCount
            precondition(grown < whole / 2, "\(grown >> 20) of \(whole >> 20) MiB")
        }
    }
}
