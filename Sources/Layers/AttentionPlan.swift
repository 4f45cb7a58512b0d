// One flat row of tokens, and who sees whom in it: documents packed side by side, or sequences in a cache.
// N tokens, H query heads, K key/value heads, E head dimension, S cache slots a sequence
public import Tensors

/// Which tokens a step computes and what each attends to. There is no padding: N tokens are N tokens of work.
///
/// Without a cache, the row holds whole documents, each seen only by itself. With one, each stretch of the row is the
/// continuation of a cached sequence and also sees what the cache holds of it.
public struct AttentionPlan {
    /// Stretches of the row: offsets from 0 to N.
    public let starts: [Int]
    /// Position of each token in its document, int64 `[N]`.
    public let positions: Tensor
    /// One more than the largest position.
    public let positionBound: Int
    /// Cache rows the stretches continue; empty without a cache.
    public let rows: [Int]
    /// Tokens that the cache holds of each sequence before this step.
    public let pasts: [Int]
    /// Tokens that each document has, a cached sequence in the end: what a rotation that changes with length goes by.
    public let reaches: [Int]

    /// Whole documents, positions from 0.
    public init(documentStarts starts: [Int], on device: Device = .cpu) {
        let lengths = zip(starts, starts.dropFirst()).map { $1 - $0 }
        self.init(starts: starts, rows: [], pasts: lengths.map { _ in 0 }, reaches: lengths, on: device)
    }

    /// Stretches of the given lengths that continue cached sequences.
    public init(continuing cache: KVCache, rows: [Int], lengths: [Int], on device: Device = .cpu) {
        let starts = lengths.reduce(into: [0]) { $0.append($0.last! + $1) }
        self.init(
            starts: starts, rows: rows, pasts: rows.map { cache.lengths[$0] }, reaches: rows.map { cache.reaches[$0] },
            on: device)
    }

    private init(starts: [Int], rows: [Int], pasts: [Int], reaches: [Int], on device: Device) {
        precondition(
            starts.first == 0 && zip(starts, starts.dropFirst()).allSatisfy { $0 < $1 }, "documents must not be empty")
        self.starts = starts
        self.rows = rows
        self.pasts = pasts
        self.reaches = reaches
        let positions = pasts.indices.flatMap { i in (pasts[i]..<pasts[i] + starts[i + 1] - starts[i]).map(Int64.init) }
        self.positions = Tensor(positions, on: device)
        positionBound = Int(positions.max() ?? -1) + 1
    }

    /// True when every stretch is one token of a cached sequence.
    var isDecoding: Bool { !rows.isEmpty && starts.last == rows.count }
}

/// Keys and values of sequences under generation, per layer `[B, S, K, E]`.
public final class KVCache {
    var keys: [Tensor], values: [Tensor]
    /// Tokens held of each sequence.
    public private(set) var lengths: [Int]
    /// Slots of a sequence.
    public let capacity: Int
    /// Tokens that each sequence comes to in the end, its capacity at first: what a rotation that changes with a document's
    /// length goes by. What is held was turned by it.
    public var reaches: [Int]

    public init(
        layers: Int, sequences: Int, capacity: Int, kvHeads: Int, headDim: Int, _ dtype: DType, on device: Device
    ) {
        self.capacity = capacity
        lengths = Array(repeating: 0, count: sequences)
        reaches = Array(repeating: capacity, count: sequences)
        keys = (0..<layers).map { _ in .zeros([sequences, capacity, kvHeads, headDim], dtype, on: device) }
        values = keys.map { .zeros($0.shape, dtype, on: device) }
    }

    /// Writes the step's keys and values `[N, K, E]` behind what the sequences have; the lengths move in `advance`.
    func write(_ k: Tensor, _ v: Tensor, layer: Int, _ plan: AttentionPlan) {
        let slots = plan.rows.indices.flatMap { i in
            (0..<plan.starts[i + 1] - plan.starts[i]).map { Int64(plan.rows[i] * capacity + plan.pasts[i] + $0) }
        }
        let index = Tensor(slots, on: k.device)
        let flat = [lengths.count * capacity, k.shape[1], k.shape[2]]
        keys[layer].reshape(flat).indexCopyInPlace(0, index, k)
        values[layer].reshape(flat).indexCopyInPlace(0, index, v)
    }

    /// Counts the step's tokens as held; once a step, after the last layer.
    public func advance(_ plan: AttentionPlan) {
        for (i, row) in plan.rows.enumerated() { lengths[row] += plan.starts[i + 1] - plan.starts[i] }
    }

    /// Counts tokens as held that a fused decoder has written.
    func advance(row: Int, by count: Int) { lengths[row] += count }

