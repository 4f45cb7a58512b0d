// What a training step takes of memory: nothing new after the first ones, and less where activations are made again. In
// processes of their own, since the heap is the process's.
import Formats
import Layers
import Models
import Optimizers
import Tensors
import TestSupport
import Testing

@Suite struct StepMemoryTests {
    private static func model() throws -> any CausalLanguageModel {
        try tinyModel(TinyFamily.llama.config.changing(["num_hidden_layers": 8])).trainAll()
    }

    private static let documents = (0..<4).map { someIDs(128, seed: UInt64($0)) }

    /// Steps take the memory of the steps before.
    @Test func laterStepsTakeNothingNew() async {
        await #expect(processExitsWith: .success) {
            Engine.prepareForTraining()
            Engine.threads = 1
            let model = try StepMemoryTests.model(), optimizer = AdamW(model.namedParameters(), .init())
            /// Bytes that the heap took in some steps.
            func taken(_ steps: Int, _ documents: [[Int32]]) -> Int {
                let before = Engine.heap.taken
                for _ in 0..<steps {
                    model.documentLoss(documents, factor: 1 / 508).backward()
                    optimizer.step(learningRate: 1e-3, gradientScale: 1)
                    optimizer.zeroGradients()
                }
                return Engine.heap.taken - before
            }
            // The heap finds its form within some twenty steps.
            _ = taken(30, StepMemoryTests.documents)
            let later = taken(20, StepMemoryTests.documents)
            precondition(later <= 1 << 20, "\(later) bytes in twenty steps")
            // Control: a larger step does.
            let larger = taken(1, Array(repeating: StepMemoryTests.documents, count: 16).flatMap { $0 })
            precondition(larger > 50 << 20, "\(larger) bytes")
        }
    }

    /// The same bits where temporaries are large enough for the kept buffers, several of them in use at once.
    @Test func keptBuffersAreNotSharedWhileInUse() async {
        await #expect(processExitsWith: .success) {
            for isAdapter in [false, true] {
                let model = try StepMemoryTests.model()
                var parameters = model.namedParameters()
                if isAdapter {
                    for (_, parameter) in parameters { parameter.isTrained = false }
                    parameters = attachAdapters(to: model, hasMagnitude: true, dropout: 0.3)
                }
                func gradients(_ recomputation: Recomputation) -> [[Float]] {
                    model.recomputation = recomputation
                    let documents = Array(repeating: StepMemoryTests.documents, count: 4).flatMap { $0 }
                    model.documentLoss(documents, factor: 1 / 2032).backward()
                    return takeGradients(parameters).map { $0.values(Float.self) }
                }
                let kept = gradients(.init())
                precondition(gradients(.init(isSelective: true)) == kept, "selective, adapters: \(isAdapter)")
                precondition(gradients(.init(stride: 1, isSelective: true)) == kept, "blocks, adapters: \(isAdapter)")
            }
        }
    }

    /// Between forward and backward: selective checkpointing keeps no normed rows and no gate's output, blocks that are run
    /// again only their input, in bf16 half of it.
    @Test func checkpointingKeepsLess() async {
        await #expect(processExitsWith: .success) {
            Engine.prepareForTraining()
            Engine.threads = 1
            let model = try StepMemoryTests.model(), rows = 4 * 128
            let D = model.tokenTable.weight.shape[1], layers = 8
            let F = model.blockLinears.first { $0.name.hasSuffix("gate_proj") }!.linear.outFeatures
            func kept(_ recomputation: Recomputation) -> Int {
                model.recomputation = recomputation
                Engine.releaseFreeMemory()
                let before = Engine.heap.used
                let loss = model.documentLoss(StepMemoryTests.documents, factor: 1 / 508)
                Engine.releaseFreeMemory()  // buffers of temporaries, which nothing holds
                let bytes = Engine.heap.used - before
                loss.backward()
                for (_, parameter) in model.namedParameters() { parameter.value.clearGradient() }
                return bytes
            }
            _ = kept(.init())
            let all = kept(.init()), selective = kept(.init(isSelective: true)), blocks = kept(.init(stride: 1))
            let narrow = kept(.init(stride: 1, keepsBFloat16: true))
            let madeAgain = 4 * rows * layers * (2 * D + F)
            precondition(abs(all - selective - madeAgain) < madeAgain / 20, "\(all) - \(selective), not \(madeAgain)")
            precondition(2 * blocks < all, "\(blocks) of \(all)")
            let half = 2 * rows * D * (layers - 1)
            precondition(abs(blocks - narrow - half) < half / 10, "\(blocks) - \(narrow), not \(half)")
        }
    }
}
