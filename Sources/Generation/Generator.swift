// Writing text: several prompts at once, each with its own length, over one KV cache.
internal import Layers
public import Models
internal import Tensors
public import Tokenizers

/// Why an answer ended.
public enum FinishReason: String, Sendable {
    /// The model wrote an end token.
    case end
    /// A stop string appeared; it is not part of the text.
    case stop
    /// `maxNewTokens` or the context was full.
    case length
}

/// One answer.
public struct Answer: Sendable, Equatable {
    public var text: String
    /// Ids written, the end token included.
    public var ids: [Int32]
    public var reason: FinishReason
}

/// Settings of a generation beyond the sampling.
public struct GenerationSettings: Sendable {
    public var sampling: SamplingSettings
    public var maxNewTokens: Int
    public var stop: [String]
    /// Prompts worked on together.
    public var batch: Int

    public init(sampling: SamplingSettings = .init(), maxNewTokens: Int = 256, stop: [String] = [], batch: Int = 8) {
        (self.sampling, self.maxNewTokens, self.stop, self.batch) = (sampling, maxNewTokens, stop, batch)
    }
}

/// Generates with one model and tokenizer.
public final class Generator {
    private let makeScorer: () -> any SequenceScorer
    private let tokenizer: Tokenizer
    private let endTokens: Set<Int32>
    /// Steps that were one call of a fused decoder: tests ask whether that path was taken.
    public private(set) var fusedSteps = 0

    public init(_ loaded: LoadedModel, _ tokenizer: Tokenizer) throws {
        // Each time anew: weights may have been trained or replaced since.
        makeScorer = { loaded.model.makeScorer() }
        self.tokenizer = tokenizer
        endTokens = try loaded.endTokens(tokenizer)
    }

    public init(_ stored: StoredModel, _ tokenizer: Tokenizer) {
        makeScorer = { stored }
        self.tokenizer = tokenizer
        endTokens = stored.endTokens(tokenizer)
    }

    /// Answers for token sequences, in their order.
    ///
    /// - Parameters:
    ///   - prompts: ids, each non-empty and shorter than the model's context.
    ///   - firstIndex: the first prompt's number; a prompt's draws depend on its number, not on the batch it is in.
    ///   - onText: told each new piece of text with its prompt's index as it is final.
    public func answers(
        to prompts: [[Int32]], _ settings: GenerationSettings, firstIndex: Int = 0,
        onText: (Int, String) -> Void = { _, _ in }
    ) -> [Answer] {
        withScorer { scorer in
            stride(from: 0, to: prompts.count, by: settings.batch).flatMap { start in
                let end = min(prompts.count, start + settings.batch)
                return batch(scorer, Array(prompts[start..<end]), firstIndex + start, settings, onText)
            }
        }
    }

    private func withScorer<R>(_ body: (any SequenceScorer) -> R) -> R {
        let scorer = makeScorer(), before = scorer.fusedSteps
        defer { fusedSteps += scorer.fusedSteps - before }
        return withoutGradients { body(scorer) }
    }

    private func batch(
        _ scorer: any SequenceScorer, _ prompts: [[Int32]], _ first: Int, _ settings: GenerationSettings,
        _ onText: (Int, String) -> Void
    ) -> [Answer] {
        let longest = prompts.map(\.count).max()!
        let capacity = min(scorer.contextLength, longest + settings.maxNewTokens)
        let cache = scorer.makeCache(sequences: prompts.count, capacity: capacity)
        cache.reaches = prompts.map { min(capacity, $0.count + settings.maxNewTokens) }
        let writings = prompts.indices.map {
            Writing(
                index: first + $0, prompts[$0], tokenizer, settings, endTokens,
                limit: min(settings.maxNewTokens, capacity - prompts[$0].count))
        }
        func take(_ scores: FusedDecoder.Scores, _ rows: [Int]) {
            let ids = settings.sampling.pick(scores, rows.map { writings[$0].draw })
            for (row, id) in zip(rows, ids) { writings[row].take(id, onText) }
        }
        let shared = shareBeginning(of: prompts, scorer, cache)
        for rows in groups(of: prompts.map { $0.count - shared }) {
            take(scorer.scores(after: rows.map { Array(prompts[$0][shared...]) }, rows: rows, cache), rows)
        }
        // Where the cache has row i of the batch.
        var places = Array(writings.indices), active = places
        while true {
            let going = active.indices.filter { !writings[active[$0]].isDone }
            if going.isEmpty { return writings.map(\.answer) }
            if going.count < active.count {
                (places, active) = (going.map { places[$0] }, going.map { active[$0] })
                if scorer.wantsDenseRows {
                    cache.keep(places)
                    places = Array(places.indices)
                }
            }
            take(scorer.scores(after: active.map { [writings[$0].ids.last!] }, rows: places, cache), active)
        }
    }

    /// Computes the beginning that all prompts have in common once, for all rows.
    ///
    /// - Returns: its length, 0 when it is too short to matter.
    private func shareBeginning(of prompts: [[Int32]], _ scorer: any SequenceScorer, _ cache: KVCache) -> Int {
        guard prompts.count > 1 else { return 0 }
        // Each prompt keeps a token of its own, whose scores are wanted.
        let bound = prompts.map(\.count).min()! - 1
        let shared = (0..<bound).first { i in prompts.contains { $0[i] != prompts[0][i] } } ?? bound
        let kinds = Set(cache.reaches.map { scorer.rotationKinds(ofLength: $0) })
        guard shared >= Self.shortestShared, kinds.count == 1 else { return 0 }
        _ = scorer.scores(after: [Array(prompts[0][..<shared])], rows: [0], cache)
        cache.share(shared, with: Array(prompts.indices))
        return shared
    }

