// How fast a model writes: what `bench generate` measures.
internal import Layers
public import Models
internal import Tensors

/// Times of one generation.
public struct GenerationSpeed: Sendable {
    /// Seconds of a step's parts.
    public struct Step: Sendable {
        /// Until the scores are there; choosing the next tokens by them.
        public var forward: Double, sampling: Double
        public var seconds: Double { forward + sampling }
    }

    /// The prompts' step.
    public var prompt: Step
    /// A token of each sequence.
    public var steps: [Step]

    /// Writes `tokens` tokens behind each of `batch` different prompts, whatever they are.
    ///
    /// - Parameter beside: called after the first and then every eighth step, outside what is timed.
    /// - Precondition: prompt and answer fit into the model's context.
    public init(
        _ scorer: any SequenceScorer, batch: Int, promptTokens: Int, tokens: Int, sampling: SamplingSettings = .init(),
        beside: () -> Void = {}
    ) {
        let vocabulary = Int32(clamping: scorer.vocabSize)
        let cache = scorer.makeCache(sequences: batch, capacity: promptTokens + tokens)
        let rows = Array(0..<batch), clock = ContinuousClock()
        var next = rows.map { row in
            (0..<promptTokens).map { Int32(truncatingIfNeeded: 7919 * (row * promptTokens + $0) + 17) % vocabulary }
        }
        func step(_ number: Int) -> Step {
            withoutGradients {
                let start = clock.now
                let scores = scorer.scores(after: next, rows: rows, cache)
                let scored = clock.now
                next = sampling.pick(scores, rows.map { .init(sequence: $0, step: number) }).map { [$0] }
                return Step(
                    forward: start.duration(to: scored) / .seconds(1),
                    sampling: scored.duration(to: clock.now) / .seconds(1))
            }
        }
        prompt = step(0)
        steps = (0..<tokens).map { token in
            defer { if token % 8 == 0 { beside() } }
            return step(token + 1)
        }
    }
}
