// needletail demo
public import ArgumentParser

/// The demonstration of `make demo`.
public struct DemoCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Teach a small real model to tell sarcastic from sincere headlines.",
        discussion: """
            `make demo` fetches the model and the rows and runs this. A second run says what is there; --redo starts \
            over; an interrupted one goes on where it stopped.

            Example:
              needletail demo --output runs/demo
            """
    )

    @Option(help: ArgumentHelp("The model.", valueName: "model"), completion: .file())
    public var model: String = ".deps/demo/SmolLM2-135M-Instruct.Q4_1.gguf"

    @Option(help: ArgumentHelp("The labelled headlines.", valueName: "file"), completion: .file())
    public var data: String = ".deps/demo/sarcasm.jsonl"

    @Option(help: ArgumentHelp("The run folder.", valueName: "folder"), completion: .directory)
    public var output: String = "runs/demo"

    @Flag(help: "Remove the run folder and start over.")
    public var redo = false

    @Option(help: "Number format of the training; auto is bf16 where it is fast. Judging is in fp32.")
    public var dtype: ComputeType = .auto

    @OptionGroup public var workers: ThreadOptions

    public init() {}
}
