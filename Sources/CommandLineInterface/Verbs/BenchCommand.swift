// needletail bench
public import ArgumentParser

/// Measures this machine and what training and generation reach of it.
public struct BenchCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure speed and memory on this machine.",
        discussion: """
            Example:
              needletail bench gemm
            """,
        subcommands: [
            BenchGemmCommand.self, BenchTrainCommand.self, BenchGenerateCommand.self, BenchDataCommand.self,
        ]
    )

    public init() {}
}

extension BenchGemmCommand { public var workers: ThreadOptions { options.workers } }
extension BenchTrainCommand { public var workers: ThreadOptions { options.workers } }
extension BenchGenerateCommand { public var workers: ThreadOptions { options.workers } }

/// What every measurement asks for.
public struct BenchOptions: ParsableArguments {
    @Option(help: "Number format of the products; auto is bf16 where the processor is fast with it, else fp32.")
    public var dtype: ComputeType = .auto

    @OptionGroup public var workers: ThreadOptions

    @Flag(help: "Print one JSON object.")
    public var json = false

    public init() {}
}

/// The machine's matrix product.
public struct BenchGemmCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "gemm",
        abstract: "Measure the matrix product: what the machine can do at most.",
        discussion: """
            --json prints one object with dtype, size, gflops (the fastest of several products of square matrices, \
            in 10⁹ operations a second), peak_memory_bytes and step_seconds (a list, one a product).

            Example:
              needletail bench gemm --dtype fp32
            """)

    @Option(help: "Rows and columns of the matrices.")
    public var size: Int = 2048

    @OptionGroup public var options: BenchOptions

    public init() {}

    public func validate() throws { try require(size > 0, "--size is 1 or more, not \(size)") }
}

/// Steps of training on random tokens.
public struct BenchTrainCommand: ThreadedCommand {
    public static let configuration = CommandConfiguration(
        commandName: "train",
        abstract: "Measure training: tokens a second, memory, and the share of the machine's matrix product.",
        discussion: """
            Random tokens, every one of them a label: speed does not depend on content. --json prints one object with \
            tokens_per_second (median step), gflops, share_of_gemm_peak, peak_memory_bytes, step_seconds (a list) and \
            parts (seconds of forward, backward and update in the median step).

            Example:
              needletail bench train --model config.json --method lora --dtype bf16
            """)

    @Option(
        help: ArgumentHelp("A model folder, or a config.json alone: random weights.", valueName: "model"),
        completion: .file())
    public var model: String

    @Option(help: "Sequences of a step.")
    public var batch: Int = 2

    @Option(help: "Tokens of a sequence.")
    public var sequence: Int = 512

    @Option(help: ArgumentHelp("Steps to measure, after two that are not counted.", valueName: "count"))
    public var steps: Int?

    @Option(
        help: ArgumentHelp("Measure as many steps as fit, at least three; ignored with --steps.", valueName: "time"))
    public var seconds: Double = 10

    @Option(
        help: ArgumentHelp(
            "What is trained: full (all weights), lora (rank 16 on every linear map of the blocks), dora (the same with "
                + "magnitudes), qlora (lora on frozen weights in NF4)."))
    public var method: Method = .full

    @Option(
        help: ArgumentHelp(
            "Inputs of adapters set to zero, 0 to below 1; for every method but full.", valueName: "share"))
    public var dropout: Double = 0

    @Option(
        help: ArgumentHelp(
            "Rows of logits that exist at a time in the loss; 0: all at once. As many as in training when it is not given.",
            valueName: "rows"))
    public var headChunk: Int?

    @Option(help: "Moments of the optimizer: fp32 or int8.")
    public var state: MomentType = .fp32

    @Option(
        help: ArgumentHelp(
            "Blocks computed again in backward, of which only the input is kept; 0: none.", valueName: "blocks"))
    public var recomputeBlocks: Int = 0

    @Flag(help: "Compute the outputs of norms and gates again in backward.")
    public var recomputeSelective = false

    @Flag(help: "Round what --recompute-blocks keeps to bf16.")
    public var recomputeInBf16 = false

    @Option(
        help: ArgumentHelp(
            "Also write a trace of two more steps, every operation with its shapes and times, for chrome://tracing or "
                + "ui.perfetto.dev.", valueName: "file"), completion: .file())
    public var trace: String?

    @OptionGroup public var options: BenchOptions

    public enum MomentType: String, CaseIterable, ExpressibleByArgument, Sendable { case fp32, int8 }
    public enum Method: String, CaseIterable, ExpressibleByArgument, Sendable { case full, lora, dora, qlora }

    public init() {}

    public func validate() throws {
        try require(batch > 0, "--batch is 1 or more, not \(batch)")
        try require(sequence > 1, "--sequence is 2 or more, not \(sequence)")
        try require(headChunk ?? 0 >= 0, "--head-chunk is 0 or more, not \(headChunk ?? 0)")
        try require(steps ?? 1 > 0, "--steps is 1 or more, not \(steps ?? 0)")
        try require((0..<1).contains(dropout), "--dropout is 0 or more and below 1, not \(dropout)")
        try require(
            dropout == 0 || method != .full, "--dropout is for adapters: use it with --method lora, dora or qlora")
        try require(recomputeBlocks >= 0, "--recompute-blocks is 0 or more, not \(recomputeBlocks)")
        try require(
            !recomputeInBf16 || recomputeBlocks > 0, "--recompute-in-bf16 has no effect without --recompute-blocks")
        try require(seconds > 0 && seconds.isFinite, "--seconds is above 0, not \(seconds)")
    }
}
