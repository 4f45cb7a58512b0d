// Attention under a plan against the definition written out in Swift numbers.
// N tokens, H query heads, K key/value heads, E head dimension
import Glibc
import Layers
import Tensors
import TestSupport
import Testing

@Suite struct AttentionTests {
    /// softmax(q·k / √E) v over what each token sees, one number at a time.
    private func reference(_ q: Tensor, _ k: Tensor, _ v: Tensor, starts: [Int], window: Int?) -> Tensor {
        let (N, H, E) = q.shape3, K = k.shape3.1
        let Q = q.values(Double.self), keys = k.values(Double.self), V = v.values(Double.self)
        var out = [Double](repeating: 0, count: N * H * E)
        for t in 0..<N {
            let document = starts.last { $0 <= t }!
            for h in 0..<H {
                let g = h / (H / K)
                let seen = (document...t).filter { t - $0 < window ?? N }
                let scores = seen.map { s in
                    exp(
                        (0..<E).reduce(0) { $0 + Q[(t * H + h) * E + $1] * keys[(s * K + g) * E + $1] }
                            / Double(E).squareRoot())
                }
                let total = scores.reduce(0, +)
                for (s, score) in zip(seen, scores) {
                    for e in 0..<E { out[(t * H + h) * E + e] += score / total * V[(s * K + g) * E + e] }
                }
            }
        }
        return Tensor(out, [N, H, E])
    }

    @Test(arguments: [(4, 4), (4, 2), (6, 1)], [nil, 1, 3, 100])
    func equalsTheDefinition(_ heads: (Int, Int), _ window: Int?) {
        for starts in [[0, 9], [0, 1, 5, 9], [0, 4, 8, 9]] {
            let q = normal64([9, heads.0, 6], seed: 1), k = normal64([9, heads.1, 6], seed: 2),
                v = normal64([9, heads.1, 6], seed: 3)
            let plan = AttentionPlan(documentStarts: starts)
            let expected = reference(q, k, v, starts: starts, window: window)
            #expect(
                relativeDifference(attention(q, k, v, plan, cache: nil, layer: 0, window: window), expected) < 1e-12)
            let narrow = attention(
                q.to(.float32), k.to(.float32), v.to(.float32), plan, cache: nil, layer: 0, window: window)
            #expect(relativeDifference(narrow, expected) < 1e-5)
        }
    }

    /// In pieces behind a cache, rows in any order and at different lengths: as whole documents. fp16 has no kernel.
    @Test(
        arguments: [(.float64, 1e-12), (.float32, 1e-5), (.float16, 5e-3)] as [(DType, Double)], [nil, 1, 30] as [Int?])
    func piecesBehindACacheAreTheWhole(_ format: (DType, Double), _ window: Int?) {
        let (dtype, tolerance) = format
        let starts = [0, 150, 190, 287]
        let pieces = [
            (rows: [0, 1, 2], lengths: [3, 1, 70]), (rows: [2, 0], lengths: [5, 100]),
            (rows: [0, 1, 2], lengths: [1, 1, 1]), (rows: [1, 2, 0], lengths: [38, 21, 46]),
        ]
        let inputs = [4, 2, 2].enumerated().map { normal64([287, $1, 6], seed: UInt64(4 + $0)).to(dtype) }
        let wide = inputs.map { $0.to(.float64) }
        for cap in [nil, 0.8] {
            let whole = attention(
                wide[0], wide[1], wide[2], AttentionPlan(documentStarts: starts), cache: nil, layer: 0, window: window,
                cap: cap)
            let cache = KVCache(layers: 1, sequences: 3, capacity: 160, kvHeads: 2, headDim: 6, dtype, on: .cpu)
            for (rows, lengths) in pieces {
                let plan = AttentionPlan(continuing: cache, rows: rows, lengths: lengths)
                func part(_ x: Tensor) -> Tensor {
                    .cat(zip(rows, lengths).map { x.narrow(0, starts[$0] + cache.lengths[$0], $1) }, dim: 0)
                }
                let out = attention(
                    part(inputs[0]), part(inputs[1]), part(inputs[2]), plan, cache: cache, layer: 0, window: window,
                    cap: cap)
                #expect(relativeDifference(out, part(whole)) < tolerance)
                cache.advance(plan)
            }
            #expect(cache.lengths == [150, 40, 97])
        }
    }

    @Test func positionsBeginAnewWithEachDocument() {
        let plan = AttentionPlan(documentStarts: [0, 3, 4, 8])
        #expect(plan.positions.values(Int64.self) == [0, 1, 2, 0, 0, 1, 2, 3])
        #expect(plan.positionBound == 4 && plan.rows.isEmpty && plan.pasts == [0, 0, 0])
    }

    @Test func positionsGoOnWhereTheCacheStands() {
        let cache = KVCache(layers: 1, sequences: 3, capacity: 8, kvHeads: 1, headDim: 2, .float32, on: .cpu)
        cache.advance(AttentionPlan(continuing: cache, rows: [0, 2], lengths: [4, 1]))
        #expect(cache.lengths == [4, 0, 1])
        let plan = AttentionPlan(continuing: cache, rows: [2, 0, 1], lengths: [1, 2, 1])
        #expect(
            plan.positions.values(Int64.self) == [1, 4, 5, 0] && plan.positionBound == 6 && plan.pasts == [1, 4, 0])
        cache.keep([2])
        #expect(cache.lengths == [1])
    }

    @Test func emptyDocumentsAreAProgrammersMistake() async {
        await #expect(processExitsWith: .failure) { _ = AttentionPlan(documentStarts: [0, 2, 2, 4]) }
    }
}
