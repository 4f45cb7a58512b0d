// Kernels of generation against their fp64 twin, on every instruction set of this machine.
// n rows, I inputs, O outputs, H query heads, K key/value heads, E head dimension, S slots of a sequence
import Glibc
import Kernels
import Testing

/// Splits a loop in three, as threads would.
private let inThree: nt_parallel = { count, _, body, context in
    for part in 0..<Int64(3) where count * part / 3 < count * (part + 1) / 3 {
        body?(context, count * part / 3, count * (part + 1) / 3)
    }
}

/// As many threads at the same time as told, each with a range.
private func together(_ threads: Int64, _ count: Int64, _ body: nt_body?, _ context: UnsafeMutableRawPointer?) {
    struct Range { let begin: Int64, end: Int64, body: nt_body?, context: UnsafeMutableRawPointer? }
    var ranges = (0..<threads).map {
        Range(begin: count * $0 / threads, end: count * ($0 + 1) / threads, body: body, context: context)
    }
    ranges.withUnsafeMutableBufferPointer { ranges in
        let ids = ranges.indices.map { i in
            var id = pthread_t()
            let failure = pthread_create(
                &id, nil,
                { range in
                    let range = range!.load(as: Range.self)
                    range.body?(range.context, range.begin, range.end)
                    return nil
                }, ranges.baseAddress! + i)
            precondition(failure == 0, "no thread")
            return id
        }
        for id in ids { pthread_join(id, nil) }
    }
}

/// Runs `body` at an instruction set level; nil when the processor lacks it.
private func atLevel<R>(_ level: Int32, _ body: () -> R) -> R? {
    nt_set_isa_limit(level)
    defer { nt_set_isa_limit(.max) }
    return nt_isa_level() == level ? body() : nil
}

/// Numbers of a fixed sequence.
private struct Numbers {
    private var state: UInt64
    init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }
    mutating func bits() -> UInt32 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return UInt32(state >> 33)
    }
    /// About normal.
    mutating func float() -> Float {
        var sum: Float = 0
        for _ in 0..<4 { sum += Float(bits()) / 0x1p31 - 0.5 }
        return 1.7 * sum
    }
    mutating func floats(_ count: Int) -> [Float] { (0..<count).map { _ in float() } }
}

private func bf16(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    return UInt16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
}
private func float(_ bits: UInt16) -> Float { Float(bitPattern: UInt32(bits) << 16) }

/// A matrix of one of the stored types, with its scales and biases.
private final class Matrix {
    let type: Int32, rows: Int, columns: Int
    private var bytes: [UInt8]
    private var scales: [Float], bias: [Float]

    /// Random codes, or each of its bytes `code`.
    init(_ type: Int32, _ rows: Int, _ columns: Int, seed: UInt64 = 1, code: UInt8? = nil) {
        var numbers = Numbers(seed)
        (self.type, self.rows, self.columns) = (type, rows, columns)
        let rowBytes = Int(nt_weight_row_bytes(type, Int64(columns)))
        bytes = (0..<rows * rowBytes).map { _ in code ?? UInt8(truncatingIfNeeded: numbers.bits()) }
        scales = (0..<rows).map { _ in 0.001 + abs(numbers.float()) / 1000 }
        bias = numbers.floats(rows)
        func half(_ at: Int, _ value: Float) {
            let bits = Float16(value).bitPattern
            (bytes[at], bytes[at + 1]) = (UInt8(bits & 255), UInt8(bits >> 8))
        }
        func eachBlock(_ size: Int, _ body: (Int) -> Void) { stride(from: 0, to: bytes.count, by: size).forEach(body) }
        func d() -> Float { 0.01 + 0.01 * abs(numbers.float()) }
        switch Int(type) {
        case NT_W_F32:
            bytes = numbers.floats(rows * columns).flatMap { value in withUnsafeBytes(of: value) { Array($0) } }
        case NT_W_BF16:
            bytes = numbers.floats(rows * columns).flatMap { value in withUnsafeBytes(of: bf16(value)) { Array($0) } }
        case NT_W_Q8_0: eachBlock(34) { half($0, d() / 16) }
        case NT_W_Q4_0: eachBlock(18) { half($0, d()) }
        case NT_W_Q4_1:
            eachBlock(20) {
                half($0, d())
                half($0 + 2, -8 * d())
            }
        case NT_W_Q4_K:
            eachBlock(144) {
                half($0, d() / 32)
                half($0 + 2, d() / 4)
            }
        case NT_W_Q6_K: eachBlock(210) { half($0 + 208, d() / 64) }
        default: break
        }
    }

