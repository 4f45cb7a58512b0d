// Split masters: the same numbers as whole ones, bit for bit, whatever trains them.
import Formats
import Layers
import Optimizers
import Tensors
import TestSupport
import Testing

@Suite struct SplitMastersTests {
    private static let shape = [40, 130]

    enum Kind: CaseIterable { case adamw, narrow, muon }

    private func optimizer(_ kind: Kind, _ parameter: Parameter) -> any Optimizer {
        switch kind {
        case .adamw: AdamW([("w", parameter)], .init(weightDecay: 0.1))
        case .narrow: AdamW([("w", parameter)], .init(weightDecay: 0.1, hasNarrowMoments: true))
        case .muon: Muon([("w", parameter)], matrices: ["w": 2], .init(weightDecay: 0.1))
        }
    }

    /// A trained parameter that products in bf16 have read, whole or split.
    private func parameter(split: Bool, from values: Tensor = filled(shape, 1, scale: 1)) -> Parameter {
        let parameter = Parameter(values.clone())
        parameter.isTrained = true
        if split { parameter.splitMasters() }
        _ = parameter.read(in: .bfloat16)
        return parameter
    }

    private func step(_ parameter: Parameter, _ optimizer: any Optimizer, _ steps: Range<Int>) {
        let x = filled([8, 130], 2, scale: 1).to(.bfloat16)
        for step in steps {
            let y = linear(x, parameter.value, copy: parameter.copy(in: .bfloat16))
            y.backward(gradient: filled([8, 40], 3 + step, scale: 1).to(.bfloat16))
            optimizer.step(learningRate: 0.01, gradientScale: 0.5)
            optimizer.zeroGradients()
        }
    }

    @Test(arguments: Kind.allCases) func trainAsWholeOnes(_ kind: Kind) {
        let whole = parameter(split: false), split = parameter(split: true)
        let first = optimizer(kind, whole), second = optimizer(kind, split)
        step(whole, first, 0..<5)
        step(split, second, 0..<5)
        #expect(split.masters.values(Float.self) == whole.masters.values(Float.self))
        #expect(whole.masters.values(Float.self) != filled(Self.shape, 1, scale: 1).values(Float.self))
        // What products see is the bf16 number nearest to the master; of two, the other one.
        let seen = [split, whole].map { $0.read(in: .bfloat16).values(Float.self) }
        for (i, master) in whole.masters.values(Float.self).enumerated() where seen[0][i] != seen[1][i] {
            #expect(master.bitPattern & 0xFFFF == 0x8000)
        }
        for (a, b) in zip(first.state, second.state) {
            #expect(
                a.name == b.name && a.tensor.to(.float32).values(Float.self) == b.tensor.to(.float32).values(Float.self)
            )
        }
    }

    /// A run saved with one layout goes on in the other, through a file of fp32 numbers.
    @Test(arguments: Kind.allCases, [false, true]) func aCheckpointFitsBoth(_ kind: Kind, _ toSplit: Bool) throws {
        let start = parameter(split: !toSplit), other = parameter(split: toSplit, from: .zeros(Self.shape))
        let first = optimizer(kind, start), second = optimizer(kind, other)
        step(start, first, 0..<3)
        let saved = Dictionary(uniqueKeysWithValues: first.state.map { ($0.name, $0.tensor.clone()) })
        other.fill(fromFile: start.masters)
        try second.restore(steps: first.steps) { saved[$0]! }
        step(start, first, 3..<6)
        step(other, second, 3..<6)
        #expect(other.masters.values(Float.self) == start.masters.values(Float.self))
    }

    /// The leaf is bf16, its gradient is not: sums over micro-batches lose nothing.
    @Test func gradientsAreFP32() throws {
        let whole = parameter(split: false), split = parameter(split: true), ids = Tensor([3, 7, 3] as [Int64])
        for parameter in [whole, split] {
            let copy = parameter.copy(in: .bfloat16)
            for k in 0..<3 {
                let x = filled([8, 130], 20 + k, scale: 1).to(.bfloat16)
                linear(x, parameter.value, copy: copy)
                    .backward(gradient: filled([8, 40], 30 + k, scale: 1).to(.bfloat16))
                embedding(parameter.value, ids, copy: copy)
                    .backward(gradient: filled([3, 130], 40 + k, scale: 1e-3).to(.bfloat16))
                linearCrossEntropySum(x, parameter.value, copy: copy, labels: Tensor((0..<8).map { Int64($0) }))
                    .backward()
            }
        }
        let gradient = try #require(split.value.gradient)
        #expect(split.value.dtype == .bfloat16 && gradient.dtype == .float32)
        #expect(gradient.values(Float.self) == whole.value.gradient!.values(Float.self))
        #expect(gradient.values(Float.self) != gradient.to(.bfloat16).values(Float.self))
    }

    /// One product's gradient is kept as the product has rounded it: wider memory would hold the same numbers.
    @Test(arguments: Kind.allCases) func aFirstProductIsNotWidened(_ kind: Kind) throws {
        let x = filled([8, 130], 20, scale: 1).to(.bfloat16), dy = filled([8, 40], 30, scale: 1).to(.bfloat16)
        let found = try [false, true].map { split in
            let parameter = parameter(split: split), optimizer = optimizer(kind, parameter)
            linear(x, parameter.value, copy: parameter.copy(in: .bfloat16)).backward(gradient: dy)
            let gradient = try #require(parameter.value.gradient), values = gradient.values(Float.self)
            let isRounded = gradient.to(.bfloat16).values(Float.self) == values  // not where a kernel sums in fp32
            #expect(gradient.dtype == (split && isRounded ? .bfloat16 : .float32))
            return (values, optimizer.gradientNorm(), optimizer.updateNorm(gradientScale: 0.5))
        }
        #expect(found[0] == found[1])
    }

    /// Whatever adds to it widens it first.
    @Test(arguments: ["linear", "loss", "embedding"]) func aSecondOneWidensIt(_ second: String) throws {
        let x = filled([8, 130], 20, scale: 1).to(.bfloat16), labels = Tensor((0..<8).map { Int64($0) })
        let gradients = try [false, true].map { split in
            let parameter = parameter(split: split), copy = parameter.copy(in: .bfloat16)
            func product(_ seed: Int) {
                let dy = filled([8, 40], seed, scale: 1).to(.bfloat16)
                linear(x, parameter.value, copy: copy).backward(gradient: dy)
            }
            product(30)
            switch second {
            case "linear": product(31)
            case "loss": linearCrossEntropySum(x, parameter.value, copy: copy, labels: labels).backward()
            default: embedding(parameter.value, labels, copy: copy).backward(gradient: x)
            }
            return try #require(parameter.value.gradient)
        }
        #expect(gradients.map(\.dtype) == [.float32, .float32])
        #expect(gradients[0].values(Float.self) == gradients[1].values(Float.self))
        #expect(gradients[0].values(Float.self) != gradients[0].to(.bfloat16).values(Float.self))
    }

    /// 4 bytes a number, none of them a copy.
    @Test func whatIsKept() {
        let parameter = parameter(split: true)
        #expect(parameter.value.dtype == .bfloat16 && parameter.dtype == .float32 && parameter.isTrained)
        #expect(parameter.copy(in: .bfloat16) == nil)
        parameter.update { masters in
            #expect(masters.low?.dtype == .int16 && masters.low?.shape == Self.shape && masters.copy == nil)
        }
        parameter.replace(with: .zeros([2, 3]))
        #expect(parameter.dtype == .float32 && parameter.value.dtype == .float32)
        parameter.update { #expect($0.low == nil) }
    }
}
