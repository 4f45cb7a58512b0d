// A few plain threads over a list of jobs.
import Glibc
import Synchronization

/// Calls `body` with 0 ..< count, in order of starting, on `threads` threads at most; returns when all have ended.
///
/// - Throws: the first error; jobs that have not begun by then are not begun.
public func runInParallel(_ count: Int, threads: Int, _ body: @escaping @Sendable (Int) throws -> Void) throws {
    let state = ParallelJobs(count: count, body: body)
    let others = (1..<max(1, min(threads, count))).compactMap { _ -> pthread_t? in
        var thread = pthread_t()
        let pointer = Unmanaged.passRetained(state).toOpaque()
        let status = pthread_create(
            &thread, nil,
            { pointer in
                Unmanaged<ParallelJobs>.fromOpaque(pointer!).takeRetainedValue().work()
                return nil
            }, pointer)
        if status == 0 { return thread }
        // Without this thread the others do its share.
        Unmanaged<ParallelJobs>.fromOpaque(pointer).release()
        return nil
    }
    state.work()
    for thread in others { pthread_join(thread, nil) }
    if let error = state.failure.withLock({ $0 }) { throw error }
}

private final class ParallelJobs: Sendable {
    let count: Int
    let body: @Sendable (Int) throws -> Void
    let next = Atomic<Int>(0)
    let failure = Mutex<(any Error)?>(nil)

    init(count: Int, body: @escaping @Sendable (Int) throws -> Void) { (self.count, self.body) = (count, body) }

    func work() {
        while failure.withLock({ $0 == nil }) {
            let i = next.add(1, ordering: .relaxed).oldValue
            guard i < count else { return }
            do {
                try body(i)
            } catch {
                failure.withLock { if $0 == nil { $0 = error } }
            }
        }
    }
}
