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

    @Test func layerNormGradients() {
        let error = gradientError([normal64([5, 8], seed: 1), normal64([8], seed: 2), normal64([8], seed: 3)]) {
            weighed(layerNorm($0[0], $0[1], $0[2], epsilon: 1e-5))
        }
        #expect(error < 1e-6)
    }

    /// fp16 has no kernel; ATen's operations must give the same numbers.
    @Test func withoutAKernelTheResultIsTheSame() {
        let x = normal64([5, 8], seed: 1).to(.float16), weight = normal64([8], seed: 2), bias = normal64([8], seed: 3)
        let norms = [DType.float16, .float64].map { layerNorm(x.to($0), weight, bias, epsilon: 1e-5).to(.float64) }
        #expect(relativeDifference(norms[0], norms[1]) < 2e-3)
        let gates = [DType.float16, .float64].map { gelu(x.to($0)).to(.float64) }
        #expect(relativeDifference(gates[0], gates[1]) < 2e-3)
        #expect(relativeDifference(gates[1], x.to(.float64)) > 0.1)
    }

    @Test func rotationGradients() {
        let cos = normal64([5, 3], seed: 3), sin = normal64([5, 3], seed: 4),
            positions = Tensor([4, 0, 2, 2] as [Int64])
        let error = gradientError([normal64([4, 2, 6], seed: 5), normal64([4, 1, 6], seed: 12)]) {
            let (q, k) = rotary($0[0], $0[1], cos: cos, sin: sin, at: positions)
            return weighed(q) + weighed(k) * 2
        }
        #expect(error < 1e-6)
    }

    @Test func gateGradients() {
        let error = gradientError([normal64([5, 7], seed: 13), normal64([5, 7], seed: 14)]) {
            weighed(swiGLU($0[0], $0[1]))
        }
        #expect(error < 1e-6)
    }

    @Test func geluGradients() {
        #expect(gradientError([normal64([5, 7], seed: 13)]) { weighed(gelu($0[0])) } < 1e-6)
    }

    @Test func linearGradients() {
        let error = gradientError([normal64([4, 5], seed: 15), normal64([3, 5], seed: 16), normal64([3], seed: 17)]) {
            weighed(linear($0[0], $0[1], $0[2]))
        }
        #expect(error < 1e-6)
    }

    @Test(arguments: [false, true]) func adaptedLinearGradients(_ drops: Bool) {
        let weight = normal64([3, 5], seed: 18), mask = normal64([4, 5], seed: 22)
        let inputs = [normal64([4, 5], seed: 19), normal64([2, 5], seed: 20), normal64([3, 2], seed: 21)]
        let error = gradientError(inputs) {
            weighed(
                adaptedLinear(
                    $0[0], dropped: drops ? $0[0] * mask : nil, weight, a: $0[1], aCopy: nil, b: $0[2], bCopy: nil,
                    scaling: 1.7))
        }
        #expect(error < 1e-6)
    }

    @Test func embeddingGradients() {
        let ids = Tensor([3, 0, 3, 1] as [Int64])
        #expect(gradientError([normal64([5, 4], seed: 23)]) { weighed(embedding($0[0], ids)) } < 1e-6)
    }

    /// A weight used twice and in two passes: its gradient is the sum, in the master's dtype though products are bf16.
    @Test func gradientsOfAMasterAddUp() {
        let weight = normal64([3, 4], seed: 24).to(.float32), x = normal64([5, 4], seed: 25).to(.bfloat16)
        weight.requiresGradient = true
        let copy = withoutGradients { weight.to(.bfloat16) }
        for _ in 0..<2 { (linear(x, weight, copy: copy).sum() + linear(x * 2, weight, copy: copy).sum()).backward() }
        let expected = (x.to(.float64).sum(dim: 0, keepDim: true) * 6).expand(3, 4).contiguous()
        #expect(weight.gradient!.dtype == .float32)
        #expect(relativeDifference(weight.gradient!, expected) < 1e-2)
    }

    @Test(arguments: [[0, 7], [0, 3, 4, 7]], [nil, 2])
    func documentAttentionGradients(_ starts: [Int], _ window: Int?) {
        let q = normal64([7, 4, 6], seed: 6), k = normal64([7, 2, 6], seed: 7), v = normal64([7, 2, 6], seed: 8)
        let error = gradientError([q, k, v]) {
            weighed(documentAttention($0[0], $0[1], $0[2], starts: starts, window: window, scale: 0.4))
        }
        #expect(error < 1e-6)
    }

    /// Queries, keys and values as parts of one product: read where they lie.
    @Test func attentionOfOneProductsParts() {
        let qkv = normal64([7, 6, 4], seed: 26), (q, k, v) = qkv.thirds(1)
        func attended(_ q: Tensor, _ k: Tensor, _ v: Tensor) -> Tensor {
            documentAttention(q, k, v, starts: [0, 3, 7], window: nil, scale: 0.4)
        }
        let apart = attended(q.contiguous(), k.contiguous(), v.contiguous())
        #expect(attended(q, k, v).values(Double.self) == apart.values(Double.self))
        let error = gradientError([qkv]) {
            let (q, k, v) = $0[0].thirds(1)
            return weighed(attended(q, k, v))
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

    /// What a kernel would read past its arrays for is refused before it.
    @Test func kernelsRefuseShapesThatCannotMeet() {
        let calls: [() -> Tensor] = [
            { rmsNorm(.zeros([2, 4]), .zeros([5]), epsilon: 1e-5) },
            { layerNorm(.zeros([2, 4]), .zeros([4]), .zeros([5]), epsilon: 1e-5) },
            { swiGLU(.zeros([2, 4]), .zeros([2, 3])) },
            { Tensor.zeros([2, 4]).thirds(1).0 },
            {
                documentAttention(
                    .zeros([3, 4, 8]), .zeros([3, 3, 8]), .zeros([3, 3, 8]), starts: [0, 3], window: nil, scale: 1)
            },
            {
                documentAttention(
                    .zeros([3, 4, 8]), .zeros([3, 2, 8]), .zeros([3, 2, 8]), starts: [0, 4], window: nil, scale: 1)
            },
            { linearCrossEntropySum(.zeros([2, 4]), .zeros([5, 4]), labels: Tensor([0, 5] as [Int64])) },
            { linearLogProbabilities(.zeros([2, 4]), .zeros([5, 4]), labels: Tensor([0, -1] as [Int64])) },
            { embedding(.zeros([5, 4]), Tensor([0, 1] as [Int64]).to(.int32)) },
            {
                rotary(
                    .zeros([2, 1, 4]), .zeros([2, 1, 4]), cos: .zeros([9, 2]), sin: .zeros([9, 2]), at: .arange(8..<10)
                ).q
            },
            {
                rotary(
                    .zeros([2, 1, 4]), .zeros([2, 1, 4]), cos: .zeros([9, 3]), sin: .zeros([9, 3]), at: .arange(0..<2)
                ).q
            },
        ]
        for call in calls { #expect(throws: EngineError.self) { try catchingEngineErrors { _ = call() } } }
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
