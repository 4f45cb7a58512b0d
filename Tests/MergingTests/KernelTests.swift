// The kernels of merging against slow twins written here, on both of their paths, at odd sizes.
internal import Formats
internal import Kernels
internal import Testing

/// The paths of a kernel: one suite, so that the switch between them is in nobody's way. (Elsewhere it does not matter:
/// both give the same bits, which is what is tested here.)
@Suite(.serialized) struct KernelTests {
    static let sizes = [0, 1, 7, 15, 16, 17, 31, 1023, 1024, 1025, 2050, 5000]

    private func onBothPaths(_ body: (Int32) -> Void) {
        for portable: Int32 in [0, 1] {
            nt_merge_force_portable(portable)
            body(portable)
        }
        nt_merge_force_portable(0)
    }

    private func noise(_ count: Int, _ seed: UInt64) -> [Float] {
        var state = seed
        return (0..<count).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Float(Double(state >> 11) * 0x1p-53 - 0.5)
        }
    }

    /// All 2^16 half-width numbers, and many floats around every rounding case: bit for bit.
    @Test func conversions() {
        let halves = (0...0xFFFF).map { UInt16($0) }
        let floats: [Float] =
            halves.flatMap { high in
                [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF].map { Float(bitPattern: UInt32(high) << 16 | $0) }
            }
            + halves.flatMap { half in
                // halfway between neighbouring f16 numbers, and one bit to each side
                [0xFFF, 0x1000, 0x1001].map { Float(bitPattern: floatFromF16(half).bitPattern &+ $0) }
            }
        onBothPaths { path in
            var wide = [Float](repeating: 0, count: halves.count)
            nt_f32_from_bf16(halves, &wide, halves.count)
            #expect(zip(wide, halves).allSatisfy { $0.bitPattern == floatFromBF16($1).bitPattern }, "path \(path)")
            nt_f32_from_f16(halves, &wide, halves.count)
            #expect(zip(wide, halves).allSatisfy { $0.bitPattern == floatFromF16($1).bitPattern }, "path \(path)")
            var narrow = [UInt16](repeating: 0, count: floats.count)
            nt_bf16_from_f32(floats, &narrow, floats.count)
            #expect(zip(narrow, floats).allSatisfy { $0 == bf16FromFloat($1) }, "path \(path)")
            nt_f16_from_f32(floats, &narrow, floats.count)
            #expect(zip(narrow, floats).allSatisfy { $0 == f16FromFloat($1) }, "path \(path)")
        }
    }

    /// Sums: near a plain f64 sum, the same bits on both paths, and however a row is cut at tiles.
    @Test(arguments: sizes)
    func sums(_ count: Int) {
        let x = noise(count, 1), y = noise(count, 2)
        var results: [[Double]] = []
        onBothPaths { _ in
            var sums = [Double](repeating: 0, count: 8)
            nt_sum_f32(x, count, &sums[0])
            nt_abs_sum_f32(x, count, &sums[1])
            nt_dot_f32(x, y, count, &sums[2])
            nt_square_distance_f32(x, y, count, &sums[3])
            nt_gram2_f32(x, y, count, &sums[4])
            nt_abs_max_f32(x, count, &sums[7])
            results.append(sums)
        }
        #expect(results[0] == results[1])
        let a = x.map { Double($0) }, b = y.map { Double($0) }
        let total = { (term: (Double, Double) -> Double) -> Double in
            zip(a, b).reduce(0.0) { $0 + term($1.0, $1.1) }
        }
        let squares = [total { x, _ in x * x }, total { x, y in x * y }, total { _, y in y * y }]
        var twin: [Double] = [total { x, _ in x }, total { x, _ in abs(x) }, squares[1]]
        twin.append(total { x, y in (x - y) * (x - y) })
        twin += squares
        twin.append(a.reduce(0.0) { max($0, abs($1)) })
        for (sum, expected) in zip(results[0], twin) { #expect(abs(sum - expected) < 1e-11) }
        var cut = 0.0
        for start in stride(from: 0, to: count, by: 1024) {
            x.withUnsafeBufferPointer { nt_sum_f32($0.baseAddress! + start, min(1024, count - start), &cut) }
        }
        #expect(cut == results[0][0])
    }

    @Test(arguments: sizes)
    func elementWork(_ count: Int) {
        let x = noise(count, 1), y = noise(count, 2), weights = [0.6, 0.3]
        // addingProduct is one fused multiply-add, as the kernel's
        let twin = zip(x, y).map { (Float(0.6) * $0).addingProduct(Float(0.3), $1) }
        onBothPaths { path in
            var out = [Float](repeating: 0, count: count)
            withPointers([x, y]) { nt_combine_f32($0, weights, 2, count, &out) }
            #expect(out == twin, "path \(path)")
            nt_subtract_f32(x, y, count, &out)
            #expect(out == zip(x, y).map { $0 - $1 })
            nt_add_f32(x, y, count, &out)
            #expect(out == zip(x, y).map { $0 + $1 })
            nt_scale_f32(&out, count, 0.3)
            nt_divide_f32(&out, count, 0.7)
            #expect(out == zip(x, y).map { ($0 + $1) * 0.3 / 0.7 })
        }
    }

    @Test(arguments: sizes)
    func windows(_ count: Int) {
        // Few different magnitudes, so that edges are met often.
        let x = noise(count, 3).map { ($0 * 16).rounded() / 16 }
        let key = { (value: Float) in UInt64(value.magnitude.bitPattern) }
        let low = key(0.125), high = key(0.375)
        var lowSeen = 0, highSeen = 0
        let twin = x.map { value -> Float in
            if key(value) == low {
                lowSeen += 1
                return 3...10 ~= lowSeen ? value : 0
            }
            if key(value) == high {
                highSeen += 1
                return highSeen <= 4 ? value : 0
            }
            return key(value) > low && key(value) < high ? value : 0
        }
        onBothPaths { path in
            var out = x, seen: [UInt64] = [0, 0]
            var window = nt_window(low: low, low_from: 2, low_to: 10, high: high, high_to: 4)
            nt_window_f32(&out, count, &window, &seen)
            #expect(out == twin, "path \(path)")
            #expect(seen == [UInt64(lowSeen), UInt64(highSeen)])
        }
    }

    @Test(arguments: sizes)
    func histograms(_ count: Int) {
        let x = noise(count, 4)
        onBothPaths { _ in
            var top = [UInt64](repeating: 0, count: 1 << 16), bottom = [UInt64](repeating: 0, count: 1 << 15)
            nt_abs_histogram_f32(x, count, 15, 16, 0, &top)
            let prefix = UInt64(x.first.map { $0.magnitude.bitPattern >> 15 } ?? 0)
            nt_abs_histogram_f32(x, count, 0, 15, prefix, &bottom)
            #expect(top.reduce(0, +) == UInt64(count))
            for value in x { #expect(top[Int(value.magnitude.bitPattern >> 15)] > 0) }
            #expect(bottom.reduce(0, +) == (count == 0 ? 0 : top[Int(prefix)]))
        }
    }

    @Test(arguments: sizes, [Int32(0), 1, 2])
    func votes(_ count: Int, _ vote: Int32) {
        let deltas = [noise(count, 1), noise(count, 2), noise(count, 3)], base = noise(count, 4)
        let weights: [Float] = [0.5, -0.2, 0.9]
        let twin = (0..<count).map { i -> Float in
            let entries = zip(deltas, weights).map { $0[i] * $1 }
            let voters = vote == 1 ? entries : deltas.map { $0[i] }
            let positive = voters.dropFirst().reduce(voters[0], +) >= 0
            var total: Float = 0, divisor: Float = 0
            for (entry, (delta, weight)) in zip(entries, zip(deltas, weights)) {
                let signed = vote == 1 ? entry : delta[i]
                if vote != 0, positive ? signed <= 0 : signed >= 0 { continue }
                total += entry
                divisor += weight
            }
            return base[i] + total / (divisor == 0 ? 1 : divisor) * 0.8
        }
        onBothPaths { path in
            var out = [Float](repeating: 0, count: count)
            var rule = nt_consensus(vote: vote, divide: 1, least: 0, scale: 0.8)
            withPointers(deltas) { nt_consensus_f32($0, weights.map(Double.init), 3, base, count, &rule, &out) }
            #expect(out == twin, "path \(path)")
        }
    }

    @Test func firstNonFinite() {
        onBothPaths { _ in
            for position in [0, 16, 1023, 1024, 2049] {
                for bad in [Float.nan, .infinity, -.infinity] {
                    var x = noise(2050, 5)
                    x[position] = bad
                    #expect(nt_first_nonfinite_f32(x, x.count) == position)
                }
            }
            #expect(nt_first_nonfinite_f32([Float.greatestFiniteMagnitude, 0], 2) == 2)
        }
    }

    private func withPointers(_ arrays: [[Float]], _ body: (UnsafePointer<UnsafePointer<Float>?>) -> Void) {
        let buffers = arrays.map { array in
            let copy = UnsafeMutablePointer<Float>.allocate(capacity: max(1, array.count))
            copy.initialize(from: array, count: array.count)
            return copy
        }
        body(buffers.map { UnsafePointer($0) as UnsafePointer<Float>? })
        for buffer in buffers { buffer.deallocate() }
    }
}
