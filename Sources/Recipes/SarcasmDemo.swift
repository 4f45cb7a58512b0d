// The first thing to see: a small real model learns to tell sarcastic from sincere headlines, with figures.
internal import Datasets
public import Diagnostics
internal import Evaluation
internal import Formats
internal import Generation
internal import ModelFiles
internal import Models
internal import RecipeData
internal import RunConfig
internal import RunLog
internal import Tensors
internal import Tokenizers

/// `needletail demo`: LoRA on labelled headlines, judged on held-out ones before and after.
public enum SarcasmDemo {
    /// Fixed, so that the schedule and an exact resume mean something.
    static let trainingRows = 2_000, heldOutRows = 500
    static let labels = ["sarcastic", "sincere"]

    /// The system message of every row. Short, because its tokens are computed with each headline; without one of ours
    /// the template would add its own, three times as long.
    static let question = "Is the headline sarcastic or sincere?"

    /// Runs the demo, goes on with an interrupted one, or says what a finished one left.
    ///
    /// - Parameters:
    ///   - rows: JSONL of `{"input": [messages], "ideal": "0" or "1"}`, 1 for sarcasm.
    ///   - dtype: `auto`, `fp32` or `bf16`; of the training only, judging is fp32.
    public static func run(
        model: String, rows: String, output: String, redo: Bool, dtype: String, commandLine: [String]
    ) throws -> ExitStatus {
        let summaryPath = joinPath(output, "summary.json")
        if redo {
            try removeTree(output)
        } else if fileExists(summaryPath) {
            try sayWhatIsThere(output, readJSONFile(summaryPath))
            return .success
        }
        let data = try DemoRows(rows, folder: output + "-rows")
        let config = try configuration(model, data, output, dtype)
        let reference = try ModelReference(model) { ProgressLine.print($0) }
        let before = try data.before(reference)
        ProgressLine.print("before: \(before.description)")

        let outcome = try SFT.train(config, commandLine: commandLine)
        guard outcome.status == .success else { return outcome.status }
        // A stop that came as training ended: the same command goes on with judging.
        if let stop = SignalFlags.stopRequested { return stop }

        let adapter = joinPath(output, "adapter"), merged = joinPath(output, "merged")
        ProgressLine.print("judging on \(heldOutRows) held-out headlines, in fp32")
        let after = try Judgement(ModelReference(adapter), data)
        try removeTree(merged)
        try writeMerged(adapter, to: merged)
        try checkMerged(merged, data, expected: after.loss)
        let summary = summary(before, after, outcome, adapter, merged)
        try writeFileAtomically(summary.serialized(.pretty) + "\n", to: summaryPath)
        try tell(before, after, summary, model, data)
        return .success
    }

    private static func configuration(_ model: String, _ data: DemoRows, _ output: String, _ dtype: String) throws
        -> SFTConfig
    {
        try ConfigLoader.load(
            SFTConfig.self, text: BuiltInRecipe.named("demo-sarcasm")!.yaml, name: "demo-sarcasm",
            overrides: [
                "model.path=\(yamlText(model))", "model.dtype=\(dtype)", "data.train=[\(yamlText(data.trainingPath))]",
                "data.validation=[\(yamlText(data.heldOutPath))]", "output=\(yamlText(output))",
            ]
        ).resolved()
    }

    private static func writeMerged(_ adapter: String, to folder: String) throws {
        let reference = try ModelReference(adapter)
        let tokenizer = try Tokenizer(modelPath: reference.tokenizerFolder)
        let loaded = try LoadedModel(reference, dtype: .float32)
        try writeFolderAtomically(folder) { temporary in
            try loaded.writeMerged(to: temporary, .float32)
            try tokenizer.save(to: temporary)
        }
    }

