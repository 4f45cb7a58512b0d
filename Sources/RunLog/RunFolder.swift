// A run is a folder: lock, resolved configuration, record of what it was made from, log, metrics, checkpoints.

internal import Diagnostics
public import Formats
internal import Glibc

/// What makes a run this run: if one of these differs, going on would mix two experiments.
public struct RunIdentity: Sendable {
    /// Every key of the resolved configuration and its value as text, in order.
    public var config: [(key: String, value: String)]
    /// What was read, by name, and its SHA-256: `("data.train[0]", ...)`, `("tokenizer", ...)`, `("base", ...)`.
    public var hashes: [(name: String, sha256: String)]
    /// Keys of `config` that a resumed run may change.
    public var mayChange: Set<String>
    /// Paths behind the names of `hashes`, for messages only: files may move.
    public var paths: [String: [String]]

    public init(
        config: [(key: String, value: String)], hashes: [(name: String, sha256: String)], mayChange: Set<String>,
        paths: [String: [String]] = [:]
    ) {
        (self.config, self.hashes, self.mayChange, self.paths) = (config, hashes, mayChange, paths)
    }

    /// "data.train (rows.jsonl, 2 more)"
    fileprivate func shown(_ name: String) -> String {
        guard let paths = paths[name], let first = paths.first else { return name }
        return "\(name) (\(first)\(paths.count > 1 ? ", \(paths.count - 1) more" : ""))"
    }
}

/// The folder of one run, held by one trainer.
public final class RunFolder {
    public let path: String
    /// True when the folder had a run in it that this one goes on with.
    public let isResumed: Bool
    /// Names the run in its checkpoints; made once.
    public let id: String
    private let lock: RunLock
    private let logDescriptor: Int32
    private let wasThere: Bool

    /// Creates a run or takes up the one that is there.
    ///
    /// - Parameters:
    ///   - path: the folder; a folder with files that are no run is refused.
    ///   - configYAML: the resolved configuration, written as `config.yaml`.
    ///   - record: what else `run.json` says: versions, machine, seeds, command line.
    /// - Throws: `UserError`: 73 when somebody trains there or it cannot be written, 64 when the run there was made
    ///   from something else, with every difference.
    public init(path: String, identity: RunIdentity, configYAML: String, record: JSONObject) throws {
        self.path = path
        try Self.refuseForeign(path)
        wasThere = folderExists(path)
        try createDirectories(path)
        guard access(path, W_OK | X_OK) == 0 else { throw writeError(path, errno) }
        lock = try RunLock(folder: path)
        // What a trainer killed while replacing a file left behind.
        for name in Files.names(in: path) where name.contains(".partial-") { try removeTree("\(path)/\(name)") }
        let old = try Self.readRecord("\(path)/run.json")
        let changes = try old.map { try Self.compare($0, identity, path) } ?? []
        isResumed = old != nil
        id = old?["id"]?.string ?? Files.nonce()
        logDescriptor = open("\(path)/log.txt", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o666)
        guard logDescriptor >= 0 else { throw writeError("\(path)/log.txt", errno) }
        if old == nil || !changes.isEmpty {
            try writeFileAtomically(configYAML, to: "\(path)/config.yaml")
            // Written last: with it the folder is a run.
            try writeFileAtomically(
                Self.json(id, identity, record).serialized(.pretty) + "\n", to: "\(path)/run.json")
        }
        for change in changes { log("changed since the run was started: \(change)") }
    }

    deinit { close(logDescriptor) }

    /// What `run.json` says of the run in a folder; nil when there is none. Reads only.
    ///
    /// - Throws: `UserError` (65) when it is damaged.
    public static func record(in path: String) throws -> JSONValue? { try readRecord("\(path)/run.json") }

    /// The run's checkpoints, with what a killed trainer left behind removed.
    public func checkpointStore(keep: Int, space: SpacePolicy = SpacePolicy()) throws -> CheckpointStore {
        let store = CheckpointStore(folder: "\(path)/checkpoints", run: id, keep: keep, space: space) { [weak self] in
            self?.log($0)
        }
        try store.removeLeftovers()
        return store
    }

    /// One line for people: on standard error and, with the time, in `log.txt`.
    public func log(_ line: String) {
        let oneLine = withoutControlCodes(line)
        ProgressLine.print(oneLine)
        // Losing a line of text (disk full) must not end a training run.
        try? Files.write(Array("\(utcTime()) \(oneLine)\n".utf8), to: logDescriptor, "\(path)/log.txt")
    }