    func withHandle<R>(hasBias: Bool = true, _ body: (UnsafePointer<nt_weight>) -> R) -> R {
        bytes.withUnsafeBytes { bytes in
            scales.withUnsafeBufferPointer { scales in
                bias.withUnsafeBufferPointer { bias in
                    var handle = nt_weight(
                        data: bytes.baseAddress, type: type, rows: Int64(rows), columns: Int64(columns),
                        scales: type == Int32(NT_W_I8) ? scales.baseAddress : nil,
                        bias: hasBias ? bias.baseAddress : nil)
                    return withUnsafePointer(to: &handle, body)
                }
            }
        }
    }

    /// x `[n, stride]` -> `[n, O]`; checks that nothing beyond the scratch is written.
    func product(_ x: [Float], _ n: Int, stride: Int? = nil, hasBias: Bool = true, parallel: nt_parallel? = nil)
        -> [Float]
    {
        withHandle(hasBias: hasBias) { handle in
            let room = nt_decode_linear_scratch_bytes(handle, Int64(n))
            var scratch = [UInt8](repeating: 0x5A, count: room + 64), y = [Float](repeating: .nan, count: n * rows)
            nt_decode_linear(
                handle, x, Int32(NT_F32), Int64(stride ?? columns), Int64(n), &y, Int32(NT_F32), Int64(rows), &scratch,
                parallel)
            #expect(scratch[room...].allSatisfy { $0 == 0x5A }, "wrote beyond its scratch")
            return y
        }
    }
}

/// ‖a - b‖ / ‖b‖
private func relativeError(_ a: [Float], _ b: [Float]) -> Double {
    var difference = 0.0, size = 0.0
    for (x, y) in zip(a, b) {
        difference += (Double(x) - Double(y)) * (Double(x) - Double(y))
        size += Double(y) * Double(y)
    }
    return (difference / size).squareRoot()
}

/// Rows of `columns` rounded to bytes in blocks of 32 with a scale each, as blocks of weights meet them.
private func asBytes(_ x: [Float], _ columns: Int) -> [Float] {
    var out = x
    for row in stride(from: 0, to: x.count, by: columns) {
        for block in stride(from: row, to: row + columns, by: 32) {
            let range = block..<min(block + 32, row + columns)
            let scale = x[range].map(\.magnitude).max()! / 127
            for i in range { out[i] = (x[i] * (1 / scale)).rounded(.toNearestOrEven) * scale }
        }
    }
    return out
}

extension KernelSuite {
    @Suite struct DecodeTests {
        static let types = [NT_W_F32, NT_W_BF16, NT_W_I8, NT_W_Q8_0, NT_W_Q4_0, NT_W_Q4_1, NT_W_Q4_K, NT_W_Q6_K]

        /// fp32 where products are; inputs of 8 bits elsewhere: bf16 has 2⁻⁹ a rounding, blocks of bytes up to 2⁻⁸ of the
        /// block's largest, which is about twice the typical element.
        static func tolerance(_ type: Int, _ level: Int32) -> Double {
            switch Int(type) {
            case NT_W_F32: 1e-5
            case NT_W_BF16: level < 3 ? 1e-5 : 0x1p-7
            default: 0x1p-6
            }
        }

        @Test(arguments: types) func productsEqualTheTwin(_ type: Int) {
            for I in [33, 64, 96, 576, 768, 1536, 2560] where nt_weight_row_bytes(Int32(type), Int64(I)) > 0 {
                // Rows and n that leave something of every tile.
                let matrix = Matrix(Int32(type), 47, I, seed: UInt64(I))
                for n in [1, 2, 3, 4, 5, 8, 9, 12, 15, 16, 17, 25, 33, 70] {
                    var numbers = Numbers(UInt64(n))
                    let x = numbers.floats(n * I), twin = atLevel(0) { matrix.product(x, n) }!
                    let ofBytes = type < NT_W_I8 ? twin : atLevel(0) { matrix.product(asBytes(x, I), n) }!
                    for level in levels.dropFirst() {
                        guard let y = atLevel(level, { matrix.product(x, n) }) else { continue }
                        let error = relativeError(y, twin)
                        #expect(error <= Self.tolerance(type, level), "I \(I), n \(n), level \(level)")
                        if type >= NT_W_I8 {
                            // Wider where 8 bits are taken unsigned, so that sums of offsets cancel.
                            let bound = level < 2 ? 1e-5 : 1e-4
                            #expect(relativeError(y, ofBytes) < bound, "I \(I), n \(n), level \(level)")
                        }
                        // The control: the instruction set is in use, since it rounds.
                        let isExact = type == NT_W_F32 || type == NT_W_BF16 && level < 3
                        #expect(isExact || error > 1e-6, "I \(I), n \(n), level \(level)")
                    }
                }
            }
        }

