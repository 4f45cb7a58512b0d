// needletail recipes: ls, cat, cp, check; explain has a file of its own
public import ArgumentParser
internal import Diagnostics
internal import Formats
internal import RecipeData
internal import RunConfig

/// The configs that come with the program, and what a config amounts to.
public struct RecipesCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "recipes",
        abstract: "List, show, copy, check and explain configs.",
        discussion: """
            Example:
              needletail recipes ls
            """,
        subcommands: [List.self, Show.self, Copy.self, Check.self, Explain.self])

    public init() {}

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "ls", abstract: "List the recipes that come with the program.",
            discussion: """
                Example:
                  needletail recipes ls
                """)

        func run() throws {
            let width = BuiltInRecipe.all.map(\.name.utf8.count).max() ?? 0
            for recipe in BuiltInRecipe.all {
                let padding = String(repeating: " ", count: width - recipe.name.utf8.count + 2)
                try StandardOutput.write("\(recipe.name)\(padding)\(recipe.summary)\n")
            }
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "cat", abstract: "Show a recipe as it is written.",
            discussion: """
                Example:
                  needletail recipes cat sft-lora
                """)

        @Argument(help: ArgumentHelp("A recipe of `recipes ls`.", valueName: "recipe"), completion: recipeNames)
        var recipe: String

        func run() throws { try StandardOutput.write(try yaml(of: recipe)) }
    }

    struct Copy: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "cp", abstract: "Copy a recipe to a file of your own, to be changed.",
            discussion: """
                Example:
                  needletail recipes cp sft-lora my-run.yaml
                """)

        @Argument(help: ArgumentHelp("A recipe of `recipes ls`.", valueName: "recipe"), completion: recipeNames)
        var recipe: String

        @Argument(help: ArgumentHelp("The file to write; must not exist.", valueName: "file"), completion: .file())
        var file: String

        func run() throws {
            let yaml = try yaml(of: recipe)
            if fileExists(file) {
                throw UserError("\(file) exists; remove it or choose another name", .cannotWrite)
            }
            try writeFileAtomically(yaml, to: file)
        }
    }

    struct Check: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "check", abstract: "Check a config and print it with every setting written out.",
            discussion: """
                Reports every unknown key, wrong value and setting without effect at once, with file and line (exit \
                status 64). Data and model are not opened.

                Example:
                  needletail recipes check sft-lora training.epochs=1
                """)

        @Argument(
            help: ArgumentHelp("A YAML config, or the name of a recipe.", valueName: "config"), completion: .file())
        var config: String

        @Argument(help: ArgumentHelp("Changes to the config.", valueName: "key=value"))
        var overrides: [String] = []

        func run() throws {
            // What keeps the recipe from being read keeps the file from being read: the loader below says it better.
            let recipe = fileExists(config) ? try? ConfigLoader.recipe(ofFile: config, overrides: overrides) : nil
            if recipe == EvolveConfig.recipeName {
                let family = try ConfigLoader.load(EvolveConfig.self, file: config, overrides: overrides)
                return try StandardOutput.write(family.resolved().yaml)
            }
            let resolved = try loadConfig(config, overrides: overrides).resolved()
            try resolved.data.checkSteps()
            try StandardOutput.write(resolved.yaml)
        }
    }
}

private let recipeNames = CompletionKind.list(BuiltInRecipe.all.map(\.name))

private func yaml(of name: String) throws -> String {
    guard let recipe = BuiltInRecipe.named(name) else { throw unknownRecipe(name) }
    return recipe.yaml
}
