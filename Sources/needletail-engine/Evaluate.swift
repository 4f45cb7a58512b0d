// eval: loss and perplexity, or accuracy among labels.
import CommandLineInterface
import Datasets
import Diagnostics
import Evaluation
import Formats
import Glibc
import Models
import RunLog

func evaluate(_ command: EvalCommand) throws {
    let rows = try command.rows.rows(command.data)
    let used = try rows.indices.prefix(command.limit ?? rows.count).map { try rows[$0] }
    let model = try OpenModel(command.model)
    let encoder = try ExampleEncoder(
        model.tokenizer, template: command.rows.templateSource(),
        options: .init(
            masking: command.choice.isEmpty ? .assistant : .lastAssistant, maxLength: model.loaded.contextLength,
            truncation: .drop))
    let examples = TokenizedDataset(try used.map { try encoder.encode($0).example })
    guard examples.trainedTokens > 0 else {
        throw UserError("\(command.data): no token to judge: rows need an answer or text")
    }
    let longest = examples.indices.map(examples.length).max()!
    let maxTokens = max(longest, min(4096, longest * command.batch))
    let loss = averageLoss(model.loaded.model, examples, maxTokens: maxTokens)
    var result = JSONObject([
        ("rows", .init(examples.count)), ("tokens", .init(examples.trainedTokens)), ("loss", .init(loss)),
        ("perplexity", .init(exp(loss))),
    ])
    if !command.choice.isEmpty {
        let choices = try chooseLabels(model.loaded.model, used, labels: command.choice, encoder, maxTokens: maxTokens)
        result["accuracy"] = .init(choices.accuracy)
        result["correct"] = .init(choices.correct)
    }
    try StandardOutput.write(command.json ? JSONValue.object(result).serialized() + "\n" : report(result))
}

private func report(_ result: JSONObject) -> String {
    result.map { name, value in
        name + String(repeating: " ", count: 14 - name.utf8.count)
            + (value.int.map(grouped) ?? decimals(value.double!, 4)) + "\n"
    }.joined()
}
