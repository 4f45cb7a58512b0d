// Cached decoding against the full forward pass.
// V vocabulary size
import Formats
import Layers
import Models
import Tensors
import TestSupport
import Testing

@Suite struct CacheTests {
    /// Feeds stretches to cached rows; the logits of every token fed, by row.
    private func feed(_ model: any CausalLanguageModel, _ cache: KVCache, _ rows: [Int], _ stretches: [[Int32]])
        -> [Tensor]
    {
        withoutGradients {
            let plan = AttentionPlan(continuing: cache, rows: rows, lengths: stretches.map(\.count))
            let ids = Tensor(stretches.flatMap { $0.map(Int64.init) })
            let logits = model.logits(model.hiddenStates(ids, plan, cache: cache))
            return stretches.indices.map { logits.narrow(0, plan.starts[$0], stretches[$0].count) }
        }
    }

    /// Logits of `ids[from...]` in the full pass.
    private func full(_ model: any CausalLanguageModel, _ ids: [Int32], from: Int = 0) -> Tensor {
        model.allLogits(ids).narrow(0, from, ids.count - from)
    }

    private func expectEqual(_ a: Tensor, _ b: Tensor, _ place: Comment = "") {
        #expect(relativeDifference(a, b) < 1e-5, place)
    }

    @Test(arguments: TinyFamily.allCases) func tokenByToken(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config), ids = someIDs(13, seed: 30)
        let cache = model.makeCache(sequences: 1, capacity: 13)
        let steps = ids.map { feed(model, cache, [0], [[$0]])[0] }
        expectEqual(.cat(steps, dim: 0), full(model, ids))
        #expect(cache.lengths == [13])
    }

    @Test(arguments: TinyFamily.allCases, [[13], [1, 12], [5, 8], [12, 1], [3, 4, 1, 5], [6, 1, 6]])
    func inStretches(_ family: TinyFamily, _ lengths: [Int]) throws {
        let model = try tinyModel(family.config), ids = someIDs(13, seed: 31)
        let cache = model.makeCache(sequences: 1, capacity: 20)
        var start = 0
        let parts = lengths.map { length in
            defer { start += length }
            return feed(model, cache, [0], [Array(ids[start..<start + length])])[0]
        }
        expectEqual(.cat(parts, dim: 0), full(model, ids))
    }

    /// Remainders of many keys behind pasts of different lengths, and beside them a whole prompt: as all at once.
    @Test(arguments: TinyFamily.allCases) func longRemainders(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config), pasts = [3, 0, 40]
        let rows = [128, 70, 101].enumerated().map { someIDs($1, seed: UInt64(60 + $0)) }
        let cache = model.makeCache(sequences: 3, capacity: 128)
        _ = feed(model, cache, [2, 0], [2, 0].map { Array(rows[$0].prefix(pasts[$0])) })
        let rest = feed(model, cache, [0, 1, 2], rows.indices.map { Array(rows[$0][pasts[$0]...]) })
        for row in rows.indices { expectEqual(rest[row], full(model, rows[row], from: pasts[row]), "row \(row)") }
    }

    @Test(arguments: TinyFamily.allCases) func raggedBatches(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config)
        let rows = [4, 11, 7].enumerated().map { someIDs($1 + 6, seed: UInt64(32 + $0)) }, prompts = [4, 11, 7]
        let cache = model.makeCache(sequences: 3, capacity: 20)
        let first = feed(model, cache, [0, 1, 2], rows.indices.map { Array(rows[$0].prefix(prompts[$0])) })
        for row in rows.indices { expectEqual(first[row], full(model, Array(rows[row].prefix(prompts[row])))) }
        for step in 0..<3 {  // one token each, the rows at different lengths
            let next = feed(model, cache, [0, 1, 2], rows.indices.map { [rows[$0][prompts[$0] + step]] })
            for row in rows.indices {
                expectEqual(
                    next[row], full(model, Array(rows[row].prefix(prompts[row] + step + 1)), from: prompts[row] + step))
            }
        }
        // Some of the rows, in another order, by stretches of different lengths.
        let mixed = feed(model, cache, [2, 0], [Array(rows[2][10..<13]), Array(rows[0][7..<9])])
        expectEqual(mixed[0], full(model, rows[2], from: 10))
        expectEqual(mixed[1], full(model, Array(rows[0].prefix(9)), from: 7))
        let one = feed(model, cache, [1], [[rows[1][14]]])
        expectEqual(one[0], full(model, Array(rows[1].prefix(15)), from: 14))
        #expect(cache.lengths == [9, 15, 13])
    }

    @Test(arguments: TinyFamily.allCases) func afterKeep(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config)
        let rows = [5, 9, 7].enumerated().map { someIDs($1 + 3, seed: UInt64(40 + $0)) }
        let cache = model.makeCache(sequences: 3, capacity: 16)
        _ = feed(model, cache, [0, 1, 2], rows.map { Array($0.dropLast(3)) })
        cache.keep([2, 1])
        #expect(cache.lengths == [7, 9])
        for step in 0..<3 {
            let next = feed(model, cache, [0, 1], [[rows[2][7 + step]], [rows[1][9 + step]]])
            expectEqual(next[0], full(model, Array(rows[2].prefix(8 + step)), from: 7 + step))
            expectEqual(next[1], full(model, Array(rows[1].prefix(10 + step)), from: 9 + step))
        }
    }

    @Test(arguments: TinyFamily.allCases, [0, 1, 6]) func afterTruncate(_ family: TinyFamily, _ kept: Int) throws {
        let model = try tinyModel(family.config), ids = someIDs(10, seed: 50), other = someIDs(5, seed: 51)
        let cache = model.makeCache(sequences: 2, capacity: 16)
        _ = feed(model, cache, [0, 1], [ids, other])
        cache.truncate(row: 0, to: kept)
        #expect(cache.lengths == [kept, 5])
        let new = Array(ids.prefix(kept)) + other
        expectEqual(feed(model, cache, [0], [other])[0], full(model, new, from: kept))
        let next = feed(model, cache, [0, 1], [[3], [4]])
        expectEqual(next[0], full(model, new + [3], from: new.count))
        expectEqual(next[1], full(model, other + [4], from: 5))
    }

    /// Where frequencies change with a document's length, a sequence turns by the length it comes to in the end.
    @Test(arguments: [("dynamic", 8), ("longrope", 128)]) func longSequencesTurnByTheirReach(
        _ type: String, _ context: Int
    )
        throws
    {
        let scaling: JSONValue = type == "dynamic" ? ["rope_type": "dynamic", "factor": 4] : TinyFamily.longRoPE
        let config = TinyFamily.llama.config.changing([
            "rope_parameters": scaling, "max_position_embeddings": .init(context),
        ])
        let model = try tinyModel(config), rows = [13, 7].enumerated().map { someIDs($1, seed: UInt64(33 + $0)) }
        #expect(model.contextLength == (type == "dynamic" ? 32 : 128))
        let cache = model.makeCache(sequences: 2, capacity: 20)
        cache.reaches = [13, 7]
        var parts = rows.map { _ in [Tensor]() }
        for range in [0..<3, 3..<6, 6..<7] {
            let next = feed(model, cache, [0, 1], rows.map { Array($0[range]) })
            for row in 0..<2 { parts[row].append(next[row]) }
        }
        parts[0].append(feed(model, cache, [0], [Array(rows[0][7...])])[0])
        for row in 0..<2 { expectEqual(.cat(parts[row], dim: 0), full(model, rows[row])) }
        // The control: by the length so far they would turn otherwise.
        #expect(
            relativeDifference(.cat(parts[0], dim: 0).narrow(0, 0, 7), full(model, Array(rows[0].prefix(7)))) > 1e-3)
    }

    @Test func truncateNeverInventsTokens() throws {
        let model = try tinyModel(TinyFamily.llama.config), cache = model.makeCache(sequences: 1, capacity: 8)
        _ = feed(model, cache, [0], [[1, 2, 3]])
        cache.truncate(row: 0, to: 9)
        #expect(cache.lengths == [3])
    }

    /// The control: a window changes something at these lengths, so the tests above do test it.
    @Test func theWindowMatters() throws {
        let ids = someIDs(13, seed: 30), config = TinyFamily.mistral.config
        let wide = try tinyModel(config.changing(["sliding_window": .some(.null)])).allLogits(ids)
        let narrow = try tinyModel(config).allLogits(ids)
        #expect(relativeDifference(narrow.narrow(0, 0, 4), wide.narrow(0, 0, 4)) < 1e-6)
        #expect(relativeDifference(narrow.narrow(0, 5, 8), wide.narrow(0, 5, 8)) > 0.01)
    }
}