    /// The merged folder, loaded anew, must be the model that was judged.
    private static func checkMerged(_ folder: String, _ data: DemoRows, expected: Double) throws {
        let loss = try Judgement.loss(ModelReference(folder), data)
        guard abs(loss - expected) <= 1e-4 else {
            throw UserError(
                "\(folder): its held-out loss is \(loss), the adapter's is \(expected); please report this", .internal)
        }
        ProgressLine.print(
            "merged model loaded anew: held-out loss \(decimals(loss, 6)), the adapter's \(decimals(expected, 6))")
    }

    private static func summary(
        _ before: Judgement, _ after: Judgement, _ outcome: SFT.Outcome, _ adapter: String, _ merged: String
    ) -> JSONValue {
        var summary = JSONObject()
        summary["accuracy_before"] = .init(before.choices.accuracy)
        summary["accuracy_after"] = .init(after.choices.accuracy)
        summary["accuracy_gain_interval_95"] = .init(pairedInterval(before.choices, after.choices))
        summary["loss_before"] = .init(before.loss)
        summary["loss_after"] = .init(after.loss)
        summary["trained_tokens"] = .init(outcome.trainedTokens)
        summary["train_seconds"] = .init(outcome.seconds)
        summary["tokens_per_second"] = .init(Double(outcome.tokens) / outcome.seconds)
        summary["peak_memory_bytes"] = .init(peakMemoryBytes())
        summary["adapter"] = .string(adapter)
        summary["merged"] = .string(merged)
        summary["answers_before"] = before.answersJSON
        summary["answers_after"] = after.answersJSON
        return .object(summary)
    }

    private static func tell(
        _ before: Judgement, _ after: Judgement, _ summary: JSONValue, _ model: String, _ data: DemoRows
    ) throws {
        let gain = after.choices.accuracy - before.choices.accuracy
        ProgressLine.print("")
        ProgressLine.print("before  \(before.description)")
        ProgressLine.print("after   \(after.description)")
        ProgressLine.print(
            "gain    \(percent(gain)) (95 % interval ± \(percent(pairedInterval(before.choices, after.choices))))")
        for (old, new) in zip(before.answers, after.answers) {
            ProgressLine.print("")
            ProgressLine.print("  \(old.headline)")
            ProgressLine.print("    before: \(old.answer)")
            ProgressLine.print("    after:  \(new.answer)")
        }
        try sayWhatIsThere(summary["adapter"].flatMap(\.string).map(parentFolder) ?? "", summary)
        ProgressLine.print("")
        ProgressLine.print("Train on your own file: rows as in \(data.trainingPath), then")
        ProgressLine.print("  needletail finetune \(model) YOUR.jsonl --output runs/mine")
    }

    private static func sayWhatIsThere(_ output: String, _ summary: JSONValue) throws {
        func figure(_ key: String) -> Double { summary[key]?.double ?? .nan }
        let lines = [
            "", "In \(output): adapter/, merged/, plots/loss.svg, summary.json, metrics.jsonl",
            "  accuracy \(percent(figure("accuracy_before"))) -> \(percent(figure("accuracy_after"))), "
                + "held-out loss \(decimals(figure("loss_before"), 4)) -> \(decimals(figure("loss_after"), 4)), "
                + "\(duration(seconds: figure("train_seconds"))) of training at \(significant(figure("tokens_per_second"), 3)) tokens/s",
            "Try it:       .build/release/needletail chat \(joinPath(output, "merged")) --temperature 0 --system '\(question)'",
            "Start over:   .build/release/needletail demo --redo",
        ]
        lines.forEach { ProgressLine.print($0) }
    }

    static func percent(_ share: Double) -> String { decimals(100 * share, 1) + " %" }
}

/// What a model makes of the held-out headlines: fp32, one fixed prompt.
struct Judgement {
    let choices: ChoiceResult
    /// Nats a token of the right answers.
    var loss: Double { choices.loss }
    let answers: [(headline: String, answer: String)]

