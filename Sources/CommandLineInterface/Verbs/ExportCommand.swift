// needletail export, needletail quantize
public import ArgumentParser

/// Types of the matrices in a GGUF file that is written.
public enum GGUFOutputType: String, CaseIterable, ExpressibleByArgument, Sendable {
    case f32, f16, bf16
    case q8_0, q4_0
    case q4_k, q5_k, q6_k
}

/// Writes a model as a GGUF file.
public struct ExportCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Write a model as a GGUF file, for llama.cpp and programs built on it.",
        discussion: """
            Tokenizer and chat template go into the file; an adapter is merged into its base. Every matrix gets the type \
            that --type names (there are no mixtures such as Q4_K_M); one whose rows are not whole blocks of it gets q8_0, \
            or f16; vectors stay in 32 bits. The file is then opened again, and a text is computed with both models in \
            fp32: the largest difference between their log-probabilities is printed. What GGUF or llama.cpp cannot \
            express is refused. The file is complete or absent, and one that exists is left alone.

            Example:
              needletail export runs/demo demo.gguf --type q8_0
            """
    )

    @Argument(
        help: ArgumentHelp(
            "A Hugging Face folder, an adapter or run folder (Llama, Mistral, Qwen2 and 3, OLMo 2, Phi-3, Gemma 2 and 3, "
                + "GPT-NeoX, GPT-2).", valueName: "model"), completion: .directory)
    public var model: String

    @Argument(help: ArgumentHelp("The file to write; must not exist.", valueName: "file"), completion: .file())
    public var output: String

    @Option(help: "Type of the matrices.")
    public var type: GGUFOutputType = .f16

    @Option(
        help: ArgumentHelp("The base model, when adapter_config.json does not lead to it.", valueName: "model"),
        completion: .file())
    public var base: String?

    @OptionGroup public var workers: ThreadOptions

    public init() {}
}

/// Writes a GGUF file of another type.
public struct QuantizeCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "quantize",
        abstract: "Write a GGUF file, or a model folder, as a GGUF file of another type.",
        discussion: """
            Of a GGUF file everything but the matrices stays as it is. Blocks are those that llama.cpp makes without an \
            importance matrix, bit for bit; every matrix gets the type that --type names, one whose rows are not whole \
            blocks of it q8_0, or f16. As after export, the largest difference to the source is printed. The file is \
            complete or absent, and one that exists is left alone.

            Example:
              needletail quantize demo-f16.gguf demo-q4_k.gguf --type q4_k
            """
    )

    @Argument(
        help: ArgumentHelp("A GGUF file, or a folder as export takes it.", valueName: "model"), completion: .file())
    public var model: String

    @Argument(help: ArgumentHelp("The file to write; must not exist.", valueName: "file"), completion: .file())
    public var output: String

    @Option(help: "Type of the matrices.")
    public var type: GGUFOutputType

    @Option(
        help: ArgumentHelp("The base model, when adapter_config.json does not lead to it.", valueName: "model"),
        completion: .file())
    public var base: String?

    @OptionGroup public var workers: ThreadOptions

    public init() {}
}
