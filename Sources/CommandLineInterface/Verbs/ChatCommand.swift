// needletail chat
public import ArgumentParser

/// Talks with a model.
public struct ChatCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "chat",
        abstract: "Talk with a model, one line at a time.",
        discussion: """
            An empty line or end of input ends the talk; /reset forgets it. Ctrl-C stops an answer.

            Example:
              needletail chat runs/demo --temperature 0.7
            """
    )

    @OptionGroup public var model: ModelOptions

    @Option(
        help: """
            Weights of a GGUF file: converted to --dtype, or as-is, multiplied in the file's blocks where kernels take \
            them (cpu only).
            """)
    public var weights: WeightForm = .converted

    @Option(help: ArgumentHelp("A system message that opens the talk.", valueName: "text"))
    public var system: String?

    @OptionGroup public var workers: ThreadOptions

    @OptionGroup(title: "Sampling") public var sampling: SamplingOptions

    public init() {}
}
