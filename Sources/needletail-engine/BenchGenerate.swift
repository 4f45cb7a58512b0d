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
    let before = measuredReadBandwidth()
    _ = GenerationSpeed(
        scorer, batch: command.batch, promptTokens: command.promptTokens, tokens: min(8, command.tokens))
    let speed = GenerationSpeed(
        scorer, batch: command.batch, promptTokens: command.promptTokens, tokens: command.tokens)
    let bandwidth = max(before, measuredReadBandwidth())
    let median = speed.stepSeconds.sorted()[speed.stepSeconds.count / 2]
    let bytes = scorer.bytesPerStep ?? 0, share = Double(bytes) / median / bandwidth
    let tokensPerSecond = Double(command.batch) / median
    if command.options.json {
        let report: JSONValue = [
            "tokens_per_second": .init(tokensPerSecond), "step_seconds": .array(speed.stepSeconds.map { .init($0) }),
            "prompt_seconds": .init(speed.promptSeconds), "bytes_per_step": .init(bytes),
            "read_bandwidth": .init(bandwidth), "share_of_read_bandwidth": .init(share),
            "peak_memory_bytes": .init(peakMemoryBytes()),
        ]
        return try StandardOutput.write(report.serialized() + "\n")
    }
    try StandardOutput.write(
        """
        \(decimals(tokensPerSecond, 0)) tokens/s (median of \(counted(speed.stepSeconds.count, "step")), \(counted(command.batch, "sequence")))
        \(decimals(Double(bytes) / 1e6, 0)) MB of weights a step: \(decimals(100 * share, 0)) % of the \
        \(decimals(bandwidth / 1e9, 1)) GB/s at which memory is read
        peak memory \(byteSize(peakMemoryBytes()))

        """)
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
