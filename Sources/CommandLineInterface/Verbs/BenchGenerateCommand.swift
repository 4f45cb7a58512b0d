// needletail bench generate
public import ArgumentParser

/// Steps of generation.
public struct BenchGenerateCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "generate",
        abstract:
            "Measure generation: tokens a second, and the share of the memory bandwidth that reading weights takes.",
        discussion: """
            No answer ends early. --json prints one object with tokens_per_second (median step, all sequences), \
            gflops, share_of_gemm_peak, gemm_peak_gflops, bytes_per_step (weights read), read_bandwidth (bytes a \
            second, median of reading the weights alone between the steps), share_of_read_bandwidth (these six null \
            where a step is no single call), peak_memory_bytes, prompt_seconds, step_seconds (a list) and parts \
            (seconds of forward and sampling in the median step).

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

    @Option(help: "Divides the logits before drawing; 0 always takes the likeliest token.")
    public var temperature: Double = 0

    @Option(help: "Draw among the fewest tokens that hold this share of probability.")
    public var topP: Double = 1

    @OptionGroup public var options: BenchOptions

    public init() {}

    public func validate() throws {
        try require(batch > 0, "--batch is 1 or more, not \(batch)")
        try require(tokens > 0, "--tokens is 1 or more, not \(tokens)")
        try require(promptTokens > 0, "--prompt-tokens is 1 or more, not \(promptTokens)")
        try requireDrawing(temperature: temperature, topP: topP)
        try require(topP == 1 || temperature > 0, "--top-p has no effect at --temperature 0; give a temperature")
    }
}
