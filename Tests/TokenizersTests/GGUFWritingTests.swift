// Tokenizers as GGUF metadata: read back they make the same tokens, and what the format cannot express is refused.
import Diagnostics
import Formats
import Testing
import Tokenizers

@Suite struct GGUFWritingTests {
    /// Bytes in GPT-2's alphabet from id 1, then pieces that merges make.
    private static func byteLevel(
        _ preTokenizer: JSONValue, normalizer: JSONValue = nil, ignoresMerges: Bool = false, added: [JSONValue] = [],
        pieces: [String] = []
    ) -> JSONValue {
        let printable = Array(33...126) + Array(161...172) + Array(174...255)
        let others = (0...255).filter { !printable.contains($0) }
        let alphabet = printable + others.indices.map { 256 + $0 }
        var vocabulary = JSONObject([("<|end|>", 0)])
        for code in alphabet { vocabulary[String(Unicode.Scalar(UInt32(code))!)] = .init(vocabulary.count) }
        for piece in ["th", "the", "Ġthe", "12", "Ġ12"] + pieces { vocabulary[piece] = .init(vocabulary.count) }
        let end: JSONValue = [
            "id": 0, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        ]
        return [
            "version": "1.0", "truncation": nil, "padding": nil, "added_tokens": .array([end] + added),
            "normalizer": normalizer, "pre_tokenizer": preTokenizer, "post_processor": nil,
            "decoder": ["type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true],
            "model": [
                "type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
                "end_of_word_suffix": nil, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": .bool(ignoresMerges), "vocab": .object(vocabulary),
                "merges": [["t", "h"], ["th", "e"], ["Ġ", "the"], ["1", "2"], ["Ġ", "12"]],
            ],
        ]
    }

    private static let bytes: JSONValue = ["type": "ByteLevel", "add_prefix_space": false, "use_regex": false]
    private static let gpt2: JSONValue = ["type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true]
    private static func split(_ regex: String, _ behavior: String = "Isolated", invert: Bool = false) -> JSONValue {
        let split: JSONValue = [
            "type": "Split", "invert": .bool(invert), "pattern": ["Regex": .string(regex)],
            "behavior": .string(behavior),
        ]
        return ["type": "Sequence", "pretokenizers": [split, bytes]]
    }
    private static let llama3 =
        #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#

    private func written(_ json: JSONValue, size: Int = 300) throws -> (GGUFMetadata, [String]) {
        let made = try Tokenizer(tokenizerJSON: json, config: ["eos_token": "<|end|>"])
            .ggufMetadata(size: size, path: "model")
        return try withTemporaryFile { path in
            try GGUFWriter.write(path: path, metadata: made.entries, tensors: [])
            return (try GGUFFile(path: path).metadata, made.notes)
        }
    }

    private func withTemporaryFile<R>(_ body: (String) throws -> R) throws -> R {
        let path = joinPath("/tmp", "needletail-gguf-\(UInt64.random(in: 0...UInt64.max))")
        defer { try? removeTree(path) }
        return try body(path)
    }

    static let kinds: [(String, JSONValue, Bool)] = [
        ("gpt-2", gpt2, false),
        (
            "smollm", ["type": "Sequence", "pretokenizers": [["type": "Digits", "individual_digits": true], gpt2]],
            false
        ),
        ("llama-bpe", split(llama3), true), ("llama-bpe", split(llama3, "Removed", invert: true), false),
    ]

    @Test(arguments: kinds) func byteLevelKindsAreFoundByTheirMeaning(
        _ name: String, _ preTokenizer: JSONValue, _ ignoresMerges: Bool
    ) throws {
        let json = Self.byteLevel(preTokenizer, ignoresMerges: ignoresMerges)
        let (metadata, notes) = try written(json), text = "the 12 the123<|end|> it's\r\n  \u{E9} 12"
        #expect(metadata["tokenizer.ggml.pre"]?.string == name && notes.isEmpty)
        #expect(try Tokenizer(gguf: metadata).encode(text) == Tokenizer(tokenizerJSON: json).encode(text))
        #expect(metadata["tokenizer.ggml.tokens"]?.strings?.suffix(2) == ["[PAD298]", "[PAD299]"])
        #expect(
            metadata["tokenizer.ggml.token_type"]?.ints?.first == 3 && metadata["tokenizer.ggml.eos_token_id"]?.int == 0
        )
        #expect(metadata["tokenizer.ggml.add_bos_token"]?.bool == false)
    }

    /// A token that no merge makes is a word of its own only where words are looked up first.
    @Test func lookingWordsUpFirstIsKept() throws {
        for ignoresMerges in [true, false] {
            let json = Self.byteLevel(Self.split(Self.llama3), ignoresMerges: ignoresMerges, pieces: ["whole"])
            let (metadata, _) = try written(json), source = try Tokenizer(tokenizerJSON: json)
            #expect(metadata["tokenizer.ggml.pre"]?.string == (ignoresMerges ? "llama-bpe" : "dbrx"))
            #expect(try Tokenizer(gguf: metadata).encode("whole the") == source.encode("whole the"))
        }
    }

    @Test func formCIsNoted() throws {
        let (metadata, notes) = try written(Self.byteLevel(Self.gpt2, normalizer: ["type": "NFC"]))
        #expect(metadata["tokenizer.ggml.pre"]?.string == "gpt-2" && notes.count == 1)
    }

    /// llama.cpp merges what has Qwen 3.5's pattern, where its rank file looks words up first: 201 of that file's tokens no
    /// merge makes.
    @Test func lookingUpFirstNeedsANameThatDoes() throws {
        let pattern =
            #"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
        func json(_ pieces: [String]) -> JSONValue {
            Self.byteLevel(Self.split(pattern), normalizer: ["type": "NFC"], ignoresMerges: true, pieces: pieces)
        }
        #expect(try written(json([])).0["tokenizer.ggml.pre"]?.string == "qwen35")
        #expect(refusal(json(["whole"])).contains("ignore_merges is true"))
    }

    private func refusal(_ json: JSONValue, size: Int = 300) -> String {
        do { return "accepted: \(try written(json, size: size))" } catch { return "\(error)" }
    }

    @Test func whatHasNoCounterpartIsRefused() {
        #expect(refusal(Self.byteLevel(Self.split(#"\w+|\W+"#))).contains("pre_tokenizer"))
        #expect(refusal(Self.byteLevel(["type": "ByteLevel", "add_prefix_space": true])).contains("has no known name"))
        #expect(refusal(Self.byteLevel(Self.gpt2, normalizer: ["type": "Lowercase"])).contains("normalizer"))
        #expect(refusal(Self.byteLevel(Self.gpt2), size: 100).contains("the model's table 100 rows"))
        let strip: JSONValue = [
            "id": 262, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false,
            "special": true,
        ]
        #expect(refusal(Self.byteLevel(Self.gpt2, added: [strip])).contains("added token \"<x>\""))
    }

    /// SentencePiece BPE with byte fallback as transformers converts it: merges give scores, and scores the merges again.
    @Test(arguments: [true, false]) func sentencePieceSurvives(_ addsSpace: Bool) throws {
        let mark = "\u{2581}"
        var vocabulary = JSONObject([("<unk>", 0), ("<s>", 1), ("</s>", 2)])
        for byte in 0..<256 {
            let digits = String(byte, radix: 16, uppercase: true)
            vocabulary["<0x\(byte < 16 ? "0" : "")\(digits)>"] = .init(vocabulary.count)
        }
        for piece in [mark, "t", "h", "e", "r", "th", "er", mark + "th", "the", mark + "the"] {
            vocabulary[piece] = .init(vocabulary.count)
        }
        let merges = [("t", "h"), ("e", "r"), (mark, "th"), ("th", "e"), (mark, "the"), (mark + "th", "e")]
        var normalizers: [JSONValue] = addsSpace ? [["prepend": .string(mark), "type": "Prepend"]] : []
        normalizers.append(["type": "Replace", "content": .string(mark), "pattern": ["String": " "]])
        let added = ["<unk>", "<s>", "</s>"].enumerated().map { id, text -> JSONValue in
            [
                "id": .init(id), "content": .string(text), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            ]
        }
        let json: JSONValue = [
            "version": "1.0", "truncation": nil, "padding": nil, "added_tokens": .array(added),
            "normalizer": ["type": "Sequence", "normalizers": .array(normalizers)], "pre_tokenizer": nil,
            "post_processor": [
                "type": "TemplateProcessing",
                "single": [["SpecialToken": ["id": "<s>", "type_id": 0]], ["Sequence": ["id": "A", "type_id": 0]]],
                "pair": [["Sequence": ["id": "A", "type_id": 0]], ["Sequence": ["id": "B", "type_id": 1]]],
                "special_tokens": ["<s>": ["id": "<s>", "ids": [1], "tokens": ["<s>"]]],
            ],
            "decoder": ["type": "Sequence", "decoders": [["type": "ByteFallback"], ["type": "Fuse"]]],
            "model": [
                "type": "BPE", "dropout": nil, "unk_token": "<unk>", "continuing_subword_prefix": nil,
                "end_of_word_suffix": nil, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": .object(vocabulary), "merges": .array(merges.map { [.string($0), .string($1)] }),
            ],
        ]
        let config: JSONValue = ["bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"]
        let source = try Tokenizer(tokenizerJSON: json, config: config)
        let made = try source.ggufMetadata(size: 270, path: "model")
        let metadata = try withTemporaryFile { path in
            try GGUFWriter.write(path: path, metadata: made.entries, tensors: [])
            return try GGUFFile(path: path).metadata
        }
        #expect(metadata["tokenizer.ggml.model"]?.string == "llama")
        #expect(metadata["tokenizer.ggml.add_space_prefix"]?.bool == addsSpace)
        #expect(metadata["tokenizer.ggml.add_bos_token"]?.bool == true)
        let types = metadata["tokenizer.ggml.token_type"]?.ints ?? []
        #expect(types.prefix(4) == [2, 3, 3, 6] && types.last == 5)
        let read = try Tokenizer(gguf: metadata)
        for text in ["the other ether", " the  the", "t\u{E9}th\n<s> her"] {
            #expect(read.encode(text) == source.encode(text), "\(text)")
        }
    }
}
