// Gradients of tiny models against torch's autograd and numpy's SVD; the two ways to singular values; the curves' numbers.
import Diagnostics
import Formats
import GradientAnalysis
import Layers
import Models
import RandomStreams
import TestSupport
import Tensors
import Testing

@Suite struct GradientGoldenTests {
    private func cases() throws -> [JSONValue] {
        try golden("gradient_goldens.json", besideFile: #filePath)["cases"]!.array!
    }

    private func close(_ a: Double, _ b: Double, scale: Double? = nil) -> Bool {
        abs(a - b) <= 1e-4 * (scale ?? abs(b))
    }

    private func gradients(_ golden: JSONValue) throws -> ExampleGradients {
        let model = try tinyModel(TinyFamily(rawValue: golden["family"]!.string!)!.config)
        let ids = golden["ids"]!.ints.map { Int32($0) }, response = golden["response"]!.int!
        let capture = try GradientCapture(model, Projection.allCases, cosines: true)
        #expect(capture.layers == 2)
        defer { capture.detach() }
        return capture.gradients(ids, trained: ids.indices.map { $0 >= ids.count - response })
    }

    @Test(arguments: 0..<6)
    func spectraAreTorchs(_ index: Int) throws {
        let golden = try cases()[index], found = try gradients(golden)
        #expect(close(found.loss, golden["loss"]!.double!))
        for (name, layers) in golden["projections"]!.object! {
            let spectra = try #require(found.spectra[Projection(rawValue: name)!] ?? nil)
            for (spectrum, expected) in zip(spectra, layers.array!) {
                let scale = expected["sigma_max"]!.double!
                for scalar in MatrixScalar.allCases {
                    // Entries, and singular values that are zero but for rounding, on the scale of the largest.
                    let isSmall = [.mean, .min, .max, .sigmaMin].contains(scalar)
                    let value = scalar(spectrum), wanted = expected[scalar.rawValue]!.double!
                    #expect(
                        close(value, wanted, scale: isSmall ? scale : nil), "\(name) \(scalar): \(value), not \(wanted)"
                    )
                }
                let sigma = expected["singular_values"]!.flatNumbers
                #expect(spectrum.rankBound == sigma.count)
                for (i, wanted) in sigma.enumerated() {
                    let value = i < spectrum.singularValues.count ? Double(spectrum.singularValues[i]) : 0
                    #expect(abs(value - wanted) < 1e-4 * scale)
                }
            }
        }
    }

    @Test(arguments: 0..<6)
    func cosinesAreTorchs(_ index: Int) throws {
        let golden = try cases()[index], cosines = try #require(try gradients(golden).cosines)
        func same(_ a: [Double], _ b: [Double]) -> Bool {
            a.count == b.count && zip(a, b).allSatisfy { abs($0 - $1) < 1e-4 }
        }
        #expect(same(try #require(cosines.keyValue), golden["cosine_k_v"]!.flatNumbers))
        if let pair = golden["cosine_q_o"] {
            #expect(same(try #require(cosines.queryOutput), pair.flatNumbers))
        } else {
            #expect(cosines.queryOutput == nil)
        }
        #expect(same(try #require(cosines.betweenLayers[.q]).flatMap { $0 }, golden["cosine_layers_q"]!.flatNumbers))
    }

    /// Weights keep no gradient, and a probe that was taken off costs nothing: the output is the map's own.
    @Test func nothingIsLeftBehind() throws {
        let model = try tinyModel(TinyFamily.llama.config), ids = someIDs(9, seed: 1)
        let before = model.allLogits(ids)
        let capture = try GradientCapture(model, [.q, .o])
        _ = capture.gradients(ids, trained: ids.map { _ in true })
        #expect((model.allLogits(ids) - before).maxAbs().item == 0)
        capture.detach()
        #expect(model.namedParameters().allSatisfy { $0.parameter.value.gradient == nil && !$0.parameter.isTrained })
        #expect(model.blockLinears.allSatisfy { $0.linear.probe == nil })
    }

    /// An adapter acts like the weight it makes: same spectra as after merging.
    @Test func adaptersCount() throws {
        let ids = someIDs(12, seed: 2), trained = ids.indices.map { $0 > 4 }
        let model = try tinyModel(TinyFamily.llama.config)
        for (i, (_, linear)) in model.blockLinears.enumerated() {
            let adapter = LowRankAdapter(
                on: linear, rank: 2, scaling: 1.5, dropout: 0, hasMagnitude: false,
                initialization: .init(seed: 1, UInt64(i)))
            adapter.b.value.copyInPlace(filled(adapter.b.shape, 50 + i, scale: 0.5))
            linear.adapter = adapter
        }
        func nuclear() throws -> [Double] {
            let capture = try GradientCapture(model, [.q, .down])
            defer { capture.detach() }
            return capture.gradients(ids, trained: trained).spectra.sorted { $0.key.rawValue < $1.key.rawValue }
                .flatMap { $0.value!.map(\.nuclear) }
        }
        let adapted = try nuclear()
        for (_, linear) in model.blockLinears {
            linear.weight.replace(with: linear.adapter!.merged(linear.weight))
            linear.adapter = nil
        }
        #expect(zip(adapted, try nuclear()).allSatisfy { close($0, $1) })
    }

    @Test func missingProjectionsAreNamed() throws {
        let model = ScarceModel()
        #expect(throws: UserError.self) { try GradientCapture(model, [.gate]) }
    }

