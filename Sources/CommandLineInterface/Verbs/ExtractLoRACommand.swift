// needletail extract-lora
public import ArgumentParser

/// Takes an adapter out of a fine-tuned model.
public struct ExtractLoRACommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "extract-lora",
        abstract: "Take a LoRA adapter out of a fine-tuned model and its base.",
        discussion: """
            The difference of every linear map is cut to its largest singular values: no adapter of that rank is nearer. \
            Changed token tables are saved whole; changed norms and biases are named, since no adapter holds them. The \
            share of each difference's norm that is kept goes to standard output. Tensors whose numbers one model only \
            stores in fewer digits (bf16 beside fp32) count as unchanged, and are counted there.

            Example:
              needletail extract-lora ./tuned ./adapter --base ./base --rank 16
            """)

    @Argument(help: ArgumentHelp("The fine-tuned model.", valueName: "model"), completion: .file())
    public var model: String

    @Argument(help: ArgumentHelp("The adapter's folder; must not exist.", valueName: "out"), completion: .directory)
    public var output: String

    @Option(help: ArgumentHelp("The model it was fine-tuned from.", valueName: "model"), completion: .file())
    public var base: String

    @Option(help: ArgumentHelp("Rank of the adapter.", valueName: "number"))
    public var rank: Int = 32

    @Option(
        help: ArgumentHelp(
            "In place of --rank: the smallest rank at which every map keeps this share of its norm, as 0.95.",
            valueName: "share"))
    public var keepShare: Double?

    @Option(help: ArgumentHelp("Largest rank, given or found.", valueName: "number"))
    public var maxRank: Int = 128

    @Flag(help: "Leave changed token tables out.")
    public var skipTables = false

    @Flag(help: "One JSON object instead of text.")
    public var json = false

    @OptionGroup public var workers: ThreadOptions

    public init() {}

    public func validate() throws {
        try require(maxRank > 0, "--max-rank is 1 or more, not \(maxRank)")
        try require(
            keepShare != nil || (1...maxRank).contains(rank),
            "--rank is 1 to \(maxRank), not \(rank); --max-rank sets the limit")
        try require(
            keepShare.map { $0 > 0 && $0 <= 1 } ?? true, "--keep-share is above 0 and at most 1, not \(keepShare ?? 0)")
    }
}
