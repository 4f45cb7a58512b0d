// needletail generate
public import ArgumentParser

/// Answers prompts.
public struct GenerateCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "generate",
        abstract: "Answer a prompt, or a file of prompts.",
        discussion: """
            A model with a chat template is asked through it; --raw continues the text as it stands. Rows of --input \
            are {"prompt": "..."} or {"messages": [...]}, answered in their order.

            --json and --input write one line an answer; finish_reason is end, stop or length:

              {"text":"The capital of France is Paris.",
               "tokens":[504,3575,282,4649,314,7042,30,2],"finish_reason":"end"}

            (on one line).

            Example:
              needletail generate ./SmolLM2-135M-Instruct "Name a bird." --temperature 0
            """
    )

    @OptionGroup public var model: ModelOptions

    @Option(
        help: """
            Weights of a GGUF file: converted to --dtype, or as-is, multiplied in the file's blocks where kernels take \
            them (cpu only).
            """)
    public var weights: WeightForm = .converted

    @Argument(help: "The prompt; '-' reads it from standard input.")
    public var prompt: String?

    @Option(
        help: ArgumentHelp("Prompts as JSONL instead; '-' is standard input.", valueName: "file"), completion: .file())
    public var input: String?

    @Option(help: ArgumentHelp("Where answers go; '-' is standard output.", valueName: "file"), completion: .file())
    public var output: String = "-"

    @Option(help: ArgumentHelp("A system message before each prompt.", valueName: "text"))
    public var system: String?

    @Flag(help: "Continue the text as it stands, without the chat template.")
    public var raw = false

    @Flag(help: "Write answers as JSON lines.")
    public var json = false

    @Option(help: ArgumentHelp("Answer this many prompts of --input at a time.", valueName: "prompts"))
    public var batch: Int = 8

    @OptionGroup public var workers: ThreadOptions

    @OptionGroup(title: "Sampling") public var sampling: SamplingOptions

    public init() {}

    public func validate() throws {
        try require((prompt == nil) != (input == nil), "give either a prompt or --input FILE")
        try require(!(raw && system != nil), "--system has no place in --raw text; leave one of them out")
        try require(batch > 0, "--batch is 1 or more, not \(batch)")
    }
}
