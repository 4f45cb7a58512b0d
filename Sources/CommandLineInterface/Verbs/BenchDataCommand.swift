// needletail bench data
public import ArgumentParser
internal import ChatTemplates
internal import Datasets
internal import Diagnostics
internal import Formats
internal import Glibc
internal import ModelFiles
internal import RunLog
internal import Tokenizers

/// From files to micro-batches.
public struct BenchDataCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "data",
        abstract: "Measure the way of rows into training: reading, rendering, tokenizing, packing, the cache.",
        discussion: """
            --json prints one object with rows, bytes and tokens of the data, threads, rows_per_second and \
            tokens_per_second (from the files to tokens, on all threads), peak_memory_bytes, step_seconds (what each step \
            of an epoch waits for its micro-batches, a list), and parts, in seconds for all rows: read (and checked, on \
            all threads), render and tokenize (on one thread, from as many rows as --seconds allows), encode (all of it \
            on all threads), pack (the steps), cache_write and cache_read.

            Example:
              needletail bench data --model ./SmolLM2-135M-Instruct chats.jsonl
            """)

    @Option(
        help: ArgumentHelp("A model's folder, a GGUF file or a tokenizer.json.", valueName: "model"),
        completion: .file())
    var model: String

    @OptionGroup var rows: RowOptions

    @Option(help: ArgumentHelp("Rows of a step.", valueName: "rows"))
    var batchRows: Int = 16

    @Option(help: ArgumentHelp("Render and tokenize on one thread for so long.", valueName: "time"))
    var seconds: Double = 5

    @OptionGroup var workers: RowThreads

    @Flag(help: "Print one JSON object.")
    var json = false

    public init() {}

    public func validate() throws {
        try require(batchRows > 0, "--batch-rows is 1 or more, not \(batchRows)")
        try require(seconds > 0 && seconds.isFinite, "--seconds is above 0, not \(seconds)")
    }

    public func run() throws {
        let tokenizer = try Tokenizer(modelPath: try ModelReference.tokenizerPath(model, base: nil))
        let bench = try DataBench(
            rows.source(), rows.encoder(tokenizer), tokenizer, maxTokens: max(1024, rows.longestRow), self)
        try StandardOutput.write(json ? bench.json.serialized() + "\n" : bench.report)
    }
}

/// Seconds of each part of the way.
private struct DataBench {
    private var rows = 0, bytes = 0, tokens = 0, threads = 0, batchRows = 0
    private var read = 0.0, render = 0.0, tokenize = 0.0, encode = 0.0, cacheWrite = 0.0, cacheRead = 0.0
    private var steps: [Double] = []

    init(
        _ source: DataSource, _ encoder: ExampleEncoder, _ tokenizer: Tokenizer, maxTokens: Int,
        _ command: BenchDataCommand
    ) throws {
        (threads, batchRows) = (command.workers.count, command.batchRows)
        var clock = StepClock()
        let all = try Rows(source, threads: threads)
        read = clock.seconds
        (render, tokenize) = try Self.oneThread(all, encoder, tokenizer, seconds: command.seconds)
        clock = StepClock()
        let (data, _) = try EncodedRows(source, encoder, threads: threads).dataset()
        encode = clock.seconds
        (rows, tokens) = (data.count, data.tokens)
        bytes = try DataFingerprint(source).files.reduce(0) { $0 + $1.bytes }
        steps = try Self.steps(data, batchRows, maxTokens: maxTokens)
        (cacheWrite, cacheRead) = try Self.cache(source, encoder, threads: threads)
    }

