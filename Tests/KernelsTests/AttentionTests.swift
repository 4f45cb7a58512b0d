// Flash attention: every level against the f64 twin, the twin against softmax written out and against finite
// differences; documents, windows, grouped queries, a past; same bits every time.
internal import Kernels
internal import Testing

/// The entries of one element type; L is the type of lse.
private struct Entries<T: Element, L: Element> {
    typealias Shape = UnsafePointer<nt_attention>?
    typealias In<X> = UnsafePointer<X>?
    typealias Out<X> = UnsafeMutablePointer<X>?
    typealias Raw = UnsafeMutableRawPointer?
    let forward: (Shape, In<T>, Int64, In<T>, Int64, In<T>, Int64, Out<T>, Int64, Out<L>, Raw, nt_parallel?) -> Void
    let backward:
        (
            Shape, In<T>, Int64, In<T>, Int64, In<T>, Int64, In<T>, Int64, In<L>, In<T>, Int64, Out<T>, Int64, Out<T>,
            Int64, Out<T>, Int64, Raw, nt_parallel?
        ) -> Void
}

private var bf16: Entries<UInt16, Float> {
    Entries(forward: nt_attention_forward_bf16, backward: nt_attention_backward_bf16)
}
private var f32: Entries<Float, Float> {
    Entries(forward: nt_attention_forward_f32, backward: nt_attention_backward_f32)
}
private var f64: Entries<Double, Double> {
    Entries(forward: nt_attention_forward_f64, backward: nt_attention_backward_f64)
}

/// One case: documents' lengths, heads, and per document how many keys come before its first query.
private struct Case: CustomTestStringConvertible {
    var lengths: [Int]
    var heads = 2, kvHeads = 1, dim = 16, window = 0
    var past: [Int]? = nil
    var cap = 0.0
    var isBidirectional = false
    var parts = 3
    var group: Int { heads / kvHeads }
    var queries: Int { lengths.reduce(0, +) }
    var starts: [Int] { lengths.reduce(into: [0]) { $0.append($0.last! + $1) } }
    /// With a past, every document's keys begin two rows behind the last one's end: a slot with room.
    var keyCounts: [Int] { zip(lengths, past ?? lengths.map { _ in 0 }).map(+) }
    var keyStarts: [Int] {
        past == nil ? Array(starts.dropLast()) : keyCounts.reduce(into: [2]) { $0.append($0.last! + $1 + 2) }.dropLast()
    }
    var keyRows: Int { past == nil ? queries : keyStarts.last! + keyCounts.last! + 1 }
    var scale: Double { 1 / Double(dim).squareRoot() }
    var testDescription: String {
        "\(lengths) H\(heads) K\(kvHeads) E\(dim) window \(window)" + (past.map { " past \($0)" } ?? "")
            + (cap > 0 ? " cap \(cap)" : "") + (isBidirectional ? " both ways" : "")
    }
}

/// q, dO [queries, H E], k, v [keyRows, K E], as f64.
private struct Inputs {
    var q, k, v, dO: [Double]
    init(_ c: Case) {
        q = noise(c.queries * c.heads * c.dim, 1)
        k = noise(c.keyRows * c.kvHeads * c.dim, 2)
        v = noise(c.keyRows * c.kvHeads * c.dim, 3)
        dO = noise(c.queries * c.heads * c.dim, 4)
    }
    func rounded<T: Element>(_: T.Type) -> Inputs {
        var copy = self
        for part in [\Inputs.q, \.k, \.v, \.dO] {
            copy[keyPath: part] = self[keyPath: part].map { T(rounding: $0).double }
        }
        return copy
    }
}

private struct Outputs: Equatable {
    var o, lse: [Double]
    var dq: [Double] = [], dk: [Double] = [], dv: [Double] = []
    var named: [(String, [Double])] { [("o", o), ("lse", lse), ("dq", dq), ("dk", dk), ("dv", dv)] }
}

