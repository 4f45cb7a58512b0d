// The gradient of an embedding table, which is summed in the order of positions whatever the threads.
internal import Kernels
internal import Testing

extension KernelSuite {
    @Suite struct EmbeddingTests {
        /// Positions, width, number of ids they are drawn from, largest id: few ids (long sums), many, several digits.
        static let cases = [
            (1, 1, 1, 0), (50, 7, 3, 9), (700, 19, 400, 5000), (300, 57, 300, 49_151), (9, 5, 9, 4_500_000),
        ]

        private func ids(_ c: (Int, Int, Int, Int)) -> [Int64] {
            noise(c.0, 9).map { x in
                let choice = Int((x + 1) / 2 * Double(c.2))
                return Int64(choice == c.2 - 1 ? c.3 : choice * 7919 % (c.3 + 1))
            }
        }

        @Test(arguments: cases) func backward(_ c: (Int, Int, Int, Int)) {
            let (count, width, _, largest) = c
            let ids = ids(c), used = Set(ids).sorted(), stride = width + 3, N = Int64(count), D = Int64(width)
            let x = noise(count * width, 2)
            let single: [Float] = strided(x, width: width, stride: stride)
            let half: [UInt16] = strided(x, width: width, stride: stride)
            // The sum in f64, onto a table of ones; only the rows in use are compared, the others must stay.
            func expected(_ x: [Double]) -> [Double] {
                var rows = [Int64: [Double]](
                    uniqueKeysWithValues: used.map { ($0, [Double](repeating: 1, count: width)) })
                for n in 0..<count { for i in 0..<width { rows[ids[n]]![i] += 0.5 * x[n * width + i] } }
                return used.flatMap { rows[$0]! }
            }
            let twin = expected(rounded(x, to: Float.self)), halfTwin = expected(rounded(x, to: UInt16.self))
            var scratch = [UInt64](repeating: .max, count: nt_embedding_scratch_bytes(N) / 8 + 1)
            func inUse<T: Element>(_ table: [T]) -> [Double] {
                used.flatMap { id in table[Int(id) * width..<(Int(id) + 1) * width].map(\.double) }
            }
            atEachLevel { level in
                var one = [Float](repeating: 1, count: (largest + 1) * width), two = one, narrow = one
                nt_embedding_backward_f32(N, D, ids, single, Int64(stride), 0.5, &one, D, &scratch, nil)
                nt_embedding_backward_f32(N, D, ids, single, Int64(stride), 0.5, &two, D, &scratch, twoThreads)
                nt_embedding_backward_bf16(N, D, ids, half, Int64(stride), 0.5, &narrow, D, &scratch, twoThreads)
                let same = one == two
                #expect(same, "one thread and two, level \(level)")
                #expect(distance(inUse(one), twin) < 1e-5 && distance(inUse(narrow), halfTwin) < 1e-5, "level \(level)")
                if largest < 100_000 {
                    let touched = changedRows(one, width).count
                    #expect(touched <= used.count, "rows of unused ids were written, level \(level)")
                }
            }
            if largest < 100_000 {
                var wide = [Double](repeating: 1, count: (largest + 1) * width)
                let x = strided(rounded(x, to: Float.self), width: width, stride: stride) as [Double]
                nt_embedding_backward_f64(N, D, ids, x, Int64(stride), 0.5, &wide, D, &scratch, nil)
                #expect(distance(inUse(wide), twin) < 1e-12)
            }
        }

        /// Ids that differ in their upper digits only: each must still be summed in one place, and in order.
        @Test func upperDigits() {
            let ids = (0..<60).map { 5 + 2048 * Int64($0 % 3) }, x: [Float] = stored(noise(180, 1))
            var scratch = [UInt64](repeating: 0, count: nt_embedding_scratch_bytes(60) / 8 + 1)
            atEachLevel { level in
                var forwards = [Float](repeating: 0, count: 5000 * 3), back = forwards
                nt_embedding_backward_f32(60, 3, ids, x, 3, 1, &forwards, 3, &scratch, nil)
                nt_embedding_backward_f32(60, 3, ids, x, 3, 1, &back, 3, &scratch, backwards)
                let same = forwards == back
                #expect(same, "level \(level)")
                // The vector code adds in fp32, in the order of positions.
                var ordered = [Float](repeating: 0, count: 9), found = ordered
                for n in 0..<180 { ordered[n % 9] += x[n] }
                for i in 0..<9 { found[i] = forwards[(5 + 2048 * (i / 3)) * 3 + i % 3] }
                #expect(level == 0 || found == ordered, "level \(level)")
            }
        }

        /// Indices of the rows that are no longer all ones.
        private func changedRows(_ table: [Float], _ width: Int) -> [Int] {
            (0..<table.count / width).filter { row in table[row * width..<(row + 1) * width].contains { $0 != 1 } }
        }
    }
}
