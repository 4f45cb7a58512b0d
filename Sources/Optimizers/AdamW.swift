// AdamW with its state.
public import Layers
public import Tensors

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) over a model's trained parameters.
///
/// Moments are kept in the dtype of the parameter's masters, or in 8 bits. Weight decay applies to matrices only: decaying
/// norms and biases has no use, and a vector of magnitudes (DoRA) would shrink.
public final class AdamW: Optimizer {
    public struct Settings: Sendable, Equatable {
        public var beta1: Double, beta2: Double, epsilon: Double, weightDecay: Double
        /// Moments in 8 bits where that is safe: not for token tables (their rows are updated unevenly; section 2.3 of
        /// arXiv:2110.02861) and tensors of less than 4,096 elements.
        public var hasNarrowMoments: Bool

        public init(
            beta1: Double = 0.9, beta2: Double = 0.999, epsilon: Double = 1e-8, weightDecay: Double = 0,
            hasNarrowMoments: Bool = false
        ) {
            (self.beta1, self.beta2, self.epsilon, self.weightDecay) = (beta1, beta2, epsilon, weightDecay)
            self.hasNarrowMoments = hasNarrowMoments
        }
    }

    private enum Moments {
        case whole(first: Tensor, second: Tensor)
        case narrow(BlockwiseMoments)
    }

    public let parameters: [(name: String, parameter: Parameter)]
    private let moments: [Moments]
    private let settings: Settings
    public private(set) var steps = 0

    /// - Parameter tables: of them, those with a row a token or a position, whose moments stay whole.
    public init(
        _ parameters: [(name: String, parameter: Parameter)], tables: [Parameter] = [], _ settings: Settings
    ) {
        self.parameters = parameters
        self.settings = settings
        moments = parameters.map { _, parameter in
            if settings.hasNarrowMoments, Self.canBeNarrow(parameter), !tables.contains(where: { $0 === parameter }) {
                return .narrow(BlockwiseMoments(for: parameter.value))
            }
            func zeros() -> Tensor { .zeros(parameter.shape, parameter.dtype, on: parameter.value.device) }
            return .whole(first: zeros(), second: zeros())
        }
    }

    private static func canBeNarrow(_ parameter: Parameter) -> Bool {
        parameter.value.count >= 4096 && parameter.dtype == .float32 && parameter.value.device == .cpu
    }

    private func numbers(
        ofStep step: Int, learningRate: Double, weightDecay: Double, gradientScale: Double
    ) -> AdamWStep {
        AdamWStep(
            step, learningRate: learningRate, beta1: settings.beta1, beta2: settings.beta2, epsilon: settings.epsilon,
            weightDecay: weightDecay, gradientScale: gradientScale)
    }

    @discardableResult
    public func step(learningRate: Double, gradientScale: Double) -> Double {
        steps += 1
        var squares = 0.0
        for (i, gradient) in withGradients {
            let parameter = parameters[i].parameter
            let step = numbers(
                ofStep: steps, learningRate: learningRate,
                weightDecay: parameter.shape.count > 1 ? settings.weightDecay : 0, gradientScale: gradientScale)
            parameter.update { masters in
                switch moments[i] {
                case .whole(let first, let second):
                    squares += adamWInPlace(
                        masters, gradient: gradient, firstMoment: first, secondMoment: second, step)
                case .narrow(let moments):
                    squares += adamWInPlace(masters, gradient: gradient, moments: moments, step)
                }
            }
        }
        return squares.squareRoot()
    }

    public func updateNorm(gradientScale: Double = 1) -> Double {
        let step = numbers(ofStep: steps + 1, learningRate: 0, weightDecay: 0, gradientScale: gradientScale)
        return withGradients.reduce(0) { sum, entry in
            let (first, second): (Tensor, Tensor) =
                switch moments[entry.index] {
                case .whole(let first, let second): (first, second)
                case .narrow(let moments): moments.decoded()
                }
            return sum
                + adamWUpdateSquareSum(gradient: entry.gradient, firstMoment: first, secondMoment: second, step)
        }.squareRoot()
    }

    public var state: [(name: String, tensor: Tensor)] {
        parameters.indices.flatMap { i -> [(name: String, tensor: Tensor)] in
            let name = parameters[i].name
            switch moments[i] {
            case .whole(let first, let second): return [("exp_avg.\(name)", first), ("exp_avg_sq.\(name)", second)]
            case .narrow(let m):
                return [
                    ("exp_avg.\(name)", m.firstCodes), ("exp_avg_absmax.\(name)", m.firstScales),
                    ("exp_avg_sq.\(name)", m.secondCodes), ("exp_avg_sq_absmax.\(name)", m.secondScales),
                ]
            }
        }
    }

    public func restore(steps: Int, _ tensor: (String) throws -> Tensor) throws {
        for (name, value) in state { value.copyInPlace(try tensor(name)) }
        self.steps = steps
    }
}
