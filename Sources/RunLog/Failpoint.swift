// Where tests let the process die. `NEEDLETAIL_FAILPOINT=name[:count]` kills it (SIGKILL, nothing is flushed) when the
// named point is passed for the count-th time. For tests only: it never changes what is computed or written.

internal import Glibc

enum Failpoint {
    private static let chosen: (name: String, count: Int)? = {
        guard let value = getenv("NEEDLETAIL_FAILPOINT") else { return nil }
        let parts = String(cString: value).split(separator: ":")
        guard let name = parts.first else { return nil }
        return (String(name), parts.count > 1 ? Int(parts[1]) ?? 1 : 1)
    }()
    // Passed by the one thread that writes the run folder.
    nonisolated(unsafe) private static var passed = 0

    static func pass(_ name: String) {
        guard let chosen, chosen.name == name else { return }
        passed += 1
        if passed == chosen.count { kill(getpid(), SIGKILL) }
    }
}
