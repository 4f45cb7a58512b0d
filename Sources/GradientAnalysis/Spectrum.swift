// What training data does to each layer: spectra of the gradients of attention's projections (arXiv:2410.23743).
// T tokens, m output features, n input features; G = Aᵀ B [m, n] with A = dL/d(output) [T, m] and B = input [T, n]
internal import Glibc
public import Tensors

/// What is kept of the gradient of one weight matrix.
public struct GradientSpectrum: Sendable, Equatable {
    /// Singular values, descending; those beyond T are zero and left out where T < min(m, n) / 2.
    public let singularValues: [Float]
    /// min(m, n)
    public let rankBound: Int
    /// Mean, smallest and largest entry of G, and `√(Σ G²)`.
    public let mean: Double, min: Double, max: Double, frobenius: Double

    /// Nuclear norm s = Σ σ.
    public var nuclear: Double { singularValues.reduce(0) { $0 + Double($1) } }
    public var sigmaMax: Double { Double(singularValues.first ?? 0) }
    public var sigmaMin: Double { singularValues.count < rankBound ? 0 : Double(singularValues.last ?? 0) }
    /// σ₁ / s: 1 for a matrix of rank one; 0 for a zero matrix.
    public var ratio: Double { nuclear > 0 ? sigmaMax / nuclear : 0 }
    /// exp(-Σ p ln p) with p = σ / s (Roy and Vetterli 2007; arXiv:2504.10766): 1 for rank one; 0 for a zero matrix.
    public var effectiveRank: Double {
        let s = nuclear
        guard s > 0 else { return 0 }
        return exp(-singularValues.reduce(0) { $1 > 0 ? $0 + Double($1) / s * log(Double($1) / s) : $0 })
    }
}

/// How singular values are computed.
package enum SpectrumPath { case automatic, direct, core }

extension GradientSpectrum {
    /// The spectrum of `G = Aᵀ B`, in fp32 (fp64 for fp64). Neither U nor V is formed.
    ///
    /// With few tokens (T < min(m, n) / 2) from a small matrix: with `Aᵀ = Q₁ R₁` and `Bᵀ = Q₂ R₂` it is
    /// `G = Q₁ (R₁ R₂ᵀ) Q₂ᵀ`, so the T x T core has the same nonzero singular values.
    ///
    /// - Returns: nil when an entry of G is not finite.
    public init?(outputGradient A: Tensor, input B: Tensor) { self.init(outputGradient: A, input: B, path: .automatic) }

    package init?(outputGradient A: Tensor, input B: Tensor, path: SpectrumPath) {
        let (T, m) = A.shape2, n = B.shape2.1
        rankBound = Swift.min(m, n)
        let G = A.transpose(0, 1).matmul(B)  // [m, n]: a product costs less than one of the decompositions
        guard let entries = Entries(G) else { return nil }
        (mean, min, max, frobenius) = (entries.mean, entries.min, entries.max, entries.frobenius)
        let usesCore = path == .automatic ? 2 * T < rankBound : path == .core
        let matrix = usesCore ? Self.core(A, B) : G
        singularValues = matrix.singularValues().values(Float.self)
    }

    private static func core(_ A: Tensor, _ B: Tensor) -> Tensor {
        let left = A.transpose(0, 1).triangularFactor(), right = B.transpose(0, 1).triangularFactor()  // [T, T] for T < m, n
        return left.matmul(right.transpose(0, 1))
    }
}

/// One pass over the entries of a matrix; sums in fp64.
private struct Entries {
    var mean = 0.0, min = Double.infinity, max = -Double.infinity, frobenius = 0.0

    init?(_ matrix: Tensor) {
        let values = matrix.values(Float.self)
        var low = Float.infinity, high = -Float.infinity, sum = 0.0, squares = 0.0
        for value in values {
            low = Swift.min(low, value)
            high = Swift.max(high, value)
            sum += Double(value)
            squares += Double(value) * Double(value)
        }
        // A NaN is lost in min and max, never in the sums.
        guard squares.isFinite, !values.isEmpty else { return nil }
        (min, max, mean, frobenius) = (Double(low), Double(high), sum / Double(values.count), squares.squareRoot())
    }
}
