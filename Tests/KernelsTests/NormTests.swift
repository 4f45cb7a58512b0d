// RMSNorm and LayerNorm: every level against the f64 twin, the twin against its formula and against finite
// differences.
internal import Kernels
internal import Testing

/// The entries of one element type.
private struct NormKernels<T: Element, W: Element> {
    typealias In<X> = UnsafePointer<X>?
    typealias Out<X> = UnsafeMutablePointer<X>?
    let rms:
        (Int64, Int64, In<T>, Int64, In<T>, Int64, In<W>, W, W, Out<T>, Int64, Out<T>, Int64, Out<W>, nt_parallel?) ->
            Void
    let rmsAgain: (Int64, Int64, In<T>, Int64, In<W>, W, In<W>, Out<T>, Int64, nt_parallel?) -> Void
    let rmsBackward:
        (
            Int64, Int64, In<T>, Int64, In<T>, Int64, In<W>, In<W>, W, In<T>, Int64, Out<T>, Int64, Out<W>,
            UnsafeMutableRawPointer?, nt_parallel?
        ) -> Void
    let layer:
        (
            Int64, Int64, In<T>, Int64, In<T>, Int64, In<W>, In<W>, W, Out<T>, Int64, Out<T>, Int64, Out<W>, Out<W>,
            nt_parallel?
        ) -> Void
    let layerAgain: (Int64, Int64, In<T>, Int64, In<W>, In<W>, In<W>, In<W>, Out<T>, Int64, nt_parallel?) -> Void
    let layerBackward:
        (
            Int64, Int64, In<T>, Int64, In<T>, Int64, In<W>, In<W>, In<W>, In<T>, Int64, Out<T>, Int64, Out<W>, Out<W>,
            UnsafeMutableRawPointer?, nt_parallel?
        ) -> Void
}

private var bf16: NormKernels<UInt16, Float> {
    NormKernels(
        rms: nt_rms_norm_bf16, rmsAgain: nt_rms_norm_again_bf16, rmsBackward: nt_rms_norm_backward_bf16,
        layer: nt_layer_norm_bf16, layerAgain: nt_layer_norm_again_bf16, layerBackward: nt_layer_norm_backward_bf16)
}
private var f32: NormKernels<Float, Float> {
    NormKernels(
        rms: nt_rms_norm_f32, rmsAgain: nt_rms_norm_again_f32, rmsBackward: nt_rms_norm_backward_f32,
        layer: nt_layer_norm_f32, layerAgain: nt_layer_norm_again_f32, layerBackward: nt_layer_norm_backward_f32)
}
private var f64: NormKernels<Double, Double> {
    NormKernels(
        rms: nt_rms_norm_f64, rmsAgain: nt_rms_norm_again_f64, rmsBackward: nt_rms_norm_backward_f64,
        layer: nt_layer_norm_f64, layerAgain: nt_layer_norm_again_f64, layerBackward: nt_layer_norm_backward_f64)
}

/// One case and its inputs, as f64.
private struct Case: CustomTestStringConvertible {
    var rows: Int, width: Int, centered = false, residual = true, weighted = true, offset = 0.0
    var testDescription: String { "\(rows)x\(width)\(centered ? " layer" : " rms")\(residual ? " residual" : "")" }
    let epsilon = 1e-5
    var x: [Double] { noise(rows * width, 1) }
    var added: [Double] { noise(rows * width, 2) }
    var weight: [Double] { noise(width, 3) }
    var bias: [Double] { noise(width, 4) }
    var dy: [Double] { noise(rows * width, 5) }
    var ds: [Double] { noise(rows * width, 6) }
}

private struct Results: Equatable {
    var s: [Double] = [], y: [Double] = [], again: [Double] = [], mean: [Double] = [], r: [Double] = []
    var dx: [Double] = [], dweight: [Double] = [], dbias: [Double] = []
    var all: [(String, [Double])] {
        [
            ("s", s), ("y", y), ("again", again), ("mean", mean), ("r", r), ("dx", dx), ("dweight", dweight),
            ("dbias", dbias),
        ]
    }
}

