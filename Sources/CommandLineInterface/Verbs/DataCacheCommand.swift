// needletail data cache: fill, ls, clear
internal import ArgumentParser
internal import Datasets
internal import Diagnostics
internal import Formats
internal import ModelFiles
internal import RecipeData
internal import RunConfig
internal import RunLog

extension DataCommand {
    /// Tokens that training keeps for the next run.
    struct TokenCacheGroup: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "cache", abstract: "Tokenize ahead of training; list or remove kept tokens.",
            discussion: """
                Training keeps the tokens of its rows in ~/.cache/needletail/tokens ($NEEDLETAIL_CACHE/tokens where that \
                is set), about five bytes a token, named by a hash of all they depend on: the files' bytes, how rows are \
                read, template, tokenizer, masking, length. Another split, seed or order takes them as well.

                Example:
                  needletail data cache ls
                """,
            subcommands: [Fill.self, List.self, Clear.self])
    }

    struct Fill: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "fill", abstract: "Tokenize the rows of a config and keep the tokens.",
            discussion: """
                Does what `train` does before it loads the model, and prints what became of the rows.

                Example:
                  needletail data cache fill sft-lora data.train=chats.jsonl
                """)

        @Argument(
            help: ArgumentHelp("A YAML config, or the name of a recipe.", valueName: "config"), completion: .file())
        var config: String

        @Argument(help: ArgumentHelp("Changes to the config.", valueName: "key=value"))
        var overrides: [String] = []

        func run() throws {
            try requireOverrides(overrides)
            let config = try loadConfig(config, overrides: overrides).resolved()
            guard config.data.cache else { throw UserError("data.cache: false keeps no tokens; remove it", .usage) }
            let path = try ModelReference.tokenizerPath(
                config.adapter.continueFrom ?? config.model.path, base: config.model.base)
            let tokenizer = try config.data.tokenizer(at: path)
            let data = try SFTData(config.data, tokenizer, threads: config.threads ?? processorCount)
            for warning in data.warnings { note(warning) }
            var lines = data.notes + ["training"] + data.trainingStatistics.report
            if !data.validation.isEmpty { lines += ["held out"] + data.validationStatistics.report }
            try StandardOutput.write(lines.joined(separator: "\n") + "\n")
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "ls", abstract: "List kept tokens: file, rows, tokens, size, what they were made from.",
            discussion: """
                Example:
                  needletail data cache ls
                """)

        func run() throws {
            for entry in try TokenCache().entries() {
                let content =
                    entry.fault ?? "\(counted(entry.rows, "row")), \(counted(entry.tokens, "token")), "
                    + "\(byteSize(entry.bytes)), from \(entry.madeFrom.map { escapedForDisplay($0) }.joined(separator: ", "))"
                try StandardOutput.write("\(fileName(of: entry.path))  \(content)\n")
            }
        }
    }

    struct Clear: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "clear", abstract: "Remove all kept tokens; the next training makes its own again.",
            discussion: """
                Example:
                  needletail data cache clear
                """)

        func run() throws {
            let cache = try TokenCache(), removed = try cache.clear()
            try StandardOutput.write(
                "\(counted(removed.files, "file")), \(byteSize(removed.bytes)) removed from \(cache.folder)\n")
        }
    }
}
