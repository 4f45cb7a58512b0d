// needletail kinship
public import ArgumentParser
internal import Formats
internal import Merging
internal import RunLog

/// How similar the weight changes of models from one base are.
public struct KinshipCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "kinship",
        abstract: "Measure how similar models' weight changes from their common base are.",
        discussion: """
            One pass over the models reads every tensor once, in blocks; sums are 64-bit. Metrics: pcc (correlation), \
            cs (cosine with its sign), abs_cs (its magnitude), ed (distance: small is related). A model may be a \
            Hugging Face, adapter or run folder or a GGUF file. Undefined values (a model that equals the base) are \
            null.

            --json writes one object, "by" with --by only:

              {"models":["a","b"],"pcc":[[1.0,0.12],[0.12,1.0]],
               "by":{"kind":"layer","groups":[{"name":"layer 0",
                 "elements":4096,"pcc":[[1.0,0.3],[0.3,1.0]]}]}}

            (on one line). --by tensor adds "weighted_mean", the mean of the tensors' values by their sizes.

            Example:
              needletail kinship runs/math runs/chat --base ./SmolLM2 --by layer
            """
    )

    @Argument(help: ArgumentHelp("Two or more models.", valueName: "model"), completion: .file())
    public var models: [String]

    @Option(help: ArgumentHelp("The model that all were trained from.", valueName: "model"), completion: .file())
    public var base: String

    @Option(help: ArgumentHelp("Metrics, with commas or blanks between: pcc, cs, abs_cs, ed.", valueName: "names"))
    public var metric: String = "pcc,cs,ed"

    @Option(help: "Break the whole down by layer, by module (the same part of all layers) or by tensor.")
    public var by: KinshipBreakdown?

    @Flag(help: "Count the token table twice in models with a tied head, as the paper's program does.")
    public var countTiedTwice = false

    @Flag(help: "Write the result as JSON.")
    public var json = false

    @Option(
        help: ArgumentHelp("Also write JSON, CSV and heat maps (SVG) into this new folder.", valueName: "folder"),
        completion: .directory)
    public var output: String?

    public init() {}

    public func validate() throws {
        try require(models.count >= 2, "kinship needs two models or more")
        try require(KinshipMetric.list(metric) != nil, "--metric '\(metric)': name pcc, cs, abs_cs or ed, each once")
    }

    public func run() throws {
        if let output { try refuseExisting(output) }
        let metrics = KinshipMetric.list(metric)!
        let opened = MergeModels { ProgressLine.print($0) }
        let reference = MergeModelReference(base)
        let ancestor = try opened.model(reference)
        let breakdown = by.flatMap { Kinship.Breakdown(rawValue: $0.rawValue) }
        let kinship = try Kinship(
            try models.map { try opened.model(descendant: $0, of: reference) }, base: ancestor,
            .init(breakdown: breakdown, countsTiedTwice: countTiedTwice))
        kinship.notes.forEach { ProgressLine.print($0) }
        if let output { try kinship.write(to: output, metrics, by: breakdown, base: base) }
        try StandardOutput.write(
            json ? kinship.json(metrics, by: breakdown).serialized() + "\n" : kinship.table(metrics, by: breakdown))
    }
}

/// The groups of a breakdown.
public enum KinshipBreakdown: String, CaseIterable, ExpressibleByArgument, Sendable { case layer, module, tensor }