    init(_ reference: ModelReference, _ data: DemoRows) throws {
        let tokenizer = try Tokenizer(modelPath: reference.tokenizerFolder)
        let loaded = try LoadedModel(reference, dtype: .float32)
        let encoder = try ExampleEncoder(tokenizer, options: .init(masking: .lastAssistant, maxLength: 512))
        choices = try chooseLabels(loaded.model, data.heldOut, labels: SarcasmDemo.labels, encoder, maxTokens: 1024)
        let headlines = data.sampleHeadlines
        let texts = try chatAnswers(
            loaded, tokenizer, ChatPrompts(tokenizer), system: SarcasmDemo.question, to: headlines,
            .init(maxNewTokens: 16))
        answers = zip(headlines, texts).map { (escapedForDisplay($0), escapedForDisplay($1.text)) }
    }

    static func loss(_ reference: ModelReference, _ data: DemoRows) throws -> Double {
        let encoder = try ExampleEncoder(
            Tokenizer(modelPath: reference.tokenizerFolder), options: .init(masking: .lastAssistant, maxLength: 512))
        let loaded = try LoadedModel(reference, dtype: .float32)
        return averageLoss(
            loaded.model, TokenizedDataset(try data.heldOut.map { try encoder.encode($0).example }), maxTokens: 1024)
    }

    var description: String {
        "accuracy \(SarcasmDemo.percent(choices.accuracy)) on \(choices.right.count) held-out headlines, loss \(decimals(loss, 4))"
    }

    var answersJSON: JSONValue {
        .array(answers.map { ["headline": .string($0.headline), "answer": .string($0.answer)] })
    }
}

/// The headlines as chat rows: exact duplicates removed, then split.
struct DemoRows {
    let trainingPath: String, heldOutPath: String
    let heldOut: [DataRow]

    /// Writes `train.jsonl` and `held-out.jsonl` into `folder`, where they show what rows look like.
    init(_ path: String, folder: String) throws {
        guard fileExists(path) else {
            throw UserError("\(path): not here; `make demo` fetches the headlines, or name them with --data")
        }
        trainingPath = joinPath(folder, "train.jsonl")
        heldOutPath = joinPath(folder, "held-out.jsonl")
        let rows = try Rows(DataSource([path], name: "data", kind: .evals, deduplicate: true))
        let split = try Split(
            rows: rows.count, heldOut: .count(SarcasmDemo.heldOutRows), seed: 0, limit: SarcasmDemo.trainingRows)
        try createDirectories(folder)
        for (indexes, path) in [(split.training, trainingPath), (split.heldOut, heldOutPath)] {
            try writeFileAtomically(try indexes.map { try Self.chatLine(rows[$0]) }.joined(), to: path)
        }
        let judged = try Rows(DataSource([heldOutPath], name: "held-out", kind: .chat))
        heldOut = try judged.indices.map { try judged[$0] }
    }

    private static func chatLine(_ row: DataRow) throws -> String {
        guard case .chat(let messages, _) = row.content,
            let headline = messages.last(where: { $0.role == .user })?.content,
            let answer = messages.last?.content, ["0", "1"].contains(answer)
        else { throw UserError("\(row.location): not a headline with the answer 0 or 1") }
        let chat = [
            ChatMessage(role: .system, content: SarcasmDemo.question),
            ChatMessage(role: .user, content: headline),
            ChatMessage(role: .assistant, content: SarcasmDemo.labels[answer == "1" ? 0 : 1]),
        ]
        return DataRow(.chat(chat, tools: []), location: row.location).jsonLine
    }

    /// Two held-out headlines, the first of each label.
    var sampleHeadlines: [String] {
        SarcasmDemo.labels.compactMap { label in
            heldOut.lazy.compactMap { row -> String? in
                guard case .chat(let messages, _) = row.content, messages.last?.content == label else { return nil }
                return messages.first { $0.role == .user }?.content
            }.first
        }
    }

    /// The untrained model's judgement.
    func before(_ reference: ModelReference) throws -> Judgement {
        ProgressLine.print("judging the untrained model on \(heldOut.count) held-out headlines, in fp32")
        return try Judgement(reference, self)
    }
}
