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
        let index = Tensor(slots, on: k.device), (keys, values) = allSlots(ofLayer: layer)
        keys.indexCopyInPlace(0, index, k)
        values.indexCopyInPlace(0, index, v)
    }

    /// Keys and values of a layer `[B S, K, E]`: all slots in one row.
    func allSlots(ofLayer layer: Int) -> (keys: Tensor, values: Tensor) {
        let (B, S, K, E) = keys[layer].shape4
        return (keys[layer].reshape(B * S, K, E), values[layer].reshape(B * S, K, E))
    }

    /// Slots whose keys some query of each stretch sees, once the step's are written.
    func seenSlots(_ plan: AttentionPlan, window: Int?) -> [Range<Int>] {
        plan.rows.indices.map { i in
            let first = plan.rows[i] * capacity, past = plan.pasts[i], length = plan.starts[i + 1] - plan.starts[i]
            let unseen = window.map { max(0, past + 1 - $0) } ?? 0
            return first + unseen..<first + past + length
        }
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
    let (keys, values) = cache.allSlots(ofLayer: layer)
    return continuedAttention(
        q, keys, values, starts: plan.starts, keys: cache.seenSlots(plan, window: window), window: window, scale: scale,
        cap: cap)
}

extension [Int] {
    var int64: [Int64] { map { Int64($0) } }
}
