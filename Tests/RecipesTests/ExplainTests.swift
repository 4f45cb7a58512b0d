// What a run will take: operations by formula, time by its own steps.
import Datasets
import Formats
import ModelFiles
import RecipeData
import Recipes
import RunConfig
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
