// A weight's gradient dW (+)= dy^T x: every level against sums in fp64, odd shapes, strides, threads.
internal import Kernels
internal import Testing

extension KernelSuite {
    @Suite struct GradientTests {
        struct Shape: CustomTestStringConvertible, Sendable {
            var N: Int, O: Int, I: Int
            var testDescription: String { "\(N) x \(O) x \(I)" }
        }
        /// Whole tiles, edges of each size, more rows than a block, more tasks than threads.
        static let shapes = [
            Shape(N: 1, O: 1, I: 1), Shape(N: 64, O: 96, I: 64), Shape(N: 33, O: 31, I: 65),
            Shape(N: 2050, O: 40, I: 33),
            Shape(N: 50, O: 300, I: 96),
        ]

        /// dW, its rows `stride` apart, from dy and x whose rows are 3 and 5 numbers wider than they are read.
        private func gradient(
            _ shape: Shape, dy: [UInt16], x: [UInt16], onto start: [Float], adds: Bool, parts: Int,
            parallel: nt_parallel?
        ) -> [Float] {
            let (N, O, I) = (Int64(shape.N), Int64(shape.O), Int64(shape.I))
            var dW = start
            let room = nt_weight_gradient_scratch_bytes(N, I, Int64(parts))
            var scratch = [UInt8](repeating: 0x5A, count: room + 64)
            nt_weight_gradient_bf16(
                N, O, I, dy, O + 3, x, I + 5, adds ? 1 : 0, &dW, I + 2, Int64(parts), &scratch, parallel)
            #expect(scratch[room...].allSatisfy { $0 == 0x5A }, "wrote beyond its scratch")
            return dW
        }

        @Test(arguments: shapes) func equalsSumsInFP64(_ shape: Shape) {
            let (N, O, I) = (shape.N, shape.O, shape.I)
            let dy = rounded(noise(N * O, 1), to: UInt16.self), x = rounded(noise(N * I, 2), to: UInt16.self)
            let strided_dy: [UInt16] = strided(dy, width: O, stride: O + 3)
            let strided_x: [UInt16] = strided(x, width: I, stride: I + 5)
            let start: [Float] = strided(noise(O * I, 3), width: I, stride: I + 2)
            var expected = [Double](repeating: 0, count: O * I)
            for o in 0..<O {
                for i in 0..<I {
                    for n in 0..<N { expected[o * I + i] += dy[n * O + o] * x[n * I + i] }
                }
            }
            let before = rows(start, width: I, stride: I + 2)
            atEachLevel { level in
                for adds in [false, true] {
                    let result = gradient(
                        shape, dy: strided_dy, x: strided_x, onto: start, adds: adds, parts: 1, parallel: nil)
                    let goal = adds ? zip(expected, before).map(+) : expected
                    let scale = goal.map(abs).max()!
                    let worst = zip(rows(result, width: I, stride: I + 2), goal).map { abs($0 - $1) }.max()!
                    #expect(worst <= 1e-5 * scale, "level \(level), adds \(adds): \(worst / scale)")
                    let threaded = gradient(
                        shape, dy: strided_dy, x: strided_x, onto: start, adds: adds, parts: 2, parallel: twoThreads)
                    #expect(threaded == result, "level \(level), adds \(adds): other bits on two threads")
                }
            }
        }
    }
}
