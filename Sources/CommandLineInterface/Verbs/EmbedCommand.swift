// needletail embed
public import ArgumentParser

/// Writes a vector for each of given texts.
public struct EmbedCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "embed",
        abstract: "Write a vector for each of given texts.",
        discussion: """
            The model is a folder of BERT or of MiniLM and its like, with what sentence-transformers writes beside it \
            (modules.json), which says how a text's vector is made of its tokens'. Rows are {"text"}, one a line. Each gives \
            a line:

              {"embedding":[0.0134,-0.0721,0.0368],"tokens":9}

            Texts longer than the model reads are cut, and the number of them is said at the end.

            Example:
              needletail embed ./all-MiniLM-L6-v2 --input texts.jsonl --output vectors.jsonl
            """
    )

    @Argument(
        help: ArgumentHelp("A Hugging Face folder of a BERT model with its tokenizer.", valueName: "model"),
        completion: .directory)
    public var model: String

    @Option(help: ArgumentHelp("The rows; '-' is standard input.", valueName: "file"), completion: .file())
    public var input: String

    @Option(help: ArgumentHelp("Where the lines go; '-' is standard output.", valueName: "file"), completion: .file())
    public var output: String

    @Option(
        help: ArgumentHelp(
            "mean of the tokens, cls (the first) or pooler (the first through the model's pooler); when not given, what the "
                + "folder says, else mean.", valueName: "way"))
    public var pooling: PoolingName?

    @Flag(inversion: .prefixedNo, help: "Divide vectors by their length; when not given, as the folder says.")
    public var normalize: Bool?

    @Option(help: ArgumentHelp("Texts computed at a time.", valueName: "texts"))
    public var batch: Int = 32

    @OptionGroup public var compute: ComputeOptions
    @OptionGroup public var workers: ThreadOptions

    public init() {}

    public func validate() throws { try require(batch > 0, "--batch is 1 or more, not \(batch)") }
}

/// How a text's vector is made of its tokens'.
public enum PoolingName: String, CaseIterable, ExpressibleByArgument, Sendable {
    case mean, cls, pooler
}
