// The configuration of supervised fine-tuning (recipe: sft): every key, its default, its range.
internal import Diagnostics

/// Supervised fine-tuning of a causal language model, all weights or an adapter.
public struct SFTConfig: RecipeConfig {
    public static let recipeName = "sft"

    public enum Recipe: String, ConfigChoice { case sft }
    /// Where to compute.
    public enum Device: String, ConfigChoice { case auto, cpu, cuda }

    public var recipe = Recipe.sft
    public var model = ModelSection()
    public var data = DataSection()
    public var adapter = AdapterSection()
    public var optimizer = OptimizerSection()
    public var schedule = ScheduleSection()
    public var training = TrainingSection()
    /// The run folder.
    public var output = "runs/sft"
    /// Worker threads; null takes one a physical core.
    public var threads: Int?
    public var device = Device.auto

    public init() {}

    public func validate() -> [ConfigProblem] {
        var problems = model.validate().inSection("model")
        problems += data.validate().inSection("data")
        problems += adapter.validate().inSection("adapter")
        problems += optimizer.validate().inSection("optimizer")
        problems += schedule.validate().inSection("schedule")
        problems += training.validate().inSection("training")
        if output.isEmpty { problems.append(.init("output", "name the run folder, as in output: runs/first")) }
        problems += threadProblems(threads)
        return problems + acrossSections()
    }

    private func acrossSections() -> [ConfigProblem] {
        var problems: [ConfigProblem] = []
        let validates = !data.validation.isEmpty || (data.validationRows ?? 1) > 0 && (data.validationFraction ?? 1) > 0
        if !validates, training.earlyStopPatience != nil {
            problems.append(
                .init("training.early_stop_patience", "has no effect without validation rows; set data.validation"))
        }
        if !validates, training.evalEvery != nil, training.samplePrompts.isEmpty {
            problems.append(.init("training.eval_every", "has no effect without validation rows; set data.validation"))
        }
        if !data.packing, training.microBatchTokens != nil {
            problems.append(
                .init("training.micro_batch_tokens", "has no effect with data.packing: false, which runs row by row"))
        }
        if data.packing, let tokens = training.microBatchTokens, tokens < data.maxLength {
            problems.append(
                .init("training.micro_batch_tokens", "\(tokens) is less than data.max_length, \(data.maxLength)"))
        }
        if adapter.method == .full, adapter.continueFrom == nil, !adapter.differsOnlyInMethod {
            problems.append(
                .init("adapter", "rank, alpha, dropout and targets have no effect with method: full; remove them"))
        }
        if optimizer.name == .muon, adapter.method != .full {
            problems.append(
                .init("optimizer.name", "muon trains all weights: set adapter.method: full, or name: adamw"))
        }
        if model.initialize == .random, adapter.method != .full {
            problems.append(
                .init("model.initialize", "random weights under an adapter stay random; set adapter.method: full"))
        }
        if model.quantize != .none, adapter.method == .full {
            problems.append(
                .init("model.quantize", "quantised weights cannot be trained; set adapter.method: lora, rslora or dora")
            )
        }
        if model.quantize != .none, device == .cuda {
            problems.append(.init("model.quantize", "\(model.quantize.rawValue) is for the CPU; set device: cpu"))
        }
        if training.quantizeAware != .none, adapter.method != .full {
            problems.append(
                .init(
                    "training.quantize_aware",
                    "trains all weights: set adapter.method: full; under an adapter model.quantize keeps them quantised"
                ))
        }
        if training.quantizeAware != .none, device == .cuda {
            problems.append(
                .init("training.quantize_aware", "\(training.quantizeAware.rawValue) is for the CPU; set device: cpu"))
        }
        if !data.addTokens.isEmpty, adapter.method != .full, !adapter.saveEmbeddings {
            problems.append(
                .init("data.add_tokens", "an adapter without adapter.save_embeddings: true learns nothing about them"))
        }
        return problems
    }

    /// Learning rate by method (2e-4 for adapters, 2e-5 for all weights), validation rows, order and length of the run.
    public func resolved() -> SFTConfig {
        var config = self
        config.data.seed = data.seed ?? training.seed
        config.optimizer.learningRate = optimizer.learningRate ?? (adapter.method == .full ? 2e-5 : 2e-4)
        if training.epochs == nil, training.steps == nil { config.training.epochs = 1 }
        if data.validation.isEmpty, data.validationRows == nil, data.validationFraction == nil {
            config.data.validationFraction = 0.05
        }
        return config
    }

