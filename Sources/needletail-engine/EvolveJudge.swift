// How evolve judges models: perplexity and labelled choices as scores in which more is better.
import Datasets
import Diagnostics
import Evaluation
import Formats
import Glibc
import Merging
import ModelFiles
import Models
import RandomStreams
import Recipes
import RunConfig
import RunLog
import Tensors
import Tokenizers

/// The tasks of a config, read and tokenized once.
final class Judge {
    private struct Task {
        let name: String
        let rows: [DataRow]
        let labels: [String]
        let encoder: ExampleEncoder
        let examples: TokenizedDataset
        let maxTokens: Int
    }
    private let tasks: [Task]
    /// Name and path of each task's rows.
    let files: [(String, String)]
    let device: Device
    let dtype: DType
    var names: [String] { tasks.map(\.name) }

    init(_ config: EvolveConfig, tokenizerOf base: MergeModel) throws {
        device = try config.device.engineDevice()
        dtype = config.dtype.computeDType(on: device)
        guard let folder = base.tokenizerFolder else {
            throw UserError("\(base.reference): has no tokenizer; name a model folder")
        }
        let tokenizer = try Tokenizer(modelPath: folder)
        let contextLength = (base.config?["max_position_embeddings"] ?? base.config?["n_positions"])?.int
        tasks = try config.evaluate.tasks.map { task in
            let labels = task.choice ?? [], name = task.name!, limit = task.limit ?? config.evaluate.limit
            let rows = try Self.chosen(Rows(DataSource([task.data!], name: name)), limit, config.evaluate.seed)
            let encoder = try ExampleEncoder(
                tokenizer,
                options: .init(
                    masking: labels.isEmpty ? .assistant : .lastAssistant, maxLength: contextLength, truncation: .drop))
            let examples = TokenizedDataset(try rows.map { try encoder.encode($0, source: name).example })
            guard examples.trainedTokens > 0 else {
                throw UserError("\(task.data!): no token to judge: rows need an answer or text")
            }
            let longest = examples.indices.map(examples.length).max()!
            return Task(
                name: name, rows: rows, labels: labels, encoder: encoder, examples: examples,
                maxTokens: max(longest, config.evaluate.batchTokens))
        }
        files = config.evaluate.tasks.map { ($0.name!, $0.data!) }
    }

    /// `limit` rows drawn by the seed, in the order of the file.
    private static func chosen(_ rows: Rows, _ limit: Int?, _ seed: UInt64) throws -> [DataRow] {
        var indices = Array(rows.indices)
        if let limit, limit < indices.count {
            let keys = RandomStream(seed: seed, 0xE7A1).words(indices.count)
            indices = indices.sorted { (keys[$0], $0) < (keys[$1], $1) }.prefix(limit).sorted()
        }
        return try indices.map { try rows[$0] }
    }

    /// By task: accuracy in per cent, or 100 exp(-loss), the geometric mean of the tokens' probabilities in per cent.
    func scores(_ model: any CausalLanguageModel) throws -> [Double] {
        try tasks.map { task in
            if task.labels.isEmpty { return 100 * exp(-averageLoss(model, task.examples, maxTokens: task.maxTokens)) }
            return 100
                * (try chooseLabels(model, task.rows, labels: task.labels, task.encoder, maxTokens: task.maxTokens))
                .accuracy
        }
    }

    func scores(_ reference: MergeModelReference) throws -> [Double] { try scores(load(reference).model) }

    func load(_ reference: MergeModelReference) throws -> LoadedModel {
        let found =
            try reference.adapter.map { try ModelReference($0, base: reference.path) } ?? ModelReference(reference.path)
        return try LoadedModel(found, dtype: dtype, device: device)
    }
}

/// A model in memory whose weights are replaced by one merge after another: no files are written.
final class MergedInMemory {
    private let judge: Judge
    private let loaded: LoadedModel
    private let weights: ReplaceableWeights

    /// - Parameter model: one of the merged models; gives the architecture. An adapter's base serves as well.
    init(_ judge: Judge, _ model: MergeModelReference) throws {
        self.judge = judge
        loaded = try judge.load(MergeModelReference(model.path, revision: model.revision))
        weights = ReplaceableWeights(of: loaded)
    }

    func scores(_ plan: MergePlan) throws -> [Double] {
        var missing = Set(weights.names.map { ExactString($0) })
        try plan.forEachTensor { tensor, produce in
            guard let weight = weights.weight(tensor.name) else { return }
            var bytes: [UInt8] = []
            bytes.reserveCapacity(tensor.byteCount)
            try produce { bytes.append(contentsOf: $0) }
            try bytes.withUnsafeBytes { try weights.replace(weight, tensor.elementType, tensor.shape, $0) }
            missing.remove(ExactString(weight))
        }
        if let name = weights.names.first(where: { missing.contains(ExactString($0)) }) {
            throw UserError("the merge has no tensor \(name)")
        }
        return try judge.scores(loaded.model)
    }
}
