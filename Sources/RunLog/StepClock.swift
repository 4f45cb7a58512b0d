// The clock that speed is measured with.

/// Wall time of one step on a clock that never jumps.
public struct StepClock {
    private let start = ContinuousClock.now

    public init() {}

    public var seconds: Double { start.duration(to: .now) / .seconds(1) }
}
