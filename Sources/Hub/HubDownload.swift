// download: a repository's files into the Hub's cache, each found again after any interruption.
internal import Diagnostics
internal import Dispatch
internal import Formats
internal import Glibc
public import ModelFiles
internal import RunLog

/// Which files of a repository are fetched, by patterns as of a shell, in which `*` stands for slashes, too.
public struct HubSelection: Sendable, Equatable {
    /// Only these; all when empty.
    public var include: [String]
    public var exclude: [String]

    public init(include: [String] = [], exclude: [String] = []) { (self.include, self.exclude) = (include, exclude) }

    /// Files that are never read here: pickles, and weights for other programs.
    static let foreign = [
        "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite",
        "*.mlmodel", "*.mlpackage/*", "onnx/*", "openvino/*", "coreml/*", "flax_model*", "tf_model*",
    ]

    /// The files to fetch of those that there are. Without `include` what this program never reads is left out, unless
    /// nothing else holds weights.
    public func chosen(_ names: [String]) -> [String] {
        let hasOwnWeights = names.contains { $0.hasSuffix(".safetensors") || $0.hasSuffix(".gguf") }
        return names.filter { name in
            if Self.fits(exclude, name) { return false }
            if !include.isEmpty { return Self.fits(include, name) }
            return !hasOwnWeights || !Self.fits(Self.foreign, name)
        }
    }

    /// The names that one of its patterns fits.
    func fitting(_ pattern: String, _ names: [String]) -> [String] { names.filter { Self.fits([pattern], $0) } }

    /// Whether a model is meant, and not some files of it.
    var wantsWeights: Bool { include.isEmpty && !Self.fits(exclude, SafetensorsFolder.singleName) }

    static func holdsWeights(_ name: String) -> Bool {
        name.hasSuffix(".safetensors") || name.hasSuffix(".gguf") || fits(foreign, name)
    }

    private static func fits(_ patterns: [String], _ name: String) -> Bool {
        patterns.contains { fnmatch($0.hasSuffix("/") ? $0 + "*" : $0, name, 0) == 0 }
    }
}

/// Fetches what is missing of a repository into the cache.
///
/// - Parameters:
///   - settings: nil: nobody is asked; what is in the cache already must do.
///   - verifies: whether the bytes of files that are there are compared with their hash, too, not only their size.
///   - progress: a line about the file under way, and whether it is the file's last.
/// - Returns: the folder of the revision's files.
/// - Throws: `UserError`; what came so far stays and is not fetched again.
public func download(
    _ repository: HubRepository, _ selection: HubSelection, into cache: HubCache, _ settings: HubSettings?,
    verifies: Bool = false, progress: @escaping @Sendable (_ line: String, _ isLast: Bool) -> Void
) throws -> String {
    guard let settings else { return try cached(repository, selection, cache, verifies, progress) }
    return try waiting {
        let download = HubDownload(repository, cache, settings, verifies, progress)
        let result = await outcome { try await download.run(selection) }
        await download.client.shutDown()
        return try result.get()
    }
}

/// The folder of what is in the cache already, if that can be all that is asked for.
private func cached(
    _ repository: HubRepository, _ selection: HubSelection, _ cache: HubCache, _ verifies: Bool,
    _ progress: (String, Bool) -> Void
) throws -> String {
    func refusal(_ fault: String) -> UserError {
        UserError("\(repository): \(fault), and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids to ask for it")
    }
    guard let folder = try cache.snapshot(repository) else { throw refusal("not in the cache \(cache.folder)") }
    let snapshot = try CachedSnapshot(folder)
    let absent = try snapshot.absences(selection) {
        fileExists(cache.absenceMark(of: $0, in: repository, commit: fileName(of: folder)))
    }
    if !absent.isEmpty { throw refusal("the cache has no \(listed(absent))") }
    if !verifies { return folder }
    let damaged = try selection.chosen(snapshot.names).filter { name in
        progress("checking \(name)", false)
        return try blobPath(behind: joinPath(folder, name)).map { try isDamaged(blob: $0) } ?? false
    }
    if !damaged.isEmpty { throw refusal("damaged in the cache: \(listed(damaged))") }
    return folder
}

/// "a, b, c and 4 more".
private func listed(_ names: [String]) -> String {
    names.prefix(3).joined(separator: ", ") + (names.count > 3 ? " and \(names.count - 3) more" : "")
}

