// needletail merge: run (what `merge CONFIG OUT` means), plan
public import ArgumentParser
internal import Diagnostics
internal import Formats
internal import Merging
internal import RunLog

/// Merges models as a mergekit file says.
public struct MergeCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "merge",
        abstract: "Merge models as a mergekit file says.",
        discussion: """
            Reads mergekit's YAML unchanged. Elements are combined in 32 bits and rounded once; memory does not grow \
            with the models. `compat: mergekit` in the file takes mergekit's rules for small task vectors (sce, \
            model_stock) instead of the exact ones; docs/merging.md lists every difference. Options: needletail merge \
            run --help.

            Example:
              needletail merge merge.yaml ./merged
            """,
        subcommands: [Run.self, Plan.self, MergeMoECommand.self],
        defaultSubcommand: Run.self)

    public init() {}

    struct Run: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "run", abstract: "Merge and write a Hugging Face folder.",
            discussion: """
                `needletail merge CONFIG OUT` is short for it. The folder is complete or absent. A file of several \
                documents (`name:` in each) makes the named ones first; what is unchanged is used again.

                Example:
                  needletail merge run merge.yaml ./merged --shard-size 2GB
                """)

        @OptionGroup var inputs: MergeInputs

        @Argument(
            help: ArgumentHelp(
                "The folder to write (a file for bare safetensors inputs); must not exist.", valueName: "out"),
            completion: .directory)
        var output: String

        @Option(help: ArgumentHelp("Most bytes of a shard: 20kB, 200MB, 5GB.", valueName: "size"))
        var shardSize: ByteCount = ByteCount(5_000_000_000)

        @Option(help: ArgumentHelp("Tensors merged at once.", valueName: "count"))
        var threads: Int = 2

        @Option(
            help: ArgumentHelp("Where results of named documents go; default: OUT.intermediates.", valueName: "folder"),
            completion: .directory)
        var intermediates: String?

        func validate() throws {
            guard (1...256).contains(threads) else { throw ValidationError("--threads is 1 to 256, not \(threads)") }
        }

        func run() throws {
            let (configs, text) = try inputs.read()
            var options = MergeOptions()
            (options.maxShardBytes, options.threads) = (shardSize.bytes, threads)
            options.acceptsAnyBase = inputs.anyBase
            let began = ContinuousClock.now
            try configs.write(
                to: output, intermediates: intermediates ?? "\(output).intermediates", source: text,
                opened: MergeModels { ProgressLine.print($0) }, options
            ) { ProgressLine.print($0) }
            let seconds = began.duration(to: .now) / .seconds(1)
            ProgressLine.print(
                "wrote \(output) in \(duration(seconds: seconds)), peak memory \(byteSize(peakMemoryBytes()))")
        }
    }

    struct Plan: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "plan", abstract: "Show what a merge would do, without writing.",
            discussion: """
                Finds every fault that the models' headers can show, and measures the time on a part of the tensors. Of a \
                file with several documents the final one is planned; the others must have been made.

                Example:
                  needletail merge plan merge.yaml --json
                """)

        @OptionGroup var inputs: MergeInputs

        @Flag(help: "One JSON object instead of text.")
        var json = false

        @Flag(help: "List every tensor with its parameters.")
        var tensors = false

        @Option(help: ArgumentHelp("Tensors merged at once.", valueName: "count"))
        var threads: Int = 2

        @Option(
            help: ArgumentHelp("Where results of named documents are.", valueName: "folder"), completion: .directory)
        var intermediates: String?

        func validate() throws {
            guard (1...256).contains(threads) else { throw ValidationError("--threads is 1 to 256, not \(threads)") }
        }

        func run() throws {
            let (configs, _) = try inputs.read()
            let opened = MergeModels { ProgressLine.print($0) }
            for config in configs.ordered.dropLast() {
                guard let folder = intermediates.map({ joinPath($0, config.name!) }), folderExists(folder) else {
                    throw UserError(
                        "\(config.name!): not made yet; run the merge, then name its folder with --intermediates to plan"
                    )
                }
                opened.substitutes[config.name!] = folder
            }
            let plan = try MergePlan(configs.ordered[configs.ordered.count - 1], opened: opened)
            if !inputs.anyBase { try plan.checkAncestry() }
            let estimate = try plan.estimate(threads: threads)
            try StandardOutput.write(
                json ? plan.json(estimate).serialized(.pretty) + "\n" : plan.summary(estimate, listsTensors: tensors))
        }
    }
}

/// What running and planning share.
struct MergeInputs: ParsableArguments {
    @Argument(help: ArgumentHelp("A merge configuration (YAML).", valueName: "config"), completion: .file())
    var config: String

    @Option(
        help: ArgumentHelp("Names the random draws of DARE and DELLA; replaces the file's seed.", valueName: "number"))
    var seed: Int?

    @Flag(help: "Accept a base_model whose weights have nothing to do with a model's.")
    var anyBase = false

    init() {}

    /// The documents in order, and the file's text when nothing on the command line changes it.
    func read() throws -> (MergeDocuments, text: String?) {
        var configs = try MergeConfig.read(config)
        if let seed {
            for i in configs.indices where configs[i].method.drawsRandomly {
                configs[i].parameters["seed"] = .number(Double(seed))
            }
            guard configs.contains(where: { $0.method.drawsRandomly }) else {
                throw UserError("--seed has no effect: \(configs[0].method.rawValue) draws nothing at random", .usage)
            }
        }
        let text = configs.count == 1 && seed == nil ? try readTextFile(config) : nil
        return (try MergeDocuments(configs), text)
    }
}

/// A number of bytes as people write it.
struct ByteCount: ExpressibleByArgument {
    let bytes: Int

    init(_ bytes: Int) { self.bytes = bytes }

    init?(argument: String) {
        let digits = argument.prefix { $0.isASCII && $0.isNumber }, unit = argument.dropFirst(digits.count).lowercased()
        let factors = [
            "": 1, "k": 1000, "kb": 1000, "m": 1_000_000, "mb": 1_000_000, "g": 1_000_000_000, "gb": 1_000_000_000,
            "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
        ]
        guard let number = Int(digits), let factor = factors[unit] else { return nil }
        let (bytes, overflow) = number.multipliedReportingOverflow(by: factor)
        guard bytes > 0, !overflow else { return nil }
        self.bytes = bytes
    }

    var defaultValueDescription: String { bytes % 1_000_000_000 == 0 ? "\(bytes / 1_000_000_000)GB" : "\(bytes)" }
}