/// Forward, again and backward of one case. `round` rounds what the f64 run stores where `T` would.
private func run<T: Element, W: Element, R: Element>(
    _ kernels: NormKernels<T, W>, _ c: Case, inputs _: R.Type, parallel: nt_parallel? = nil
) -> Results {
    let rows64 = Int64(c.rows), D = Int64(c.width), stride = c.width + 3, S = Int64(stride)
    let matrix = { (x: [Double]) -> [T] in strided(rounded(x, to: R.self), width: c.width, stride: stride) }
    let x = matrix(c.x), added = c.residual ? matrix(c.added) : nil, dy = matrix(c.dy), ds = matrix(c.ds)
    let vector = { (x: [Double]) -> [W] in stored(rounded(x, to: Float.self)) }
    let weight = c.weighted ? vector(c.weight) : nil, bias = c.weighted ? vector(c.bias) : nil
    var s = matrix(c.x), y = s, again = s, dx = s
    var mean = [W](repeating: W(rounding: 0), count: c.rows), r = mean
    var dweight = vector(noise(c.width, 7)), dbias = dweight
    var scratch = [UInt8](repeating: 0xFF, count: nt_norm_scratch_bytes(rows64, D))
    let (offset, epsilon) = (W(rounding: c.offset), W(rounding: c.epsilon))
    if c.centered {
        kernels.layer(rows64, D, x, S, added, S, weight, bias, epsilon, &s, S, &y, S, &mean, &r, parallel)
        if !c.residual { s = x }
        kernels.layerAgain(rows64, D, s, S, weight, bias, mean, r, &again, S, parallel)
        kernels.layerBackward(
            rows64, D, dy, S, s, S, mean, r, weight, ds, S, &dx, S, &dweight, &dbias, &scratch, parallel)
    } else {
        kernels.rms(rows64, D, x, S, added, S, weight, offset, epsilon, &s, S, &y, S, &r, parallel)
        if !c.residual { s = x }
        kernels.rmsAgain(rows64, D, s, S, weight, offset, r, &again, S, parallel)
        kernels.rmsBackward(
            rows64, D, dy, S, s, S, r, weight, offset, ds, S, &dx, S, &dweight, &scratch, parallel)
    }
    let values = { (x: [T]) in rows(x, width: c.width, stride: stride) }
    return Results(
        s: values(s), y: values(y), again: values(again), mean: mean.map(\.double), r: r.map(\.double), dx: values(dx),
        dweight: dweight.map(\.double), dbias: dbias.map(\.double))
}

private func compare<T: Element>(_ found: Results, _ expected: Results, _ type: T.Type, _ comment: String) {
    for ((name, x), (_, y)) in zip(found.all, expected.all) {
        let error = distance(x, y)
        #expect(error < T.tolerance, "\(name) at \(comment): \(error)")
    }
    let same = found.again == found.y
    #expect(same, "y made again must have the same bits")
}

private let cases = [
    Case(rows: 1, width: 1), Case(rows: 5, width: 7), Case(rows: 3, width: 33, offset: 1),
    Case(rows: 17, width: 64, residual: false), Case(rows: 37, width: 100, weighted: false),
    Case(rows: 1030, width: 19), Case(rows: 40, width: 576), Case(rows: 4, width: 1027),
    Case(rows: 5, width: 7, centered: true), Case(rows: 37, width: 100, centered: true, residual: false),
    Case(rows: 70, width: 65, centered: true, weighted: false), Case(rows: 3, width: 768, centered: true),
]

extension KernelSuite {
    @Suite struct NormTests {
        @Test(arguments: cases) fileprivate func everyLevel(_ c: Case) {
            atEachLevel { level in
                compare(
                    run(f32, c, inputs: Float.self), run(f64, c, inputs: Float.self), Float.self, "f32 level \(level)")
                let narrow = run(bf16, c, inputs: UInt16.self)
                compare(narrow, run(f64, c, inputs: UInt16.self), UInt16.self, "bf16 level \(level)")
            }
        }

        /// Sums over rows do not depend on the threads.
        @Test(arguments: cases) fileprivate func threads(_ c: Case) {
            atEachLevel { level in
                let (one, two) = (
                    run(f32, c, inputs: Float.self), run(f32, c, inputs: Float.self, parallel: twoThreads)
                )
                let narrow = run(bf16, c, inputs: UInt16.self)
                let same = [one == two, narrow == run(bf16, c, inputs: UInt16.self, parallel: twoThreads)]
                #expect(same == [true, true], "f32, bf16 at level \(level)")
            }
        }

