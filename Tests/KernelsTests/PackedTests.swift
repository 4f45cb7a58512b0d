// Packed weights: every level bit-equal to the twin, the twin to its definition, to numpy and to the `gguf` package.
internal import Foundation
internal import Kernels
internal import Testing

/// W with its memory.
private final class Packed {
    let type: Int32, rows: Int, columns: Int
    var data: [UInt8]
    var codes: [Int8] = [], steps: [Float] = [], mean: Float = 0

    /// Random blocks whose half-precision scales are finite.
    init(_ type: Int32, _ rows: Int, _ columns: Int, seed: UInt64) {
        (self.type, self.rows, self.columns) = (type, rows, columns)
        let words = randomBytes(rows * Int(nt_packed_row_bytes(type, Int64(columns))), seed)
        data = words
        let size = Int(nt_packed_row_bytes(type, nt_packed_block(type)))
        for block in stride(from: 0, to: data.count, by: size) {
            for half in halves[type]! { data[block + half + 1] &= 0xBB }
        }
        guard type == NT_W_NF4 else { return }
        let blocks = rows * ((columns + 63) / 64)
        codes = randomBytes(blocks, seed + 1).map { Int8(bitPattern: $0) }
        (steps, mean) = ((0..<(blocks + 255) / 256).map { 0.001 + 0.0001 * Float($0) }, 0.21)
    }

    /// Numbers in NF4 with double quantisation, or in Q8_0.
    init(_ type: Int32, _ rows: Int, _ columns: Int, of numbers: [Float], parallel: nt_parallel? = nil) {
        (self.type, self.rows, self.columns) = (type, rows, columns)
        data = Array(repeating: 0xAA, count: rows * Int(nt_packed_row_bytes(type, Int64(columns))))
        guard type == NT_W_NF4 else {
            nt_q8_0_encode(Int64(rows), Int64(columns), numbers, &data, parallel)
            return
        }
        magnitudes = Array(repeating: 0, count: rows * ((columns + 63) / 64))
        nt_nf4_encode(Int64(rows), Int64(columns), numbers, &data, &magnitudes, parallel)
        codes = Array(repeating: 0, count: magnitudes.count)
        steps = Array(repeating: 0, count: (magnitudes.count + 255) / 256)
        nt_nf4_encode_scales(Int64(magnitudes.count), magnitudes, &codes, &steps, &mean)
    }
    var magnitudes: [Float] = []

    /// The code of each number of NF4.
    var nf4Codes: [UInt8] {
        (0..<rows * columns).map { at in
            let (row, i) = (at / columns, at % columns)
            let pair = data[(row * ((columns + 63) / 64) + i / 64) * 32 + i % 32]
            return i % 64 < 32 ? pair & 15 : pair >> 4
        }
    }

    typealias Decode<T> = (
        UnsafePointer<nt_packed>?, Int64, Int64, Int64, Int64, UnsafeMutablePointer<T>?, Int64, nt_parallel?
    ) -> Void

    /// Rows and columns; complains when something between the rows was written.
    func decoded<T: Element>(
        _ decode: Decode<T>, rows: Range<Int>? = nil, columns: Range<Int>? = nil, parallel: nt_parallel? = nil
    ) -> [T] {
        let rows = rows ?? 0..<self.rows, columns = columns ?? 0..<self.columns, stride = columns.count + 3
        var out = [T](repeating: T(rounding: 7), count: rows.count * stride)
        data.withUnsafeBytes { data in
            codes.withUnsafeBufferPointer { codes in
                steps.withUnsafeBufferPointer { steps in
                    var w = nt_packed(
                        type: type, rows: Int64(self.rows), columns: Int64(self.columns), data: data.baseAddress,
                        scale_codes: codes.baseAddress, scale_steps: steps.baseAddress, scale_mean: mean)
                    decode(
                        &w, Int64(rows.lowerBound), Int64(rows.count), Int64(columns.lowerBound), Int64(columns.count),
                        &out, Int64(stride), parallel)
                }
            }
        }
        let between = out.indices.filter { $0 % stride >= columns.count && out[$0] != T(rounding: 7) }
        #expect(between.isEmpty, "written between rows")
        return out.indices.filter { $0 % stride < columns.count }.map { out[$0] }
    }
}

private func randomBytes(_ count: Int, _ seed: UInt64) -> [UInt8] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 &+ 1
    return (0..<count).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return UInt8(state >> 56)
    }
}

/// Where half-precision scales lie in a block.
private let halves: [Int32: [Int]] = [
    Int32(NT_W_BF16): [0], Int32(NT_W_F16): [0], Int32(NT_W_Q8_0): [0], Int32(NT_W_Q4_0): [0],
    Int32(NT_W_Q4_1): [0, 2], Int32(NT_W_Q5_0): [0], Int32(NT_W_Q5_1): [0, 2], Int32(NT_W_Q2_K): [80, 82],
    Int32(NT_W_Q3_K): [108], Int32(NT_W_Q4_K): [0, 2], Int32(NT_W_Q5_K): [0, 2], Int32(NT_W_Q6_K): [208],
    Int32(NT_W_NF4): [],
]

