// What a training step takes of memory: nothing new after the first, and less where activations are made again. In
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

    private static let documents = (0..<4).map { someIDs(512, seed: UInt64($0)) }

    /// Steps take the memory of the step before: the heap has the size it had after the first two.
    @Test func laterStepsTakeNothingNew() async {
        await #expect(processExitsWith: .success) {
            Engine.prepareForTraining()
            let model = try StepMemoryTests.model(), optimizer = AdamW(model.namedParameters(), .init())
            func step() {
                model.documentLoss(StepMemoryTests.documents, factor: 1 / 2044).backward()
                optimizer.step(learningRate: 1e-3, gradientScale: 1)
                optimizer.zeroGradients()
            }
            let start = Engine.heap.taken
            step()
            step()
            let after = Engine.heap.taken
            precondition(after - start > 10 << 20, "the activations are in it: \(after - start) bytes")
            for _ in 0..<8 { step() }
            let more = Engine.heap.taken - after
            precondition(more <= 1 << 20, "\(more) bytes more in eight steps")
        }
    }

    /// Between forward and backward: selective checkpointing keeps no normed rows and no gate's output, blocks that are run
    /// again only their input, in bf16 half of it.
    @Test func checkpointingKeepsLess() async {
        await #expect(processExitsWith: .success) {
            Engine.prepareForTraining()
            let model = try StepMemoryTests.model(), rows = 4 * 512
            let D = model.tokenTable.weight.shape[1], layers = 8
            let F = model.blockLinears.first { $0.name.hasSuffix("gate_proj") }!.linear.outFeatures
            func kept(_ recomputation: Recomputation) -> Int {
                model.recomputation = recomputation
                let before = Engine.heap.used
                let loss = model.documentLoss(StepMemoryTests.documents, factor: 1 / 2044)
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
