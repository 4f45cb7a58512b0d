// needletail convert, needletail merge-adapter
public import ArgumentParser

/// Writes a model as a Hugging Face folder.
public struct ConvertCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "convert",
        abstract: "Write a model as a Hugging Face folder (safetensors, tokenizer, chat template).",
        discussion: """
            Quantised weights are dequantised; an adapter stays out (see merge-adapter). The folder is complete or \
            absent, and one that exists is left alone.

            Example:
              needletail convert model.gguf ./SmolLM2-135M-Instruct --dtype bf16
            """
    )

    @Argument(help: ArgumentHelp("A GGUF file or a Hugging Face folder.", valueName: "model"), completion: .file())
    public var model: String

    @Argument(help: ArgumentHelp("The folder to write; must not exist.", valueName: "folder"), completion: .directory)
    public var output: String

    @Option(help: "Number format of the weights.")
    public var dtype: StorageType = .fp32

    @OptionGroup public var workers: ThreadOptions

    public init() {}
}

/// Folds an adapter into its base.
public struct MergeAdapterCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "merge-adapter",
        abstract: "Fold an adapter into its base and write a Hugging Face folder.",
        discussion: """
            An adapter that was trained on a quantised base (model.quantize) is folded into the base as it was before; \
            with --quantize into the quantised numbers, so that the result computes exactly what was trained.

            Example:
              needletail merge-adapter runs/demo/adapter runs/demo/merged-again --dtype fp32
            """
    )

    @Argument(help: ArgumentHelp("An adapter or run folder.", valueName: "adapter"), completion: .directory)
    public var adapter: String

    @Argument(help: ArgumentHelp("The folder to write; must not exist.", valueName: "folder"), completion: .directory)
    public var output: String

    @Option(
        help: ArgumentHelp("The base model, when adapter_config.json does not lead to it.", valueName: "model"),
        completion: .file())
    public var base: String?

    @Option(help: "Number format of the weights.")
    public var dtype: StorageType = .fp32

    @Option(
        help: ArgumentHelp("Fold into the base's numbers after this quantisation: \(BaseForm.list).", valueName: "form")
    )
    public var quantize: BaseForm?

    @OptionGroup public var workers: ThreadOptions

    public init() {}
}
