// Writing a merge: weights first, then tokenizer and cards, config.json last; the folder appears complete or not at all.
internal import Diagnostics
internal import Formats
internal import Glibc
internal import ModelFiles
internal import RunLog
internal import Synchronization
internal import Tokenizers

/// How a merge is written.
public struct MergeOptions: Sendable {
    /// A tensor opens a new shard when it would bring the present one above this.
    public var maxShardBytes = 5_000_000_000
    /// Tensors merged at once.
    public var threads = 2
    /// Accepts a base that looks unrelated to the models.
    public var acceptsAnyBase = false
    /// Writes progress to standard error.
    public var showsProgress = true

    public init() {}
}

extension MergePlan {
    /// Bytes of all tensors.
    public var outputBytes: Int { tensors.reduce(0) { $0 + $1.byteCount } }

    /// Merges into a folder; of bare safetensors files, into one file.
    ///
    /// - Parameter source: the configuration's own text for `mergekit_config.yml`; nil writes the values.
    /// - Throws: `UserError`: 65 for what the inputs hold, 73 when `path` exists or the disk is too small. Nothing is left
    ///   behind then.
    public func write(to path: String, _ source: String? = nil, _ options: MergeOptions = MergeOptions()) throws {
        try refuseExisting(path)
        try checkSpace(path)
        if !options.acceptsAnyBase { try checkAncestry() }
        let yaml = source ?? config.yaml
        if donor.folder == nil { return try writeFile(path, options) }
        try writeFolderAtomically(path) { folder in
            try writeWeights(to: folder, options)
            try writeTokenizer(to: folder)
            try copyFile("generation_config.json", from: donor.folder, to: folder)
            try writeFileAtomically(
                yaml.hasSuffix("\n") ? yaml : yaml + "\n", to: joinPath(folder, "mergekit_config.yml"))
            try writeFileAtomically(modelCard(title: fileName(of: path), yaml), to: joinPath(folder, "README.md"))
            try writeFileAtomically(record.serialized(.pretty) + "\n", to: joinPath(folder, Self.recordName))
            try writeFileAtomically(try outputConfig().serialized(.pretty) + "\n", to: joinPath(folder, "config.json"))
        }
    }

    /// What a result says of its making.
    static let recordName = "merge.json"

    /// Bare tensors: one file, no shards.
    private func writeFile(_ path: String, _ options: MergeOptions) throws {
        var options = options
        options.maxShardBytes = .max
        let folder = "\(path).parts"
        try writeFolderAtomically(folder) { try writeWeights(to: $0, options) }
        defer { try? removeTree(folder) }
        try refuseExisting(path)
        try moveFile(joinPath(folder, SafetensorsFolder.singleName), to: path)
    }

