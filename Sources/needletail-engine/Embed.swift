// embed: a vector for each of given texts; and the vectors of `data decontaminate`.
import CommandLineInterface
import Datasets
import Diagnostics
import Formats
import Models
import RunLog
import Tensors

func embed(_ command: EmbedCommand) throws {
    let input = try JSONLinesInput(command.input)
    let output = try LinesOutput(command.output)
    let device = try engineDevice(command.compute.device)
    let encoder = try SentenceEncoder(
        folder: command.model, dtype: command.compute.dtype.dtype(on: device), device: device,
        pooling: command.pooling.map { Pooling(rawValue: $0.rawValue)! }, normalizes: command.normalize)
    var waiting: [[Int32]] = [], cut = 0, count = 0
    func flush() throws {
        for (ids, vector) in zip(waiting, encoder.vectors(waiting)) {
            let row: JSONValue = ["embedding": .array(vector.map { .init(Double($0)) }), "tokens": .init(ids.count)]
            try output.write(row.serialized())
        }
        waiting = []
    }
    while let (line, row) = try input.next() {
        let location = RowLocation(file: input.name, unit: .line, number: line)
        guard let text = row["text"]?.string else { throw UserError("\(location): a string under \"text\" is needed") }
        let (ids, leftOut) = try encoder.tokens(of: text)
        guard !ids.isEmpty else { throw UserError("\(location): a text without tokens") }
        if leftOut > 0 { cut += 1 }
        count += 1
        waiting.append(ids)
        if waiting.count == command.batch { try flush() }
    }
    try flush()
    try output.finish()
    if cut > 0 {
        ProgressLine.print(
            "\(cut) of \(counted(count, "text")) had more than \(encoder.longestText) tokens and were cut")
    }
}

func decontaminate(_ command: DataCommand.Decontaminate) throws {
    let encoder = try command.encoder.map { try SentenceEncoder(folder: $0) }
    try command.run(
        vectors: encoder.map { encoder in
            { texts in
                let tokens = try texts.map { try encoder.tokens(of: $0).ids }
                return stride(from: 0, to: tokens.count, by: 32).flatMap { start in
                    encoder.vectors(Array(tokens[start..<min(start + 32, tokens.count)]))
                }
            }
        })
}