    /// Keys that another start of the same run may change: they decide what is written and how often, or where files
    /// are found whose content is compared by hash, and nothing that is computed. `threads` is among them although
    /// another thread count may change the last bits of sums.
    public static let mayChangeOnResume: Set<String> = [
        "output", "threads", "model.path", "model.base", "data.train", "data.split", "data.validation",
        "data.validation_split", "data.template", "data.cache", "adapter.continue_from", "training.log_every",
        "training.save_every", "training.keep_checkpoints",
        "training.sample_prompts", "training.sample_every",
    ]
}

/// The model to start from.
public struct ModelSection: Codable, Sendable, Equatable {
    /// What weights are computed in; `auto` is bf16 where the machine has instructions for it, else fp32.
    public enum Precision: String, ConfigChoice { case auto, fp32, bf16 }
    /// How the frozen weights under an adapter are kept.
    public enum Quantize: String, ConfigChoice {
        case none, nf4, int8
        case asStored = "as_stored"
    }
    /// Weights that are not read from files.
    public enum Initialize: String, ConfigChoice { case random }

    /// A Hugging Face folder, an adapter folder, a run folder or a GGUF file. Required. Dropout rates in a model's config.json
    /// are not applied: only `adapter.dropout` is.
    public var path = ""
    /// The base of an adapter folder that names none, or one that has moved.
    public var base: String?
    public var dtype = Precision.auto
    /// How the linear maps of the blocks are kept in memory while an adapter is trained on them, on the CPU: nf4 (QLoRA,
    /// Dettmers et al. 2023, arXiv:2305.14314; 4.1 bits a weight), int8 (8.5 bits), as_stored (a GGUF file's own blocks,
    /// a folder's bf16 or fp16, nothing rounded again). Embedding, head, norms and biases stay in `dtype`.
    public var quantize = Quantize.none
    /// `random` starts from weights drawn by `training.seed` with the standard deviation that config.json gives as
    /// `initializer_range`, in a folder that holds none; null reads the folder's weights.
    public var initialize: Initialize?

    public init() {}

    func validate() -> [ConfigProblem] {
        path.isEmpty ? [.init("path", "required: a model folder or GGUF file, as in path: models/SmolLM2-135M")] : []
    }
}

/// Rows, how they become tokens, and which tokens are trained.
public struct DataSection: Codable, Sendable, Equatable {
    public enum Kind: String, ConfigChoice {
        case auto, chat, sharegpt, instruction, text, evals
        case promptCompletion = "prompt_completion"
        // Rows of other tasks: data verbs read and check them.
        case preference, unpaired, rlvr, scored, classification, tagging, tabular
        case autotrainPreference = "autotrain_preference"
        case questionAnswering = "question_answering"
        case sentencePairs = "sentence_pairs"

        /// Kinds that supervised fine-tuning takes.
        static let imitated: [Kind] = [.auto, .chat, .sharegpt, .instruction, .text, .evals, .promptCompletion]
    }
    public enum TrainOn: String, ConfigChoice {
        case assistant, all
        case lastAssistant = "last_assistant"
    }
    public enum Truncation: String, ConfigChoice { case right, left, drop, split }
    public enum TextUnit: String, ConfigChoice { case file, paragraph, line }
    public enum BadRows: String, ConfigChoice { case stop, drop }