        /// Codes as large as they can be against inputs as large: sums of products fill what holds them. Inputs of one size
        /// are not rounded.
        @Test(arguments: types.filter { $0 >= NT_W_I8 }, [0x7F, 0x80, 0xFF] as [UInt8])
        func theLargestSumsHold(_ type: Int, _ code: UInt8) {
            let I = 512, matrix = Matrix(Int32(type), 16, I, code: code)
            for n in [1, 4, 8, 16] {
                for input in [1, -1] as [Float] {
                    let x = [Float](repeating: input, count: n * I), twin = atLevel(0) { matrix.product(x, n) }!
                    for level in levels.dropFirst() {
                        guard let y = atLevel(level, { matrix.product(x, n) }) else { continue }
                        #expect(relativeError(y, twin) < 1e-3, "n \(n), input \(input), level \(level)")
                    }
                }
            }
        }

        /// Up to four rows are each what they are alone.
        @Test(arguments: types) func fewRowsDoNotChangeEachOther(_ type: Int) {
            let I = 768, matrix = Matrix(Int32(type), 37, I)
            var numbers = Numbers(9)
            let x = numbers.floats(4 * I)
            for level in levels.dropFirst() {
                _ = atLevel(level) {
                    let alone = (0..<4).map { matrix.product(Array(x[$0 * I..<($0 + 1) * I]), 1) }
                    for n in 2...4 {
                        #expect(matrix.product(x, n) == Array(alone[..<n].joined()), "n \(n), level \(level)")
                    }
                }
            }
        }

        /// NaN in a row makes the row NaN, and no other; as bytes, inputs too small for a scale make nothing, or what they should.
        @Test(arguments: types) func inputsThatHaveNoScale(_ type: Int) {
            let I = 256, matrix = Matrix(Int32(type), 16, I)
            for level in levels.dropFirst() {
                for n in [1, 3, 8, 16] {
                    for at in [0, 9, 24, 31, 255] {
                        var numbers = Numbers(4), x = numbers.floats(n * I)
                        guard let clean = atLevel(level, { matrix.product(x, n) }) else { continue }
                        x[(n - 1) * I + at] = .nan
                        let y = atLevel(level) { matrix.product(x, n) }!
                        #expect(y[((n - 1) * 16)...].allSatisfy { $0.isNaN }, "at \(at), n \(n), level \(level)")
                        #expect(y[..<((n - 1) * 16)] == clean[..<((n - 1) * 16)], "at \(at), n \(n), level \(level)")
                    }
                    if type < NT_W_I8 { continue }
                    let tiny = [Float](repeating: 1e-37, count: n * I)
                    let twin = atLevel(0) { matrix.product(tiny, n, hasBias: false) }!
                    let y = atLevel(level) { matrix.product(tiny, n, hasBias: false) } ?? twin
                    for (a, b) in zip(y, twin) {
                        #expect(a == 0 || abs(a - b) <= abs(b) / 10, "n \(n), level \(level)")
                    }
                }
            }
        }

        /// The twin itself, against sums written here.
        @Test(arguments: types) func theTwinIsTheFormula(_ type: Int) {
            let I = 256, matrix = Matrix(Int32(type), 5, I), n = 2
            var numbers = Numbers(7)
            let x = numbers.floats(n * I)
            let y = atLevel(0) { matrix.product(x, n) }!
            let plain = atLevel(0) { matrix.product(x, n, hasBias: false) }!
            matrix.withHandle { handle in
                for o in 0..<5 {
                    var row = [Float](repeating: 0, count: I)
                    nt_weight_row(handle, Int64(o), &row)
                    for t in 0..<n {
                        var sum = 0.0
                        for i in 0..<I { sum += Double(row[i]) * Double(x[t * I + i]) }
                        #expect(abs(Double(plain[t * 5 + o]) - sum) <= 1e-6 * abs(sum) + 1e-6)
                        #expect(abs(y[t * 5 + o] - plain[t * 5 + o] - handle.pointee.bias[o]) < 1e-5)
                    }
                }
            }
        }

