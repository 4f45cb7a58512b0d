// Settings files, saving, adding tokens, GGUF metadata, and input that must be refused.
import Diagnostics
import Formats
import Testing
import Tokenizers

/// The tokenizer of a golden file with one part replaced.
func changed(_ kind: String, _ path: [String], to value: JSONValue?) throws -> JSONValue {
    func replace(_ json: JSONValue, _ path: ArraySlice<String>) -> JSONValue {
        guard let key = path.first, var object = json.object else { return value ?? .null }
        object[key] = path.count == 1 ? value : replace(object[key] ?? .object(JSONObject()), path.dropFirst())
        return .object(object)
    }
    return replace(try golden(kind)["tokenizer"]!, path[...])
}

extension Tokenizer {
    /// Whether an id is among the added tokens beyond `<s>` and `</s>`.
    func isAdded(_ id: Int32) -> Bool { id > 1 && addedTokens.contains { $0.id == id } }
}

@Suite struct LoadingTests {
    static let refused: [(path: [String], value: JSONValue?, reason: String)] = [
        (["model"], nil, "has no \"model\""),
        (["model", "type"], "Unigram", "model.vocab is missing or no list"),
        (["model", "type"], "WordPiece", "model.unk_token \"[UNK]\" is not in the vocabulary"),
        (["model", "type"], "Neural", "model Neural is not supported"),
        (["model"], ["type": "Unigram", "vocab": [["a", 0]]], "model.unk_id is missing"),
        (["model"], ["type": "Unigram", "vocab": [["a", 0], "b"], "unk_id": 0], "model.vocab[1] is no pair"),
        (
            ["model"], ["type": "Unigram", "vocab": [["a", 0], ["a", 0]], "unk_id": 0],
            "id 1 has the text of another id"
        ),
        (["model"], ["type": "WordLevel", "vocab": ["a": 0], "unk_token": "?"], "model.unk_token \"?\""),
        (
            ["model"], ["type": "WordPiece", "vocab": ["[UNK]": 0], "max_input_chars_per_word": -1],
            "model.max_input_chars_per_word is -1"
        ),
        (["model", "dropout"], 0.1, "dropout 0.1"),
        (["model", "type"], 7, "model.type is a number; a text should be there"),
        (["model", "ignore_merges"], "true", "model \"BPE\": ignore_merges must be true or false"),
        (["model", "byte_fallback"], 1, "model \"BPE\": byte_fallback must be true or false"),
        (["model", "fuse_unk"], "yes", "model \"BPE\": fuse_unk must be true or false"),
        (["model", "unk_token"], 7, "model \"BPE\": unk_token must be a text"),
        (["model", "continuing_subword_prefix"], 5, "continuing_subword_prefix must be a text"),
        (["model", "end_of_word_suffix"], false, "end_of_word_suffix must be a text"),
        (
            ["model"], ["type": "WordPiece", "vocab": ["[UNK]": 0], "continuing_subword_prefix": 5],
            "model \"WordPiece\": continuing_subword_prefix must be a text"
        ),
        (["model"], ["type": "WordLevel", "vocab": ["<unk>": 0], "unk_token": 0], "unk_token must be a text"),
        (
            ["model"], ["type": "Unigram", "vocab": [["a", 0]], "unk_id": 0, "byte_fallback": "no"],
            "model \"Unigram\": byte_fallback must be true or false"
        ),
        (["model", "unk_token"], "<none>", "model.unk_token \"<none>\" is not in the vocabulary"),
        (["model", "vocab"], [], "model.vocab is missing or no object"),
        (["model", "vocab"], ["a": 0, "b": 0], "id 0 is given to two tokens"),
        (["model", "vocab"], ["a": -1], "token \"a\" has id -1"),
        (["model", "vocab"], ["a": 4_000_000_000], "token \"a\" has id 4000000000"),
        (["model", "vocab"], ["a": 1.5], "the id of \"a\" is no whole number"),
        (["model", "vocab"], ["a": 99_999_999], "ids from 0 to"),
        (["model", "merges"], ["a \u{0}zz"], "is not in the vocabulary"),
        (["model", "merges"], ["a b c"], "merges[0] is not two tokens"),
        (["model", "merges"], ["ab"], "merges[0] is not two tokens"),
        (["model", "merges"], [["a"]], "merges[0] is neither"),
        (["model", "merges"], nil, "model.merges is missing"),
        (["normalizer"], ["type": "Uppercase"], "normalizer \"Uppercase\" is not supported"),
        (["normalizer"], ["type": "Strip", "strip_left": 1], "normalizer \"Strip\": strip_left must be true or false"),
        (["normalizer"], ["type": "Prepend"], "normalizer \"Prepend\": prepend is missing"),
        (["normalizer"], ["type": "Precompiled", "precompiled_charsmap": "a=b"], "precompiled_charsmap is no base64"),
        (
            ["normalizer"], ["type": "Precompiled", "precompiled_charsmap": "////fwAAAAAAAAAA"],
            "precompiled_charsmap is cut short"
        ),
        (["normalizer"], "NFC", "normalizer is a string; an object should be there"),
        (["normalizer"], ["type": "Sequence"], "normalizer: a Sequence without \"normalizers\""),
        (["pre_tokenizer"], ["type": "Neural"], "pre_tokenizer \"Neural\" is not supported"),
        (["pre_tokenizer"], ["type": "Metaspace", "replacement": "ab"], "replacement must be one character"),
        (["pre_tokenizer"], ["type": "Metaspace", "prepend_scheme": "last"], "prepend_scheme \"last\""),
        (["pre_tokenizer"], ["type": "Punctuation", "behavior": "Eaten"], "behavior \"Eaten\" is not known"),
        (["pre_tokenizer"], ["type": "Split", "behavior": "Isolated", "pattern": 1], "pattern is neither a Regex nor"),
        (["decoder"], ["type": "Neural"], "decoder \"Neural\" is not supported"),
        (["decoder"], ["type": "Strip", "start": -1], "decoder \"Strip\": start must be a whole number"),
        (["post_processor"], ["type": "BertProcessing"], "post_processor \"BertProcessing\": cls is no pair"),
        (["post_processor"], ["type": "Neural"], "post_processor \"Neural\" is not supported"),
        (["truncation"], ["max_length": 4, "strategy": "Half"], "truncation: strategy \"Half\" is not known"),
        (["truncation"], ["max_length": 4, "direction": "left"], "truncation: direction \"left\" is not known"),
        (["truncation"], ["max_length": "4"], "max_length must be a whole number"),
        (["truncation"], ["max_length": 4, "stride": -1], "stride must be a whole number"),
        (["truncation"], [], "max_length is missing"),
        (["padding"], ["strategy": ["Fixed": -1]], "padding: the fixed length must be a whole number"),
        (["padding"], ["strategy": "BatchLongest", "direction": "left"], "padding: direction \"left\" is not known"),
        (["padding"], ["strategy": "BatchLongest", "pad_id": "0"], "pad_id must be a whole number"),
        (["padding"], ["strategy": "BatchLongest", "pad_token": 0], "pad_token must be a text"),
        (
            ["post_processor"], ["type": "TemplateProcessing", "single": [], "pair": "$A $B", "special_tokens": [:]],
            "post_processor.pair is a string; a list should be there"
        ),
        (
            ["post_processor"],
            [
                "type": "TemplateProcessing", "single": [["SpecialToken": ["id": "<s>", "type_id": 0]]],
                "special_tokens": ["<s>": ["id": "<s>", "ids": [0], "tokens": [0]]],
            ], "token \"<s>\" has a text that is none"
        ),
        (
            ["post_processor"],
            [
                "type": "TemplateProcessing", "single": [["SpecialToken": ["id": "<x>", "type_id": 0]]],
                "special_tokens": [:],
            ],
            "lacks \"<x>\""
        ),
        (["version"], "2.0", "version \"2.0\""),
        (["added_tokens"], [["id": 3]], "added_tokens[0] needs"),
        (["added_tokens"], [["id": 3, "content": "new"]], "added_tokens[0].single_word"),
        (
            ["added_tokens"],
            [
                [
                    "id": 999, "content": "new", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                ]
            ], "added token \"new\" has id 999 in the file but loads as 300"
        ),
    ]