    /// Rendering with the search for what is trained, and tokenizing, both scaled to all rows.
    private static func oneThread(
        _ rows: Rows, _ encoder: ExampleEncoder, _ tokenizer: Tokenizer, seconds: Double
    ) throws -> (render: Double, tokenize: Double) {
        var encoding = 0.0, tokenizing = 0.0, count = 0
        for index in rows.indices where encoding + tokenizing < seconds {
            let row = try rows[index]
            var clock = StepClock()
            let encoded: EncodedRow
            do { encoded = try encoder.encode(row) } catch is BadRow { continue }
            encoding += clock.seconds
            clock = StepClock()
            _ = tokenizer.encoding(of: encoded.text, addSpecialTokens: false)
            tokenizing += clock.seconds
            count += 1
        }
        let scale = count > 0 ? Double(rows.count) / Double(count) : 0
        return ((encoding - tokenizing) * scale, tokenizing * scale)
    }

    /// Seconds that each step of an epoch waits for its plan and the arrays of its micro-batches.
    private static func steps(_ data: TokenizedDataset, _ batchRows: Int, maxTokens: Int) throws -> [Double] {
        let sampler = try BatchSampler(
            data, seed: 0, stepSize: .rows(batchRows), microBatching: .packed(maxTokens: maxTokens), epochs: 1)
        return (0..<sampler.totalSteps).map { step in
            let clock = StepClock(), plan = sampler.plan(step: step)
            for index in plan.microBatches.indices { _ = sampler.batch(plan, index) }
            return clock.seconds
        }
    }

    /// Seconds of encoding into a cache, and of taking the tokens from it.
    private static func cache(
        _ source: DataSource, _ encoder: ExampleEncoder, threads: Int
    ) throws -> (write: Double, read: Double) {
        let base = environmentVariable("TMPDIR") ?? "/tmp"
        let cache = TokenCache(folder: joinPath(base, "needletail-bench-\(getpid())"))
        defer { try? removeTree(cache.folder) }  // a measurement is not to fail for what it leaves
        func pass() throws -> Double {
            let clock = StepClock(), rows = try EncodedRows(source, encoder, threads: threads, cache: cache)
            _ = try rows.dataset()
            if rows.notes.count != 1 { throw UserError(rows.notes.joined(separator: "; "), .cannotWrite) }
            return clock.seconds
        }
        return (try pass(), try pass())
    }

    var json: JSONValue {
        [
            "rows": .init(rows), "bytes": .init(bytes), "tokens": .init(tokens), "threads": .init(threads),
            "rows_per_second": .init(Double(rows) / encode), "tokens_per_second": .init(Double(tokens) / encode),
            "peak_memory_bytes": .init(peakMemoryBytes()),
            "step_seconds": .array(steps.map { .init($0) }),
            "parts": [
                "read": .init(read), "render": .init(render), "tokenize": .init(tokenize), "encode": .init(encode),
                "pack": .init(steps.reduce(0, +)), "cache_write": .init(cacheWrite), "cache_read": .init(cacheRead),
            ],
        ]
    }

    var report: String {
        func line(_ name: String, _ seconds: Double, _ threads: Int) -> String {
            let padded = name + String(repeating: " ", count: 11 - name.count)
            let rates = [
                "\(grouped(Int(Double(rows) / seconds))) rows/s", "\(grouped(Int(Double(tokens) / seconds))) tokens/s",
                "\(decimals(Double(bytes) / seconds / 1e6, 1)) MB/s",
            ]
            return "\(padded)\(duration(seconds: seconds))  \(rates.joined(separator: "  "))  "
                + "\(counted(threads, "thread"))"
        }
        let waits = steps.sorted().map { significant($0 * 1000, 2) }
        return [
            "\(counted(rows, "row")), \(decimals(Double(bytes) / 1e6, 1)) MB, \(counted(tokens, "token"))",
            line("read", read, threads), line("render", render, 1), line("tokenize", tokenize, 1),
            line("encode", encode, threads), line("pack", steps.reduce(0, +), 1),
            line("cache read", cacheRead, threads),
            "a step of \(counted(batchRows, "row")) waits \(waits[waits.count / 2]) ms for its micro-batches, "
                + "at most \(waits[waits.count - 1]) ms",
            "peak memory \(byteSize(peakMemoryBytes()))", "",
        ].joined(separator: "\n")
    }
}
