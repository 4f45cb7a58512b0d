// Fine-tuning on quantised bases from end to end: what is learned, what a stop costs (nothing), what is estimated.
import Diagnostics
import Formats
import ModelFiles
import RecipeData
import Recipes
import RunConfig
import Tensors
import TestSupport
import Testing

@Suite(.serialized) struct QuantizedRunTests {
    static let forms: [ModelSection.Quantize] = [.nf4, .int8, .asStored]
    static let adapters: [AdapterSection.Method] = [.lora, .rslora, .dora]

    /// A place whose model is stored in bf16, so that every form saves something.
    private func place(_ family: TinyFamily = .llama) throws -> RunPlace {
        let place = try RunPlace(family), config = textConfig(family)
        try writeFolder(place.folder["model"], config, fileTensors(of: tinyModel(config, scale: 0.4), .bfloat16))
        return place
    }

    /// Eight steps, then eight steps cut after each checkpoint: the same figures, weights and moments, bit for bit.
    @Test(arguments: forms, adapters) func aStopCostsNothing(
        _ form: ModelSection.Quantize, _ method: AdapterSection.Method
    ) throws {
        for family in [TinyFamily.llama, .gpt2] {
            let place = try place(family)
            let config = place.config("whole", method) { config in
                config.model.quantize = form
                config.adapter.dropout = 0.2
                config.training.samplePrompts = ["what comes after 3?"]
            }
            let metrics = try place.run(config), weights = try place.weights(config),
                state = try place.lastState(config)
            #expect(metrics.values("train/loss").last! < 0.9 * metrics.values("train/loss")[0])
            for step in [3, 6] {
                let again = try place.killed(config, afterSaving: step, as: "from-\(step)")
                #expect(try place.run(again) == metrics, "\(family), from step \(step)")
                #expect(try place.weights(again) == weights, "\(family), from step \(step)")
                #expect(try place.lastState(again) == state, "\(family), from step \(step)")
            }
        }
    }

    /// Each form computes something else, but for halves kept as they are, which compute what fp32 does.
    @Test func everyFormIsAnother() throws {
        let place = try place()
        let losses = try ([ModelSection.Quantize.none] + Self.forms).map { form in
            try place.run(place.config(form.rawValue) { $0.model.quantize = form }).values("eval/loss")
        }
        #expect(losses[0] == losses[3] && losses[1] != losses[0] && losses[2] != losses[0] && losses[1] != losses[2])
        for k in 1...2 { #expect(abs(losses[k].last! / losses[0].last! - 1) < 0.2, "\(losses[k]) \(losses[0])") }
    }

    /// A loss before the rounding may be lower than any after it, and yet the best model is one that was trained for blocks.
    @Test func theBestHasSeenTheRounding() throws {
        var wouldMislead = 0, config = SFTConfig()
        for family in [TinyFamily.llama, .gpt2, .qwen2, .qwen3, .olmo2] {
            let place = try place(family)
            config = place.config("late", .full) { config in
                config.optimizer.learningRate = 1e-5
                (config.training.quantizeAware, config.training.quantizeAwareAfter) = (.q4_0, 5)
                config.training.evalEvery = 1
            }
            let losses = try place.run(config).values("eval/loss"), best = losses[4...].min()!
            let state = try readJSONFile(joinPath(config.output, "checkpoints/step-8/state.json"))
            #expect(losses.count == 8 && state["best_loss"]?.double == best, "\(family): \(losses)")
            wouldMislead += losses[..<4].min()! < best ? 1 : 0
        }
        #expect(wouldMislead > 0)

        let place = try place()
        config = place.config("late", .full) { config in
            (config.training.quantizeAware, config.training.quantizeAwareAfter) = (.q4_0, 5)
        }
        var idle = config
        (idle.output, idle.training.quantizeAwareAfter) = (place.folder["idle"], 8)
        let error = #expect(throws: UserError.self) { try place.run(idle) }
        #expect(error?.message.hasPrefix("training.quantize_aware_after: 8 is not before the end") == true)
    }

    /// The base's hash is the unquantised one's; another form is another run.
    @Test func theRunFolderKnowsTheForm() throws {
        let place = try place(), config = place.config("run") { $0.model.quantize = .nf4 }
        try place.run(config)
        let plain = place.config("plain")
        try place.run(plain)
        func hashes(_ config: SFTConfig) throws -> JSONValue? {
            try readJSONFile(joinPath(config.output, "run.json"))["hashes"]?["base"]
        }
        #expect(try hashes(config) == hashes(plain))
        var other = config
        other.model.quantize = .int8
        #expect(throws: UserError.self) { try place.run(other) }
        let yaml = try readTextFile(joinPath(config.output, "config.yaml"))
        #expect(yaml.contains("quantize: nf4"))
    }

    /// Weights by formula: the maps of the blocks packed, everything else in the dtype of the computation.
    @Test(arguments: [TinyFamily.llama, .gpt2]) func memoryIsEstimated(_ family: TinyFamily) throws {
        let place = try place(family)
        func weights(_ form: ModelSection.Quantize) throws -> Int {
            try SFTOutline(place.config("never") { $0.model.quantize = form }).memory(bytesPerNumber: 4).weights
        }
        let maps = try ModelOutline(place.folder["model"]).blockLinears, plain = try weights(.none)
        let numbers = maps.reduce(0) { $0 + $1.inputs * $1.outputs }
        #expect(try plain - weights(.asStored) == 2 * numbers)
        let rows = maps.reduce(0) { $0 + $1.outputs * (($1.inputs + 31) / 32) }
        #expect(try plain - weights(.int8) == 4 * numbers - 34 * rows)
        let blocks = maps.map { $0.outputs * (($0.inputs + 63) / 64) }
        let packed = blocks.reduce(0) { $0 + 33 * $1 + 4 * (($1 + 255) / 256) }
        #expect(try plain - weights(.nf4) == 4 * numbers - packed)
    }
}