        /// Blocks with values worked out by hand.
        @Test func blocksAreReadAsTheFormatsSay() {
            func row(_ type: Int, _ columns: Int, _ bytes: [UInt8]) -> [Float] {
                bytes.withUnsafeBytes {
                    var handle = nt_weight(
                        data: $0.baseAddress, type: Int32(type), rows: 1, columns: Int64(columns), scales: nil,
                        bias: nil)
                    var out = [Float](repeating: .nan, count: columns)
                    nt_weight_row(&handle, 0, &out)
                    return out
                }
            }
            let two: [UInt8] = [0x00, 0x40], minusHalf: [UInt8] = [0x00, 0xB8]  // halves: 2, -0.5
            let ramp = (0..<16).map { (i: Int) -> UInt8 in UInt8(i | (15 - i) << 4) }
            let codes = (0..<32).map { (i: Int) -> Float in Float(i < 16 ? i : 31 - i) }
            #expect(row(NT_W_Q4_0, 32, two + ramp) == codes.map { 2 * ($0 - 8) })
            #expect(row(NT_W_Q4_1, 32, two + minusHalf + ramp) == codes.map { 2 * $0 - 0.5 })
            let signed = (0..<32).map { (i: Int) -> Int8 in Int8(i - 16) }
            let q8 = row(NT_W_Q8_0, 32, minusHalf + signed.map { UInt8(bitPattern: $0) })
            #expect(q8 == signed.map { -0.5 * Float($0) })
            // Group j: scale j + 1, minimum 2 j, all below 16, so that the upper bits of the last four are zero.
            let scales = (0..<8).map { (j: Int) -> UInt8 in j < 4 ? UInt8(j + 1) : UInt8(2 * (j - 4)) }
            let upper = (4..<8).map { (j: Int) -> UInt8 in UInt8(j + 1 | 2 * j << 4) }
            let q4 = row(NT_W_Q4_K, 256, two + minusHalf + scales + upper + [UInt8](repeating: 0x73, count: 128))
            let expectedQ4 = (0..<256).map { (i: Int) -> Float in
                let j = i / 32, code = j % 2 == 0 ? 3 : 7
                return Float(2 * (j + 1) * code + j)
            }
            #expect(q4 == expectedQ4)
            // Low halves 5 and 9, upper bits 0, 1, 2, 3 by the quarter of each half: codes 5, 21, 41, 57.
            let signedScales = (0..<16).map { (i: Int) -> UInt8 in UInt8(bitPattern: Int8(i - 8)) }
            let low = [UInt8](repeating: 0x95, count: 128), high = [UInt8](repeating: 0xE4, count: 64)
            let q6 = row(NT_W_Q6_K, 256, low + high + signedScales + two)
            let quarters = [5, 21, 41, 57]
            let expectedQ6 = (0..<256).map { (i: Int) -> Float in
                Float(2 * (i / 16 - 8) * (quarters[i % 128 / 32] - 32))
            }
            #expect(q6 == expectedQ6)
        }

        @Test func stridesNarrowTypesAndThreads() {
            let I = 96, n = 6, stride = 101, matrix = Matrix(Int32(NT_W_Q4_1), 53, I)
            var numbers = Numbers(3)
            let wide = numbers.floats(n * stride).map { float(bf16($0)) }
            let packed = (0..<n).flatMap { wide[$0 * stride..<$0 * stride + I] }
            for level in levels {
                _ = atLevel(level) {
                    let y = matrix.product(packed, n)
                    #expect(matrix.product(wide, n, stride: stride) == y)
                    #expect(matrix.product(packed, n, parallel: inThree) == y, "level \(level)")
                    let narrow = wide.map(bf16)
                    matrix.withHandle { handle in
                        var scratch = [UInt8](repeating: 0, count: nt_decode_linear_scratch_bytes(handle, Int64(n)))
                        var z = [UInt16](repeating: 0xFFFF, count: n * 60)
                        nt_decode_linear(
                            handle, narrow, Int32(NT_BF16), Int64(stride), Int64(n), &z, Int32(NT_BF16), 60, &scratch,
                            nil)
                        for t in 0..<n {
                            #expect(Array(z[t * 60..<t * 60 + 53]) == y[t * 53..<t * 53 + 53].map(bf16))
                            #expect(z[t * 60 + 53..<t * 60 + 60].allSatisfy { $0 == 0xFFFF })
                        }
                    }
                }
            }
        }

        // MARK: Attention

