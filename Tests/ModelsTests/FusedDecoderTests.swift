// The fused decoder against the plain layers: the same scores, taken where it can be and only there.
// V vocabulary size
import Formats
import Layers
import ModelFiles
import Models
import RandomStreams
import Tensors
import TestSupport
import Testing

extension FusedDecoder.Scores {
    /// A copy `[rows, V]`.
    fileprivate var tensor: Tensor { .cat((0..<rows).map { withRow($0) { Tensor(Array($0)).reshape(1, -1) } }, dim: 0) }
}

/// Scores after every step of ragged prompts and what follows them, rows in and out of order.
private func walk(_ scorer: any SequenceScorer, reaches: [Int] = [24, 24, 24]) -> [Tensor] {
    let prompts = [7, 1, 12].enumerated().map { someIDs($1, seed: UInt64(20 + $0)) }
    let cache = scorer.makeCache(sequences: 3, capacity: 24)
    cache.reaches = reaches
    var results = [scorer.scores(after: prompts, rows: [0, 1, 2], cache).tensor]
    for step in 0..<5 {
        results.append(scorer.scores(after: (0..<3).map { [Int32(3 * step + $0)] }, rows: [0, 1, 2], cache).tensor)
    }
    results.append(scorer.scores(after: [[5, 6, 7], [8]], rows: [2, 0], cache).tensor)
    #expect(cache.lengths == [13, 6, 20])
    return results
}

private func difference(_ a: [Tensor], _ b: [Tensor]) -> Double { normDifference(a, b) }