    /// Gives the rows the first `count` tokens that row 0 holds: a beginning that prompts share is computed once.
    public func share(_ count: Int, with rows: [Int]) {
        precondition(lengths[0] >= count, "row 0 holds fewer tokens")
        for store in keys + values {
            let shared = store.narrow(0, 0, 1).narrow(1, 0, count)
            for row in rows where row != 0 { store.narrow(0, row, 1).narrow(1, 0, count).copyInPlace(shared) }
        }
        for row in rows { lengths[row] = count }
    }

    /// Forgets all but the given sequences, which take the rows 0, 1, ... in this order.
    public func keep(_ rows: [Int]) {
        let index = Tensor(rows.int64, on: keys.first?.device ?? .cpu)
        keys = keys.map { $0.indexSelect(0, index) }
        values = values.map { $0.indexSelect(0, index) }
        lengths = rows.map { lengths[$0] }
        reaches = rows.map { reaches[$0] }
    }

    /// Forgets what a sequence holds beyond its first `count` tokens.
    public func truncate(row: Int, to count: Int) { lengths[row] = min(lengths[row], count) }
}

/// Grouped-query attention under a plan: q `[N, H, E]`, k and v `[N, K, E]` -> `[N, H, E]`.
///
/// - Parameters:
///   - window: tokens a query sees, itself included; nil for all.
///   - scale: what scores are multiplied by; nil: 1 / √E.
///   - cap: of the scores, as `softCap`; nil for none.
public func attention(
    _ q: Tensor, _ k: Tensor, _ v: Tensor, _ plan: AttentionPlan, cache: KVCache?, layer: Int, window: Int?,
    scale: Double? = nil, cap: Double? = nil
) -> Tensor {
    let scale = scale ?? 1 / Double(q.shape3.2).squareRoot()
    let whole = { documentAttention(q, k, v, starts: plan.starts, window: window, scale: scale, cap: cap) }
    guard let cache else { return whole() }
    cache.write(k, v, layer: layer, plan)
    if plan.pasts.allSatisfy({ $0 == 0 }) { return whole() }
    if plan.isDecoding {
        return decodingAttention(q, plan, cache, layer: layer, window: window, scale: scale, cap: cap)
    }
    let parts = plan.rows.indices.map { i in
        let length = plan.starts[i + 1] - plan.starts[i], seen = plan.pasts[i] + length
        let keys = cache.keys[layer].narrow(0, plan.rows[i], 1).narrow(1, 0, seen).transpose(1, 2)  // [1, K, seen, E]
        let values = cache.values[layer].narrow(0, plan.rows[i], 1).narrow(1, 0, seen).transpose(1, 2)
        let query = q.narrow(0, plan.starts[i], length).transpose(0, 1)  // [H, length, E]
        let (H, T, E) = query.shape3
        let mask = visible(queries: plan.pasts[i]..<seen, keys: seen, window: window, on: q.device)
        return maskedAttention(query.reshape(1, H, T, E), keys, values, mask: mask, scale: scale, cap: cap)
            .reshape(H, T, E).transpose(0, 1)
    }
    return .cat(parts, dim: 0)
}

/// One token a sequence: the queries of a group take the place of query positions, so no key is copied per head.
private func decodingAttention(
    _ q: Tensor, _ plan: AttentionPlan, _ cache: KVCache, layer: Int, window: Int?, scale: Double, cap: Double?
) -> Tensor {
    let (N, H, E) = q.shape3
    let K = cache.keys[layer].shape4.2, longest = plan.pasts.max()! + 1
    var keys = cache.keys[layer], values = cache.values[layer]
    if plan.rows != Array(0..<cache.lengths.count) {
        let index = Tensor(plan.rows.int64, on: q.device)
        (keys, values) = (keys.indexSelect(0, index), values.indexSelect(0, index))
    }
    keys = keys.narrow(1, 0, longest).transpose(1, 2)  // [N, K, S, E]
    values = values.narrow(1, 0, longest).transpose(1, 2)
    let seen = plan.pasts.flatMap { past in (0..<longest).map { sees($0, from: past, window) } }
    let mask = Tensor(seen, [N, 1, 1, longest], on: q.device).to(.bool)
    return maskedAttention(
        q.reshape(N, K, H / K, E), keys, values, mask: mask.expand(N, 1, H / K, longest), scale: scale,
        cap: cap
    )
    .reshape(N, H, E)
}

/// Bool `[1, 1, T, S]`: which of the positions 0 ..< S each query position sees.
private func visible(queries: Range<Int>, keys: Int, window: Int?, on device: Device) -> Tensor {
    let seen = queries.flatMap { t in (0..<keys).map { sees($0, from: t, window) } }
    return Tensor(seen, [1, 1, queries.count, keys], on: device).to(.bool)
}

/// 1 when a query at position t sees the key at position s.
private func sees(_ s: Int, from t: Int, _ window: Int?) -> UInt8 {
    s <= t && s > t - (window ?? Int.max / 2) ? 1 : 0
}

extension [Int] {
    var int64: [Int64] { map { Int64($0) } }
}
