// What a MODEL argument may be, and the folders it stands for.
internal import Diagnostics
internal import Formats
internal import Glibc
internal import RunLog
internal import Tokenizers

/// The folders behind a MODEL argument: a Hugging Face folder, an adapter folder, a run folder (its best checkpoint, else
/// what it delivered), one of a run's steps, or a GGUF file (converted once into the cache).
public struct ModelReference: Sendable, Equatable {
    /// Hugging Face folder with config.json and safetensors.
    public let baseFolder: String
    /// PEFT folder on top of it.
    public let adapterFolder: String?
    /// The GGUF file that `baseFolder` was converted from; nil for a folder of its own.
    public let storedFile: String?
    /// Where the tokenizer's files are: the adapter's folder if it has its own, else the base's.
    public let tokenizerFolder: String

    /// - Parameters:
    ///   - base: overrides the base that an adapter names.
    ///   - report: told about slow work (a conversion) before it starts, about a run whose checkpoints end before it does,
    ///     and about code in the folder, which is ignored.
    /// - Throws: `UserError` saying what is missing.
    public init(_ path: String, base: String? = nil, report: (String) -> Void = { _ in }) throws {
        let path = try Self.weightsPath(path, report: report)
        if fileExists(path) {
            guard try isGGUF(path) else { throw Self.notAModel(path) }
            try Self.refuse(base, path)
            baseFolder = try GGUFConversion.cachedFolder(of: path, report: report)
            (adapterFolder, tokenizerFolder) = (nil, baseFolder)
            storedFile = path
        } else if fileExists(joinPath(path, AdapterFiles.configName)) {
            let found = try Self.basePath(ofAdapter: path, override: base)
            let reference = try ModelReference(found, report: report)
            guard reference.adapterFolder == nil else {
                throw UserError(
                    "\(path): its base \(found) is itself an adapter; merge that one first (needletail merge-adapter)")
            }
            baseFolder = reference.baseFolder
            adapterFolder = try ForeignAdapter.converted(path, base: baseFolder, report: report) ?? path
            tokenizerFolder = fileExists(joinPath(path, "tokenizer.json")) ? path : reference.tokenizerFolder
            storedFile = reference.storedFile
        } else if fileExists(joinPath(path, "config.json")) {
            try Self.refuse(base, path)
            baseFolder = path
            (adapterFolder, tokenizerFolder) = (nil, path)
            storedFile = nil
        } else {
            throw Self.notAModel(path)
        }
        if folderExists(path) { ignoredCode(in: path).forEach(report) }
    }

    /// A config.json alone, without weights or tokenizer; its folder may hold anything.
    package init(configuration file: String) {
        (baseFolder, adapterFolder, storedFile) = (parentFolder(of: file), nil, nil)
        tokenizerFolder = baseFolder
    }

    /// Whether a MODEL argument leads to an adapter, which needs a base.
    public static func isAdapter(_ path: String) throws -> Bool {
        fileExists(joinPath(try weightsPath(path), AdapterFiles.configName))
    }

    /// The path that holds a tokenizer for a MODEL: a folder, a GGUF file, or a tokenizer's file. Reads no weights.
    public static func tokenizerPath(_ path: String, base: String? = nil) throws -> String {
        let path = try weightsPath(path)
        if fileExists(path) || tokenizerFile(in: path) != nil { return path }
        if fileExists(joinPath(path, AdapterFiles.configName)) {
            return try tokenizerPath(basePath(ofAdapter: path, override: base))
        }
        guard let hint = missingHint(path) else { throw missingTokenizer(in: path) }
        throw UserError("\(path): no tokenizer.json in this folder\(hint)")
    }

    /// Leads from a run folder to its best checkpoint (the newest whole one while none has been judged), without
    /// checkpoints to what the run delivered; other paths stay.
    ///
    /// - Parameter report: told where the checkpoints end before the run.
    static func weightsPath(_ path: String, report: (String) -> Void = { _ in }) throws -> String {
        if fileExists(path) { return path }
        guard folderExists(path) else {
            if let snapshot = try hubSnapshot(path) { return snapshot }
            throw UserError(
                "\(path): no such file or folder; a model is a Hugging Face folder, an adapter folder, a run folder or a .gguf file"
                    + hubHint(path))
        }
        let record = joinPath(path, "run.json")
        guard fileExists(record) else { return path }
        guard let run = try readJSONFile(record)["id"]?.string else {
            throw UserError("\(record): damaged; name one of the folders in \(joinPath(path, "checkpoints"))")
        }
        let store = CheckpointStore(folder: joinPath(path, "checkpoints"), run: run) { ProgressLine.print($0) }
        if let checkpoint = try store.bestOrNewest() {
            if let progress = store.progress {
                let which = checkpoint.score == nil ? "it" : "the best, of step \(grouped(checkpoint.step)),"
                // Checkpoints of later steps may have been taken away after it was written.
                let delivered = deliveredModel(of: path).map { "; to use what it delivered, name \($0)" } ?? ""
                report(
                    "note: \(path): the newest checkpoint of this run is of step \(grouped(progress.step)) of "
                        + "\(grouped(progress.of)); \(which) is used\(delivered)")
            }
            return checkpoint.folder
        }
        guard let model = deliveredModel(of: path) else {
            throw UserError("\(path): this run has saved no checkpoint yet; run the command that began it again")
        }
        return model
    }

