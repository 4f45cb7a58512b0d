// bench generate: the speed of writing beside the bandwidth that bounds it.
import CommandLineInterface
import Diagnostics
import Formats
import Generation
import ModelFiles
import Models
import RunLog
import Tensors

func benchGenerate(_ command: BenchGenerateCommand) throws {
    let scorer = try benchScorer(command, command.options.dtype.dtype(on: .cpu))
    guard command.promptTokens + command.tokens <= scorer.contextLength else {
        throw UserError(
            "--tokens: prompt and answer are longer than the model's context of \(scorer.contextLength)", .usage)
    }
    let sampling = SamplingSettings(temperature: command.temperature, topP: command.topP)
    func speed(_ tokens: Int, beside: () -> Void = {}) -> GenerationSpeed {
        GenerationSpeed(
            scorer, batch: command.batch, promptTokens: command.promptTokens, tokens: tokens, sampling: sampling,
            beside: beside)
    }
    _ = speed(min(8, command.tokens))
    // A shared machine's memory is not equally fast in all places and at all times: the weights themselves are read between
    // the steps, and medians of both compared.
    var readSeconds: [Double] = []
    let measured = speed(command.tokens) {
        if let fused = scorer.fused { readSeconds.append(ContinuousClock().measure(fused.readWeights) / .seconds(1)) }
    }
    let report = GenerationReport(command, measured, scorer.fused, readSeconds)
    try StandardOutput.write(command.options.json ? report.json.serialized() + "\n" : report.text)
}

/// What a generation reached.
private struct GenerationReport {
    /// All weights of a step, read and nothing else.
    struct Reading {
        var bytes: Int
        var seconds: Double
        var bandwidth: Double { Double(bytes) / seconds }
    }
    /// 10⁹ operations a second in the median step, and of this machine's matrix product.
    struct Arithmetic {
        var gflops: Double, peak: Double
        var share: Double { gflops / peak }
    }

    let speed: GenerationSpeed
    let batch: Int
    /// The median step.
    let step: GenerationSpeed.Step
    /// What it is multiplied in: fp32 where bf16 has no products of its own.
    let dtype: DType
    /// nil where a step is no single call.
    let reading: Reading?, arithmetic: Arithmetic?
    let memory = peakMemoryBytes()

    init(_ command: BenchGenerateCommand, _ speed: GenerationSpeed, _ fused: FusedDecoder?, _ readSeconds: [Double]) {
        let batch = command.batch, given = command.options.dtype.dtype(on: .cpu)
        let dtype = given == .bfloat16 && !Engine.prefersBFloat16(on: .cpu) ? .float32 : given
        let step = speed.steps.sorted { $0.seconds < $1.seconds }[speed.steps.count / 2]
        (self.speed, self.batch, self.step, self.dtype) = (speed, batch, step, dtype)
        guard let fused else {
            (reading, arithmetic) = (nil, nil)
            return
        }
        reading = Reading(bytes: fused.bytesPerStep, seconds: readSeconds.sorted()[readSeconds.count / 2])
        // The first token that is written sees the prompt and itself, the last one all others, too.
        let operations = fused.operations(seeing: command.promptTokens + (command.tokens + 1) / 2)
        arithmetic = Arithmetic(
            gflops: Double(batch) * operations / step.seconds / 1e9, peak: GemmSpeed(size: 2048, dtype).gflops)
    }

    var tokensPerSecond: Double { Double(batch) / step.seconds }

    var json: JSONValue {
        func figure(_ value: Double?) -> JSONValue { value.map { JSONValue($0) } ?? .null }
        let share = reading.map { $0.seconds / step.seconds }, seconds = speed.steps.map { JSONValue($0.seconds) }
        return [
            "tokens_per_second": figure(tokensPerSecond), "gflops": figure(arithmetic?.gflops),
            "share_of_gemm_peak": figure(arithmetic?.share), "gemm_peak_gflops": figure(arithmetic?.peak),
            "bytes_per_step": reading.map { JSONValue($0.bytes) } ?? .null,
            "read_bandwidth": figure(reading?.bandwidth), "share_of_read_bandwidth": figure(share),
            "peak_memory_bytes": JSONValue(memory), "prompt_seconds": figure(speed.prompt.seconds),
            "step_seconds": .array(seconds),
            "parts": ["forward": figure(step.forward), "sampling": figure(step.sampling)],
        ]
    }

    var text: String {
        var lines = [
            "\(decimals(tokensPerSecond, 0)) tokens/s (median of \(counted(speed.steps.count, "step")), "
                + "\(counted(batch, "sequence")))"
        ]
        if let reading {
            let share = decimals(100 * reading.seconds / step.seconds, 0)
            lines.append(
                "\(decimals(Double(reading.bytes) / 1e6, 0)) MB of weights a step: \(share) % of the "
                    + "\(decimals(reading.bandwidth / 1e9, 1)) GB/s at which they are read alone")
        }
        if let arithmetic { lines.append(gemmShare(arithmetic.gflops, ofPeak: arithmetic.peak, dtype)) }
        lines.append(
            "forward \(decimals(1000 * step.forward, 2)) ms, sampling \(decimals(1000 * step.sampling, 2)) ms")
        lines.append("peak memory \(byteSize(memory))\n")
        return lines.joined(separator: "\n")
    }
}

private func benchScorer(_ command: BenchGenerateCommand, _ dtype: DType) throws -> any SequenceScorer {
    if command.weights == .asIs { return try StoredModel(GGUFModel(path: command.model), dtype: dtype) }
    if command.model.hasSuffix(".json") {
        return try LoadedModel(configuration: command.model, dtype: dtype, trainsAll: false, randomSeed: 1).model
            .makeScorer()
    }
    let reference = try ModelReference(command.model) { ProgressLine.print($0) }
    return try LoadedModel(reference, dtype: dtype).model.makeScorer()
}