private let names: [(Int32, String)] = [
    (Int32(NT_W_BF16), "BF16"), (Int32(NT_W_F16), "F16"), (Int32(NT_W_Q8_0), "Q8_0"), (Int32(NT_W_Q4_0), "Q4_0"),
    (Int32(NT_W_Q4_1), "Q4_1"), (Int32(NT_W_Q5_0), "Q5_0"), (Int32(NT_W_Q5_1), "Q5_1"), (Int32(NT_W_Q2_K), "Q2_K"),
    (Int32(NT_W_Q3_K), "Q3_K"), (Int32(NT_W_Q4_K), "Q4_K"), (Int32(NT_W_Q5_K), "Q5_K"), (Int32(NT_W_Q6_K), "Q6_K"),
]

/// A failed comparison of the arrays themselves would describe every number.
private func same<T: Equatable>(_ a: [T], _ b: [T], _ what: String) {
    let isSame = a == b
    #expect(isSame, "\(what)")
}

/// FNV-1a over 32-bit words, in 64 bits.
private func hash(_ words: [UInt32]) -> UInt64 {
    words.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
}

extension KernelSuite {
    @Suite struct PackedTests {
        /// Whole blocks; rows that end inside one, as NF4 and Q8_0 may; panels of 512 and what is left of them.
        @Test(arguments: halves.keys.sorted()) func everyLevelIsBitEqual(_ type: Int32) {
            let block = Int(nt_packed_block(type))
            var sizes = [(1, block), (3, 3 * block), (5, 5 * max(block, 128))]
            if type == NT_W_NF4 || type == NT_W_Q8_0 { sizes += [(2, 1), (3, block - 1), (7, 577), (4, 1025)] }
            for (rows, columns) in sizes {
                let w = Packed(type, rows, columns, seed: UInt64(columns))
                let part = rows / 3..<rows, inside = columns > block ? block..<columns : 0..<columns
                nt_set_isa_limit(0)
                let single = w.decoded(nt_packed_decode_f32), half = w.decoded(nt_packed_decode_bf16)
                let some = w.decoded(nt_packed_decode_f32, rows: part, columns: inside)
                #expect(single.contains { $0 != 0 } && single.allSatisfy(\.isFinite))
                same(half, single.map { UInt16(rounding: Double($0)) }, "bf16")
                same(w.decoded(nt_packed_decode_f64), single.map(Double.init), "fp64")
                let expected = part.flatMap { row in inside.map { single[row * columns + $0] } }
                same(some, expected, "part of \(rows) x \(columns)")
                atEachLevel { level in
                    let here = "\(rows) x \(columns), level \(level)"
                    same(w.decoded(nt_packed_decode_f32, parallel: twoThreads), single, here)
                    same(w.decoded(nt_packed_decode_bf16, parallel: backwards), half, "bf16 \(here)")
                    same(w.decoded(nt_packed_decode_f32, rows: part, columns: inside), expected, "part of \(here)")
                }
            }
        }

        @Test(arguments: names) func blocksReadAsInTheGGUFPackage(_ type: Int32, _ name: String) {
            let w = Packed(type, 3, 512, seed: 9)
            atEachLevel { level in
                let bits = w.decoded(nt_packed_decode_f32).map(\.bitPattern)
                #expect(hash(bits) == PackedGoldens.decoded[name], "\(name), level \(level)")
            }
        }

