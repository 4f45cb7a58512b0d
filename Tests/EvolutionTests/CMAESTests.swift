// CMA-ES on functions whose minimum is known, against random search of the same budget.
import Evolution
import RandomStreams
import Testing

/// Minimises until `value < goal` or the budget is spent: the evaluations used and the best value.
private func minimise(
    _ start: [Double], sigma: Double, seed: UInt64, budget: Int, goal: Double, _ f: ([Double]) -> Double
) -> (evaluations: Int, value: Double) {
    var search = CMAES(start: start, sigma: sigma, seed: seed), used = 0
    while used < budget, search.best?.value ?? .infinity >= goal {
        let candidates = search.ask()
        search.tell(candidates.map(f))
        used += candidates.count
    }
    return (used, search.best!.value)
}

private func sphere(_ x: [Double]) -> Double { x.reduce(0) { $0 + $1 * $1 } }

@Suite struct CMAESTests {
    @Test func tenDimensionalSphere() {
        for seed in 0..<3 as Range<UInt64> {
            let start = (0..<10).map { Double($0 % 3) + 1 }
            let found = minimise(start, sigma: 0.5, seed: seed, budget: 3000, goal: 1e-10, sphere)
            #expect(found.value < 1e-10 && found.evaluations < 3000, "\(found)")
            // Random search: as many uniform draws from a box around start and minimum.
            let best = (0..<found.evaluations).map { k in
                sphere(RandomStream(seed: seed, 99, UInt64(k)).uniform(10).map { 8 * Double($0) - 4 })
            }.min()!
            #expect(best > 1e6 * found.value, "random search reached \(best)")
        }
    }

    /// A narrow curved valley, for which the covariance must turn.
    @Test func rosenbrock() {
        func rosenbrock(_ x: [Double]) -> Double {
            zip(x, x.dropFirst()).reduce(0) {
                $0 + 100 * ($1.1 - $1.0 * $1.0) * ($1.1 - $1.0 * $1.0) + (1 - $1.0) * (1 - $1.0)
            }
        }
        let found = minimise([0, 0, 0, 0], sigma: 0.3, seed: 1, budget: 6000, goal: 1e-10, rosenbrock)
        #expect(found.value < 1e-10, "\(found)")
    }

    /// Axes of very different lengths, rotated: without a covariance this takes hundreds of thousands of evaluations.
    @Test func rotatedEllipsoid() {
        func ellipsoid(_ x: [Double]) -> Double {
            let u = (x[0] + x[1]) / 2.0.squareRoot(), v = (x[0] - x[1]) / 2.0.squareRoot()
            return u * u + 1e6 * v * v + 1e3 * x[2] * x[2]
        }
        let found = minimise([1, 2, 3], sigma: 1, seed: 2, budget: 3000, goal: 1e-10, ellipsoid)
        #expect(found.value < 1e-10, "\(found)")
    }

    @Test func oneDimensionAndNaN() {
        let found = minimise([3], sigma: 0.5, seed: 0, budget: 1000, goal: 1e-10) {
            $0[0] > 5 ? .nan : ($0[0] - 1) * ($0[0] - 1)
        }
        #expect(found.value < 1e-10)
    }

    @Test func theSameValuesGiveTheSameCandidates() {
        var a = CMAES(start: [0.3, 0.7, 1], sigma: 0.2, seed: 5), b = a,
            other = CMAES(start: [0.3, 0.7, 1], sigma: 0.2, seed: 6)
        #expect(a.populationSize == 7)
        for _ in 0..<5 {
            let asked = a.ask()
            #expect(asked == b.ask() && asked != other.ask())
            a.tell(asked.map(sphere))
            b.tell(asked.map(sphere))
            other.tell(asked.map(sphere))
        }
        #expect(a.generation == 5 && a.sigma == b.sigma)
    }
}
