// A few plain threads over a list of jobs.
import Glibc
import Synchronization

/// Processors of this machine that are switched on.
public var processorCount: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }

/// Calls `body` with 0 ..< count, in order of starting, on `threads` threads at most; returns when all have ended.
///
/// - Throws: the first error; jobs that have not begun by then are not begun.
public func runInParallel(_ count: Int, threads: Int, _ body: @escaping @Sendable (Int) throws -> Void) throws {
    let state = ParallelJobs(count: count, body: body)
    let others = startThreads(min(threads, count) - 1) { state.work() }
    state.work()
    for thread in others { pthread_join(thread, nil) }
    if let error = state.failure.withLock({ $0 }) { throw error }
}

/// Calls `produce` with 0 ..< count on `threads` threads, and `consume` on the caller's with each result, in order. At
/// most four results a thread wait to be consumed.
///
/// - Throws: what `produce` or `consume` throws for the lowest number, whichever thread is ahead; later results are not
///   consumed.
public func runInOrder<Output: Sendable>(
    _ count: Int, threads: Int, produce: @escaping @Sendable (Int) throws -> Output, consume: (Output) throws -> Void
) throws {
    let queue = OrderedResults<Output>(count: count, room: 4 * max(1, threads))
    // One thread needs no second one; and without any the caller does the work.
    let producers = threads > 1 && count > 1 ? startThreads(min(threads, count)) { queue.produce(produce) } : []
    if producers.isEmpty {
        for i in 0..<count { try consume(try produce(i)) }
        return
    }
    defer {
        queue.stop()
        for thread in producers { pthread_join(thread, nil) }
    }
    for i in 0..<count { try consume(try queue.take(i).get()) }
}

/// Starts up to `count` threads, as many as the system gives; each calls `body` once and has to be joined.
private func startThreads(_ count: Int, _ body: @escaping @Sendable () -> Void) -> [pthread_t] {
    (0..<max(0, count)).compactMap { _ in
        var thread = pthread_t()
        let pointer = Unmanaged.passRetained(ThreadBody(body)).toOpaque()
        let status = pthread_create(
            &thread, nil,
            { pointer in
                Unmanaged<ThreadBody>.fromOpaque(pointer!).takeRetainedValue().run()
                return nil
            }, pointer)
        if status == 0 { return thread }
        // Without this thread the others do its share.
        Unmanaged<ThreadBody>.fromOpaque(pointer).release()
        return nil
    }
}

private final class ThreadBody: Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
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

/// Results on their way from several producers to one consumer that wants them in order.
// Sendable: everything that changes is touched with `lock` held.
private final class OrderedResults<Output: Sendable>: @unchecked Sendable {
    private let count: Int, room: Int
    private var next = 0, taken = 0, isStopped = false
    private var finished: [Int: Result<Output, any Error>] = [:]
    private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init(count: Int, room: Int) {
        (self.count, self.room) = (count, room)
        pthread_mutex_init(lock, nil)
        pthread_cond_init(changed, nil)
    }

    deinit {
        pthread_mutex_destroy(lock)
        pthread_cond_destroy(changed)
        lock.deallocate()
        changed.deallocate()
    }

    /// Makes results until there are no more to make.
    func produce(_ body: (Int) throws -> Output) {
        while let i = start() {
            let result = Result { try body(i) }
            pthread_mutex_lock(lock)
            finished[i] = result
            pthread_cond_broadcast(changed)
            pthread_mutex_unlock(lock)
        }
    }

    /// The number of the next result to make, once there is room for it.
    private func start() -> Int? {
        pthread_mutex_lock(lock)
        defer { pthread_mutex_unlock(lock) }
        while !isStopped, next < count, next >= taken + room { pthread_cond_wait(changed, lock) }
        guard !isStopped, next < count else { return nil }
        next += 1
        return next - 1
    }

    /// Waits for result `i`, the one after the last that was taken.
    func take(_ i: Int) -> Result<Output, any Error> {
        pthread_mutex_lock(lock)
        defer { pthread_mutex_unlock(lock) }
        while true {
            if let result = finished.removeValue(forKey: i) {
                taken = i + 1
                pthread_cond_broadcast(changed)
                return result
            }
            pthread_cond_wait(changed, lock)
        }
    }

    func stop() {
        pthread_mutex_lock(lock)
        isStopped = true
        pthread_cond_broadcast(changed)
        pthread_mutex_unlock(lock)
    }
}
