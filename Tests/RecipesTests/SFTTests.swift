// Fine-tuning from end to end on tiny models: what is learned, what repeats, what a stop costs (nothing).
import Datasets
import Diagnostics
import Evaluation
import Formats
import Glibc
import Layers
import ModelFiles
import Models
import Optimizers
import Recipes
import RecipeData
import RunConfig
import Tensors
import TestSupport
import Testing
import Tokenizers

@Suite(.serialized) struct SFTTests {
    static let methods: [AdapterSection.Method] = [.full, .lora, .rslora, .dora]

    @Test(arguments: methods) func lossFallsAndARunRepeats(_ method: AdapterSection.Method) throws {
        let place = try RunPlace(), first = place.config("first", method), second = place.config("second", method)
        let metrics = try place.run(first), losses = metrics.values("train/loss"), judged = metrics.values("eval/loss")
        #expect(losses.count == 8 && judged.count == 4)
        #expect(losses.last! < 0.9 * losses[0] && judged.last! < 0.9 * judged[0])
        #expect(try place.run(second) == metrics)
        #expect(try place.weights(second) == place.weights(first))
    }

    @Test(arguments: methods, [TinyFamily.llama, .mistral, .qwen2, .gemma2, .gpt2]) func aStopCostsNothing(
        _ method: AdapterSection.Method, _ family: TinyFamily
    ) throws {
        let place = try RunPlace(family)
        let config = place.config("whole", method) { config in
            if method != .full { config.adapter.dropout = 0.2 }
            config.training.samplePrompts = ["what comes after 3?"]
            config.optimizer.weightDecay = 0.1
            config.schedule.name = .cosine
            config.schedule.warmupSteps = 2
        }
        try stopCostsNothing(place, config)
    }

    /// Split masters (bf16) and the other optimizers.
    @Test(
        arguments: [(OptimizerSection.Name.adamw, OptimizerSection.State.fp32), (.adamw, .int8), (.muon, .fp32)],
        [TinyFamily.llama, .gpt2]
    )
    func aStopCostsNoOptimizer(
        _ optimizer: (OptimizerSection.Name, OptimizerSection.State), _ family: TinyFamily
    ) throws {
        let place = try RunPlace(family)
        let config = place.config("whole", .full) { config in
            config.model.dtype = .bf16
            (config.optimizer.name, config.optimizer.state) = optimizer
            config.optimizer.weightDecay = 0.1
            if optimizer.0 == .muon { config.optimizer.momentumWarmupSteps = 6 }
        }
        let losses = try place.run(config).values("train/loss")
        #expect(losses.last! < 0.9 * losses[0])
        try removeTree(config.output)
        try stopCostsNothing(place, config)
    }

    private func stopCostsNothing(_ place: RunPlace, _ config: SFTConfig) throws {
        let metrics = try place.run(config), weights = try place.weights(config), state = try place.lastState(config)
        let saved = try listFolder(joinPath(config.output, "checkpoints")).map { Int($0.dropFirst(5))! }
        #expect(Set(saved).isSuperset(of: [2, 3, 6, 8]))
        for step in saved.sorted() {
            let again = try place.killed(config, afterSaving: step, as: "from-\(step)")
            #expect(try place.run(again) == metrics, "from step \(step)")
            #expect(try place.weights(again) == weights, "from step \(step)")
            #expect(try place.lastState(again) == state, "from step \(step)")
        }
    }

    /// Whoever uses the model of a run that was killed is told.
    @Test func aRunUnderWaySaysSo() throws {
        let place = try RunPlace(), config = place.config("whole")
        try place.run(config)
        func told(_ config: SFTConfig) throws -> [String] {
            var lines: [String] = []
            _ = try ModelReference(config.output) { lines.append($0) }
            return lines
        }
        #expect(try told(config).isEmpty)
        let killed = try place.killed(config, afterSaving: 3, as: "killed")
        let note = "the newest checkpoint of this run is of step 3 of 8; the best, of step 2, is used"
        #expect(try told(killed) == ["note: \(killed.output): \(note)"])
    }

