// Writing into existing storage: for initialization, the KV cache and optimizers only.
internal import CTorch

extension Tensor {
    /// Overwrites the elements with those of `source`, converting dtype and device.
    public func copyInPlace(_ source: Tensor) {
        withoutGradients { performInPlace("copyInPlace", [self, source]) { ct_copy_inplace(handle, source.handle) } }
    }

    /// `self[index] = source` along `dim`; index int64 `[n]`.
    public func indexCopyInPlace(_ dim: Int, _ index: Tensor, _ source: Tensor) {
        withoutGradients {
            performInPlace("indexCopyInPlace", [self, index, source]) {
                ct_index_copy_inplace(handle, Int64(dim), index.handle, source.handle)
            }
        }
    }
}

/// One AdamW update of every parameter (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2):
///
///     p -= lr·λ·p;  m = β₁m + (1-β₁)g;  v = β₂v + (1-β₂)g²
///     p -= lr · (m / (1-β₁ᵗ)) / (√(v / (1-β₂ᵗ)) + ε)
///
/// - Parameter step: t, from 1.
public func adamWInPlace(
    _ parameters: [Tensor], gradients: [Tensor], firstMoments: [Tensor], secondMoments: [Tensor], step: Int,
    learningRate: Double, beta1: Double, beta2: Double, epsilon: Double, weightDecay: Double
) {
    performInPlace("adamW", parameters + gradients + firstMoments + secondMoments) {
        ct_adamw_inplace(
            parameters.handles, gradients.handles, firstMoments.handles, secondMoments.handles, parameters.count,
            Int64(step), learningRate, beta1, beta2, epsilon, weightDecay)
    }
}

/// `√(Σ ‖tensor‖²)`, each norm in its tensor's dtype, their sum in fp64.
public func globalNorm(_ tensors: [Tensor]) -> Double {
    var norm = 0.0
    performInPlace("globalNorm", tensors) { ct_global_norm(tensors.handles, tensors.count, &norm) }
    return norm
}

public func scaleInPlace(_ tensors: [Tensor], by factor: Double) {
    performInPlace("scale", tensors) { ct_scale_inplace(tensors.handles, tensors.count, factor) }
}
