// needletail train
public import ArgumentParser

/// Runs the recipe that a config file names; goes on where the run stopped when its folder exists.
public struct TrainCommand: EngineCommand {
    public static let configuration = CommandConfiguration(
        commandName: "train",
        abstract: "Train as a config file says; resume when its run folder exists.",
        discussion: """
            Settings in the file may be changed with key=value; `needletail recipes ls` lists files to start from. \
            Ctrl-C saves and ends with 130, SIGTERM saves and ends with 75, SIGUSR1 saves and goes on.

            Example:
              needletail train my-run.yaml training.epochs=3 output=runs/longer
            """
    )

    @Argument(help: ArgumentHelp("A YAML config, or the name of a recipe.", valueName: "config"), completion: .file())
    public var config: String

    @Argument(help: ArgumentHelp("Changes to the config.", valueName: "key=value"))
    public var overrides: [String] = []

    @Flag(help: "Check the config, the data and the model, print what would run, and stop before the first step.")
    public var dryRun = false

    @Option(help: ArgumentHelp(TrainCommand.limitHelp, valueName: "rows"))
    public var limit: Int?

    static let limitHelp: String =
        "Train on this many rows at most, drawn by data.seed; held-out rows stay as many as without it."

    @OptionGroup public var workers: ThreadOptions

    public init() {}

    public func validate() throws { try require(limit ?? 1 > 0, "--limit is 1 or more, not \(limit ?? 0)") }

    public func check() throws { try requireOverrides(overrides) }

    /// Changes to the config, `--limit` and `--threads` among them; a setting given both ways is there twice.
    public var settings: [String] { overrides + (limit.map { ["data.limit=\($0)"] } ?? []) + workers.settings }
}
