// AdamW with its kinds of state, split masters, 8-bit codes and the gradient norm: every level against the f64 twin,
// PyTorch's step and the published map of codes.
internal import Kernels
internal import Testing

private let options = nt_adamw_options(
    learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, correction1: 1 - 0.9 * 0.9,
    correction2: 1 - 0.95 * 0.95, gradient_scale: 0.5)

/// Weights, gradients, moments in the middle of a run, from f32 numbers.
private struct State {
    var p: [Float], g: [Float], m: [Float], v: [Float]
    init(_ count: Int) {
        p = stored(noise(count, 1))
        g = stored(noise(count, 2, scale: 0.02))
        m = stored(noise(count, 3, scale: 0.02))
        v = noise(count, 4, scale: 0.02).map { Float($0 * $0) }
    }
    var count: Int64 { Int64(p.count) }
}

/// Memory for the sums of a step.
private func scratch(_ count: Int) -> [Double] {
    [Double](repeating: 0, count: nt_adamw_scratch_bytes(Int64(count)) / 8)
}

private let roundingCases: [Float] = (0...0xFFFF).flatMap { high in
    [UInt32(0), 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF].map { Float(bitPattern: UInt32(high) << 16 | $0) }
}

extension KernelSuite {
    @Suite struct OptimizerTests {
        static let sizes = [1, 7, 255, 256, 257, 1000, 70_003]

        /// Three steps of torch.optim.AdamW, gradients multiplied by 0.5.
        @Test func goldens() {
            var p = Goldens.adamStart, m = [Double](repeating: 0, count: 23), v = m, sums = scratch(23)
            for step in 0..<3 {
                var now = options
                now.correction1 = 1 - [0.9, 0.81, 0.729][step]
                now.correction2 = 1 - [0.95, 0.9025, 0.857375][step]
                let gradient = Array(Goldens.adamGradients[step * 23..<step * 23 + 23]), before = p
                let moved = nt_adamw_f64(23, &p, gradient, &m, &v, &now, &sums, nil)
                // The way made, but for what decay takes.
                let squares = zip(p, before).reduce(0) { sum, pair in
                    let way = (pair.1 - pair.0) / now.learning_rate - now.weight_decay * pair.1
                    return sum + way * way
                }
                #expect(abs(moved / squares - 1) < 1e-9)
            }
            #expect(distance(p, Goldens.adamWeights) < 1e-13)
            #expect(distance(m, Goldens.adamMean) < 1e-13)
            #expect(distance(v, Goldens.adamSquare) < 1e-13)
        }

        @Test(arguments: sizes) func everyLevel(_ count: Int) {
            let start = State(count)
            var twin = (p: start.p.map(\.double), m: start.m.map(\.double), v: start.v.map(\.double)), now = options
            var sums = scratch(count)
            let moved = nt_adamw_f64(
                start.count, &twin.p, start.g.map(\.double), &twin.m, &twin.v, &now, &sums, nil)
            atEachLevel { level in
                var state = start, copied = start, copy = [UInt16](repeating: 0, count: count)
                let before = [nil, twoThreads].map { parallel in
                    withGradient(start.g) {
                        nt_adamw_update_square_sum_f32(start.count, $0, start.m, start.v, &now, &sums, parallel)
                    }
                }
                let squares = [
                    nt_adamw_f32(start.count, &state.p, start.g, &state.m, &state.v, nil, &now, &sums, nil),
                    nt_adamw_f32(
                        start.count, &copied.p, start.g, &copied.m, &copied.v, &copy, &now, &sums, twoThreads),
                ]
                #expect(distance(state.p.map(\.double), twin.p) < 1e-6, "level \(level)")
                #expect(distance(state.m.map(\.double), twin.m) < 1e-6, "level \(level)")
                #expect(distance(state.v.map(\.double), twin.v) < 1e-6, "level \(level)")
                #expect(abs(squares[0] / moved - 1) < 1e-5, "level \(level)")
                #expect(squares[1] == squares[0] && before == squares, "told before and after, level \(level)")
                let same = [copied.p == state.p, copied.m == state.m, copied.v == state.v]
                #expect(same == [true, true, true], "with a copy, on two threads; level \(level)")
                let rounded = copy == state.p.map { UInt16(rounding: Double($0)) }
                #expect(rounded, "copy at level \(level)")

                var split = start, high = copy, low = copy, joined = start.p
                nt_split_masters(start.count, start.p, &high, &low, nil)
                let again = withGradient(start.g) {
                    nt_adamw_split(start.count, &high, &low, $0, &split.m, &split.v, &now, &sums, twoThreads)
                }
                nt_join_masters(start.count, high, low, &joined, nil)
                let exact = [joined == state.p, split.m == state.m, split.v == state.v, again == squares[0]]
                #expect(exact == [true, true, true, true], "split masters at level \(level)")
            }
        }

