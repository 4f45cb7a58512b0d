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
    _ = GenerationSpeed(
        scorer, batch: command.batch, promptTokens: command.promptTokens, tokens: min(8, command.tokens))
    // A shared machine's memory is not equally fast in all places and at all times: the weights themselves are read between
    // the steps, and medians of both compared.
    var readSeconds: [Double] = []
    let speed = GenerationSpeed(
        scorer, batch: command.batch, promptTokens: command.promptTokens, tokens: command.tokens
    ) {
        if let fused = scorer.fused { readSeconds.append(ContinuousClock().measure(fused.readWeights) / .seconds(1)) }
    }
    let step = median(speed.stepSeconds), tokensPerSecond = Double(command.batch) / step
    let reading = scorer.fused.map { Reading(bytes: $0.bytesPerStep, seconds: median(readSeconds)) }
    if command.options.json {
        let report: JSONValue = [
            "tokens_per_second": .init(tokensPerSecond), "step_seconds": .array(speed.stepSeconds.map { .init($0) }),
            "prompt_seconds": .init(speed.promptSeconds), "bytes_per_step": reading.map { .init($0.bytes) } ?? nil,
            "read_bandwidth": reading.map { .init($0.bandwidth) } ?? nil,
            "share_of_read_bandwidth": reading.map { .init($0.seconds / step) } ?? nil,
            "peak_memory_bytes": .init(peakMemoryBytes()),
        ]
        return try StandardOutput.write(report.serialized() + "\n")
    }
    var lines = [
        "\(decimals(tokensPerSecond, 0)) tokens/s (median of \(counted(speed.stepSeconds.count, "step")), "
            + "\(counted(command.batch, "sequence")))"
    ]
    if let reading {
        lines.append(
            "\(decimals(Double(reading.bytes) / 1e6, 0)) MB of weights a step: \(decimals(100 * reading.seconds / step, 0)) % of "
                + "the \(decimals(reading.bandwidth / 1e9, 1)) GB/s at which they are read alone")
    }
    lines.append("peak memory \(byteSize(peakMemoryBytes()))\n")
    try StandardOutput.write(lines.joined(separator: "\n"))
}

/// All weights of a step, read and nothing else.
private struct Reading {
    var bytes: Int
    var seconds: Double
    var bandwidth: Double { Double(bytes) / seconds }
}

private func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

private func benchScorer(_ command: BenchGenerateCommand, _ dtype: DType) throws -> any SequenceScorer {
    if command.weights == .asIs { return try StoredModel(GGUFModel(path: command.model), dtype: dtype) }
    if command.model.hasSuffix(".json") {
        return try LoadedModel(configuration: command.model, dtype: dtype, trainsAll: false, randomSeed: 1).model
            .makeScorer()
    }
    let reference = try ModelReference(command.model) { ProgressLine.print($0) }
    return try LoadedModel(reference, dtype: dtype).model.makeScorer()
}
