// What happens when a loss or gradient is not a number: stop before the update, or skip a few such steps.

public import Formats

/// Decides about steps whose loss or gradient is not finite. Skipping is bounded: at most 3 in a row, and 1 % of the
/// last 1,000 steps; a run that needs more is broken and stops.
public struct NonFiniteGuard: Sendable, Equatable {
    public enum Policy: Sendable { case stop, skip }
    public enum Decision: Sendable, Equatable {
        /// The step is fine: update the weights.
        case proceed
        /// Leave weights and optimiser as they are and take the next batch; say the message.
        case skip(String)
        /// End the run without saving over what is good; say the message.
        case stop(String)
    }

    public static let maxInARow = 3
    public static let maxPerThousand = 10

    public let policy: Policy
    /// Steps skipped among the last 1,000, oldest first.
    private var skipped: [Int] = []
    private var inARow = 0

    public init(policy: Policy) { self.policy = policy }

    /// Judges a step before its update.
    ///
    /// - Parameters:
    ///   - quantity: "gradient" or "loss".
    ///   - place: where it was seen first, as in "layers.3.mlp.down_proj"; nil when unknown.
    public mutating func judge(step: Int, isFinite: Bool, quantity: String = "gradient", place: String? = nil)
        -> Decision
    {
        guard !isFinite else {
            inARow = 0
            return .proceed
        }
        let what = "\(quantity) not finite at step \(step)\(place.map { " (\($0))" } ?? "")"
        guard policy == .skip else {
            return .stop(
                "\(what); stopped before the update; lower the learning rate, or set training.on_nonfinite=skip")
        }
        inARow += 1
        skipped = skipped.filter { $0 > step - 1000 } + [step]
        if inARow > Self.maxInARow {
            return .stop("\(what); stopped: \(Self.maxInARow) steps in a row were skipped already")
        }
        if skipped.count > Self.maxPerThousand {
            return .stop("\(what); stopped: \(Self.maxPerThousand) of the last 1,000 steps were skipped already")
        }
        return .skip("\(what); step skipped, \(inARow) of \(Self.maxInARow) allowed")
    }

    /// For the checkpoint's state.
    public var json: JSONValue { ["skipped": .array(skipped.map { .init($0) }), "in_a_row": .init(inARow)] }

    public init?(json: JSONValue, policy: Policy) {
        guard let skipped = json["skipped"]?.array, let inARow = json["in_a_row"]?.int else { return nil }
        self.init(policy: policy)
        self.skipped = skipped.compactMap(\.int)
        self.inARow = inARow
    }
}
