"""Golden files of GGUF's kinds of vocabulary, by llama.cpp.

    .deps/oracle/bin/python Tests/TokenizersTests/Fixtures/make_gguf_goldens.py

`scripts/bootstrap --llama-cpp` builds the package (llama-cpp-python 0.3.36). Offsets, which it does not know, follow from the
bytes of the tokens. Nothing is drawn by chance.
"""

import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent.parent / "verify"))
import llama_vocabularies as llama  # noqa: E402
import tokenizer_references  # noqa: E402

CHARACTERS = "aBs1 '.\n/$" + "éЖक\u093f中あ\u3000٣\u2028"
TEXTS = ["aB's BaS'S 1111111 .a/\n\naB $$1a", "  a  1 \n B\n. .\n/a\u3000\u3000中a ", "éЖé aЖB कि किa中あ中 ٣٣٣٣1 é\u3000.", "BaaBa aBBB11a1.1,1 'a's 'é",
         "\u2028\u2028 中\u3000中\u2028é\n \n\n1111", "aB <mask> <sentinel:1>IMGIMGABZ.\n1", "1 a 1 B a. aB'sa 'Sa", "कa1Bि111111"]


def ids(path, texts):
    model = llama.Llama(path)
    return model, [model.encode(text) for text in texts]


def pre(path):
    """Every name with one vocabulary; names that cut words alike share their ids."""
    alphabet = [llama.spelled(chr(c)) for c in range(0x80)]
    alphabet += [chr(c) for c in [*range(0xA1, 0xAD), *range(0xAE, 0x144)] if chr(c) not in alphabet]
    tokens, types, merges = llama.pairs(alphabet, [], CHARACTERS)
    found, names = [], {}
    for name in llama.BYTE_LEVEL:
        llama.write(path, "gpt2", tokens, types, name, merges)
        wanted = ids(path, TEXTS)[1]
        if wanted not in found:
            found.append(wanted)
        names[name] = found.index(wanted)
    return {"tokens": tokens, "types": types, "merges": merges, "texts": TEXTS, "ids": found, "names": names}


def case(model, text, wanted, sizes):
    """- Parameter sizes: the bytes of each token."""
    offsets = [end for place in tokenizer_references.places(sizes[i] for i in wanted) for end in place]
    return {"text": text, "ids": wanted, "offsets": offsets, "decoded": model.decode(wanted)}


def rwkv(path):
    tokens = [b"<s>"] + [bytes([byte]) for byte in range(256)]
    tokens += ["the ".encode(), b"th", "é".encode(), "é".encode()[1:] + b"x", "中文".encode(), "中".encode()[:2], b"\\'", b"'\"", b"\r\n\n", b"aaa", b"aa"]
    written = ["<s>"] + [repr(token)[2:-1] for token in tokens[1:]] + ["[PAD1]"]
    types = [3] + [1] * (len(tokens) - 1) + [5]
    llama.write(path, "rwkv", written, types)
    texts = ["the the éx\\ '\"\r\n\n", "中文中é\0\x7f\U0001f600aaaaa", "a<s>b[PAD1]", "th e\u0301 \ufeff"]
    model, wanted = ids(path, texts)
    sizes = tokens + [b"[PAD1]"]
    return {"tokens": written, "types": types, "cases": [case(model, *pair, sizes) for pair in zip(texts, wanted)]}


def plamo2(path):
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    scores = [0.0] * len(tokens)
    for text, score in [("a", -3), ("aa", -5), ("b", -4), ("ab", -6.5), ("ba", -6.5), ("aab", -9), ("c", -2500), ("cc", -1999.99), (" ", -2),
                        (" a", -4.00004), ("日", -8), ("日本", -9.5), ("本", -9), ("<0x41>", -1), ("0x", -1), ("é", 1.5), ("語x", -7)]:
        if text not in tokens:
            tokens.append(text)
            scores.append(float(score))
    types = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
    llama.write(path, "plamo2", tokens, types, scores=scores, bos_token_id=1, eos_token_id=2, unk_token_id=0)
    texts = ["aaaa aab abab", "日本語x語日本 c ccc", "<0x41> a<s>b\ufeff", "é\U0001f600aa", "aaaaaaa", ""]
    model, wanted = ids(path, texts)
    sizes = [bytes([i - 3]) if 3 <= i < 259 else token.encode() for i, token in enumerate(tokens)]
    cases = [case(model, *pair, sizes) for pair in zip(texts, wanted)]
    # A byte order mark that begins the text, or what follows a special token, is dropped.
    for text in ["\ufeffab", "a</s>\ufeff\ufeffb"]:
        cases.append({"text": text, "ids": model.encode(text)})
    return {"tokens": tokens, "types": types, "scores": scores, "cases": cases}


def t5(path):
    """The SentencePiece model of the goldens as llama.cpp's converter writes one."""
    import sentencepiece.sentencepiece_model_pb2 as protobuf

    proto = protobuf.ModelProto()
    proto.ParseFromString((HERE / "goldens/unigram.model").read_bytes())
    tokens, types, scores = [p.piece for p in proto.pieces], [p.type for p in proto.pieces], [p.score for p in proto.pieces]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    llama.write(path, "t5", tokens, types, scores=scores, unk_token_id=types.index(2), bos_token_id=1, eos_token_id=2, add_bos_token=False,
                add_eos_token=True, precompiled_charsmap=charsmap, add_space_prefix=True, remove_extra_whitespaces=True)
    # `tokenizers`, whose normalization the program follows here, drops control characters that llama.cpp keeps.
    texts = [case["text"] for case in json.loads((HERE / "goldens/sentencepiece_unigram.json").read_text())["cases"]
             if "\x7f" not in case["text"]]
    model, wanted = ids(path, texts)
    return {"tokens": tokens, "types": types, "scores": scores, "cases": [{"text": text, "ids": found} for text, found in zip(texts, wanted)]}


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.gguf"
        for name, make in [("gguf_pre", pre), ("gguf_rwkv", rwkv), ("gguf_plamo2", plamo2), ("gguf_t5", t5)]:
            text = json.dumps(make(path), ensure_ascii=True, separators=(",", ":"))
            (HERE / f"goldens/{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
