// Training on the fused kernels: that they are what runs, and that they train as their scalar twins and as fp32 do.
// In processes of their own: counters are the process's.
import Formats
import Kernels
import Layers
import Models
import Optimizers
import Tensors
import TestSupport
import Testing

@Suite struct FusedPathTests {
    @Test func noOperationFallsBack() async {
        await #expect(processExitsWith: .success) {
            for family in TinyFamily.allCases {
                for (dtype, kind) in [(DType.float32, 0), (.bfloat16, 0), (.bfloat16, 1), (.float32, 2), (.float64, 2)]
                {
                    let before = Engine.fusedCalls
                    let model = try tinyModel(family.config, dtype == .bfloat16 ? .float32 : dtype)
                    model.computeDType = dtype
                    if kind == 0 {
                        _ = model.trainAll()
                    } else {
                        _ = attachAdapters(to: model, hasMagnitude: kind == 2)
                    }
                    model.documentLoss([someIDs(9, seed: 1), someIDs(4, seed: 2)]).backward()
                    let after = Engine.fusedCalls
                    // Two blocks: two norms, rotation (not GPT-2's), attention, gate (GPT-NeoX's is ATen's); the last norm
                    // and the loss.
                    let least = 2 * ([.gpt2, .gptNeoX].contains(family) ? 4 : 5) + 2
                    precondition(after.fused - before.fused >= least, "\(family) \(dtype): \(before) \(after)")
                    precondition(after.fallback == before.fallback, "\(family) \(dtype) fell back")
                }
            }
            // Control: there is no kernel for fp16, and the counter says so.
            _ = rmsNorm(.zeros([2, 8], .float16), .zeros([8], .float16), epsilon: 1e-5)
            precondition(Engine.fusedCalls.fallback == 1)
        }
    }

    /// Embeddings' norm, two layers of attention and two norms; its GELU is ATen's.
    @Test func theEncoderDoesNotFallBack() async {
        await #expect(processExitsWith: .success) {
            let goldens = try golden("encoder_goldens.json", besideFile: #filePath)
            let config = try BERTConfig(
                goldens["cases"]!["bert"]!["config"]!, file: "config.json", hasPooler: false)
            for dtype in [DType.float32, .bfloat16, .float64] {
                let before = Engine.fusedCalls
                let model = BERT(config, dtype, on: .cpu)
                _ = model.hiddenStates(someIDs(9, seed: 1), starts: [0, 5, 9])
                let after = Engine.fusedCalls
                precondition(after.fused - before.fused >= 1 + 3 * config.layers, "\(dtype): \(before) \(after)")
                precondition(after.fallback == before.fallback, "\(dtype) fell back")
            }
        }
    }

    /// Prompts, then remainders behind them, then tokens: a step is two blocks of two norms, rotation, attention and gate, and
    /// the last norm.
    @Test func attentionBehindAPastDoesNotFallBack() async {
        await #expect(processExitsWith: .success) {
            for family in [TinyFamily.mistral, .gemma2] {
                for dtype in [DType.float32, .bfloat16, .float64] {
                    let scorer = try tinyModel(family.config, dtype).makePlainScorer()
                    let cache = scorer.makeCache(sequences: 2, capacity: 40), before = Engine.fusedCalls
                    for lengths in [[9, 4], [20, 1], [1, 1]] {
                        let tokens = lengths.map { someIDs($0, seed: 1) }
                        _ = scorer.scores(after: tokens, rows: [0, 1], cache)
                    }
                    let after = Engine.fusedCalls
                    precondition(after.fused - before.fused >= 3 * 11, "\(family) \(dtype): \(before) \(after)")
                    precondition(after.fallback == before.fallback, "\(family) \(dtype) fell back")
                }
            }
        }
    }

    /// Losses of 200 steps on three short documents.
    private static func losses(_ dtype: DType) throws -> [Double] {
        let model = try tinyModel(TinyFamily.llama.config, scale: 0.2).trainAll()
        model.computeDType = dtype
        let optimizer = AdamW(model.namedParameters(), .init())
        return (0..<200).map { step in
            let documents = (0..<3).map { someIDs(12 + $0, seed: UInt64($0)) }
            let loss = model.documentLoss(documents, factor: 1 / 36)
            loss.backward()
            optimizer.step(learningRate: 2e-3 * (1 - Double(step) / 200), gradientScale: 1)
            optimizer.zeroGradients()
            return loss.item
        }
    }

    /// With the kernels and without them, by LibTorch's operations: every family, all weights, LoRA and DoRA.
    @Test func everyFamilyTrainsAsByPlainOperations() async {
        await #expect(processExitsWith: .success) {
            for family in TinyFamily.allCases {
                for kind in 0..<3 {
                    func losses(_ kernels: Bool) throws -> [Double] {
                        Engine.setKernels(kernels)
                        let model = try tinyModel(family.config, scale: 0.2)
                        let parameters =
                            kind == 0
                            ? model.trainAll().namedParameters() : attachAdapters(to: model, hasMagnitude: kind == 2)
                        let optimizer = AdamW(parameters, .init())
                        return (0..<20).map { _ in
                            let loss = model.documentLoss([someIDs(9, seed: 1), someIDs(14, seed: 2)], factor: 1 / 21)
                            loss.backward()
                            optimizer.step(learningRate: 2e-3, gradientScale: 1)
                            optimizer.zeroGradients()
                            return loss.item
                        }
                    }
                    let before = Engine.fusedCalls
                    let plain = try losses(false)
                    precondition(Engine.fusedCalls.fused == before.fused, "\(family) took a kernel")
                    let fused = try losses(true)
                    let worst = zip(fused, plain).map { abs($0 - $1) / $1 }.max()!
                    precondition(worst < 1e-4 && fused != plain, "\(family), kind \(kind): \(worst)")
                    precondition(fused.last! < fused[0], "\(family), kind \(kind): \(fused)")
                }
            }
        }
    }

    @Test func twoHundredStepsAreThoseOfPlainOperations() async {
        await #expect(processExitsWith: .success) {
            let fused = try FusedPathTests.losses(.float32)
            Engine.setKernels(false)
            let plain = try FusedPathTests.losses(.float32)
            let worst = zip(fused, plain).map { abs($0 - $1) / $1 }.max()!
            precondition(worst < 1e-3 && fused != plain, "\(worst)")
        }
    }

    @Test func twoHundredStepsAreThoseOfTheTwins() async {
        await #expect(processExitsWith: .success) {
            let fused = try FusedPathTests.losses(.float32)
            nt_set_isa_limit(0)
            let twins = try FusedPathTests.losses(.float32)
            let worst = zip(fused, twins).map { abs($0 - $1) / $1 }.max()!
            precondition(worst < 1e-3 && fused != twins, "\(worst)")
            precondition(twins.last! < 0.5 * twins[0], "it learns: \(twins[0]) to \(twins.last!)")
        }
    }

    @Test func bf16EndsWhereFP32Does() async {
        await #expect(processExitsWith: .success) {
            let exact = try FusedPathTests.losses(.float32), rounded = try FusedPathTests.losses(.bfloat16)
            precondition(abs(rounded.last! / exact.last! - 1) < 0.01, "\(rounded.last!) against \(exact.last!)")
            let again = try FusedPathTests.losses(.bfloat16)
            precondition(again == rounded, "twice the same bits")
        }
    }
}