    /// The adapter or model that a run folder got when the run was done, which outlives checkpoints that were cleaned away;
    /// nil where there is none.
    private static func deliveredModel(of run: String) -> String? {
        [("adapter", AdapterFiles.configName), ("model", "config.json")].map { (joinPath(run, $0), $1) }
            .first { fileExists(joinPath($0, $1)) }?.0
    }

    /// The files of a repository that is in the Hub cache; nil for any other path.
    private static func hubSnapshot(_ path: String) throws -> String? {
        guard let repository = HubRepository(path), let cache = HubCache() else { return nil }
        return try cache.snapshot(repository)
    }

    /// What to do about a file that a folder lacks: a GGUF file in it (the first part of one in parts), the model in what
    /// is left of a run folder, or the download of what a snapshot of the Hub cache lacks; nil for other folders.
    private static func missingHint(_ folder: String) -> String? {
        // A folder that cannot be listed has no hint to give; what is wrong with it is said already.
        let names = (try? listFolder(folder)) ?? []
        if let name = names.filter({ $0.hasSuffix(".gguf") }).min() {
            return "; to use the GGUF file in it, name \(joinPath(folder, name))"
        }
        if let model = deliveredModel(of: folder) { return "; to use the \(fileName(of: model)) in it, name \(model)" }
        return HubRepository(snapshot: folder).map { "; `needletail download \($0)` fetches what is missing" }
    }

    private static func hubHint(_ path: String) -> String {
        guard path.contains("/"), HubRepository(path) != nil else { return "" }
        return ", or a repository of the Hub that `needletail download \(path)` has fetched"
    }

    /// The base of an adapter: `override`, else `base_model_name_or_path` as given, else relative to the adapter's folder
    /// and then to each folder around it. A run writes the path as it was typed, so that folder and model can move
    /// together; the folder it was typed in is one of those around the run.
    static func basePath(ofAdapter path: String, override: String?) throws -> String {
        if let override { return override }
        let file = joinPath(path, AdapterFiles.configName)
        let json = try readJSONFile(file)
        // MLX calls it `model`.
        guard let name = (json["base_model_name_or_path"] ?? json["model"])?.string, !name.isEmpty else {
            throw UserError("\(file): names no base_model_name_or_path; give the base with --base MODEL")
        }
        if folderExists(name) || fileExists(name) { return name }
        let candidates = name.hasPrefix("/") ? [] : foldersAround(path).map { joinPath($0, name) }
        if let found = candidates.first(where: { fileExists(joinPath($0, "config.json")) || fileExists($0) }) {
            return found
        }
        if let snapshot = try hubSnapshot(name) { return snapshot }
        throw UserError("\(file): its base model \(name) is not here; give the base with --base MODEL")
    }

    /// A folder and all that hold it, from the inside out, without links; none for one that does not exist.
    private static func foldersAround(_ path: String) -> [String] {
        guard let real = realpath(path, nil) else { return [] }
        defer { free(real) }
        var folders = [String(cString: real)]
        while let last = folders.last, last != "/" { folders.append(parentFolder(of: last)) }
        return folders
    }

    /// A base that would change nothing is a mistake about what `path` is.
    package static func refuse(_ base: String?, _ path: String) throws {
        guard let base else { return }
        throw UserError(
            "\(path): is a whole model, not an adapter, so the base \(base) has no place; leave it out", .usage)
    }

    static func notAModel(_ path: String) -> UserError {
        if hasPickleExtension(path) {
            return UserError(
                "\(path): pickle files are never read; convert the weights to safetensors where they were made")
        }
        if let size = try? fileSize(path), size == 0 { return UserError("\(path): is empty; get the file again") }
        return UserError(
            folderExists(path)
                ? "\(path): neither config.json nor adapter_config.json in this folder\(missingHint(path) ?? "")"
                : "\(path): not a GGUF file; a model is a Hugging Face folder, an adapter folder, a run folder or a .gguf file"
        )
    }
}

/// True for a file that begins with GGUF's magic number.
func isGGUF(_ path: String) throws -> Bool {
    let file = try MappedFile(path: path)
    return file.count >= 4 && file.bytes[0..<4].elementsEqual("GGUF".utf8)
}