extension Entries {
    /// Forward and, unless told otherwise, backward. Rows lie apart, in strides of their own; scratch is not aligned.
    func callAsFunction(_ c: Case, _ x: Inputs, backward: Bool = true, _ parallel: nt_parallel? = nil) -> Outputs {
        let wide = c.heads * c.dim, narrow = c.kvHeads * c.dim
        let q: [T] = strided(x.q, width: wide, stride: wide + 3),
            k: [T] = strided(x.k, width: narrow, stride: narrow + 1)
        let v: [T] = strided(x.v, width: narrow, stride: narrow + 2)
        let dO: [T] = strided(x.dO, width: wide, stride: wide + 5)
        var o: [T] = strided(x.q.map { _ in 7 }, width: wide, stride: wide + 4), dq = o
        var dk: [T] = strided(x.k.map { _ in 7 }, width: narrow, stride: narrow + 3), dv = dk
        var lse = [L](repeating: L(rounding: 7), count: c.heads * c.queries)
        withShape(c) { shape in
            let bytes = nt_attention_scratch_bytes(shape, Int32(MemoryLayout<T>.size), backward ? 1 : 0)
            // Garbage, and a guard behind it.
            var scratch = [UInt8](repeating: 0xFF, count: bytes + 65)
            scratch.withUnsafeMutableBytes { raw in
                let base = raw.baseAddress! + 1
                forward(
                    shape, q, Int64(wide + 3), k, Int64(narrow + 1), v, Int64(narrow + 2), &o, Int64(wide + 4), &lse,
                    base,
                    parallel)
                if backward {
                    self.backward(
                        shape, q, Int64(wide + 3), k, Int64(narrow + 1), v, Int64(narrow + 2), o, Int64(wide + 4), lse,
                        dO,
                        Int64(wide + 5), &dq, Int64(wide + 4), &dk, Int64(narrow + 3), &dv, Int64(narrow + 3), base,
                        parallel)
                }
            }
            #expect(scratch[(bytes + 1)...].allSatisfy { $0 == 0xFF }, "written behind scratch")
        }
        var out = Outputs(o: rows(o, width: wide, stride: wide + 4), lse: lse.map(\.double))
        if backward {
            out.dq = rows(dq, width: wide, stride: wide + 4)
            out.dk = rows(dk, width: narrow, stride: narrow + 3)
            out.dv = rows(dv, width: narrow, stride: narrow + 3)
        }
        return out
    }
}

private func withShape(_ c: Case, _ body: (UnsafePointer<nt_attention>) -> Void) {
    let starts = c.starts.map(Int64.init), keyStarts = c.keyStarts.map(Int64.init),
        keyCounts = c.keyCounts.map(Int64.init)
    starts.withUnsafeBufferPointer { starts in
        keyStarts.withUnsafeBufferPointer { keyStarts in
            keyCounts.withUnsafeBufferPointer { keyCounts in
                var shape = nt_attention(
                    documents: Int64(c.lengths.count), starts: starts.baseAddress,
                    key_starts: c.past == nil ? nil : keyStarts.baseAddress,
                    key_counts: c.past == nil ? nil : keyCounts.baseAddress, heads: Int64(c.heads),
                    kv_heads: Int64(c.kvHeads), head_dim: Int64(c.dim), window: Int64(c.window),
                    bidirectional: c.isBidirectional ? 1 : 0, scale: c.scale, soft_cap: c.cap, parts: Int64(c.parts))
                body(&shape)
            }
        }
    }
}

/// o with the whole row of probabilities in memory: independent of the kernels' code.
private func plainAttention(_ c: Case, _ x: Inputs) -> [Double] {
    var o = [Double](repeating: 0, count: x.q.count)
    for (d, length) in c.lengths.enumerated() {
        for i in 0..<length {
            for head in 0..<c.heads {
                let query = ((c.starts[d] + i) * c.heads + head) * c.dim
                let position = c.keyCounts[d] - length + i
                let newest = c.isBidirectional ? c.keyCounts[d] - 1 : position
                let keys = (c.window > 0 ? max(0, position - c.window + 1) : 0)...newest
                let at = keys.map { ((c.keyStarts[d] + $0) * c.kvHeads + head / c.group) * c.dim }
                let scores = at.map { key in (0..<c.dim).reduce(0) { $0 + x.q[query + $1] * x.k[key + $1] } * c.scale }
                let capped = c.cap > 0 ? scores.map { c.cap * (1 - 2 / (exponential(2 * $0 / c.cap) + 1)) } : scores
                let weights = capped.map { exponential($0 - capped.max()!) }
                for (weight, value) in zip(weights, at) {
                    for e in 0..<c.dim { o[query + e] += weight / weights.reduce(0, +) * x.v[value + e] }
                }
            }
        }
    }
    return o
}

/// e^x for |x| < 100, by its series, without a C library.
private func exponential(_ x: Double) -> Double {
    var term = 1.0, sum = 1.0
    for n in 1...24 {
        term *= x / 256 / Double(n)
        sum += term
    }
    for _ in 0..<8 { sum *= sum }
    return sum
}

