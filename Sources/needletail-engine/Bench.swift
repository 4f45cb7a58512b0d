// bench: the machine's matrix product, and training beside it.
import CommandLineInterface
import Diagnostics
import Formats
import Layers
import ModelFiles
import Models
import Optimizers
import RandomStreams
import Recipes
import RunLog
import Tensors

func benchGemm(_ command: BenchGemmCommand) throws {
    let dtype = command.options.dtype.dtype(on: .cpu)
    let speed = GemmSpeed(size: command.size, dtype)
    if command.options.json {
        let report: JSONValue = [
            "dtype": .string(name(dtype)), "size": .init(command.size), "gflops": .init(speed.gflops),
            "peak_memory_bytes": .init(peakMemoryBytes()), "step_seconds": .array(speed.seconds.map { .init($0) }),
        ]
        return try StandardOutput.write(report.serialized() + "\n")
    }
    try StandardOutput.write(
        "\(name(dtype)) product of \(command.size) x \(command.size) matrices: "
            + "\(significant(speed.gflops, 3)) GFLOP/s on \(counted(Engine.threads, "thread"))\n")
}

func benchTrain(_ command: BenchTrainCommand) throws {
    let dtype = command.options.dtype.dtype(on: .cpu)
    let peak = GemmSpeed(size: 2048, dtype).gflops
    let bench = try TrainingBench(command, dtype)
    for _ in 0..<2 { _ = bench.step() }
    var steps: [TrainingBench.Step] = []
    let clock = StepClock()
    while command.steps.map({ steps.count < $0 }) ?? (steps.count < 3 || clock.seconds < command.seconds) {
        steps.append(bench.step())
    }
    try command.trace.map { try writeTrace(to: $0) { for _ in 0..<2 { _ = bench.step() } } }
    let median = steps.sorted { $0.seconds < $1.seconds }[steps.count / 2]
    let tokens = command.batch * command.sequence
    let gflops = bench.flopsPerToken * Double(tokens) / median.seconds / 1e9
    if command.options.json {
        let report: JSONValue = [
            "tokens_per_second": .init(Double(tokens) / median.seconds), "gflops": .init(gflops),
            "share_of_gemm_peak": .init(gflops / peak), "gemm_peak_gflops": .init(peak),
            "peak_memory_bytes": .init(peakMemoryBytes()),
            "step_seconds": .array(steps.map { .init($0.seconds) }),
            "parts": [
                "forward": .init(median.forward), "backward": .init(median.backward), "update": .init(median.update),
            ],
        ]
        return try StandardOutput.write(report.serialized() + "\n")
    }
    func share(_ part: Double) -> String { "\(decimals(part * 1000, 0)) ms" }
    try StandardOutput.write(
        """
        \(decimals(Double(tokens) / median.seconds, 0)) tokens/s (median of \(counted(steps.count, "step")) of \(counted(tokens, "token")))
        \(gemmShare(gflops, ofPeak: peak, dtype))
        forward \(share(median.forward)), backward \(share(median.backward)), update \(share(median.update))
        peak memory \(byteSize(peakMemoryBytes()))

        """)
}

/// A trace of `body`, complete or not at all.
private func writeTrace(to path: String, _ body: () -> Void) throws {
    let unfinished = path + ".unfinished"
    try writeFileAtomically("", to: unfinished)
    guard Engine.trace(to: unfinished, body), fileExists(unfinished) else {
        throw UserError("\(path): the trace could not be written; is its folder there, and not full?", .cannotWrite)
    }
    try moveFile(unfinished, to: path)
}

private func name(_ dtype: DType) -> String { dtype == .bfloat16 ? "bf16" : "fp32" }

/// "12 GFLOP/s, 3 % of ...": what was reached beside what the machine can do at most.
func gemmShare(_ gflops: Double, ofPeak peak: Double, _ dtype: DType) -> String {
    "\(decimals(gflops, 0)) GFLOP/s, \(decimals(100 * gflops / peak, 0)) % of this machine's \(name(dtype)) product "
        + "(\(decimals(peak, 0)) GFLOP/s)"
}

/// Several square products.
struct GemmSpeed {
    let size: Int
    /// Of each.
    let seconds: [Double]

    init(size: Int, _ dtype: DType) {
        self.size = size
        seconds = withoutGradients {
            let a = RandomStream(seed: 1, 0).normal([size, size]).to(dtype), b = a.clone()
            return (0..<8).map { _ in
                let clock = StepClock()
                _ = a.matmul(b)
                return clock.seconds
            }
        }
    }

