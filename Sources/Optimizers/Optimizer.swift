// What every optimizer offers to recipes, and what goes before its step.
public import Layers
public import Tensors

/// What updates a model's trained parameters, with its state.
public protocol Optimizer: AnyObject {
    /// The trained parameters with their names, in the order of the model.
    var parameters: [(name: String, parameter: Parameter)] { get }
    /// Updates made so far.
    var steps: Int { get }
    /// One update with the gradients that backward left, times `gradientScale`; they stay.
    ///
    /// - Returns: ‖update‖ / rate, decay left out.
    @discardableResult func step(learningRate: Double, gradientScale: Double) -> Double
    /// What `step` would return now: for a guard that may forbid the step. It takes a pass over gradients and state.
    func updateNorm(gradientScale: Double) -> Double
    /// The state under the parameters' names, for checkpoints.
    var state: [(name: String, tensor: Tensor)] { get }
    /// Continues from a checkpoint: `tensor(name)` gives each entry of `state`.
    func restore(steps: Int, _ tensor: (String) throws -> Tensor) throws
}

extension Optimizer {
    @discardableResult public func step(learningRate: Double) -> Double {
        step(learningRate: learningRate, gradientScale: 1)
    }

    /// Gradients of the trained parameters; a parameter that took no part has none and is left out.
    var withGradients: [(index: Int, gradient: Tensor)] {
        parameters.indices.compactMap { i in parameters[i].parameter.value.gradient.map { (i, $0) } }
    }

    public func zeroGradients() { for (_, parameter) in parameters { parameter.value.clearGradient() } }

    /// ‖g‖ over all gradients; not finite when one of them is not.
    public func gradientNorm() -> Double { globalNorm(withGradients.map(\.gradient)) }

    /// Names of parameters whose gradients hold NaN or infinity, for the message that stops a run.
    public func nonFiniteGradients() -> [String] {
        withGradients.filter { $0.gradient.isFinite().to(.float32).sum().item < Double($0.gradient.count) }
            .map { parameters[$0.index].name }
    }
}

/// What gradients of that norm are multiplied by so that it is at most `max`: `max / norm` above it, else 1
/// (Pascanu et al. 2013, arXiv:1211.5063). `step` takes it, so that clipping costs no pass of its own.
public func clipScale(norm: Double, max: Double) -> Double { norm > max ? max / (norm + 1e-6) : 1 }
