// Pearson's correlation and its two-sided p-value, and the shuffled control of a correlation.
internal import Glibc
internal import RandomStreams

/// Correlation of two lists of numbers.
public struct Correlation: Sendable, Equatable {
    /// Pearson's r, -1...1.
    public let r: Double
    /// Probability of an |r| this large or larger under no correlation, from Student's t with N - 2 degrees of freedom.
    public let p: Double
    public let count: Int

    /// - Returns: nil for fewer than three pairs, lists of different lengths, or one without variance.
    public init?(_ x: [Double], _ y: [Double]) {
        let n = Double(x.count)
        guard x.count == y.count, x.count >= 3 else { return nil }
        let meanX = x.reduce(0, +) / n, meanY = y.reduce(0, +) / n
        var xx = 0.0, yy = 0.0, xy = 0.0
        for (a, b) in zip(x, y) {
            xx += (a - meanX) * (a - meanX)
            yy += (b - meanY) * (b - meanY)
            xy += (a - meanX) * (b - meanY)
        }
        guard xx > 0, yy > 0 else { return nil }
        r = min(1, max(-1, xy / (xx.squareRoot() * yy.squareRoot())))
        // With t² = r² ν / (1 - r²) the tail beyond ±t is I_{ν/(ν+t²)}(ν/2, 1/2), and ν/(ν+t²) = 1 - r².
        p = regularizedBeta(1 - r * r, (n - 2) / 2, 0.5)
        count = x.count
    }
}

/// The regularized incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22, modified Lentz).
func regularizedBeta(_ x: Double, _ a: Double, _ b: Double) -> Double {
    if x <= 0 { return 0 }
    if x >= 1 { return 1 }
    // The fraction converges fast below the mean; above it the symmetry I_x(a, b) = 1 - I_{1-x}(b, a) serves.
    if x > (a + 1) / (a + b + 2) { return 1 - regularizedBeta(1 - x, b, a) }
    let front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    let tiny = 1e-300
    var c = 1.0, d = 1 - (a + b) * x / (a + 1)
    d = 1 / (abs(d) < tiny ? tiny : d)
    var value = d
    for m in 1...1000 {
        let m = Double(m)
        for term in [
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ] {
            d = 1 + term * d
            c = 1 + term / c
            d = 1 / (abs(d) < tiny ? tiny : d)
            if abs(c) < tiny { c = tiny }
            value *= d * c
        }
        if abs(d * c - 1) < 1e-15 { break }
    }
    return front * value
}

/// The share of random orders of `y` whose correlation with `x` stays below `limit` in magnitude: a control that shows
/// what chance alone gives.
///
/// - Returns: nil where no correlation is defined.
public func shuffledShare(_ x: [Double], _ y: [Double], below limit: Double, shuffles: Int, seed: UInt64) -> Double? {
    guard Correlation(x, y) != nil else { return nil }
    var below = 0
    for shuffle in 0..<shuffles {
        var order = y
        let draws = RandomStream(seed: seed, UInt64(shuffle)).words(max(1, y.count))
        for i in order.indices.dropFirst().reversed() { order.swapAt(i, Int(draws[i]) % (i + 1)) }
        if let found = Correlation(x, order), abs(found.r) < limit { below += 1 }
    }
    return Double(below) / Double(max(1, shuffles))
}
