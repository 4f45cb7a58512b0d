// Merged vocabularies against mergekit's, row by row; the files that are written; chat templates.
import ChatTemplates
import Diagnostics
import Formats
import Merging
import Testing
import Tokenizers

/// Values in memory as a tensor.
struct ArrayReader: TensorReader {
    let shape: [Int]
    let values: [Float]
    var elementType: ElementType { .f32 }

    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Float>) throws {
        for i in range { destination[i - range.lowerBound] = values[i] }
    }
    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Double>) throws {
        for i in range { destination[i - range.lowerBound] = Double(values[i]) }
    }
}

extension TensorReader {
    /// All elements, read in blocks of `size`.
    func all(blocks size: Int = 7) throws -> [Float] {
        var values = [Float](repeating: .nan, count: elementCount)
        try values.withUnsafeMutableBufferPointer { buffer in
            for start in stride(from: 0, to: elementCount, by: size) {
                try read(start..<min(start + size, elementCount), into: buffer.baseAddress! + start)
            }
        }
        return values
    }
}

/// A new folder, removed with the value.
final class ScratchFolder {
    let path: String
    init() throws {
        path = joinPath(
            folderExists("/dev/shm") ? "/dev/shm" : "/tmp", "needletail-merging-\(UInt64.random(in: 0...UInt64.max))")
        try createDirectories(path)
    }
    subscript(name: String) -> String { joinPath(path, name) }
    deinit { try? removeTree(path) }  // nothing depends on it
}

@Suite struct TokenizerMergeTests {
    let folder: ScratchFolder
    let goldens: JSONValue
    static let cases = [
        "base", "ref", "union", "union of three", "union of three, other base", "union without base", "padded",
        "overrides",
        "cut base",
    ]

