// Generation: against full forward passes on random models, and word by word on a model with a script.
import Formats
import Generation
import Layers
import Models
import Tensors
import TestSupport
import Testing
import Tokenizers

@Suite struct GeneratorTests {
    let folder: TemporaryFolder
    let tokenizer: Tokenizer

    init() throws {
        folder = try TemporaryFolder()
        tokenizer = try tinyTokenizer()
    }

    private func random(_ family: TinyFamily) throws -> LoadedModel {
        let config = textConfig(family)
        try writeTextFolder(folder[family.rawValue], config, tinyModel(config))
        return try load(folder[family.rawValue])
    }

    private func scripted(_ script: String) throws -> Generator {
        try writeScriptedFolder(folder["scripted"], script)
        return try Generator(load(folder["scripted"]), tokenizer)
    }

    private func ids(_ text: String) -> [Int32] { tokenizer.encode(text, addSpecialTokens: false) }

    private let prompts = [5, 1, 9, 3, 14, 2, 7, 4].enumerated().map {
        someIDs($1, seed: UInt64(70 + $0), vocabulary: 268)
    }

    @Test(arguments: TinyFamily.allCases) func greedyIsTheArgmaxOfFullPasses(_ family: TinyFamily) throws {
        let loaded = try random(family), generator = try Generator(loaded, tokenizer)
        for prompt in prompts.prefix(4) {
            let answer = generator.answers(to: [prompt], .init(maxNewTokens: 12))[0]
            var text = prompt
            for id in answer.ids {
                let scores = loaded.model.allLogits(text).narrow(0, text.count - 1, 1)
                #expect(Int64(id) == scores.argmax(dim: 1).values(Int64.self)[0])
                text.append(id)
            }
            #expect(answer.ids.count == 12 || answer.ids.last == 1)
        }
    }

    @Test(arguments: TinyFamily.allCases, [0.0, 1.0]) func answersDoNotDependOnTheBatch(
        _ family: TinyFamily, _ temperature: Double
    ) throws {
        let generator = try Generator(random(family), tokenizer)
        func answers(_ batch: Int) -> [Answer] {
            generator.answers(
                to: prompts, .init(sampling: .init(temperature: temperature, seed: 3), maxNewTokens: 10, batch: batch))
        }
        let alone = answers(1)
        #expect(answers(8) == alone && answers(3) == alone)
        #expect(Set(alone.map(\.ids)).count > 1)
        // A prompt's number decides its draws.
        let later = generator.answers(
            to: [prompts[5]], .init(sampling: .init(temperature: temperature, seed: 3), maxNewTokens: 10), firstIndex: 5
        )
        #expect(later[0] == alone[5])
    }

    /// A token of prompt or answer is as good as forbidden.
    @Test func whatWasWrittenIsRemembered() throws {
        let generator = try Generator(random(.llama), tokenizer)
        let sampling = SamplingSettings(repetitionPenalty: 1e6)
        let answers = generator.answers(to: prompts, .init(sampling: sampling, maxNewTokens: 20))
        for (prompt, answer) in zip(prompts, answers) {
            #expect(Set(prompt + answer.ids).count == Set(prompt).count + answer.ids.count)
        }
        // The control: left alone, the model repeats itself.
        let free = generator.answers(to: prompts, .init(maxNewTokens: 20))
        #expect(free.contains { Set($0.ids).count < $0.ids.count })
        // A talk remembers, too.
        let reply = generator.reply(
            to: prompts[0], in: ChatSession(), .init(sampling: sampling, maxNewTokens: 20), onText: { _ in })
        #expect(reply == answers[0])
    }

    /// One call a step: a silent fall-back to operations one by one would be fifty times slower and go unnoticed.
    @Test(arguments: [DType.float32, .bfloat16]) func everyStepIsFused(_ dtype: DType) throws {
        let config = textConfig(), folder = folder["fused"]
        try writeTextFolder(folder, config, tinyModel(config))
        let generator = try Generator(load(folder, dtype), tokenizer)
        let answers = generator.answers(to: Array(prompts[0..<2]), .init(maxNewTokens: 6))
        #expect(generator.fusedSteps == answers.map(\.ids.count).max()!)
    }

