// Products with packed weights against dense products of the decoded numbers, alone and under adapters.
import Layers
import RandomStreams
import Tensors
import TestSupport
import Testing

@Suite struct PackedLinearTests {
    /// A linear map of noise, quantised, and one that holds the decoded numbers.
    private func pair(
        _ O: Int, _ I: Int, _ form: PackedWeight.Quantised, _ dtype: DType = .float32, bias: Bool = false
    ) -> (packed: Linear, dense: Linear) {
        let numbers = filled([O, I], O + I, scale: 0.3), packed = PackedWeight(numbers, as: form)!
        let maps = (0..<2).map { _ in Linear(I, O, bias: bias, dtype, on: .cpu) }
        maps[0].weight.replace(with: packed)
        maps[1].weight.value.copyInPlace(packed.decoded(in: dtype))
        if bias { for map in maps { map.bias!.value.copyInPlace(filled([O], 3, scale: 1)) } }
        return (maps[0], maps[1])
    }

    private func attach(_ linear: Linear, hasMagnitude: Bool = false, rank: Int = 3) -> LowRankAdapter {
        let adapter = LowRankAdapter(
            on: linear, rank: rank, scaling: 2, dropout: 0, hasMagnitude: hasMagnitude,
            initialization: RandomStream(seed: 1, 1))
        adapter.b.value.copyInPlace(filled([linear.outFeatures, rank], 1, scale: 1))
        for (_, parameter) in adapter.parameters { parameter.isTrained = true }
        linear.adapter = adapter
        return adapter
    }

    /// Output and the gradients of the input and of what is trained, of a weighted sum of the output.
    private func pass(_ linear: Linear, _ input: Tensor) -> [Tensor] {
        let x = input.clone()
        x.requiresGradient = true
        let y = linear(x)
        (y * filled(y.shape, 9, scale: 1).to(y.dtype)).sum().backward()
        let trained = linear.adapter?.parameters.map { ($0.key, $0.value) } ?? []
        return [y, x.gradient!] + takeGradients(trained.map { (name: $0.0, parameter: $0.1) })
    }

    /// One panel and several (two MiB of fp64 rows and columns each take more than one of four), rows that end in a block.
    @Test(arguments: [PackedWeight.Quantised.nf4, .int8], [(1, 1), (5, 63), (33, 130), (1100, 1000)])
    func productsOfDecodedNumbers(_ form: PackedWeight.Quantised, _ size: (Int, Int)) {
        let (O, I) = size
        for (dtype, tolerance) in [(DType.float32, 1e-5), (.bfloat16, 0x1p-7), (.float64, 1e-12)] {
            for bias in [false, true] {
                let maps = pair(O, I, form, dtype, bias: bias), x = filled([7, I], 2, scale: 1).to(dtype)
                for (a, b) in zip(pass(maps.packed, x), pass(maps.dense, x)) {
                    #expect(relativeDifference(a, b) < tolerance, "\(O) x \(I), \(dtype), bias \(bias)")
                }
            }
        }
    }