    /// Shorter beginnings are as fast computed together.
    private static let shortestShared = 8
    /// Tokens of prompts that are computed at a time, which bounds the memory of activations.
    private static let promptTokens = 2048

    /// Neighbouring prompts whose tokens fit together.
    private func groups(of lengths: [Int]) -> [[Int]] {
        var groups: [[Int]] = [], tokens = 0
        for (row, length) in lengths.enumerated() {
            if groups.isEmpty || tokens + length > Self.promptTokens {
                groups.append([])
                tokens = 0
            }
            groups[groups.count - 1].append(row)
            tokens += length
        }
        return groups
    }

    /// Continues a conversation: what the cache of the last turn holds of the prompt is not computed again.
    public func reply(
        to prompt: [Int32], in session: ChatSession, _ settings: GenerationSettings, onText: (String) -> Void,
        shouldStop: () -> Bool = { false }
    ) -> Answer {
        withScorer { scorer in
            let cache = session.cache ?? scorer.makeCache(sequences: 1, capacity: scorer.contextLength)
            session.cache = cache
            let reach = min(cache.capacity, prompt.count + settings.maxNewTokens)
            if scorer.rotationKinds(ofLength: reach) != scorer.rotationKinds(ofLength: cache.reaches[0]) {
                session.held = []  // what is held was turned by other frequencies
            }
            cache.reaches[0] = reach
            let shared = min(zip(session.held, prompt).prefix { $0 == $1 }.count, prompt.count - 1)
            cache.truncate(row: 0, to: shared)
            let limit = min(settings.maxNewTokens, cache.capacity - prompt.count)
            let writing = Writing(index: session.turns, prompt, tokenizer, settings, endTokens, limit: limit)
            session.turns += 1
            session.held = prompt
            var next = Array(prompt[shared...])
            while true {
                let scores = scorer.scores(after: [next], rows: [0], cache)
                writing.take(settings.sampling.pick(scores, [writing.draw])[0]) { onText($1) }
                if writing.isDone || shouldStop() { return writing.answer }
                next = [writing.ids.last!]
                session.held.append(next[0])
            }
        }
    }
}

/// The cache of a conversation and the ids it stands for.
public final class ChatSession {
    var cache: KVCache?
    var held: [Int32] = []
    var turns = 0

    public init() {}
}

/// One answer as it is written.
private final class Writing {
    let index: Int
    private(set) var ids: [Int32] = []
    private(set) var isDone = false
    private var reason = FinishReason.length
    /// Ids of prompt and answer so far; nil where no draw looks at them.
    private var seen: Set<Int32>?
    private var decoder: StreamingDecoder
    /// Text that is final, and text that may yet turn out to begin a stop string.
    private var text = "", held = ""
    private let settings: GenerationSettings
    private let endTokens: Set<Int32>
    private let limit: Int

    init(
        index: Int, _ prompt: [Int32], _ tokenizer: Tokenizer, _ settings: GenerationSettings, _ endTokens: Set<Int32>,
        limit: Int
    ) {
        self.index = index
        self.settings = settings
        self.endTokens = endTokens
        self.limit = limit
        seen = settings.sampling.repetitionPenalty == 1 ? nil : Set(prompt)
        decoder = tokenizer.streamingDecoder(skipSpecialTokens: true)
        isDone = limit <= 0
    }

    var answer: Answer { Answer(text: text, ids: ids, reason: reason) }

    /// What the next token's draw depends on.
    var draw: SamplingSettings.Draw { .init(seen: seen ?? [], sequence: index, step: ids.count) }

    func take(_ id: Int32, _ onText: (Int, String) -> Void) {
        if isDone { return }
        ids.append(id)
        seen?.insert(id)
        if endTokens.contains(id) {
            finish(.end, onText)
        } else {
            held += decoder.push(id)
            release(onText)
            if !isDone && ids.count >= limit { finish(.length, onText) }
        }
    }

    private func finish(_ why: FinishReason, _ onText: (Int, String) -> Void) {
        held += decoder.finish()
        release(onText)
        if isDone { return }
        emit(held, onText)
        held = ""
        reason = why
        isDone = true
    }

    /// Passes on what cannot belong to a stop string any more; ends at the first stop string.
    private func release(_ onText: (Int, String) -> Void) {
        let bytes = Array(held.utf8)
        let found = settings.stop.compactMap { firstPosition(of: Array($0.utf8), in: bytes) }.min()
        if let found {
            emit(String(decoding: bytes[..<found], as: UTF8.self), onText)
            (held, reason, isDone) = ("", .stop, true)
            return
        }
        let keep = settings.stop.map { longestSuffix(of: bytes, beginning: Array($0.utf8)) }.max() ?? 0
        emit(String(decoding: bytes[..<(bytes.count - keep)], as: UTF8.self), onText)
        held = String(decoding: bytes[(bytes.count - keep)...], as: UTF8.self)
    }

    private func emit(_ piece: String, _ onText: (Int, String) -> Void) {
        if piece.isEmpty { return }
        text += piece
        onText(index, piece)
    }
}

private func firstPosition(of needle: [UInt8], in bytes: [UInt8]) -> Int? {
    guard !needle.isEmpty, bytes.count >= needle.count else { return nil }
    return (0...bytes.count - needle.count).first { bytes[$0..<$0 + needle.count].elementsEqual(needle) }
}

/// How many bytes at the end of `bytes` are a proper beginning of `stop`.
private func longestSuffix(of bytes: [UInt8], beginning stop: [UInt8]) -> Int {
    (0..<stop.count).last { $0 <= bytes.count && bytes.suffix($0).elementsEqual(stop.prefix($0)) } ?? 0
}
