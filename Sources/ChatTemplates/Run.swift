// One rendering: what has been written, what the template may still spend, and where its variables live.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// What one rendering of a template may spend; templates come from strangers.
public struct TemplateLimits: Sendable, Equatable {
    /// Statements, loop rounds, calls and items processed by filters.
    public var steps = 1_000_000
    /// Bytes of the result and of any single text on the way.
    public var outputBytes = 10_000_000
    /// Bytes of all intermediate texts and lists together.
    public var totalBytes = 200_000_000
    /// Calls of macros inside each other.
    public var callDepth = 100
    /// Items of `range`.
    public var rangeItems = 100_000
    /// Processor time of the rendering thread: a busy machine does not change what renders. One operation may run on a
    /// little after it.
    public var seconds = 0.75

    public init() {}
}

final class Run {
    let limits: TemplateLimits
    let now: @Sendable (_ format: String) -> TemplateTime
    /// Values of the names that the template looks up outside itself, by the compiler's numbering.
    var context: [Value] = []
    var output = ""
    private(set) var captureDepth = 0
    /// Byte ranges of the output inside `{% generation %}`.
    var generated: [Range<Int>] = []
    private var steps = 0
    private var bytes = 0
    private var callDepth = 0
    private var unclockedWork = 0
    /// Monotonic time before which the limit cannot have been reached.
    private var deadline: UInt64 = 0
    /// Processor time at which it is.
    private var processorDeadline: UInt64 = 0
    private let stackBase: UInt
    /// Namespaces and frames that functions captured may form cycles: emptied when the rendering ends.
    private var cleanups: [() -> Void] = []

    static let maxStackBytes: UInt = 3_000_000
    private static let workBetweenClockReadings = 20_000

    init(_ limits: TemplateLimits, now: @escaping @Sendable (_ format: String) -> TemplateTime) {
        self.limits = limits
        self.now = now
        stackBase = stackAddress()
    }

    func atEnd(_ cleanup: @escaping () -> Void) { cleanups.append(cleanup) }

    func finish() {
        for cleanup in cleanups { cleanup() }
        cleanups = []
    }

    /// Counts `n` steps.
    @inline(__always)
    func step(_ n: Int = 1) throws {
        steps &+= n
        if steps > limits.steps { throw TemplateFailure("the template takes more than \(limits.steps) steps") }
        try work(n &* 64)
    }

    /// Counts work that is not a step of the template, in bytes looked at, and reads the clock now and then.
    @inline(__always)
    func work(_ n: Int) throws {
        unclockedWork &+= n
        if unclockedWork > Self.workBetweenClockReadings { try readClock() }
    }

    private func readClock() throws {
        unclockedWork = 0
        let now = nanoseconds(CLOCK_MONOTONIC)
        if now < deadline { return }
        let spent = nanoseconds(CLOCK_THREAD_CPUTIME_ID)
        if deadline == 0 { processorDeadline = spent + UInt64(max(0, limits.seconds) * 1e9) }
        guard spent < processorDeadline else {
            throw TemplateFailure("the template takes longer than \(limits.seconds) s")
        }
        deadline = now + (processorDeadline - spent)
    }

    /// Counts a new text or list of `n` bytes before it is made.
    func charge(bytes n: Int) throws {
        bytes &+= n
        if bytes > limits.totalBytes {
            throw TemplateFailure("the template makes more than \(limits.totalBytes) bytes of values")
        }
        try work(n)
    }

    /// Counts a new text of `n` bytes, which must also fit the limit of one text.
    func charge(text n: Int) throws {
        try check(text: n)
        if n > 64 { try charge(bytes: n) }
    }

    /// Whether a text of `n` bytes, counted elsewhere or still growing, fits the limit of one text.
    func check(text n: Int) throws {
        if n > limits.outputBytes {
            throw TemplateFailure("the template makes a text of more than \(limits.outputBytes) bytes")
        }
    }

    /// Counts the size of what a filter, test or method is about to look at.
    @inline(__always)
    func look(at value: Value, _ arguments: Arguments) throws {
        try work(value.bulk)
        for argument in arguments.positional { try work(argument.bulk) }
        for keyword in arguments.keywords { try work(keyword.value.bulk) }
    }

    /// Appends to the result (or to what is being captured).
    @inline(__always)
    func write(_ text: String) throws {
        output += text
        if output.utf8.count > limits.outputBytes {
            throw TemplateFailure("the template writes more than \(limits.outputBytes) bytes")
        }
    }

    /// Runs `body` with an output of its own and returns what it wrote.
    func captured<Result>(_ body: () throws -> Result) throws -> (Result, String) {
        var outer = ""
        swap(&outer, &output)
        captureDepth += 1
        defer {
            swap(&outer, &output)
            captureDepth -= 1
        }
        let result = try body()
        try charge(bytes: output.utf8.count)
        return (result, output)
    }

    /// Runs one call of a macro or a recursive loop, within the limits of depth and stack.
    func nested<Result>(_ body: () throws -> Result) throws -> Result {
        try step()
        callDepth += 1
        defer { callDepth -= 1 }
        guard callDepth <= limits.callDepth else {
            throw TemplateFailure("calls are nested deeper than \(limits.callDepth)")
        }
        let here = stackAddress()
        guard (here > stackBase ? here - stackBase : stackBase - here) < Self.maxStackBytes else {
            throw TemplateFailure("calls are nested too deeply")
        }
        return try body()
    }
}

private func nanoseconds(_ clock: clockid_t) -> UInt64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

@inline(never)
private func stackAddress() -> UInt {
    var marker: UInt8 = 0
    return withUnsafeMutablePointer(to: &marker) { UInt(bitPattern: $0) }
}

/// Variables of one template, macro call or loop recursion. The compiler numbers them, so no access can miss.
final class Frame {
    let slots: UnsafeMutablePointer<Value>
    private let count: Int
    let parent: Frame?
    unowned(unsafe) let run: Run

    init(count: Int, parent: Frame?, run: Run) {
        slots = .allocate(capacity: max(count, 1))
        slots.initialize(repeating: .null, count: count)
        (self.count, self.parent, self.run) = (count, parent, run)
    }

    /// Drops all values, and with them reference cycles through functions stored here.
    func clear() { for i in 0..<count { slots[i] = .null } }

    deinit {
        slots.deinitialize(count: count)
        slots.deallocate()
    }
}
