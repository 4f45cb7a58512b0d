// Singular values, thin SVD and the triangular factor, against what defines them.
import Tensors
import TestSupport
import Testing

@Suite struct DecompositionTests {
    private func largestDifference(_ a: Tensor, _ b: Tensor) -> Double { (a - b).maxAbs().item }

    @Test(arguments: [[3, 5], [5, 3], [4, 4], [1, 6]])
    func singularVectorsRebuildTheMatrix(_ shape: [Int]) {
        let a = normal64(shape, seed: 1), K = shape.min()!
        let (u, s, vh) = a.singularValueDecomposition()
        #expect(u.shape == [shape[0], K] && s.shape == [K] && vh.shape == [K, shape[1]])
        #expect(largestDifference((u * s).matmul(vh), a) < 1e-12)
        #expect(largestDifference(u.transpose(0, 1).matmul(u), identity(K)) < 1e-12)
        #expect(largestDifference(vh.matmul(vh.transpose(0, 1)), identity(K)) < 1e-12)
        #expect(largestDifference(a.singularValues(), s) < 1e-12)
        let values = s.values(Double.self)
        #expect(values == values.sorted(by: >))
    }

    /// diag(3, -2, 1) between two rotations has the singular values 3, 2, 1.
    @Test func signsAndOrderOfSingularValues() {
        let values = Tensor([1, 0, 0, 0, -2, 0, 0, 0, 3] as [Double], [3, 3]).singularValues().values(Double.self)
        #expect(zip(values, [3, 2, 1]).allSatisfy { abs($0 - $1) < 1e-14 })
    }

    @Test(arguments: [[6, 3], [3, 6]])
    func triangularFactorKeepsTheGram(_ shape: [Int]) {
        let a = normal64(shape, seed: 2), r = a.triangularFactor()
        #expect(r.shape == [shape.min()!, shape[1]])
        #expect(largestDifference(r.transpose(0, 1).matmul(r), a.transpose(0, 1).matmul(a)) < 1e-12)
        let rows = r.values(Double.self)
        for i in 0..<r.shape[0] { for j in 0..<i { #expect(rows[i * shape[1] + j] == 0) } }
    }

    @Test func nonFiniteInputFails() {
        #expect(throws: EngineError.self) {
            try catchingEngineErrors { _ = Tensor([1, .nan, 0, 1] as [Float], [2, 2]).singularValues() }
        }
    }

    private func identity(_ n: Int) -> Tensor {
        Tensor((0..<n * n).map { $0 % (n + 1) == 0 ? 1.0 : 0.0 }, [n, n])
    }
}
