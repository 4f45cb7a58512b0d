// Tensor handles: as many after a training step as before it. Counted in a process of their own, since the counter is
// the process's and other tests run beside these.
import Layers
import Models
import Optimizers
import Tensors
import TestSupport
import Testing

@Suite struct LeakTests {
    /// Handles alive after each of five rounds, the first (which may fill tables) left out.
    private static func handles(_ round: () throws -> Void) rethrows -> [Int] {
        try (0..<6).map { _ in
            try round()
            return Engine.liveHandles
        }.suffix(5)
    }

    @Test func aTrainingStepKeepsNoTensor() async {
        await #expect(processExitsWith: .success) {
            for isAdapter in [false, true] {
                let model = try tinyModel(TinyFamily.mistral.config)
                model.recomputation = .init(stride: isAdapter ? 1 : 0)
                let parameters =
                    isAdapter ? attachAdapters(to: model, hasMagnitude: true) : model.trainAll().namedParameters()
                let optimizer = AdamW(parameters, .init())
                let counts = LeakTests.handles {
                    for _ in 0..<2 { model.documentLoss([someIDs(9, seed: 1), someIDs(4, seed: 2)]).backward() }
                    optimizer.step(
                        learningRate: 1e-3, gradientScale: clipScale(norm: optimizer.gradientNorm(), max: 1))
                    optimizer.zeroGradients()
                }
                precondition(Set(counts).count == 1, "handles after each step: \(counts)")
            }
        }
    }

    @Test func answersKeepNoTensor() async {
        await #expect(processExitsWith: .success) {
            let model = try tinyModel(TinyFamily.llama.config)
            let counts = LeakTests.handles {
                withoutGradients {
                    let cache = model.makeCache(sequences: 2, capacity: 12)
                    for _ in 0..<3 {
                        let plan = AttentionPlan(continuing: cache, rows: [0, 1], lengths: [2, 1])
                        _ = model.logits(model.hiddenStates(Tensor([1, 2, 3] as [Int64]), plan, cache: cache)).values(
                            Float.self)
                    }
                    cache.keep([1])
                }
            }
            precondition(Set(counts).count == 1, "handles after each round: \(counts)")
        }
    }

    @Test func failuresKeepNoTensor() async {
        await #expect(processExitsWith: .success) {
            let x = Tensor([1, 2, 3] as [Float])
            x.requiresGradient = true
            // In the backward of a custom function, in its forward, and in plain operations.
            let counts = try LeakTests.handles {
                for place in 0..<3 {
                    do {
                        try catchingEngineErrors {
                            let bad = Tensor.zeros([7, 5])
                            let y = customFunction(
                                [x],
                                forward: { inputs in ([place == 1 ? inputs[0].matmul(bad) : inputs[0] * 2], [inputs[0]])
                                },
                                backward: { saved, gradients in
                                    [place == 0 ? gradients[0].matmul(Tensor.zeros([7, 5])) : gradients[0] * saved[0]]
                                })[0]
                            (place == 2 ? y.matmul(bad) : y).sum().backward()
                        }
                        preconditionFailure("nothing was thrown at place \(place)")
                    } catch is EngineError {}
                    x.clearGradient()
                }
            }
            precondition(Set(counts).count == 1, "handles after each round: \(counts)")
        }
    }
}
