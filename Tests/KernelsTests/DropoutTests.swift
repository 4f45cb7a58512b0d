// Dropout: every level against the mask that the stream's words define, bit for bit.
internal import Kernels
internal import Testing

private typealias Kernel<T> = (
    UnsafePointer<nt_dropout>?, Int64, UnsafePointer<T>?, UnsafeMutablePointer<T>?, Int32, nt_parallel?
) -> Void

extension KernelSuite {
    @Suite struct DropoutTests {
        /// Parts of a block of the generator, of a vector and of a group, and several groups.
        static let counts = [1, 3, 4, 5, 15, 31, 63, 64, 65, 127, 1000, 4099]

        /// What is kept counts 1 / (1 - p), rounded to fp32 and to T; 0 where `Float(word >> 8) * 0x1p-24 < p`.
        private func factors<T: Element>(_ options: nt_dropout, _ count: Int, of _: T.Type) -> [Double] {
            var words = [UInt32](repeating: 0, count: count)
            nt_random_words(options.seed, options.stream, 0, &words, count)
            let scale = T(rounding: Double(Float(1 / (1 - options.probability)))).double
            return words.map { Float($0 >> 8) * 0x1p-24 < Float(options.probability) ? 0 : scale }
        }

        private func check<T: Element>(_ kernel: Kernel<T>, _ count: Int, _ p: Double, _ level: Int32) {
            var options = nt_dropout(seed: 0x1234_5678_9ABC_DEF1, stream: 0xFEDC_BA98_7654_3210, probability: p)
            let x: [T] = stored(noise(count, 1)), there: [T] = stored(noise(count, 2)), N = Int64(count)
            let factors = factors(options, count, of: T.self)
            let expected = zip(x, factors).map { T(rounding: $1 == 0 ? 0 : $0.double * $1) }
            var out = there + [T(rounding: 7)], inPlace = x, sum = there
            kernel(&options, N, x, &out, 0, twoThreads)
            #expect(out == expected + [T(rounding: 7)], "\(T.self), \(count), level \(level)")
            inPlace.withUnsafeMutableBufferPointer { kernel(&options, N, $0.baseAddress, $0.baseAddress, 0, nil) }
            #expect(inPlace == expected, "\(T.self), \(count), level \(level): in place")
            kernel(&options, N, x, &sum, 1, twoThreads)
            let whole = zip(there, zip(x, factors)).map { $0.double + $1.0.double * $1.1 }
            #expect(distance(sum.map(\.double), whole) < T.tolerance, "\(T.self), \(count), level \(level): added")
            for i in 0..<count where factors[i] == 0 { #expect(sum[i] == there[i]) }
        }

        @Test(arguments: counts, [0.05, 0.3, 0.5, 0.999])
        func everyLevelKeepsTheSame(_ count: Int, _ p: Double) {
            atEachLevel { level in
                check(nt_dropout_f32, count, p, level)
                check(nt_dropout_bf16, count, p, level)
                check(nt_dropout_f64, count, p, level)
            }
        }

        /// The smallest number is kept as it is, an infinite one can be dropped: nothing is flushed, no 0 times infinity.
        @Test func extremes() {
            var options = nt_dropout(seed: 3, stream: 4, probability: 0.5)
            let small = [UInt16](repeating: 1, count: 70), infinite = [Float](repeating: .infinity, count: 70)
            let kept = factors(options, 70, of: Float.self).map { $0 != 0 }
            atEachLevel { level in
                var half = small, single = infinite
                nt_dropout_bf16(&options, 70, small, &half, 0, nil)
                nt_dropout_f32(&options, 70, infinite, &single, 0, nil)
                #expect(half == kept.map { $0 ? 2 : 0 }, "level \(level)")
                #expect(single == kept.map { $0 ? .infinity : 0 }, "level \(level)")
            }
        }
    }
}
