// Gradients of a whole tiny model in fp64 against central finite differences, adapters included.
import Formats
import Layers
import Models
import RandomStreams
import Tensors
import TestSupport
import Testing

@Suite struct GradientTests {
    private let documents = [someIDs(6, seed: 60), someIDs(3, seed: 61)]
    private let step = 1e-5

    /// max |numeric - analytic| / (|numeric| + |analytic| + 1e-4 · largest gradient) over a few coordinates of each parameter.
    ///
    /// - Parameter moved: called with parameter and coordinate after each change, to hold something else fixed.
    private func error(
        _ model: any CausalLanguageModel, _ parameters: [(name: String, parameter: Parameter)], moved: () -> Void = {}
    ) -> (worst: Double, at: String) {
        model.documentLoss(documents).backward()
        var worst = 0.0, place = ""
        for (k, (name, gradient)) in zip(parameters.map(\.name), takeGradients(parameters)).enumerated() {
            let parameter = parameters[k].parameter.value, analytic = gradient.values(Double.self)
            let start = parameter.values(Double.self), scale = analytic.map(\.magnitude).max()!
            for i in Set(RandomStream(seed: 3, UInt64(k)).words(3).map { Int($0) % start.count }) {
                func loss(_ delta: Double) -> Double {
                    var values = start
                    values[i] += delta
                    parameter.copyInPlace(Tensor(values, parameter.shape))
                    moved()
                    return withoutGradients { model.documentLoss(documents).item }
                }
                let numeric = (loss(step) - loss(-step)) / (2 * step)
                let error = abs(numeric - analytic[i]) / (abs(numeric) + abs(analytic[i]) + 1e-4 * scale + 1e-9)
                if error > worst { (worst, place) = (error, "\(name)[\(i)]: \(analytic[i]), numeric \(numeric)") }
            }
            parameter.copyInPlace(Tensor(start, parameter.shape))
            moved()
        }
        return (worst, place)
    }

    @Test(arguments: TinyFamily.allCases) func everyWeight(_ family: TinyFamily) throws {
        let config = family.config.changing(["attention_bias": true, "mlp_bias": true])
        let model = try tinyModel(config, .float64).trainAll()
        let (worst, place) = error(model, model.namedParameters())
        #expect(worst < 1e-5, "\(place)")
    }

    @Test(arguments: TinyFamily.allCases) func lowRankAdapters(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config, .float64)
        let (worst, place) = error(model, attachAdapters(to: model, hasMagnitude: false))
        #expect(worst < 1e-5, "\(place)")
    }

    /// DoRA's norm is a constant in backward, so it must be one in the differences: the magnitude is scaled with the norm.
    @Test(arguments: TinyFamily.allCases) func weightDecomposedAdapters(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config, .float64)
        let parameters = attachAdapters(to: model, hasMagnitude: true)
        let linears = model.blockLinears.map(\.linear)
        let frozen = linears.map(rowNorms), adapters = linears.map { $0.adapter! }

        // Directions: the ratio magnitude / norm stays.
        let magnitudes = adapters.map { $0.magnitude!.value.detached().clone() }
        let directions = parameters.filter { !$0.name.hasSuffix("magnitude") }
        for (_, parameter) in parameters where !directions.contains(where: { $0.parameter === parameter }) {
            parameter.isTrained = false
        }
        let (worst, place) = error(model, directions) {
            for (k, linear) in linears.enumerated() {
                adapters[k].magnitude!.value.copyInPlace(magnitudes[k] * rowNorms(linear) / frozen[k])
            }
        }
        #expect(worst < 1e-5, "\(place)")
        // The control: with a norm that moves, the differences are others.
        #expect(error(model, directions).worst > 1e-3)

        for (_, parameter) in directions { parameter.isTrained = false }
        let rest = parameters.filter { $0.name.hasSuffix("magnitude") }
        for (_, parameter) in rest { parameter.isTrained = true }
        let (error, at) = error(model, rest)
        #expect(error < 1e-5, "\(at)")
    }

    /// ‖W + s B A‖ per row, the long way.
    private func rowNorms(_ linear: Linear) -> Tensor {
        let adapter = linear.adapter!
        let sum = linear.weight.value + adapter.b.value.detached().matmul(adapter.a.value.detached()) * adapter.scaling
        return sum.pow(2).sum(dim: 1).sqrt()
    }
}