private let cases = [
    Case(lengths: [1], dim: 8), Case(lengths: [70], dim: 8), Case(lengths: [5, 130, 64, 1, 33], heads: 6, kvHeads: 2),
    Case(lengths: [200], heads: 3, kvHeads: 3, dim: 40), Case(lengths: [100, 90], heads: 3, dim: 64),
    Case(lengths: [150], kvHeads: 2, dim: 80, window: 33),
    Case(lengths: [97, 31], heads: 9, kvHeads: 3, dim: 64, window: 17),
    Case(lengths: [129], heads: 5, dim: 96, window: 2), Case(lengths: [140], dim: 128, window: 100),
    Case(lengths: [70], dim: 256), Case(lengths: [50, 65], heads: 17, dim: 24), Case(lengths: [77], dim: 17),
    Case(lengths: [77], heads: 3, dim: 1, window: 5), Case(lengths: [10, 0, 20]),
    Case(lengths: [20, 70], heads: 6, kvHeads: 2, dim: 32, past: [100, 3]),
    Case(lengths: [20, 70], heads: 6, kvHeads: 2, dim: 32, window: 40, past: [100, 64]),
    Case(lengths: [5, 130, 33], heads: 6, kvHeads: 2, dim: 24, cap: 0.4),
    Case(lengths: [97], dim: 17, window: 17, cap: 3),
    Case(lengths: [20, 70], heads: 6, kvHeads: 2, dim: 32, past: [100, 3], cap: 0.1),
    Case(lengths: [5, 130, 64, 1, 33], heads: 3, kvHeads: 3, dim: 32, isBidirectional: true),
    Case(lengths: [200, 0, 65], heads: 6, kvHeads: 2, dim: 24, cap: 0.4, isBidirectional: true),
    Case(lengths: [20, 70], dim: 17, past: [100, 3], isBidirectional: true),
]

extension KernelSuite {
    @Suite struct AttentionTests {
        private func compareWithTwin<T, L>(_ entries: Entries<T, L>, _ c: Case) {
            let x = Inputs(c).rounded(T.self), expected = f64(c, x)
            atEachLevel { level in
                for (name, pair) in zip(entries(c, x, twoThreads).named, expected.named).map({ ($0.0, ($0.1, $1.1)) }) {
                    // Relative to 0.1 at least: a query that sees one key has no gradient, only rounding.
                    let error = distance(pair.0 + [0.1], pair.1 + [0.1])
                    #expect(error <= T.tolerance, "\(name) at level \(level), \(T.self)")
                }
            }
        }

        @Test(arguments: cases) fileprivate func everyLevelIsTheTwin(_ c: Case) {
            compareWithTwin(f32, c)
            compareWithTwin(bf16, c)
        }

        @Test(arguments: cases) fileprivate func theTwinIsSoftmaxWrittenOut(_ c: Case) {
            let x = Inputs(c)
            #expect(distance(f64(c, x, backward: false).o, plainAttention(c, x)) < 1e-12)
        }

        @Test(arguments: [
            Case(lengths: [5, 3], heads: 4, kvHeads: 2, dim: 3), Case(lengths: [7], dim: 4, window: 3),
            Case(lengths: [2, 3], heads: 2, kvHeads: 2, dim: 3, past: [4, 1]), Case(lengths: [5, 3], dim: 4, cap: 0.5),
            Case(lengths: [5, 3], heads: 2, kvHeads: 2, dim: 3, isBidirectional: true),
        ]) fileprivate func theTwinsGradientsAreFiniteDifferences(_ c: Case) {
            let x = Inputs(c), out = f64(c, x)
            for (name, part, gradient) in [("dq", \Inputs.q, out.dq), ("dk", \.k, out.dk), ("dv", \.v, out.dv)] {
                let numeric = numericGradient(x[keyPath: part]) { moved in
                    var y = x
                    y[keyPath: part] = moved
                    return dot(f64(c, y, backward: false).o, x.dO)
                }
                // Rows that no document owns keep what they held.
                let owned = zip(gradient, numeric).map { $0 == 7 ? $1 : $0 }
                #expect(distance(owned, numeric) < 1e-8, "\(name)")
            }
        }

        @Test func packedIsSeparate() {
            let packed = Case(lengths: [70, 1, 130, 20], heads: 6, kvHeads: 2, dim: 24, window: 90), x = Inputs(packed)
            func check<T, L>(_ entries: Entries<T, L>) {
                atEachLevel { level in
                    let together = entries(packed, x)
                    for d in packed.lengths.indices {
                        var alone = packed, part = x
                        alone.lengths = [packed.lengths[d]]
                        let wide = packed.starts[d] * 144..<packed.starts[d + 1] * 144
                        let narrow = packed.starts[d] * 48..<packed.starts[d + 1] * 48
                        (part.q, part.dO) = (Array(x.q[wide]), Array(x.dO[wide]))
                        (part.k, part.v) = (Array(x.k[narrow]), Array(x.v[narrow]))
                        let out = entries(alone, part)
                        #expect(out.o == Array(together.o[wide]), "level \(level)")
                        // Summed in other pieces: rounded elsewhere.
                        #expect(distance(Array(together.dq[wide]), out.dq) <= T.tolerance, "level \(level)")
                        #expect(distance(Array(together.dk[narrow]), out.dk) <= T.tolerance, "level \(level)")
                        #expect(distance(Array(together.dv[narrow]), out.dv) <= T.tolerance, "level \(level)")
                    }
                }
            }
            check(f32)
            check(bf16)
        }