    init() throws {
        folder = try ScratchFolder()
        goldens = try readJSONFile(joinPath(parentFolder(of: #filePath), "Fixtures/tokenizer_goldens.json"))
        for (name, json) in goldens["tokenizers"]!.object! {
            try createDirectories(folder[name])
            try writeFileAtomically(json.serialized(), to: joinPath(folder[name], "tokenizer.json"))
        }
    }

    private func size(_ name: String) -> Int {
        let json = goldens["tokenizers"]![name]!
        return json["model"]!["vocab"]!.object!.count + json["added_tokens"]!.array!.count
    }

    /// The golden case as this program is asked for it.
    private func vocabulary(_ golden: JSONValue, warn: (String) -> Void = { _ in }) throws -> MergedVocabulary {
        let names = golden["models"]!.array!.map { $0.string! }
        func position(_ value: JSONValue?) -> Int? { value?.string.flatMap { name in names.firstIndex { $0 == name } } }
        func source(_ value: JSONValue) -> TokenizerSettings.RowSource {
            if let model = position(value) { return .model(model) }
            if value["kind"]!.string == "zero" { return .zero }
            if let id = value["token_id"]?.int { return .tokenID(id, model: position(value["model"])!) }
            return .token(value["token"]!.string!, model: position(value["model"])!)
        }
        let section = golden["tokenizer"]!, kind = section["source"]!.string!
        let tokens = section["tokens"]?.object.map { object in
            object.map { name, value in
                (
                    token: name,
                    entry: TokenizerSettings.Entry(
                        source: source(value["source"]!), force: value["force"]?.bool ?? false)
                )
            }
        }
        return try MergedVocabulary(
            models: names.map { name in
                VocabularyModel(
                    name: name, tokenizerFolder: folder[name], vocabSize: golden["vocab_size"]?[name]?.int ?? size(name)
                )
            }, base: position(golden["base"]),
            TokenizerSettings(
                source: kind == "base" ? .base : kind == "union" ? .union : .model(position(section["source"])!),
                tokens: tokens ?? [], padToMultipleOf: section["pad_to_multiple_of"]?.int), warn: warn)
    }

    /// Row i of model k: 1000 k + i, times column + 1.
    private func table(_ name: String, _ vocabulary: MergedVocabulary) -> ArrayReader {
        let k = ["a": 0, "b": 1, "c": 2][name]!, rows = vocabulary.models.first { $0.name == name }!.vocabSize
        return ArrayReader(
            shape: [rows, 3], values: (0..<rows).flatMap { i in (1...3).map { Float((1000 * k + i) * $0) } })
    }

    @Test(arguments: cases) func rowsAreMergekits(_ name: String) throws {
        let golden = goldens["cases"]![name]!, vocabulary = try vocabulary(golden)
        let tokens = golden["tokens"]!.array!.map { $0.string! }
        #expect(vocabulary.tokenCount == tokens.count)
        #expect(Set(vocabulary.output.texts.map { $0! }) == Set(tokens))
        let tables = vocabulary.models.map { table($0.name, vocabulary) }
        let aligned = try vocabulary.aligned(tables, name: "model.embed_tokens.weight")
        for (model, reader) in zip(vocabulary.models, aligned) {
            let wanted = golden["rows"]![model.name]!.array!.map { Float($0.double!) }, found = try reader!.all()
            #expect(reader!.shape == [wanted.count, 3] && vocabulary.rows == wanted.count)
            for (id, token) in tokens.enumerated() {
                let row = vocabulary.output.id(of: token)!
                for column in 0..<3 {
                    #expect(
                        found[row * 3 + column] == wanted[id] * Float(column + 1),
                        "\(model.name) \(token) column \(column)")
                }
            }
            for id in tokens.count..<wanted.count {  // padding: another order of summation
                #expect(abs(found[id * 3] - wanted[id]) < 1e-3, "\(model.name) padding \(id)")
            }
        }
    }

    @Test(arguments: cases) func addedTokensAreMergekitsExceptOrdinaryOnes(_ name: String) throws {
        let golden = goldens["cases"]![name]!, vocabulary = try vocabulary(golden)
        // mergekit adds every ordinary token of other models as an added one, which then matches inside other words; here
        // they join the model's own vocabulary.
        let ordinary = Set(vocabulary.vocabularies.flatMap(\.ordinary))
        let wanted = golden["added"]!.array!.filter { !ordinary.contains($0.array![0].string!) }.map { $0.serialized() }
        let found = vocabulary.output.added.map { token -> String in
            let fields: JSONValue = [.string(token.content), .bool(token.special), .bool(token.stripsRight)]
            return fields.serialized()
        }
        #expect(found.sorted() == wanted.sorted())
    }

    @Test func baseKeepsItsIDsAndUnionWarnsOnce() throws {
        var warnings: [String] = []
        let vocabulary = try vocabulary(goldens["cases"]!["union"]!) { warnings.append($0) }
        #expect(vocabulary.oldRows[0].prefix(300).elementsEqual(0..<300))
        #expect(warnings.count == 1 && warnings[0].contains("<turn>"))
    }

    @Test(arguments: ["union", "union of three", "union of three, other base", "cut base"])
    func theWrittenTokenizerKeepsTexts(_ name: String) throws {
        let vocabulary = try vocabulary(goldens["cases"]![name]!)
        try createDirectories(folder["out"])
        try vocabulary.writeTokenizer(to: folder["out"], chatTemplate: "{{ messages[0]['content'] }}")
        let tokenizer = try Tokenizer(modelPath: folder["out"])
        for (id, text) in vocabulary.output.texts.enumerated() { #expect(tokenizer.id(of: text!) == Int32(id)) }
        for text in ["the iabc hive jd ll", "print(x)\n<turn>ia ib<b3>", "zzz qa qb qc", pair] {
            #expect(tokenizer.decode(tokenizer.encode(text)) == text)
        }
        #expect(tokenizer.chatTemplate == "{{ messages[0]['content'] }}")
        // Merges of the other models act: one of b's pairs is one token.
        #expect(tokenizer.encode(pair).count == 1)
    }
    /// Pair 270, which only b and c have.
    private let pair = "kv"

    @Test func aVocabularyThatStaysIsCopied() throws {
        try writeFileAtomically("{\"tokenizer_class\":  \"X\"}", to: joinPath(folder["a"], "tokenizer_config.json"))
        try writeFileAtomically("odd", to: joinPath(folder["a"], "merges.txt"))
        try createDirectories(folder["out"])
        try vocabulary(goldens["cases"]!["base"]!).writeTokenizer(to: folder["out"], chatTemplate: nil)
        for name in ["tokenizer.json", "tokenizer_config.json", "merges.txt"] {
            #expect(try readFile(joinPath(folder["a"], name)) == readFile(joinPath(folder["out"], name)))
        }
    }

    @Test(arguments: [true, false]) func paddingOfTheBaseIsKept(_ keeps: Bool) throws {
        let models = [("a", 310), ("b", 306)].map {
            VocabularyModel(name: $0.0, tokenizerFolder: folder[$0.0], vocabSize: $0.1)
        }
        let vocabulary = try MergedVocabulary(models: models, base: 0, .init(source: .base, keepsPadding: keeps)) { _ in
        }
        #expect(vocabulary.rows == (keeps ? 310 : 300))
        guard keeps else { return }
        let aligned = try vocabulary.aligned(models.map { table($0.name, vocabulary) }, name: "x")
        #expect(try stride(from: 900, to: 930, by: 3).map { try Int(aligned[0]!.all()[$0]) } == Array(300..<310))
        // b has six padding rows of its own; the others are the base's.
        #expect(
            try stride(from: 900, to: 930, by: 3).map { try Int(aligned[1]!.all()[$0]) } == Array(1300..<1306)
                + Array(306..<310))
    }

    @Test func tablesThatAreMissingOrWrongAreNamed() throws {
        let vocabulary = try vocabulary(goldens["cases"]!["union"]!)
        let a = table("a", vocabulary)
        let alone = try vocabulary.aligned([a, nil], name: "lm_head.weight")
        #expect(alone[1] == nil && alone[0]!.shape == [400, 3])
        #expect(throws: UserError.self) {
            try vocabulary.aligned([a, ArrayReader(shape: [200, 3], values: [])], name: "lm_head.weight")
        }
        #expect(throws: UserError.self) {
            try vocabulary.aligned([a, ArrayReader(shape: [300, 4], values: [])], name: "lm_head.weight")
        }
    }