        struct Shape: Sendable { var H: Int, K: Int, E: Int, window: Int, cap: Double, type: Int }
        static let shapes = [NT_F32, NT_BF16].flatMap { (type: Int) -> [Shape] in
            let sizes: [(Int, Int, Int, Int, Double)] = [
                (9, 3, 64, 0, 0), (4, 4, 20, 0, 0), (10, 2, 80, 7, 0), (8, 1, 64, 200, 0.5), (2, 2, 5, 1, 0),
                (3, 3, 24, 0, 2),
            ]
            return sizes.map { Shape(H: $0.0, K: $0.1, E: $0.2, window: $0.3, cap: $0.4, type: type) }
        }

        /// Ragged sequences, some of them twice, against softmax written here in fp64.
        @Test(arguments: shapes) func attentionOverACache(_ shape: Shape) {
            let (H, K, E, S) = (shape.H, shape.K, shape.E, 300)
            let sequences: [Int64] = [2, 0, 1, 1], lengths: [Int64] = [300, 1, 128, 257], n = 4
            var numbers = Numbers(5)
            let q = numbers.floats(n * (H * E + 3))
            let keys = numbers.floats(3 * S * K * E).map { shape.type == NT_BF16 ? float(bf16($0)) : $0 }
            let values = numbers.floats(3 * S * K * E).map { shape.type == NT_BF16 ? float(bf16($0)) : $0 }
            var expected: [Float] = []
            for t in 0..<n {
                for h in 0..<H {
                    let length = Int(lengths[t]), first = shape.window > 0 ? max(0, length - shape.window) : 0
                    let base = Int(sequences[t]) * S, head = h / (H / K), query = t * (H * E + 3) + h * E
                    let slots = (first..<length).map { (s: Int) -> Int in ((base + s) * K + head) * E }
                    var scores: [Double] = []
                    for slot in slots {
                        var sum = 0.0
                        for e in 0..<E { sum += Double(q[query + e]) * Double(keys[slot + e]) }
                        let score = 0.2 * sum, cap = shape.cap
                        scores.append(cap > 0 ? cap * (1 - 2 / (1 + power(2 * score / cap))) : score)
                    }
                    let top = scores.max()!, weights = scores.map { power($0 - top) }, total = weights.reduce(0, +)
                    for e in 0..<E {
                        var sum = 0.0
                        for (slot, weight) in zip(slots, weights) { sum += weight * Double(values[slot + e]) }
                        expected.append(Float(sum / total))
                    }
                }
            }
            let narrow = [keys, values].map { $0.map(bf16) }
            for level in levels {
                let result = atLevel(level) { () -> [Float] in
                    func run(_ keys: UnsafeRawPointer, _ values: UnsafeRawPointer) -> [Float] {
                        var cache = nt_cache(keys: keys, values: values, type: Int32(shape.type), slots: Int64(S))
                        let room = nt_decode_attention_scratch_bytes(lengths, Int64(n), Int64(H), Int64(E))
                        var scratch = [UInt8](repeating: 0x5A, count: room + 64),
                            out = [Float](repeating: .nan, count: n * H * E)
                        nt_decode_attention(
                            q, Int64(H * E + 3), &cache, sequences, lengths, Int64(n), Int64(H), Int64(K), Int64(E),
                            Int64(shape.window), 0.2, Float(shape.cap), &out, Int64(H * E), &scratch, inThree)
                        #expect(scratch[room...].allSatisfy { $0 == 0x5A }, "wrote beyond its scratch")
                        return out
                    }
                    return shape.type == NT_BF16 ? run(narrow[0], narrow[1]) : run(keys, values)
                }
                guard let result else { continue }
                #expect(relativeError(result, expected) < 1e-5, "level \(level)")
            }
        }

        /// eˣ without a library, by halving the argument.
        private func power(_ x: Double) -> Double {
            if abs(x) > 1e-3 { return power(x / 2) * power(x / 2) }
            return 1 + x + x * x / 2 + x * x * x / 6 + x * x * x * x / 24
        }

        // MARK: Steps

