// What goes into a linear map and what comes back to its output, without a gradient of its weight.
// N tokens, I input features, O output features
public import Tensors

/// Records a linear map's input and the gradient of its output.
///
/// Adds zeros to the output that backward computes a gradient for: dL/d(zeros) is dL/d(output), so no weight needs one,
/// and backward reaches no further down than the lowest probe. The gradient of the weight that acts (an attached
/// low-rank adapter included) is then `Aᵀ B`, with A this gradient and B the input; it need not be formed.
public final class GradientProbe {
    private var input: Tensor?
    private var zeros: Tensor?

    public init() {}

    /// Passes `y` through; with gradients off, nothing is recorded.
    func callAsFunction(_ x: Tensor, _ y: Tensor) -> Tensor {
        input = x.detached()
        let zeros = Tensor.zeros(y.shape, y.dtype, on: y.device)
        zeros.requiresGradient = true
        self.zeros = zeros
        return y + zeros
    }

    /// After one forward and backward pass: A `[N, O]` and B `[N, I]`; forgets both.
    ///
    /// - Returns: nil when no backward pass reached the output.
    public func take() -> (outputGradient: Tensor, input: Tensor)? {
        defer { (input, zeros) = (nil, nil) }
        guard let input, let gradient = zeros?.gradient else { return nil }
        return (gradient, input)
    }
}