        /// y of the twin, from the definition.
        @Test func definition() {
            for centered in [false, true] {
                let c = Case(rows: 2, width: 5, centered: centered, offset: centered ? 0 : 1)
                let found = run(f64, c, inputs: Double.self)
                let weight = rounded(c.weight, to: Float.self), bias = rounded(c.bias, to: Float.self)
                for row in 0..<2 {
                    let s = (0..<5).map { c.x[row * 5 + $0] + c.added[row * 5 + $0] }
                    let mean = centered ? s.reduce(0, +) / 5 : 0
                    let r = 1 / (s.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / 5 + c.epsilon).squareRoot()
                    let y = (0..<5).map { (s[$0] - mean) * r * (weight[$0] + c.offset) + (centered ? bias[$0] : 0) }
                    #expect(distance(Array(found.y[row * 5..<row * 5 + 5]), y) < 1e-14)
                }
            }
        }

        /// The twin's backward, in x and in the weight: loss = sum dy y + sum ds s. More rows than one block of the
        /// weight gradient has.
        @Test(arguments: [false, true]) func finiteDifferences(_ centered: Bool) {
            let c = Case(rows: 37, width: 6, centered: centered, residual: false, offset: centered ? 0 : 1)
            let stride = Int64(6)
            let loss = { (x: [Double], weight: [Double], bias: [Double]) -> Double in
                var y = x, mean = [Double](repeating: 0, count: 37), r = mean
                if centered {
                    nt_layer_norm_f64(
                        37, 6, x, stride, nil, 0, weight, bias, c.epsilon, nil, 0, &y, stride, &mean, &r, nil)
                } else {
                    nt_rms_norm_f64(37, 6, x, stride, nil, 0, weight, c.offset, c.epsilon, nil, 0, &y, stride, &r, nil)
                }
                return dot(c.dy, y) + dot(c.ds, x)
            }
            let found = run(f64, c, inputs: Double.self), start = rounded(noise(6, 7), to: Float.self)
            let weight = rounded(c.weight, to: Float.self), bias = rounded(c.bias, to: Float.self)
            #expect(distance(found.dx, numericGradient(c.x) { loss($0, weight, bias) }) < 1e-8)
            let dweight = zip(found.dweight, start).map { $0 - $1 }, dbias = zip(found.dbias, start).map { $0 - $1 }
            #expect(distance(dweight, numericGradient(weight) { loss(c.x, $0, bias) }) < 1e-8)
            if centered { #expect(distance(dbias, numericGradient(bias) { loss(c.x, weight, $0) }) < 1e-8) }
        }

        /// dx over dy and over ds, s over x: the same bits.
        @Test func inPlace() {
            let count = 6 * 50, x: [Float] = stored(noise(count, 1)), dy: [Float] = stored(noise(count, 2))
            let ds: [Float] = stored(noise(count, 3)), weight: [Float] = stored(noise(50, 4))
            atEachLevel { level in
                var s = [Float](repeating: 0, count: count), y = s, dx = s, r = [Float](repeating: 0, count: 6)
                nt_rms_norm_f32(6, 50, x, 50, dy, 50, weight, 0, 1e-5, &s, 50, &y, 50, &r, nil)
                var over = x
                over.withUnsafeMutableBufferPointer {
                    nt_rms_norm_f32(
                        6, 50, $0.baseAddress, 50, dy, 50, weight, 0, 1e-5, $0.baseAddress, 50, &y, 50, &r, nil)
                }
                #expect(over == s, "level \(level)")
                nt_rms_norm_backward_f32(6, 50, dy, 50, s, 50, r, weight, 0, ds, 50, &dx, 50, nil, nil, nil)
                var overDy = dy, overDs = ds
                overDy.withUnsafeMutableBufferPointer {
                    let p = $0.baseAddress
                    nt_rms_norm_backward_f32(6, 50, p, 50, s, 50, r, weight, 0, ds, 50, p, 50, nil, nil, nil)
                }
                overDs.withUnsafeMutableBufferPointer {
                    let p = $0.baseAddress
                    nt_rms_norm_backward_f32(6, 50, dy, 50, s, 50, r, weight, 0, p, 50, p, 50, nil, nil, nil)
                }
                #expect(overDy == dx && overDs == dx, "level \(level)")
            }
        }
    }
}