    /// A rate that spoils the model: judgements get worse until patience ends.
    @Test func stoppingEarlyIsResumedToo() throws {
        let place = try RunPlace()
        let config = place.config("whole") { config in
            config.training.steps = 40
            config.training.evalEvery = 1
            config.training.saveEvery = 1
            config.training.earlyStopPatience = 3
            config.optimizer.learningRate = 0.3
        }
        let metrics = try place.run(config), judged = metrics.values("eval/loss"),
            best = judged.firstIndex(of: judged.min()!)!
        #expect(judged.count == best + 4 && judged.count < 40)
        // What is kept is not the last.
        let data = try SFTData(config.data, Tokenizer(modelPath: place.folder["model"]))
        let kept = try averageLoss(load(joinPath(config.output, "adapter")).model, data.validation, maxTokens: 1024)
        #expect(abs(kept - judged[best]) < 1e-12)
        let saved = try listFolder(joinPath(config.output, "checkpoints")).map { Int($0.dropFirst(5))! }
        for step in saved where step > best {
            let again = try place.killed(config, afterSaving: step, as: "from-\(step)")
            #expect(try place.run(again) == metrics, "from step \(step)")
            #expect(try place.weights(again) == place.weights(config), "from step \(step)")
        }
    }

    /// Steps too small to change a weight, on one row, from an adapter that has learned: only dropout can change the loss.
    @Test func everyStepDropsOthers() throws {
        let place = try RunPlace(), first = place.config("first")
        try place.run(first)
        func losses(_ name: String, _ dropout: Double) throws -> [Double] {
            let config = place.config(name) { config in
                config.adapter = AdapterSection()
                config.adapter.continueFrom = joinPath(first.output, "adapter")
                config.adapter.dropout = dropout
                config.optimizer.learningRate = 1e-30
                config.data.validationRows = 0
                config.data.limit = 1
            }
            return try place.run(config).values("train/loss")
        }
        #expect(try Set(losses("with", 0.3)).count == 8)
        #expect(try Set(losses("without", 0)).count == 1)
    }

