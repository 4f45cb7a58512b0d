// Inputs and output gradients of chosen linear maps for one example, and what is computed from them.
internal import Diagnostics
internal import Layers
public import Models
internal import Tensors

/// A linear map of a block, by the name people give it.
public enum Projection: String, CaseIterable, Sendable {
    case q, k, v, o, gate, up, down

    /// Its name in checkpoints.
    var moduleName: String { rawValue + "_proj" }
}

/// The gradients of one example.
public struct ExampleGradients: Sendable, Equatable {
    /// Mean of -log p over the response's tokens, nats.
    public var loss: Double
    /// By projection, one entry a layer; nil where an entry of one of the layers was not finite.
    public var spectra: [Projection: [GradientSpectrum]?]
    /// nil when not asked for.
    public var cosines: GradientCosines?

    package init(loss: Double, spectra: [Projection: [GradientSpectrum]?]) {
        (self.loss, self.spectra) = (loss, spectra)
    }
}

/// Runs a model over examples and looks at the gradients of its projections. No weight needs a gradient for it.
public final class GradientCapture {
    private let model: any CausalLanguageModel
    private let projections: [Projection]
    /// By projection, in the order of the layers.
    private let probes: [Projection: [GradientProbe]]
    private let linears: [Linear]
    private let wantsCosines: Bool

    /// Attaches probes to the projections of all layers; they go with `detach`.
    ///
    /// - Throws: `UserError` when the model has no linear map of that name.
    public init(_ model: any CausalLanguageModel, _ projections: [Projection], cosines: Bool = false) throws {
        (self.model, self.projections, wantsCosines) = (model, projections, cosines)
        var probes: [Projection: [GradientProbe]] = [:], linears: [Linear] = []
        for projection in projections {
            let found = model.blockLinears.filter { $0.name.hasSuffix("." + projection.moduleName) }
            guard !found.isEmpty else {
                throw UserError(
                    "--projections \(projection.rawValue): the model has no \(projection.moduleName); it has "
                        + model.blockLinearKinds.joined(separator: ", "), .usage)
            }
            probes[projection] = found.map { _, linear in
                let probe = GradientProbe()
                linear.probe = probe
                linears.append(linear)
                return probe
            }
        }
        (self.probes, self.linears) = (probes, linears)
    }

    /// Takes the probes off the model.
    public func detach() { for linear in linears { linear.probe = nil } }

    /// Blocks of the model.
    public var layers: Int { probes.values.first?.count ?? 0 }

    /// Forward and backward over one example: the loss is the mean over its marked tokens.
    ///
    /// - Precondition: at least one token but the first is marked.
    public func gradients(_ ids: [Int32], trained: [Bool]) -> ExampleGradients {
        let labels = ids.indices.map { i in i + 1 < ids.count && trained[i + 1] ? ids[i + 1] : -100 }
        let count = labels.count { $0 >= 0 }
        let factors = Array(repeating: 1 / Double(count), count: ids.count)
        let loss = withGradients {
            let loss = model.lossSum(ids, labels: labels, documentStarts: [0, ids.count], factors: factors)
            loss.backward()
            return loss.item
        }
        let taken = probes.mapValues { $0.map { $0.take()! } }
        var result = ExampleGradients(loss: loss, spectra: [:])
        for projection in projections { result.spectra[projection] = .some(spectra(taken[projection]!)) }
        if wantsCosines { result.cosines = GradientCosines(taken, finite: { result.spectra[$0] ?? nil != nil }) }
        return result
    }

    private func spectra(_ layers: [(outputGradient: Tensor, input: Tensor)]) -> [GradientSpectrum]? {
        var spectra: [GradientSpectrum] = []
        for layer in layers {
            guard let spectrum = GradientSpectrum(outputGradient: layer.outputGradient, input: layer.input) else {
                return nil
            }
            spectra.append(spectrum)
        }
        return spectra
    }
}

/// Cosines between flattened gradients (follow-up arXiv:2504.10766): of two projections in one layer, and of every two
/// layers of one projection.
public struct GradientCosines: Sendable, Equatable {
    /// Query and output, key and value, by layer; only where their weights have the same shape.
    public var queryOutput: [Double]?
    public var keyValue: [Double]?
    /// `[layers, layers]`, by projection.
    public var betweenLayers: [Projection: [[Double]]] = [:]

    typealias Parts = (outputGradient: Tensor, input: Tensor)

    init(_ taken: [Projection: [Parts]], finite: (Projection) -> Bool) {
        func pairs(_ a: Projection, _ b: Projection) -> [Double]? {
            guard let x = taken[a], let y = taken[b], finite(a), finite(b) else { return nil }
            guard
                zip(x, y).allSatisfy({
                    $0.outputGradient.shape == $1.outputGradient.shape && $0.input.shape == $1.input.shape
                })
            else { return nil }
            return zip(x, y).map { Self.cosine($0, $1) }
        }
        queryOutput = pairs(.q, .o)
        keyValue = pairs(.k, .v)
        for (projection, layers) in taken where finite(projection) {
            let products = layers.map { a in layers.map { Self.product(a, $0) } }
            betweenLayers[projection] = layers.indices.map { i in
                layers.indices.map { Self.normalized(products[i][$0], products[i][i], products[$0][$0]) }
            }
        }
    }

    private static func cosine(_ a: Parts, _ b: Parts) -> Double {
        normalized(product(a, b), product(a, a), product(b, b))
    }

    /// 0 beside a zero gradient.
    private static func normalized(_ ab: Double, _ aa: Double, _ bb: Double) -> Double {
        aa > 0 && bb > 0 ? ab / (aa * bb).squareRoot() : 0
    }

    /// ⟨A₁ᵀ B₁, A₂ᵀ B₂⟩ = Σₜᵤ (A₁ A₂ᵀ)ₜᵤ (B₁ B₂ᵀ)ₜᵤ: no gradient is formed.
    private static func product(_ a: Parts, _ b: Parts) -> Double {
        let gradients = linear(a.outputGradient, b.outputGradient), inputs = linear(a.input, b.input)  // [T, T]
        return (gradients * inputs).to(.float64).sum().item
    }
}
