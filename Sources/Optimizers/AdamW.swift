// AdamW with its state, and the gradient clipping that goes before it.
public import Layers
public import Tensors

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) over a model's trained parameters.
///
/// Moments are kept in the dtype of the parameter's master. Weight decay applies to matrices only: decaying norms and
/// biases has no use, and a vector of magnitudes (DoRA) would shrink.
public final class AdamW {
    public struct Settings: Sendable, Equatable {
        public var beta1: Double, beta2: Double, epsilon: Double, weightDecay: Double

        public init(beta1: Double = 0.9, beta2: Double = 0.999, epsilon: Double = 1e-8, weightDecay: Double = 0) {
            (self.beta1, self.beta2, self.epsilon, self.weightDecay) = (beta1, beta2, epsilon, weightDecay)
        }
    }

    /// The trained parameters with their names, in the order of the model.
    public let parameters: [(name: String, parameter: Parameter)]
    private let firstMoments: [Tensor], secondMoments: [Tensor]
    private let settings: Settings
    /// Updates made so far.
    public private(set) var steps = 0

    public init(_ parameters: [(name: String, parameter: Parameter)], _ settings: Settings) {
        self.parameters = parameters
        self.settings = settings
        firstMoments = parameters.map {
            .zeros($0.parameter.shape, $0.parameter.value.dtype, on: $0.parameter.value.device)
        }
        secondMoments = firstMoments.map { .zeros($0.shape, $0.dtype, on: $0.device) }
    }

    /// Gradients of the trained parameters; a parameter that took no part has none and is left out.
    private var withGradients: [(index: Int, value: Tensor, gradient: Tensor)] {
        parameters.indices.compactMap { i in
            let value = parameters[i].parameter.value
            return value.gradient.map { (i, value, $0) }
        }
    }

    /// One update with the gradients that backward left, times `gradientScale`; they stay.
    public func step(learningRate: Double, gradientScale: Double = 1) {
        steps += 1
        for (i, _, gradient) in withGradients {
            parameters[i].parameter.update { value, copy in
                adamWInPlace(
                    value, gradient: gradient, firstMoment: firstMoments[i], secondMoment: secondMoments[i], copy: copy,
                    step: steps, learningRate: learningRate, beta1: settings.beta1,
                    beta2: settings.beta2, epsilon: settings.epsilon,
                    weightDecay: value.rank > 1 ? settings.weightDecay : 0, gradientScale: gradientScale)
            }
        }
    }

    /// ‖update‖ / rate of the step that would come now, decay left out: what a guard looks at before the step is made.
    public func updateNorm(gradientScale: Double = 1) -> Double {
        withGradients.reduce(0) { sum, entry in
            sum
                + adamWUpdateSquareSum(
                    gradient: entry.gradient, firstMoment: firstMoments[entry.index],
                    secondMoment: secondMoments[entry.index], step: steps + 1, beta1: settings.beta1,
                    beta2: settings.beta2, epsilon: settings.epsilon, gradientScale: gradientScale)
        }.squareRoot()
    }

    public func zeroGradients() { for (_, parameter) in parameters { parameter.value.clearGradient() } }

    /// ‖g‖ over all gradients; not finite when one of them is not.
    public func gradientNorm() -> Double { globalNorm(withGradients.map(\.gradient)) }

    /// What gradients of that norm are multiplied by so that it is at most `max`: `max / norm` above it, else 1
    /// (Pascanu et al. 2013, arXiv:1211.5063). `step` takes it, so that clipping costs no pass of its own.
    public static func clipScale(norm: Double, max: Double) -> Double { norm > max ? max / (norm + 1e-6) : 1 }

    /// Names of parameters whose gradients hold NaN or infinity, for the message that stops a run.
    public func nonFiniteGradients() -> [String] {
        withGradients.filter { $0.gradient.isFinite().to(.float32).sum().item < Double($0.gradient.count) }
            .map { parameters[$0.index].name }
    }

    /// The moments under the parameters' names, for checkpoints.
    public var state: [(name: String, tensor: Tensor)] {
        parameters.indices.flatMap { i in
            [
                ("exp_avg.\(parameters[i].name)", firstMoments[i]),
                ("exp_avg_sq.\(parameters[i].name)", secondMoments[i]),
            ]
        }
    }

    /// Continues from a checkpoint: `tensor(name)` gives each entry of `state`.
    public func restore(steps: Int, _ tensor: (String) throws -> Tensor) throws {
        for (name, value) in state { value.copyInPlace(try tensor(name)) }
        self.steps = steps
    }
}
