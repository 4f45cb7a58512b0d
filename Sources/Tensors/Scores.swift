// What drawing the next token needs of rows of scores.
internal import Kernels

extension FusedDecoder.Scores {
    /// What `body` makes of each row, in order. Rows are shared by the engine's threads.
    public func map(
        _ body: @escaping @Sendable (_ row: Int, _ scores: UnsafeBufferPointer<Float>) -> Int32
    ) -> [Int32] {
        // Only read, until all threads are done.
        nonisolated(unsafe) let scores = self
        // Fewer than 32 thousand scores are not worth waking a thread for.
        let grain = max(1, (1 << 15) / width)
        return [Int32](unsafeUninitializedCapacity: rows) { results, count in
            // An element a call.
            nonisolated(unsafe) let results = results
            Engine.inParallel(rows, grain: grain) { row in
                results.initializeElement(at: row, to: scores.withRow(row) { body(row, $0) })
            }
            count = rows
        }
    }
}

/// `exp(factor · (x - max x))` of every score, the largest of which is 1, into `weights`, which may be the scores themselves.
///
/// - Returns: their sum.
public func softmaxWeights(
    _ scores: UnsafeBufferPointer<Float>, factor: Double, into weights: UnsafeMutableBufferPointer<Float>
) -> Double {
    precondition(weights.count >= scores.count, "\(scores.count) weights in \(weights.count) places")
    // Factors beyond fp32 act like the largest one: only the best score is left.
    return nt_softmax_weights_f32(
        scores.baseAddress, Int64(scores.count), Float(min(factor, 1e30)), weights.baseAddress)
}

/// Index of the first largest value.
public func argmax(_ values: UnsafeBufferPointer<Float>) -> Int {
    Int(nt_argmax_f32(values.baseAddress, Int64(values.count)))
}

/// Indices of the values ≥ `least`, ascending.
public func indices(of values: UnsafeBufferPointer<Float>, atLeast least: Float) -> [Int32] {
    let total = Int64(values.count), found = Int(nt_indices_f32(values.baseAddress, total, least, nil))
    return [Int32](unsafeUninitializedCapacity: found) { indices, count in
        count = Int(nt_indices_f32(values.baseAddress, total, least, indices.baseAddress))
    }
}
