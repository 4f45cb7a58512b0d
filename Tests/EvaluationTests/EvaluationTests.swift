// Judging: loss over data sets, choices among labels, questions through a chat template.
import Datasets
import Diagnostics
import Evaluation
import Formats
import Generation
import Models
import Tensors
import TestSupport
import Testing
import Tokenizers

@Suite struct EvaluationTests {
    let folder: TemporaryFolder
    let tokenizer: Tokenizer

    init() throws {
        folder = try TemporaryFolder()
        tokenizer = try tinyTokenizer()
    }

    private func place(_ number: Int) -> RowLocation { RowLocation(file: "rows.jsonl", unit: .line, number: number) }

    /// Rows of many lengths, of which more or less is trained.
    private var dataset: TokenizedDataset {
        TokenizedDataset(
            [3, 20, 2, 9, 14, 5].enumerated().map { row, length in
                TokenizedExample(
                    ids: someIDs(length, seed: UInt64(90 + row)),
                    trained: (0..<length).map { $0 % 3 != row % 3 || $0 == length - 1 },
                    source: place(row + 1))
            })
    }

    /// -log p of each trained token, by row, from the logits of single rows.
    private func direct(_ model: any CausalLanguageModel, _ data: TokenizedDataset) -> [[Double]] {
        data.map { example in
            let scores = model.allLogits(example.ids).to(.float64).logSoftmax(dim: 1).values(Double.self)
            return (1..<example.ids.count).filter { example.trained[$0] }
                .map { -scores[($0 - 1) * model.vocabSize + Int(example.ids[$0])] }
        }
    }

    @Test(arguments: TinyFamily.allCases, [1, 16, 1000]) func everyTokenCountsOnce(
        _ family: TinyFamily, _ maxTokens: Int
    ) throws {
        let model = try tinyModel(family.config), rows = direct(model, dataset)
        let all = rows.flatMap { $0 }, expected = all.reduce(0, +) / Double(all.count)
        #expect(abs(averageLoss(model, dataset, maxTokens: maxTokens) - expected) < 1e-6 * expected)
        let meanOfMeans = rows.reduce(0.0) { $0 + $1.reduce(0, +) / Double($1.count) } / Double(rows.count)
        #expect(abs(meanOfMeans - expected) > 1e-3)  // the other reading is another number here
        for (found, row) in zip(rowLogProbabilities(model, dataset, maxTokens: maxTokens), rows) {
            #expect(found.count == row.count)
            for (a, b) in zip(found, row) { #expect(abs(Double(a) + b) < 1e-5 * max(1, b)) }
        }
    }

    @Test func nothingTrainedIsNoNumber() throws {
        let model = try tinyModel(TinyFamily.llama.config)
        #expect(averageLoss(model, TokenizedDataset(), maxTokens: 10).isNaN)
        let none = TokenizedDataset([TokenizedExample(ids: [1, 2], trained: [true, false], source: place(1))])
        #expect(
            averageLoss(model, none, maxTokens: 10).isNaN && rowLogProbabilities(model, none, maxTokens: 10) == [[]])
    }

    private func chat(_ question: String, _ answer: String, _ number: Int) -> DataRow {
        DataRow(
            .chat(
                [ChatMessage(role: .user, content: question), ChatMessage(role: .assistant, content: answer)], tools: []
            ),
            location: place(number))
    }

    /// The second template writes a line break behind the answer, which is not trained.
    @Test(arguments: [nil, "chatml"]) func theLikeliestLabelIsChosen(_ template: String?) throws {
        let config = textConfig()
        try writeTextFolder(folder["m"], config, tinyModel(config, scale: 1.2))
        let model = try load(folder["m"]).model, labels = ["cat", "dog", "pig"]
        let encoder = try ExampleEncoder(tokenizer, template: template, options: .init(masking: .lastAssistant))
        let rows = (0..<12).map { chat("question \($0)", [" dog", "cat\n", "pig"][$0 % 3], $0 + 1) }
        let result = try chooseLabels(model, rows, labels: labels, encoder, maxTokens: 100)
        #expect(result.right == (0..<12).map { [1, 0, 2][$0 % 3] })
        var chosen: [Int] = [], answers: [Double] = []
        for row in 0..<12 {
            let losses = try labels.map { label in
                let example = try encoder.encode(chat("question \(row)", label, 1)).example
                #expect(template != nil || example.trainedTokens == label.utf8.count + 1)
                #expect(example.trained.last == (template == nil))
                return direct(model, TokenizedDataset([example]))[0]
            }
            let sums = losses.map { $0.reduce(0, +) }
            chosen.append(sums.indices.min { sums[$0] < sums[$1] }!)
            answers += losses[result.right[row]]
        }
        let loss = answers.reduce(0, +) / Double(answers.count)
        #expect(abs(result.loss - loss) < 1e-5 * loss)
        #expect(result.chosen == chosen)
        #expect(Set(chosen).count > 1)
        #expect(result.correct == zip(chosen, result.right).count { $0 == $1 })
        #expect(result.accuracy == Double(result.correct) / 12)
    }