    /// 10⁹ operations a second of the fastest one.
    var gflops: Double { 2 * Double(size) * Double(size) * Double(size) / seconds.min()! / 1e9 }
}

/// A model with an optimizer, and steps on one batch of random tokens.
private final class TrainingBench {
    /// Seconds of a step's parts.
    struct Step {
        var forward = 0.0, backward = 0.0, update = 0.0
        var seconds: Double { forward + backward + update }
    }

    private let loaded: LoadedModel
    private let optimizer: AdamW
    private let ids: [Int32], labels: [Int32], starts: [Int]
    private let headChunk: Int?
    /// 6 for each weight of a product and 12·L·C·T/2 for causal attention, the frozen weights' own gradients left out.
    let flopsPerToken: Double

    init(_ command: BenchTrainCommand, _ dtype: DType) throws {
        let isFull = command.method == .full
        loaded = try Self.load(command.model, dtype, command.method)
        let model = loaded.model, settings = AdamW.Settings(hasNarrowMoments: command.state == .int8)
        model.recomputation = .init(
            stride: command.recomputeBlocks, isSelective: command.recomputeSelective,
            keepsBFloat16: command.recomputeInBf16)
        if isFull {
            loaded.splitMasters()
            optimizer = AdamW(model.namedParameters(), tables: model.tables, settings)
        } else {
            let adapter = AdapterConfig(
                rank: 16, alpha: 32, dropout: command.dropout, scaling: .standard,
                hasMagnitude: command.method == .dora, targets: model.blockLinearKinds, savedModules: [],
                baseModel: command.model)
            try Adapter.attachNew(adapter, to: loaded, seed: 1)
            let parameters = Adapter.parts(of: loaded, adapter)
            for (_, parameter) in parameters { parameter.isTrained = true }
            optimizer = AdamW(parameters, settings)
        }
        let tokens = command.batch * command.sequence
        guard command.sequence <= model.contextLength else {
            throw UserError("--sequence \(command.sequence): the model's context is \(model.contextLength)", .usage)
        }
        ids = RandomStream(seed: 2, 0).words(tokens, offset: 0).map { Int32($0 % UInt32(model.vocabSize)) }
        labels = ids.dropFirst() + [ids[0]]
        starts = (0...command.batch).map { $0 * command.sequence }
        headChunk = command.headChunk == 0 ? tokens : command.headChunk
        let products = model.blockLinears.reduce(0) { $0 + $1.linear.inFeatures * $1.linear.outFeatures }
        let head = model.headWeight.shape.reduce(1, *)
        let queries = loaded.shape.layers * loaded.shape.queryWidth
        let passes = isFull ? 6.0 : 4.0
        flopsPerToken = passes * Double(products + head) + 6 * Double(queries * command.sequence)
    }

    /// Weights of a folder; random ones for a config.json alone.
    private static func load(_ path: String, _ dtype: DType, _ method: BenchTrainCommand.Method) throws -> LoadedModel {
        let trainsAll = method == .full, quantization: BaseQuantization? = method == .qlora ? .nf4 : nil
        guard path.hasSuffix(".json") else {
            let reference = try ModelReference(path)
            return try LoadedModel(reference, dtype: dtype, trainsAll: trainsAll, quantization: quantization)
        }
        return try LoadedModel(
            configuration: path, dtype: dtype, trainsAll: trainsAll, randomSeed: 1, quantization: quantization)
    }

    func step() -> Step {
        for (i, (_, linear)) in loaded.model.blockLinears.enumerated() {
            linear.adapter?.dropoutStream = RandomStream(seed: 3, UInt64(i), UInt64(optimizer.steps))
        }
        var step = Step(), clock = StepClock()
        let factor = 1 / Double(ids.count)
        let loss = loaded.model.lossSum(
            ids, labels: labels, documentStarts: starts, factors: Array(repeating: factor, count: ids.count),
            headChunk: headChunk)
        step.forward = clock.seconds
        clock = StepClock()
        loss.backward()
        step.backward = clock.seconds
        clock = StepClock()
        let clip = clipScale(norm: optimizer.gradientNorm(), max: 1)
        optimizer.step(learningRate: 1e-4, gradientScale: clip)
        optimizer.zeroGradients()
        step.update = clock.seconds
        return step
    }
}
