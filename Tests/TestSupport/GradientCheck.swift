// Central finite differences in fp64 against what backward computed.
internal import RandomStreams
public import Tensors

/// The largest relative error of the gradients of `loss` over sampled coordinates of every input.
///
/// - Parameters:
///   - inputs: fp64 leaves.
///   - loss: a scalar from the inputs; called many times, must be pure.
///   - samples: coordinates tried per input (all of them when it has fewer).
/// - Returns: max |numeric - analytic| / (|numeric| + |analytic| + 1e-6 · the largest gradient).
public func gradientError(_ inputs: [Tensor], samples: Int = 20, step: Double = 1e-5, loss: ([Tensor]) -> Tensor)
    -> Double
{
    let leaves = inputs.map { input in
        let leaf = input.detached().clone()
        leaf.requiresGradient = true
        return leaf
    }
    loss(leaves).backward()
    var worst = 0.0
    for (k, leaf) in leaves.enumerated() {
        let analytic = (leaf.gradient ?? .zeros(leaf.shape, .float64)).values(Double.self)
        let scale = analytic.map(\.magnitude).max() ?? 0
        let count = analytic.count
        for s in 0..<min(samples, count) {
            let i = count <= samples ? s : Int(RandomStream(seed: 7, UInt64(k)).words(1, offset: UInt64(s))[0]) % count
            func value(_ delta: Double) -> Double {
                var values = inputs[k].values(Double.self)
                values[i] += delta
                var shifted = inputs
                shifted[k] = Tensor(values, inputs[k].shape)
                return withoutGradients { loss(shifted).item }
            }
            let numeric = (value(step) - value(-step)) / (2 * step)
            let error =
                (numeric - analytic[i]).magnitude / (numeric.magnitude + analytic[i].magnitude + 1e-6 * scale + 1e-12)
            worst = max(worst, error)
        }
    }
    return worst
}

/// max |a - b| / max |b|.
public func relativeDifference(_ a: Tensor, _ b: Tensor) -> Double {
    precondition(a.shape == b.shape, "\(a.summary) against \(b.summary)")
    let x = a.values(Double.self), y = b.values(Double.self)
    let scale = y.map(\.magnitude).max() ?? 0
    return zip(x, y).map { ($0 - $1).magnitude }.max()! / max(scale, 1e-300)
}

/// fp64 numbers from a normal distribution, the same for the same seed.
public func normal64(_ shape: [Int], seed: UInt64) -> Tensor { RandomStream(seed: seed, 1).normal(shape).to(.float64) }
