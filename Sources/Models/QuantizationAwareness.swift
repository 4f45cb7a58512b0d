// Quantization-aware training (Jacob et al. 2018, arXiv:1712.05877): products see every matrix as a GGUF file of a type would
// hold it, and gradients go to the numbers behind it as if nothing had been rounded (straight through: Bengio et al. 2013,
// arXiv:1308.3432). What `export` then writes in that type are the numbers that were trained for.
internal import Diagnostics
public import Formats
internal import Layers
internal import ModelFiles
public import Tensors

extension LoadedModel {
    /// From now on products see the linear maps, the token table and the output table in blocks of `type`; matrices whose rows
    /// are no whole blocks of it in those that `export` takes for them. Norms, biases and position tables stay.
    ///
    /// - Precondition: on the CPU; no weight is packed, no masters are split.
    public func roundWeights(to type: GGMLType) {
        let tables = model.tables.filter { $0 !== model.headWeight && $0 !== model.tokenTable.weight }
        for (_, parameter) in model.namedParameters() where parameter.shape.count == 2 {
            if tables.contains(where: { $0 === parameter }) { continue }
            let fitting = type.fitting(parameter.shape[1])
            parameter.showRounded { rounded($0, to: fitting) }
        }
    }
}

/// What blocks of `type` hold of a matrix: fp32 `[O, I]` -> fp32 `[O, I]`.
///
/// - Precondition: I is a multiple of the type's block.
public func rounded(_ matrix: Tensor, to type: GGMLType) -> Tensor {
    let source = matrix.contiguous(), result = Tensor.empty(matrix.shape, .float32)
    let (rows, columns) = (matrix.shape[0], matrix.shape[1])
    let atOnce = max(1, (1 << 16) / columns)  // rows of a thread's turn
    source.withBytes { from in
        result.withMutableBytes { to in
            nonisolated(unsafe) let input = from.bindMemory(to: Float.self)
            nonisolated(unsafe) let output = to.bindMemory(to: Float.self)
            let jobs = (rows + atOnce - 1) / atOnce
            // The work of a job cannot fail.
            try! runInParallel(jobs, threads: Engine.threads) { job in
                let part = job * atOnce * columns..<min((job + 1) * atOnce, rows) * columns
                type.round(
                    UnsafeBufferPointer(rebasing: input[part]), into: UnsafeMutableBufferPointer(rebasing: output[part])
                )
            }
        }
    }
    return result
}
