// needletail analyze: gradients
public import ArgumentParser

/// What data and models do to each other, before any training.
public struct AnalyzeCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "analyze",
        abstract: "See what data would do to a model.",
        discussion: """
            Example:
              needletail analyze gradients --model ./SmolLM2 --data chats.jsonl --limit 20
            """,
        subcommands: [GradientsCommand.self])

    public init() {}
}

/// Spectra of the gradients that rows would give to each layer.
public struct GradientsCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "gradients",
        abstract: "Measure the gradient that each row gives to each layer's projections.",
        discussion: """
            For every row the loss is the mean over its response's tokens, and the gradient of each projection is \
            summarised by its singular values: nuclear norm s, largest share, effective rank (arXiv:2410.23743). \
            MAD is the mean absolute difference of s between neighbouring layers; RD is how much larger s is for an \
            irrelevant response: (s_irrelevant - s_correct) / s_correct. No weight is changed. Computes in fp32.

            Several --model, and --compare data sets beside --data, are shown side by side. In the output folder: \
            examples.jsonl (every scalar of every matrix of every example), summary.csv, layers.csv, summary.json, \
            plots/*.svg. The same command goes on where it was stopped. --json writes summary.json's object:

              {"per_loss":false,"pairings":[{"model":"tiny","data":"none",
                "response":"correct","examples":20,"left_out":{},"loss":3.1,
                "response_tokens":3.0,"matrices":{"q":{"examples":20,
                "not_finite":0,"curve":[5.5,3.1],"mean":4.3,"mad":2.4,...}}}],
               "collisions":[]}

            (on one line).

            Example:
              needletail analyze gradients --model ./SmolLM2 --data chats.jsonl --limit 20
            """)

    public enum Template: String, CaseIterable, ExpressibleByArgument, Sendable { case none, chat }
    public enum Detail: String, CaseIterable, ExpressibleByArgument, Sendable { case part, layer }
    public enum Initialize: String, CaseIterable, ExpressibleByArgument, Sendable { case random }

    @Option(
        help: ArgumentHelp(
            "A Hugging Face folder, an adapter or run folder, or a GGUF file; may be given more than once.",
            valueName: "model"),
        completion: .file())
    public var model: [String]

    @Option(
        help: ArgumentHelp(
            "Rows: JSONL, JSON, CSV, TSV, Parquet, Arrow or text, also .gz and .zst.", valueName: "file"),
        completion: .file())
    public var data: String

    @Option(
        help: ArgumentHelp("More rows to put beside them; may be given more than once.", valueName: "file"),
        completion: .file())
    public var compare: [String] = []

    @Option(
        help: ArgumentHelp(
            "Names of the data sets, in order; the files' own names when not given.", valueName: "name"))
    public var name: [String] = []

    @Option(
        help: ArgumentHelp(
            "Which of q, k, v, o, gate, up, down, with commas between; GPT-2, with one map for q, k and v, has none of them.",
            valueName: "list"))
    public var projections: String = "q,k,v,o"

    @Option(help: "How prompt and response become text: one below the other, or with the model's chat template.")
    public var template: Template = .none

    @Option(
        help: ArgumentHelp(
            "Also measure irrelevant responses: shuffle takes those of other rows, a file (one for each data set) "
                + "gives its row i's to row i.", valueName: "file or shuffle"),
        completion: .file())
    public var irrelevant: [String] = []

    @Flag(help: "Let an irrelevant response have the text of the correct one.")
    public var allowEqual = false

    @Option(help: ArgumentHelp("Use only the first rows of each data set.", valueName: "rows"))
    public var limit: Int = 500

    @Option(help: ArgumentHelp("Seed of the shuffle, and of random weights.", valueName: "seed"))
    public var seed: UInt64 = 0

    @Option(help: ArgumentHelp("Tokens of a row; longer ones lose their end.", valueName: "tokens"))
    public var maxLength: Int = 1024

    @Option(help: "random: measure untrained weights, of folders that hold none.")
    public var initialize: Initialize?

    @Option(help: "What the table shows: differences by part of the model, or every layer.")
    public var by: Detail = .part

    @Option(
        help: ArgumentHelp(
            "Layers of the early, middle and late part, as in 10,10,12; chosen by depth when not given.",
            valueName: "list"))
    public var parts: String?

    @Flag(help: "Divide every example's nuclear norms by its loss.")
    public var perLoss = false

    @Flag(help: "Also measure cosines between gradients: q and o, k and v, every two layers.")
    public var cosines = false

    @Flag(help: "Keep all singular values in examples.jsonl.")
    public var saveSingularValues = false

    @Option(help: ArgumentHelp("The folder to write, or to go on in.", valueName: "folder"), completion: .directory)
    public var output: String = "runs/gradients"

    @Option(
        help: ArgumentHelp("Where to compute: cpu, cuda, cuda:N; auto is cuda where there is one.", valueName: "device")
    )
    public var device: String = "auto"

    @OptionGroup public var workers: ThreadOptions

    @Flag(help: "Write the result as JSON.")
    public var json = false

    public init() {}

    /// The data sets with their names.
    public var dataSets: [(name: String, path: String)] { named(name, [data] + compare) }

    /// The models under the last part of their paths, or the whole path where two would be called alike.
    public var models: [(name: String, path: String)] { named([], model) }

    /// `parts` as numbers.
    public var partSizes: [Int]? {
        parts?.split(separator: ",", omittingEmptySubsequences: false).compactMap { Int($0) }
    }

    private func named(_ names: [String], _ paths: [String]) -> [(name: String, path: String)] {
        if !names.isEmpty { return Array(zip(names, paths)).map { (name: $0.0, path: $0.1) } }
        let stems = paths.map { path in
            let last = path.split(separator: "/").last.map(String.init) ?? path
            guard let dot = last.lastIndex(of: "."), dot != last.startIndex, !paths.isEmpty else { return last }
            return Self.rowEndings.contains(last[last.index(after: dot)...].lowercased()) ? String(last[..<dot]) : last
        }
        return zip(stems, paths).map { stem, path in (name: stems.count { $0 == stem } > 1 ? path : stem, path: path) }
    }

    private static let rowEndings = ["jsonl", "json", "csv", "tsv", "txt", "md"]

    public func validate() throws {
        try require(!model.isEmpty, "--model is missing")
        try require(Set(model).count == model.count, "--model names a model twice")
        let sets = 1 + compare.count
        try require(
            Set([data] + compare).count == sets || !name.isEmpty,
            "a data set is given twice; tell the two apart with --name")
        try require(name.isEmpty || name.count == sets, "--name is given \(name.count) times for \(sets) data sets")
        try require(Set(name).count == name.count, "--name gives two data sets one name")
        try require(!name.contains(""), "--name is empty")
        let shuffles = irrelevant == ["shuffle"]
        try require(
            irrelevant.isEmpty || shuffles || irrelevant.count == sets && !irrelevant.contains("shuffle"),
            "--irrelevant is shuffle, or a file for each of the \(sets) data sets")
        try require(!allowEqual || !irrelevant.isEmpty, "--allow-equal has no effect without --irrelevant")
        try require(limit > 0, "--limit is 1 or more, not \(limit)")
        try require(maxLength >= 2, "--max-length is 2 or more, not \(maxLength)")
        if let parts {
            try require(
                partSizes?.count == 3 && parts.split(separator: ",").count == 3,
                "--parts is three numbers, as in 10,10,12, not '\(parts)'")
        }
    }
}
