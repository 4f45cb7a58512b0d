// needletail eval
public import ArgumentParser

/// Judges a model on rows.
public struct EvalCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "eval",
        abstract: "Judge a model on rows: loss and perplexity, or accuracy among labelled choices.",
        discussion: """
            Without --choice: loss in nats per token and perplexity over the tokens that training would learn. \
            With --choice, given once per label: each row's last answer is its label, every label is scored in its \
            place by its summed log-probability, and the likeliest is the model's answer.

            --json writes one object, the last two members with --choice only:

              {"rows":20,"tokens":68,"loss":2.4346609396093033,
               "perplexity":11.41194871753209,"accuracy":0.4,"correct":8}

            (on one line).

            Example:
              needletail eval runs/demo news.jsonl --choice sarcastic --choice sincere
            """
    )

    @OptionGroup public var model: ModelOptions

    @Argument(
        help: ArgumentHelp(
            "Rows: JSONL, JSON, CSV, TSV, Parquet, Arrow or text, also .gz and .zst.", valueName: "data"),
        completion: .file())
    public var data: String

    @OptionGroup public var rows: RowKindOptions

    @Option(help: ArgumentHelp("A label the answer is chosen from; give it once per label.", valueName: "label"))
    public var choice: [String] = []

    @Option(help: ArgumentHelp("Use only the first rows.", valueName: "rows"))
    public var limit: Int?

    @Option(help: ArgumentHelp("Rows computed at a time.", valueName: "rows"))
    public var batch: Int = 8

    @Flag(help: "Write the result as JSON.")
    public var json = false

    @OptionGroup public var workers: ThreadOptions

    public init() {}

    public func validate() throws {
        try require(choice.count != 1, "--choice needs at least two labels; give it once per label")
        try require(Set(choice).count == choice.count, "--choice names a label twice")
        try require(limit ?? 1 > 0, "--limit is 1 or more, not \(limit ?? 0)")
        try require(batch > 0, "--batch is 1 or more, not \(batch)")
    }
}
