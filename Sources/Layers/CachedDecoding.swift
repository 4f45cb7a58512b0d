// A fused decoder over the cache that layers use too: one may compute the prompt, the other what follows.
public import Tensors

extension FusedDecoder {
    /// Feeds tokens to cached sequences; scores after the last token of each.
    ///
    /// - Parameters:
    ///   - tokens: for each of `rows`, what follows what the cache holds of it; none empty.
    ///   - rows: different rows of the cache, which turn alike.
    ///   - ropes: what the layers' `rotation` counts.
    public func callAsFunction(_ tokens: [[Int32]], rows: [Int], cache: KVCache, ropes: [RotaryEmbedding]) -> Scores {
        let kinds = { (row: Int) in ropes.map { $0.kind(ofLength: cache.reaches[row]) } }, first = kinds(rows[0])
        precondition(rows.allSatisfy { kinds($0) == first }, "one table of angles a step")
        var step = Step(), bound = 0
        for (row, ids) in zip(rows, tokens) {
            step.append(ids, sequence: row, from: cache.lengths[row])
            bound = max(bound, cache.lengths[row] + ids.count)
        }
        let scores = self(
            step, keys: cache.keys, values: cache.values, slots: cache.capacity,
            rotations: zip(ropes, first).map { $0.tables(below: bound, kind: $1) })
        for (row, ids) in zip(rows, tokens) { cache.advance(row: row, by: ids.count) }
        return scores
    }
}