    /// Writes a file of the run so that readers see the old or the new content.
    public func write(_ text: String, to name: String) throws {
        try createDirectories(parentFolder(of: "\(path)/\(name)"))
        try writeFileAtomically(text, to: "\(path)/\(name)")
    }

    /// What comes before the first step. Where that fails, a run that was begun just now is taken back, so that the
    /// corrected command meets nothing of it.
    public func beginning<R>(_ body: () throws -> R) throws -> R {
        do {
            return try body()
        } catch {
            if !isResumed { takeBack() }
            throw error
        }
    }

    /// The reason why matters more than what cannot be removed.
    private func takeBack() {
        for name in Files.names(in: path) { try? removeTree("\(path)/\(name)") }
        if !wasThere { rmdir(path) }
    }

    /// Gives the lock back; the last call.
    public func finish() { lock.release() }

    // MARK: identity

    private static func refuseForeign(_ path: String) throws {
        if pathExists(path), !folderExists(path) {
            throw UserError("\(path): a file is in the way; choose another output", .cannotWrite)
        }
        // What a trainer killed in its first second may have left.
        let own: Set = ["lock", "log.txt", "config.yaml"]
        let names = Files.names(in: path).filter { !own.contains($0) && !$0.contains(".partial-") }
        if !names.isEmpty, !names.contains("run.json") {
            throw UserError(
                "\(path): holds \(names[0]) and no run.json, so it is no run folder; choose another output",
                .cannotWrite)
        }
    }

    private static func readRecord(_ path: String) throws -> JSONValue? {
        guard pathExists(path) else { return nil }
        guard let json = try? JSONValue.parse(try readFile(path)), json["id"]?.string != nil,
            json["config"]?.object != nil, json["hashes"]?.object != nil
        else { throw UserError("\(path): damaged; restore it from a copy or choose another output") }
        return json
    }

    /// The differences that are allowed, as "key: old -> new"; the others are thrown.
    private static func compare(_ old: JSONValue, _ new: RunIdentity, _ path: String) throws -> [String] {
        let config = differences(old["config"]?.object ?? JSONObject(), new.config.map { ($0.key, $0.value) })
        let hashes = differences(old["hashes"]?.object ?? JSONObject(), new.hashes.map { ($0.name, $0.sha256) })
        let refused =
            config.filter { !new.mayChange.contains($0.key) }.map(\.text)
            + hashes.map { "content of \(new.shown($0.key))\($0.text.dropFirst($0.key.count))" }
        guard refused.isEmpty else {
            throw UserError(
                "\(path): was started with something else: \(refused.joined(separator: "; ")); restore it, or choose "
                    + "another output", .usage)
        }
        return config.map(\.text)
    }

    private static func differences(
        _ old: JSONObject, _ new: [(String, String)]
    ) -> [(key: String, text: String)] {
        let shown = { (value: String?) in
            guard let value else { return "none" }
            return value.utf8.count == 64 ? String(value.prefix(12)) : value
        }
        let changed = new.compactMap { key, value -> (key: String, text: String)? in
            let before = old[key]?.string
            return before == value ? nil : (key, "\(key): \(shown(before)) -> \(shown(value))")
        }
        let names = Set(new.map(\.0))
        let gone = old.keys.filter { !names.contains($0) }
        return changed + gone.map { ($0, "\($0): \(shown(old[$0]?.string)) -> none") }
    }

    private static func json(_ id: String, _ identity: RunIdentity, _ record: JSONObject) -> JSONValue {
        var json = JSONObject([("schema_version", 1), ("id", .init(id)), ("started", .init(utcTime()))])
        for (key, value) in record { json[key] = value }
        json["hashes"] = .object(JSONObject(identity.hashes.map { ($0.name, .init($0.sha256)) }))
        json["config"] = .object(JSONObject(identity.config.map { ($0.key, .init($0.value)) }))
        return .object(json)
    }
}

/// Text that came from data or models for a terminal: control codes, which could move the cursor or hide words, as
/// spaces.
public func withoutControlCodes(_ text: String) -> String {
    var out = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
        out.append(scalar.properties.generalCategory == .control ? " " : scalar)
    }
    return String(out)
}

/// "2026-03-01T12:00:00Z".
func utcTime() -> String {
    var now = time(nil), parts = tm()
    gmtime_r(&now, &parts)
    let two = { (value: Int32) in value < 10 ? "0\(value)" : "\(value)" }
    return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
        + "T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))Z"
}
