// batches.jsonl: the tokens of every optimizer step, so that another program can repeat the run.
internal import Datasets
internal import Formats

/// Writes one row per step: `{"step", "micro_batches": [{"input_ids", "labels", "document_starts"}]}`.
final class BatchRecord {
    private let file: OutputFile

    /// - Parameter step: steps done before; rows of later steps, left by a killed run, are dropped.
    init(_ folder: String, from step: Int) throws {
        let path = joinPath(folder, "batches.jsonl")
        var kept = 0
        if step > 0, fileExists(path) {
            let reader = try LineReader(path: path)
            for _ in 0..<step { if let line = try reader.next() { kept += line.text.utf8.count + 1 } }
        }
        file = try OutputFile(appendingTo: path, keeping: kept)
    }

    func write(_ plan: StepPlan, _ sampler: BatchSampler) throws {
        let micro: [JSONValue] = plan.microBatches.indices.map { index in
            let batch = sampler.batch(plan, index)
            return [
                "input_ids": .array(batch.inputIDs.map { .init(Int($0)) }), "labels": .array(batch.labels.map { .init(Int($0)) }),
                "document_starts": .array(batch.documentStarts.map { .init($0) }),
            ]
        }
        try file.append(JSONValue.object(JSONObject([("step", .init(plan.step)), ("micro_batches", .array(micro))])).serialized() + "\n")
        try file.flush()
    }
}