        /// What sets a family's blocks apart.
        struct Family: Sendable, CustomTestStringConvertible {
            var testDescription: String
            var activation = NT_ACT_SILU, isGated = true, isParallel = false
            var hasInputNorms = true, hasOutputNorms = false, hasBiases = false
            var normalizesHeads = false, normalizesAllHeads = false
            var R = 6, cap: Float = 0, tableScale: Float = 1, hasPositions = false
        }
        static let families = [
            Family(testDescription: "Llama"),
            Family(testDescription: "Qwen3", normalizesHeads: true),
            Family(
                testDescription: "Gemma", activation: NT_ACT_TANH_GELU, hasOutputNorms: true, normalizesHeads: true,
                R: 4,
                cap: 1.5, tableScale: 3),
            Family(
                testDescription: "OLMo 2", hasInputNorms: false, hasOutputNorms: true, normalizesHeads: true,
                normalizesAllHeads: true),
            Family(
                testDescription: "GPT-NeoX", activation: NT_ACT_GELU, isGated: false, isParallel: true, hasBiases: true,
                R: 2),
            Family(
                testDescription: "GPT-2", activation: NT_ACT_TANH_GELU, isGated: false, hasBiases: true, R: 0,
                hasPositions: true),
        ]

        @Test(arguments: families) func aStepAtEveryLevelIsTheTwins(_ family: Family) {
            for type in [NT_W_F32, NT_W_BF16] {
                let twin = atLevel(0) { steps(type, family, nil) }!
                #expect(twin.count == 21 * 250 && Set(twin.map(\.bitPattern)).count > 1000)
                for level in levels.dropFirst() {
                    guard let scores = atLevel(level, { steps(type, family, nil) }) else { continue }
                    let tolerance = type == NT_W_F32 || level < 3 ? 2e-5 : 0x1p-6
                    #expect(relativeError(scores, twin) < tolerance, "type \(type) at level \(level)")
                }
            }
        }

