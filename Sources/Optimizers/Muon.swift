// Muon for the matrices of a model's blocks, AdamW for everything else.
internal import Glibc
public import Layers
public import Tensors

/// Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum whose singular values are all made about 1.
///
///     m = μm + (1-μ)g;  u = μm + (1-μ)g  (Nesterov);  W -= rate · (0.2 √max(out, in) · orthogonalized(u) + λW)
///
/// The factor 0.2 √max(out, in) gives an update the root mean square that AdamW's have, so that rates and decays chosen for
/// AdamW serve (Liu et al. 2025, arXiv:2502.16982, eq. 4; `match_rms_adamw` of `torch.optim.Muon`). μ rises from 0.85 over
/// the first steps. Maps that were fused into one product are made orthogonal one by one. Token and position tables, the
/// head and vectors belong to AdamW: their gradients are not those of a map between hidden states.
public final class Muon: Optimizer {
    public struct Settings: Sendable, Equatable {
        public var momentum: Double
        /// Steps over which the momentum rises to its value.
        public var momentumWarmupSteps: Int
        public var weightDecay: Double
        public var orthogonalization: Orthogonalization
        /// What AdamW does with the other parameters.
        public var rest: AdamW.Settings
        /// AdamW's rate as a share of that of the matrices.
        public var restRateShare: Double

        public init(
            momentum: Double = 0.95, momentumWarmupSteps: Int = 300, weightDecay: Double = 0,
            orthogonalization: Orthogonalization = .newtonSchulz(.float32), rest: AdamW.Settings = .init(),
            restRateShare: Double = 1
        ) {
            (self.momentum, self.momentumWarmupSteps) = (momentum, momentumWarmupSteps)
            (self.weightDecay, self.orthogonalization) = (weightDecay, orthogonalization)
            (self.rest, self.restRateShare) = (rest, restRateShare)
        }

        /// μ of the update after `step` updates.
        public func momentum(at step: Int) -> Double {
            let start = min(0.85, momentum)
            let share = momentumWarmupSteps == 0 ? 1 : min(1, Double(step) / Double(momentumWarmupSteps))
            return start + (momentum - start) * share
        }
    }

    private struct Matrix {
        let name: String
        let parameter: Parameter
        let momentum: Tensor
        /// Equal matrices that lie above one another in the parameter.
        let parts: Int

        var partShape: (out: Double, in: Double) { (Double(parameter.shape[0] / parts), Double(parameter.shape[1])) }
        /// 0.2 √max(out, in)
        var scale: Double { 0.2 * max(partShape.out, partShape.in).squareRoot() }
        /// ‖update‖² / rate² of matrices that are exactly orthogonal.
        var squareNorm: Double { Double(parts) * scale * scale * min(partShape.out, partShape.in) }
    }

    public let parameters: [(name: String, parameter: Parameter)]
    private let matrices: [Matrix]
    private let rest: AdamW
    private let settings: Settings
    public private(set) var steps = 0

    /// - Parameter matrices: the names of the parameters that are made orthogonal, each with the number of equal matrices
    ///   that lie above one another in it.
    public init(
        _ parameters: [(name: String, parameter: Parameter)], matrices: [String: Int], _ settings: Settings
    ) {
        self.parameters = parameters
        self.settings = settings
        self.matrices = parameters.compactMap { name, parameter in
            matrices[name].map { parts in
                precondition(
                    parameter.shape.count == 2 && parameter.shape[0] % parts == 0, "\(name) is no \(parts) matrices")
                let zeros = Tensor.zeros(parameter.shape, parameter.dtype, on: parameter.value.device)
                return Matrix(name: name, parameter: parameter, momentum: zeros, parts: parts)
            }
        }
        precondition(self.matrices.count == matrices.count, "matrices that are not among the parameters")
        rest = AdamW(parameters.filter { matrices[$0.name] == nil }, settings.rest)
    }

    @discardableResult
    public func step(learningRate: Double, gradientScale: Double) -> Double {
        let momentum = settings.momentum(at: steps)
        steps += 1
        for matrix in matrices {
            guard let gradient = matrix.parameter.value.gradient else { continue }
            let step = MuonStep(
                learningRate: learningRate, momentum: momentum, weightDecay: settings.weightDecay, scale: matrix.scale,
                gradientScale: gradientScale)
            matrix.parameter.updateWhole {
                muonInPlace(
                    $0, gradient: gradient, momentum: matrix.momentum, parts: matrix.parts, step,
                    settings.orthogonalization)
            }
        }
        return norm(rest.step(learningRate: learningRate * settings.restRateShare, gradientScale: gradientScale))
    }

    /// Matrices count as if they were exactly orthogonal, which they are to a factor of about 0.7 to 1.2: their updates'
    /// size does not depend on the gradients, so only the other parameters can tell a spike.
    public func updateNorm(gradientScale: Double = 1) -> Double { norm(rest.updateNorm(gradientScale: gradientScale)) }

    private func norm(_ restNorm: Double) -> Double {
        let updated = matrices.filter { $0.parameter.value.gradient != nil }
        let squares = updated.reduce(0) { $0 + $1.squareNorm }
        return hypot(squares.squareRoot(), restNorm * settings.restRateShare)
    }

    public var state: [(name: String, tensor: Tensor)] {
        matrices.map { ("momentum_buffer.\($0.name)", $0.momentum) } + rest.state
    }

    public func restore(steps: Int, _ tensor: (String) throws -> Tensor) throws {
        for matrix in matrices { matrix.momentum.copyInPlace(try tensor("momentum_buffer.\(matrix.name)")) }
        try rest.restore(steps: steps, tensor)
        self.steps = steps
    }
}
