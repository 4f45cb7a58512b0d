// needletail score
public import ArgumentParser

/// Writes the log-probability of every token of given rows.
public struct ScoreCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "score",
        abstract: "Write the log-probability of every token of given rows.",
        discussion: """
            Rows are {"text"}, {"prompt","completion"}, {"messages"} or {"input_ids"}, one a line. Each gives a line:

              {"tokens":[504,3575,282],
               "logprobs":[null,-11.539300918579102,-0.3376140594482422],
               "mask":[0,1,1],"sum":-11.876914978027344,"mean":-5.938457489013672}

            (on one line). Natural logarithm; the mask marks what sum and mean run over: completion tokens, assistant \
            tokens of messages, else all but the first. Special tokens are added as the tokenizer's own files say.

            Prompt and completion are joined as they stand, while training puts them into the model's chat template as a \
            user's and an assistant's turn, if it has one; to score what was trained give messages.

            Example:
              needletail score ./SmolLM2-135M-Instruct --input rows.jsonl --output -
            """
    )

    @OptionGroup public var model: ModelOptions

    @Option(help: ArgumentHelp("The rows; '-' is standard input.", valueName: "file"), completion: .file())
    public var input: String

    @Option(help: ArgumentHelp("Where the lines go; '-' is standard output.", valueName: "file"), completion: .file())
    public var output: String

    @Option(help: ArgumentHelp("Rows computed at a time.", valueName: "rows"))
    public var batch: Int = 1

    @OptionGroup public var workers: ThreadOptions

    public init() {}

    public func validate() throws { try require(batch > 0, "--batch is 1 or more, not \(batch)") }
}
