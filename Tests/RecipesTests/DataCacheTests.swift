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
