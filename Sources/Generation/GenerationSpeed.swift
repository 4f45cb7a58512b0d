// How fast a model writes: what `bench generate` measures.
internal import Layers
public import Models
internal import Tensors

/// Times of one generation.
public struct GenerationSpeed: Sendable {
    /// Seconds until the first scores of all prompts.
    public var promptSeconds: Double
    /// Seconds of each step, choosing the next tokens included.
    public var stepSeconds: [Double]

    /// Writes `tokens` tokens behind each of `batch` different prompts, always the likeliest one, whatever it is.
    ///
    /// - Parameter beside: called after the first and then every eighth step, outside what is timed.
    /// - Precondition: prompt and answer fit into the model's context.
    public init(
        _ scorer: any SequenceScorer, batch: Int, promptTokens: Int, tokens: Int, beside: () -> Void = {}
    ) {
        let vocabulary = Int32(clamping: scorer.vocabSize)
        let cache = scorer.makeCache(sequences: batch, capacity: promptTokens + tokens)
        let rows = Array(0..<batch), clock = ContinuousClock()
        var next = rows.map { row in
            (0..<promptTokens).map { Int32(truncatingIfNeeded: 7919 * (row * promptTokens + $0) + 17) % vocabulary }
        }
        func step() -> Double {
            clock.measure {
                withoutGradients {
                    let scores = scorer.scores(after: next, rows: rows, cache)
                    next = rows.map { [Int32(scores.withRow($0) { argmax($0) })] }
                }
            } / .seconds(1)
        }
        promptSeconds = step()
        stepSeconds = (0..<tokens).map { token in
            defer { if token % 8 == 0 { beside() } }
            return step()
        }
    }
}