        @Test func aLaterKeyChangesNothingBefore() {
            let c = Case(lengths: [30, 150], heads: 3, dim: 40), x = Inputs(c)
            for changed in [30, 93, 94, 178] {
                var y = x
                for e in 0..<40 {
                    y.k[changed * 40 + e] += 50
                    y.v[changed * 40 + e] -= 90
                }
                atEachLevel { level in
                    let before = changed * 120
                    #expect(Array(f32(c, x).o[..<before]) == Array(f32(c, y).o[..<before]), "level \(level)")
                    #expect(Array(bf16(c, x).o[..<before]) == Array(bf16(c, y).o[..<before]), "level \(level)")
                    #expect(bf16(c, x).o[before] != bf16(c, y).o[before], "level \(level)")
                }
            }
        }

        @Test func aKeyOutsideTheWindowChangesNothing() {
            let c = Case(lengths: [200], dim: 16, window: 50), x = Inputs(c)
            var y = x
            for e in 0..<16 {
                y.k[60 * 16 + e] += 50
                y.v[60 * 16 + e] -= 90
            }
            atEachLevel { level in
                let (o, moved) = (bf16(c, x).o, bf16(c, y).o)
                #expect(Array(o[(110 * 32)...]) == Array(moved[(110 * 32)...]), "level \(level)")
                #expect(o[109 * 32] != moved[109 * 32], "level \(level)")
            }
        }

        @Test func chunksBehindACacheAreTheWhole() {
            let whole = Case(lengths: [150], heads: 4, kvHeads: 2, dim: 32, window: 100), x = Inputs(whole)
            atEachLevel { level in
                let expected = bf16(whole, x, backward: false).o
                var begin = 0
                for size in [1, 64, 20, 65] {
                    var chunk = whole, part = x
                    chunk.lengths = [size]
                    chunk.past = [begin]
                    part.q = Array(x.q[begin * 128..<(begin + size) * 128])
                    // Two rows before the keys and one behind belong to nobody.
                    let room = [Double](repeating: .nan, count: 2 * 64)
                    part.k = room + Array(x.k[..<((begin + size) * 64)]) + room.prefix(64)
                    part.v = room + Array(x.v[..<((begin + size) * 64)]) + room.prefix(64)
                    let out = bf16(chunk, part, backward: false).o
                    #expect(
                        distance(out, Array(expected[begin * 128..<(begin + size) * 128])) <= 0x1p-7, "level \(level)")
                    begin += size
                }
                #expect(begin == 150)
            }
        }

        @Test func bitsDoNotDependOnThreadsOrTime() {
            for c in [Case(lengths: [300, 20], heads: 3, dim: 32, parts: 5), Case(lengths: [700], dim: 16, parts: 7)] {
                let x = Inputs(c)
                atEachLevel { level in
                    if level == 0 { return }
                    #expect(bf16(c, x) == bf16(c, x, twoThreads), "level \(level)")
                    #expect(f32(c, x) == f32(c, x, twoThreads), "level \(level)")
                    var whole = c
                    whole.parts = 1
                    #expect(f32(c, x).o == f32(whole, x).o)
                    #expect(distance(f32(c, x).dk, f32(whole, x).dk) <= 1e-5)
                }
            }
        }

        /// Scores of hundreds neither overflow nor vanish.
        @Test func largeScoresStayFinite() {
            let c = Case(lengths: [90], dim: 16)
            var x = Inputs(c)
            x.q = x.q.map { $0 * 60 }
            x.k = x.k.map { $0 * 20 }
            let y = x.rounded(UInt16.self), expected = f64(c, y)
            atEachLevel { level in
                #expect(distance(bf16(c, y).o, expected.o) <= 0x1p-7, "level \(level)")
                #expect(distance(f32(c, y).o, expected.o) <= 1e-3, "level \(level)")
            }
        }

        @Test func scratchIsLinear() {
            func bytes(_ tokens: Int, backward: Bool) -> Int {
                var bytes = 0
                withShape(Case(lengths: [tokens], heads: 9, kvHeads: 3, dim: 64, parts: 2)) {
                    bytes = nt_attention_scratch_bytes($0, 2, backward ? 1 : 0)
                }
                return bytes
            }
            for backward in [false, true] {
                #expect(bytes(8192, backward: backward) < 5 * bytes(2048, backward: backward) / 1)
                // The matrix of probabilities alone: 9 x 8192 x 8192 x 2 bytes.
                #expect(bytes(8192, backward: backward) < 9 * 8192 * 8192 * 2 / 20)
            }
        }
    }
}