private func outcome<Value>(_ body: () async throws -> Value) async -> Result<Value, any Error> {
    do { return .success(try await body()) } catch { return .failure(error) }
}

private final class Box<Value: Sendable>: @unchecked Sendable { var result: Result<Value, any Error>? }

/// Runs asynchronous work to its end.
private func waiting<Value: Sendable>(_ body: @escaping @Sendable () async throws -> Value) throws -> Value {
    let box = Box<Value>(), done = DispatchSemaphore(value: 0)
    Task.detached {
        box.result = await outcome { try await body() }
        done.signal()
    }
    done.wait()
    return try box.result!.get()
}

/// One download.
private struct HubDownload: Sendable {
    let client: HubClient
    private let repository: HubRepository
    private let root: String
    private let cache: HubCache
    private let settings: HubSettings
    private let verifies: Bool
    private let progress: @Sendable (String, Bool) -> Void

    init(
        _ repository: HubRepository, _ cache: HubCache, _ settings: HubSettings, _ verifies: Bool,
        _ progress: @escaping @Sendable (String, Bool) -> Void
    ) {
        (self.repository, self.cache, self.settings, self.progress) = (repository, cache, settings, progress)
        self.verifies = verifies
        root = cache.folder(of: repository)
        client = HubClient(settings)
    }

    func run(_ selection: HubSelection) async throws -> String {
        let listing = try await repeating { try await client.listing(of: repository) }
        let (commit, names) = (listing.commit, listing.names)
        let chosen = selection.chosen(names)
        if chosen.isEmpty {
            throw UserError(
                "\(repository): none of its \(counted(names.count, "file")) is chosen by --include and --exclude",
                .usage)
        }
        let snapshot = joinPath(root, "snapshots/" + commit)
        try createDirectories(snapshot)
        try createDirectories(joinPath(root, "blobs"))
        var absent: [String] = []
        for name in chosen {
            let mark = cache.absenceMark(of: name, in: repository, commit: commit)
            if !fileExists(mark) {
                do {
                    try await fetch(name, listing, snapshot)
                    continue
                } catch let absence as HubFileAbsence {
                    try markAbsent(absence.name, commit)
                }
            }
            absent.append(name)
        }
        // Who finds no weights in the cache learns that there are none.
        let weights = names.contains(where: HubSelection.holdsWeights) ? [] : [SafetensorsFolder.singleName]
        for name in Self.optional + weights where !names.contains(where: { ExactString($0) == ExactString(name) }) {
            try markAbsent(name, commit)
        }
        if repository.revision != commit {
            let reference = joinPath(root, "refs/" + repository.revision)
            try createDirectories(parentFolder(of: reference))
            try writeFileAtomically(commit, to: reference)
        }
        absent.removeAll(where: Self.optional.contains)
        guard absent.isEmpty else {
            throw UserError("\(repository): lists \(absent.joined(separator: ", ")), but has no such file at \(commit)")
        }
        return snapshot
    }

    /// Files that not every model has, which Python's programs ask for by name each time that nobody has said so.
    private static let optional = [
        "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "chat_template.jinja", "adapter_config.json", "model.safetensors.index.json", "tokenizer.model", "vocab.json",
        "merges.txt", "processor_config.json", "preprocessor_config.json", "custom_generate/generate.py",
    ]

    /// A commit never changes, so that nobody need ask again.
    private func markAbsent(_ name: String, _ commit: String) throws {
        let mark = cache.absenceMark(of: name, in: repository, commit: commit)
        if fileExists(mark) { return }
        try createDirectories(parentFolder(of: mark))
        try writeFileAtomically("", to: mark)
    }

    private func fetch(_ name: String, _ listing: HubListing, _ snapshot: String) async throws {
        let link = joinPath(snapshot, name)
        if verifies { try await removeDamaged(name, link) }
        // A snapshot is of one commit, so a file that is there stays what it is; only its size may tell that it is not whole.
        if fileExists(link), let size = listing.sizes[ExactString(name)], try fileSize(link) == size { return }
        var held = 0  // bytes of it that are here
        var announced: String?
        try await repeating(while: { held }) { () async throws -> Void in
            let file = try await client.file(name, of: repository, commit: listing.commit)
            let blob = joinPath(root, "blobs/" + file.etag)
            if let announced, announced != file.etag { try await removeUnfinished(announced) }
            announced = file.etag
            let lock = try await locked(file.etag)
            defer { close(lock) }
            // What is there of a blob that is not whole is gone on with.
            if fileExists(blob), try fileSize(blob) != file.size { try moveFile(blob, to: BlobFile.unfinished(blob)) }
            if !fileExists(blob) {
                let unfinished = try BlobFile(blob, file)
                defer { held = unfinished.size }
                try await fill(unfinished, file)
                try unfinished.finish(as: blob)
            }
            try place(link, file)
        }
    }

