// What a fine-tuning run is made from, checked before any weight is loaded: tokenizer, rows, order, hashes.
internal import Datasets
internal import Diagnostics
internal import Formats
internal import ModelFiles
internal import RecipeData
internal import RunConfig
internal import RunLog
internal import Tensors
internal import Tokenizers

/// Tokenizer, rows and their order.
struct SFTInputs {
    let config: SFTConfig
    let reference: ModelReference
    let tokenizer: Tokenizer
    let data: SFTData
    let sampler: BatchSampler
    /// Optimizer steps of the whole run.
    let steps: Int

    init(_ config: SFTConfig) throws {
        self.config = config
        reference = try ModelReference(config.model.path, base: config.model.base) { ProgressLine.print($0) }
        if reference.adapterFolder != nil, config.adapter.method == .full {
            throw UserError("model.path: \(config.model.path) is an adapter; merge it first (needletail merge-adapter) or train with adapter.method: lora", .usage)
        }
        tokenizer = try config.data.tokenizer(at: reference.tokenizerFolder)
        data = try SFTData(config.data, tokenizer)
        sampler = try config.sampler(data.training)
        steps = config.totalSteps(sampler)
    }

    /// What will run, a line each.
    func describe() throws -> [String] {
        let rows = data.training.count, tokens = data.training.tokens
        var lines = [
            "model \(config.model.path), \(config.adapter.method.rawValue), \(config.computeDType(on: try config.engineDevice())), "
                + "\(Engine.threads) threads",
            "data \(grouped(rows)) rows, \(grouped(tokens)) tokens, \(grouped(data.training.trainedTokens)) trained; "
                + "held out \(grouped(data.validation.count)) rows, \(grouped(data.validation.trainedTokens)) trained tokens",
            "\(grouped(steps)) steps of \(config.training.batchRows) rows, output \(config.output)",
        ]
        lines += data.warnings
        lines += data.trainingStatistics.droppedByReason.map { "left out \(grouped($0.count)) training rows: \($0.reason.rawValue)" }
        lines += data.validationStatistics.droppedByReason.map { "left out \(grouped($0.count)) held-out rows: \($0.reason.rawValue)" }
        if data.trainingStatistics.duplicates > 0 {
            lines.append("left out \(grouped(data.trainingStatistics.duplicates)) exact duplicates")
        }
        if data.trainingStatistics.rowsTruncated > 0 {
            lines.append("cut \(grouped(data.trainingStatistics.rowsTruncated)) training rows to \(config.data.maxLength) tokens (data.truncation: \(config.data.truncation.rawValue))")
        }
        return lines
    }

    /// Creates or takes up the run folder; a folder made from something else is refused with the differences.
    func openRun(_ commandLine: [String]) throws -> RunFolder {
        let yaml = config.yaml
        var hashes = data.sources.map { (name: $0.name, sha256: $0.fingerprint.sha256) }
        hashes.append(("tokenizer", sha256(ofBytes: tokenizer.fingerprintBytes)))
        hashes.append(("base", try reference.baseHash()))
        if let adapter = reference.adapterFolder { hashes.append(("adapter", try sha256(ofFile: joinPath(adapter, "adapter_model.safetensors")))) }
        if let adapter = config.adapter.continueFrom { hashes.append(("adapter.continue_from", try sha256(ofFile: joinPath(adapter, "adapter_model.safetensors")))) }
        let identity = RunIdentity(
            config: config.flattened, hashes: hashes,
            mayChange: SFTConfig.mayChangeOnResume)
        var record = JSONObject()
        record["versions"] = ["needletail": .string(programVersion), "libtorch": .string(Engine.version)]
        record["machine"] = ["cpu_capability": .string(Engine.cpuCapability), "threads": .init(Engine.threads)]
        record["seeds"] = ["training": .string("\(config.training.seed)"), "data": .string("\(config.data.seed)")]
        record["command"] = .array(commandLine.map { .string($0) })
        return try RunFolder(path: config.output, identity: identity, configYAML: yaml, record: record)
    }
}

extension ModelReference {
    /// SHA-256 over the names and hashes of the base's configuration and weights.
    func baseHash() throws -> String {
        let names = try listFolder(baseFolder).filter { $0 == "config.json" || $0.hasSuffix(".safetensors") }
        let lines = try names.map { "\($0) \(try sha256(ofFile: joinPath(baseFolder, $0)))\n" }
        return sha256(ofBytes: Array(lines.joined().utf8))
    }
}
