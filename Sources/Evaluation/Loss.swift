// Loss over a data set, token-weighted.
public import Datasets
public import Models
internal import Tensors

/// Mean of -log p over all trained tokens of the rows, nats a token: each token counts once, whatever row it is in.
///
/// - Parameter maxTokens: tokens of a forward pass; decides memory, not the result.
/// - Returns: NaN for a data set without trained tokens.
public func averageLoss(_ model: any CausalLanguageModel, _ data: TokenizedDataset, maxTokens: Int) -> Double {
    averageLoss(model, data, maxTokens: maxTokens, unless: { false })!
}

/// As above; nil when `stops`, asked before every forward pass, says to leave off.
public func averageLoss(
    _ model: any CausalLanguageModel, _ data: TokenizedDataset, maxTokens: Int, unless stops: () -> Bool
) -> Double? {
    withoutGradients {
        var sum = 0.0, tokens = 0
        for rows in data.evaluationBatches(maxTokens: maxTokens) {
            if stops() { return nil }
            let batch = data.batch(rows)
            if batch.trainedTokens == 0 { continue }
            sum += model.lossSum(batch.inputIDs, labels: batch.labels, documentStarts: batch.documentStarts).item
            tokens += batch.trainedTokens
        }
        return sum / Double(tokens)
    }
}

/// Log-probabilities of every trained token, by row of the data set.
public func rowLogProbabilities(_ model: any CausalLanguageModel, _ data: TokenizedDataset, maxTokens: Int) -> [[Float]]
{
    var result = [[Float]](repeating: [], count: data.count)
    for rows in data.evaluationBatches(maxTokens: maxTokens) {
        let batch = data.batch(rows)
        if batch.trainedTokens == 0 { continue }
        var values = model.logProbabilities(batch.inputIDs, labels: batch.labels, documentStarts: batch.documentStarts)
            .values(Float.self)[...]
        for row in rows {
            let count = data.trainedTokens(row)
            result[row] = Array(values.prefix(count))
            values = values.dropFirst(count)
        }
    }
    return result
}
