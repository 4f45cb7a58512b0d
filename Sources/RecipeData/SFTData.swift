// From the section `data` of a configuration to tokenized rows for training and judging. No tensors.
public import Datasets
internal import Diagnostics
public import ChatTemplates
internal import Formats
public import RunConfig
public import Tokenizers

/// The rows of a supervised fine-tuning run.
public struct SFTData: Sendable {
    public let training: TokenizedDataset
    public let validation: TokenizedDataset
    /// What rows are drawn from by weight; nil where each is trained on once an epoch.
    public let weightedSets: WeightedSets?
    public let trainingStatistics: DatasetStatistics
    public let validationStatistics: DatasetStatistics
    /// The files with their hashes under the names of the configuration.
    public let sources: [(name: String, fingerprint: DataFingerprint)]
    /// Things to tell the person once.
    public let warnings: [String]
    /// What became of the cache of tokens, a line each.
    public let notes: [String]

    /// Reads, splits and tokenizes, or takes the tokens from the cache. Rows whose mask cannot be proven, that hold
    /// nothing to train, or that are too long for the policy are left out and counted; other bad rows follow `bad_rows`.
    ///
    /// - Parameters:
    ///   - time: what templates that print a date print.
    ///   - threads: rows are read and encoded on so many; what comes out does not depend on it.
    ///   - cache: used unless `config` turns it off; nil is the user's.
    /// - Throws: `UserError` naming file, row and reason.
    public init(
        _ config: DataSection, _ tokenizer: Tokenizer, time: TemplateTime = .now, threads: Int = 1,
        cache: TokenCache? = nil
    ) throws {
        let encoder = try Self.encoder(config, tokenizer, time: time)
        let trainingSource = try config.trainingSource
        let judgedSource =
            try config.validation.isEmpty
            ? nil : config.source(config.validation, "data.validation", split: config.validationSplit)
        try config.checkTextUnit([trainingSource] + (judgedSource.map { [$0] } ?? []))
        let (cache, trouble) = config.cache ? Self.cache(cache) : (nil, [])
        let rows = try EncodedRows(
            trainingSource, encoder, threads: threads, cache: cache, selection: config.selection,
            check: { _ = try config.split($0) })
        let split = try config.split(rows.count)
        let mixture = try config.mixture(of: split.training, rows)
        let limited = config.limited(split, of: rows.count) + (mixture?.warnings ?? [])
        let mixed = mixture.map { config.notes($0) } ?? []
        (training, trainingStatistics) = try rows.dataset(mixture?.rows ?? split.training)
        weightedSets = try config.weightedSets(rows.sets(of: training))
        if let judgedSource {
            let judged = try EncodedRows(judgedSource, encoder, threads: threads, cache: cache)
            (validation, validationStatistics) = try judged.dataset()
            sources = [("data.train", rows.fingerprint), ("data.validation", judged.fingerprint)]
            (warnings, notes) = (rows.warnings + judged.warnings + limited, trouble + rows.notes + judged.notes + mixed)
        } else {
            (validation, validationStatistics) = try rows.dataset(split.heldOut, isPart: true)
            sources = [("data.train", rows.fingerprint)]
            (warnings, notes) = (rows.warnings + limited, trouble + rows.notes + mixed)
        }
    }

    /// `given`, else the user's; without a place for one, nil and why.
    private static func cache(_ given: TokenCache?) -> (TokenCache?, notes: [String]) {
        do {
            return (try given ?? TokenCache(), [])
        } catch {
            return (nil, ["tokens are not kept: \((error as? any UserFacing)?.message ?? "\(error)")"])
        }
    }

    /// Refuses rows that a model's table of positions has no place for.
    ///
    /// - Parameter positions: rows of the table; nil where positions are computed.
    public func check(positions: Int?) throws {
        guard let positions else { return }
        for rows in [training, validation] {
            guard let long = rows.indices.first(where: { rows.length($0) > positions }) else { continue }
            throw UserError(
                "\(rows.source(long)): \(rows.length(long)) tokens; the model has \(positions) positions: set "
                    + "data.max_length: \(positions)", .usage)
        }
    }

    /// The encoder that the configuration describes; also what previews use.
    public static func encoder(
        _ config: DataSection, _ tokenizer: Tokenizer, time: TemplateTime = .now
    ) throws -> ExampleEncoder {
        try ExampleEncoder(
            tokenizer, template: try config.template.map(templateSource),
            options: .init(
                masking: Masking(rawValue: config.trainOn.rawValue)!, maxLength: config.maxLength,
                truncation: Truncation(rawValue: config.truncation.rawValue)!), time: time)
    }

    /// The text of a built-in template, or of a file.
    public static func templateSource(_ name: String) throws -> String {
        if let source = ChatTemplate.builtIn[name] { return source }
        if fileExists(name) { return try readTextFile(name) }
        let names = ChatTemplate.builtIn.keys.sorted()
        let hint =
            nearestName(to: name, among: names).map { "did you mean \($0)?" }
            ?? "those are \(names.joined(separator: ", "))"
        throw UserError("template \(name): neither a file nor one that comes with the program; \(hint)", .usage)
    }

}

extension DataSection {
    /// The rows of `train`.
    public var trainingSource: DataSource { get throws { try source(train, "data.train", split: split) } }

