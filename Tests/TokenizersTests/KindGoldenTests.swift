// Every part of tokenizer.json, SentencePiece models and tekken files against golden files that the `tokenizers`,
// `sentencepiece` and `tiktoken` packages made (Fixtures/make_kind_goldens.py).
import Diagnostics
import Formats
import TestClock
import Testing
import Tokenizers

@Suite struct KindGoldenTests {
    /// What the packages made of a text; members that a package does not give are absent.
    private func expectEqual(_ tokenizer: Tokenizer, _ example: JSONValue, _ name: String, limited: Bool = false) {
        let ids = example["ids"]!.ids, text = example["text"]!.string!
        let comment = Comment(rawValue: "\(name): \(text.debugDescription)")
        let encoding = tokenizer.encoding(of: text, limited: limited)
        #expect(encoding.ids == ids, comment)
        if let offsets = example["offsets"] { #expect(encoding.offsets == offsets.ranges, comment) }
        if !limited { #expect(tokenizer.encode(text) == ids, comment) }
        if !limited { #expect(tokenizer.encode(text) == ids, comment) }  // from the cache
        // sentencepiece knows no special tokens in ids, so it does not say what is visible.
        for (skip, key) in [(false, "decoded"), (true, "visible")] where !skip || !name.hasPrefix("sentencepiece") {
            let expected = ExactString((example[key] ?? example["decoded"]!).string!)
            #expect(ExactString(tokenizer.decode(ids, skipSpecialTokens: skip)) == expected, comment)
            var stream = tokenizer.streamingDecoder(skipSpecialTokens: skip), streamed = ""
            for id in ids { streamed += stream.push(id) }
            streamed += stream.finish()
            #expect(ExactString(streamed) == expected, comment)
        }
    }

    @Test func everyPartEqualsTheReference() throws {
        let kinds = try golden("kinds")["kinds"]!.array!
        #expect(kinds.count >= 40)
        for kind in kinds {
            let tokenizer = try Tokenizer(tokenizerJSON: kind["tokenizer"]!), name = kind["name"]!.string!
            for example in kind["cases"]!.array! {
                expectEqual(tokenizer, example, name, limited: name == "limits")
            }
        }
    }

    /// Lengths that the tokens around a text fill or pass. Where the package refuses to cut, the text stays whole.
    @Test func smallLimitsEqualTheReference() throws {
        let golden = try golden("small_limits"), file = golden["tokenizer"]!.object!
        for example in golden["cases"]!.array! {
            var root = file
            root["truncation"] = example["truncation"]!
            let tokenizer = try Tokenizer(tokenizerJSON: .object(root)), text = example["text"]!.string!
            for (key, special) in [("ids", true), ("plain", false)] {
                let whole = tokenizer.encode(text, addSpecialTokens: special)
                let ids = tokenizer.encoding(of: text, addSpecialTokens: special, limited: true).ids
                #expect(ids == example[key]?.ids ?? whole, "\(example["truncation"]!.serialized()) \(text) \(key)")
            }
        }
    }

    @Test(arguments: ["unigram", "unigram_bytes", "bpe", "bpe_plain"])
    func sentencePieceEqualsTheReference(_ name: String) throws {
        let tokenizer = try Tokenizer(modelPath: fixtures + "goldens/\(name).model")
        for example in try golden("sentencepiece_\(name)")["cases"]!.array! {
            expectEqual(tokenizer, example, "sentencepiece \(name)")
        }
        #expect(tokenizer.bosToken?.text == "<s>" && tokenizer.isSpecial(0))
        // What is saved is read alike, where tokenizer.json can say the same.
        let again = try Tokenizer(tokenizerJSON: tokenizer.tokenizerJSON)
        for text in ["The quick brown fox", "it's 12 dogs", " Hello  world "] {
            #expect(again.encode(text) == tokenizer.encode(text), "\(name)")
        }
    }

    /// A text over which sums of scores pass 100,000, where the package begins at 0 again.
    @Test func aLongTextEqualsTheReference() throws {
        let tokenizer = try Tokenizer(modelPath: fixtures + "goldens/unigram.model")
        let example = try golden("sentencepiece_long"), ids = example["ids"]!.ids
        #expect(ids.count > 20_000 && tokenizer.encode(example["text"]!.string!) == ids)
    }

    @Test func tekkenEqualsTheReference() throws {
        let tokenizer = try Tokenizer(modelPath: fixtures + "goldens/tekken_file.json")
        let cases = try golden("tekken_cases")["cases"]!.array!
        let again = try Tokenizer(tokenizerJSON: tokenizer.tokenizerJSON)
        for example in cases {
            let text = example["text"]!.string!, ids = example["ids"]!.ids
            #expect(tokenizer.encode(text, addSpecialTokens: false) == ids, "\(text.debugDescription)")
            #expect(tokenizer.encode(text) == [1] + ids)
            #expect(ExactString(tokenizer.decode(ids)) == ExactString(example["decoded"]!.string!))
            #expect(again.encode(text) == [1] + ids, "\(text.debugDescription)")
        }
        #expect(tokenizer.bosToken?.id == 1 && tokenizer.token(of: 25) == "<SPECIAL_25>")
        #expect(tokenizer.encode("[INST]the", addSpecialTokens: false) == [3, 30 + 258])
    }

    /// Runs, and patterns that make a backtracking engine take for ever.
    @Test func longTextsTakeTheirTimeOnly() throws {
        for kind in try golden("kinds")["kinds"]!.array! {
            let tokenizer = try Tokenizer(tokenizerJSON: kind["tokenizer"]!)
            for piece in ["a", " ", "1", "e\u{301}", "中"] {
                let text = String(repeating: piece, count: 10_000)
                let seconds = processorSeconds { _ = tokenizer.encoding(of: text) }
                #expect(seconds < 2, "\(kind["name"]!.string!) \(piece)")
            }
        }
    }

    @Test(arguments: [
        "(a+)+$", "(a|a)*b", "(a|aa)+$", "(a*)*b", "(.*)*x", "(a?){30}a{30}", "(\\w+\\s?)*!", "(x+x+)+y", "a+b",
        ".*a.*b.*c",
        "(?=(a+)+b)a", "((a+)b?)+c", "(a{1,50}){1,50}b", "(?:a|b|ab)*c", "\\s*\\s*\\s*x", "(?i:(a|A)+)+z", "(a+?)+?b",
        "([a-z]+)*1", "(?!(a+)+b)a", "(a+a+)+b|a",
    ])
    func noPatternHangs(_ pattern: String) throws {
        let split: JSONValue = [
            "type": "Split", "pattern": ["Regex": .string(pattern)], "behavior": "Isolated", "invert": false,
        ]
        let tokenizer = try Tokenizer(tokenizerJSON: changed("gpt2", ["pre_tokenizer"], to: split))
        let text = String(repeating: "a", count: 2000)
        #expect(processorSeconds { _ = tokenizer.encode(text) } < 2)
    }
}

@Suite struct HostileFileTests {
    private func expectRefused(_ bytes: [UInt8], _ name: String, _ reason: String) throws {
        let path = "/tmp/needletail-tokenizer-\(UInt64.random(in: 0 ... .max))-\(name)"
        defer { try? removeTree(path) }  // a leftover in /tmp harms nobody
        try writeFileAtomically(bytes, to: path)
        #expect {
            try Tokenizer(modelPath: path)
        } throws: { error in
            guard let error = error as? UserError else { return false }
            return error.message.contains(reason) && error.message.hasPrefix(path) && !error.message.contains("\n")
        }
    }

    @Test func sentencePieceModelsCutShort() throws {
        let model = try readFile(fixtures + "goldens/bpe.model")
        // Between two pieces the file is whole, if useless; within one it is not.
        for length in [2, 3, 10, 100, 1001, model.count - 1] where length < model.count {
            let path = "/tmp/needletail-tokenizer-\(UInt64.random(in: 0 ... .max)).model"
            defer { try? removeTree(path) }
            try writeFileAtomically(Array(model[..<length]), to: path)
            #expect(throws: UserError.self) { try Tokenizer(modelPath: path) }
        }
        try expectRefused([0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F], "m.model", "cut short")
        try expectRefused([0x0A, 0x02, 0x18, 0x09], "m.model", "piece 0 is of the unknown type 9")
        try expectRefused([0x0A, 0x03, 0x0A, 0x01, 0xFF], "m.model", "not UTF-8")
        try expectRefused([0x0A, 0x07, 0x0A, 0x00, 0x15, 0, 0, 0xC0, 0x7F], "m.model", "a score that is no number")
        try expectRefused([0x0A, 0x03, 0x0A, 0x01, 0x61], "m.model", "has no unknown piece")
        try expectRefused([0x0A, 0x02, 0x18, 0x02, 0x12, 0x02, 0x18, 0x07], "m.model", "trainer_spec.model_type 7")
    }

    /// What is wrong with the lists that are read without building values for them.
    @Test(arguments: [
        (#""vocab":{"a":0,"b":1,"a":2},"merges":[]"#, "id 2 has the text of another id"),
        (#""vocab":{"a":0,"b":0},"merges":[]"#, "id 0 is given to two tokens"),
        (#""vocab":{"a":0,"b":01},"merges":[]"#, "not JSON at line 1, column"),
        (#""vocab":{"a":0,"b":1e0},"merges":[]"#, "the id of \"b\" is no whole number"),
        (#""vocab":{"a":0,"b":{"c":1,"c":2}},"merges":[]"#, "key \"c\" appears twice"),
        (#""vocab":{"a":0 "b":1},"merges":[]"#, "a comma or } should be here"),
        (#""vocab":{"a":0,"b" 1},"merges":[]"#, "a colon should be here"),
        (#""vocab":{"a":0,b:1},"merges":[]"#, "a key in quotes should be here"),
        (#""vocab":{"a":0,"\ud800":1},"merges":[]"#, "lone surrogate"),
        (#""vocab":{"a":0},"vocab":{"a":0},"merges":[]"#, "key \"vocab\" appears twice"),
        (#""vocab":{"a":0},"merges":{"a":"b"}"#, "model.merges is missing or no list"),
        (#""vocab":{"a":0},"merges":["#, "not JSON at line 1, column"),
        (#""vocab":{"a":0},"merges":[["a","a","a"]]"#, "model.merges[0] is neither"),
        (#""vocab":{"a":0},"merges":[["a"]]"#, "model.merges[0] is neither"),
        (#""vocab":{"a":0},"merges":[["a",1]]"#, "model.merges[0] is neither"),
        (#""vocab":{"a":0},"merges":[7]"#, "model.merges[0] is neither"),
        (#""vocab":{"a":0,"aa":1},"merges":["a a","a  a"]"#, "model.merges[1] is not two tokens"),
        (#""vocab":{"a":0},"merges":["a a"]"#, "model.merges[0]: token \"aa\" is not in the vocabulary"),
        (#""vocab":"# + String(repeating: "[", count: 100), "nested deeper than 64"),
    ])
    func tokenizerFiles(_ lists: String, _ reason: String) throws {
        try expectRefused(Array(#"{"version":"1.0","model":{"type":"BPE",\#(lists)}}"#.utf8), "tokenizer.json", reason)
    }

    /// A list of ranks is read without building values, in whatever file it is.
    @Test(arguments: [
        (#""config":{"pattern":"a"},"vocab":[{"rank":0,"token_bytes":"IQ==","rank":1}]"#, "key \"rank\" appears twice"),
        (#""vocab":[{"a":0},{"a":{"b":1,"b":2}}],"model":{"type":"BPE","vocab":{},"merges":[]}"#, "key \"b\" appears"),
        (#""config":{},"vocab":[7,{"rank":[0]}]"#, "without pattern, vocab or the default sizes"),
    ])
    func listsOfRanks(_ members: String, _ reason: String) throws {
        try expectRefused(Array("{\(members)}".utf8), "tekken.json", reason)
    }

    /// Files with a few bytes changed load or give one line.
    @Test func changedFilesAreReadOrRefused() throws {
        let path = "/tmp/needletail-tokenizer-\(UInt64.random(in: 0 ... .max)).json"
        defer { try? removeTree(path) }  // a leftover in /tmp harms nobody
        let whole = Array(try golden("llama3")["tokenizer"]!.serialized().utf8)
        var state: UInt64 = 7, refused = 0
        func random(_ count: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % count
        }
        for _ in 0..<600 {
            var bytes = whole
            for _ in 0...random(3) {
                let at = random(bytes.count)
                switch random(4) {
                case 0: bytes[at] = UInt8(random(256))
                case 1: bytes.remove(at: at)
                case 2: bytes.insert(Array("\"{}[]:,\\0".utf8)[random(9)], at: at)
                default: bytes.removeSubrange(at..<min(at + random(40), bytes.count))
                }
            }
            try writeFileAtomically(bytes, to: path)
            do {
                let tokenizer = try Tokenizer(modelPath: path)
                _ = tokenizer.decode(tokenizer.encode("The quick brown fox"))
                _ = tokenizer.fingerprintBytes
            } catch let error as UserError {
                refused += 1
                #expect(error.message.hasPrefix(path) && !error.message.contains("\n"), "\(error.message)")
            }
        }
        #expect(refused > 300 && refused < 600)
    }

    @Test(arguments: [
        ("IQ== 0\nI!== 1\n", "line 2: the token is no base64"), ("IQ== 0\nIg==\n", "line 2 is not a token"),
        ("IQ== 0\nIg== 0\n", "rank 0 is given to two tokens"), ("IQ== 0\nIg== 4000000\n", "has rank 4000000"),
        ("IQ== 0\nIg== 1\n", "none of the published encodings"),
    ])
    func rankFiles(_ text: String, _ reason: String) throws {
        try expectRefused(Array(text.utf8), "x.tiktoken", reason)
    }

    @Test(
        arguments: [
            (["config", "pattern"], nil, "without pattern, vocab or the default sizes"),
            (["config", "pattern"], "(", "the pattern \"(\""),
            (["config", "default_vocab_size"], 100_000, "vocab has"),
            (["vocab"], [["rank": 0, "token_bytes": "A"]], "vocab has 1 token"),
            (["special_tokens"], [["rank": 1, "token_str": "<s>"]], "special_tokens[0] needs"),
        ] as [([String], JSONValue?, String)])
    func tekkenFiles(_ path: [String], _ value: JSONValue?, _ reason: String) throws {
        var root = try golden("tekken_file").object!
        if path.count == 1 {
            root[path[0]] = value
        } else {
            var inner = root[path[0]]!.object!
            inner[path[1]] = value
            root[path[0]] = .object(inner)
        }
        try expectRefused(Array(JSONValue.object(root).serialized().utf8), "tekken.json", reason)
    }

    @Test(arguments: ["llama", "bert", "t5", "gemma4", "rwkv", "plamo2", "unheard-of"])
    func ggufVocabularies(_ model: String) {
        let pairs: [(String, GGUFValue)] = [
            ("tokenizer.ggml.model", .string(model)), ("tokenizer.ggml.tokens", .stringArray(["a", "b"])),
        ]
        #expect {
            try Tokenizer(gguf: GGUFMetadata(path: "x.gguf", pairs))
        } throws: { error in
            guard let error = error as? UserError else { return false }
            return error.message.hasPrefix("x.gguf: tokenizer") && !error.message.contains("\n")
        }
    }
}