    /// A model without any linear map in its blocks.
    private final class ScarceModel: CausalLanguageModel {
        var vocabSize: Int { 1 }
        var contextLength: Int { 1 }
        var computeDType = DType.float32
        var device: Device { .cpu }
        let tokenTable = Embedding(1, 1, .float32, on: .cpu)
        var headWeight: Parameter { tokenTable.weight }
        var recomputation = Recomputation()
        var layerObserver: ((_ layer: Int, _ input: Tensor) -> Void)?
        func hiddenStates(_ ids: Tensor, _ plan: AttentionPlan, cache: KVCache?) -> Tensor { ids }
        func makeCache(sequences: Int, capacity: Int) -> KVCache {
            KVCache(layers: 0, sequences: 0, capacity: 0, kvHeads: 1, headDim: 1, .float32, on: .cpu)
        }
    }
}

@Suite struct SpectrumTests {
    /// Row 15 of the specification's checks.
    @Test(arguments: [(5, 24, 40), (7, 64, 16), (11, 30, 30), (1, 8, 9)])
    func coreAndDirectAgree(_ T: Int, _ m: Int, _ n: Int) throws {
        let A = normal64([T, m], seed: 1).to(.float32), B = normal64([T, n], seed: 2).to(.float32)
        let core = try #require(GradientSpectrum(outputGradient: A, input: B, path: .core))
        let direct = try #require(GradientSpectrum(outputGradient: A, input: B, path: .direct))
        #expect(core.singularValues.count == T && direct.singularValues.count == min(m, n))
        #expect(abs(core.nuclear / direct.nuclear - 1) < 1e-5)
        for (a, b) in zip(core.singularValues, direct.singularValues) { #expect(abs(a / b - 1) < 1e-4) }
        for spectrum in [core, direct] {
            let fromSigma = spectrum.singularValues.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot()
            #expect(abs(fromSigma / spectrum.frobenius - 1) < 1e-6)
        }
        #expect(core.sigmaMin == (T < min(m, n) ? 0 : Double(core.singularValues.last!)))
    }

    @Test func fewTokensTakeTheCore() throws {
        let A = normal64([7, 16], seed: 3).to(.float32), B = normal64([7, 20], seed: 4).to(.float32)
        #expect(GradientSpectrum(outputGradient: A, input: B)?.singularValues.count == 7)  // 2 · 7 < 16
        let more = normal64([8, 16], seed: 3).to(.float32), beside = normal64([8, 20], seed: 4).to(.float32)
        #expect(GradientSpectrum(outputGradient: more, input: beside)?.singularValues.count == 16)
    }

    /// Delta a of the specification's 5.2: σ .54238836 .38847763, and what follows from them.
    @Test func valuesOfTheSpecification() throws {
        let a = Tensor([0.11, -0.23, 0.05, 0.31, -0.17, 0.29, -0.02, 0.41] as [Double], [2, 4])
        let identity = Tensor([1, 0, 0, 1] as [Double], [2, 2])
        let spectrum = try #require(GradientSpectrum(outputGradient: identity, input: a, path: .direct))
        let expected = [0.93086599, 0.58267072, 0.66715815, 1.97272397]
        let found = [spectrum.nuclear, spectrum.ratio, spectrum.frobenius, spectrum.effectiveRank]
        for (value, wanted) in zip(found, expected) { #expect(abs(value - wanted) < 1e-6) }
        #expect(abs(spectrum.sigmaMin - 0.38847763) < 1e-6)
        #expect(
            abs(spectrum.mean - 0.09375) < 1e-6 && abs(spectrum.min + 0.23) < 1e-6 && abs(spectrum.max - 0.41) < 1e-6)
    }

    @Test(arguments: [Float.nan, .infinity])
    func nonFiniteGradientsGiveNone(_ bad: Float) {
        let A = Tensor([1, bad] as [Float], [1, 2]), B = Tensor([1, 2] as [Float], [1, 2])
        #expect(GradientSpectrum(outputGradient: A, input: B) == nil)
    }

    @Test func zeroGradient() throws {
        let zero = try #require(
            GradientSpectrum(outputGradient: .zeros([2, 3]), input: .zeros([2, 4]), path: .direct))
        #expect(zero.nuclear == 0 && zero.ratio == 0 && zero.effectiveRank == 0)
    }
}

@Suite struct LayerCurveTests {
    @Test func differencesBetweenNeighbours() {
        #expect(meanAbsoluteDifference([1, 4, 2]) == 2.5)
        #expect(meanAbsoluteDifference([3]) == 0 && meanAbsoluteDifference([Double]()) == 0)
    }

    @Test(arguments: [
        (26, [7, 13, 6]), (28, [7, 14, 7]), (32, [10, 10, 12]), (42, [12, 18, 12]), (4, [1, 2, 1]), (24, [7, 10, 7]),
    ])
    func partsByDepth(_ layers: Int, _ sizes: [Int]) { #expect(LayerParts(layers: layers).sizes == sizes) }

    @Test func partsDoNotReachIntoEachOther() {
        let parts = LayerParts(sizes: [2, 3, 1], layers: 6)!, curve = [1.0, 2, 10, 13, 10, 50]
        let report = ProjectionReport(examples: 1, notFinite: 0, parts: parts, means: [.nuclear: curve])
        #expect(report.byPart == [1, 3, 0] && report.total == (1 + 8 + 3 + 3 + 40) / 5)
        #expect(LayerParts(sizes: [2, 3, 2], layers: 6) == nil && LayerParts(sizes: [0, 3, 3], layers: 6) == nil)
    }

    @Test func relativeDifferences() {
        let difference = RelativeDifference(irrelevant: [2, 1, 3, 0], correct: [1, 2, 3, 0])
        #expect(difference.byLayer == [1, -0.5, 0, 0])
        #expect(difference.mean == 0.125 && difference.meanAbsolute == 0.375)
        #expect(difference.largest(3) == [0, 1, 2])
        #expect(RelativeDifference(irrelevant: [1e-10], correct: [0]).byLayer == [1])
    }
}
