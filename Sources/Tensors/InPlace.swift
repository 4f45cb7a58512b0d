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

/// What an optimizer updates: numbers with, where one is in use, a copy in another dtype; or split masters.
///
/// Split masters are fp32 numbers kept as two halves: a bf16 number near each, which products take as it is, and the
/// signed distance in units of the last place, 16 bits. Together they are the fp32 number, bit for bit.
public struct Masters {
    public let value: Tensor
    public let low: Tensor?
    public let copy: Tensor?

    public init(_ value: Tensor, low: Tensor? = nil, copy: Tensor? = nil) {
        (self.value, self.low, self.copy) = (value, low, copy)
    }

    /// Memory for split masters, to be filled.
    public init(splitOf shape: [Int]) {
        self.init(.empty(shape, .bfloat16), low: .empty(shape, .int16))
    }

    /// Takes fp32 numbers apart into the two halves.
    public func split(_ numbers: Tensor) {
        performInPlace("splitMasters", [value, numbers] + (low.map { [$0] } ?? [])) {
            ct_split_masters(numbers.handle, value.handle, low.handle)
        }
    }

    /// The fp32 numbers of two halves.
    public func joined() -> Tensor {
        perform("joinMasters", value, low) { ct_join_masters(value.handle, low.handle, &$0) }
    }

    var operands: [Tensor] { [value, low, copy].compactMap { $0 } }
    var handles: ct_masters { ct_masters(value: value.handle, low: low.handle, copy: copy.handle) }
}

/// The numbers of one AdamW step; `step` is t, from 1.
public struct AdamWStep {
    public var step: Int
    public var learningRate: Double, beta1: Double, beta2: Double, epsilon: Double, weightDecay: Double
    public var gradientScale: Double

    public init(
        _ step: Int, learningRate: Double, beta1: Double, beta2: Double, epsilon: Double, weightDecay: Double,
        gradientScale: Double
    ) {
        (self.step, self.learningRate, self.beta1, self.beta2) = (step, learningRate, beta1, beta2)
        (self.epsilon, self.weightDecay, self.gradientScale) = (epsilon, weightDecay, gradientScale)
    }

    var options: ct_adamw_options {
        ct_adamw_options(
            step: Int64(step), learning_rate: learningRate, beta1: beta1, beta2: beta2, epsilon: epsilon,
            weight_decay: weightDecay, gradient_scale: gradientScale)
    }
}

/// One AdamW update of a parameter (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2):
///
///     g' = scale·g;  m = β₁m + (1-β₁)g';  v = β₂v + (1-β₂)g'²
///     p -= lr · ((m / (1-β₁ᵗ)) / (√(v / (1-β₂ᵗ)) + ε) + λp)
///
/// - Returns: `‖m / (1-β₁ᵗ) / (√(v / (1-β₂ᵗ)) + ε)‖²`: the update's, without rate and decay.
@discardableResult
public func adamWInPlace(
    _ masters: Masters, gradient: Tensor, firstMoment: Tensor, secondMoment: Tensor, _ step: AdamWStep
) -> Double {
    var options = step.options, sum = 0.0
    performInPlace("adamW", masters.operands + [gradient, firstMoment, secondMoment]) {
        ct_adamw_inplace(
            masters.handles, gradient.handle, firstMoment.handle, secondMoment.handle, &options, &sum)
    }
    return sum
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

/// `adamWInPlace` with moments in 8 bits: fp32 masters on the CPU.
@discardableResult
public func adamWInPlace(_ masters: Masters, gradient: Tensor, moments m: BlockwiseMoments, _ step: AdamWStep) -> Double
{
    var options = step.options, sum = 0.0
    let operands = masters.operands + [gradient, m.firstCodes, m.firstScales, m.secondCodes, m.secondScales]
    performInPlace("adamW8", operands) {
        ct_adamw8_inplace(
            masters.handles, gradient.handle, m.firstCodes.handle, m.firstScales.handle, m.secondCodes.handle,
            m.secondScales.handle, &options, &sum)
    }
    return sum
}

/// What `adamWInPlace` would return, its rate and decay left out; changes nothing.
public func adamWUpdateSquareSum(
    gradient: Tensor, firstMoment: Tensor, secondMoment: Tensor, _ step: AdamWStep
) -> Double {
    var options = step.options, sum = 0.0
    performInPlace("adamWUpdateSquareSum", [gradient, firstMoment, secondMoment]) {
        ct_adamw_update_square_sum(gradient.handle, firstMoment.handle, secondMoment.handle, &options, &sum)
    }
    return sum
}

/// `√(Σ ‖tensor‖²)`, sums in fp64.
public func globalNorm(_ tensors: [Tensor]) -> Double {
    var norm = 0.0
    performInPlace("globalNorm", tensors) { ct_global_norm(tensors.handles, tensors.count, &norm) }
    return norm
}
