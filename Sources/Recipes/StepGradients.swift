// The gradients of one optimiser step: what training and the measuring of its time have in common.
internal import Datasets
internal import Models
internal import RunConfig
internal import Tensors

/// Backward over the micro-batches of a step.
struct StepGradients {
    let reduction: TrainingSection.Reduction
    let terms: LossTerms
    let sampler: BatchSampler
    let trained: TrainedModel

    init(_ training: TrainingSection, _ sampler: BatchSampler, _ trained: TrainedModel) {
        reduction = training.lossReduction
        terms = LossTerms(labelSmoothing: training.labelSmoothing, zLoss: training.zLoss)
        (self.sampler, self.trained) = (sampler, trained)
    }

    /// Adds the gradients of the whole step's loss.
    ///
    /// - Returns: the loss in nats per trained token (per row for `sequence`, the sum for `sum`).
    func accumulate(_ plan: StepPlan) -> Double {
        var loss = Tensor.zeros([], .float64)
        for index in plan.microBatches.indices {
            let batch = sampler.batch(plan, index)
            if batch.trainedTokens == 0 { continue }
            trained.drawDropout(step: plan.step, microBatch: index)
            let part = trained.loaded.model.lossSum(
                batch.inputIDs, labels: batch.labels, documentStarts: batch.documentStarts,
                factors: factors(batch, plan), terms: terms)
            part.backward()
            loss = loss + part.detached()  // no device sync in the loop
        }
        return loss.item
    }

    /// What each token's loss is multiplied by: one over the trained tokens of the whole step, not of the micro-batch.
    private func factors(_ batch: PackedBatch, _ plan: StepPlan) -> [Double]? {
        switch reduction {
        case .sum: return nil
        case .token: return Array(repeating: 1 / Double(plan.trainedTokens), count: batch.count)
        case .sequence:
            return batch.documentStarts.indices.dropLast().flatMap { i -> [Double] in
                let document = batch.documentStarts[i]..<batch.documentStarts[i + 1]
                let trained = batch.labels[document].count { $0 >= 0 }
                return Array(repeating: 1 / (Double(max(1, trained)) * Double(plan.rows.count)), count: document.count)
            }
        }
    }
}