    /// Files or folders of rows: JSONL, JSON, CSV, plain text, any of them packed by gzip or zstd. Required.
    public var train: [String] = []
    /// Of folders in `train` only the files of this split, as `train`, or `main:train` of the folder `main`.
    public var split: String?
    /// Rows held out; empty takes them from `train`.
    public var validation: [String] = []
    /// Of folders in `validation` only the files of this split.
    public var validationSplit: String?
    /// Share of the training rows held out, 0 ..< 1; null and no other setting: 0.05.
    public var validationFraction: Double?
    /// Number of training rows held out; 0 for none.
    public var validationRows: Int?
    public var kind = Kind.auto
    /// Field a row should have -> field it has in the files.
    public var columnMap: [String: String] = [:]
    /// Steps done to every row after it is read, in this order, as in [strip, "characters:min=20"]; `needletail data filter
    /// --help` lists them.
    public var transforms: [String] = []
    /// How much of each path in `train` is trained on, one amount a path: with a decimal point a share of its rows (1.0 is
    /// all, 2.5 two copies and a random half), without a number of rows. Empty takes all of them once.
    public var mix: [String] = []
    /// How often rows of each path in `train` are drawn, one weight a path in any scale: with [3, 1] three of four rows are the
    /// first's, all along the run. Of a path every row comes once before one comes again, and an epoch is as many draws as all
    /// paths have rows. Empty takes every row once an epoch.
    public var weights: [Double] = []
    /// What of a plain text file is one row; paragraphs end at blank lines. Other files have rows of their own.
    public var textUnit = TextUnit.file
    /// A built-in template's name or a file; null takes the model's own.
    public var template: String?
    public var trainOn = TrainOn.assistant
    /// Tokens a row; longer ones meet `truncation`.
    public var maxLength = 1024
    /// right and left are the sides that lose what is too much; `drop` leaves such rows out; `split` makes several rows of
    /// one, so that all of a long document is trained on.
    public var truncation = Truncation.right
    /// Several rows in one sequence, each seeing only itself.
    public var packing = true
    /// Exact duplicates are removed before the split.
    public var deduplicate = false
    public var badRows = BadRows.stop
    /// Training rows used at most, taken after shuffling by `seed`; null for all.
    public var limit: Int?
    /// Split, limit and order of rows; null takes `training.seed`.
    public var seed: UInt64?
    /// Tokens to add to the vocabulary, whose embeddings are then trained from their neighbours' mean.
    public var addTokens: [String] = []
    /// Keeps the rows' tokens on disk for the next run on them (`needletail data cache`); they are the same without.
    public var cache = true

    public init() {}

    func validate() -> [ConfigProblem] {
        var problems: [ConfigProblem] = []
        if train.isEmpty { problems.append(.init("train", "required: files of rows, as in train: [rows.jsonl]")) }
        for (i, path) in (train + validation).enumerated() where path.isEmpty {
            problems.append(.init(i < train.count ? "train" : "validation", "an empty path"))
        }
        let splits = [("validation_fraction", validationFraction != nil), ("validation_rows", validationRows != nil)]
        for (key, given) in splits where given && !validation.isEmpty {
            problems.append(.init(key, "has no effect beside data.validation; remove one"))
        }
        if validationFraction != nil, validationRows != nil {
            problems.append(.init("validation_rows", "give validation_fraction or validation_rows, not both"))
        }
        if let share = validationFraction, !(0..<1).contains(share) {
            problems.append(.init("validation_fraction", "\(share) is not in 0 ..< 1"))
        }
        if !Kind.imitated.contains(kind) {
            let known = Kind.imitated.map(\.rawValue).joined(separator: ", ")
            problems.append(.init("kind", "rows of kind \(kind.rawValue) cannot be imitated; give one of \(known)"))
        }
        if !mix.isEmpty, mix.count != train.count {
            problems.append(
                .init(
                    "mix",
                    "\(counted(mix.count, "amount")) for \(counted(train.count, "path")) in data.train; give one each"))
        }
        problems += weightProblems()
        if !mix.isEmpty, limit != nil {
            problems.append(.init("limit", "give the numbers of rows in data.mix, or data.limit without it"))
        }
        if validation.isEmpty, validationSplit != nil {
            problems.append(.init("validation_split", "has no effect without data.validation; name the folder there"))
        }
        problems += atLeast(0, validationRows, "validation_rows")
        problems += atLeast(2, maxLength, "max_length")
        problems += atLeast(1, limit, "limit")
        if addTokens.contains("") { problems.append(.init("add_tokens", "an empty token")) }
        if Set(addTokens).count != addTokens.count { problems.append(.init("add_tokens", "a token given twice")) }
        return problems
    }
}

