// What must hold of every family, whatever the weights.
// V vocabulary size
import Formats
import Glibc
import Layers
import Models
import Optimizers
import RandomStreams
import Tensors
import TestSupport
import Testing

@Suite struct PropertyTests {
    @Test(arguments: TinyFamily.allCases) func aLaterTokenNeverChangesAnEarlierLogit(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config), ids = someIDs(11, seed: 4), V = model.vocabSize
        let before = model.allLogits(ids).values(Float.self)
        for t in ids.indices {
            var other = ids
            other[t] = (ids[t] + 17) % 64
            let after = model.allLogits(other).values(Float.self)
            #expect(after[..<(t * V)] == before[..<(t * V)])
            #expect(after[(t * V)...] != before[(t * V)...])
        }
    }

    @Test(arguments: TinyFamily.allCases) func packedEqualsSeparate(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config).trainAll(), parameters = model.namedParameters()
        let documents = [7, 1, 12, 2, 5].enumerated().map { someIDs($1, seed: UInt64(10 + $0)) }
        let packed = model.documentLoss(documents)
        packed.backward()
        let together = takeGradients(parameters)
        var sum = 0.0
        for document in documents where document.count > 1 {
            let loss = model.documentLoss([document])
            loss.backward()
            sum += loss.item
        }
        #expect(abs(packed.item - sum) <= 1e-5 * sum)
        #expect(normDifference(together, takeGradients(parameters)) <= 1e-5)
    }

    @Test(arguments: TinyFamily.allCases) func documentsDoNotSeeEachOther(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config), V = model.vocabSize
        let first = someIDs(6, seed: 5), second = someIDs(7, seed: 6)
        let before = model.allLogits(first + second, starts: [0, 6, 13]).values(Float.self)
        let after = model.allLogits(first.map { ($0 + 9) % 64 } + second, starts: [0, 6, 13]).values(Float.self)
        #expect(after[(6 * V)...] == before[(6 * V)...])
        #expect(after[..<(6 * V)] != before[..<(6 * V)])
        let alone = Tensor(Array(before[(6 * V)...]), [7, V])
        #expect(relativeDifference(alone, model.allLogits(second)) <= 1e-5)
    }

    @Test(arguments: TinyFamily.allCases) func theFirstLossIsThatOfGuessing(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config, scale: 0.02)
        let loss = model.documentLoss([someIDs(100, seed: 7)], factor: 1 / 99).item
        #expect(abs(loss - log(64)) < 0.02 * log(64))
    }

    /// k micro-batches equal one batch when every token counts 1 / (tokens of the whole step).
    @Test(arguments: [DType.float32, .float64], [false, true])
    func microBatchesEqualOneBatch(_ dtype: DType, _ isAdapter: Bool) throws {
        let model = try tinyModel(TinyFamily.llama.config, dtype)
        var parameters = model.trainAll().namedParameters()
        if isAdapter {
            for (_, parameter) in parameters { parameter.isTrained = false }
            parameters = attachAdapters(to: model, hasMagnitude: false)
        }
        let lengths = [31, 3, 2, 17, 2, 9, 24, 4]  // 84 trained tokens
        let documents = lengths.enumerated().map { someIDs($1, seed: UInt64(20 + $0)) }
        let tokens = Double(lengths.reduce(0) { $0 + $1 - 1 })
        model.documentLoss(documents, factor: 1 / tokens).backward()
        let whole = takeGradients(parameters)
        for document in documents { model.documentLoss([document], factor: 1 / tokens).backward() }
        #expect(normDifference(takeGradients(parameters), whole) <= (dtype == .float64 ? 1e-12 : 1e-6))
        // Control: the mean of the micro-batches' means is another gradient.
        for document in documents {
            model.documentLoss([document], factor: 1 / Double(8 * (document.count - 1))).backward()
        }
        #expect(normDifference(takeGradients(parameters), whole) > 0.05)
    }

    /// What is computed again has the same bits, dropout included, and so have all gradients.
    @Test(arguments: [1, 2, 3], [false, true]) func recomputationChangesNoBit(_ stride: Int, _ isAdapter: Bool) throws {
        let model = try tinyModel(TinyFamily.mistral.config.changing(["num_hidden_layers": 4]))
        var parameters = model.trainAll().namedParameters()
        if isAdapter {
            for (_, parameter) in parameters { parameter.isTrained = false }
            parameters = attachAdapters(to: model, hasMagnitude: true, dropout: 0.3)
        }
        func gradients() -> [[Float]] {
            model.documentLoss([someIDs(9, seed: 1), someIDs(5, seed: 2)]).backward()
            return takeGradients(parameters).map { $0.values(Float.self) }
        }
        let kept = gradients()
        var inputs = 0
        model.recomputation = .init(stride: stride)
        model.layerObserver = { _, _ in inputs += 1 }
        #expect(gradients() == kept)
        // Four blocks forward, and once more each but those of the last stretch.
        #expect(inputs == 4 + [1: 3, 2: 2, 3: 3][stride]!)
    }

    /// Selective checkpointing, too, alone and inside blocks that are run again.
    @Test(arguments: TinyFamily.allCases, [false, true]) func selectionChangesNoBit(
        _ family: TinyFamily, _ isAdapter: Bool
    ) throws {
        let model = try tinyModel(family.config).trainAll()
        var parameters = model.namedParameters()
        if isAdapter {
            for (_, parameter) in parameters { parameter.isTrained = false }
            parameters = attachAdapters(to: model, hasMagnitude: true)
        }
        func gradients(_ recomputation: Recomputation) -> [[Float]] {
            model.recomputation = recomputation
            model.documentLoss([someIDs(9, seed: 1), someIDs(5, seed: 2)]).backward()
            return takeGradients(parameters).map { $0.values(Float.self) }
        }
        let kept = gradients(.init())
        #expect(gradients(.init(isSelective: true)) == kept)
        #expect(gradients(.init(stride: 1, isSelective: true)) == kept)
    }

    /// Updates of DoRA with dropout: what is computed again has the norms and the masks of its own update.
    @Test func recomputedBlocksFollowUpdates() throws {
        func trained(_ stride: Int) throws -> [[Float]] {
            let model = try tinyModel(TinyFamily.mistral.config)
            let parameters = attachAdapters(to: model, hasMagnitude: true), optimizer = AdamW(parameters, .init())
            model.recomputation = .init(stride: stride)
            for step in 0..<3 {
                for (i, (_, linear)) in model.blockLinears.enumerated() {
                    linear.adapter?.dropout = 0.3
                    linear.adapter?.dropoutStream = RandomStream(seed: 4, UInt64(i), UInt64(step))
                }
                model.documentLoss([someIDs(9, seed: 1)], factor: 1 / 8).backward()
                optimizer.step(learningRate: 0.05)
                optimizer.zeroGradients()
            }
            return parameters.map { $0.parameter.value.values(Float.self) }
        }
        #expect(try trained(1) == trained(0))
    }

    @Test(arguments: TinyFamily.allCases) func oneBatchOverfits(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config, scale: 0.2).trainAll()
        let optimizer = AdamW(model.namedParameters(), .init()), ids = someIDs(16, seed: 8)
        var losses: [Double] = []
        for _ in 0..<60 {
            let loss = model.documentLoss([ids], factor: 1 / 15)
            loss.backward()
            optimizer.step(learningRate: 0.01)
            optimizer.zeroGradients()
            losses.append(loss.item)
        }
        #expect(losses[0] > 3 && losses.last! < 0.05)
    }
}

/// LoRA or DoRA on every block linear map, moved away from its start, trained, with the same dropout each time.
func attachAdapters(
    to model: any CausalLanguageModel, hasMagnitude: Bool, dropout: Double = 0
) -> [(name: String, parameter: Parameter)] {
    model.blockLinears.enumerated().flatMap { k, entry in
        let adapter = LowRankAdapter(
            on: entry.linear, rank: 2, scaling: 1.5, dropout: dropout, hasMagnitude: hasMagnitude,
            initialization: RandomStream(seed: 9, UInt64(k)))
        if dropout > 0 { adapter.dropoutStream = RandomStream(seed: 4, UInt64(k)) }
        adapter.b.value.copyInPlace(filled(adapter.b.shape, 50 + k, scale: 0.4))
        if let m = adapter.magnitude { m.value.copyInPlace(m.value.detached() + filled(m.shape, 70 + k, scale: 0.3)) }
        entry.linear.adapter = adapter
        for (_, parameter) in adapter.namedParameters() { parameter.isTrained = true }
        return adapter.namedParameters(prefix: entry.name + ".")
    }
}