        /// Every upper half with every lower half at which rounding changes: lossless, and nearest.
        @Test func splitMasters() {
            let count = Int64(roundingCases.count)
            atEachLevel { level in
                var high = [UInt16](repeating: 0, count: roundingCases.count), low = high, joined = roundingCases
                nt_split_masters(count, roundingCases, &high, &low, twoThreads)
                nt_join_masters(count, high, low, &joined, twoThreads)
                var wrong = 0
                for (i, x) in roundingCases.enumerated() {
                    let near = Float(bitPattern: UInt32(high[i]) << 16)
                    if x.isNaN {
                        wrong += near.isNaN && joined[i].isNaN ? 0 : 1
                        continue
                    }
                    let even = UInt16(rounding: Double(x)), tie = x.bitPattern & 0xFFFF == 0x8000
                    let up = UInt16(truncatingIfNeeded: x.bitPattern >> 16) + 1
                    wrong += joined[i].bitPattern == x.bitPattern && high[i] == (tie ? up : even) ? 0 : 1
                }
                #expect(wrong == 0, "level \(level)")
            }
        }

        /// The map is bitsandbytes' published one; every code is the nearest, and every number finds its own code.
        @Test(arguments: [true, false]) func codes(_ isSigned: Bool) {
            let sign: Int32 = isSigned ? 1 : 0
            var map = [Float](repeating: 0, count: 256)
            nt_adam8_map(sign, &map)
            let golden = isSigned ? Goldens.signedCodes : Goldens.unsignedCodes
            for (x, y) in zip(map, golden) { #expect(abs(Double(x) - y) <= 1e-7 * abs(y)) }
            #expect(isSigned ? map[Int(NT_ADAM8_ZERO_M)] == 0 : map[0] == 0)

            // Magnitudes over nine decades; the first number of each block is the largest.
            let count = 3 * 256 + 77, exponents = noise(count, 8, scale: 30)
            let x = noise(count, 7).enumerated().map { i, value -> Float in
                if i % 256 == 0 { return isSigned && i % 512 == 256 ? -3 : 3 }  // there is no code for -1
                let scaled = Float(value) * 2.99 * Float(sign: .plus, exponent: -Int(abs(exponents[i])), significand: 1)
                return isSigned ? scaled : abs(scaled)
            }
            atEachLevel { level in
                var codes = [UInt8](repeating: 0, count: count), scales: [Float] = [0, 0, 0, 0], back = x
                nt_adam8_encode(sign, Int64(count), x, &codes, &scales, twoThreads)
                nt_adam8_decode(sign, Int64(count), codes, scales, &back, twoThreads)
                #expect(scales == [3, 3, 3, 3])
                for i in 0..<count {
                    let number = golden[Int(codes[i])] * 3, nearest = golden.map { abs($0 * 3 - Double(x[i])) }.min()!
                    #expect(abs(Double(back[i]) - number) <= 1e-6 * abs(number), "level \(level)")
                    #expect(abs(number - Double(x[i])) <= nearest + 1e-6 * abs(Double(x[i])), "level \(level): \(x[i])")
                }
                var own = [UInt8](repeating: 0, count: 256), zeros: [UInt8] = [9, 9, 9]
                nt_adam8_encode(sign, 256, map, &own, &scales, nil)
                #expect(own == Array(0...255), "level \(level)")
                nt_adam8_encode(sign, 3, [0, 0, 0], &zeros, &scales, nil)
                #expect(zeros == [UInt8](repeating: isSigned ? UInt8(NT_ADAM8_ZERO_M) : 0, count: 3) && scales[0] == 0)
            }
        }

        /// A step on 8-bit state: the fp32 step on the decoded state, encoded again.
        @Test(arguments: sizes) func eightBits(_ count: Int) {
            let start = State(count), blocks = (count + 255) / 256
            atEachLevel { level in
                var mCodes = [UInt8](repeating: 0, count: count), vCodes = mCodes
                var mScales = [Float](repeating: 0, count: blocks), vScales = mScales
                var expected = start, now = options, sums = scratch(count)
                nt_adam8_encode(1, start.count, start.m, &mCodes, &mScales, nil)
                nt_adam8_encode(0, start.count, start.v, &vCodes, &vScales, nil)
                nt_adam8_decode(1, start.count, mCodes, mScales, &expected.m, nil)
                nt_adam8_decode(0, start.count, vCodes, vScales, &expected.v, nil)
                let moved = nt_adamw_f32(
                    start.count, &expected.p, start.g, &expected.m, &expected.v, nil, &now, &sums, nil)
                var high = [UInt16](repeating: 0, count: count), low = high, copy = high, joined = start.p, p = start.p
                nt_split_masters(start.count, start.p, &high, &low, nil)
                var split = (mCodes, mScales, vCodes, vScales)
                let squares = nt_adamw8_f32(
                    start.count, &p, start.g, &mCodes, &mScales, &vCodes, &vScales, &copy, &now, &sums, twoThreads)
                let again = withGradient(start.g) {
                    nt_adamw8_split(
                        start.count, &high, &low, $0, &split.0, &split.1, &split.2, &split.3, &now, &sums, nil)
                }
                #expect(abs(squares / moved - 1) < 1e-5 && again == squares, "level \(level)")
                nt_join_masters(start.count, high, low, &joined, nil)
                #expect(distance(p.map(\.double), expected.p.map(\.double)) < 1e-6, "level \(level)")
                let same = [joined == p, split.0 == mCodes, split.1 == mScales, split.2 == vCodes, split.3 == vScales]
                #expect(!same.contains(false), "split masters, one thread and two, level \(level)")
                let rounded = copy == p.map { UInt16(rounding: Double($0)) }
                #expect(rounded, "copy at level \(level)")
                var m = [UInt8](repeating: 0, count: count), v = m, scales = mScales
                nt_adam8_encode(1, start.count, expected.m, &m, &scales, nil)
                nt_adam8_encode(0, start.count, expected.v, &v, &scales, nil)
                // A number in the middle of two codes may fall to either.
                let offM = zip(m, mCodes).filter { $0 != $1 }.count, offV = zip(v, vCodes).filter { $0 != $1 }.count
                #expect(offM <= count / 1000 && offV <= count / 1000, "level \(level): \(offM), \(offV)")
            }
        }

        /// A gradient in bf16 counts as the fp32 numbers it stands for, bit for bit.
        @Test(arguments: sizes) func gradientsInBF16(_ count: Int) {
            let start = State(count), narrow = start.g.map { UInt16(rounding: Double($0)) }
            let wide = narrow.map { Float(bitPattern: UInt32($0) << 16) }
            var halves = ([UInt16](repeating: 0, count: count), [UInt16](repeating: 0, count: count))
            nt_split_masters(start.count, start.p, &halves.0, &halves.1, nil)
            let zeros = [Float](repeating: 0, count: (count + 255) / 256)
            let m8 = [UInt8](repeating: UInt8(NT_ADAM8_ZERO_M), count: count), v8 = [UInt8](repeating: 0, count: count)
            atEachLevel { level in
                func made(_ g: nt_gradient) -> [String: [Double]] {
                    var now = options, sums = scratch(count), (high, low) = halves, (m, v) = (start.m, start.v)
                    var (codes, scales) = ((m8, v8), (zeros, zeros))
                    let told = nt_adamw_update_square_sum_f32(start.count, g, m, v, &now, &sums, twoThreads)
                    let moved = nt_adamw_split(start.count, &high, &low, g, &m, &v, &now, &sums, twoThreads)
                    let whole = (high + low).map(Double.init)
                    (high, low) = halves
                    let moved8 = nt_adamw8_split(
                        start.count, &high, &low, g, &codes.0, &scales.0, &codes.1, &scales.1, &now, &sums, twoThreads)
                    return [
                        "sums": [told, moved, moved8], "masters": whole, "moments": (m + v).map(Double.init),
                        "masters of 8 bits": (high + low).map(Double.init),
                        "codes": (codes.0 + codes.1).map(Double.init), "scales": (scales.0 + scales.1).map(Double.init),
                    ]
                }
                let (a, b) = (withGradient(wide, made), withGradient(narrow, made))
                for (name, numbers) in a { #expect(b[name] == numbers, "\(name) at level \(level)") }
                var sums = [Double](repeating: 0, count: nt_square_sum_scratch_bytes(start.count) / 8)
                let squares = nt_square_sum_f32(start.count, wide, &sums, nil)
                #expect(nt_square_sum_bf16(start.count, narrow, &sums, twoThreads) == squares, "level \(level)")
            }
        }

        private func withGradient<R>(_ g: [Float], _ body: (nt_gradient) -> R) -> R {
            g.withUnsafeBufferPointer { body(nt_gradient(f32: $0.baseAddress, bf16: nil)) }
        }

        private func withGradient<R>(_ g: [UInt16], _ body: (nt_gradient) -> R) -> R {
            g.withUnsafeBufferPointer { body(nt_gradient(f32: nil, bf16: $0.baseAddress)) }
        }

        @Test func squareSums() {
            let count = 70_003
            var x: [Float] = stored(noise(count, 1))
            (x[5], x[6], x[70_000]) = (3e30, 1e-30, -2e25)  // squares outside fp32
            let sum = x.reduce(0) { $0 + Double($1) * Double($1) }
            var scratch = [Double](repeating: 0, count: nt_square_sum_scratch_bytes(Int64(count)) / 8)
            atEachLevel { level in
                let one = nt_square_sum_f32(Int64(count), x, &scratch, nil)
                let two = nt_square_sum_f32(Int64(count), x, &scratch, twoThreads)
                #expect(one == two && abs(one - sum) <= 1e-12 * sum, "level \(level)")
                let tiny = nt_square_sum_f32(2, [1e-30, 1e-30], &scratch, nil)
                #expect(abs(tiny - 2e-60) < 1e-66, "level \(level)")
                for (place, value) in [(0, Float.nan), (17, .infinity), (65_536, .nan), (count - 1, -.infinity)] {
                    var broken = x
                    broken[place] = value
                    #expect(!nt_square_sum_f32(Int64(count), broken, &scratch, twoThreads).isFinite, "level \(level)")
                }
            }
        }
    }
}
