// Gradients of every operation with a backward of our own or a composition in the shim, against finite differences.
// N tokens, H query heads, K key/value heads, E head dimension
import RandomStreams
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

    /// Both outputs count: the sum goes on beside the norm.
    @Test(arguments: [false, true]) func normsOfSums(_ centered: Bool) {
        let x = normal64([5, 8], seed: 1), added = normal64([5, 8], seed: 5)
        let weight = normal64([8], seed: 2), bias = normal64([8], seed: 3)
        func both(_ x: Tensor, _ added: Tensor, _ weight: Tensor, _ bias: Tensor) -> (sum: Tensor, normed: Tensor) {
            centered
                ? layerNorm(x, adding: added, weight, bias, epsilon: 1e-5)
                : rmsNorm(x, adding: added, weight, offset: 1, epsilon: 1e-5)
        }
        let error = gradientError([x, added, weight, bias]) {
            let (sum, normed) = both($0[0], $0[1], $0[2], $0[3])
            return weighed(normed) + (sum * sum).sum() + $0[3].sum() * (centered ? 0.0 : 1.0)
        }
        #expect(error < 1e-6)
        let (sum, normed) = both(x, added, weight, bias), plain = x + added
        #expect(sum.values(Double.self) == plain.values(Double.self))
        let alone =
            centered ? layerNorm(plain, weight, bias, epsilon: 1e-5) : rmsNorm(plain, weight, offset: 1, epsilon: 1e-5)
        #expect(normed.values(Double.self) == alone.values(Double.self))
        // Without a kernel.
        let half = both(x.to(.float16), added.to(.float16), weight, bias)
        #expect(relativeDifference(half.sum.to(.float64), sum) < 2e-3)
        #expect(relativeDifference(half.normed.to(.float64), normed) < 3e-3)
    }

    /// What a product reads is made again from norms, gates and activations, also where several products read it.
    @Test(arguments: ["rms", "layer", "sum", "silu", "gelu gate", "gelu"]) func whatIsMadeAgain(_ maker: String) {
        let x = normal64([5, 8], seed: 1), w = normal64([8], seed: 2), b = normal64([8], seed: 3)
        let maps = [normal64([6, 8], seed: 4), normal64([3, 8], seed: 5)]
        func gradients(_ selective: Bool) -> [[Double]] {
            let leaves = ([x, w, b] + maps).map { $0.clone() }
            for leaf in leaves { leaf.requiresGradient = true }
            let loss = selectively(selective) {
                var (x, rest) = (leaves[0] * leaves[1], Tensor.zeros([5, 8], .float64))
                switch maker {
                case "rms": x = rmsNorm(x, leaves[1], offset: 1, epsilon: 1e-5)
                case "layer": x = layerNorm(x, leaves[1], leaves[2], epsilon: 1e-5)
                case "sum": (rest, x) = rmsNorm(x, adding: x, leaves[1], epsilon: 1e-5)
                case "silu": x = swiGLU(x, x + leaves[2])
                case "gelu gate": x = geGLU(x, x + leaves[2])
                default: x = gelu(x)
                }
                return weighed(linear(x, leaves[3])) + weighed(linear(x, leaves[4])) + weighed(rest)
            }
            loss.backward()
            return leaves.map { $0.gradient?.values(Double.self) ?? [] }
        }
        #expect(gradients(true) == gradients(false))
    }

    /// A rounded input is where the second run begins.
    @Test func recomputedFromARoundedInput() {
        let x = Tensor([1.0000001, 3.14159265, -2.71828] as [Float])
        x.requiresGradient = true
        recomputed(x, keptIn: .bfloat16) { $0 * $0 }.sum().backward()
        #expect(
            x.gradient!.values(Float.self) == x.detached().to(.bfloat16).to(.float32).values(Float.self).map { 2 * $0 })
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

    @Test(arguments: [nil, 0.4]) func adaptedLinearGradients(_ probability: Double?) {
        let weight = normal64([3, 5], seed: 18)
        let inputs = [normal64([4, 5], seed: 19), normal64([2, 5], seed: 20), normal64([3, 2], seed: 21)]
        let dropout = probability.map { Dropout(RandomStream(seed: 1, 22), probability: $0) }
        let error = gradientError(inputs) {
            weighed(
                adaptedLinear(
                    $0[0], weight, a: $0[1], aCopy: nil, b: $0[2], bCopy: nil, scaling: 1.7, dropout: dropout))
        }
        #expect(error < 1e-6)
    }

    /// Factors of products in bf16 and the factor behind them: one rounding, also where the scaling is no power of 2.
    @Test func gradientsOfAdaptersAreRoundedOnce() {
        let (N, I, O, r) = (24, 50, 70, 8), scaling = 1.7
        func positive(_ shape: [Int], _ stream: UInt64) -> Tensor {
            RandomStream(seed: 1, stream).uniform(shape, 0.5, 1.5).to(.bfloat16)
        }
        let x = positive([N, I], 1), weight = positive([O, I], 2), dy = positive([N, O], 3)
        let copies = [positive([r, I], 4), positive([O, r], 5)], masters = copies.map { $0.to(.float32) }
        for master in masters { master.requiresGradient = true }
        let y = adaptedLinear(
            x, weight, a: masters[0], aCopy: copies[0], b: masters[1], bCopy: copies[1], scaling: scaling)
        y.backward(gradient: dy)
        let u = linear(x, copies[0]), q = dy.matmul(copies[1])  // [N, r]
        for (master, (left, right)) in zip(masters, [(q, x), (dy, u)]) {
            let exact = left.to(.float64).transpose(0, 1).matmul(right.to(.float64)) * scaling
            let error = master.gradient!.to(.float64) / exact - .ones(exact.shape, .float64)
            // bf16 rounds by at most 2^-8; twice, some of these numbers are off by more.
            #expect(master.gradient!.dtype == .float32 && error.maxAbs().item < 1.001 * 0x1p-8)
        }
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

    /// A kernel's path and ATen's, of queries that see their whole documents.
    @Test func encoderAttention() {
        let q = normal64([7, 4, 6], seed: 46), k = normal64([7, 2, 6], seed: 47), v = normal64([7, 2, 6], seed: 48)
        let error = gradientError([q, k, v]) {
            weighed(documentAttention($0[0], $0[1], $0[2], starts: [0, 3, 7], causal: false, window: nil, scale: 0.4))
        }
        #expect(error < 1e-6)
        for cap in [nil, 0.7] {
            func attended(_ dtype: DType) -> Tensor {
                documentAttention(
                    q.to(dtype), k.to(dtype), v.to(dtype), starts: [0, 3, 7], causal: false, window: nil, scale: 0.9,
                    cap: cap)
            }
            #expect(relativeDifference(attended(.float16).to(.float64), attended(.float64)) < 3e-3)
        }
    }

    /// Gate and up as parts of one product, for both activations.
    @Test(arguments: [false, true]) func gatesOfOneProductsParts(_ isGELU: Bool) {
        let both = normal64([5, 14], seed: 27), gate = isGELU ? geGLU : swiGLU
        let parts = both.split([7, 7], 1)
        let apart = gate(parts[0].contiguous(), parts[1].contiguous())
        #expect(gate(parts[0], parts[1]).values(Double.self) == apart.values(Double.self))
        let error = gradientError([both]) {
            let parts = $0[0].split([7, 7], 1)
            return weighed(gate(parts[0], parts[1]))
        }
        #expect(error < 1e-6)
        // Another device's path: ATen's operations.
        let plain =
            isGELU ? gelu(parts[0]) * parts[1] : swiGLU(parts[0].to(.float16), parts[1].to(.float16)).to(.float64)
        #expect(relativeDifference(plain, apart) < (isGELU ? 1e-12 : 2e-3))
    }

    @Test func normsWithAnOffset() {
        let x = normal64([4, 6], seed: 28), w = normal64([6], seed: 29)
        #expect(relativeDifference(rmsNorm(x, w, offset: 1, epsilon: 1e-5), rmsNorm(x, w + 1, epsilon: 1e-5)) < 1e-14)
        let error = gradientError([x, w]) { weighed(rmsNorm($0[0], $0[1], offset: 1, epsilon: 1e-5)) }
        #expect(error < 1e-6)
    }

    @Test func exactGELUGradients() {
        #expect(gradientError([normal64([5, 7], seed: 30)]) { weighed(exactGELU($0[0])) } < 1e-6)
    }

    /// The first 4 of 6 numbers of a head turn; the last two pass.
    @Test func partsOfHeadsTurn() {
        let angles = normal64([9, 2], seed: 31), (cos, sin) = (angles, (angles.pow(2) * -1 + 1.5).exp())
        let q = normal64([3, 2, 6], seed: 32), k = normal64([3, 1, 6], seed: 33), at = Tensor([4, 0, 8] as [Int64])
        let (a, _) = rotary(q, k, cos: cos, sin: sin, at: at)
        let (b, _) = rotary(q.narrow(2, 0, 4), k.narrow(2, 0, 4), cos: cos, sin: sin, at: at)
        #expect(a.narrow(2, 0, 4).contiguous().values(Double.self) == b.values(Double.self))
        #expect(
            a.narrow(2, 4, 2).contiguous().values(Double.self) == q.narrow(2, 4, 2).contiguous().values(Double.self))
        let (half, _) = rotary(q.to(.float16), k.to(.float16), cos: cos, sin: sin, at: at)
        #expect(relativeDifference(half.to(.float64), a) < 2e-3)
        let error = gradientError([q, k]) {
            let (q, k) = rotary($0[0], $0[1], cos: cos, sin: sin, at: at)
            return weighed(q) + weighed(k)
        }
        #expect(error < 1e-6)
    }

    @Test(arguments: [2, 6]) func cappedCrossEntropyGradients(_ chunk: Int) {
        let hidden = normal64([6, 5], seed: 34), weight = normal64([11, 5], seed: 35), labels = [2, 0, 10, 5, 5, 1]
        let targets = Tensor(labels.map { Int64($0) })
        let logits = softCap(linear(hidden, weight), 1.5).logSoftmax(dim: 1)
        let plain = -logits.gather(1, targets.reshape(6, 1)).sum().item
        #expect(
            abs(linearCrossEntropySum(hidden, weight, labels: targets, cap: 1.5, chunk: chunk).item - plain) < 1e-12)
        let rows = linearLogProbabilities(hidden, weight, labels: targets, cap: 1.5, chunk: chunk)
        #expect(abs(rows.sum().item + plain) < 1e-12)
        let error = gradientError([hidden, weight]) {
            linearCrossEntropySum($0[0], $0[1], labels: targets, cap: 1.5, chunk: chunk) * 0.37
        }
        #expect(error < 1e-6)
        let half = linearCrossEntropySum(
            hidden.to(.float16), weight.to(.float16), labels: targets, cap: 1.5, chunk: chunk)
        #expect(abs(half.item - plain) < 5e-3 * plain)
    }

    /// A kernel's path and ATen's: one definition.
    @Test func cappedAttention() {
        let q = normal64([7, 4, 6], seed: 40), k = normal64([7, 2, 6], seed: 41), v = normal64([7, 2, 6], seed: 42)
        let error = gradientError([q, k, v]) {
            weighed(documentAttention($0[0], $0[1], $0[2], starts: [0, 3, 7], window: 3, scale: 0.9, cap: 2.5))
        }
        #expect(error < 1e-5)  // the cap bends, so finite differences are coarser
        func attended(_ dtype: DType, _ cap: Double?) -> Tensor {
            documentAttention(q.to(dtype), k.to(dtype), v.to(dtype), starts: [0, 7], window: nil, scale: 0.9, cap: cap)
        }
        let whole = attended(.float64, 0.7)
        #expect(relativeDifference(attended(.float16, 0.7).to(.float64), whole) < 3e-3)
        #expect(relativeDifference(attended(.float64, nil), whole) > 1e-2)
    }

    /// The newest queries of documents, in another order than their keys, against whole documents. fp16 has no kernel.
    @Test(
        arguments: [(.float64, 1e-12), (.float32, 1e-5), (.bfloat16, 2e-2), (.float16, 5e-3)] as [(DType, Double)],
        [nil, 1, 40] as [Int?])
    func continuedAttentionIsTheWholeDocuments(_ format: (DType, Double), _ window: Int?) {
        let (dtype, tolerance) = format
        let starts = [0, 70, 75, 175], order = [2, 0, 1], counts = [90, 6, 1]
        func rounded(_ heads: Int, _ seed: UInt64) -> Tensor {
            normal64([175, heads, 16], seed: seed).to(dtype).to(.float64)
        }
        let q = rounded(6, 50), k = rounded(2, 51), v = rounded(2, 52)
        func newest(_ x: Tensor) -> Tensor {
            .cat(zip(order, counts).map { x.narrow(0, starts[$0 + 1] - $1, $1) }, dim: 0)
        }
        for cap in [nil, 0.7] {
            let whole = documentAttention(q, k, v, starts: starts, window: window, scale: 0.3, cap: cap)
            let behind = continuedAttention(
                newest(q).to(dtype), k.to(dtype), v.to(dtype), starts: [0, 90, 96, 97],
                keys: order.map { starts[$0]..<starts[$0 + 1] }, window: window, scale: 0.3, cap: cap)
            #expect(relativeDifference(behind, newest(whole)) < tolerance)
        }
    }

    @Test func continuedAttentionRecordsNothing() {
        let q = Tensor.ones([1, 1, 2], .float64)
        q.requiresGradient = true
        func attended() -> Tensor {
            let k = Tensor.ones([3, 1, 2], .float64)
            return continuedAttention(q, k, k, starts: [0, 1], keys: [0..<3], window: nil, scale: 1)
        }
        #expect(throws: EngineError.self) { try catchingEngineErrors { _ = attended() } }
        #expect(withoutGradients { attended().values(Double.self) } == [1, 1])
    }

    /// Queries, keys and values as parts of one product: read where they lie.
    @Test func attentionOfOneProductsParts() {
        let qkv = normal64([7, 8, 4], seed: 26), (q, k, v) = parts(qkv)
        func parts(_ qkv: Tensor) -> (Tensor, Tensor, Tensor) {
            let parts = qkv.split([4, 2, 2], 1)
            return (parts[0], parts[1], parts[2])
        }
        func attended(_ q: Tensor, _ k: Tensor, _ v: Tensor) -> Tensor {
            documentAttention(q, k, v, starts: [0, 3, 7], window: nil, scale: 0.4)
        }
        let apart = attended(q.contiguous(), k.contiguous(), v.contiguous())
        #expect(attended(q, k, v).values(Double.self) == apart.values(Double.self))
        let error = gradientError([qkv]) {
            let (q, k, v) = parts($0[0])
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

    /// Label smoothing and z-loss, by their formulas in LibTorch's operations, with a kernel and without.
    @Test func smoothedCrossEntropy() {
        let labels = Tensor([2, 0, 10, 5, 5, 1] as [Int64]), terms = LossTerms(labelSmoothing: 0.2, zLoss: 0.05)
        let hidden = normal64([6, 5], seed: 9), weight = normal64([11, 5], seed: 10)
        func judged(_ x: Tensor, _ w: Tensor) -> Tensor {
            linearCrossEntropySum(x, w, labels: labels, cap: 3, terms: terms, chunk: 4)
        }
        /// Of hidden states that are trained, else the terms do not count.
        func loss(_ x: Tensor, _ w: Tensor) -> Tensor {
            x.requiresGradient = true
            return judged(x, w)
        }
        #expect(gradientError([hidden, weight]) { loss($0[0], $0[1]) * 0.37 } < 1e-6)
        let l = softCap(linear(hidden.detached(), weight), 3), p = l.logSoftmax(dim: 1)
        let z = l.narrow(1, 0, 1) - p.narrow(1, 0, 1), own = p.gather(1, labels.reshape(6, 1)).sum()
        let expected = own * -0.8 - p.sum() * (0.2 / 11) + (z * z).sum() * 0.05
        #expect(abs(loss(hidden, weight).item - expected.item) < 1e-12 * expected.item)
        let half = hidden.detached().to(.float16)
        let without = loss(half, weight.to(.float16))
        #expect(abs(without.item - expected.item) < 2e-3 * expected.item)
        without.backward()
        hidden.clearGradient()
        loss(hidden, weight).backward()
        #expect(relativeDifference(half.gradient!.to(.float64), hidden.gradient!) < 5e-3)
        // Where nothing is trained it is the plain loss.
        #expect(abs(judged(hidden.detached(), weight).item + own.item) < 1e-12 * abs(own.item))
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
            { Tensor.zeros([2, 4]).split([1, 2], 1)[0] },
            {
                documentAttention(
                    .zeros([3, 4, 8]), .zeros([3, 3, 8]), .zeros([3, 3, 8]), starts: [0, 3], window: nil, scale: 1)
            },
            {
                documentAttention(
                    .zeros([3, 4, 8]), .zeros([3, 2, 8]), .zeros([3, 2, 8]), starts: [0, 4], window: nil, scale: 1)
            },
            {
                documentAttention(
                    .zeros([3, 4, 8]), .zeros([3, 2, 8]), .zeros([3, 2, 8]), starts: [0, 3], causal: false, window: 2,
                    scale: 1)
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