    private func writeWeights(to folder: String, _ options: MergeOptions) throws {
        let progress = options.showsProgress ? MergeProgress(total: outputBytes) : nil
        defer { progress?.finish() }
        let warnings = Warnings()
        // By name, so that shards hold the same tensors as mergekit's of the same file.
        let outputs = tensors.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }.map { tensor in
            SafetensorsWriter.Tensor(name: tensor.name, elementType: tensor.elementType, shape: tensor.shape) { emit in
                try self.produce(tensor, warn: warnings.add, emit)
            }
        }
        try SafetensorsWriter.writeParallel(
            folder: folder, tensors: outputs, metadata: [("format", "pt")], maxShardBytes: options.maxShardBytes,
            threads: options.threads
        ) { progress?.add($0) }
        progress?.finish()
        let lines = warnings.sorted
        guard options.showsProgress else { return }
        lines.prefix(5).forEach { ProgressLine.print($0) }
        if lines.count > 5 { ProgressLine.print("and \(counted(lines.count - 5, "more tensor")) like these") }
    }

    private func checkSpace(_ path: String) throws {
        var folder = parentFolder(of: path)
        while !folderExists(folder), folder != parentFolder(of: folder) { folder = parentFolder(of: folder) }
        // Headers, tokenizer files and the like beside the tensors.
        let needed = outputBytes + outputBytes / 1000 + (32 << 20), free = try availableBytes(at: folder)
        guard free < needed else { return }
        throw UserError(
            "\(folder): \(byteSize(free)) free, the merge needs \(byteSize(needed)); free some space or name another folder",
            .cannotWrite)
    }

    // MARK: files beside the weights

    /// The merged vocabulary's tokenizer, else the donor's; `chat_template` takes the place of its own.
    private func writeTokenizer(to folder: String) throws {
        let template = try config.chatTemplate.flatMap { setting in
            try resolveChatTemplate(setting, tokenizerFolders: models.compactMap(\.tokenizerFolder))
        }
        if let vocabulary { return try vocabulary.writeTokenizer(to: folder, chatTemplate: template) }
        let source = donor.tokenizerFolder ?? ""
        guard fileExists(joinPath(source, "tokenizer.json")) else {
            // A tokenizer in a form that is only copied, or none.
            for name in [
                "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                "vocab.json", "merges.txt", "chat_template.jinja",
            ] {
                try copyFile(name, from: source, to: folder)
            }
            if config.chatTemplate != nil {
                throw UserError("chat_template: \(donor.reference) has no tokenizer.json to go with it; leave it out")
            }
            return
        }
        try TokenizerVocabulary(folder: source).save(to: folder, chatTemplate: template)
    }

    private func copyFile(_ name: String, from folder: String?, to target: String) throws {
        guard let folder, fileExists(joinPath(folder, name)) else { return }
        try writeFileAtomically(try readFile(joinPath(folder, name), maxBytes: 1 << 30), to: joinPath(target, name))
    }

    private var record: JSONValue {
        [
            "version": .string(programVersion), "merge_method": .string(config.method.rawValue),
            "config_sha256": .string(fingerprint), "models": .array(models.map { .string("\($0.reference)") }),
            "tensors": .init(tensors.count), "bytes": .init(outputBytes),
        ]
    }

    /// SHA-256 over the configuration's values and the names, sizes and times of the files that hold the inputs' weights:
    /// a result with the same one need not be made again.
    public var fingerprint: String {
        var text = config.yaml
        for model in models {
            let adapter = model.adapterFolder.map { joinPath($0, AdapterFiles.weightsName) }
            for path in model.files.map(\.path) + (adapter.map { [$0] } ?? []) {
                var status = stat()
                _ = stat(path, &status)
                text += "\(path)\t\(status.st_size)\t\(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec)\n"
            }
        }
        return sha256(ofBytes: Array(text.utf8))
    }

    private func modelCard(title: String, _ yaml: String) -> String {
        let names = models.map {
            $0.reference.description.hasPrefix("/") ? fileName(of: "\($0.reference)") : "\($0.reference)"
        }
        let front = [
            "---", "base_model: [\(names.map { JSONValue($0).serialized() }.joined(separator: ", "))]",
            "library_name: transformers",
            "tags: [needletail, merge, mergekit]", "---", "",
        ]
        let base = config.base.map { "; base `\($0)`" } ?? ""
        let body = [
            "# \(title)", "",
            "A merge of \(models.count) model\(models.count == 1 ? "" : "s") by `\(config.method.rawValue)`\(base). Made with Needletail \(programVersion).",
            "", "## Models", "", names.map { "- `\($0)`" }.joined(separator: "\n"), "", "## Settings", "", "```yaml",
            yaml.trimmingNewlines, "```",
        ]
        return (front + body).joined(separator: "\n") + "\n"
    }
}

extension String {
    fileprivate var trimmingNewlines: String {
        var text = Substring(self)
        while text.hasSuffix("\n") { text.removeLast() }
        return String(text)
    }
}

/// What threads found worth telling.
private final class Warnings: Sendable {
    private let lines = Mutex<[String]>([])
    var sorted: [String] { lines.withLock { $0.sorted() } }
    func add(_ line: String) { lines.withLock { $0.append(line) } }
}

/// The line that says how far a merge is.
private final class MergeProgress: Sendable {
    private let total: Int
    private let state: Mutex<(done: Int, shown: ContinuousClock.Instant, left: TimeLeft)>
    private let interval = Duration.milliseconds(200)

    init(total: Int) {
        self.total = total
        state = Mutex((0, .now, TimeLeft()))
    }

    func add(_ bytes: Int) {
        state.withLock { state in
            state.done += bytes
            let now = ContinuousClock.now
            guard state.shown.duration(to: now) > interval || state.done == total else { return }
            state.shown = now
            let left =
                state.left.update(step: state.done, of: total, now: now).map { "  \(duration(seconds: $0)) left" } ?? ""
            ProgressLine.show(
                "merged \(byteSize(state.done)) of \(byteSize(total))\(left)", isLast: state.done == total)
        }
    }

    func finish() { ProgressLine.finish() }
}
