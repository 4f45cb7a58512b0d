// Matrices made orthogonal by products alone, and the step of Muon that uses it.
internal import CTorch

/// Steps of an odd polynomial that takes a matrix's singular values to about 1 and leaves its singular vectors:
///
///     X = X / (factor ‖X‖);  then  X = aX + (bA + cA²)X  with  A = X Xᵀ,  a, b and c of each step
///
/// which acts on the singular values as s → as + bs³ + cs⁵.
public struct Orthogonalization: Sendable, Equatable {
    /// a, b and c of each step.
    public var coefficients: [[Double]]
    /// What the Frobenius norm is multiplied by before the matrix is divided by it.
    public var normFactor: Double
    /// The dtype of the products.
    public var products: DType

    /// Five equal steps (Jordan et al. 2024, kellerjordan.github.io/posts/muon): the slope at 0 is as steep as it can be,
    /// for values that end in about 0.7 ... 1.2.
    public static func newtonSchulz(_ products: DType) -> Orthogonalization {
        let step = [3.4445, -4.7750, 2.0315]
        return Orthogonalization(
            coefficients: Array(repeating: step, count: 5), normFactor: 1, products: products)
    }

    /// Five steps of which each is the best for what those before it leave (Polar Express: Amsel et al. 2025,
    /// arXiv:2505.16932).
    public static func polarExpress(_ products: DType) -> Orthogonalization {
        let steps = [
            [8.15655, -22.48329, 15.87877], [4.04293, -2.80892, 0.50002], [3.89167, -2.77248, 0.50606],
            [3.28575, -2.36813, 0.46449], [2.34655, -1.70978, 0.42324],
        ]
        return Orthogonalization(coefficients: steps, normFactor: 1.01, products: products)
    }

    fileprivate func withOptions<R>(_ body: (UnsafePointer<ct_orthogonalization>) -> R) -> R {
        precondition(coefficients.allSatisfy { $0.count == 3 })
        return coefficients.flatMap { $0 }.withUnsafeBufferPointer {
            var options = ct_orthogonalization(
                coefficients: $0.baseAddress, steps: coefficients.count, norm_factor: normFactor,
                products: products.rawValue)
            return body(&options)
        }
    }
}

extension Tensor {
    /// The matrix `[M, N]` with its singular values near 1, outside of any graph.
    public func orthogonalized(_ how: Orthogonalization) -> Tensor {
        perform("orthogonalized", self) { out in how.withOptions { ct_orthogonalized(handle, $0, &out) } }
    }
}

/// The numbers of one step of Muon.
public struct MuonStep {
    public var learningRate: Double, momentum: Double, weightDecay: Double
    /// What the orthogonal matrix is multiplied by.
    public var scale: Double
    public var gradientScale: Double

    public init(
        learningRate: Double, momentum: Double, weightDecay: Double, scale: Double, gradientScale: Double
    ) {
        (self.learningRate, self.momentum, self.weightDecay) = (learningRate, momentum, weightDecay)
        (self.scale, self.gradientScale) = (scale, gradientScale)
    }
}

/// One Muon update of a matrix (Jordan et al. 2024; `torch.optim.Muon` with Nesterov momentum):
///
///     g' = gradientScale·g;  m = μm + (1-μ)g';  u = μm + (1-μ)g'
///     p -= lr · (scale·orthogonalized(u) + λp)
///
/// - Parameter parts: equal matrices that lie above one another in p; each is made orthogonal by itself.
public func muonInPlace(
    _ value: Tensor, gradient: Tensor, momentum: Tensor, parts: Int, _ step: MuonStep, _ how: Orthogonalization
) {
    var options = ct_muon_options(
        learning_rate: step.learningRate, momentum: step.momentum, weight_decay: step.weightDecay, scale: step.scale,
        gradient_scale: step.gradientScale)
    performInPlace("muon", [value, gradient, momentum]) {
        how.withOptions { ct_muon_inplace(value.handle, gradient.handle, momentum.handle, Int64(parts), &options, $0) }
    }
}