extension DataSection {
    private func weightProblems() -> [ConfigProblem] {
        if weights.isEmpty { return [] }
        if train.count < 2 {
            return [.init("weights", "has no effect with fewer than two paths in data.train; remove it")]
        }
        if weights.count != train.count {
            let counts = "\(counted(weights.count, "weight")) for \(train.count) paths in data.train"
            return [.init("weights", "\(counts); give one each")]
        }
        if !mix.isEmpty { return [.init("weights", "give data.mix, the rows of an epoch, or data.weights, not both")] }
        return weights.enumerated().filter { !($0.element > 0 && $0.element.isFinite) }.map {
            .init("weights[\($0.offset)]", "\($0.element) is not above 0; remove the path to draw none of its rows")
        }
    }
}

/// What is trained: all weights, or a low-rank adapter (LoRA, Hu et al. 2021, arXiv:2106.09685; rsLoRA, Kalajdzievski
/// 2023, arXiv:2312.03732; DoRA, Liu et al. 2024, arXiv:2402.09353).
public struct AdapterSection: Codable, Sendable, Equatable {
    public enum Method: String, ConfigChoice { case full, lora, rslora, dora }

    public var method = Method.lora
    public var rank = 16
    /// Scale of the update: alpha / rank (rslora: alpha / sqrt(rank)).
    public var alpha = 32.0
    /// Share of the adapter's inputs set to zero, 0 ..< 1.
    public var dropout = 0.0
    /// Ends of names of linear layers, as in [q_proj, v_proj] (GPT-2: [c_attn, c_fc, c_proj]); `all_linear` for all but the head.
    public var targets: [String] = ["all_linear"]
    /// An adapter folder to go on training.
    public var continueFrom: String?
    /// Train and save embedding and head beside the adapter; needed for `data.add_tokens` to learn anything.
    public var saveEmbeddings = false

    public init() {}

    func validate() -> [ConfigProblem] {
        var problems = atLeast(1, rank, "rank")
        if alpha <= 0 { problems.append(.init("alpha", "\(alpha) is not above 0")) }
        if !(0..<1).contains(dropout) { problems.append(.init("dropout", "\(dropout) is not in 0 ..< 1")) }
        if targets.isEmpty { problems.append(.init("targets", "empty; name layers or write all_linear")) }
        if targets.contains("all_linear"), targets.count > 1 {
            problems.append(.init("targets", "all_linear stands alone; the other names have no effect"))
        }
        if method == .full, continueFrom != nil {
            problems.append(.init("continue_from", "has no effect with method: full; remove one"))
        }
        return problems
    }

    var differsOnlyInMethod: Bool {
        var other = AdapterSection()
        other.method = method
        return self == other
    }
}

/// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), or Muon (Jordan et al. 2024) for the matrices of the blocks with
/// AdamW for everything else.
public struct OptimizerSection: Codable, Sendable, Equatable {
    public enum Name: String, ConfigChoice { case adamw, muon }
    public enum Orthogonalization: String, ConfigChoice {
        case newtonSchulz = "newton_schulz"
        case polarExpress = "polar_express"
    }

    /// `muon` trains all weights (adapter.method: full), with one moment instead of two for the matrices of the blocks.
    public var name = Name.adamw
    /// Peak of the schedule; null: 2e-4 for adapters, 2e-5 for all weights. Muon's updates have the size of AdamW's.
    public var learningRate: Double?
    /// Peak for what muon leaves to AdamW (tables, head, vectors); null: `learning_rate`.
    public var adamwLearningRate: Double?
    /// Muon's, after a rise from 0.85 over the first `momentum_warmup_steps`.
    public var momentum = 0.95
    public var momentumWarmupSteps = 300
    /// Polynomials by which muon makes a matrix orthogonal: five equal steps, or five that follow each other's errors
    /// (Polar Express, arXiv:2505.16932).
    public var orthogonalization = Orthogonalization.newtonSchulz
    public var beta1 = 0.9
    public var beta2 = 0.999
    public var epsilon = 1e-8
    /// Not applied to norms, biases and other vectors.
    public var weightDecay = 0.0
    /// How moments are kept: fp32, or int8 in blocks with scales (a quarter of the memory; CPU only).
    public var state = State.fp32

    public enum State: String, ConfigChoice { case fp32, int8 }

    public init() {}

