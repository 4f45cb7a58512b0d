// Small fine-tuning runs: a model, rows and what a run left behind.
import Diagnostics
import Formats
import RunConfig
import Recipes
import TestSupport

/// A file's bytes. A type of its own, since a failed comparison of long arrays takes minutes to describe.
struct FileContent: Equatable, CustomStringConvertible {
    let name: String
    private let bytes: [UInt8]
    var description: String { "\(name), \(bytes.count) bytes" }

    init(_ folder: String, _ name: String) throws { (self.name, bytes) = (name, try readFile(joinPath(folder, name))) }

    static func == (a: Self, b: Self) -> Bool { a.name == b.name && a.bytes == b.bytes }
}

/// A folder with a model, rows and runs.
struct RunPlace {
    let folder: TemporaryFolder
    /// Questions and answers of many lengths.
    static let rows: [(question: String, answer: String)] = (0..<20).map { i in
        ("what comes after \(i)?", String(repeating: "the ", count: i % 7) + "\(i + 1)")
    }

    init(_ family: TinyFamily = .llama) throws {
        folder = try TemporaryFolder()
        try writeTextFolder(folder["model"], textConfig(family), tinyModel(textConfig(family), scale: 0.4))
        try writeFileAtomically(Self.rows.map(Self.line).joined(), to: folder["rows.jsonl"])
    }

    static func line(_ row: (question: String, answer: String)) -> String {
        let messages: JSONValue = [
            ["role": "user", "content": .string(row.question)], ["role": "assistant", "content": .string(row.answer)],
        ]
        return JSONValue.object(JSONObject([("messages", messages)])).serialized() + "\n"
    }

    /// Eight steps of four rows, four rows held out.
    func config(
        _ output: String, _ method: AdapterSection.Method = .lora, _ change: (inout SFTConfig) -> Void = { _ in }
    ) -> SFTConfig {
        var config = SFTConfig()
        config.model.path = folder["model"]
        config.model.dtype = .fp32
        config.device = .cpu
        config.data.train = [folder["rows.jsonl"]]
        config.data.validationRows = 4
        config.data.cache = false  // that of whoever runs the tests
        config.adapter.method = method
        if method != .full { (config.adapter.rank, config.adapter.alpha) = (4, 8) }
        config.optimizer.learningRate = 0.01
        config.training.steps = 8
        config.training.batchRows = 4
        config.training.evalEvery = 2
        config.training.saveEvery = 3
        config.training.keepCheckpoints = 100
        config.output = folder[output]
        change(&config)
        return config.resolved()
    }

    /// Runs, and gives the metrics without what depends on the clock.
    @discardableResult
    func run(_ config: SFTConfig) throws -> [JSONValue] {
        guard try SFT.run(config, commandLine: ["test"]) == .success else { throw UserError("the run was stopped") }
        return try metrics(config)
    }

    func metrics(_ config: SFTConfig) throws -> [JSONValue] {
        try readTextFile(joinPath(config.output, "metrics.jsonl")).split(separator: "\n").map {
            try JSONValue.parse(String($0))
                .changing(["time": nil, "tokens_per_second": nil, "step_time_ms": nil, "peak_memory_bytes": nil])
        }
    }

    /// A run's final weights.
    func weights(_ config: SFTConfig) throws -> FileContent {
        let isFull = config.adapter.method == .full
        return try FileContent(
            joinPath(config.output, isFull ? "model" : "adapter"),
            isFull ? "model.safetensors" : "adapter_model.safetensors")
    }

    /// The newest checkpoint's weights and moments.
    func lastState(_ config: SFTConfig) throws -> [FileContent] {
        let checkpoints = joinPath(config.output, "checkpoints")
        let last = try listFolder(checkpoints).compactMap { Int($0.dropFirst(5)) }.max()!
        let folder = joinPath(checkpoints, "step-\(last)")
        return try listFolder(folder).filter { $0.hasSuffix(".safetensors") }.map { try FileContent(folder, $0) }
    }

    /// A copy of a run as it stood when it was killed some time after saving `step`.
    func killed(_ config: SFTConfig, afterSaving step: Int, as name: String) throws -> SFTConfig {
        var copy = config
        copy.output = folder[name]
        try copyFolder(config.output, to: copy.output)
        for name in try listFolder(copy.output) where name == "model" || name == "adapter" || name == "plots" {
            try removeTree(joinPath(copy.output, name))
        }
        let checkpoints = joinPath(copy.output, "checkpoints"), steps = try listFolder(checkpoints)
        guard steps.contains("step-\(step)") else { throw UserError("no step \(step) among \(steps)") }
        for name in steps where Int(name.dropFirst(5))! > step { try removeTree(joinPath(checkpoints, name)) }
        return copy
    }

    private func copyFolder(_ from: String, to: String) throws {
        try createDirectories(to)
        for name in try listFolder(from) {
            let (source, target) = (joinPath(from, name), joinPath(to, name))
            if folderExists(source) {
                try copyFolder(source, to: target)
            } else {
                try writeFileAtomically(readFile(source), to: target)
            }
        }
    }
}

extension [JSONValue] {
    /// The values of one metric, in order.
    func values(_ name: String) -> [Double] { compactMap { $0[name]?.double } }
}
