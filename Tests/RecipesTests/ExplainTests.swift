// What a run will take: operations by formula, time by its own steps.
import Datasets
import Formats
import Layers
import ModelFiles
import Models
import Optimizers
import RecipeData
import Recipes
import RunConfig
import Tensors
import TestSupport
import Testing

@Suite(.serialized) struct ExplainTests {
    private func outline(
        _ place: RunPlace, _ method: AdapterSection.Method = .lora, _ change: (inout SFTConfig) -> Void = { _ in }
    ) throws -> SFTOutline { try SFTOutline(place.config("never", method, change)) }

    /// The formula's terms, taken apart by what changes them: 2 operations a weight, token and product.
    @Test(arguments: [TinyFamily.llama, .gpt2]) func operationsAreCounted(_ family: TinyFamily) throws {
        let place = try RunPlace(family), lora = try outline(place), full = try outline(place, .full)
        let N = Double(lora.tokens), T = Double(lora.trainedTokens), model = lora.model
        let W = Double(model.blockLinears.reduce(0) { $0 + $1.inputs * $1.outputs })
        let sides = Double(model.blockLinears.reduce(0) { $0 + $1.inputs + $1.outputs })
        let head = Double(model.vocabSize * model.hiddenSize)
        #expect(W > 0 && T < N && lora.steps == 8)
        #expect(full.operations - lora.operations == 2 * W * N + 2 * head * T - 6 * 4 * sides * N)
        let wider = try outline(place) { $0.adapter.rank = 8 }
        #expect(wider.operations - lora.operations == 6 * 4 * sides * N)
        // A run of one block's stretch computes the first of its two blocks again.
        let again = try outline(place) { $0.training.recomputeBlocks = 1 }
        let lengths = (0..<8).flatMap { lora.sampler.plan(step: $0).rows }.map { Double(lora.data.training.length($0)) }
        let queries = 2 * 32.0  // two blocks whose heads are together as wide as the hidden states
        let attention = 2 * queries * lengths.reduce(0) { $0 + $1 * $1 }
        #expect(again.operations - lora.operations == (2 * (W + 4 * sides) * N + attention) / 2)
        let rest = lora.operations - (4 * W + 6 * 4 * sides) * N - 4 * head * T
        #expect(rest == 3 * attention)
    }

    /// Muon multiplies for each matrix of a block and step; q, k and v of GPT-2's one map are three matrices.
    @Test(arguments: [TinyFamily.llama, .gpt2]) func muonsOperationsAreCounted(_ family: TinyFamily) throws {
        let place = try RunPlace(family), adamw = try outline(place, .full)
        let muon = try outline(place, .full) { $0.optimizer.name = .muon }
        func step(_ m: Double, _ n: Double) -> Double { 5 * (3 * m * m * n + m * m * m) }
        let square = step(32, 32), narrow = step(16, 32), wide = step(32, 48)
        // Two blocks: q and o, k and v, gate, up and down; q, k, v and the map after them, up and down.
        let block = family == .gpt2 ? 4 * square + 2 * wide : 2 * square + 2 * narrow + 3 * wide
        #expect(muon.operations - adamw.operations == 8 * 2 * block)
    }

    /// What a step leaves in memory, counted tensor by tensor, is what the formula says.
    @Test(
        arguments: [TinyFamily.llama, .gpt2],
        [(OptimizerSection.Name.adamw, ModelSection.Precision.fp32), (.adamw, .bf16), (.muon, .fp32), (.muon, .bf16)]
    )
    func stateIsCounted(_ family: TinyFamily, _ kind: (OptimizerSection.Name, ModelSection.Precision)) throws {
        let place = try RunPlace(family)
        let memory = try outline(place, .full) { $0.optimizer.name = kind.0 }
            .memory(bytesPerNumber: kind.1 == .bf16 ? 2 : 4)
        let loaded = try LoadedModel(
            ModelReference(place.folder["model"]), dtype: kind.1 == .bf16 ? .bfloat16 : .float32, trainsAll: true)
        loaded.splitMasters()
        let model = loaded.model, parameters = model.namedParameters()
        let matrices = model.blockLinears.map { ($0.name + ".weight", $0.linear.parts) }
        let optimizer: any Optimizer =
            kind.0 == .adamw
            ? AdamW(parameters, .init())
            : Muon(parameters, matrices: Dictionary(uniqueKeysWithValues: matrices), .init())
        // Two micro-batches: one alone leaves gradients of matrices in bf16.
        for _ in 0..<2 { model.documentLoss([[1, 2, 3, 4]]).backward() }
        optimizer.step(learningRate: 0.01)
        func bytes(_ tensors: [Tensor]) -> Int { tensors.reduce(0) { $0 + $1.count * $1.dtype.byteCount } }
        var held = bytes(optimizer.state.map(\.tensor))
        for (_, parameter) in parameters {
            held += bytes([parameter.value.gradient!])
            parameter.update { held += bytes([$0.value, $0.low, $0.copy].compactMap { $0 }) }
        }
        #expect(held == memory.weights + memory.trainedState)
        #expect(kind.0 == .muon || held == 16 * memory.trainedWeights)
    }

    @Test(arguments: [AdapterSection.Method.full, .lora, .dora]) func timeIsMeasuredInMemory(
        _ method: AdapterSection.Method
    ) throws {
        let place = try RunPlace(), before = try listFolder(place.folder.path)
        let config = place.config("never", method), time = try RunTime(config, seconds: 0)
        #expect(time.steps == 3 && time.judgements == 4 && time.seconds > 0 && time.judgingSeconds > 0)
        #expect(time.tokens < time.steps * 4 * 60)
        let tokens = Double(try SFTOutline(config).tokens)
        #expect(abs(time.trainingSeconds / (time.seconds * tokens / Double(time.tokens)) - 1) < 1e-9)
        #expect(try listFolder(place.folder.path) == before)
    }
}