    func validate() -> [ConfigProblem] {
        var problems: [ConfigProblem] = []
        if let rate = learningRate, !(rate > 0 && rate <= 1) {
            problems.append(.init("learning_rate", "\(rate) is not in 0 <..1"))
        }
        for (key, beta) in [("beta1", beta1), ("beta2", beta2)] where !(0..<1).contains(beta) {
            problems.append(.init(key, "\(beta) is not in 0 ..< 1"))
        }
        if !(epsilon > 0) { problems.append(.init("epsilon", "\(epsilon) is not above 0")) }
        if weightDecay < 0 { problems.append(.init("weight_decay", "\(weightDecay) is negative")) }
        return problems + (name == .muon ? muonProblems() : idleMuonSettings())
    }

    private func muonProblems() -> [ConfigProblem] {
        var problems = atLeast(0, momentumWarmupSteps, "momentum_warmup_steps")
        if let rate = adamwLearningRate, !(rate > 0 && rate <= 1) {
            problems.append(.init("adamw_learning_rate", "\(rate) is not in 0 <..1"))
        }
        if !(0..<1).contains(momentum) { problems.append(.init("momentum", "\(momentum) is not in 0 ..< 1")) }
        if state == .int8 {
            problems.append(
                .init("state", "int8 has no effect with name: muon, which leaves only tables and vectors to AdamW"))
        }
        return problems
    }

    private func idleMuonSettings() -> [ConfigProblem] {
        let defaults = OptimizerSection()
        let given = [
            ("adamw_learning_rate", adamwLearningRate != nil), ("momentum", momentum != defaults.momentum),
            ("momentum_warmup_steps", momentumWarmupSteps != defaults.momentumWarmupSteps),
            ("orthogonalization", orthogonalization != defaults.orthogonalization),
        ]
        return given.filter(\.1).map { .init($0.0, "has no effect without name: muon; remove it") }
    }
}

/// Learning rate over the run: warm-up from 0, then by name.
public struct ScheduleSection: Codable, Sendable, Equatable {
    /// `wsd` is warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395).
    public enum Name: String, ConfigChoice { case linear, cosine, wsd, constant }

    public var name = Name.linear
    public var warmupSteps: Int?
    /// Share of all steps, 0 ... 1; null and no `warmup_steps`: no warm-up.
    public var warmupRatio: Double?
    /// Where linear, cosine and wsd end, as a share of the peak, 0 ... 1.
    public var minRatio = 0.0
    /// Share of all steps in which wsd falls, 0 <... 1.
    public var decayRatio: Double?

    public init() {}

    func validate() -> [ConfigProblem] {
        var problems = atLeast(0, warmupSteps, "warmup_steps")
        if warmupSteps != nil, warmupRatio != nil {
            problems.append(.init("warmup_ratio", "give warmup_steps or warmup_ratio, not both"))
        }
        if let ratio = warmupRatio, !(0...1).contains(ratio) {
            problems.append(.init("warmup_ratio", "\(ratio) is not in 0 ... 1"))
        }
        if !(0...1).contains(minRatio) { problems.append(.init("min_ratio", "\(minRatio) is not in 0 ... 1")) }
        if name == .constant, minRatio != 0 {
            problems.append(.init("min_ratio", "has no effect with name: constant; remove it"))
        }
        if let ratio = decayRatio {
            if name != .wsd { problems.append(.init("decay_ratio", "has no effect without name: wsd; remove it")) }
            if !(ratio > 0 && ratio <= 1) { problems.append(.init("decay_ratio", "\(ratio) is not in 0 <... 1")) }
            if ratio + (warmupRatio ?? 0) > 1 {
                problems.append(.init("decay_ratio", "warm-up and decay together take more than the whole run"))
            }
        }
        return problems
    }
}

func atLeast(_ minimum: Int, _ value: Int?, _ key: String) -> [ConfigProblem] {
    guard let value, value < minimum else { return [] }
    return [.init(key, "\(value) is less than \(minimum)")]
}

/// As many as `--threads` takes.
func threadProblems(_ threads: Int?) -> [ConfigProblem] {
    guard let threads, !(1...256).contains(threads) else { return [] }
    return [.init("threads", "\(threads) is not in 1 ... 256")]
}
