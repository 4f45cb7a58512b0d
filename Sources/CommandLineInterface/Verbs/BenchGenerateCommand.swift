// needletail bench generate
public import ArgumentParser

/// Steps of generation.
public struct BenchGenerateCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "generate",
        abstract:
            "Measure generation: tokens a second, and the share of the memory bandwidth that reading weights takes.",
        discussion: """
            The likeliest token is taken, and no answer ends early. --json prints one object with tokens_per_second \
            (median step, all sequences), step_seconds (a list), prompt_seconds, bytes_per_step (weights read), \
            read_bandwidth (bytes a second, median of reading the weights alone between the steps), \
            share_of_read_bandwidth (these three null where a step is no single call, as on other devices) and \
            peak_memory_bytes.

            Example:
              needletail bench generate --model ./SmolLM2-135M-Instruct --batch 16
            """)

    @Option(
        help: ArgumentHelp("What generate takes, or a config.json alone: random weights.", valueName: "model"),
        completion: .file())
    public var model: String

    @Option(help: "Weights of a GGUF file: converted to --dtype, or as-is, in the file's blocks where possible.")
    public var weights: WeightForm = .converted

    @Option(help: "Sequences written at a time.")
    public var batch: Int = 1

    @Option(help: ArgumentHelp("Tokens written in each sequence.", valueName: "count"))
    public var tokens: Int = 128

    @Option(help: ArgumentHelp("Tokens of a prompt.", valueName: "count"))
    public var promptTokens: Int = 16

    @OptionGroup public var options: BenchOptions

    public init() {}

    public func validate() throws {
        try require(batch > 0, "--batch is 1 or more, not \(batch)")
        try require(tokens > 0, "--tokens is 1 or more, not \(tokens)")
        try require(promptTokens > 0, "--prompt-tokens is 1 or more, not \(promptTokens)")
    }
}