        @Test func nf4sNumbersAreQuantiles() {
            let values = UnsafeBufferPointer(start: nt_nf4_values(), count: 16).map(Double.init)
            for (value, quantile) in zip(values, PackedGoldens.nf4Quantiles) { #expect(abs(value - quantile) < 3e-7) }
            let published: [Float] = [
                -1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0, 0.0795803, 0.1609302,
                0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1,
            ]
            for (value, number) in zip(values, published) { #expect(abs(value - Double(number)) < 6e-8) }
        }

        /// Codes, scales and numbers of a matrix against numpy.
        @Test func nf4IsNumpysAtEveryLevel() {
            let numbers = noise(600 * 64, 4).map { Float($0 * $0 * $0) }
            atEachLevel { level in
                let w = Packed(Int32(NT_W_NF4), 60, 640, of: numbers, parallel: twoThreads)
                #expect(hash(w.nf4Codes.map(UInt32.init)) == PackedGoldens.nf4Codes, "level \(level)")
                let bits = w.decoded(nt_packed_decode_f32).map(\.bitPattern)
                #expect(hash(bits) == PackedGoldens.nf4Decoded, "level \(level)")
            }
        }

        @Test func q8_0IsTheGGUFPackagesAtEveryLevel() {
            let numbers = noise(7 * 96, 5, scale: 0.3).map { Float($0) }
            atEachLevel { level in
                let w = Packed(Int32(NT_W_Q8_0), 7, 96, of: numbers, parallel: twoThreads)
                #expect(hash(w.data.map(UInt32.init)) == PackedGoldens.q8_0Bytes, "level \(level)")
            }
        }

        /// A step of 1: what lies halfway goes away from 0, as in ggml.
        @Test func q8_0sHalvesGoAwayFromZero() {
            var numbers = [Float](repeating: 0, count: 32)
            numbers.replaceSubrange(0..<7, with: [127, 0.5, 1.5, 2.5, -0.5, -2.5, 0.49999997])
            atEachLevel { level in
                let codes = Packed(Int32(NT_W_Q8_0), 1, 32, of: numbers).data[2..<9].map { Int8(bitPattern: $0) }
                #expect(codes == [127, 1, 2, 3, -1, -3, 0], "level \(level)")
            }
        }

        /// Odd rows, blocks of zeros, subnormal numbers: each number becomes the nearest of 16, at every level alike.
        @Test(arguments: [(1, 1), (3, 63), (5, 65), (2, 577)]) func nf4TakesTheNearest(_ rows: Int, _ columns: Int) {
            var numbers = noise(rows * columns, UInt64(columns)).map { Float($0) }
            for i in 0..<min(64, columns) where rows > 1 { numbers[i] = 0 }
            if columns > 64 { for i in 64..<columns { numbers[i] *= 0x1p-140 } }
            let values = UnsafeBufferPointer(start: nt_nf4_values(), count: 16).map(Double.init)
            nt_set_isa_limit(0)
            let twin = Packed(Int32(NT_W_NF4), rows, columns, of: numbers)
            for (at, code) in twin.nf4Codes.enumerated() {
                let block = at / columns * ((columns + 63) / 64) + at % columns / 64
                let magnitude = Double(twin.magnitudes[block]),
                    share = magnitude > 0 ? Double(numbers[at]) / magnitude : 0
                let nearest = values.map { abs($0 - share) }.min()!
                #expect(abs(values[Int(code)] - share) < nearest + 1e-6, "\(at)")
            }
            atEachLevel { level in
                let w = Packed(Int32(NT_W_NF4), rows, columns, of: numbers, parallel: twoThreads)
                let isTwin = w.data == twin.data && w.magnitudes == twin.magnitudes
                #expect(isTwin, "NF4, level \(level)")
                let bytes = Packed(Int32(NT_W_Q8_0), rows, columns, of: numbers).data
                nt_set_isa_limit(0)
                let same = bytes == Packed(Int32(NT_W_Q8_0), rows, columns, of: numbers).data
                #expect(same, "Q8_0, level \(level)")
            }
        }

        /// Each scale is off by half a step at most; the mean is what is taken away.
        @Test(arguments: [1, 255, 256, 257, 1000]) func scalesInEightBits(_ count: Int) {
            let magnitudes = noise(count, 3).map { Float(1 + $0 / 2) }
            var codes = [Int8](repeating: 99, count: count), mean: Float = 0
            var steps = [Float](repeating: -1, count: (count + 255) / 256)
            nt_nf4_encode_scales(Int64(count), magnitudes, &codes, &steps, &mean)
            #expect(abs(Double(mean) - magnitudes.reduce(0) { $0 + Double($1) } / Double(count)) < 1e-6)
            for i in 0..<count {
                let step = steps[i / 256]
                #expect(abs(mean + step * Float(codes[i]) - magnitudes[i]) <= step / 2 + 1e-6)
            }
            for part in steps.indices where count > 1 {
                #expect(codes[part * 256..<min(count, part * 256 + 256)].contains { abs($0) == 127 })
            }
        }

        /// Squared error of normal numbers: 0.00845 for blocks of 64 (measured with the paper's method), mean 0.0728.
        @Test func errorOfNormalNumbers() {
            let count = 64 * 8192
            let (u, v) = (noise(count, 11, scale: 1), noise(count, 12, scale: 1))
            let normal = (0..<count).map { Float((-2 * log(u[$0] + 0.5)).squareRoot() * cos(2 * Double.pi * v[$0])) }
            let w = Packed(Int32(NT_W_NF4), count / 64, 64, of: normal)
            let values = UnsafeBufferPointer(start: nt_nf4_values(), count: 16)
            var squares = 0.0, sum = 0.0
            for (at, code) in w.nf4Codes.enumerated() {
                let error = Double(values[Int(code)] * w.magnitudes[at / 64] - normal[at])
                squares += error * error
                sum += abs(error)
            }
            #expect(abs(squares / Double(count) / 0.00845 - 1) < 0.01)
            #expect(abs(sum / Double(count) / 0.0728 - 1) < 0.01)
        }
    }
}
