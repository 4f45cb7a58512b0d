// needletail evolve
public import ArgumentParser

/// Iterated merging, or a search over merge parameters.
public struct EvolveCommand: EngineCommand {
    public static let configuration = CommandConfiguration(
        commandName: "evolve",
        abstract: "Merge models again and again by score and kinship, or search the parameters of a merge.",
        discussion: """
            The config names base, foundations, merge and evaluate.tasks; settings may be changed with key=value. \
            search: iterate merges the best pairs, generation by generation (strategy greedy, kinship or random). \
            search: cma_es looks for the parameters of one merge in memory and keeps the best as a mergekit file. \
            The run folder holds journal, tables, plots and children; the same command goes on after a kill. The last \
            line on standard output is one JSON object.

            Example:
              needletail evolve family.yaml strategy=kinship max_generations=4
            """
    )

    @Argument(help: ArgumentHelp("A YAML config (recipe: evolve).", valueName: "config"), completion: .file())
    public var config: String

    @Argument(help: ArgumentHelp("Changes to the config.", valueName: "key=value"))
    public var overrides: [String] = []

    public init() {}

    public func check() throws { try requireOverrides(overrides) }
}