    /// LoRA and DoRA: outputs, row norms and every gradient.
    @Test(arguments: [PackedWeight.Quantised.nf4, .int8], [false, true])
    func adaptersDoNotSeeTheDifference(_ form: PackedWeight.Quantised, _ hasMagnitude: Bool) {
        for (dtype, tolerance) in [(DType.float32, 1e-5), (.bfloat16, 0x1p-7), (.float64, 1e-12)] {
            let maps = pair(33, 130, form, dtype, bias: true), x = filled([7, 130], 2, scale: 1).to(dtype)
            let packed = attach(maps.packed, hasMagnitude: hasMagnitude)
            let dense = attach(maps.dense, hasMagnitude: hasMagnitude)
            #expect(packed.a.value.dtype == dense.a.value.dtype)
            if hasMagnitude { #expect(relativeDifference(packed.magnitude!.value, dense.magnitude!.value) < 1e-2) }
            for (k, (a, b)) in zip(pass(maps.packed, x), pass(maps.dense, x)).enumerated() {
                #expect(relativeDifference(a, b) < tolerance * (dtype == .bfloat16 ? 4 : 1), "\(dtype), \(k)")
            }
            let (a, b) = (packed.merged(maps.packed.weight), dense.merged(maps.dense.weight))
            #expect(relativeDifference(a, b) < (dtype == .bfloat16 ? 1e-2 : 1e-6))
        }
    }

    @Test func gradientsAreFiniteDifferences() {
        let packed = PackedWeight(filled([9, 70], 1, scale: 1), as: .nf4)!
        let inputs = [normal64([4, 70], seed: 1), normal64([3, 70], seed: 3), normal64([9, 3], seed: 4)]
        let weights = normal64([4, 9], seed: 5)
        let plain = gradientError([inputs[0]]) { (linear($0[0], packed) * weights).sum() }
        #expect(plain < 1e-6)
        for dropout in [nil, Dropout(RandomStream(seed: 1, 2), probability: 0.3)] {
            let adapted = gradientError(inputs) {
                let y = adaptedLinear(
                    $0[0], packed, a: $0[1], aCopy: nil, b: $0[2], bCopy: nil, scaling: 0.7, dropout: dropout)
                return (y * weights).sum()
            }
            #expect(adapted < 1e-6)
        }
    }

    /// Bits a number: 4 and 8 bits of a scale for 64, one step for 256 of them, one mean.
    @Test func bytes() {
        let matrix = filled([64, 640], 1, scale: 1)
        #expect(PackedWeight(matrix, as: .nf4)!.byteCount == 64 * 640 / 2 + 640 + 4 * 3)
        #expect(PackedWeight(matrix, as: .int8)!.byteCount == 64 * 640 / 32 * 34)
        #expect(PackedWeight.Format.nf4.bytes(ofRow: 640) == 330 && PackedWeight.Format.nf4.bytes(ofRow: 65) == 66)
        #expect(PackedWeight.Format.q8_0.bytes(ofRow: 33) == 68 && PackedWeight.Format.float16.bytes(ofRow: 3) == 6)
    }

    @Test func whatCannotBeStoredIsRefused() {
        for number in [Float.nan, .infinity, -.infinity] {
            let matrix = Tensor([number, 1, 2, 3], [2, 2])
            #expect(PackedWeight(matrix, as: .nf4) == nil && PackedWeight(matrix, as: .int8) == nil)
        }
        let large = Tensor([Float(1e7), 1, 2, 3], [2, 2])
        #expect(PackedWeight(large, as: .nf4) != nil && PackedWeight(large, as: .int8) == nil)
        let blocks = Tensor.empty([2, 34], .uint8)
        #expect(PackedWeight(.q8_0, rows: 2, columns: 32, blocks: blocks) != nil)
        #expect(PackedWeight(.q8_0, rows: 2, columns: 31, blocks: blocks) == nil)
        #expect(PackedWeight(.q8_0, rows: 3, columns: 32, blocks: blocks) == nil)
        #expect(PackedWeight(.nf4, rows: 2, columns: 64, blocks: .empty([2, 32], .uint8)) == nil)
    }

    /// What a parameter says while a packed weight stands in its place.
    @Test func aPackedParameterKeepsItsShape() {
        let parameter = Parameter(shape: [4, 64], .bfloat16, on: .cpu)
        let packed = PackedWeight(filled([4, 64], 1, scale: 1), as: .int8)!
        parameter.replace(with: packed)
        #expect(parameter.shape == [4, 64] && parameter.dtype == .bfloat16 && !parameter.isTrained)
        #expect(parameter.packed === packed && parameter.read(in: .float32).dtype == .float32)
        parameter.replace(with: .zeros([4, 64]))
        #expect(parameter.packed == nil && parameter.dtype == .float32)
    }
}
