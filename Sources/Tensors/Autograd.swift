// Gradients: what records them, how they are asked for, and operations with a hand-written backward.
internal import CTorch

/// Runs `body` without recording for backward. Synchronous on purpose: gradient mode belongs to the thread.
public func withoutGradients<R>(_ body: () throws -> R) rethrows -> R {
    let before = ct_set_gradients_enabled(false)
    defer { _ = ct_set_gradients_enabled(before) }
    return try body()
}

/// Runs `body` recording for backward, also inside `withoutGradients`.
public func withGradients<R>(_ body: () throws -> R) rethrows -> R {
    let before = ct_set_gradients_enabled(true)
    defer { _ = ct_set_gradients_enabled(before) }
    return try body()
}

extension Tensor {
    /// Whether backward computes a gradient for this tensor (set on leaves: the trained parameters).
    public var requiresGradient: Bool {
        get { isPoison ? false : withExtendedLifetime(self) { ct_requires_gradient(handle) } }
        set { performInPlace("requiresGradient", [self]) { ct_set_requires_gradient(handle, newValue) } }
    }

    /// Lets backward sum a gradient in another dtype than the leaf's. One product that was rounded to bf16 is left in bf16;
    /// `linear`, `embedding` and the loss heads widen it before they add to it, other operations do not.
    public func setGradientDType(_ dtype: DType) {
        performInPlace("setGradientDType", [self]) { ct_set_gradient_dtype(handle, dtype.rawValue) }
    }

    /// Counts the changes of the memory in place, by whatever name it is known.
    public var version: Int { isPoison ? 0 : withExtendedLifetime(self) { Int(ct_changes(handle)) } }

    /// The same memory outside the graph.
    public func detached() -> Tensor { perform("detached", self) { ct_detach(handle, &$0) } }

    /// Adds d(self)/d(leaf) to the gradient of every leaf that requires one.
    /// - Parameter gradient: what each element counts; for a scalar 1 when nil.
    public func backward(gradient: Tensor? = nil) {
        performInPlace("backward", [self] + (gradient.map { [$0] } ?? [])) { ct_backward(handle, gradient.handle) }
    }

    /// What backward has accumulated since `clearGradient`; nil when nothing has.
    public var gradient: Tensor? {
        let gradient = perform("gradient", self) { ct_gradient(handle, &$0) }
        return gradient.isPoison ? nil : gradient
    }

    public func clearGradient() { performInPlace("clearGradient", [self]) { ct_clear_gradient(handle) } }
}

/// A differentiable operation with its own backward.
///
/// `forward` runs without gradients and returns outputs and what to save; `backward` receives the saved tensors and one
/// gradient per output and returns one per input, nil where none is needed. `backward` must hold no tensor of its own
/// (that would keep the graph alive in a cycle): everything it needs is saved. It may run on the engine's threads.
public func customFunction(
    _ inputs: [Tensor], forward: ([Tensor]) -> (outputs: [Tensor], saved: [Tensor]),
    backward: @escaping (_ saved: [Tensor], _ gradients: [Tensor]) -> [Tensor?]
) -> [Tensor] {
    let (outputs, saved) = withoutGradients { forward(inputs) }
    let operands = inputs + outputs + saved
    if operands.contains(where: \.isPoison) { return outputs.map { _ in .poison } }
    var results = [ct_tensor](repeating: ct_tensor(impl: nil), count: outputs.count)
    let context = Unmanaged.passRetained(BackwardCallback(backward)).toOpaque()
    performInPlace("customFunction", operands) {
        ct_custom_function(
            inputs.handles, inputs.count, outputs.handles, outputs.count, saved.handles, saved.count, context,
            { context, saved, savedCount, gradients, gradientCount, results, inputCount in
                let callback = Unmanaged<BackwardCallback>.fromOpaque(context!).takeUnretainedValue()
                return callback.run(
                    saved: UnsafeBufferPointer(start: saved, count: savedCount),
                    gradients: UnsafeBufferPointer(start: gradients, count: gradientCount),
                    results: UnsafeMutableBufferPointer(start: results, count: inputCount))
            },
            { Unmanaged<BackwardCallback>.fromOpaque($0!).release() }, &results)
    }
    return results.map { Tensor(owning: $0) }
}

/// `body(x)` whose inner activations are not kept: backward runs it again from x (Chen et al. 2016, arXiv:1604.06174).
///
/// - Parameters:
///   - dtype: what x is kept in; in a narrower one than its own the second run begins at the rounded x. nil: its own.
///   - body: gives the same output each time; what it trains gets its gradient when it is run again. It may hold modules
///     and plans, but nothing of the graph.
public func recomputed(_ x: Tensor, keptIn dtype: DType? = nil, _ body: @escaping (Tensor) -> Tensor) -> Tensor {
    // x may need no gradient where the parameters inside do: an input that does keeps the node in the graph.
    let witness = Tensor.zeros([], x.dtype, on: x.device)
    witness.requiresGradient = true
    return customFunction([x, witness], forward: { ([body($0[0])], [$0[0].to(dtype ?? x.dtype)]) }) {
        saved, gradients in
        let input = saved[0].detached().to(gradients[0].dtype)
        input.requiresGradient = true
        withGradients { body(input) }.backward(gradient: gradients[0])
        return [input.gradient, nil]
    }[0]
}

/// Runs `body`, in whose graph products keep no input that a norm or a gate made: backward makes it again.
public func selectively<Result>(_ selective: Bool, _ body: () throws -> Result) rethrows -> Result {
    let before = ct_set_selective(selective)
    defer { _ = ct_set_selective(before) }
    return try body()
}

/// The closure of a custom function, as the shim carries it.
private final class BackwardCallback {
    let backward: ([Tensor], [Tensor]) -> [Tensor?]

    init(_ backward: @escaping ([Tensor], [Tensor]) -> [Tensor?]) { self.backward = backward }

    func run(
        saved: UnsafeBufferPointer<ct_tensor>, gradients: UnsafeBufferPointer<ct_tensor>,
        results: UnsafeMutableBufferPointer<ct_tensor>
    ) -> ct_status {
        do {
            let values = try catchingEngineErrors {
                withoutGradients { backward(saved.map(Tensor.referring), gradients.map(Tensor.referring)) }
            }
            precondition(
                values.count == results.count, "backward gave \(values.count) gradients for \(results.count) inputs")
            for (i, value) in values.enumerated() { if let value { results[i] = value.secondHandle() } }
            return ct_status(CT_OK)
        } catch {
            ct_set_last_error("\(error)")
            return ct_status(CT_INTERNAL)
        }
    }
}

extension Tensor {
    /// A tensor for a handle that somebody else frees.
    fileprivate static func referring(to handle: ct_tensor) -> Tensor {
        var out = ct_tensor(impl: nil)
        let status = ct_detach(handle, &out)
        if status != CT_OK { engineFailed("backward", [], status) }
        return Tensor(owning: out)
    }

    /// Another reference for the shim to own.
    fileprivate func secondHandle() -> ct_tensor {
        var out = ct_tensor(impl: nil)
        performInPlace("backward", [self]) { ct_detach(handle, &out) }
        return out
    }
}