@Suite struct FusedDecoderTests {
    @Test(arguments: TinyFamily.allCases) func equalsThePlainPath(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config)
        let fused = model.makeScorer()
        #expect(difference(walk(fused), walk(model.makePlainScorer())) < 1e-5)
        #expect(fused.fusedSteps == 7)
    }

    /// Sequences of one step that turn by different frequencies go through the layers; alike, long or short, they do not.
    @Test(arguments: [([24, 24, 24], 7), ([12, 12, 12], 7), ([24, 12, 24], 1)])
    func rotationsThatChangeWithLength(_ reaches: [Int], _ fusedSteps: Int) throws {
        let model = try tinyModel(TinyFamily.llama.config.changing(["rope_parameters": TinyFamily.longRoPE]))
        let fused = model.makeScorer(), plain = walk(model.makePlainScorer(), reaches: reaches)
        #expect(difference(walk(fused, reaches: reaches), plain) < 1e-5)
        #expect(fused.fusedSteps == fusedSteps)
        let other = walk(model.makePlainScorer(), reaches: reaches.map { $0 == 24 ? 12 : 24 })
        #expect(difference(other, plain) > 1e-2)
    }

    /// Both round to bf16; the fused path less often, so it is nearer to fp32.
    @Test(arguments: TinyFamily.allCases) func equalsThePlainPathInBF16(_ family: TinyFamily) throws {
        let exact = walk(try tinyModel(family.config).makePlainScorer())
        let model = try tinyModel(family.config, .bfloat16), fused = model.makeScorer()
        let error = difference(walk(fused), exact), plain = difference(walk(model.makePlainScorer()), exact)
        #expect(error < 1.2 * plain && plain < 0.05, "fused \(error), plain \(plain)")
        #expect(fused.fusedSteps == 7)
    }

    /// fp32 masters computed in bf16, as while training: the scores are those of the rounded weights.
    @Test func mastersAreRounded() throws {
        let config = TinyFamily.llama.config, masters = try tinyModel(config).trainAll()
        masters.computeDType = .bfloat16
        let rounded = try tinyModel(config, .bfloat16)
        // Weights of norms stay fp32 in the masters: five norms that differ by up to 2^-9 each.
        #expect(difference(walk(masters.makeScorer()), walk(rounded.makeScorer())) < 0.02)
    }

    @Test(arguments: TinyFamily.allCases, [false, true])
    func adaptersAreMerged(_ family: TinyFamily, _ isDora: Bool) throws {
        let model = try tinyModel(family.config)
        let before = walk(model.makeScorer())
        for (i, (_, linear)) in model.blockLinears.enumerated() {
            let adapter = LowRankAdapter(
                on: linear, rank: 3, scaling: 0.7, dropout: 0, hasMagnitude: isDora,
                initialization: RandomStream(seed: 1, UInt64(i)))
            adapter.b.value.copyInPlace(filled(adapter.b.shape, i, scale: 0.5))
            linear.adapter = adapter
        }
        let fused = model.makeScorer(), after = walk(fused)
        #expect(difference(after, walk(model.makePlainScorer())) < 1e-5)
        #expect(difference(after, before) > 0.01 && fused.fusedSteps == 7)
    }

    /// A prompt through the layers, then steps: both write one cache.
    @Test(arguments: TinyFamily.allCases) func longPromptsGoThroughTheLayers(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config), ids = someIDs(90, seed: 4), fused = model.makeScorer()
        func scores(_ scorer: any SequenceScorer) -> [Tensor] {
            let cache = scorer.makeCache(sequences: 1, capacity: 100)
            return [ids, [3], [4], Array(ids.prefix(5))].map { scorer.scores(after: [$0], rows: [0], cache).tensor }
        }
        #expect(difference(scores(fused), scores(model.makePlainScorer())) < 1e-5)
        #expect(fused.fusedSteps == 3)
    }

    /// What is longer than a step of the fused decoder goes through the layers also behind what the cache holds.
    @Test(arguments: TinyFamily.allCases) func longRemaindersGoThroughTheLayers(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config), ids = someIDs(100, seed: 4), scorer = model.makeScorer()
        let cache = scorer.makeCache(sequences: 1, capacity: 100)
        _ = scorer.scores(after: [Array(ids.prefix(20))], rows: [0], cache)
        let scores = scorer.scores(after: [Array(ids[20...])], rows: [0], cache).tensor
        #expect(relativeDifference(scores, model.allLogits(ids).narrow(0, 99, 1)) < 1e-5)
        #expect(scorer.fusedSteps == 1)
    }

    @Test func whatLooksIntoLayersUsesThem() throws {
        let config = TinyFamily.llama.config
        #expect(try tinyLlama(config).makeScorer().fusedSteps == 0 && tinyLlama(config).fusedDecoder() != nil)
        #expect(try tinyLlama(config, .float64).fusedDecoder() == nil)
        let observed = try tinyLlama(config)
        observed.layerObserver = { _, _ in }
        #expect(observed.fusedDecoder() == nil)
        let probed = try tinyLlama(config)
        probed.blockLinears[3].linear.probe = GradientProbe()
        #expect(probed.fusedDecoder() == nil)
    }

    /// What GPT-NeoX models differ in among themselves.
    @Test(
        arguments: [
            ("hidden_act", "gelu_new"), ("use_parallel_residual", false), ("attention_bias", false),
        ] as [(String, JSONValue)])
    func variantsOfNeoX(_ key: String, _ value: JSONValue) throws {
        let model = try tinyModel(TinyFamily.gptNeoX.config.changing([key: value]))
        let fused = model.makeScorer(), scores = walk(fused)
        #expect(difference(scores, walk(model.makePlainScorer())) < 1e-5)
        #expect(difference(scores, walk(try tinyModel(TinyFamily.gptNeoX.config).makeScorer())) > 1e-4)
        #expect(fused.fusedSteps == 7)
    }

    @Test(arguments: [DType.float32, .bfloat16]) func sharedBeginnings(_ dtype: DType) throws {
        let model = try tinyModel(TinyFamily.llama.config, dtype), start = someIDs(9, seed: 1)
        let scorer = model.makeScorer()
        let apart = scorer.makeCache(sequences: 3, capacity: 20), shared = scorer.makeCache(sequences: 3, capacity: 20)
        let ends: [[Int32]] = [[1, 2], [3], [4, 5, 6]]
        let expected = scorer.scores(after: ends.map { start + $0 }, rows: [0, 1, 2], apart).tensor
        _ = scorer.scores(after: [start], rows: [0], shared)
        shared.share(9, with: [0, 1, 2])
        #expect(shared.lengths == [9, 9, 9])
        let result = scorer.scores(after: ends, rows: [0, 1, 2], shared).tensor
        #expect(relativeDifference(result, expected) < (dtype == .float32 ? 1e-5 : 0.02))
    }
}
