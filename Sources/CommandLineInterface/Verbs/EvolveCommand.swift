// needletail evolve: run (what `evolve CONFIG` means), plot
public import ArgumentParser

/// Iterated merging, or a search over merge parameters.
public struct EvolveCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "evolve",
        abstract: "Merge models again and again by score and kinship, or search the parameters of a merge.",
        discussion: """
            `needletail evolve CONFIG` is short for evolve run. Options: needletail evolve run --help.

            Example:
              needletail evolve family.yaml strategy=kinship max_generations=4
            """,
        subcommands: [EvolveRunCommand.self, EvolvePlotCommand.self], defaultSubcommand: EvolveRunCommand.self)

    public init() {}
}

/// One run.
public struct EvolveRunCommand: EngineCommand {
    public static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Run a config, or go on where it stopped.",
        discussion: """
            The config names base, foundations, merge and evaluate.tasks; settings may be changed with key=value. \
            search: iterate merges the best pairs, generation by generation (strategy greedy, kinship or random). \
            search: cma_es looks for the parameters of one merge in memory and keeps the best as a mergekit file. \
            The run folder holds journal, tables, plots and children; the same command goes on after a kill. The last \
            line on standard output is one JSON object: the best model, and the correlations of the parents' kinship \
            with gain, |gain| and parents_atpd, the mean over the tasks of |score - score| between the parents.

            Example:
              needletail evolve run family.yaml strategy=kinship max_generations=4
            """
    )

    @Argument(help: ArgumentHelp("A YAML config (recipe: evolve).", valueName: "config"), completion: .file())
    public var config: String

    @Argument(help: ArgumentHelp("Changes to the config.", valueName: "key=value"))
    public var overrides: [String] = []

    @OptionGroup public var workers: ThreadOptions

    public init() {}

    public func check() throws { try requireOverrides(overrides) }

    /// Changes to the config, `--threads` among them.
    public var settings: [String] { overrides + workers.settings }
}

/// Runs side by side.
public struct EvolvePlotCommand: EngineCommand {
    public static let configuration = CommandConfiguration(
        commandName: "plot",
        abstract: "Draw the best score by generation of several runs in one plot.",
        discussion: """
            For strategies, or any other settings, that were run on the same foundations and tasks. A table with a \
            column for each run goes to standard output.

            Example:
              needletail evolve plot runs/greedy runs/kinship --output strategies.svg
            """
    )

    @Argument(help: ArgumentHelp("Run folders (search: iterate).", valueName: "run"), completion: .directory)
    public var runs: [String]

    @Option(help: ArgumentHelp("The picture (SVG); must not exist.", valueName: "file"), completion: .file())
    public var output: String

    public init() {}

    public func validate() throws {
        try require(Set(runs).count == runs.count, "a run is named twice")
    }
}
