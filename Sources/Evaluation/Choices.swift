// Which of several labels a model takes for the answer, by log-probability.
public import Datasets
internal import Diagnostics
internal import Formats
public import Models

/// What a model answered to rows with a label.
public struct ChoiceResult: Sendable, Equatable {
    /// Index of the right label and of the likeliest one, by row.
    public var right: [Int], chosen: [Int]
    /// Mean of -log p over the tokens of the right answers, nats a token.
    public var loss: Double

    package init(right: [Int], chosen: [Int], loss: Double) {
        (self.right, self.chosen, self.loss) = (right, chosen, loss)
    }

    public var correct: Int { zip(right, chosen).count { $0 == $1 } }
    public var accuracy: Double { Double(correct) / Double(right.count) }
}

/// Scores every label in the place of each row's last answer; the one with the highest summed log-probability of its
/// trained tokens is chosen, of equal ones the first.
///
/// - Parameters:
///   - rows: chats that end with one of the labels.
///   - encoder: masks all but the last answer, so that all else cancels.
/// - Throws: `UserError` naming a row whose answer is none of the labels, or `BadRow`.
public func chooseLabels(
    _ model: any CausalLanguageModel, _ rows: [DataRow], labels: [String], _ encoder: ExampleEncoder, maxTokens: Int
) throws -> ChoiceResult {
    var groups: [[TokenizedExample]] = [], right: [Int] = []
    for row in rows {
        guard let (answer, replaced) = row.replacingAnswer() else {
            throw UserError("\(row.location): no answer to choose; --choice needs rows that end with one")
        }
        let wanted = trimmed(answer)
        guard let index = labels.firstIndex(where: { ExactString($0) == ExactString(wanted) }) else {
            throw UserError(
                "\(row.location): its answer \(escapedForDisplay(String(answer.prefix(40)))) is none of \(labels.joined(separator: ", "))"
            )
        }
        right.append(index)
        groups.append(try labels.map { try encoder.encode(replaced($0)).example })
    }
    let scores = alternativeLogProbabilities(model, groups, maxTokens: maxTokens).map { $0.map { $0.map(Double.init) } }
    let sums = scores.map { $0.map { $0.reduce(0, +) } }
    let chosen = sums.map { row in labels.indices.max { (row[$0], $1) < (row[$1], $0) }! }
    let answers = zip(scores, right).map { $0[$1] }
    let loss = -answers.joined().reduce(0, +) / Double(answers.reduce(0) { $0 + $1.count })
    return ChoiceResult(right: right, chosen: chosen, loss: loss)
}

extension DataRow {
    /// The last answer, and the row with another in its place; nil when the row ends otherwise.
    func replacingAnswer() -> (answer: String, with: (String) -> DataRow)? {
        switch content {
        case .chat(var messages, let tools):
            guard let last = messages.last, last.role == .assistant else { return nil }
            return (
                last.content,
                { label in
                    messages[messages.count - 1] = ChatMessage(role: .assistant, content: label)
                    return DataRow(.chat(messages, tools: tools), location: location)
                }
            )
        case .instruction(let system, let instruction, let input, let output):
            return (
                output,
                {
                    DataRow(
                        .instruction(system: system, instruction: instruction, input: input, output: $0),
                        location: location)
                }
            )
        case .completion(let prompt, let completion):
            return (completion, { DataRow(.completion(prompt: prompt, completion: $0), location: location) })
        case .text, .task: return nil
        }
    }
}

private func trimmed(_ text: String) -> String {
    let scalars = Array(text.unicodeScalars)
    let kept = scalars.drop { $0.properties.isWhitespace }.reversed().drop { $0.properties.isWhitespace }.reversed()
    var view = String.UnicodeScalarView()
    view.append(contentsOf: kept)
    return String(view)
}

/// Half-width of the 95 % confidence interval of the difference of two accuracies on the same rows (normal
/// approximation to McNemar's paired counts: variance (b + c - (b - c)²/n) / n²).
public func pairedInterval(_ before: ChoiceResult, _ after: ChoiceResult) -> Double {
    let n = Double(before.right.count)
    let won = Double(
        before.right.indices.count { before.chosen[$0] != before.right[$0] && after.chosen[$0] == after.right[$0] })
    let lost = Double(
        before.right.indices.count { before.chosen[$0] == before.right[$0] && after.chosen[$0] != after.right[$0] })
    return 1.96 * ((won + lost - (won - lost) * (won - lost) / n) / (n * n)).squareRoot()
}
