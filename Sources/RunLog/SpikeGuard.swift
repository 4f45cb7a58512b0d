// Finds steps whose loss, gradient norm or update norm jumps far above those before it.

public import Formats
internal import Glibc

/// A step far above the ones before it.
public struct Spike: Sendable, Equatable {
    public let step: Int
    /// "loss", "grad norm" or "update norm".
    public let quantity: String
    public let value: Double
    public let median: Double
    /// Robust standard deviations above the median (of logarithms for norms).
    public let deviations: Double

    /// "loss 9.12 at step 412 is 11.3 deviations above the median 2.13 of the last 128 steps"
    public func message(window: Int) -> String {
        "\(quantity) \(significant(value, 3)) at step \(step) is \(decimals(deviations, 1)) deviations above the "
            + "median \(significant(median, 3)) of the last \(window) steps"
    }
}

/// Median and median absolute deviation over the last steps, per quantity: a value counts as a spike when
///
///     (x - median) / max(1.4826 · MAD, 1 % of |median|) > threshold
///
/// with x the loss, or the logarithm of a norm (norms vary by factors; there the floor is 0.01). The values before a
/// quarter of the window has been seen are never spikes. NaN and infinity never enter a window. Saved with the
/// checkpoint, so that a resumed run decides as one that never stopped.
public struct SpikeGuard: Sendable, Equatable {
    public let window: Int
    public let threshold: Double
    private var losses: [Double] = []
    private var gradNorms: [Double] = []
    private var updateNorms: [Double] = []

    public init(window: Int = 128, threshold: Double = 6) {
        precondition(window >= 16 && threshold > 0)
        (self.window, self.threshold) = (window, threshold)
    }

    /// Looks at a step and remembers it. Nil norms are not looked at.
    ///
    /// - Returns: the quantity furthest above, if any is a spike.
    public mutating func observe(step: Int, loss: Double, gradNorm: Double?, updateNorm: Double? = nil) -> Spike? {
        let found = [
            measure(loss, &losses, step, "loss", isNorm: false),
            gradNorm.flatMap { measure($0, &gradNorms, step, "grad norm", isNorm: true) },
            updateNorm.flatMap { measure($0, &updateNorms, step, "update norm", isNorm: true) },
        ]
        return found.compactMap { $0 }.max { $0.deviations < $1.deviations }
    }

    private func measure(
        _ value: Double, _ history: inout [Double], _ step: Int, _ quantity: String, isNorm: Bool
    ) -> Spike? {
        guard value.isFinite, !isNorm || value > 0 else { return nil }
        let x = isNorm ? log(value) : value
        defer {
            history.append(x)
            if history.count > window { history.removeFirst() }
        }
        guard history.count >= max(16, window / 4) else { return nil }
        let (center, deviation) = spread(of: history)
        let deviations = (x - center) / max(1.4826 * deviation, isNorm ? 0.01 : 0.01 * abs(center), 1e-12)
        guard deviations > threshold else { return nil }
        return Spike(
            step: step, quantity: quantity, value: value, median: isNorm ? exp(center) : center, deviations: deviations)
    }

    /// Median, and median of the distances from it, of at least two values.
    private func spread(of values: [Double]) -> (median: Double, deviation: Double) {
        let sorted = values.sorted(), count = sorted.count
        let center = middle(of: count) { sorted[$0] }
        // Distances grow outwards from the middle on both sides: merge the two sides.
        var below = sorted.lastIndex { $0 <= center } ?? -1, above = below + 1
        var distances: [Double] = []
        while distances.count <= count / 2 {
            if above >= count || below >= 0 && center - sorted[below] <= sorted[above] - center {
                distances.append(center - sorted[below])
                below -= 1
            } else {
                distances.append(sorted[above] - center)
                above += 1
            }
        }
        return (center, middle(of: count) { distances[$0] })
    }

    /// The value in the middle of `count` ordered ones, or the mean of the two.
    private func middle(of count: Int, _ value: (Int) -> Double) -> Double {
        count % 2 == 1 ? value(count / 2) : (value(count / 2 - 1) + value(count / 2)) / 2
    }

    /// For the checkpoint's state; reads back bit for bit.
    public var json: JSONValue {
        let list = { (values: [Double]) in JSONValue.array(values.map { .init($0) }) }
        return [
            "window": .init(window), "threshold": .init(threshold), "losses": list(losses),
            "grad_norms": list(gradNorms), "update_norms": list(updateNorms),
        ]
    }

    /// Takes the windows of a checkpoint; nil when it holds none, or some of other settings.
    public init?(json: JSONValue, window: Int, threshold: Double) {
        guard json["window"]?.int == window, json["threshold"]?.double == threshold,
            let losses = json["losses"]?.array, let gradNorms = json["grad_norms"]?.array,
            let updateNorms = json["update_norms"]?.array
        else { return nil }
        self.init(window: window, threshold: threshold)
        self.losses = losses.compactMap(\.double)
        self.gradNorms = gradNorms.compactMap(\.double)
        self.updateNorms = updateNorms.compactMap(\.double)
    }
}
