// needletail finetune
public import ArgumentParser
internal import RunConfig

/// The common case of `train` without a config file.
public struct FinetuneCommand: EngineCommand {
    public static let configuration = CommandConfiguration(
        commandName: "finetune",
        abstract: "Fine-tune a model on a file of rows, without a config file.",
        discussion: """
            DATA is JSONL, JSON, CSV or plain text. The config this amounts to is printed (with --dry-run on standard \
            output) and saved as config.yaml of the run folder, so that `needletail train` can repeat or change it. \
            Run the same command again to resume.

            Example:
              needletail finetune ./SmolLM2-135M-Instruct chats.jsonl training.epochs=2
            """
    )

    @Argument(
        help: ArgumentHelp("The model to start from: a folder or a GGUF file.", valueName: "model"), completion: .file()
    )
    public var model: String

    @Argument(
        help: ArgumentHelp("Rows to learn from: chats, instructions or text.", valueName: "data"), completion: .file())
    public var data: String

    @Argument(help: ArgumentHelp("Changes to the config.", valueName: "key=value"))
    public var overrides: [String] = []

    @Option(help: "What is trained: all weights (full), or an adapter of one of three kinds; default: lora.")
    public var method: Method?

    @Option(
        help: ArgumentHelp("The run folder. (default: \(FinetuneCommand.defaultOutput))", valueName: "folder"),
        completion: .directory)
    public var output: String?

    static let defaultOutput = "runs/finetune"

    @Flag(help: "Check config, data and model, print what would run, and stop before the first step.")
    public var dryRun = false

    @Option(help: ArgumentHelp(TrainCommand.limitHelp, valueName: "rows"))
    public var limit: Int?

    @OptionGroup public var workers: ThreadOptions

    /// What is trained.
    public enum Method: String, CaseIterable, ExpressibleByArgument, Sendable { case full, lora, rslora, dora }

    public init() {}

    public func validate() throws { try require(limit ?? 1 > 0, "--limit is 1 or more, not \(limit ?? 0)") }

    public func check() throws { try requireOverrides(overrides) }

    /// What the command amounts to as `key=value`; a setting given both as option and as `key=value` is there twice.
    public var settings: [String] {
        var settings = ["model.path=\(yamlText(model))", "data.train=[\(yamlText(data))]"]
        if let method { settings.append("adapter.method=\(method.rawValue)") }
        if let output {
            settings.append("output=\(yamlText(output))")
        } else if !overrides.contains(where: { $0.hasPrefix("output=") }) {
            settings.append("output=\(yamlText(Self.defaultOutput))")
        }
        if let limit { settings.append("data.limit=\(limit)") }
        settings += workers.settings
        return settings + overrides
    }
}
