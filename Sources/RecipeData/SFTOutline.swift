// What a fine-tuning config amounts to on its rows and model, found without loading a weight.
public import Datasets
internal import Diagnostics
internal import Formats
public import ModelFiles
public import RunConfig
public import Tokenizers

extension DataSection {
    /// The model's tokenizer with the tokens that the section adds.
    public func tokenizer(at path: String) throws -> Tokenizer {
        let own = try Tokenizer(modelPath: path)
        return addTokens.isEmpty ? own : try own.adding(tokens: addTokens, special: false)
    }
}

/// Rows, steps, order, operations and memory of a run to come.
public struct SFTOutline: Sendable {
    public let data: SFTData
    public let sampler: BatchSampler
    public let steps: Int
    public let model: ModelOutline
    /// Tokens of the whole run: computed, and those of them that are labels.
    public let tokens: Int, trainedTokens: Int
    /// Tokens of the largest micro-batch.
    public let largestMicroBatch: Int
    /// Operations of the whole run's matrix products, by formula.
    public let operations: Double
    private let config: SFTConfig

    /// - Parameter config: resolved.
    /// - Throws: `UserError` for model files and rows that a run would refuse.
    public init(_ config: SFTConfig) throws {
        self.config = config
        model = try ModelOutline(config.model.path, base: config.model.base)
        let path = try ModelReference.tokenizerPath(config.model.path, base: config.model.base)
        data = try SFTData(
            config.data, try config.data.tokenizer(at: path), threads: config.threads ?? processorCount)
        try data.check(positions: model.positions)
        sampler = try config.sampler(data)
        steps = config.totalSteps(sampler)
        let training = data.training
        var (tokens, trainedTokens, largest, squares) = (0, 0, 0, 0)
        for step in 0..<steps {
            let plan = sampler.plan(step: step)
            tokens += plan.tokens
            trainedTokens += plan.trainedTokens
            squares += plan.rows.reduce(0) { $0 + training.length($1) * training.length($1) }
            for rows in plan.microBatches { largest = max(largest, rows.reduce(0) { $0 + training.length($1) }) }
        }
        (self.tokens, self.trainedTokens, largestMicroBatch) = (tokens, trainedTokens, largest)
        operations =
            OperationCount(config, model, steps: steps, tokens: tokens, trainedTokens: trainedTokens, squares: squares)
            .total
    }

    public func memory(bytesPerNumber: Int) -> MemoryEstimate {
        MemoryEstimate(
            config, model, bytesPerNumber: bytesPerNumber, tokens: largestMicroBatch, trainedTokens: largestMicroBatch)
    }

    /// The first rows of `data.train` that can be used, as the model reads them; of rows that are held out some may be
    /// among them.
    public static func preview(_ config: SFTConfig, count: Int) throws -> [EncodedRow] {
        let path = try ModelReference.tokenizerPath(config.model.path, base: config.model.base)
        let encoder = try SFTData.encoder(config.data, try config.data.tokenizer(at: path))
        let rows = try Rows(try config.data.trainingSource)
        var preview: [EncodedRow] = []
        for index in rows.indices where preview.count < count {
            do {
                preview.append(try encoder.encode(rows[index], source: rows.sourceName(index)))
            } catch is BadRow {
                continue  // counted by `SFTData`
            }
        }
        return preview
    }
}
