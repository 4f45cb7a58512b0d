// A byte-level tokenizer with a chat template, and folders that live as long as a test.
public import Formats
internal import Glibc
public import Tokenizers

/// Bytes as byte-level BPE spells them (Radford et al. 2019): printable ones stay, the others follow from 256 on.
private let byteCharacters: [String] = {
    let printable = Array(33...126) + Array(161...172) + Array(174...255)
    var next = 256
    return (0..<256).map { byte in
        if printable.contains(byte) { return String(Unicode.Scalar(UInt8(byte))) }
        defer { next += 1 }
        return String(Unicode.Scalar(UInt32(next))!)
    }
}()

/// tokenizer.json: `<s>` 0, `</s>` 1, `<|turn|>` 2, bytes from 3, then a few merges.
public let tinyTokenizerJSON: JSONValue = {
    let special = ["<s>", "</s>", "<|turn|>"],
        merges = ["t h", "th e", "Ġ the", "o n", "e r", "i n", "s t", "u s", "us er"]
    var vocabulary = JSONObject()
    for (id, token) in (special + byteCharacters + merges.map { $0.split(separator: " ").joined() }).enumerated() {
        vocabulary[token] = .init(id)
    }
    let byteLevel: JSONValue = [
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    ]
    return [
        "version": "1.0", "truncation": nil, "padding": nil,
        "added_tokens": .array(
            special.enumerated().map { id, text in
                [
                    "id": .init(id), "content": .string(text), "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                ]
            }),
        "normalizer": nil, "pre_tokenizer": byteLevel, "post_processor": nil, "decoder": byteLevel,
        "model": [
            "type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
            "end_of_word_suffix": nil, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": .object(vocabulary), "merges": .array(merges.map { .string($0) }),
        ],
    ]
}()

public let tinyChatTemplate =
    "{{ bos_token }}{% for message in messages %}{{ '<|turn|>' + message['role'] + '\\n' }}"
    + "{{ message['content'] + '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"

/// - Parameter eos: the token that `tokenizer_config.json` names as the end.
public func tinyTokenizer(eos: String = "</s>") throws -> Tokenizer {
    try Tokenizer(
        tokenizerJSON: tinyTokenizerJSON,
        config: [
            "bos_token": "<s>", "eos_token": .string(eos), "chat_template": .string(tinyChatTemplate),
            "clean_up_tokenization_spaces": false, "tokenizer_class": "PreTrainedTokenizerFast",
        ])
}

/// A new folder, removed with the value.
public final class TemporaryFolder {
    public let path: String

    public init() throws {
        // In memory where there is such a place: runs wait for the disk at every save.
        let usual = folderExists("/dev/shm") ? "/dev/shm" : "/tmp",
            base = getenv("TMPDIR").map { String(cString: $0) } ?? usual
        path = joinPath(base, "needletail-\(getpid())-\(UInt64.random(in: 0...UInt64.max))")
        try createDirectories(path)
    }

    public subscript(name: String) -> String { joinPath(path, name) }

    deinit { try? removeTree(path) }  // nothing depends on it
}
