// Parts of adapters that goldens do not reach: dropout, and how modules list what they hold.
import Layers
import RandomStreams
import Tensors
import TestSupport
import Testing

@Suite struct AdapterTests {
    private func adapted(dropout: Double, hasMagnitude: Bool) -> Linear {
        let linear = Linear(40, 5, .float32, on: .cpu)
        linear.weight.value.copyInPlace(filled([5, 40], 0, scale: 1))
        let adapter = LowRankAdapter(
            on: linear, rank: 3, scaling: 2, dropout: dropout, hasMagnitude: hasMagnitude,
            initialization: RandomStream(seed: 1, 1))
        adapter.b.value.copyInPlace(filled([5, 3], 1, scale: 1))
        linear.adapter = adapter
        return linear
    }

    @Test(arguments: [false, true]) func dropoutComesFromItsStream(_ hasMagnitude: Bool) {
        let linear = adapted(dropout: 0.5, hasMagnitude: hasMagnitude), x = filled([4, 40], 2, scale: 1)
        func output(_ stream: RandomStream?) -> [Float] {
            linear.adapter!.dropoutStream = stream
            return linear(x).values(Float.self)
        }
        let off = output(nil), one = output(RandomStream(seed: 1, 5))
        #expect(one == output(RandomStream(seed: 1, 5)))
        #expect(one != output(RandomStream(seed: 1, 6)) && one != off)
        let plain = adapted(dropout: 0, hasMagnitude: hasMagnitude)
        plain.adapter!.dropoutStream = RandomStream(seed: 1, 5)
        #expect(plain(x).values(Float.self) == off)
    }

    /// Inputs are dropped and the others scaled, so that the mean over many masks is the output without.
    @Test func dropoutKeepsTheMeanAndTheBasesShare() {
        let linear = adapted(dropout: 0.25, hasMagnitude: false), x = filled([1, 40], 2, scale: 1)
        let without = linear(x), base = Tensors.linear(x, linear.weight.value)
        let draws = 4000
        var mean = Tensor.zeros([1, 5])
        for draw in 0..<draws {
            linear.adapter!.dropoutStream = RandomStream(seed: 2, UInt64(draw))
            mean = mean + linear(x) / Double(draws)
        }
        // The adapter's own share is what moves; its standard error is below 1 % here.
        #expect((mean - without).maxAbs().item < 0.05 * (without - base).maxAbs().item)
    }

    /// Output and gradients are those of a mask, written out: backward makes the same one.
    @Test func dropoutIsAMaskInBackwardToo() {
        let linear = adapted(dropout: 0.25, hasMagnitude: false), adapter = linear.adapter!
        let stream = RandomStream(seed: 3, 8), trained = adapter.namedParameters()
        for (_, parameter) in trained { parameter.isTrained = true }
        adapter.dropoutStream = stream
        let mask = Tensor(stream.uniform(6 * 40).map { $0 < 0.25 ? 0 : Float(1 / 0.75) }, [6, 40])
        func pass(_ output: (Tensor) -> Tensor) -> [Tensor] {
            let x = filled([6, 40], 2, scale: 1)
            x.requiresGradient = true
            let y = output(x)
            (y * filled([6, 5], 3, scale: 1)).sum().backward()
            return [y, x.gradient!] + takeGradients(trained)
        }
        let found = pass { linear($0) }
        let expected = pass { x in
            let low = Tensors.linear(Tensors.linear(x * mask, adapter.a.value), adapter.b.value)
            return Tensors.linear(x, linear.weight.value) + low * 2
        }
        for (a, b) in zip(found, expected) { #expect(relativeDifference(a, b) < 1e-6) }
    }

    /// DoRA's norms are made once an update: each kind of change of A and B makes new ones.
    @Test func normsFollowEveryChange() {
        let linear = adapted(dropout: 0, hasMagnitude: true), adapter = linear.adapter!
        let x = filled([4, 40], 2, scale: 1)
        func step(_ parameter: Parameter) {
            let gradient = filled(parameter.shape, 4, scale: 1)
            let numbers = AdamWStep(
                1, learningRate: 0.5, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0, gradientScale: 1)
            parameter.update {
                adamWInPlace(
                    $0, gradient: gradient, firstMoment: .zeros(parameter.shape),
                    secondMoment: .zeros(parameter.shape), numbers)
            }
        }
        let changes: [() -> Void] = [
            {}, {}, { step(adapter.a) }, { step(adapter.b) }, { adapter.a.fill(filled([3, 40], 5, scale: 1)) },
            { adapter.b.replace(with: filled([5, 3], 6, scale: 2)) },
        ]
        for (i, change) in changes.enumerated() {
            change()
            let expected = Tensors.linear(x, adapter.merged(linear.weight))
            #expect(relativeDifference(linear(x), expected) < 1e-5, "change \(i)")
        }
    }

    /// A frozen matrix that is taken in several parts: 4 MiB hold 1,024 rows of 1,024 numbers.
    @Test(arguments: [DType.float32, .bfloat16]) func normsOfManyRows(_ dtype: DType) {
        let linear = Linear(1024, 1030, dtype, on: .cpu)
        linear.weight.value.copyInPlace(filled([1030, 1024], 0, scale: 1))
        let adapter = LowRankAdapter(
            on: linear, rank: 2, scaling: 1, dropout: 0, hasMagnitude: true,
            initialization: RandomStream(seed: 1, 1))
        linear.adapter = adapter
        let W = linear.weight.value.to(.float32), norms = W.pow(2).sum(dim: 1).sqrt()
        #expect(relativeDifference(adapter.magnitude!.value, norms) < 1e-6)
        adapter.b.value.copyInPlace(filled([1030, 2], 1, scale: 1))
        let x = filled([3, 1024], 2, scale: 1).to(dtype)
        let expected = Tensors.linear(x.to(.float32), adapter.merged(linear.weight))
        #expect(relativeDifference(linear(x).to(.float32), expected) < (dtype == .float32 ? 1e-5 : 2e-2))
    }

    @Test func namesAreDottedInOrder() {
        let tree = ModuleList([Linear(2, 3, bias: true, .float32, on: .cpu), Linear(2, 3, .float32, on: .cpu)])
        #expect(
            tree.namedParameters(prefix: "layers.").map(\.name) == [
                "layers.0.weight", "layers.0.bias", "layers.1.weight",
            ])
        #expect(tree.namedModules(path: "layers").map(\.name) == ["layers", "layers.0", "layers.1"])
    }

    @Test func aReplacedParameterStaysTrained() {
        let parameter = Parameter(.zeros([2, 3]))
        parameter.isTrained = true
        parameter.replace(with: .ones([4, 3]))
        #expect(parameter.isTrained && parameter.shape == [4, 3])
        (parameter.value.sum() * 2).backward()
        #expect(parameter.value.gradient!.values(Float.self) == Array(repeating: 2, count: 12))
    }
}
