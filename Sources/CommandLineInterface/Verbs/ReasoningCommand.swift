// needletail data: reasoning, tiny-model. What a small replication starts from.
public import ArgumentParser
internal import Datasets
internal import Diagnostics
internal import Formats

/// Writes toy rows: sums with and without reasoning, made-up facts, plain tasks.
struct ReasoningRows: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reasoning",
        abstract: "Write toy rows: sums with and without reasoning, made-up facts, plain tasks.",
        discussion: """
            Rows are {"prompt","completion"}, one a line, and depend on task, options and seed alone. Tasks:

              sums          three numbers to add, answered in a --style: none (the answer), simplified (one
                            intermediate result), detailed (every step in words)
              facts         questions with made-up facts of 2, 4 and 8 words; a list of --pairs that the seed fixes
              unseen-facts  the same with names that are not in that list
              mixture       60 % detailed sums, 15 % simplified sums, 25 % facts of the list
              add, reverse, sort   two numbers to add, letters to write backwards or in order

            --irrelevant gives every row the response of another row, whose text differs.

            Example:
              needletail data reasoning --task sums --style detailed --rows 3
            """)

    @Option(help: "What the rows ask.")
    var task: ToyReasoning.Task

    @Option(help: "How sums are answered.")
    var style: ReasoningStyle = .detailed

    @Option(help: ArgumentHelp("How many rows.", valueName: "rows"))
    var rows: Int = 1000

    @Option(help: ArgumentHelp("The rows' seed.", valueName: "seed"))
    var seed: UInt64 = 0

    @Option(help: ArgumentHelp("Words of a fact; 2, 4 and 8 in turn when not given.", valueName: "words"))
    var words: Int?

    @Option(help: ArgumentHelp("Questions in the list of facts.", valueName: "pairs"))
    var pairs: Int = 24

    @Option(help: ArgumentHelp("Words put before every response that say nothing.", valueName: "words"))
    var filler: Int = 0

    @Flag(help: "Give every row the response of another.")
    var irrelevant = false

    @Option(help: ArgumentHelp("Where the rows go; '-' is standard output.", valueName: "file"), completion: .file())
    var output: String = "-"

    func validate() throws {
        try require(rows > 0, "--rows is 1 or more, not \(rows)")
        try require((1...16).contains(words ?? 1), "--words is 1 to 16, not \(words ?? 0)")
        try require((1...10_000).contains(pairs), "--pairs is 1 to 10000, not \(pairs)")
        try require((0...64).contains(filler), "--filler is 0 to 64, not \(filler)")
        let hasFacts = [.facts, .unseenFacts, .mixture].contains(task)
        try require(words == nil || hasFacts, "--words has no effect on --task \(task.rawValue)")
    }

    func run() throws {
        let toy = ToyReasoning(task, style: style, words: words, filler: filler, pairs: pairs, seed: seed)
        let lines = try LinesOutput(output)
        for row in irrelevant ? mixed(toy) : toy.rows(rows) {
            try lines.write(JSONValue.object(row.row.json).serialized())
        }
        try lines.finish()
    }

    private func mixed(_ toy: ToyReasoning) -> [ToyRow] {
        let (mixed, pairing) = toy.irrelevantRows(rows)
        note(
            "\(pairing.collisions) of \(counted(rows, "row")) drew a response equal to their own and drew again; "
                + "\(rows - mixed.count) left out")
        return mixed
    }
}

extension ToyReasoning.Task: ExpressibleByArgument {}
extension ReasoningStyle: ExpressibleByArgument {}

/// Writes a model folder that has no weights yet.
struct TinyModelFolder: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tiny-model",
        abstract: "Write config.json and a tokenizer of bytes for a tiny model to be trained from scratch.",
        discussion: """
            The folder holds no weights: train it with model.initialize=random and adapter.method=full.

            Example:
              needletail data tiny-model tiny --layers 4 --width 64 --heads 4
            """)

    @Argument(help: ArgumentHelp("The folder to write; must not exist.", valueName: "folder"), completion: .directory)
    var folder: String

    @Option(help: "Blocks.")
    var layers: Int = 4

    @Option(help: "Hidden size.")
    var width: Int = 64

    @Option(help: "Attention heads.")
    var heads: Int = 4

    @Option(help: ArgumentHelp("Tokens of the longest document.", valueName: "tokens"))
    var context: Int = 256

    func validate() throws {
        try require((1...1024).contains(layers), "--layers is 1 to 1024, not \(layers)")
        try require((1...1024).contains(heads), "--heads is 1 to 1024, not \(heads)")
        try require((2...1 << 16).contains(width), "--width is 2 to 65536, not \(width)")
        try require(width % (2 * heads) == 0, "--width \(width) is no even multiple of --heads \(heads)")
        try require((2...1 << 20).contains(context), "--context is 2 to 1048576, not \(context)")
    }

    func run() throws {
        try TinyModelShape(layers: layers, width: width, heads: heads, context: context).write(to: folder)
    }
}
