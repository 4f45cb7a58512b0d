// A tokenizer that needs no training: byte-level BPE with few merges or none, then one token a byte.
public import Formats

/// tokenizer.json of byte-level BPE: the special tokens from id 0 on, then the 256 bytes in order, then the merges'
/// results.
///
/// - Parameter merges: pairs as tokenizer.json spells them, `"t h"`.
public func byteTokenizerJSON(special: [String] = ["<s>", "</s>"], merges: [String] = []) -> JSONValue {
    var vocabulary = JSONObject()
    let bytes = (0..<256).map { ByteAlphabet.spell([UInt8($0)]) }
    let merged = merges.map { $0.split(separator: " ").joined() }
    for (id, token) in (special + bytes + merged).enumerated() { vocabulary[token] = .init(id) }
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
}

/// tokenizer_config.json beside it.
public let byteTokenizerConfig: JSONValue = [
    "bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": false,
    "tokenizer_class": "PreTrainedTokenizerFast",
]
