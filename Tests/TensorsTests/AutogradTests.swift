// Gradients of every operation with a backward of our own or a composition in the shim, against finite differences.
// N tokens, H query heads, K key/value heads, E head dimension
import Tensors
import TestSupport
import Testing

@Suite struct AutogradTests {
    /// Weighs the outputs unevenly, so that a gradient in the wrong place is seen.
    private func weighed(_ x: Tensor) -> Tensor { (x * normal64(x.shape, seed: 99)).sum() }

    @Test func rmsNormGradients() {
        let error = gradientError([normal64([5, 8], seed: 1), normal64([8], seed: 2)]) {
            weighed(rmsNorm($0[0], $0[1], epsilon: 1e-5))
        }
        #expect(error < 1e-6)
    }

    @Test func rotationGradients() {
        let cos = normal64([4, 6], seed: 3), sin = normal64([4, 6], seed: 4)
        #expect(
            gradientError([normal64([4, 2, 6], seed: 5)]) { weighed(rotateHalf($0[0], cos: cos, sin: sin)) } < 1e-6)
    }

    @Test(arguments: [[0, 7], [0, 3, 4, 7]], [nil, 2])
    func documentAttentionGradients(_ starts: [Int], _ window: Int?) {
        let q = normal64([7, 4, 6], seed: 6), k = normal64([7, 2, 6], seed: 7), v = normal64([7, 2, 6], seed: 8)
        let error = gradientError([q, k, v]) {
            weighed(documentAttention($0[0], $0[1], $0[2], starts: starts, window: window, scale: 0.4))
        }
        #expect(error < 1e-6)
    }

    @Test(arguments: [1, 3, 16])
    func linearCrossEntropyGradients(_ chunk: Int) {
        let labels = Tensor([2, 0, 10, 5, 5, 1] as [Int64])
        let error = gradientError([normal64([6, 5], seed: 9), normal64([11, 5], seed: 10)]) {
            linearCrossEntropySum($0[0], $0[1], labels: labels, chunk: chunk) * 0.37
        }
        #expect(error < 1e-6)
    }

    @Test func chunkedCrossEntropyEqualsTheUnchunkedOne() {
        let hidden = normal64([6, 5], seed: 9), weight = normal64([11, 5], seed: 10)
        let labels = Tensor([2, 0, 10, 5, 5, 1] as [Int64])
        let plain = -linear(hidden, weight).logSoftmax(dim: 1).gather(1, labels.reshape(6, 1)).sum().item
        for chunk in [1, 4, 100] {
            #expect(
                abs(linearCrossEntropySum(hidden, weight, labels: labels, chunk: chunk).item - plain) < 1e-12
                    * abs(plain))
        }
        let rows = linearLogProbabilities(hidden, weight, labels: labels, chunk: 4).values(Double.self)
        #expect(abs(rows.reduce(0, +) + plain) < 1e-12 * abs(plain))
    }

    @Test func customFunctionRunsItsBackward() {
        // x³ with the derivative written by hand; a wrong factor would give an error of a third.
        func cube(_ x: Tensor) -> Tensor {
            customFunction(
                [x], forward: { ([$0[0] * $0[0] * $0[0]], [$0[0]]) }, backward: { [$0[0] * $0[0] * $1[0] * 3] })[0]
        }
        #expect(gradientError([normal64([7], seed: 11)]) { weighed(cube($0[0])) } < 1e-6)
    }

    @Test func failureInACustomBackwardIsReported() {
        let x = Tensor([1, 2] as [Float])
        x.requiresGradient = true
        #expect(throws: EngineError.self) {
            try catchingEngineErrors {
                let y = customFunction(
                    [x], forward: { ([$0[0] * 2], []) }, backward: { [$1[0].matmul(.zeros([3, 3]))] })
                y[0].sum().backward()
            }
        }
    }

    private final class Witness {}

    /// What a backward closure holds goes with the graph, whether backward ran, was never asked for, or was not recorded.
    @Test(arguments: [(true, true), (true, false), (false, false)]) func theBackwardIsReleased(
        _ isRecorded: Bool, _ runs: Bool
    ) {
        weak var witness: Witness?
        do {
            let x = Tensor([1, 2] as [Float]), held = Witness()
            x.requiresGradient = isRecorded
            witness = held
            let y = customFunction([x], forward: { ([$0[0] * 2], []) }) { _, gradients in
                withExtendedLifetime(held) { [gradients[0] * 2] }
            }
            if runs { y[0].sum().backward() }
        }
        #expect(witness == nil)
    }

    @Test func nothingIsRecordedWithoutGradients() {
        let x = Tensor([1, 2] as [Float])
        x.requiresGradient = true
        #expect(!withoutGradients { x * 2 }.requiresGradient)
        #expect(withoutGradients { withGradients { x * 2 } }.requiresGradient)
        #expect((x * 2).requiresGradient)
    }
}

/// Counts handles of the whole process, so it must not run beside other tests.
@Suite(.serialized) struct ErrorTests {
    @Test func firstFailureOfAScopeIsThrownWithItsOperands() {
        #expect {
            try catchingEngineErrors {
                let broken = Tensor.zeros([2, 3]).matmul(.zeros([4, 5]))
                _ = broken.shape2  // defined after a failure
                _ = (broken + 1).reshape(3, 3).values(Float.self)
            }
        } throws: { error in
            let text = "\(error)"
            return text.contains("matmul(float32[2, 3], float32[4, 5])") && text.contains("shapes cannot be multiplied")
        }
    }

    @Test func outOfMemoryIsTold() {
        #expect {
            try catchingEngineErrors { _ = Tensor.zeros([1 << 46]) }
        } throws: { ($0 as? EngineError)?.isOutOfMemory == true }
    }

    @Test func shapesThatCannotMeetStopTheProgram() async {
        await #expect(processExitsWith: .failure) { _ = Tensor.zeros([2, 3]).matmul(.zeros([4, 5])) }
    }

    @Test func valuesSurviveTheRoundTrip() {
        #expect(Tensor([1.5, -2, 3] as [Float], [3, 1]).to(.bfloat16).values(Float.self) == [1.5, -2, 3])
        #expect(Tensor.arange(2..<5).values(Int64.self) == [2, 3, 4])
        #expect(Tensor.full([2], 7, .int32).item(at: 1) == 7)
    }
}

extension Tensor {
    fileprivate func item(at i: Int) -> Double { narrow(0, i, 1).item }
}
