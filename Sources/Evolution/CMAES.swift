// Covariance matrix adaptation evolution strategy (Hansen 2016, arXiv:1604.00772): minimises a function of n numbers
// from its values alone.
// n dimensions, λ candidates a generation, μ parents, m mean, σ step size, C covariance = B D² Bᵀ
internal import Glibc
internal import RandomStreams

/// The search, asked for candidates and told their values. Deterministic: the same seed and values give the same
/// candidates.
public struct CMAES {
    /// λ = 4 + floor(3 ln n)
    public let populationSize: Int
    /// Generations told.
    public private(set) var generation = 0
    public private(set) var mean: [Double]
    public private(set) var sigma: Double
    /// The best candidate so far and its value; nil before the first `tell`.
    public private(set) var best: (x: [Double], value: Double)?

    private let n: Int, seed: UInt64
    private let weights: [Double]
    private let mueff, cc, cs, c1, cmu, ds, expectedNorm: Double
    private var pc: [Double], ps: [Double]
    private var C: [[Double]], B: [[Double]], D: [Double]
    private var decomposedAt = 0
    /// Steps (x - m) / σ of the candidates that were asked for.
    private var steps: [[Double]] = []

    /// - Parameters:
    ///   - start: the first mean, at least one number.
    ///   - sigma: the first step size, > 0: about a third of the range in which the optimum is looked for.
    public init(start: [Double], sigma: Double, seed: UInt64) {
        precondition(!start.isEmpty && sigma > 0)
        (mean, self.sigma, self.seed) = (start, sigma, seed)
        n = start.count
        let N = Double(n)
        let lambda = 4 + Int(3 * log(N))
        populationSize = lambda
        let mu = lambda / 2
        let raw = (1...mu).map { log(Double(mu) + 0.5) - log(Double($0)) }
        let sum = raw.reduce(0, +)
        weights = raw.map { $0 / sum }
        mueff = 1 / weights.reduce(0) { $0 + $1 * $1 }
        cc = (4 + mueff / N) / (N + 4 + 2 * mueff / N)
        cs = (mueff + 2) / (N + mueff + 5)
        c1 = 2 / ((N + 1.3) * (N + 1.3) + mueff)
        cmu = min(1 - c1, 2 * (mueff - 2 + 1 / mueff) / ((N + 2) * (N + 2) + mueff))
        ds = 1 + 2 * max(0, ((mueff - 1) / (N + 1)).squareRoot() - 1) + cs
        expectedNorm = N.squareRoot() * (1 - 1 / (4 * N) + 1 / (21 * N * N))
        pc = [Double](repeating: 0, count: n)
        ps = pc
        C = (0..<n).map { i in (0..<start.count).map { $0 == i ? 1 : 0 } }
        B = C
        D = [Double](repeating: 1, count: n)
    }

    /// λ candidates `m + σ B D z`, z ~ N(0, I).
    public mutating func ask() -> [[Double]] {
        steps = (0..<populationSize).map { candidate in
            let z = normals(RandomStream(seed: seed, UInt64(generation), UInt64(candidate)), n)
            let scaled = zip(D, z).map { $0 * $1 }
            return (0..<n).map { i in zip(B[i], scaled).reduce(0) { $0 + $1.0 * $1.1 } }
        }
        return steps.map { step in zip(mean, step).map { $0 + sigma * $1 } }
    }

    /// Takes the values of the candidates of the last `ask`, in their order; a NaN counts as worst.
    public mutating func tell(_ values: [Double]) {
        precondition(values.count == steps.count && !steps.isEmpty, "tell after ask, one value a candidate")
        let worst = values.map { $0.isNaN ? Double.infinity : $0 }
        // Of equal values the earlier candidate.
        let order = worst.indices.sorted { (worst[$0], $0) < (worst[$1], $1) }
        if worst[order[0]] < best?.value ?? .infinity {
            best = (zip(mean, steps[order[0]]).map { $0 + sigma * $1 }, worst[order[0]])
        }
        let chosen = order.prefix(weights.count).map { steps[$0] }
        let shift = (0..<n).map { i in zip(weights, chosen).reduce(0) { $0 + $1.0 * $1.1[i] } }
        for i in 0..<n { mean[i] += sigma * shift[i] }
        generation += 1
        adapt(shift, chosen)
        steps = []
        decomposeWhenDue()
    }

    private mutating func adapt(_ shift: [Double], _ chosen: [[Double]]) {
        // C^(-1/2) shift = B D⁻¹ Bᵀ shift
        let rotated = (0..<n).map { j in (0..<n).reduce(0) { $0 + B[$1][j] * shift[$1] } / D[j] }
        let whitened = (0..<n).map { i in (0..<n).reduce(0) { $0 + B[i][$1] * rotated[$1] } }
        let step = (cs * (2 - cs) * mueff).squareRoot()
        for i in 0..<n { ps[i] = (1 - cs) * ps[i] + step * whitened[i] }
        let norm = ps.reduce(0) { $0 + $1 * $1 }.squareRoot()
        // Keeps the rank-one path still while the step size grows fast.
        let settled = (1 - pow(1 - cs, 2 * Double(generation))).squareRoot()
        let isSteady = norm / settled / expectedNorm < 1.4 + 2 / (Double(n) + 1)
        let path = isSteady ? (cc * (2 - cc) * mueff).squareRoot() : 0
        for i in 0..<n { pc[i] = (1 - cc) * pc[i] + path * shift[i] }
        let lost = isSteady ? 0 : c1 * cc * (2 - cc)
        for i in 0..<n {
            for j in 0...i {
                let rankMu = zip(weights, chosen).reduce(0) { $0 + $1.0 * $1.1[i] * $1.1[j] }
                C[i][j] = (1 - c1 - cmu + lost) * C[i][j] + c1 * pc[i] * pc[j] + cmu * rankMu
                C[j][i] = C[i][j]
            }
        }
        sigma *= exp(cs / ds * (norm / expectedNorm - 1))
    }

    /// B and D may lag behind C by a tenth of the time in which C changes: the decomposition is the dear part.
    private mutating func decomposeWhenDue() {
        let interval = 1 / ((c1 + cmu) * Double(n) * 10)
        guard Double(generation - decomposedAt) > interval else { return }
        decomposedAt = generation
        let (values, vectors) = eigenDecomposition(C)
        B = vectors
        D = values.map { max($0, 1e-300).squareRoot() }
    }
}

/// Standard normal numbers (Box & Muller 1958) with 53 random bits each.
func normals(_ stream: RandomStream, _ count: Int) -> [Double] {
    let pairs = (count + 1) / 2
    let words = stream.words(4 * pairs)
    func uniform(_ k: Int) -> Double {
        let bits = UInt64(words[2 * k]) << 32 | UInt64(words[2 * k + 1])
        return (Double(bits >> 11) + 0.5) * 0x1p-53  // inside (0, 1)
    }
    var out: [Double] = []
    for k in 0..<pairs {
        let radius = (-2 * log(uniform(2 * k))).squareRoot(), angle = 2 * Double.pi * uniform(2 * k + 1)
        out += [radius * cos(angle), radius * sin(angle)]
    }
    return Array(out.prefix(count))
}
