"""Golden rows for merged vocabularies, computed by mergekit 0.1.5 (its build_tokenizer and PermutedVocabulary).

    .deps/oracle/bin/python Tests/MergingTests/Fixtures/make_tokenizer_goldens.py

writes `tokenizer_goldens.json` beside itself, with the tokenizers themselves. Three byte-level BPE vocabularies: a and b
have 300 tokens each and share 200, c has tokens of both. Row i of model m's table is `1000 m + i` (times column + 1), so
that a row says whose it is. mergekit numbers the union's new ordinary tokens in the order of a hash table: compare by
token, not by id.
"""

import json
import pathlib
import tempfile

import torch
from mergekit.common import ModelReference
from mergekit.tokenizer.build import build_tokenizer
from mergekit.tokenizer.config import TokenizerConfig
from mergekit.tokenizer.embed import PermutedVocabulary

HERE = pathlib.Path(__file__).parent
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALPHABET = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]  # printable ASCII, space, line end: 96
PAIRS = [x + y for x in LETTERS for y in LETTERS if x != y]
SHARED_SPECIAL = ["<s>", "</s>", "<pad>", "<turn>"]


def flags(special=True, **more):
    return {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special, **more}


def tokenizer(pairs, added, order):
    """tokenizer.json with alphabet and pairs in the model and `added` after them; `order` permutes the model's ids."""
    tokens = ALPHABET + pairs
    tokens = [tokens[i] for i in order(len(tokens))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": len(tokens) + i, "content": text, **more} for i, (text, more) in enumerate(added)],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(tokens)}, "merges": [[p[0], p[1]] for p in pairs],
        },
    }


def stepped(step):
    return lambda n: [(i * step) % n for i in range(n)]


shared = [(text, flags()) for text in SHARED_SPECIAL]
TOKENIZERS = {  # 96 + 196 + 8 = 300 and 300: shared are 96 bytes, 100 pairs, 4 special tokens
    "a": tokenizer(PAIRS[:196], shared + [(f"<a{i}>", flags()) for i in range(4)], stepped(1)),
    "b": tokenizer(
        PAIRS[:100] + PAIRS[200:296], shared[:3] + [("<turn>", flags(rstrip=True))] + [(f"<b{i}>", flags(i < 2)) for i in range(4)],
        stepped(5)),
    "c": tokenizer(PAIRS[50:150] + PAIRS[250:300], shared + [("<b0>", flags()), ("<a1>", flags())], stepped(7)),
}


def size(name):
    t = TOKENIZERS[name]
    return len(t["model"]["vocab"]) + len(t["added_tokens"])


A, B, C = "a", "b", "c"
CASES = {
    "base": {"models": [A, B], "base": A, "tokenizer": {"source": "base"}},
    "ref": {"models": [A, B], "base": A, "tokenizer": {"source": B}},
    "union": {"models": [A, B], "base": A, "tokenizer": {"source": "union"}},
    "union of three": {"models": [A, B, C], "base": A, "tokenizer": {"source": "union"}},
    "union of three, other base": {"models": [A, B, C], "base": C, "tokenizer": {"source": "union"}},
    "union without base": {"models": [B, A, C], "base": None, "tokenizer": {"source": "union"}},
    "padded": {"models": [A, B], "base": A, "tokenizer": {"source": "union", "pad_to_multiple_of": 64}},
    "overrides": {
        "models": [A, B, C], "base": A,
        "tokenizer": {
            "source": "union",
            "tokens": {
                "<b1>": {"source": B},
                "<b0>": {"source": C},
                PAIRS[210]: {"source": {"kind": "model_token", "model": A, "token": PAIRS[3]}},
                PAIRS[211]: {"source": {"kind": "model_token", "model": B, "token_id": 17}},
                PAIRS[0]: {"source": {"kind": "zero"}, "force": True},
                PAIRS[1]: {"source": B, "force": True},
                PAIRS[2]: {"source": B},
                "<new>": {"source": {"kind": "model_token", "model": A, "token": "<turn>"}},
            },
        },
    },
    # The eight added tokens of the base lie beyond its table. (mergekit fails when a merge makes such a token.)
    "cut base": {"models": [A, B], "base": A, "tokenizer": {"source": "union"}, "vocab_size": {A: 292}},
}


def resolved(value, reference):
    """The configuration with the models' folders in place of their letters."""
    if isinstance(value, dict):
        return {
            k: str(reference[v].model.path) if k in ("source", "model") and v in list(reference) else resolved(v, reference)
            for k, v in value.items()}
    return value


def main():
    goldens = {"versions": {"mergekit": "0.1.5", "torch": torch.__version__}, "tokenizers": TOKENIZERS, "cases": {}}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            reference, tensors = {}, {}
            for k, model in enumerate("abc"):
                rows = case.get("vocab_size", {}).get(model, size(model))
                path = pathlib.Path(folder, model)
                path.mkdir()
                (path / "config.json").write_text(json.dumps({
                    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": rows, "hidden_size": 4,
                    "intermediate_size": 4, "num_attention_heads": 1, "num_hidden_layers": 1}))
                (path / "tokenizer.json").write_text(json.dumps(TOKENIZERS[model]))
                (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
                reference[model] = ModelReference.model_validate(str(path))
                tensors[reference[model]] = 1000.0 * k + torch.arange(rows, dtype=torch.float32)[:, None]
            config = TokenizerConfig.model_validate(resolved(case["tokenizer"], reference))
            models = [reference[m] for m in case["models"]]
            base = reference[case["base"]] if case["base"] else None
            # As the planner calls it.
            info = build_tokenizer(
                base_model=base, referenced_models=models, tokenizer_source=config.source, trust_remote_code=False,
                add_tokens=tuple((config.tokens or {}).keys()))
            task = PermutedVocabulary.model_construct(
                tokens=config.tokens, pad_to_multiple_of=config.pad_to_multiple_of, base_model=base, vocabulary_axis=0,
                tokenizer_task=None, gather_tensors=None)
            aligned = task.execute(info, {m: tensors[m] for m in models})
            vocabulary = sorted(info.tokenizer.get_vocab().items(), key=lambda item: item[1])
            assert [i for _, i in vocabulary] == list(range(len(vocabulary)))
            goldens["cases"][name] = {
                **case,
                "tokens": [token for token, _ in vocabulary],
                "added": sorted([[t.content, t.special, t.rstrip] for t in info.tokenizer.added_tokens_decoder.values()]),
                "rows": {m: [round(v, 4) for v in aligned[reference[m]][:, 0].tolist()] for m in case["models"]},
            }
            print(name, len(vocabulary), {m: len(goldens["cases"][name]["rows"][m]) for m in case["models"]})
    (HERE / "tokenizer_goldens.json").write_text(json.dumps(goldens, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
