// Cross-entropy and log-probabilities: every level against the f64 twin, the twin against PyTorch and differences.
internal import Foundation
internal import Kernels
internal import Testing

private struct LossKernels<T: Element, W: Element> {
    typealias Options = UnsafePointer<nt_cross_entropy_options>?
    let crossEntropy:
        (
            Int64, Int64, UnsafeMutablePointer<T>?, Int64, UnsafePointer<Int64>?, UnsafePointer<W>?, Options,
            UnsafeMutablePointer<Double>?, nt_parallel?
        ) -> Double
    let logProbabilities:
        (
            Int64, Int64, UnsafePointer<T>?, Int64, UnsafePointer<Int64>?, Double, UnsafeMutablePointer<W>?,
            UnsafeMutablePointer<W>?, UnsafeMutablePointer<Int64>?, nt_parallel?
        ) -> Void
}
private var bf16: LossKernels<UInt16, Float> {
    LossKernels(crossEntropy: nt_cross_entropy_bf16, logProbabilities: nt_log_probabilities_bf16)
}
private var f32: LossKernels<Float, Float> {
    LossKernels(crossEntropy: nt_cross_entropy_f32, logProbabilities: nt_log_probabilities_f32)
}
private var f64: LossKernels<Double, Double> {
    LossKernels(crossEntropy: nt_cross_entropy_f64, logProbabilities: nt_log_probabilities_f64)
}

private struct Case: CustomTestStringConvertible {
    var rows: Int, vocabulary: Int, cap = 0.0, smoothing = 0.0, zeta = 0.0
    var testDescription: String { "\(rows) x \(vocabulary), cap \(cap), smoothing \(smoothing), z-loss \(zeta)" }
    var logits: [Double] { noise(rows * vocabulary, 1, scale: 20) }
    var labels: [Int64] { (0..<rows).map { $0 % 4 == 2 ? -100 : Int64(($0 * 7919 + 5) % vocabulary) } }
    var factors: [Double] { noise(rows, 2).map { abs($0) / 8 } }
    var options: nt_cross_entropy_options {
        nt_cross_entropy_options(soft_cap: cap, label_smoothing: smoothing, z_loss: zeta)
    }
}

private struct Results: Equatable {
    var loss = 0.0, losses: [Double] = [], gradients: [Double] = []
    var logProbabilities: [Double] = [], logSums: [Double] = [], largest: [Int64] = []
}

private func run<T: Element, W: Element, R: Element>(
    _ kernels: LossKernels<T, W>, _ c: Case, inputs _: R.Type, logits: [Double]? = nil, parallel: nt_parallel? = nil
) -> Results {
    let (V, N, stride) = (c.vocabulary, c.rows, c.vocabulary + 3)
    var x: [T] = strided(rounded(logits ?? c.logits, to: R.self), width: V, stride: stride)
    var found = Results(), logProbabilities = [W](repeating: W(rounding: 9), count: N), sums = logProbabilities
    found.largest = [Int64](repeating: 0, count: N)
    found.losses = [Double](repeating: 0, count: N)
    let factors: [W] = stored(rounded(c.factors, to: Float.self))
    var options = c.options
    kernels.logProbabilities(
        Int64(N), Int64(V), x, Int64(stride), c.labels, c.cap, &logProbabilities, &sums, &found.largest, parallel)
    found.loss = kernels.crossEntropy(
        Int64(N), Int64(V), &x, Int64(stride), c.labels, factors, &options, &found.losses, parallel)
    found.gradients = rows(x, width: V, stride: stride)
    found.logProbabilities = logProbabilities.map(\.double)
    found.logSums = sums.map(\.double)
    return found
}

private func compare(_ found: Results, _ twin: Results, gradient: Double, _ comment: String) {
    #expect(abs(found.loss - twin.loss) <= 1e-5 * max(1, abs(twin.loss)), "\(comment)")
    #expect(distance(found.losses, twin.losses) < 1e-5, "\(comment)")
    #expect(distance(found.gradients, twin.gradients) < gradient, "\(comment)")
    #expect(distance(found.logProbabilities, twin.logProbabilities) < 1e-5, "\(comment)")
    #expect(distance(found.logSums, twin.logSums) < 1e-5, "\(comment)")
    #expect(found.largest == twin.largest, "\(comment)")
}

