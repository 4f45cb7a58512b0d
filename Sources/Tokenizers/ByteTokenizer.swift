// A tokenizer that needs no training: byte-level BPE without a merge, one token a byte.
public import Formats

/// tokenizer.json of byte-level BPE without merges: `<s>` 0, `</s>` 1, then the 256 bytes in order.
public let byteTokenizerJSON: JSONValue = {
    let special = ["<s>", "</s>"]
    var vocabulary = JSONObject()
    let bytes = (0..<256).map { ByteAlphabet.spell([UInt8($0)]) }
    for (id, token) in (special + bytes).enumerated() { vocabulary[token] = .init(id) }
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
            "vocab": .object(vocabulary), "merges": [],
        ],
    ]
}()

/// tokenizer_config.json beside it.
public let byteTokenizerConfig: JSONValue = [
    "bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": false,
    "tokenizer_class": "PreTrainedTokenizerFast",
]
