// Files and folders being written, removed when a signal ends the program.
import Glibc
import Synchronization

/// Temporary paths that must not outlive the program. SIGINT, SIGTERM and SIGHUP, where nobody else handles or ignores
/// them, remove these paths and end the process with 128 + the signal's number; a second one ends it at once.
enum Unfinished {
    private static let paths = Mutex<Set<ExactString>>([])
    private static let received = Atomic<Int32>(0)
    /// Posted by the handler: of all ways to wake a thread, the one that a signal handler may use.
    nonisolated(unsafe) private static let wake: UnsafeMutablePointer<sem_t> = {
        let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
        sem_init(semaphore, 0, 0)
        return semaphore
    }()

    static func begin(_ path: String) {
        _ = cleaner
        paths.withLock { _ = $0.insert(ExactString(path)) }
    }

    static func end(_ path: String) { paths.withLock { _ = $0.remove(ExactString(path)) } }

    /// Runs the renames that put a temporary path in place. Once the removal has begun this never returns: what is half
    /// removed must not get its final name.
    static func commit<R>(_ rename: () throws -> R) rethrows -> R { try paths.withLock { _ in try rename() } }

    /// The thread that waits for a signal, and the handlers; made once, before the first temporary path.
    private static let cleaner: Void = {
        _ = wake
        received.store(0, ordering: .relaxed)
        var thread = pthread_t()
        let started = pthread_create(&thread, nil, { _ in Unfinished.waitAndRemove() }, nil) == 0
        // Without the thread the signals keep their default action: the program ends, and a temporary path stays.
        if started { [SIGINT, SIGTERM, SIGHUP].forEach(handle) }
    }()

    private static func handle(_ number: Int32) {
        var old = sigaction()
        sigaction(number, nil, &old)
        // `nohup` and a trainer's own handlers stay as they are.
        guard old.__sigaction_handler.sa_handler == nil else { return }
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { number in
            if Unfinished.received.exchange(number, ordering: .relaxed) != 0 { _exit(128 + number) }
            sem_post(Unfinished.wake)
        }
        action.sa_flags = SA_RESTART
        sigemptyset(&action.sa_mask)
        sigaction(number, &action, nil)
    }

    private static func waitAndRemove() -> UnsafeMutableRawPointer? {
        while sem_wait(wake) != 0 {}
        paths.withLock { paths -> Void in
            for path in paths {
                // A file may have been made in a folder while it was being removed.
                for _ in 0..<3 where (try? removeTree(path.string)) == nil {}
            }
            // Ended with the lock held: nothing is renamed or begun any more.
            _exit(128 + received.load(ordering: .relaxed))
        }
        return nil
    }
}
