// The product of two matrices: every level against sums in fp64, for matrices as they lie and transposed, at odd shapes; the
// same bits whatever is multiplied beside an element.
internal import Kernels
internal import Testing

extension KernelSuite {
    @Suite struct ProductTests {
        struct Shape: CustomTestStringConvertible, Sendable {
            var M: Int, N: Int, K: Int
            var testDescription: String { "\(M) x \(N) x \(K)" }
        }
        /// Whole tiles; edges of rows, columns and steps; two and three blocks of steps; two of columns; rows cut, and columns.
        static let shapes = [
            Shape(M: 1, N: 1, K: 1), Shape(M: 6, N: 16, K: 8), Shape(M: 7, N: 17, K: 9), Shape(M: 13, N: 33, K: 389),
            Shape(M: 4, N: 3100, K: 21), Shape(M: 401, N: 70, K: 40), Shape(M: 30, N: 130, K: 800),
        ]

        /// A matrix whose numbers lie apart by any two strides.
        struct Matrix {
            var numbers: [Float]
            var row: Int, column: Int

            /// `order`: how [rows, columns] lies in memory.
            init(_ x: [Double], rows: Int, columns: Int, order: Order) {
                (row, column) =
                    switch order {
                    case .rows: (columns + 3, 1)
                    case .columns: (1, rows + 2)
                    case .neither: (2 * columns + 1, 2)
                    }
                numbers = [Float](repeating: .nan, count: (rows - 1) * row + (columns - 1) * column + 1)
                for i in 0..<rows { for j in 0..<columns { numbers[i * row + j * column] = Float(x[i * columns + j]) } }
            }
        }
        enum Order: CaseIterable { case rows, columns, neither }

        private func product(
            _ shape: Shape, _ a: Matrix, _ b: Matrix, onto start: [Float], alpha: Float = 1, adds: Bool = false,
            parts: Int = 1, parallel: nt_parallel? = nil
        ) -> [Float] {
            var c = start
            a.numbers.withUnsafeBufferPointer { left in
                b.numbers.withUnsafeBufferPointer { right in
                    c.withUnsafeMutableBufferPointer { to in
                        var call = nt_product(
                            M: Int64(shape.M), N: Int64(shape.N), K: Int64(shape.K), a: left.baseAddress,
                            a_row: Int64(a.row), a_column: Int64(a.column), b: right.baseAddress, b_row: Int64(b.row),
                            b_column: Int64(b.column), c: to.baseAddress, c_row: Int64(shape.N + 2), alpha: alpha,
                            adds: adds ? 1 : 0, parts: Int64(parts))
                        let room = nt_product_scratch_bytes(&call)
                        var scratch = [UInt8](repeating: 0x5A, count: room + 64)
                        nt_product_f32(&call, &scratch, parallel)
                        #expect(scratch[room...].allSatisfy { $0 == 0x5A }, "wrote beyond its scratch")
                    }
                }
            }
            return c
        }

        @Test(arguments: shapes) func equalsSumsInFP64(_ shape: Shape) {
            let (M, N, K) = (shape.M, shape.N, shape.K)
            let a = rounded(noise(M * K, 1), to: Float.self), b = rounded(noise(K * N, 2), to: Float.self)
            let start: [Float] = strided(noise(M * N, 3), width: N, stride: N + 2)
            let before = rows(start, width: N, stride: N + 2)
            var sums = [Double](repeating: 0, count: M * N)
            for i in 0..<M {
                for k in 0..<K { for j in 0..<N { sums[i * N + j] += a[i * K + k] * b[k * N + j] } }
            }
            atEachLevel { level in
                for left in Order.allCases {
                    for right in Order.allCases {
                        let A = Matrix(a, rows: M, columns: K, order: left)
                        let B = Matrix(b, rows: K, columns: N, order: right)
                        let plain = rows(product(shape, A, B, onto: start), width: N, stride: N + 2)
                        #expect(distance(plain, sums) <= 1e-5, "level \(level), \(left) by \(right)")
                        let added = product(shape, A, B, onto: start, alpha: -0.5, adds: true)
                        let goal = zip(before, sums).map { $0 - $1 / 2 }
                        #expect(
                            distance(rows(added, width: N, stride: N + 2), goal) <= 1e-5,
                            "level \(level), \(left) by \(right), added")
                    }
                }
            }
        }

        /// A sum of nothing is 0, and a matrix without rows or columns is left alone.
        @Test func emptyOnes() {
            let one = Matrix([2], rows: 1, columns: 1, order: .rows)
            atEachLevel { level in
                let sum = Shape(M: 1, N: 1, K: 0)
                #expect(product(sum, one, one, onto: [5, 7, 7]) == [0, 7, 7], "level \(level)")
                #expect(product(sum, one, one, onto: [5, 7, 7], adds: true) == [5, 7, 7], "level \(level)")
                for shape in [Shape(M: 0, N: 1, K: 1), Shape(M: 1, N: 0, K: 1)] {
                    #expect(product(shape, one, one, onto: [5, 7, 7], parts: 2) == [5, 7, 7], "level \(level)")
                }
            }
        }

        @Test(arguments: shapes) func hasTheSameBitsInEveryCompany(_ shape: Shape) {
            let (M, N, K) = (shape.M, shape.N, shape.K)
            let a = noise(M * K, 4), b = noise(K * N, 5)
            let A = Matrix(a, rows: M, columns: K, order: .rows), B = Matrix(b, rows: K, columns: N, order: .columns)
            let start: [Float] = strided(noise(M * N, 6), width: N, stride: N + 2)
            atEachLevel { level in
                let together = product(shape, A, B, onto: start, adds: true)
                for parts in [2, 5] {
                    for parallel in [twoThreads, backwards] {
                        let cut = product(shape, A, B, onto: start, adds: true, parts: parts, parallel: parallel)
                        #expect(cut == together, "level \(level), \(parts) parts")
                    }
                }
                // Each of some elements alone: the last row, the last column.
                for (i, j) in [(0, 0), (M - 1, 0), (0, N - 1), (M - 1, N - 1), (M / 2, N / 2)] {
                    let row = Matrix(Array(a[i * K..<(i + 1) * K]), rows: 1, columns: K, order: .rows)
                    let column = Matrix((0..<K).map { b[$0 * N + j] }, rows: K, columns: 1, order: .columns)
                    let own = [start[i * (N + 2) + j], 7, 7]
                    let alone = product(Shape(M: 1, N: 1, K: K), row, column, onto: own, adds: true)
                    #expect(alone[0] == together[i * (N + 2) + j], "level \(level), element \(i), \(j)")
                }
            }
        }
    }
}
