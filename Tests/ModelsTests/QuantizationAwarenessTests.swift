// Quantization-aware training: products see what a GGUF file would hold, gradients go to the numbers behind it.
import Formats
import Layers
import ModelFiles
import Models
import Optimizers
import Tensors
import TestSupport
import Testing

@Suite struct QuantizationAwarenessTests {
    /// What products see is what the exported file holds, to the last bit; also where rows are no whole blocks (48 columns).
    @Test(arguments: [(TinyFamily.llama, GGMLType.q4_0), (.qwen2, .q8_0), (.gpt2, .q4_0), (.llama, .q4_K)])
    func productsSeeWhatExportWrites(_ family: TinyFamily, _ type: GGMLType) throws {
        let folder = try TemporaryFolder(), config = textConfig(family)
        try writeTextFolder(folder["hf"], config, tinyModel(config))
        let loaded = try LoadedModel(ModelReference(folder["hf"]), dtype: .float32, trainsAll: true)
        let ids = someIDs(17, seed: 3, vocabulary: 268), exact = loaded.model.allLogits(ids)
        let weights = try load(folder["hf"]).floatsByName
        let plan = try GGUFExport(config: config, file: "config.json", tokenizer: tinyTokenizer(), name: "tiny")
        _ = try plan.write(to: folder["x.gguf"], type, threads: 2, values: { weights[$0]!() }, progress: { _ in })
        loaded.roundWeights(to: type)
        let seen = loaded.model.allLogits(ids)
        let file = try LoadedModel(GGUFModel(path: folder["x.gguf"])).model.allLogits(ids)
        #expect(relativeDifference(seen, file) < 1e-6 && relativeDifference(seen, exact) > 1e-4)
        // What is saved are the numbers themselves.
        for (name, parameter) in loaded.model.namedParameters() {
            #expect(parameter.value.detached().values(Float.self) == weights[name]!(), "\(name)")
            break
        }
    }

    @Test func gradientsGoStraightThrough() {
        let parameter = Parameter(normal64([5, 64], seed: 1).to(.float32))
        parameter.isTrained = true
        parameter.showRounded { rounded($0, to: .q4_0) }
        let x = normal64([3, 64], seed: 2).to(.float32), dy = normal64([3, 5], seed: 3).to(.float32)
        let seen = parameter.copy(in: .float32)!
        let y = linear(x, parameter.value, copy: seen)
        #expect(relativeDifference(y, linear(x, rounded(parameter.value.detached(), to: .q4_0))) == 0)
        y.backward(gradient: dy)
        #expect(relativeDifference(parameter.value.gradient!, dy.transpose(0, 1).matmul(x)) < 1e-6)

        // An update changes what is seen; until then it is made once.
        #expect(parameter.copy(in: .float32)!.values(Float.self) == seen.values(Float.self))
        let optimizer = AdamW([("w", parameter)], .init())
        _ = optimizer.step(learningRate: 0.5, gradientScale: 1)
        let after = parameter.copy(in: .bfloat16)!
        #expect(after.dtype == .bfloat16)
        #expect(relativeDifference(after, rounded(parameter.value.detached(), to: .q4_0).to(.bfloat16)) == 0)
        #expect(relativeDifference(after.to(.float32), seen) > 0.1)
    }

    @Test(arguments: GGMLType.writable) func roundingIsThatOfTheBlocks(_ type: GGMLType) {
        let matrix = normal64([300, 256], seed: 4).to(.float32), values = matrix.values(Float.self)
        var blocks = [UInt8](repeating: 0, count: type.byteCount(of: values.count))
        values.withUnsafeBufferPointer { values in
            blocks.withUnsafeMutableBytes { type.quantize(values, into: $0.baseAddress!) }
        }
        let result = rounded(matrix, to: type).values(Float.self)
        // Each row by itself, and all of them on several threads, give the blocks of the whole.
        let rows = (0..<300).flatMap { rounded(matrix.narrow(0, $0, 1), to: type).values(Float.self) }
        #expect(result == rows)
        let off = zip(result, values).map { abs($0 - $1) }.max()!
        let limits: [GGMLType: Float] = [
            .f32: 0, .f16: 0.002, .bf16: 0.02, .q8_0: 0.02, .q4_0: 0.4, .q4_K: 0.4, .q5_K: 0.2, .q6_K: 0.1,
        ]
        #expect(off <= limits[type]! && (type == .f32 || off > 0), "\(type): \(off)")
        if type == .q8_0 || type == .q4_0 {
            #expect(rounded(rounded(matrix, to: type), to: type).values(Float.self) == result)
        }
    }
}
