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

/// One AdamW update of a parameter (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2):
///
///     g' = scale·g;  m = β₁m + (1-β₁)g';  v = β₂v + (1-β₂)g'²
///     p -= lr · ((m / (1-β₁ᵗ)) / (√(v / (1-β₂ᵗ)) + ε) + λp)
///
/// - Parameters:
///   - copy: given the parameter's new value in the same pass.
///   - step: t, from 1.
public func adamWInPlace(
    _ parameter: Tensor, gradient: Tensor, firstMoment: Tensor, secondMoment: Tensor, copy: Tensor?, step: Int,
    learningRate: Double, beta1: Double, beta2: Double, epsilon: Double, weightDecay: Double, gradientScale: Double
) {
    performInPlace("adamW", [parameter, gradient, firstMoment, secondMoment] + (copy.map { [$0] } ?? [])) {
        ct_adamw_inplace(
            parameter.handle, gradient.handle, firstMoment.handle, secondMoment.handle, copy.handle, Int64(step),
            learningRate, beta1, beta2, epsilon, weightDecay, gradientScale)
    }
}

/// A moment of AdamW in 8 bits: codes of a dynamic map in blocks with a scale each (Dettmers et al. 2022,
/// arXiv:2110.02861). 1.016 bytes an element.
public struct BlockwiseMoments {
    public let firstCodes: Tensor, secondCodes: Tensor  // u8, as the parameter
    public let firstScales: Tensor, secondScales: Tensor  // fp32, one a block

    /// Zero moments for a parameter.
    public init(for parameter: Tensor) {
        let block = Int(ct_adam8_block()), blocks = (parameter.count + block - 1) / block
        func codes() -> Tensor { .empty(parameter.shape, .uint8, on: parameter.device) }
        func scales() -> Tensor { .empty([blocks], .float32, on: parameter.device) }
        (firstCodes, secondCodes, firstScales, secondScales) = (codes(), codes(), scales(), scales())
        performInPlace("adam8Start", [firstCodes, firstScales, secondCodes, secondScales]) {
            ct_adam8_start(firstCodes.handle, firstScales.handle, secondCodes.handle, secondScales.handle)
        }
    }

    /// Both moments in fp32, flat.
    public func decoded() -> (first: Tensor, second: Tensor) {
        (
            perform("adam8Decode", firstCodes, firstScales) {
                ct_adam8_decode(firstCodes.handle, firstScales.handle, true, &$0)
            },
            perform("adam8Decode", secondCodes, secondScales) {
                ct_adam8_decode(secondCodes.handle, secondScales.handle, false, &$0)
            }
        )
    }
}

/// `adamWInPlace` with moments in 8 bits: fp32 parameters on the CPU.
public func adamWInPlace(
    _ parameter: Tensor, gradient: Tensor, moments: BlockwiseMoments, copy: Tensor?, step: Int, learningRate: Double,
    beta1: Double, beta2: Double, epsilon: Double, weightDecay: Double, gradientScale: Double
) {
    let m = moments
    let operands = [parameter, gradient, m.firstCodes, m.firstScales, m.secondCodes, m.secondScales]
    performInPlace("adamW8", operands + (copy.map { [$0] } ?? [])) {
        ct_adamw8_inplace(
            parameter.handle, gradient.handle, m.firstCodes.handle, m.firstScales.handle, m.secondCodes.handle,
            m.secondScales.handle, copy.handle, Int64(step), learningRate, beta1, beta2, epsilon, weightDecay,
            gradientScale)
    }
}

/// `‖m' / (1-β₁ᵗ) / (√(v' / (1-β₂ᵗ)) + ε)‖²` of the update that `adamWInPlace` would make at step t; changes nothing.
public func adamWUpdateSquareSum(
    gradient: Tensor, firstMoment: Tensor, secondMoment: Tensor, step: Int, beta1: Double, beta2: Double,
    epsilon: Double,
    gradientScale: Double
) -> Double {
    var sum = 0.0
    performInPlace("adamWUpdateSquareSum", [gradient, firstMoment, secondMoment]) {
        ct_adamw_update_square_sum(
            gradient.handle, firstMoment.handle, secondMoment.handle, Int64(step), beta1, beta2, epsilon, gradientScale,
            &sum)
    }
    return sum
}

/// `√(Σ ‖tensor‖²)`, sums in fp64.
public func globalNorm(_ tensors: [Tensor]) -> Double {
    var norm = 0.0
    performInPlace("globalNorm", tensors) { ct_global_norm(tensors.handles, tensors.count, &norm) }
    return norm
}
