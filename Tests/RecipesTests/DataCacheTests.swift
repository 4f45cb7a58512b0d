// The rows of a run from the cache of tokens: the same whatever is asked of them.
import Datasets
import Formats
import RecipeData
import RunConfig
import TestSupport
import Testing

struct DataCacheTests {
    /// Seeds, splits and orders share tokens; a limited run takes those of all rows, else keeps its own.
    @Test func splitsShareTokens() throws {
        let place = try RunPlace(), cache = TokenCache(folder: place.folder["tokens"])
        let tokenizer = try tinyTokenizer()
        func data(_ change: (inout DataSection) -> Void, _ cache: TokenCache?) throws -> SFTData {
            var section = place.config("x").data
            section.cache = cache != nil
            change(&section)
            return try SFTData(section, tokenizer, threads: 2, cache: cache)
        }
        let changes: [(start: String, change: (inout DataSection) -> Void)] = [
            ("tokens kept", { $0.limit = 5 }), ("tokens from", { $0.limit = 5 }), ("tokens kept", { _ in }),
            ("tokens from", { _ in }), ("tokens from", { $0.seed = 7 }), ("tokens from", { $0.validationRows = 9 }),
            ("tokens from", { $0.limit = 3 }), ("tokens kept", { $0.maxLength = 60 }),
        ]
        for (start, change) in changes {
            let kept = try data(change, cache), made = try data(change, nil)
            #expect(kept.notes.count == 1 && kept.notes[0].hasPrefix(start), "\(kept.notes)")
            #expect(made.notes.isEmpty)
            #expect(Array(kept.training) == Array(made.training) && Array(kept.validation) == Array(made.validation))
            #expect(kept.trainingStatistics == made.trainingStatistics)
            #expect(kept.validationStatistics == made.validationStatistics)
            #expect(
                kept.warnings == made.warnings && kept.sources.map(\.fingerprint) == made.sources.map(\.fingerprint))
        }
    }

    /// Weights are of paths: of a folder, all its files; rows that are held out or left out are no part of it.
    @Test func weightsFollowPaths() throws {
        let place = try RunPlace()
        try createDirectories(place.folder["more"])
        let line = RunPlace.line((question: "who?", answer: "me"))
        try writeFileAtomically(line + line + "{}\n", to: place.folder["more/a.jsonl"])
        try writeFileAtomically(line, to: place.folder["more/b.jsonl"])
        var config = place.config("x")
        config.data.train.append(place.folder["more"])
        (config.data.weights, config.data.badRows) = ([1, 3], .drop)
        let data = try SFTData(config.data, tinyTokenizer(), threads: 2), sets = try #require(data.weightedSets)
        #expect(sets.shares == [0.25, 0.75] && sets.rows.map(\.count).reduce(0, +) == data.training.count)
        for (set, isMore) in zip(sets.rows, [false, true]) {
            #expect(set.allSatisfy { data.training.source($0).file.contains("/more/") == isMore })
        }
        let sampler = try config.sampler(data)
        #expect(sampler.draws(steps: 8) == [8, 23])
        config.data.weights = []
        #expect(try SFTData(config.data, tinyTokenizer(), threads: 2).weightedSets == nil)
    }

    /// Held-out rows of their own have tokens of their own.
    @Test func twoSources() throws {
        let place = try RunPlace(), cache = TokenCache(folder: place.folder["tokens"])
        try writeFileAtomically(RunPlace.line((question: "who?", answer: "me")), to: place.folder["judged.jsonl"])
        var section = place.config("x").data
        (section.cache, section.validationRows, section.validation) = (true, nil, [place.folder["judged.jsonl"]])
        for start in ["tokens kept", "tokens from"] {
            let data = try SFTData(section, tinyTokenizer(), threads: 2, cache: cache)
            #expect(data.notes.count == 2 && data.notes.allSatisfy { $0.hasPrefix(start) })
            #expect(data.training.count == 20 && data.validation.count == 1)
        }
    }
}
