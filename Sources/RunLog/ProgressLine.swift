// The line of a training step: one that is refreshed on a terminal that takes escape codes, a plain line now and then
// elsewhere.

internal import Diagnostics
internal import Glibc
internal import Synchronization

/// What a step line shows.
public struct StepFigures: Sendable {
    public var step: Int
    public var steps: Int
    /// Nats, as `training.loss_reduction` counts them.
    public var loss: Double
    public var gradNorm: Double
    public var learningRate: Double
    public var tokensPerSecond: Double
    public var memoryBytes: Int
    /// Seconds; nil while unknown.
    public var secondsLeft: Double?

    public init(
        step: Int, steps: Int, loss: Double, gradNorm: Double, learningRate: Double, tokensPerSecond: Double,
        memoryBytes: Int, secondsLeft: Double?
    ) {
        (self.step, self.steps, self.loss, self.gradNorm) = (step, steps, loss, gradNorm)
        (self.learningRate, self.tokensPerSecond) = (learningRate, tokensPerSecond)
        (self.memoryBytes, self.secondsLeft) = (memoryBytes, secondsLeft)
    }

    /// "step  412/1,000  loss 2.1034  grad norm 0.8123  lr 1.2e-04  812 tokens/s  1.2 GiB  3 min 05 s left"
    public var line: String {
        let total = grouped(steps), done = grouped(step)
        let padding = String(repeating: " ", count: max(0, total.count - done.count))
        return [
            "step \(padding)\(done)/\(total)", "loss \(decimals(loss, 4))", "grad norm \(significant(gradNorm, 4))",
            "lr \(significant(learningRate, 3))", "\(grouped(Int(tokensPerSecond.rounded()))) tokens/s",
            byteSize(memoryBytes), secondsLeft.map { "\(duration(seconds: $0)) left" } ?? "",
        ].filter { !$0.isEmpty }.joined(separator: "  ")
    }
}

/// Writes step lines to standard error.
public enum ProgressLine {
    private static let isOpen = Atomic<Bool>(false)
    /// When a line was shown last.
    private static let lastLine = Mutex<ContinuousClock.Instant?>(nil)
    /// True where one line is refreshed.
    private static let refreshes = takesEscapeCodes(STDERR_FILENO)
    /// Time between lines. Of plain ones a log of an hour stays readable, and metrics.jsonl has every step; nobody reads
    /// more than ten a second.
    private static let lineInterval = refreshes ? Duration.milliseconds(100) : .seconds(10)

    /// True when people watch.
    public static let isTerminal = isatty(STDERR_FILENO) != 0

    /// Shows a step: on a terminal over the step before it, ten times a second at most; elsewhere the first and the last one
    /// that the process sees, and one every ten seconds between.
    public static func show(_ figures: StepFigures) { show(figures.line, isLast: figures.step == figures.steps) }

    /// The same for work that has other figures than training.
    public static func show(_ line: String, isLast: Bool) {
        guard isLast || lastLine.withLock({ isLineDue(&$0, now: .now) }) else { return }
        guard refreshes else { return write(line + "\n") }
        isOpen.store(true, ordering: .relaxed)
        write("\r\u{1B}[K" + String(line.prefix(terminalColumns() - 1)))
    }

    /// Writes a line of its own, below a step line that is being refreshed.
    public static func print(_ line: String) {
        write((isOpen.exchange(false, ordering: .relaxed) ? "\n" : "") + line + "\n")
    }

    /// Ends a step line that is being refreshed.
    public static func finish() {
        if isOpen.exchange(false, ordering: .relaxed) { write("\n") }
    }

    private static func isLineDue(_ last: inout ContinuousClock.Instant?, now: ContinuousClock.Instant) -> Bool {
        if let last, last.duration(to: now) < lineInterval { return false }
        last = now
        return true
    }

    private static func terminalColumns() -> Int {
        var size = winsize()
        return ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 10 ? Int(size.ws_col) : 120
    }

    /// Lines for people may be lost (a closed terminal); training goes on.
    private static func write(_ text: String) { try? Files.write(Array(text.utf8), to: STDERR_FILENO, "stderr") }
}

/// Seconds left, from the speed of the last steps on a clock that never jumps.
public struct TimeLeft: Sendable {
    private var marks: [(step: Int, at: ContinuousClock.Instant)] = []
    private let window = 64

    public init() {}

    /// - Returns: nil until two steps were seen.
    public mutating func update(step: Int, of steps: Int, now: ContinuousClock.Instant = .now) -> Double? {
        marks.append((step, now))
        if marks.count > window { marks.removeFirst() }
        guard let first = marks.first, step > first.step else { return nil }
        let elapsed = first.at.duration(to: now) / .seconds(1)
        return max(0, elapsed / Double(step - first.step) * Double(steps - step))
    }
}