    /// The rows behind one list of paths.
    ///
    /// - Throws: `UserError` for a transform that cannot be meant.
    public func source(_ paths: [String], _ name: String, split: String? = nil) throws -> DataSource {
        let steps = try transforms.enumerated().map { i, text in
            try RowTransform(text, source: name.isEmpty ? "" : "data.transforms[\(i)]")
        }
        return DataSource(
            paths, name: name, kind: rowKind, columnMap: columnMap, badRows: badRowPolicy, deduplicate: deduplicate,
            textUnit: Datasets.TextUnit(rawValue: textUnit.rawValue)!, split: split, transforms: steps)
    }

    /// - Throws: `UserError` for a `text_unit` that changes nothing, as no file is plain text.
    public func checkTextUnit(_ sources: [DataSource]) throws {
        guard textUnit != DataSection().textUnit, !(try sources.contains { try $0.hasPlainText() }) else { return }
        throw UserError("text_unit: has no effect, since no file of rows is plain text; remove it", .usage)
    }

    /// Settings that are texts with a form of their own, without opening a file.
    ///
    /// - Throws: `UserError` for a transform or an amount that cannot be meant.
    public func checkSteps() throws {
        _ = try trainingSource
        for (i, text) in mix.enumerated() { _ = try MixAmount(text, source: "data.mix[\(i)]") }
    }

    /// The rows to train on in the amounts that `mix` names; nil takes each once.
    fileprivate func mixture(of training: [Int], _ rows: EncodedRows) throws -> Mixture? {
        if mix.isEmpty { return nil }
        let names = mix.indices.map { "data.mix[\($0)]" }
        let amounts = try zip(mix, names).map { try MixAmount($0, source: $1) }
        var sources = [[Int]](repeating: [], count: train.count)
        for row in training { sources[rows.source(row)].append(row) }
        return try Mixture(sources, amounts, seed: seed ?? Mixture.defaultSeed, names: names)
    }

    /// `sets` by the weights of `weights`; nil without any.
    fileprivate func weightedSets(_ sets: [[Int]]) throws -> WeightedSets? {
        if weights.isEmpty { return nil }
        return try WeightedSets(sets, weights: weights, names: weights.indices.map { "data.weights[\($0)]" })
    }

    fileprivate func notes(_ mixture: Mixture) -> [String] {
        mixture.parts.enumerated().map { i, part in
            "mixed: \(counted(part.taken, "row")) of \(escapedForDisplay(train[i])), which has \(grouped(part.rows)) to train on"
        }
    }

    /// What `limit` leaves out; nothing where there are no more rows than it allows.
    fileprivate func limited(_ split: Split, of rows: Int) -> [String] {
        let all = rows - split.heldOut.count
        guard let limit, limit < all else { return [] }
        return ["data.limit: \(grouped(limit)) of \(counted(all, "row")) train; held-out rows are not limited"]
    }

    /// Rows to train on and to judge by, of `rows`.
    func split(_ rows: Int) throws -> Split {
        try Split(rows: rows, heldOut: heldOut, seed: seed ?? 0, limit: limit, source: "data.train")
    }

    /// Which rows of `train` need tokens: all, unless `limit` leaves some out.
    var selection: RowSelection {
        guard let limit else { return .all }
        return .some(name: "limit \(limit), held out \(heldOut), seed \(seed ?? 0)") { rows in
            let split = try split(rows)
            return split.training + split.heldOut
        }
    }

    var badRowPolicy: BadRowPolicy { badRows == .stop ? .stop : .drop }

    /// The data set's name for the kind of rows; nil recognizes it by the columns.
    private var rowKind: RowKind? {
        switch kind {
        case .auto: nil
        case .sharegpt: .conversations
        default: RowKind(rawValue: kind.rawValue)!
        }
    }

    var heldOut: HeldOut {
        if !validation.isEmpty { return .none }
        if let validationRows { return validationRows == 0 ? .none : .count(validationRows) }
        return validationFraction.map { $0 == 0 ? .none : .fraction($0) } ?? .none
    }
}

extension SFTConfig {
    /// Tokens a forward pass takes at most; also decides how rows are packed.
    public var microBatchTokens: Int { training.microBatchTokens ?? max(data.maxLength, 1024) }

    /// The order of the run's batches.
    public func sampler(_ data: SFTData) throws -> BatchSampler {
        let dataset = data.training
        let stepsPerEpoch = (dataset.count + training.batchRows - 1) / training.batchRows
        let epochs = training.steps.map { Double(($0 + stepsPerEpoch - 1) / stepsPerEpoch) } ?? training.epochs ?? 1
        return try BatchSampler(
            dataset, seed: self.data.seed ?? training.seed, stepSize: .rows(training.batchRows),
            microBatching: self.data.packing ? .packed(maxTokens: microBatchTokens) : .rows(1), epochs: epochs,
            sets: data.weightedSets)
    }

    /// Steps between judgements of held-out rows; the last step is always judged.
    public func judgementInterval(steps: Int) -> Int { training.evalEvery ?? max(1, steps / 10) }

    /// Judgements of a whole run.
    public func judgements(steps: Int) -> Int {
        let every = judgementInterval(steps: steps)
        return (steps + every - 1) / every
    }

    /// Optimizer steps of the whole run.
    public func totalSteps(_ sampler: BatchSampler) -> Int {
        min(training.steps ?? sampler.totalSteps, sampler.totalSteps)
    }
}