    @Test(arguments: refused.indices)
    func refuses(_ index: Int) throws {
        let (path, value, reason) = Self.refused[index]
        let json = try changed("gpt2", path, to: value)
        #expect {
            try Tokenizer(tokenizerJSON: json)
        } throws: { error in
            guard let error = error as? UserError else { return false }
            return error.message.contains(reason) && !error.message.contains("\n") && error.exitStatus == .badData
        }
    }

    /// What `tokenizers` takes though it looks like the above: null for absent, and what stands for no limit.
    @Test func takesNullForAbsent() throws {
        for key in [
            "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
            "ignore_merges",
        ] {
            for value: JSONValue? in [nil, .null] {
                #expect(throws: Never.self) {
                    try Tokenizer(tokenizerJSON: changed("gpt2", ["model", key], to: value))
                }
            }
        }
        let truncation: JSONValue = [
            "max_length": 1_000_000_000_000, "strategy": "OnlyFirst", "direction": "Left", "stride": 9,
        ]
        let tokenizer = try Tokenizer(tokenizerJSON: changed("gpt2", ["truncation"], to: truncation))
        #expect(tokenizer.encoding(of: "the fox", limited: true) == tokenizer.encoding(of: "the fox"))
    }

    /// Settings of the wrong type, which are not the same as none.
    @Test(
        arguments: [
            (["add_bos_token": "true", "bos_token": "<s>"], "the settings' add_bos_token must be true or false"),
            (["add_eos_token": 1, "eos_token": "<s>"], "the settings' add_eos_token must be true or false"),
            (["pad_token": ["content": "<pad>", "lstrip": 1]], "lstrip of the token \"<pad>\" must be true or false"),
            (["pad_token": ["content": "<pad>", "normalized": "no"]], "normalized of the token \"<pad>\" must be"),
            (["added_tokens_decoder": ["300": ["content": "<x>", "special": "true"]]], "special of the token \"<x>\""),
            (["added_tokens_decoder": ["300": ["content": "<x>", "single_word": 0]]], "single_word of the token"),
            (["extra_special_tokens": ["image_token": 7]], "extra_special_tokens: \"image_token\" names no token"),
        ] as [(JSONValue, String)])
    func refusesSettings(_ config: JSONValue, _ reason: String) throws {
        let json = try golden("gpt2")["tokenizer"]!
        #expect {
            try Tokenizer(tokenizerJSON: json, config: config)
        } throws: { error in
            (error as? UserError)?.message.contains(reason) ?? false
        }
        #expect(throws: Never.self) {
            try Tokenizer(tokenizerJSON: json, config: ["add_bos_token": nil, "pad_token": nil])
        }
    }

    /// Special tokens with names of the model's own, in the order of transformers 5.23 (`PreTrainedTokenizerFast`).
    @Test func namedSpecialTokens() throws {
        let json = try golden("gpt2")["tokenizer"]!
        func added(_ config: JSONValue) throws -> [String] {
            let tokenizer = try Tokenizer(tokenizerJSON: json, config: config)
            let added = tokenizer.addedTokens.filter { $0.id >= 300 }
            #expect(added.map(\.id) == (300..<300 + Int32(added.count)).map { $0 })
            #expect(added.allSatisfy { $0.special })
            return added.map { $0.content + ($0.stripsLeft ? " strips" : "") }
        }
        #expect(
            try added(["extra_special_tokens": ["image_token": "<img>", "video_token": "<vid>"]]) == ["<img>", "<vid>"])
        let image: JSONValue = ["__type": "AddedToken", "content": "<img>", "lstrip": true]
        #expect(
            try added([
                "extra_special_tokens": ["image_token": image, "video_token": "<vid>"], "pad_token": "<pad>",
                "image_token": "<img0>", "z_token": "<z>", "add_prefix_space": false,
            ]) == ["<pad>", "<img> strips", "<z>", "<vid>"])
        #expect(try added(["extra_special_tokens": ["<e>"], "z_token": ["content": "<z>"]]) == ["<e>"])
        #expect(try added(["extra_special_tokens": ["<e>"], "additional_special_tokens": ["<a>"]]) == ["<e>"])
        #expect(
            try added(["extra_special_tokens": ["i": "<i>"], "additional_special_tokens": ["<a>"]]) == ["<i>", "<a>"])
    }

    /// Vocabulary and merges of a file are read from its bytes, those of a value from the value.
    @Test(arguments: ["gpt2", "llama3", "partial_unk", "qwen2"])
    func readsBytesAsValues(_ kind: String) throws {
        let path = "/tmp/needletail-tokenizer-test-\(UInt64.random(in: 0 ... .max)).json"
        defer { try? removeTree(path) }  // a leftover in /tmp harms nobody
        let json = try golden(kind)["tokenizer"]!, expected = try Tokenizer(tokenizerJSON: json)
        for style in [JSONStyle.compact, JSONStyle(indent: 1, escapesNonASCII: true)] {
            try writeFileAtomically(json.serialized(style), to: path)
            let tokenizer = try Tokenizer(modelPath: path)
            for example in try golden(kind)["cases"]!.array! {
                guard let text = example["text"]?.string else { continue }
                #expect(tokenizer.encoding(of: text) == expected.encoding(of: text), "\(text.debugDescription)")
            }
            #expect(tokenizer.vocabularySize == expected.vocabularySize)
            #expect(tokenizer.fingerprintBytes == expected.fingerprintBytes && tokenizer.tokenizerJSON == json)
        }
    }

    @Test func settingsReplaceThePostProcessor() throws {
        let json = try golden("gpt2")["tokenizer"]!
        let config: JSONValue = [
            "bos_token": "<s>", "eos_token": ["content": "</s>", "__type": "AddedToken"], "pad_token": "<pad>",
            "add_bos_token": true, "add_eos_token": true, "clean_up_tokenization_spaces": true,
            "chat_template": [["name": "tool_use", "template": "no"], ["name": "default", "template": "yes"]],
        ]
        let tokenizer = try Tokenizer(tokenizerJSON: json, config: config)
        let bare = try Tokenizer(tokenizerJSON: json)
        #expect(tokenizer.encode("a !") == [0] + bare.encode("a !") + [1])
        #expect(tokenizer.encode("a !", addSpecialTokens: false) == bare.encode("a !"))
        #expect(tokenizer.decode(bare.encode("a ! it 's")) == "a ! it 's")  // clean-up spares BPE
        #expect(tokenizer.bosToken?.id == 0 && tokenizer.eosToken?.text == "</s>" && tokenizer.unkToken == nil)
        #expect(tokenizer.padToken?.id == 300 && tokenizer.isSpecial(300) && tokenizer.vocabularySize == 301)
        #expect(tokenizer.encode("<pad>", addSpecialTokens: false) == [300])
        #expect(tokenizer.chatTemplate == "yes" && tokenizer.toolTemplate == "no")
    }

    /// Templates under names, in the settings, as files, or in a GGUF: read, and written where others look for them.
    @Test func namedTemplates() throws {
        let folder = "/tmp/needletail-templates-test-\(UInt64.random(in: 0 ... .max))"
        defer { try? removeTree(folder) }  // a leftover in /tmp harms nobody
        let json = try golden("gpt2")["tokenizer"]!.serialized(.python)
        func file(_ name: String, _ text: String) throws {
            try createDirectories(parentFolder(of: folder + "/" + name))
            try writeFileAtomically(text, to: folder + "/" + name)
        }
        try file("settings/tokenizer.json", json)
        let settings =
            #"{"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}"#
        try file("settings/tokenizer_config.json", settings)
        try file("files/tokenizer.json", json)
        try file("files/chat_template.jinja", "a")
        try file("files/additional_chat_templates/tool_use.jinja", "b")
        try file("files/tokenizer_config.json", #"{"chat_template": "stale"}"#)
        for place in ["settings", "files"] {
            let read = try Tokenizer(modelPath: folder + "/" + place)
            #expect(read.chatTemplate == "a" && read.toolTemplate == "b", "\(place)")
            try read.save(to: folder + "/copy-\(place)")
            let again = try Tokenizer(modelPath: folder + "/copy-\(place)")
            #expect(again.chatTemplate == "a" && again.toolTemplate == "b", "\(place)")
            #expect(again.fingerprintBytes == read.fingerprintBytes, "\(place)")
        }
        // transformers would take a file for the only template.
        #expect(!fileExists(folder + "/copy-settings/chat_template.jinja"))
        #expect(try readTextFile(folder + "/copy-settings/tokenizer_config.json") == settings)
        let one = try TokenizerVocabulary(folder: folder + "/files")
        try one.save(to: folder + "/copy-files", chatTemplate: "c")
        try removeTree(folder + "/copy-files/additional_chat_templates")
        #expect(try Tokenizer(modelPath: folder + "/copy-files").toolTemplate == nil)

        let gguf = try Tokenizer(
            gguf: GGUFMetadata(
                path: "x.gguf",
                [
                    ("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.pre", .string("gpt-2")),
                    ("tokenizer.ggml.tokens", .stringArray(["a"])), ("tokenizer.ggml.merges", .stringArray([])),
                    ("tokenizer.chat_template", .string("a")), ("tokenizer.chat_template.tool_use", .string("b")),
                    ("tokenizer.chat_templates", .stringArray(["tool_use"])),
                ]))
        #expect(gguf.chatTemplate == "a" && gguf.toolTemplate == "b")
    }

    /// What templates are given beside the messages: all roles, and the names of a dictionary.
    @Test func variablesOfTemplates() throws {
        let config: JSONValue = [
            "bos_token": "<s>", "sep_token": ["content": "</s>"], "cls_token": "<s>", "mask_token": nil,
            "extra_special_tokens": ["image_token": "<image>"], "audio_token": "<audio>",
        ]
        let tokenizer = try Tokenizer(tokenizerJSON: golden("gpt2")["tokenizer"]!, config: config)
        let expected: JSONValue = [
            "bos_token": "<s>", "sep_token": "</s>", "cls_token": "<s>", "audio_token": "<audio>",
            "image_token": "<image>",
        ]
        #expect(JSONValue.object(tokenizer.templateVariables) == expected)
    }

    @Test func addsTokens() throws {
        let base = try Tokenizer(tokenizerJSON: golden("llama3")["tokenizer"]!)
        let tokenizer = try base.adding(tokens: ["<|tool|>", "fox", "<|tool|>", "<s>"], special: true)
        #expect(tokenizer.id(of: "<|tool|>") == 300 && tokenizer.vocabularySize == base.vocabularySize + 2)
        #expect(tokenizer.encode("<|tool|>fox", addSpecialTokens: false) == [300, 301])
        #expect(tokenizer.decode([300, 301], skipSpecialTokens: true) == "")
        let again = try Tokenizer(tokenizerJSON: tokenizer.tokenizerJSON)
        #expect(again.addedTokens == tokenizer.addedTokens && again.fingerprintBytes == tokenizer.fingerprintBytes)
        #expect(base.fingerprintBytes != tokenizer.fingerprintBytes)
        let plain = try base.adding(tokens: ["zebra"], special: false)
        #expect(plain.decode([300], skipSpecialTokens: true) == "zebra" && plain.token(of: 300) == "zebra")
    }

    @Test func savesWhatItRead() throws {
        let folder = "/tmp/needletail-tokenizer-test-\(UInt64.random(in: 0 ... .max))"
        defer { try? removeTree(folder) }  // a leftover in /tmp harms nobody
        let json = try golden("qwen2")["tokenizer"]!.serialized(.python)
        try createDirectories(folder)
        try writeFileAtomically(json, to: folder + "/tokenizer.json")
        try writeFileAtomically(#"{"eos_token":"</s>",  "x": 1.50}"#, to: folder + "/tokenizer_config.json")
        try writeFileAtomically("{{ x }}\n", to: folder + "/chat_template.jinja")
        let tokenizer = try Tokenizer(modelPath: folder)
        #expect(tokenizer.chatTemplate == "{{ x }}\n" && tokenizer.eosToken?.id == 1)
        try tokenizer.save(to: folder + "/copy")
        for name in try listFolder(folder + "/copy") {
            #expect(try readFile(folder + "/copy/" + name) == readFile(folder + "/" + name), "\(name)")
        }
        #expect(try listFolder(folder + "/copy").count == 3)
        try tokenizer.adding(tokens: ["<new>"], special: true).save(to: folder + "/more")
        #expect(
            try Tokenizer(modelPath: folder + "/more/tokenizer.json").id(of: "<new>") == tokenizer.id(of: "<mask>")! + 1
        )
        try writeFileAtomically(String(repeating: "[", count: 100), to: folder + "/tokenizer.json")
        #expect(throws: UserError.self) { try Tokenizer(modelPath: folder) }
        #expect(throws: UserError.self) { try Tokenizer(modelPath: folder + "/none") }
        #expect(throws: UserError.self) { try Tokenizer(modelPath: folder + "/copy/chat_template.jinja") }
    }

    @Test(arguments: [("smollm", "smollm"), ("gpt-2", "gpt2"), ("llama-bpe", "llama3"), ("qwen2", "qwen2")])
    func readsGGUF(_ name: String, _ kind: String) throws {
        let reference = try Tokenizer(tokenizerJSON: golden(kind)["tokenizer"]!)
        let model = try golden(kind)["tokenizer"]!["model"]!
        let tokens = (0..<Int32(300)).map { reference.token(of: $0)! }
        let merges = model["merges"]!.array!.map { $0.string ?? $0.array!.map { $0.string! }.joined(separator: " ") }
        let metadata = GGUFMetadata(
            path: "x.gguf",
            [
                ("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.pre", .string(name)),
                ("tokenizer.ggml.tokens", .stringArray(tokens)), ("tokenizer.ggml.merges", .stringArray(merges)),
                ("tokenizer.ggml.token_type", .integers(tokens.indices.map { $0 < 2 ? 3 : 1 })),
                ("tokenizer.ggml.bos_token_id", .integer(0)), ("tokenizer.chat_template", .string("t")),
            ])
        let tokenizer = try Tokenizer(gguf: metadata)
        for example in try golden(kind)["cases"]!.array! {
            guard let text = example["text"]?.string else { continue }
            // Texts with the tokens that were added to the golden tokenizer.
            if kind == "qwen2", reference.encode(text).contains(where: { reference.isAdded($0) }) { continue }
            #expect(tokenizer.encode(text) == reference.encode(text), "\(text.debugDescription)")
        }
        #expect(tokenizer.bosToken?.text == "<s>" && tokenizer.chatTemplate == "t" && tokenizer.isSpecial(1))
    }

    /// Patterns that cannot be read: which, and what is said of them.
    static let badPatterns = [
        ("(a", "a group that is not closed"), ("a)", "a closing parenthesis"), ("[a", "a set that is not closed"),
        ("*a", "nothing to repeat"), ("a{3,1}", "whose end is below its start"), ("a{1,9999}", "beyond 1000"),
        ("\\p{Klingon}", "the property \"Klingon\" is not known"), ("\\1", "the escape \\1 is not supported"),
        ("(a)\\k<1>", "the escape \\k is not supported"), ("[b-a]", "a range whose end"),
        ("a\\", "a backslash at the end"),
        ("(?<=a*)b", "a look-behind without a limit"), ("(?>(a*b)*)c", "an atomic group"),
        ("((((a{1000}){1000}){1000}))", "too long"), ("(?q:a)", "the group (?q"), ("[[:alpha:]]", "POSIX bracket"),
        ("^*", "a repeated anchor"), (String(repeating: "(", count: 100), "nested deeper"),
        ("\\x{110000}", "code point"),
        (String(repeating: "a", count: 30_000), "longer than"),
    ]

    @Test(arguments: badPatterns.indices)
    func refusesPatterns(_ index: Int) throws {
        let (pattern, reason) = Self.badPatterns[index]
        let split: JSONValue = [
            "type": "Split", "pattern": ["Regex": .string(pattern)], "behavior": "Isolated", "invert": false,
        ]
        let json = try changed("gpt2", ["pre_tokenizer"], to: split)
        #expect {
            try Tokenizer(tokenizerJSON: json)
        } throws: { error in
            guard let error = error as? UserError else { return false }
            return error.message.contains("pre_tokenizer \"Split\": the pattern") && error.message.contains(reason)
        }
    }

    @Test func refusesOtherGGUFTokenizers() {
        for pairs: [(String, GGUFValue)] in [
            [], [("tokenizer.ggml.model", .string("llama"))],
            [("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.tokens", .stringArray([]))],
            [
                ("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.tokens", .stringArray(["a"])),
                ("tokenizer.ggml.merges", .stringArray([])), ("tokenizer.ggml.pre", .string("unheard-of")),
            ],
            [
                ("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.tokens", .stringArray(["a"])),
                ("tokenizer.ggml.merges", .stringArray([])), ("tokenizer.ggml.bos_token_id", .integer(7)),
            ],
        ] {
            #expect(throws: UserError.self) { try Tokenizer(gguf: GGUFMetadata(path: "x.gguf", pairs)) }
        }
    }

    @Test func refusesGGUFFlagsThatAreNone() {
        let pairs: [(String, GGUFValue)] = [
            ("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.tokens", .stringArray(["a"])),
            ("tokenizer.ggml.merges", .stringArray([])), ("tokenizer.ggml.bos_token_id", .integer(0)),
            ("tokenizer.ggml.add_bos_token", .integer(1)),
        ]
        #expect {
            try Tokenizer(gguf: GGUFMetadata(path: "x.gguf", pairs))
        } throws: { error in
            let reason = "tokenizer.ggml.add_bos_token is an integer; a boolean should be there"
            return (error as? UserError)?.message.contains(reason) ?? false
        }
        #expect(throws: Never.self) { try Tokenizer(gguf: GGUFMetadata(path: "x.gguf", pairs.dropLast())) }
    }

    @Test func isSafeFromSeveralThreads() async throws {
        let tokenizer = try Tokenizer(tokenizerJSON: golden("llama3")["tokenizer"]!)
        let texts = try golden("llama3")["cases"]!.array!.compactMap { $0["text"]?.string }
        let expected = texts.map { tokenizer.encode($0) }
        await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<8 {
                group.addTask { (0..<20).allSatisfy { _ in texts.map { tokenizer.encode($0) } == expected } }
            }
            for await isEqual in group { #expect(isEqual) }
        }
    }

    @Test(arguments: ["gpt2", "llama3", "tekken", "qwen2"])
    func takesLongRunsInItsStride(_ kind: String) throws {
        let tokenizer = try Tokenizer(tokenizerJSON: golden(kind)["tokenizer"]!)
        for piece in ["a", " ", "\n", "1", "^", "Aa", "\u{301}", "e\u{301}", "中", "\u{2}"] {
            let text = String(repeating: piece, count: 20_000)
            #expect(
                ExactString(tokenizer.decode(tokenizer.encode(text), skipSpecialTokens: true))
                    == ExactString(
                        kind == "qwen2" && piece == "e\u{301}" ? String(repeating: "é", count: 20_000) : text))
        }
    }
}