    @Test func entriesMustNameWhatExists() throws {
        let models = ["a", "b"].map { VocabularyModel(name: $0, tokenizerFolder: folder[$0], vocabSize: 300) }
        let wrong: [TokenizerSettings.RowSource] = [.model(1), .token("<nowhere>", model: 0), .tokenID(300, model: 1)]
        for source in wrong {
            #expect(throws: UserError.self) {
                try MergedVocabulary(
                    models: models, base: 0, .init(source: .union, tokens: [("<a0>", .init(source: source))])
                ) { _ in }
            }
        }
        #expect(throws: UserError.self) {
            try requireEqualVocabularies(models + [.init(name: "c", tokenizerFolder: "", vocabSize: 252)])
        }
    }

    @Test func tokensOfAnotherAlphabetDoNotJoin() throws {
        let unigram: JSONValue = [
            "version": "1.0", "added_tokens": [], "decoder": ["type": "Metaspace"],
            "model": ["type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["▁the", -1.5]]],
        ]
        try createDirectories(folder["u"])
        try writeFileAtomically(unigram.serialized(), to: joinPath(folder["u"], "tokenizer.json"))
        let models = [("a", 300), ("u", 2)].map {
            VocabularyModel(name: $0.0, tokenizerFolder: folder[$0.0], vocabSize: $0.1)
        }
        #expect(throws: UserError.self) {
            try MergedVocabulary(models: models, base: 0, .init(source: .union)) { _ in }
        }
        let base = try MergedVocabulary(models: models, base: 0, .init(source: .base)) { _ in }
        #expect(base.oldRows[1].allSatisfy { $0 == -1 })
    }

    @Test func chatTemplates() throws {
        for (name, template) in [("a", "{{ 1 }}"), ("b", " {{ 2 }}\n"), ("c", "{{ 2 }}")] {
            try writeFileAtomically(template, to: joinPath(folder[name], "chat_template.jinja"))
        }
        #expect(try resolveChatTemplate("auto", tokenizerFolders: ["a", "b", "c"].map { folder[$0] }) == "{{ 2 }}")
        #expect(try resolveChatTemplate("auto", tokenizerFolders: []) == nil)
        let source = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        #expect(try resolveChatTemplate(source, tokenizerFolders: []) == source)
        #expect(throws: UserError.self) { try resolveChatTemplate("chat-ml", tokenizerFolders: []) }
        #expect(throws: (any Error).self) {
            try resolveChatTemplate("{% for m in messages %}{{ m }}", tokenizerFolders: [])
        }
    }

    /// What the published formats look like.
    @Test(arguments: [
        ("chatml", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
        (
            "llama3",
            "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        ("mistral", "<s> [INST] hi [/INST]"), ("alpaca", "### Instruction:\nhi\n\n### Response:\n"),
        ("exaone", "[|system|][|endofturn|]\n[|user|]hi\n[|assistant|]"),
    ])
    func namedTemplates(_ name: String, _ wanted: String) throws {
        let template = try ChatTemplate(try resolveChatTemplate(name, tokenizerFolders: [])!)
        let messages: JSONValue = [["role": "user", "content": "hi"]]
        #expect(
            try template.render(
                messages: messages.array!, addGenerationPrompt: true,
                variables: JSONObject([("bos_token", "<s>"), ("eos_token", "</s>")])) == wanted)
    }
}
