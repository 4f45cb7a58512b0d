// batches.jsonl: the tokens of every optimizer step, so that another program can repeat the run.
internal import Datasets
internal import Diagnostics
internal import Formats
internal import RunLog

/// Writes one row per step: `{"step", "micro_batches": [{"input_ids", "labels", "document_starts"}]}`.
final class BatchRecord {
    private let file: Appender

    /// - Parameter step: steps done before; rows of later steps, left by a killed run, are dropped.
    /// - Throws: `UserError` when the file lacks rows of steps done before.
    init(_ folder: String, from step: Int) throws {
        let path = joinPath(folder, "batches.jsonl")
        var kept = 0
        if step > 0 {
            let reader = try LineReader(path: path)
            for _ in 0..<step {
                guard let line = try reader.next() else {
                    throw UserError(
                        "\(path): lacks steps done before the checkpoint; restore it, or choose another output")
                }
                kept += line.text.utf8.count + 1
            }
        }
        file = try Appender(path, cutTo: kept)
    }

    func write(_ plan: StepPlan, _ sampler: BatchSampler) throws {
        let micro: [JSONValue] = plan.microBatches.indices.map { index in
            let batch = sampler.batch(plan, index)
            return [
                "input_ids": .array(batch.inputIDs.map { .init(Int($0)) }),
                "labels": .array(batch.labels.map { .init(Int($0)) }),
                "document_starts": .array(batch.documentStarts.map { .init($0) }),
            ]
        }
        // Counted from 1, as in metrics.jsonl.
        let row: JSONValue = ["step": .init(plan.step + 1), "micro_batches": .array(micro)]
        try file.append(Array((row.serialized() + "\n").utf8))
    }
}
