// Requests that reach a training run from outside: save now, save and stop. The handlers only set flags.

public import Diagnostics
internal import Glibc
internal import Synchronization

/// SIGUSR1: save now. SIGTERM: save, exit 75. SIGINT: save, exit 130. A second request to stop exits at once.
public enum SignalFlags {
    // Lock-free words: what a signal handler may touch.
    private static let save = Atomic<Bool>(false)
    private static let stop = Atomic<Int32>(0)

    /// Installs the handlers; call once, before the first step.
    public static func install() {
        // Touched here so that the handler never meets an uninitialised global.
        save.store(false, ordering: .relaxed)
        stop.store(0, ordering: .relaxed)
        for number in [SIGUSR1, SIGTERM, SIGINT] { take(number) { SignalFlags.handle($0) } }
    }

    /// From here on a request to stop ends the process at once; there is nothing left to save.
    public static func uninstall() { for number in [SIGTERM, SIGINT] { signal(number, SIG_DFL) } }

    /// Sets a handler, and lets the signal in: a program started from a thread that blocks it would never be told.
    private static func take(_ number: Int32, _ handler: @escaping @convention(c) (Int32) -> Void) {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = handler
        action.sa_flags = 0  // no SA_RESTART: a pause or a read in progress ends, so that the request is seen
        sigemptyset(&action.sa_mask)
        sigaction(number, &action, nil)
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, number)
        pthread_sigmask(SIG_UNBLOCK, &signals, nil)
    }

    private static func handle(_ number: Int32) {
        if number == SIGUSR1 { return save.store(true, ordering: .relaxed) }
        if stop.exchange(number, ordering: .relaxed) != 0 { _exit(128 + number) }
    }

    private static let interrupt = Atomic<Bool>(false)

    /// For a talk: SIGINT ends the answer being written; one more before that was noticed ends the program.
    public static func installInterrupt() {
        interrupt.store(false, ordering: .relaxed)
        take(SIGINT) { if SignalFlags.interrupt.exchange(true, ordering: .relaxed) { _exit(128 + $0) } }
    }

    /// True once after an interrupt.
    public static func takeInterrupt() -> Bool { interrupt.exchange(false, ordering: .relaxed) }

    /// True once for each SIGUSR1 since the last call (several in between count as one).
    public static func takeSaveRequest() -> Bool { save.exchange(false, ordering: .relaxed) }

    /// The exit status to end with after saving, once a stop was requested.
    public static var stopRequested: ExitStatus? {
        switch stop.load(ordering: .relaxed) {
        case 0: nil
        case SIGINT: .interrupted
        default: .tryAgain
        }
    }
}
