// Every kind of vocabulary and every name of a pre-tokenizer that GGUF files have, against golden files that llama.cpp made
// (Fixtures/make_gguf_goldens.py).
import Diagnostics
import Formats
import Testing
import Tokenizers

@Suite struct GGUFKindTests {
    /// A vocabulary of a golden file as metadata.
    private func metadata(
        _ model: String, _ golden: JSONValue, _ others: [(String, GGUFValue)] = []
    ) -> GGUFMetadata {
        func strings(_ key: String) -> [String]? { golden[key]?.array.map { $0.map { $0.string! } } }
        var values: [(String, GGUFValue)] = [
            ("tokenizer.ggml.model", .string(model)), ("tokenizer.ggml.tokens", .stringArray(strings("tokens")!)),
            ("tokenizer.ggml.token_type", .integers(golden["types"]!.array!.map { $0.int! })),
        ]
        if let merges = strings("merges") { values.append(("tokenizer.ggml.merges", .stringArray(merges))) }
        if let scores = golden["scores"]?.array {
            values.append(("tokenizer.ggml.scores", .floats(scores.map { Float($0.double!) })))
        }
        let changed = others.map { ExactString($0.0) }
        return GGUFMetadata(path: "x.gguf", values.filter { !changed.contains(ExactString($0.0)) } + others)
    }

    @Test func namesOfPreTokenizersEqualLlama() throws {
        let golden = try golden("gguf_pre"), texts = golden["texts"]!.array!.map { $0.string! }
        let names = golden["names"]!.object!
        #expect(names.count >= 85 && golden["ids"]!.array!.count >= 25)
        for (name, number) in names {
            let tokenizer = try Tokenizer(
                gguf: metadata("gpt2", golden, [("tokenizer.ggml.pre", .string(name))]))
            for (text, ids) in zip(texts, golden["ids"]!.array![number.int!].array!) {
                #expect(
                    tokenizer.encode(text, addSpecialTokens: false) == ids.ids, "\(name): \(text.debugDescription)")
            }
        }
    }

    /// RWKV's and PLaMo 2's: ids, offsets and texts; and again after writing.
    @Test(arguments: ["rwkv", "plamo2"]) func kindsEqualLlama(_ model: String) throws {
        let golden = try golden("gguf_" + model)
        let unknown: [(String, GGUFValue)] =
            model == "plamo2" ? [("tokenizer.ggml.unknown_token_id", .integer(0))] : []
        let read = try Tokenizer(gguf: metadata(model, golden, unknown))
        let written = try written(read, size: golden["tokens"]!.array!.count)
        #expect(written["tokenizer.ggml.model"]?.string == model)
        let types = golden["types"]!.array!.map { $0.int! == 5 ? 1 : $0.int! }  // what is unused is found in texts, too
        #expect(written["tokenizer.ggml.token_type"]?.ints == types)
        for tokenizer in [read, try Tokenizer(tokenizerJSON: read.tokenizerJSON), try Tokenizer(gguf: written)] {
            for example in golden["cases"]!.array! {
                let text = example["text"]!.string!, ids = example["ids"]!.ids
                let encoding = tokenizer.encoding(of: text)
                #expect(encoding.ids == ids && tokenizer.encode(text) == ids, "\(text.debugDescription)")
                guard let offsets = example["offsets"] else { continue }
                #expect(encoding.offsets == offsets.ranges, "\(text.debugDescription)")
                #expect(ExactString(tokenizer.decode(ids)) == ExactString(example["decoded"]!.string!))
                var stream = tokenizer.streamingDecoder(skipSpecialTokens: false), streamed = ""
                for id in ids { streamed += stream.push(id) }
                #expect(ExactString(streamed + stream.finish()) == ExactString(example["decoded"]!.string!))
            }
        }
    }

    /// Unigram: the SentencePiece model of the goldens, written and read, and read as llama.cpp's converter writes it.
    @Test func unigramEqualsLlama() throws {
        let golden = try golden("gguf_t5"), source = try Tokenizer(modelPath: fixtures + "goldens/unigram.model")
        let written = try written(source, size: golden["tokens"]!.array!.count)
        #expect(written["tokenizer.ggml.model"]?.string == "t5")
        #expect(written["tokenizer.ggml.token_type"]?.ints == golden["types"]!.array!.map { $0.int! })
        let keys = ["precompiled_charsmap", "add_space_prefix", "remove_extra_whitespaces", "unknown_token_id"]
        let read = metadata(
            "t5", golden, keys.map { ("tokenizer.ggml.\($0)", written["tokenizer.ggml.\($0)"]!) })
        for tokenizer in [try Tokenizer(gguf: written), try Tokenizer(gguf: read)] {
            for example in golden["cases"]!.array! {
                let text = example["text"]!.string!
                #expect(
                    tokenizer.encode(text, addSpecialTokens: false) == example["ids"]!.ids, "\(text.debugDescription)")
            }
        }
    }

    private func written(_ tokenizer: Tokenizer, size: Int) throws -> GGUFMetadata {
        let path = joinPath("/tmp", "needletail-gguf-\(UInt64.random(in: 0...UInt64.max))")
        defer { try? removeTree(path) }  // a leftover in /tmp harms nobody
        try GGUFWriter.write(
            path: path, metadata: tokenizer.ggufMetadata(size: size, path: "model").entries, tensors: [])
        return try GGUFFile(path: path).metadata
    }

    /// What is refused, in one line: changes of a golden vocabulary and what is said of them.
    static let refused: [(String, [(String, GGUFValue)], String)] = [
        ("rwkv", [("tokens", .stringArray(["a"])), ("token_type", .integers([1]))], "lacks a token for some bytes"),
        ("rwkv", [("tokens", .stringArray([#"\x4"#])), ("token_type", .integers([1]))], "as Python writes bytes"),
        ("rwkv", [("tokens", .stringArray([#"\xAB"#])), ("token_type", .integers([1]))], "as Python writes bytes"),
        ("plamo2", [("token_type", .integers([Int](repeating: 1, count: 275)))], "a token of type byte for each byte"),
        ("plamo2", [("scores", .floats([Float](repeating: -1000, count: 275)))], "the score -1000.0 is not possible"),
    ]

    @Test(arguments: refused.indices) func refuses(_ index: Int) throws {
        let (model, changes, reason) = Self.refused[index]
        let others = changes.map { ("tokenizer.ggml.\($0.0)", $0.1) }
        let metadata = try metadata(model, golden("gguf_" + model), others)
        #expect {
            try Tokenizer(gguf: metadata)
        } throws: { error in
            guard let error = error as? UserError else { return false }
            return error.message.contains(reason) && !error.message.contains("\n")
        }
    }

    @Test func namesWithoutBytesAreRefused() throws {
        for name in ["whitespace", "unheard-of"] {
            let metadata = try metadata("gpt2", golden("gguf_pre"), [("tokenizer.ggml.pre", .string(name))])
            #expect {
                try Tokenizer(gguf: metadata)
            } throws: { "\($0)".contains(name) && "\($0)".contains("is not supported") }
        }
    }
}