private let cases = [
    Case(rows: 1, vocabulary: 1), Case(rows: 5, vocabulary: 19), Case(rows: 7, vocabulary: 1030, zeta: 1e-2),
    Case(rows: 3, vocabulary: 1024, smoothing: 0.1), Case(rows: 6, vocabulary: 70, cap: 30),
    Case(rows: 17, vocabulary: 4099, cap: 5, smoothing: 0.1, zeta: 1e-2),
]

extension KernelSuite {
    @Suite struct LossTests {
        @Test(arguments: cases) fileprivate func everyLevel(_ c: Case) {
            let single = run(f64, c, inputs: Float.self), half = run(f64, c, inputs: UInt16.self)
            atEachLevel { level in
                compare(run(f32, c, inputs: Float.self), single, gradient: 1e-5, "f32, level \(level)")
                compare(run(bf16, c, inputs: UInt16.self), half, gradient: 0x1p-8, "bf16, level \(level)")
                let same = run(f32, c, inputs: Float.self) == run(f32, c, inputs: Float.self, parallel: twoThreads)
                #expect(same, "one thread and two, level \(level)")
            }
        }

        /// PyTorch's losses and gradients; the second row is ignored.
        @Test func goldens() {
            let plain = (Goldens.plainLogits, Goldens.plainLosses, Goldens.plainGradients)
            let full = (Goldens.fullLogits, Goldens.fullLosses, Goldens.fullGradients)
            for ((logits, losses, gradients), settings) in [(plain, (0.0, 0.0, 0.0)), (full, (4, 0.1, 1e-2))] {
                var options = nt_cross_entropy_options(
                    soft_cap: settings.0, label_smoothing: settings.1, z_loss: settings.2)
                var x = logits, single: [Float] = stored(logits), rows = [0.0, 0, 0, 0]
                let labels: [Int64] = [3, -100, 18, 0]
                let loss = nt_cross_entropy_f64(4, 19, &x, 19, labels, [0.25, 0.5, 0.125, 1.5], &options, &rows, nil)
                #expect(abs(loss - losses.reduce(0, +)) < 1e-12)
                #expect(distance(rows, losses) < 1e-12)
                #expect(distance(x, gradients) < 1e-12)
                _ = nt_cross_entropy_f32(4, 19, &single, 19, labels, [0.25, 0.5, 0.125, 1.5], &options, &rows, nil)
                #expect(distance(rows, losses) < 1e-5)
                #expect(distance(single.map(\.double), gradients) < 1e-5)
            }
        }

        @Test func finiteDifferences() {
            let c = Case(rows: 3, vocabulary: 6, cap: 8, smoothing: 0.2, zeta: 0.05)
            let numeric = numericGradient(c.logits) { run(f64, c, inputs: Double.self, logits: $0).loss }
            #expect(distance(run(f64, c, inputs: Double.self).gradients, numeric) < 1e-8)
        }

        /// Columns at -infinity (padded vocabulary), a largest logit far above the rest, equal largest ones.
        @Test func extremes() {
            let c = Case(rows: 1, vocabulary: 2100)
            var logits = [Double](repeating: -.infinity, count: 2100)
            logits[5] = 80  // the label of row 0
            logits[1500] = 90
            logits[1501] = 90
            atEachLevel { level in
                let found = run(f32, c, inputs: Float.self, logits: logits)
                let p = 1 / (1 + 2 * exp(10.0))
                #expect(abs(found.logProbabilities[0] - log(p)) < 1e-5, "level \(level)")
                #expect(found.largest == [1500], "level \(level)")
                let factor = Double(Float(c.factors[0]))
                #expect(abs(found.gradients[1501] - factor * exp(10) * p) < 1e-6, "level \(level)")
                #expect(found.gradients[0] == 0 && found.gradients[2099] == 0, "level \(level)")
                var broken = logits
                broken[700] = .nan
                #expect(run(f32, c, inputs: Float.self, logits: broken).loss.isNaN, "level \(level)")
            }
        }
    }
}