    /// Makes the link of a snapshot that leads to a file's blob.
    private func place(_ link: String, _ file: HubFile) throws {
        try createDirectories(parentFolder(of: link))
        let ups = String(repeating: "../", count: 2 + file.name.utf8.count { $0 == UInt8(ascii: "/") })
        let target = "\(ups)blobs/\(file.etag)"
        if symlink(target, link) == 0 { return }
        guard errno == EEXIST else { throw writeError(link, errno) }
        if fileExists(link), try fileSize(link) == file.size { return }
        // It leads nowhere, or is a copy that was cut short.
        guard unlink(link) == 0, symlink(target, link) == 0 else { throw writeError(link, errno) }
    }

    private func removeDamaged(_ name: String, _ link: String) async throws {
        guard let blob = blobPath(behind: link) else { return }
        progress("checking \(name)", false)
        let lock = try await locked(fileName(of: blob))
        defer { close(lock) }
        if try isDamaged(blob: blob), unlink(blob) != 0 { throw writeError(blob, errno) }
    }

    /// What came of a blob that the Hub does not stand by any more is of no use.
    private func removeUnfinished(_ etag: String) async throws {
        let lock = try await locked(etag)
        defer { close(lock) }
        let path = BlobFile.unfinished(joinPath(root, "blobs/" + etag))
        if unlink(path) != 0, errno != ENOENT { throw writeError(path, errno) }
    }

    /// Fetches what is missing behind what is there.
    private func fill(_ unfinished: BlobFile, _ file: HubFile) async throws {
        let began = ContinuousClock.now, before = unfinished.size
        guard before < file.size else { return }
        try await client.bytes(
            of: file, from: before, begin: { if $0 != unfinished.size { try unfinished.cut(to: $0) } },
            piece: {
                try unfinished.append($0)
                show(file, unfinished.size, since: began, before)
            })
    }

    private func show(_ file: HubFile, _ size: Int, since: ContinuousClock.Instant, _ before: Int) {
        let seconds = since.duration(to: .now) / .seconds(1)
        let speed = seconds > 0 ? Double(size - before) / seconds : 0
        let left = speed > 0 ? "  \(duration(seconds: Double(file.size - size) / speed)) left" : ""
        progress(
            "\(file.name)  \(byteSize(size)) of \(byteSize(file.size))  \(byteSize(Int(speed)))/s\(left)",
            size == file.size)
    }

    /// Does it again while it is interrupted, `settings.tries` times without progress.
    ///
    /// - Parameter measure: grows with progress.
    private func repeating<Value>(
        while measure: () -> Int = { 0 }, _ body: () async throws -> Value
    ) async throws -> Value {
        var failures = 0, before = measure()
        while true {
            do {
                return try await body()
            } catch let interruption as HubInterruption {
                failures = measure() > before ? 1 : failures + 1
                before = measure()
                guard failures <= settings.tries else {
                    throw UserError(
                        "\(repository): \(interruption.reason), \(failures) times; what came is kept: run the same command again",
                        .tryAgain)
                }
                let pause = interruption.seconds ?? settings.firstWait * Double(1 << (failures - 1))
                try await Task.sleep(for: .seconds(pause))
            }
        }
    }

    /// The lock that the Hub's own client takes for a blob.
    private func locked(_ etag: String) async throws -> Int32 {
        let folder = joinPath(cache.folder, ".locks/" + repository.folderName)
        try createDirectories(folder)
        let path = joinPath(folder, etag + ".lock")
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw writeError(path, errno) }
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            guard errno == EWOULDBLOCK || errno == EINTR else {
                defer { close(descriptor) }
                throw writeError(path, errno)
            }
            progress("waiting for another program that fetches the same file", false)
            try await Task.sleep(for: .milliseconds(200))
        }
        return descriptor
    }
}
