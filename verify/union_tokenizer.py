"""Merged vocabularies, opened by transformers (spec row 7 and table 5.3).

    .deps/oracle/bin/python verify/union_tokenizer.py

Two models with 300 tokens each, 200 of them the same, are merged with `tokenizer: {source: union}`: 400 rows; the written
tokenizer loads in transformers with the ids that the program uses, and every text comes back from its ids. Shared tokens
of equal models keep their rows, a token of one model has that model's row.
"""

import json
import pathlib

import torch
import transformers
import yaml
from safetensors.torch import load_file

from common import REPOSITORY, Program, Report, Workspace, parser, read_rows, write_rows

TEXTS = ["the iabc hive jd ll", "print(x)\n<turn>ia ib<b3> kv", "zzz qa qb qc", "A short story: 1, 2, 3 <s>and</s> out."]
torch.set_num_threads(1)


def write_model(folder, tokenizer, rows, seed):
    config = transformers.LlamaConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    torch.manual_seed(1)  # equal models, but for their tables
    model = transformers.LlamaForCausalLM(config)
    names = token_ids(tokenizer)
    for k, table in enumerate([model.model.embed_tokens.weight, model.lm_head.weight]):
        for token, i in names.items():
            own = seed if token not in SHARED else 0
            generator = torch.Generator().manual_seed(hash_of(token) + 1000 * k + own)
            table.data[i] = torch.randn(32, generator=generator)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}))
    return folder


def token_ids(tokenizer):
    return tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}


def hash_of(text):
    return sum((i + 1) * 7919 * ord(c) for i, c in enumerate(text)) % 100_000_007


GOLDENS = json.loads((REPOSITORY / "Tests/MergingTests/Fixtures/tokenizer_goldens.json").read_text())["tokenizers"]
SHARED = set(token_ids(GOLDENS["a"])) & set(token_ids(GOLDENS["b"]))


def merge(program, work, name, a, b, tokenizer):
    config = work / f"{name}.yaml"
    config.write_text(yaml.safe_dump({
        "merge_method": "linear", "base_model": str(a), "tokenizer": tokenizer, "dtype": "float32",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (a, b)]}))
    out = work / name
    program.must("merge", "run", config, out, "--any-base")
    return out


def main():
    arguments = parser(__doc__).parse_args()
    report, program = Report(), Program(arguments.needletail)
    transformers.utils.logging.set_verbosity_error()
    with Workspace(arguments) as work:
        a, b = [write_model(pathlib.Path(work, name), GOLDENS[name], 300, seed) for seed, name in enumerate("ab", 1)]
        union = merge(program, work, "union", a, b, {"source": "union"})
        tokenizer = transformers.AutoTokenizer.from_pretrained(union)
        weights = load_file(union / "model.safetensors")
        report.equals("union: rows of the tables", [list(weights[n].shape) for n in ("model.embed_tokens.weight", "lm_head.weight")], [[400, 32]] * 2)
        report.equals("union: vocab_size", json.loads((union / "config.json").read_text())["vocab_size"], 400)
        report.equals("union: tokens in transformers", len(tokenizer), 400)
        wrong = [text for text in TEXTS if tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) != text]
        report.identical("union: texts come back in transformers", " | ".join(wrong))
        write_rows(work / "texts.jsonl", [{"text": text} for text in TEXTS])
        program.must("tokenizer", "encode", union, "--input", work / "texts.jsonl", "--output", work / "ids.jsonl", "--no-special-tokens")
        rows = read_rows(work / "ids.jsonl")
        different = [t for t, row in zip(TEXTS, rows) if row["ids"] != tokenizer.encode(t, add_special_tokens=False)]
        report.identical("union: ids beside transformers", " | ".join(different))
        sources = {"a": (load_file(a / "model.safetensors"), token_ids(GOLDENS["a"])), "b": (load_file(b / "model.safetensors"), token_ids(GOLDENS["b"]))}
        vocabulary, worst = tokenizer.get_vocab(), 0.0
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            for token, i in vocabulary.items():
                owner = "a" if token in sources["a"][1] else "b"
                table, ids = sources[owner]
                worst = max(worst, (weights[name][i] - table[name][ids[token]]).abs().max().item())
        report.at_most("union: every row is its owner's", worst, 0)
        base = merge(program, work, "base", a, b, {"source": "base"})
        report.equals("base: rows", load_file(base / "model.safetensors")["lm_head.weight"].shape[0], 300)
        padded = merge(program, work, "padded", a, b, {"source": "union", "pad_to_multiple_of": 64})
        rows = load_file(padded / "model.safetensors")["lm_head.weight"]
        report.at_most("padded: 448 rows, the last are the mean", (rows[400:] - rows[:400].double().mean(0).float()).abs().max().item() + abs(len(rows) - 448), 1e-6)
    report.exit()


if __name__ == "__main__":
    main()