        /// Each of a family's differences shows.
        @Test func familiesDiffer() {
            let scores = Self.families.map { steps(NT_W_F32, $0, nil) }
            for (i, one) in scores.enumerated() {
                for other in scores[..<i] { #expect(relativeError(one, other) > 0.1) }
            }
        }

        /// One step of seven tokens of two sequences, then ten of one each: what threads share out, and how they wait for
        /// each other between the products, must not show in a single bit.
        @Test(arguments: [NT_W_F32, NT_W_BF16], families) func threadsDoNotChangeAStep(_ type: Int, _ family: Family) {
            func steps(_ type: Int, _ parallel: nt_parallel?) -> [Float] { self.steps(type, family, parallel) }
            let alone = steps(type, nil)
            #expect(alone.count == 21 * 250 && alone.allSatisfy { $0.isFinite })
            #expect(Set(alone.map(\.bitPattern)).count > 1000, "scores that are all different")
            for _ in 0..<20 {
                #expect(steps(type) { together(2, $0, $2, $3) } == alone)
                #expect(steps(type) { together(3, $0, $2, $3) } == alone)
                #expect(steps(type) { together(7, $0, $2, $3) } == alone)
            }
        }

        /// Where pairs of bf16 are multiplied without tiles, a row's products are the same beside any others.
        @Test func rowsDoNotChangeEachOther() {
            let I = 200, O = 37, n = 11, matrix = Matrix(Int32(NT_W_BF16), O, I)
            var numbers = Numbers(11)
            let x = numbers.floats(n * I)
            guard let together = atLevel(3, { matrix.product(x, n) }) else { return }  // no such instructions here
            for t in 0..<n {
                let alone = atLevel(3) { matrix.product(Array(x[t * I..<(t + 1) * I]), 1) }
                #expect(alone == Array(together[t * O..<(t + 1) * O]), "row \(t)")
            }
        }

        /// Scores of all steps of a decoder of two layers: D 26, H 4, K 2, E 6, F 43, V 250: enough that single
        /// pieces are left for who is early, of the head and of attention.
        private func steps(_ type: Int, _ family: Family, _ parallel: nt_parallel?) -> [Float] {
            var numbers = Numbers(3)
            let (D, H, K, E, F, V, S) = (26, 4, 2, 6, 43, 250, 16)
            var owned: [UnsafeMutablePointer<Float>] = []
            defer { owned.forEach { $0.deallocate() } }
            func floats(_ count: Int, _ make: (inout Numbers) -> Float) -> UnsafeMutablePointer<Float> {
                let memory = UnsafeMutablePointer<Float>.allocate(capacity: count)
                memory.initialize(repeating: 0, count: count)
                for i in 0..<count { memory[i] = make(&numbers) }
                owned.append(memory)
                return memory
            }
            func matrix(_ rows: Int, _ columns: Int, hasBias: Bool = false) -> nt_weight {
                let bias = hasBias ? UnsafePointer(floats(rows) { 0.1 * $0.float() }) : nil
                let count = rows * columns, values = floats(count) { 0.2 * $0.float() }
                if type == NT_W_BF16 {
                    let narrow = UnsafeMutableRawPointer(values).assumingMemoryBound(to: UInt16.self)
                    for i in 0..<count { narrow[i] = bf16(values[i]) }
                }
                return nt_weight(
                    data: values, type: Int32(type), rows: Int64(rows), columns: Int64(columns), scales: nil, bias: bias
                )
            }
            func norm(_ count: Int, _ isThere: Bool = true) -> nt_norm {
                guard isThere else { return nt_norm() }
                let weight = UnsafePointer(floats(count) { 1 + 0.1 * $0.float() })
                return nt_norm(
                    weight: weight, bias: family.hasBiases ? UnsafePointer(floats(count) { 0.1 * $0.float() }) : nil)
            }
            func map(_ rows: Int, _ columns: Int) -> nt_weight { matrix(rows, columns, hasBias: family.hasBiases) }
            func heads(_ count: Int) -> nt_norm {
                norm(family.normalizesAllHeads ? count * E : E, family.normalizesHeads)
            }
            let layers = (0..<2).map { layer in
                nt_decoder_layer(
                    q: map(H * E, D), k: map(K * E, D), v: map(K * E, D), o: map(D, H * E),
                    gate: family.isGated ? map(F, D) : nt_weight(), up: map(F, D), down: map(D, F),
                    input_norm: norm(D, family.hasInputNorms), attention_norm: norm(D, family.hasOutputNorms),
                    mlp_input_norm: norm(D, family.hasInputNorms), mlp_norm: norm(D, family.hasOutputNorms),
                    query_norm: heads(H), key_norm: heads(K), window: layer == 0 ? 0 : 3, rotation: Int64(layer))
            }
            let table = matrix(V, D)
            let rotations = (0..<2).map { _ in
                let turns = (0..<2).map { _ in UnsafePointer(floats(S * E / 2) { $0.float() }) }
                return nt_rotation(cosines: turns[0], sines: turns[1])
            }
            var decoder = layers.withUnsafeBufferPointer {
                nt_decoder(
                    hidden: Int64(D), heads: Int64(H), kv_heads: Int64(K), head_dim: Int64(E), mlp: Int64(F),
                    vocabulary: Int64(V), layer_count: 2, epsilon: 1e-5, scale: 0.4, score_cap: family.cap,
                    logit_cap: family.cap, table_scale: family.tableScale, activation: Int32(family.activation),
                    norms_all_heads: family.normalizesAllHeads ? 1 : 0, is_parallel: family.isParallel ? 1 : 0,
                    layers: $0.baseAddress!, final_norm: norm(D), table: table, head: table,
                    positions: family.hasPositions ? matrix(S, D) : nt_weight(), rotary: Int64(family.R),
                    rotations: nil)
            }
            let caches: [UnsafeMutableRawPointer?] = (0..<4).map { _ in .init(floats(2 * S * K * E) { _ in 0 }) }
            var scores: [Float] = []
            func step(_ ids: [Int32], _ sequences: [Int64], _ positions: [Int64], _ outputs: [Int64]) {
                var logits = [Float](repeating: .nan, count: outputs.count * V)
                var batch = nt_decoder_batch()
                (batch.count, batch.slots, batch.output_count) = (Int64(ids.count), Int64(S), Int64(outputs.count))
                batch.cache_type = Int32(NT_F32)
                ids.withUnsafeBufferPointer { ids in
                    sequences.withUnsafeBufferPointer { sequences in
                        positions.withUnsafeBufferPointer { positions in
                            outputs.withUnsafeBufferPointer { outputs in
                                caches.withUnsafeBufferPointer { caches in
                                    logits.withUnsafeMutableBufferPointer { logits in
                                        (batch.ids, batch.sequences) = (ids.baseAddress, sequences.baseAddress)
                                        (batch.positions, batch.outputs) = (positions.baseAddress, outputs.baseAddress)
                                        batch.keys = caches.baseAddress
                                        batch.values = caches.baseAddress! + 2
                                        batch.logits = logits.baseAddress
                                        let scratch = UnsafeMutableRawPointer.allocate(
                                            byteCount: nt_decoder_scratch_bytes(&decoder, &batch), alignment: 64)
                                        nt_decoder_step(&decoder, &batch, scratch, parallel)
                                        scratch.deallocate()
                                    }
                                }
                            }
                        }
                    }
                }
                scores += logits
            }
            layers.withUnsafeBufferPointer { layers in
                rotations.withUnsafeBufferPointer { rotations in
                    decoder.layers = layers.baseAddress
                    decoder.rotations = rotations.baseAddress
                    step([3, 14, 15, 92, 6, 53, 58], [0, 0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 0, 1, 2], [3])
                    for i in 0..<10 {
                        step([Int32(i), Int32(40 - i)], [0, 1], [Int64(4 + i), Int64(3 + i)], [0, 1])
                    }
                }
            }
            return scores
        }

        // MARK: Beside products

        @Test func weightsOfASoftmax() {
            var numbers = Numbers(9)
            for count in [1, 7, 16, 1000, 4099] {
                let scores = numbers.floats(count).map { 20 * $0 }
                let twin = atLevel(0) { weights(scores, 0.7) }!
                #expect(
                    twin.weights.max() == 1 && abs(twin.weights.reduce(0) { $0 + Double($1) } / twin.total - 1) < 1e-6)
                for level in levels.dropFirst() {
                    guard let result = atLevel(level, { weights(scores, 0.7) }) else { continue }
                    #expect(abs(result.total / twin.total - 1) < 1e-6)
                    // The exponent is rounded to fp32 before it is raised: 2^-24 of it is a relative error of the weight.
                    let worst = zip(result.weights, twin.weights).filter { $1 > 1e-30 }
                        .map { abs($0 / $1 - 1) / (2 - log($1)) }.max()!
                    #expect(worst < 2e-7)
                }
            }
            let far = weights([-.infinity, 88, -1e30, 88], 100)
            #expect(far.total == 2 && far.weights[1] == 1 && far.weights[0] < 1e-37)
        }

