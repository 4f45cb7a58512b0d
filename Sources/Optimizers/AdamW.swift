// AdamW with its state, and the gradient clipping that goes before it.
public import Layers
public import Tensors

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2) over a model's trained parameters.
///
/// Moments are kept in the dtype of the parameter's master, or in 8 bits. Weight decay applies to matrices only: decaying
/// norms and biases has no use, and a vector of magnitudes (DoRA) would shrink.
public final class AdamW {
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

    /// The trained parameters with their names, in the order of the model.
    public let parameters: [(name: String, parameter: Parameter)]
    private let moments: [Moments]
    private let settings: Settings
    /// Updates made so far.
    public private(set) var steps = 0

    public init(_ parameters: [(name: String, parameter: Parameter)], _ settings: Settings) {
        self.parameters = parameters
        self.settings = settings
        moments = parameters.map { name, parameter in
            let value = parameter.value
            if settings.hasNarrowMoments, Self.canBeNarrow(name, value) { return .narrow(BlockwiseMoments(for: value)) }
            func zeros() -> Tensor { .zeros(value.shape, value.dtype, on: value.device) }
            return .whole(first: zeros(), second: zeros())
        }
    }

    private static func canBeNarrow(_ name: String, _ value: Tensor) -> Bool {
        value.count >= 4096 && value.dtype == .float32 && value.device == .cpu
            && !["embed_tokens", "lm_head", "wte.", "wpe.", "embed_in", "embed_out"].contains { name.contains($0) }
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
                let decay = value.rank > 1 ? settings.weightDecay : 0
                switch moments[i] {
                case .whole(let first, let second):
                    adamWInPlace(
                        value, gradient: gradient, firstMoment: first, secondMoment: second, copy: copy, step: steps,
                        learningRate: learningRate, beta1: settings.beta1, beta2: settings.beta2,
                        epsilon: settings.epsilon, weightDecay: decay, gradientScale: gradientScale)
                case .narrow(let moments):
                    adamWInPlace(
                        value, gradient: gradient, moments: moments, copy: copy, step: steps,
                        learningRate: learningRate, beta1: settings.beta1, beta2: settings.beta2,
                        epsilon: settings.epsilon, weightDecay: decay, gradientScale: gradientScale)
                }
            }
        }
    }

    /// ‖update‖ / rate of the step that would come now, decay left out: what a guard looks at before the step is made.
    public func updateNorm(gradientScale: Double = 1) -> Double {
        withGradients.reduce(0) { sum, entry in
            let (first, second): (Tensor, Tensor) =
                switch moments[entry.index] {
                case .whole(let first, let second): (first, second)
                case .narrow(let moments): moments.decoded()
                }
            return sum
                + adamWUpdateSquareSum(
                    gradient: entry.gradient, firstMoment: first, secondMoment: second, step: steps + 1,
                    beta1: settings.beta1, beta2: settings.beta2, epsilon: settings.epsilon,
                    gradientScale: gradientScale)
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

    /// Continues from a checkpoint: `tensor(name)` gives each entry of `state`.
    public func restore(steps: Int, _ tensor: (String) throws -> Tensor) throws {
        for (name, value) in state { value.copyInPlace(try tensor(name)) }
        self.steps = steps
    }
}