    /// Labels of which one makes a document that turns by other frequencies: each is scored as a document of its own.
    @Test func labelsOnBothSidesOfALength() throws {
        let encoder = try ExampleEncoder(tokenizer, options: .init(masking: .lastAssistant))
        let labels = ["cat", "a long answer"], rows = [chat("q", labels[0], 1), chat("q", labels[1], 2)]
        let examples = try rows.map { try encoder.encode($0).example }
        let scaling = TinyFamily.longRoPE.changing([
            "original_max_position_embeddings": .init(examples[0].ids.count)
        ])
        let model = try tinyModel(textConfig().changing(["rope_parameters": scaling]), scale: 1.2)
        let kinds = examples.map { model.rotationKinds(ofLength: $0.ids.count) }
        #expect(kinds[0] != kinds[1])
        let result = try chooseLabels(model, rows, labels: labels, encoder, maxTokens: 100)
        let losses = direct(model, TokenizedDataset(examples)).flatMap { $0 }
        let loss = losses.reduce(0, +) / Double(losses.count)
        #expect(abs(result.loss - loss) < 1e-5 * loss)
    }

    @Test func everyKindOfRowHasAnAnswer() throws {
        try writeScriptedFolder(folder["s"], "ab")
        let model = try load(folder["s"]).model, encoder = try ExampleEncoder(tokenizer, options: .init(format: .plain))
        let rows = [
            DataRow(.completion(prompt: "a", completion: "b"), location: place(1)),
            DataRow(.instruction(system: nil, instruction: "i", input: "", output: "c"), location: place(2)),
        ]
        // After "a" comes "b"; after the instruction's last line break nothing is likelier: the first of equals.
        let result = try chooseLabels(model, rows, labels: ["c", "b"], encoder, maxTokens: 100)
        #expect(result.right == [1, 0] && result.chosen == [1, 0] && result.accuracy == 1)
    }

    @Test func aRowWithAnotherAnswerIsNamed() throws {
        let model = try tinyModel(textConfig()), encoder = try ExampleEncoder(tokenizer)
        #expect(throws: UserError("rows.jsonl line 7: its answer maybe is none of yes, no")) {
            try chooseLabels(model, [chat("q", "maybe", 7)], labels: ["yes", "no"], encoder, maxTokens: 10)
        }
        #expect(throws: UserError("rows.jsonl line 8: no answer to choose; --choice needs rows that end with one")) {
            try chooseLabels(model, [DataRow(.text("t"), location: place(8))], labels: ["yes"], encoder, maxTokens: 10)
        }
    }

    /// 10 rows, 4 won and 1 lost: variance (5 - 9 / 10) / 100 = 0.041.
    @Test func theIntervalOfPairs() {
        let right = Array(repeating: 0, count: 10)
        let before = ChoiceResult(right: right, chosen: [0, 0, 0, 1, 1, 1, 1, 1, 1, 0], loss: 1)
        let after = ChoiceResult(right: right, chosen: [0, 0, 1, 0, 0, 0, 0, 1, 1, 0], loss: 1)
        #expect(before.correct == 4 && after.correct == 7)
        #expect(abs(pairedInterval(before, after) - 1.96 * 0.2024845673) < 1e-9)
        #expect(pairedInterval(before, before) == 0)
        #expect(pairedInterval(before, after) == pairedInterval(after, before))
    }

    @Test func questionsGoThroughTheTemplate() throws {
        #expect(
            try ChatPrompts(tokenizer).ids([["role": "user", "content": "hi"]])
                == tokenizer.encode("<s><|turn|>user\nhi</s><|turn|>assistant\n", addSpecialTokens: false))
        // The prompt ends in a line break; the script goes on from there.
        try writeScriptedFolder(folder["s"], "\nOK")
        let answers = try chatAnswers(load(folder["s"]), tokenizer, ChatPrompts(tokenizer), to: ["x", "y"], .init())
        #expect(answers.map(\.text) == ["OK", "OK"])
    }

    @Test func withoutATemplateThereIsNoChat() throws {
        let bare = try Tokenizer(tokenizerJSON: tinyTokenizerJSON, config: ["eos_token": "</s>"])
        #expect(throws: UserError("the model has no chat template; use --raw, or a model made for chat", .usage)) {
            try ChatPrompts(bare)
        }
    }
}
