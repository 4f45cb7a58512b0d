// Products of the sizes that may go to another library than ATen's choice, in each place where a product is made.
// N tokens, I inputs, O outputs, r rank
import Tensors
import TestSupport
import Testing

/// N·I·O lies above what sends a product there, N·I·r below.
@Suite struct ProductTests {
    private let N = 129, I = 131, O = 130, r = 33

    private func agrees(_ x: Tensor, _ expected: Tensor, sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(x.shape == expected.shape, sourceLocation: sourceLocation)
        #expect(relativeDifference(x.to(.float64), expected) < 3e-6, sourceLocation: sourceLocation)
    }

    private func trained(_ values: [Tensor], _ dtype: DType) -> [Tensor] {
        let leaves = values.map { $0.to(dtype).clone() }
        for leaf in leaves { leaf.requiresGradient = true }
        return leaves
    }

    @Test func squareProductsAgreeWithFP64InEveryLayout() {
        let a = normal64([N, I], seed: 1), b = normal64([I, O], seed: 2)
        let expected = a.matmul(b), x = a.to(.float32), y = b.to(.float32)
        let across = { (t: Tensor) in t.transpose(0, 1).contiguous().transpose(0, 1) }
        withoutGradients {
            for (left, right) in [(x, y), (across(x), y), (x, across(y)), (across(x), across(y))] {
                agrees(left.matmul(right), expected)
            }
            // A part of a larger matrix: its rows lie further apart than they are long.
            let wide = Tensor.cat([x, x], dim: 1).narrow(1, I, I)
            agrees(wide.matmul(y), expected)
        }
    }

    @Test func linearWithBiasAddsItsGradientsToTheLeaves() {
        let values = [normal64([N, I], seed: 3), normal64([O, I], seed: 4), normal64([O], seed: 5)]
        let weights = normal64([N, O], seed: 6)
        let gradients = [DType.float32, .float64].map { dtype in
            let leaves = trained(values, dtype)
            for _ in 0..<2 {
                (linear(leaves[0], leaves[1], leaves[2]) * weights.to(dtype)).sum().backward()
            }
            return [linear(leaves[0], leaves[1], leaves[2]).detached()] + leaves.map { $0.gradient! }
        }
        for (narrow, wide) in zip(gradients[0], gradients[1]) { agrees(narrow, wide) }
    }

    @Test func adaptersAgreeWithFP64() {
        let values = [normal64([N, I], seed: 7), normal64([r, I], seed: 8), normal64([O, r], seed: 9)]
        let frozen = normal64([O, I], seed: 10), weights = normal64([N, O], seed: 11)
        let results = [DType.float32, .float64].map { dtype in
            let leaves = trained(values, dtype)
            let y = adaptedLinear(
                leaves[0], frozen.to(dtype), a: leaves[1], aCopy: nil, b: leaves[2], bCopy: nil, scaling: 0.25)
            (y * weights.to(dtype)).sum().backward()
            return [y.detached()] + leaves.map { $0.gradient! }
        }
        for (narrow, wide) in zip(results[0], results[1]) { agrees(narrow, wide) }
    }
}
