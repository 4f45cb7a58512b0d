// One trainer a run folder: flock, and the holder's pid, boot, host and start time for those the lock cannot prove.

internal import Diagnostics
internal import Formats
internal import Glibc

/// Held while this value lives; given back by `release` or by the end of the process.
public final class RunLock {
    private let descriptor: Int32
    private let path: String
    private var held = true

    /// - Throws: `UserError` (73) naming the holder.
    public init(folder: String) throws {
        path = "\(folder)/lock"
        descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw writeError(path, errno) }
        do {
            let locked = flock(descriptor, LOCK_EX | LOCK_NB) == 0
            guard locked || errno == EWOULDBLOCK else { throw Files.failure("cannot be locked", path) }
            let holder = Holder(reading: path)
            // On file systems whose locks do not reach other machines flock succeeds although somebody is there.
            if !locked || holder?.isProvenGone == false { throw Self.refusal(folder, path, holder) }
            try record(Holder.current)
        } catch {
            close(descriptor)
            throw error
        }
    }

    private static func refusal(_ folder: String, _ lock: String, _ holder: Holder?) -> UserError {
        guard let holder else {
            return UserError("\(folder): another trainer is starting there; choose another output", .cannotWrite)
        }
        let who = "\(folder): in use by process \(holder.pid) on \(holder.host)"
        return UserError(
            holder.host == Holder.current.host
                ? "\(who); stop it (kill \(holder.pid)) or choose another output"
                : "\(who); if that is gone, delete \(lock)", .cannotWrite)
    }

    private func record(_ holder: Holder?) throws {
        guard ftruncate(descriptor, 0) == 0, lseek(descriptor, 0, SEEK_SET) == 0 else {
            throw writeError(path, errno)
        }
        if let holder { try Files.write(Array((holder.json.serialized() + "\n").utf8), to: descriptor, path) }
        guard fsync(descriptor) == 0 else { throw writeError(path, errno) }
    }

    /// Leaves the file empty, which says that the last trainer ended in good order.
    func release() {
        guard held else { return }
        held = false
        // A full disk can still be cut to nothing; if even that fails the pid tells the next trainer.
        _ = ftruncate(descriptor, 0)
        // Said aloud: a child process that is just being made may hold a copy of the descriptor for a moment.
        _ = flock(descriptor, LOCK_UN)
        close(descriptor)
    }

    deinit { release() }
}

/// Who holds a lock.
struct Holder: Equatable {
    let pid: Int32
    let host: String
    let boot: String
    /// Start of the process in clock ticks after boot: tells it from a later one with the same pid.
    let started: String

    static let current = Holder(
        pid: getpid(), host: hostName(), boot: firstLine("/proc/sys/kernel/random/boot_id"),
        started: startTime(of: getpid()))

    var json: JSONValue {
        ["pid": .init(Int(pid)), "host": .init(host), "boot_id": .init(boot), "started": .init(started)]
    }

    init(pid: Int32, host: String, boot: String, started: String) {
        (self.pid, self.host, self.boot, self.started) = (pid, host, boot, started)
    }

    /// Nil for an empty or unreadable file: nobody, or somebody who died while writing it and so never trained.
    init?(reading path: String) {
        guard let text = try? readFile(path), let json = try? JSONValue.parse(text), let pid = json["pid"]?.int,
            let host = json["host"]?.string, let boot = json["boot_id"]?.string
        else { return nil }
        self.init(pid: Int32(clamping: pid), host: host, boot: boot, started: json["started"]?.string ?? "")
    }

    /// True when the machine has been started anew since, or has no such process any more.
    var isProvenGone: Bool {
        guard host == Self.current.host else { return false }
        if boot != Self.current.boot { return true }
        if pid == getpid() { return true }
        return kill(pid, 0) != 0 && errno == ESRCH || Self.startTime(of: pid) != started
    }

    private static func startTime(of pid: Int32) -> String {
        let line = firstLine("/proc/\(pid)/stat")
        // The second field is the program's name in parentheses and may hold anything; the 22nd is wanted.
        guard let end = line.lastIndex(of: ")") else { return "" }
        let fields = line[line.index(after: end)...].split(separator: " ")
        return fields.count > 19 ? String(fields[19]) : ""
    }

    private static func firstLine(_ path: String) -> String {
        guard let bytes = try? readFile(path) else { return "" }
        return String(decoding: bytes.prefix { $0 != 0x0A }, as: UTF8.self)
    }
}

/// The machine's name.
func hostName() -> String {
    var buffer = [CChar](repeating: 0, count: 256)
    guard gethostname(&buffer, buffer.count - 1) == 0 else { return "unknown" }
    return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