    /// A real signal, so in a process of its own.
    @Test func aSignalSavesAndTheRunGoesOn() async {
        await #expect(processExitsWith: .success) {
            let place = try RunPlace()
            func config(_ output: String) -> SFTConfig {
                place.config(output) { config in
                    config.training.steps = 200  // so many that a busy machine wakes the thread below in time
                    config.training.saveEvery = 1000
                    config.training.evalEvery = 1000
                }
            }
            let whole = try place.run(config("whole")), stopped = config("stopped"),
                metrics = stopped.output + "/metrics.jsonl"
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { argument in
                    let path = String(cString: argument!.assumingMemoryBound(to: CChar.self))
                    while ((try? fileSize(path)) ?? 0) < 300 { usleep(200) }
                    kill(getpid(), SIGTERM)
                    return nil
                }, strdup(metrics))
            let status = try SFT.run(stopped, commandLine: ["test"])
            precondition(status == .tryAgain, "ended with \(status)")
            pthread_join(thread, nil)
            let rows = try place.metrics(stopped).count
            precondition(rows > 0 && rows < whole.count, "\(rows) rows")
            let again = try place.run(stopped), weights = try place.weights(stopped)
            precondition(again == whole, "other metrics")
            let expected = try place.weights(config("whole"))
            precondition(weights == expected, "other weights")
        }
    }

    /// A stop in the middle of judging a step, the last one too: the step is saved without it, and judged later.
    @Test func aStopDoesNotWaitForJudging() async {
        await #expect(processExitsWith: .success) {
            let place = try RunPlace()
            // Hundreds of forward passes, so that the signal comes before the last of them.
            try writeFileAtomically(
                String(repeating: RunPlace.rows.map(RunPlace.line).joined(), count: 40),
                to: place.folder["held-out.jsonl"])
            func config(_ output: String) -> SFTConfig {
                place.config(output) { config in
                    (config.data.validation, config.data.validationRows) = ([place.folder["held-out.jsonl"]], nil)
                    (config.data.maxLength, config.training.microBatchTokens) = (64, 64)
                    (config.training.steps, config.training.evalEvery, config.training.saveEvery) = (4, 2, 1000)
                    config.training.samplePrompts = ["what comes after 3?"]
                }
            }
            let whole = try place.run(config("whole")), stopped = config("stopped")
            for step in [2, 4] {
                let waited = "\(step) \(stopped.output)/metrics.jsonl"
                var thread = pthread_t()
                pthread_create(
                    &thread, nil,
                    { argument in
                        let words = String(cString: argument!.assumingMemoryBound(to: CChar.self)).split(separator: " ")
                        func isReached() -> Bool {
                            ((try? readTextFile(String(words[1]))) ?? "").contains("\"step\":\(words[0]),")
                        }
                        while !isReached() { usleep(200) }
                        kill(getpid(), SIGTERM)
                        return nil
                    }, strdup(waited))
                let status = try SFT.run(stopped, commandLine: ["test"])
                pthread_join(thread, nil)
                precondition(status == .tryAgain, "step \(step) ended with \(status)")
                let last = try place.metrics(stopped).last!
                precondition(last["step"]?.int == step && last["eval/loss"] == nil, "\(last)")
            }
            let again = try place.run(stopped)
            precondition(again == whole, "other metrics")
            let weights = try place.weights(stopped), expected = try place.weights(config("whole"))
            precondition(weights == expected, "other weights")
        }
    }

    @Test(arguments: methods) func whatIsSavedIsWhatWasJudged(_ method: AdapterSection.Method) throws {
        let place = try RunPlace(), config = place.config("run", method)
        let best = try place.run(config).values("eval/loss").min()!
        let saved = joinPath(config.output, method == .full ? "model" : "adapter")
        let data = try SFTData(config.data, Tokenizer(modelPath: place.folder["model"]))
        let loaded = try load(saved)
        #expect(abs(averageLoss(loaded.model, data.validation, maxTokens: 1024) - best) < 1e-12)
        #expect(try abs(averageLoss(load(config.output).model, data.validation, maxTokens: 1024) - best) < 1e-12)
        let card = try readTextFile(joinPath(saved, "README.md"))
        #expect(card.contains(method == .full ? "all weights" : method.rawValue))
    }

    // MARK: the loss of a step

    /// One step over all rows, in the order of the file, so that it can be computed directly.
    private func oneStep(_ place: RunPlace, _ name: String, _ change: (inout SFTConfig) -> Void) throws -> JSONValue {
        let config = place.config(name, .full) { config in
            config.data.validationRows = 0
            config.training.steps = 1
            config.training.batchRows = 20
            config.training.microBatchTokens = 100
            config.data.maxLength = 100
            change(&config)
        }
        return try place.run(config)[0]
    }

    /// -log p of each trained token by row.
    private func rowLosses(_ place: RunPlace) throws -> [[Double]] {
        let loaded = try load(place.folder["model"]), tokenizer = try Tokenizer(modelPath: place.folder["model"])
        let encoder = try ExampleEncoder(tokenizer)
        return try RunPlace.rows.map { question, answer in
            let messages = [
                ChatMessage(role: .user, content: question), ChatMessage(role: .assistant, content: answer),
            ]
            let row = DataRow(.chat(messages, tools: []), location: RowLocation(file: "rows", unit: .line, number: 1))
            let example = try encoder.encode(row).example
            let scores = loaded.model.allLogits(example.ids).to(.float64).logSoftmax(dim: 1).values(Double.self)
            return (1..<example.ids.count).filter { example.trained[$0] }
                .map { -scores[($0 - 1) * 268 + Int(example.ids[$0])] }
        }
    }

    @Test func reductionsAreWhatTheySay() throws {
        let place = try RunPlace(), rows = try rowLosses(place)
        let sum = rows.flatMap { $0 }.reduce(0, +), tokens = Double(rows.flatMap { $0 }.count)
        let expected: [(TrainingSection.Reduction, Double)] = [
            (.token, sum / tokens), (.sum, sum),
            (.sequence, rows.reduce(0) { $0 + $1.reduce(0, +) / Double($1.count) } / Double(rows.count)),
        ]
        var norms: [Double] = []
        for (reduction, value) in expected {
            let row = try oneStep(place, reduction.rawValue) { $0.training.lossReduction = reduction }
            #expect(abs(row["train/loss"]!.double! - value) < 1e-6 * value, "\(reduction)")
            #expect(row["train/trained_tokens"]!.double! == tokens)
            norms.append(row["train/grad_norm"]!.double!)
        }
        #expect(abs(norms[1] - tokens * norms[0]) < 1e-5 * norms[1])
        #expect(abs(expected[0].1 - expected[2].1) > 1e-3 && abs(norms[0] - norms[2]) > 1e-3 * norms[0])
    }

    @Test(arguments: [TrainingSection.Reduction.token, .sequence, .sum])
    func microBatchesDecideMemoryOnly(_ reduction: TrainingSection.Reduction) throws {
        let place = try RunPlace()
        let settings: [(String, (inout SFTConfig) -> Void)] = [
            ("one", { $0.training.microBatchTokens = 5000 }), ("some", { $0.training.microBatchTokens = 200 }),
            ("single", { $0.data.packing = false }),
        ]
        let rows = try settings.map { name, change in
            try oneStep(place, name) { config in
                config.training.lossReduction = reduction
                config.data.maxLength = 100
                change(&config)
            }
        }
        for row in rows[1...] {
            for key in ["train/loss", "train/grad_norm"] {
                let (a, b) = (row[key]!.double!, rows[0][key]!.double!)
                #expect(abs(a - b) < 2e-6 * b, "\(key): \(a), \(b)")
            }
        }
    }

    @Test func theScheduleIsFollowed() throws {
        let place = try RunPlace()
        let config = place.config("run") { config in
            config.schedule.name = .wsd
            config.schedule.warmupRatio = 0.3  // of 8: 2.4, so 3
            config.schedule.decayRatio = 0.25
            config.schedule.minRatio = 0.1
        }
        let schedule = Schedule(.wsd, peak: 0.01, steps: 8, warmupSteps: 3, minRatio: 0.1, decayRatio: 0.25)
        #expect(try place.run(config).values("train/learning_rate") == (0..<8).map { schedule($0) })
    }

    // MARK: options

    typealias Change = @Sendable (inout SFTConfig) -> Void
    static let options: [(name: String, method: AdapterSection.Method, change: Change)] = [
        ("training.seed", .lora, { $0.training.seed = 1 }),
        ("data.seed", .lora, { $0.data.seed = 1 }),
        ("data.limit", .lora, { $0.data.limit = 5 }),
        ("data.train_on", .lora, { $0.data.trainOn = .all }),
        ("data.max_length", .lora, { $0.data.maxLength = 38 }),
        ("data.template", .lora, { $0.data.template = "zephyr" }),
        ("data.validation_rows", .lora, { $0.data.validationRows = 8 }),
        ("adapter.rank", .lora, { $0.adapter.rank = 2 }),
        ("adapter.alpha", .lora, { $0.adapter.alpha = 4 }),
        ("adapter.dropout", .lora, { $0.adapter.dropout = 0.3 }),
        ("adapter.targets", .lora, { $0.adapter.targets = ["q_proj"] }),
        ("adapter.save_embeddings", .lora, { $0.adapter.saveEmbeddings = true }),
        ("adapter.method rslora", .lora, { $0.adapter.method = .rslora }),
        ("adapter.method dora", .lora, { $0.adapter.method = .dora }),
        ("optimizer.learning_rate", .lora, { $0.optimizer.learningRate = 0.02 }),
        ("optimizer.beta1", .lora, { $0.optimizer.beta1 = 0.5 }),
        ("optimizer.beta2", .lora, { $0.optimizer.beta2 = 0.9 }),
        ("optimizer.epsilon", .lora, { $0.optimizer.epsilon = 1e-2 }),
        ("optimizer.weight_decay", .full, { $0.optimizer.weightDecay = 0.5 }),
        ("schedule.name", .lora, { $0.schedule.name = .constant }),
        ("schedule.warmup_steps", .lora, { $0.schedule.warmupSteps = 2 }),
        ("schedule.min_ratio", .lora, { $0.schedule.minRatio = 0.5 }),
        ("training.max_grad_norm", .lora, { $0.training.maxGradNorm = 1e-9 }),
        ("training.batch_rows", .lora, { $0.training.batchRows = 3 }),
        ("training.loss_reduction", .lora, { $0.training.lossReduction = .sum }),
    ]

    static let muonOptions: [(name: String, change: Change)] = [
        ("muon learning_rate", { $0.optimizer.learningRate = 0.02 }),
        ("muon adamw_learning_rate", { $0.optimizer.adamwLearningRate = 0.02 }),
        ("muon momentum", { $0.optimizer.momentum = 0.5 }),
        ("muon momentum_warmup_steps", { $0.optimizer.momentumWarmupSteps = 2 }),
        ("muon orthogonalization", { $0.optimizer.orthogonalization = .polarExpress }),
        ("muon beta1", { $0.optimizer.beta1 = 0.5 }), ("muon weight_decay", { $0.optimizer.weightDecay = 0.5 }),
    ]

    /// The held-out loss at the end differs, or the length of the run.
    @Test func noOptionIsWithoutEffect() throws {
        let place = try RunPlace()
        func end(_ name: String, _ method: AdapterSection.Method, _ change: @escaping (inout SFTConfig) -> Void) throws
            -> [Double]
        {
            let config = place.config(name, method) { config in
                config.training.steps = 4
                config.training.evalEvery = 4
                config.training.saveEvery = 4
                change(&config)
            }
            let metrics = try place.run(config)
            return metrics.values("train/loss") + metrics.values("eval/loss")
        }
        let plain = try end("plain", .lora) { _ in }, full = try end("full", .full) { _ in }
        for (name, method, change) in Self.options {
            #expect(try end(name, method, change) != (method == .full ? full : plain), "\(name)")
        }
        func muon(_ config: inout SFTConfig) { config.optimizer.name = .muon }
        let plainMuon = try end("muon", .full, muon)
        #expect(plainMuon != full)
        for (name, change) in Self.muonOptions {
            #expect(
                try end(name, .full) { config in
                    muon(&config)
                    change(&config)
                } != plainMuon, "\(name)")
        }
        let right = try end("right", .lora) { $0.data.maxLength = 38 }
        #expect(try end("left", .lora) { ($0.data.maxLength, $0.data.truncation) = (38, .left) } != right)
    }

    /// Card, record and picture of a run with two files of rows, one of them plain text in paragraphs.
    @Test func aRunTellsWhatItWas() throws {
        let place = try RunPlace()
        try writeFileAtomically("one of\nthese\n\nand two\n\n\nthree\n", to: place.folder["prose.txt"])
        let config = place.config("run") { config in
            config.data.train.append(place.folder["prose.txt"])
            config.data.textUnit = .paragraph
        }
        try place.run(config)
        let card = try readTextFile(joinPath(config.output, "adapter/README.md"))
        let rows = card.split(separator: "\n").filter { $0.contains(".jsonl |") || $0.contains(".txt |") }
            .map { $0.split(separator: "|").map { Int($0.filter { $0 != " " }) } }
        #expect(rows.count == 2)
        for (fields, total) in zip(rows, [20, 3]) { #expect(fields[1]! + fields[2]! == total, "\(fields)") }
        #expect(rows[0][2]! + rows[1][2]! == 4, "held out: \(rows)")
        let picture = try readTextFile(joinPath(config.output, "plots/loss.svg"))
        #expect(picture.contains(">held out</text>"))
        let record = try readJSONFile(joinPath(config.output, "run.json"))
        #expect(record["machine"]?["system"]?.string?.hasPrefix("Linux ") == true)
        #expect((record["machine"]?["memory_bytes"]?.int ?? 0) > 1 << 28 && record["versions"]?["compiler"] != nil)
    }

    /// A table of positions has an end; where positions are computed there is none.
    @Test func rowsBeyondThePositionsAreRefused() throws {
        let place = try RunPlace(.gpt2), file = joinPath(place.folder["model"], "config.json")
        try writeFileAtomically(readJSONFile(file).changing(["n_positions": 40]).serialized(), to: file)
        let config = place.config("run"), error = #expect(throws: UserError.self) { try place.run(config) }
        #expect(error?.exitStatus == .usage)
        #expect(error?.message.contains("the model has 40 positions: set data.max_length: 40") == true)
        #expect(!folderExists(config.output))
    }

    @Test func aTextUnitWithoutPlainTextIsRefused() throws {
        let place = try RunPlace(), config = place.config("run") { $0.data.textUnit = .line }
        let error = #expect(throws: UserError.self) { try place.run(config) }
        #expect(error?.exitStatus == .usage && !folderExists(config.output))
    }

    @Test func addedTokensAreLearned() throws {
        let place = try RunPlace()
        try writeFileAtomically(
            RunPlace.rows.map { RunPlace.line(($0.question, "<yes> \($0.answer)")) }.joined(),
            to: place.folder["rows.jsonl"])
        for method in [AdapterSection.Method.full, .lora] {
            let config = place.config("new-\(method.rawValue)", method) { config in
                config.data.addTokens = ["<yes>"]
                if method != .full { config.adapter.saveEmbeddings = true }
            }
            let losses = try place.run(config).values("eval/loss")
            #expect(losses.last! < losses[0])
            let saved = joinPath(config.output, method == .full ? "model" : "adapter")
            let tokenizer = try Tokenizer(modelPath: saved), id = try #require(tokenizer.id(of: "<yes>"))
            #expect(id == 268 && tokenizer.encode("<yes>", addSpecialTokens: false) == [268])
            let data = try SFTData(config.data, tokenizer)
            #expect(try abs(averageLoss(load(saved).model, data.validation, maxTokens: 1024) - losses.min()!) < 1e-12)
        }
    }

    // MARK: when numbers go wrong

    /// One row of twenty has a token whose row in the table is not a number.
    private func poisoned() throws -> RunPlace {
        let place = try RunPlace(), config = textConfig(), model = try tinyModel(config, scale: 0.4)
        let id = Int(try tinyTokenizer().encode("~", addSpecialTokens: false)[0]), table = model.tokenTable.weight.value
        var values = table.values(Float.self)
        values[id * 32] = .nan
        table.copyInPlace(Tensor(values, table.shape))
        try writeTextFolder(place.folder["model"], config, model)
        var rows = RunPlace.rows
        rows[7].question = "~"
        try writeFileAtomically(rows.map(RunPlace.line).joined(), to: place.folder["rows.jsonl"])
        return place
    }

    private func everyRow(_ config: inout SFTConfig) {
        config.data.validationRows = 0
        config.training.steps = 20
        config.training.batchRows = 1
    }

    @Test func aLossThatIsNoNumberStopsBeforeItDoesHarm() throws {
        let place = try poisoned(), config = place.config("run") { everyRow(&$0) }
        #expect {
            try place.run(config)
        } throws: { error in
            let message = (error as? UserError)?.message ?? ""
            return message.contains("loss") && message.contains("failure.json")
        }
        let report = try readJSONFile(joinPath(config.output, "failure.json"))
        #expect(report["rows"]!.array!.count == 1 && report["rows"]!.array![0].string!.hasSuffix("line 8"))
    }

    @Test func aSkippedStepChangesNothing() throws {
        let place = try poisoned()
        let config = place.config("run", .full) { config in
            everyRow(&config)
            config.training.onNonfinite = .skip
            config.training.saveEvery = 1
        }
        let losses = try place.run(config).map { $0["train/loss"]! }
        let skipped = try #require(losses.firstIndex(of: .null))
        #expect(losses.count == 20 && losses.filter(\.isNull).count == 1)
        func saved(_ step: Int, _ file: String) throws -> FileContent {
            try FileContent(joinPath(config.output, "checkpoints/step-\(step)"), file)
        }
        for file in ["model.safetensors", "optimizer.safetensors"] where skipped > 0 {
            #expect(try saved(skipped + 1, file) == saved(skipped, file))
            #expect(try saved(skipped + 2, file) != saved(skipped, file))
        }
    }
}
