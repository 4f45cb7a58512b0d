// What a training step takes of memory: nothing new after the first ones. In processes of their own, since the heap is the
// process's.
import Formats
import Layers
import Models
import Optimizers
import RandomStreams
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
                    parameters = attachAdapters(to: model, hasMagnitude: true)
                    for (i, (_, linear)) in model.blockLinears.enumerated() {
                        linear.adapter?.dropout = 0.3
                        linear.adapter?.dropoutStream = RandomStream(seed: 4, UInt64(i))
                    }
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
}