    /// A beginning that a batch has in common is computed once, and changes nothing.
    @Test(arguments: TinyFamily.allCases, [7, 9, 30]) func aSharedBeginning(_ family: TinyFamily, _ length: Int) throws
    {
        let generator = try Generator(random(family), tokenizer)
        let start = someIDs(length, seed: 9, vocabulary: 268)
        // One prompt is the beginning itself: its last token is computed apart.
        let prompts = [start + [5, 6], start, start + [7]]
        func answers(_ batch: Int) -> [Answer] {
            generator.answers(to: prompts, .init(maxNewTokens: 8, batch: batch))
        }
        #expect(answers(3) == answers(1))
    }

    /// What is left of long prompts goes through the layers, behind the beginning that they share.
    @Test(arguments: [TinyFamily.llama, .mistral, .gemma2])
    func longRemaindersBehindASharedBeginning(_ family: TinyFamily) throws {
        let generator = try Generator(random(family), tokenizer), start = someIDs(30, seed: 9, vocabulary: 268)
        let prompts = (0..<3).map { start + someIDs(40 + 30 * $0, seed: UInt64(90 + $0), vocabulary: 268) }
        func answers(_ batch: Int) -> [Answer] {
            generator.answers(to: prompts, .init(maxNewTokens: 8, batch: batch))
        }
        #expect(answers(3) == answers(1))
    }

    /// Where frequencies change with length, a sequence's own length decides, and what a talk holds is computed again when
    /// it comes beyond: prompts that share a beginning, short and long, and two turns of a talk.
    @Test func longSequencesAnswerAlikeInEveryBatchAndTalk() throws {
        let config = textConfig().changing(["rope_parameters": TinyFamily.longRoPE])
        try writeTextFolder(folder["long"], config, tinyModel(config))
        let generator = try Generator(load(folder["long"]), tokenizer)
        let start = someIDs(8, seed: 9, vocabulary: 268)
        func answers(to prompts: [[Int32]], _ batch: Int) -> [Answer] {
            generator.answers(to: prompts, .init(maxNewTokens: 4, batch: batch))
        }
        for prompts in [[start, start + [5], start + [7]], [start + [5, 6, 7], start + [6], start + [7, 8]]] {
            #expect(answers(to: prompts, 3) == answers(to: prompts, 1))
        }
        let session = ChatSession(), settings = GenerationSettings(maxNewTokens: 4)
        var talk = Array(start.prefix(5))
        for turn in 0..<3 {
            let answer = generator.reply(to: talk, in: session, settings, onText: { _ in })
            #expect(answer == answers(to: [talk], 1)[0])
            talk += answer.ids + [Int32(20 + turn)]
        }
    }

    @Test func theTextIsWrittenToItsEnd() throws {
        let answers = try scripted("Hey, world").answers(to: [ids("H"), ids("w"), ids("Q")], .init())
        #expect(answers.map(\.text) == ["ey, world", "orld", ""].map { $0 })
        #expect(answers.map(\.reason) == [.end, .end, .end])
        #expect(answers[1].ids == ids("orld") + [1])
    }

    @Test func theLimitEnds() throws {
        let answers = try scripted("abcdefgh").answers(to: [ids("a"), ids("f")], .init(maxNewTokens: 3))
        #expect(answers.map(\.text) == ["bcd", "gh"])
        #expect(answers.map(\.reason) == [.length, .end])
    }

    @Test func theContextEnds() throws {
        let long = Array(repeating: ids("z")[0], count: 509) + ids("a")  // 510 of 512
        let answers = try scripted("abcdefgh").answers(to: [long, ids("c")], .init(maxNewTokens: 100))
        #expect(answers.map(\.text) == ["bc", "defgh"])
        #expect(answers.map(\.reason) == [.length, .end])
    }

    static let stops: [(stop: [String], text: String, reason: FinishReason)] = [
        ([], "bcdefgh", .end),
        (["cd"], "b", .stop),  // across two tokens
        (["cX", "deX"], "bcdefgh", .end),  // begins like the text, twice
        (["fg", "de"], "bc", .stop),  // the first in the text, not in the list
        (["b"], "", .stop),
        (["efghX"], "bcdefgh", .end),  // held back to the end, then given
        (["h"], "bcdefg", .stop),
        (["", "ef"], "bcd", .stop),  // an empty one never appears
    ]

