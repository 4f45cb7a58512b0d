// Eigenvalues and eigenvectors of small symmetric matrices by Jacobi's rotations.

/// Eigenvalues and orthonormal eigenvectors of a symmetric matrix (cyclic Jacobi; Golub & Van Loan, 8.5).
///
/// - Parameter a: `[n][n]`, symmetric.
/// - Returns: values in no particular order, and vectors as columns: `a = V diag(values) Vᵀ`.
func eigenDecomposition(_ a: [[Double]]) -> (values: [Double], vectors: [[Double]]) {
    let n = a.count
    var a = a
    var v = (0..<n).map { i in (0..<n).map { $0 == i ? 1.0 : 0 } }
    let scale = a.joined().reduce(0) { $0 + $1 * $1 }
    for _ in 0..<60 {
        var off = 0.0
        for i in 0..<n { for j in 0..<i { off += a[i][j] * a[i][j] } }
        // Rotations converge quadratically: what is left below this is rounding.
        if off <= scale * 1e-30 { break }
        for p in 0..<n {
            for q in p + 1..<max(n, p + 1) where a[p][q] != 0 {
                let theta = (a[q][q] - a[p][p]) / (2 * a[p][q])
                let t = (theta >= 0 ? 1.0 : -1.0) / (abs(theta) + (theta * theta + 1).squareRoot())
                let c = 1 / (t * t + 1).squareRoot(), s = t * c
                for k in 0..<n {
                    let (x, y) = (a[k][p], a[k][q])
                    (a[k][p], a[k][q]) = (c * x - s * y, s * x + c * y)
                }
                for k in 0..<n {
                    let (x, y) = (a[p][k], a[q][k])
                    (a[p][k], a[q][k]) = (c * x - s * y, s * x + c * y)
                }
                for k in 0..<n {
                    let (x, y) = (v[k][p], v[k][q])
                    (v[k][p], v[k][q]) = (c * x - s * y, s * x + c * y)
                }
            }
        }
    }
    return ((0..<n).map { a[$0][$0] }, v)
}
