// score: the log-probability of every token of given rows.
import CommandLineInterface
import Datasets
import Diagnostics
import Formats
import Models
import Tensors
import Tokenizers

func score(_ command: ScoreCommand) throws {
    let input = try JSONLinesInput(command.input)
    let output = try LinesOutput(command.output)
    let model = try OpenModel(command.model)
    let rows = try ScoredRows(model)
    var waiting: [TokenizedExample] = []
    func flush() throws {
        if waiting.isEmpty { return }
        try model.loaded.logProbabilities(of: waiting.map(\.ids)).enumerated().forEach { i, logProbabilities in
            try output.write(scoreRow(waiting[i], logProbabilities).serialized())
        }
        waiting = []
    }
    while let (line, row) = try input.next() {
        waiting.append(try rows.example(row, RowLocation(file: input.name, unit: .line, number: line)))
        if waiting.count == command.batch { try flush() }
    }
    try flush()
    try output.finish()
}

/// `{"tokens", "logprobs", "mask", "sum", "mean"}`; the mean of no token is null.
private func scoreRow(_ example: TokenizedExample, _ logProbabilities: [Float]) -> JSONValue {
    var sum = 0.0
    for (i, value) in logProbabilities.enumerated() where example.trained[i + 1] { sum += Double(value) }
    let count = example.trained.count { $0 }
    return [
        "tokens": .array(example.ids.map { .init(Int($0)) }),
        "logprobs": .array([.null] + logProbabilities.map { .init(Double($0)) }),
        "mask": .array(example.trained.map { $0 ? 1 : 0 }), "sum": .init(sum),
        "mean": count == 0 ? .null : .init(sum / Double(count)),
    ]
}

extension LoadedModel {
    /// log p of every token but the first of each sequence.
    func logProbabilities(of sequences: [[Int32]]) -> [[Float]] {
        var labels: [Int32] = [], starts = [0]
        for ids in sequences {
            labels += ids.dropFirst() + [PackedBatch.ignoredLabel]
            starts.append(starts.last! + ids.count)
        }
        if sequences.allSatisfy({ $0.count == 1 }) { return sequences.map { _ in [] } }
        var values = model.logProbabilities(Array(sequences.joined()), labels: labels, documentStarts: starts).values(
            Float.self)[...]
        return sequences.map { ids in
            defer { values = values.dropFirst(ids.count - 1) }
            return Array(values.prefix(ids.count - 1))
        }
    }
}

/// Turns the rows that `score` accepts into tokens with a mask.
private struct ScoredRows {
    private let tokenizer: Tokenizer
    private let vocabSize: Int, contextLength: Int
    private let chats: ExampleEncoder?

    init(_ model: OpenModel) throws {
        tokenizer = model.tokenizer
        vocabSize = model.loaded.model.vocabSize
        contextLength = model.loaded.contextLength
        chats = tokenizer.chatTemplate == nil ? nil : try ExampleEncoder(tokenizer)
    }

    func example(_ row: JSONValue, _ location: RowLocation) throws -> TokenizedExample {
        let example = try tokens(row, location)
        guard !example.ids.isEmpty else { throw UserError("\(location): no tokens to score") }
        guard example.ids.count <= contextLength else {
            throw UserError(
                "\(location): \(counted(example.ids.count, "token")); the model's context is \(contextLength)")
        }
        return example
    }

    private func tokens(_ row: JSONValue, _ location: RowLocation) throws -> TokenizedExample {
        if let text = row["text"] {
            let ids = tokenizer.encode(try string(text, "text", location))
            return TokenizedExample(ids: ids, trained: ids.map { _ in true }, source: location)
        }
        if let list = row["input_ids"] { return try given(list, location) }
        if let prompt = row["prompt"] {
            guard let completion = row["completion"] else {
                throw UserError("\(location): \"prompt\" without \"completion\"")
            }
            let head = try string(prompt, "prompt", location)
            let encoding = tokenizer.encoding(of: head + (try string(completion, "completion", location)))
            let boundary = head.unicodeScalars.count
            let trained = encoding.offsets.map { $0.lowerBound >= boundary && !$0.isEmpty }
            return TokenizedExample(ids: encoding.ids, trained: trained, source: location)
        }
        if row["messages"] != nil { return try chat(row, location) }
        let found =
            row.object.map { "found " + $0.keys.map { "\"\($0)\"" }.joined(separator: ", ") }
            ?? "the row is \(row.kind)"
        throw UserError("\(location): no \"text\", \"prompt\", \"messages\" or \"input_ids\"; \(found)")
    }

    private func string(_ value: JSONValue, _ key: String, _ location: RowLocation) throws -> String {
        guard let text = value.string else {
            throw UserError("\(location): \"\(key)\" is \(value.kind); a string is needed")
        }
        return text
    }

    private func given(_ list: JSONValue, _ location: RowLocation) throws -> TokenizedExample {
        guard let items = list.array else {
            throw UserError("\(location): \"input_ids\" is \(list.kind); a list of ids is needed")
        }
        let ids = try items.map { item -> Int32 in
            guard let id = item.int, (0..<vocabSize).contains(id) else {
                throw UserError(
                    "\(location): \(item.serialized().prefix(40)) in \"input_ids\" is no id below \(vocabSize)")
            }
            return Int32(id)
        }
        return TokenizedExample(ids: ids, trained: ids.map { _ in true }, source: location)
    }

    private func chat(_ row: JSONValue, _ location: RowLocation) throws -> TokenizedExample {
        guard let chats else {
            throw UserError("\(location): \"messages\" need a chat template, and the model has none")
        }
        return try chats.encode(DataRow(parsing: row, as: .chat, location: location)).example
    }
}