        private func weights(_ scores: [Float], _ factor: Float) -> (weights: [Float], total: Double) {
            var out = scores
            let total = nt_softmax_weights_f32(scores, Int64(scores.count), factor, &out)
            return (out, total)
        }

        @Test func theFirstLargest() {
            for count in [1, 15, 16, 255, 256, 257, 1000] {
                for at in Set([0, count / 2, count - 1]) {
                    var scores = [Float](repeating: -3, count: count)
                    scores[at] = -1
                    if at + 1 < count { scores[count - 1] = -1 }
                    #expect(nt_argmax_f32(scores, Int64(count)) == at)
                }
            }
            #expect(nt_argmax_f32([-.infinity, -.infinity], 2) == 0)
        }

        @Test func indicesOfWhatIsLarge() {
            var numbers = Numbers(9)
            for count in [0, 1, 127, 128, 129, 1000] {
                var values = numbers.floats(count)
                if count > 1 { (values[0], values[count - 1]) = (.nan, 0.5) }
                for least: Float in [-.infinity, 0, 0.5, 1.5, 9] {
                    let expected = (0..<Int32(count)).filter { values[Int($0)] >= least }
                    var indices = [Int32](repeating: -1, count: count + 1)
                    let found = nt_indices_f32(values, Int64(count), least, &indices)
                    #expect(found == expected.count && nt_indices_f32(values, Int64(count), least, nil) == found)
                    #expect(Array(indices.prefix(expected.count)) == expected && indices[expected.count] == -1)
                }
            }
        }

        /// What the share of the bandwidth is measured against.
        @Test func weightsAreReadOnce() {
            // Whole cache lines, and eight weights of which no two add up alike.
            let sizes = [32, 40, 24, 8, 16, 56, 72, 136]
            let words = (0..<sizes.reduce(0, +) * 8).map { UInt64($0 + 1) &* 0x9E37_79B9 }
            words.withUnsafeBytes { memory in
                var at = 0
                let weights = sizes.map { rows in
                    defer { at += 64 * rows }
                    return nt_weight(
                        data: memory.baseAddress! + at, type: Int32(NT_W_F32), rows: Int64(rows), columns: 16,
                        scales: nil, bias: nil)
                }
                let layer = nt_decoder_layer(
                    q: weights[0], k: weights[1], v: weights[2], o: weights[3], gate: weights[4], up: weights[5],
                    down: weights[6], input_norm: nt_norm(), attention_norm: nt_norm(), mlp_input_norm: nt_norm(),
                    mlp_norm: nt_norm(), query_norm: nt_norm(), key_norm: nt_norm(), window: 0, rotation: 0)
                withUnsafePointer(to: layer) { layer in
                    var decoder = nt_decoder()
                    (decoder.layers, decoder.layer_count, decoder.head) = (layer, 1, weights[7])
                    for parallel in [nil, inThree] {
                        #expect(nt_read_weights(&decoder, parallel) == words.reduce(0, &+))
                    }
                }
            }
        }
    }
}
