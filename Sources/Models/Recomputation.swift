// Which activations a training step keeps, and which it computes again.
public import Tensors

/// Activation checkpointing: of every `stride` blocks only the input is kept from forward to backward.
///
/// The last blocks are kept whole, since backward begins with them. With stride 1 a step keeps one row of hidden states a
/// block and runs each block's forward twice; a stride near √blocks balances the inputs kept against the activations of
/// the stretch under way.
public struct Recomputation: Sendable, Equatable {
    /// Blocks of a stretch; 0 keeps everything.
    public var stride: Int
    /// Whether the outputs of norms and gates are not kept for the products behind them, but made again (selective).
    public var isSelective: Bool
    /// Whether the inputs kept of the stretches are rounded to bf16.
    public var keepsBFloat16: Bool

    public init(stride: Int = 0, isSelective: Bool = false, keepsBFloat16: Bool = false) {
        precondition(stride >= 0)
        (self.stride, self.isSelective, self.keepsBFloat16) = (stride, isSelective, keepsBFloat16)
    }

    /// The stretches of a model of `blocks` blocks; all but the last are computed again.
    public func stretches(of blocks: Int) -> [Range<Int>] {
        guard stride > 0, stride < blocks else { return [0..<blocks] }
        return Swift.stride(from: 0, to: blocks, by: stride).map { $0..<min($0 + stride, blocks) }
    }

    /// Blocks one after the other.
    ///
    /// - Parameters:
    ///   - recomputes: false where there is no backward, or where a block must not run twice: in front of a cache.
    ///   - block: the output of block i; may run twice.
    public func run(_ x: Tensor, blocks: Int, recomputes: Bool, _ block: @escaping (Int, Tensor) -> Tensor) -> Tensor {
        let stretches = stretches(of: blocks)
        return stretches.reduce(x) { x, stretch in
            let body = { (x: Tensor) in selectively(isSelective) { stretch.reduce(x) { block($1, $0) } } }
            guard recomputes, stretch != stretches.last else { return body(x) }
            return recomputed(x, keptIn: keepsBFloat16 ? .bfloat16 : nil, body)
        }
    }
}
