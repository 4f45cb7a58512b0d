// Decompositions of matrices, in fp32 or fp64. What they are given must be finite: LAPACK does not converge otherwise.
internal import CTorch

extension Tensor {
    /// Singular values of a matrix `[M, N]`, descending: `[min(M, N)]`. Neither U nor V is formed.
    /// - Precondition: every entry is finite.
    public func singularValues() -> Tensor {
        perform("singularValues", self) { ct_singular_values(handle, &$0) }
    }

    /// The thin singular value decomposition of a matrix `[M, N]`: `self = u · diag(s) · vh`.
    ///
    /// - Returns: u `[M, K]`, s `[K]` descending, vh `[K, N]` with K = min(M, N).
    /// - Precondition: every entry is finite.
    public func singularValueDecomposition() -> (u: Tensor, s: Tensor, vh: Tensor) {
        var parts = (ct_tensor(impl: nil), ct_tensor(impl: nil), ct_tensor(impl: nil))
        performInPlace("singularValueDecomposition", [self]) { ct_svd(handle, &parts.0, &parts.1, &parts.2) }
        return (Tensor(owning: parts.0), Tensor(owning: parts.1), Tensor(owning: parts.2))
    }

    /// R of `self = Q R` for a matrix `[M, N]`: upper triangular `[min(M, N), N]`. Q is not formed.
    public func triangularFactor() -> Tensor { perform("triangularFactor", self) { ct_qr_r(handle, &$0) } }
}