    @Test(arguments: stops.indices) func stopStringsEndTheText(_ index: Int) throws {
        let (stop, text, reason) = Self.stops[index]
        var pieces: [String] = []
        let answer = try scripted("abcdefgh").answers(to: [ids("a")], .init(stop: stop)) { pieces.append($1) }[0]
        #expect(answer.text == text && answer.reason == reason)
        #expect(pieces.joined() == text)
    }

    /// Both in one token: the first in the text ends it, not the first in the list.
    @Test func theFirstOfSeveralStopStringsCounts() throws {
        let answer = try scripted("x the").answers(to: [ids("x")], .init(stop: ["e", "h"]))[0]
        #expect(answer.ids == ids(" the") && answer.ids.count == 1 && answer.text == " t" && answer.reason == .stop)
    }

    @Test func piecesAreWholeCharacters() throws {
        // é is two bytes, 東 three, 🙂 four: each byte a token.
        let generator = try scripted("aé東🙂b")
        var pieces: [[String]] = [[], []]
        let answers = generator.answers(to: [ids("a"), Array(ids("é"))], .init()) { pieces[$0].append($1) }
        #expect(answers.map(\.text) == ["é東🙂b", "東🙂b"])
        #expect(pieces[0] == ["é", "東", "🙂", "b"] && pieces[1] == ["東", "🙂", "b"])
        #expect(answers[0].ids.count == 11)
        // A character cut in two by the limit is given as the replacement character at the end, never before.
        var cut: [String] = []
        let half = generator.answers(to: [ids("a")], .init(maxNewTokens: 3)) { cut.append($1) }[0]
        #expect(half.text == "é\u{FFFD}" && cut == ["é", "\u{FFFD}"] && half.reason == .length)
    }

    @Test(arguments: TinyFamily.allCases) func aTalkEqualsFreshAnswers(_ family: TinyFamily) throws {
        let generator = try Generator(random(family), tokenizer), session = ChatSession()
        let settings = GenerationSettings(maxNewTokens: 6)
        var talk: [Int32] = []
        for turn in 0..<4 {
            // The third turn begins anew, as after an edit: only a beginning is shared.
            if turn == 2 { talk = Array(talk.prefix(4)) }
            talk += someIDs(5, seed: UInt64(80 + turn), vocabulary: 268)
            var pieces = ""
            let answer = generator.reply(to: talk, in: session, settings, onText: { pieces += $0 })
            #expect(answer == generator.answers(to: [talk], settings)[0])
            #expect(pieces == answer.text)
            talk += answer.ids
        }
        // The same prompt once more: all of it is held, and still it is answered.
        let again = generator.reply(to: talk, in: session, settings, onText: { _ in })
        #expect(again == generator.reply(to: talk, in: session, settings, onText: { _ in }))
    }

    /// What the cache holds is not computed again: a change to a token of the first turn goes unnoticed.
    @Test func aTalkUsesItsCache() throws {
        let loaded = try random(.llama), generator = try Generator(loaded, tokenizer), session = ChatSession()
        let settings = GenerationSettings(maxNewTokens: 4)
        let first: [Int32] = [200, 10, 11, 12]
        let answer = generator.reply(to: first, in: session, settings, onText: { _ in })
        let second = first + answer.ids + [13, 14]
        let expected = generator.answers(to: [second], settings)[0]
        let table = loaded.model.tokenTable.weight.value
        var values = table.values(Float.self)
        for i in 200 * 32..<201 * 32 { values[i] = -5 * values[i] }
        table.copyInPlace(Tensor(values, table.shape))
        #expect(generator.reply(to: second, in: session, settings, onText: { _ in }) == expected)
        #expect(generator.answers(to: [second], settings)[0] != expected)
    }

    @Test func aTalkCanBeInterrupted() throws {
        let generator = try scripted("abcdefgh"), session = ChatSession()
        var asked = 0
        let part = generator.reply(to: ids("a"), in: session, .init(), onText: { _ in }) {
            asked += 1
            return asked == 3
        }
        #expect(part.text == "bcd")
        let whole = generator.reply(to: ids("abcd"), in: session, .init(), onText: { _ in })
        #expect(whole.text == "efgh" && whole.reason == .end)
    }
}
