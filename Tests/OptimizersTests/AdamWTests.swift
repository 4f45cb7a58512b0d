// AdamW and clipping against torch (Tests/RecipesTests/Fixtures/make_goldens.py).
import Formats
import Layers
import Optimizers
import Tensors
import TestSupport
import Testing

/// The goldens of training, which the recipes' tests share.
func trainingGoldens() throws -> JSONValue {
    try golden(
        "training_goldens.json",
        besideFile: joinPath(parentFolder(of: parentFolder(of: #filePath)), "RecipesTests/here"))
}

/// A trained parameter of these values.
func trained(_ values: [Double], _ shape: [Int], _ dtype: DType = .float64) -> Parameter {
    let parameter = Parameter(Tensor(values, shape).to(dtype))
    parameter.isTrained = true
    return parameter
}

extension Parameter {
    /// Leaves `gradient` as backward would.
    func setGradient(_ gradient: [Double]) {
        value.clearGradient()
        (value * Tensor(gradient, shape).to(value.dtype)).sum().backward()
    }
}

@Suite struct AdamWTests {
    private func settings(_ golden: JSONValue) -> AdamW.Settings {
        .init(
            beta1: golden["beta1"]!.double!, beta2: golden["beta2"]!.double!, epsilon: golden["eps"]!.double!,
            weightDecay: golden["weight_decay"]!.double!)
    }

    @Test(arguments: 0..<3, [DType.float64, .float32]) func equalsTorch(_ index: Int, _ dtype: DType) throws {
        let cases = try trainingGoldens()["adamw"]!.array!, golden = cases[index],
            tolerance = dtype == .float64 ? 1e-12 : 1e-6
        #expect(cases.count == 3)
        let weight = trained(golden["start"]!.flatNumbers, [2, 3], dtype)
        let optimizer = AdamW([("w", weight)], settings(golden))
        for (step, rate) in golden["learning_rates"]!.flatNumbers.enumerated() {
            weight.setGradient(golden["gradients"]!.array![step].flatNumbers)
            optimizer.step(learningRate: rate)
            let expected = golden["weights_after"]!.array![step].flatNumbers
            for (a, b) in zip(weight.value.values(Double.self), expected) { #expect(abs(a - b) < tolerance) }
        }
        for (name, key) in [("exp_avg.w", "first_moment"), ("exp_avg_sq.w", "second_moment")] {
            let moment = optimizer.state.first { $0.name == name }!.tensor
            #expect(relativeDifference(moment, Tensor(golden[key]!.flatNumbers, [2, 3])) < tolerance)
        }
    }

    @Test func vectorsDoNotDecay() throws {
        let golden = try trainingGoldens()["adamw"]!.array![0]  // weight decay 0.1
        func end(_ shape: [Int], _ settings: AdamW.Settings) -> [Double] {
            let weight = trained(golden["start"]!.flatNumbers, shape), optimizer = AdamW([("w", weight)], settings)
            for gradient in golden["gradients"]!.array! {
                weight.setGradient(gradient.flatNumbers)
                optimizer.step(learningRate: 1e-3)
            }
            return weight.value.values(Double.self)
        }
        var plain = settings(golden)
        plain.weightDecay = 0
        #expect(end([6], settings(golden)) == end([6], plain))
        #expect(end([2, 3], settings(golden)) != end([2, 3], plain))
        #expect(end([6], plain) == end([2, 3], plain))
    }

    @Test func aParameterWithoutAGradientStays() {
        let used = trained([1, 2], [1, 2]), unused = trained([3, 4], [1, 2])
        let optimizer = AdamW([("used", used), ("unused", unused)], .init(weightDecay: 0.5))
        used.setGradient([1, 1])
        optimizer.step(learningRate: 0.1)
        #expect(unused.value.values(Double.self) == [3, 4] && used.value.values(Double.self) != [1, 2])
    }

    @Test(arguments: [DType.float32, .float64]) func savedStateContinuesBitForBit(_ dtype: DType) throws {
        func gradient(_ step: Int) -> [Double] { filled([12], step, scale: 2).values(Double.self) }
        func make(_ values: [Double]) -> ([Parameter], AdamW) {
            let parameters = [trained(Array(values[..<8]), [2, 4], dtype), trained(Array(values[8...]), [4], dtype)]
            return (parameters, AdamW([("a", parameters[0]), ("b", parameters[1])], .init(weightDecay: 0.1)))
        }
        func step(_ parameters: [Parameter], _ optimizer: AdamW, _ step: Int) {
            parameters[0].setGradient(Array(gradient(step)[..<8]))
            parameters[1].setGradient(Array(gradient(step)[8...]))
            optimizer.step(learningRate: 0.01)
        }
        let (parameters, optimizer) = make(filled([12], 99, scale: 1).values(Double.self))
        for i in 0..<3 { step(parameters, optimizer, i) }
        let values = parameters.flatMap { $0.value.values(Double.self) }
        let saved = Dictionary(uniqueKeysWithValues: optimizer.state.map { ($0.name, $0.tensor.clone()) })
        #expect(optimizer.state.map(\.name) == ["exp_avg.a", "exp_avg_sq.a", "exp_avg.b", "exp_avg_sq.b"])

        let (again, other) = make(values)
        try other.restore(steps: optimizer.steps) { saved[$0]! }
        for i in 3..<6 {
            step(parameters, optimizer, i)
            step(again, other, i)
        }
        #expect(other.steps == 6)
        #expect(again.flatMap { $0.value.values(Double.self) } == parameters.flatMap { $0.value.values(Double.self) })
        for (a, b) in zip(other.state, optimizer.state) {
            #expect(a.tensor.values(Double.self) == b.tensor.values(Double.self))
        }
    }

    @Test(arguments: 0..<2) func clippingEqualsTorch(_ index: Int) throws {
        let cases = try trainingGoldens()["clip"]!.array!, golden = cases[index]
        #expect(cases.count == 2)
        let gradients = golden["gradients"]!.array!.map(\.flatNumbers)
        let parameters = gradients.map { trained(Array(repeating: 0, count: $0.count), [$0.count]) }
        let optimizer = AdamW(parameters.enumerated().map { ("\($0)", $1) }, .init())
        for (parameter, gradient) in zip(parameters, gradients) { parameter.setGradient(gradient) }
        let norm = optimizer.gradientNorm()
        #expect(abs(norm - golden["norm"]!.double!) < 1e-12)
        let scale = clipScale(norm: norm, max: golden["limit"]!.double!)
        for (parameter, expected) in zip(parameters, golden["clipped"]!.array!) {
            for (a, b) in zip(parameter.value.gradient!.values(Double.self), expected.flatNumbers) {
                #expect(abs(a * scale - b) < 1e-12)
            }
        }
    }

    /// A least-squares problem of 64 x 128 weights solved with moments in fp32 and in 8 bits.
    private func leastSquares(narrow: Bool, steps: Int) -> (loss: Double, optimizer: AdamW, weight: Parameter) {
        let weight = Parameter(filled([64, 128], 1, scale: 0.1)), x = filled([256, 128], 2, scale: 1)
        weight.isTrained = true
        let y = linear(x, filled([64, 128], 3, scale: 1)) + filled([256, 64], 4, scale: 0.5)
        let optimizer = AdamW([("w", weight)], .init(hasNarrowMoments: narrow))
        var last = 0.0
        for step in 0..<steps {
            let loss = (linear(x, weight.value) - y).pow(2).sum() / Double(256 * 64)
            loss.backward()
            optimizer.step(learningRate: 0.01 * (1 - Double(step) / Double(steps)))
            optimizer.zeroGradients()
            last = loss.item
        }
        return (last, optimizer, weight)
    }

    @Test func narrowMomentsTrainAsWell() {
        let whole = leastSquares(narrow: false, steps: 500), narrow = leastSquares(narrow: true, steps: 500)
        #expect(abs(narrow.loss / whole.loss - 1) < 0.01, "\(narrow.loss) against \(whole.loss)")
        func bytes(_ optimizer: AdamW) -> Int {
            optimizer.state.reduce(0) { $0 + $1.tensor.count * $1.tensor.dtype.byteCount }
        }
        #expect(Double(bytes(narrow.optimizer)) < 0.3 * Double(bytes(whole.optimizer)))
    }

    @Test func narrowMomentsAreSavedAndFound() throws {
        let long = leastSquares(narrow: true, steps: 4),
            other = AdamW([("w", long.weight)], .init(hasNarrowMoments: true))
        #expect(
            long.optimizer.state.map(\.name) == [
                "exp_avg.w", "exp_avg_absmax.w", "exp_avg_sq.w", "exp_avg_sq_absmax.w",
            ])
        let saved = Dictionary(uniqueKeysWithValues: long.optimizer.state.map { ($0.name, $0.tensor) })
        try other.restore(steps: 4) { saved[$0]! }
        for (a, b) in zip(other.state, long.optimizer.state) {
            #expect(a.tensor.to(.float32).values(Float.self) == b.tensor.to(.float32).values(Float.self))
        }
    }

    /// What the guard is told before a step is what the step then does.
    @Test(arguments: [false, true]) func theUpdateNormIsTheUpdates(_ narrow: Bool) {
        let (_, optimizer, weight) = leastSquares(narrow: narrow, steps: 3)
        weight.value.pow(2).sum().backward()
        let before = weight.value.clone(), norm = optimizer.updateNorm(gradientScale: 0.5)
        optimizer.step(learningRate: 0.01, gradientScale: 0.5)
        let moved = withoutGradients { (weight.value - before).pow(2).sum().item.squareRoot() / 0.01 }
        #expect(abs(moved / norm - 1) < 1e-4)
    }

    @Test func whatIsNotFiniteIsNamed() {
        let parameters = (0..<3).map { _ in trained([1, 2], [2]) }
        let optimizer = AdamW(parameters.enumerated().map { ("p\($0)", $1) }, .init())
        for (parameter, gradient) in zip(parameters, [[1, 2], [1, .infinity], [.nan, 0]]) {
            parameter.setGradient(gradient)
        }
        #expect(optimizer.nonFiniteGradients() == ["p1", "p2"])
        #expect(!optimizer.gradientNorm().isFinite)
        optimizer.zeroGradients()
        #expect(parameters.allSatisfy { $0.value.gradient == nil } && optimizer.gradientNorm() == 0)
    }
}
