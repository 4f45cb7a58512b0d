"""Live comparison of `needletail tokenizer` with the `tokenizers` package (dev-only; oracle environment).

    python verify/tokenization.py --needletail .build/release/needletail --smollm2 FILE.gguf --gpt2 FOLDER [--texts FILE ...]

FOLDER holds encoder.json and vocab.bpe of GPT-2. Texts are plain UTF-8 files (5 MB or more together); generated
mixed-script text and fuzzed strings come on top. Ids, offsets and decoded texts must be equal everywhere: prints each
difference and the ratio of speeds (one thread each), exits 1 when there is a difference.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers  # noqa: E402  (reads the variable above when imported)

BLOCKS = [(0x20, 0x7F), (0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xA00),
          (0xE00, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2150, 0x2190), (0x2460, 0x2500),
          (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xFB00, 0xFB50), (0x1D400, 0x1D800), (0x1F300, 0x1F650)]
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000"
PIECES = ["'s", "'S", "'ll", "'LL", "'re", "'Ve", "'\u017f", "\r\n", "\n\n", "  ", " ", "123", "1234567", "<|endoftext|>",
          "<|im_start|>", "<|im_end|>", "...", "/\n", "e\u0301", "Hello", " World", " the", "\u200d", "İ", "ﬁ"]


def assigned():
    """Code points assigned in this Python's Unicode version, which the package's newer versions assign too."""
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    return [c for c in points if unicodedata.category(chr(c)) != "Cn"], len(points)


def fuzzed(count, rng, points):
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.35:
                parts.append(rng.choice(PIECES))
            elif kind < 0.7:
                start, end = rng.choice(BLOCKS)
                parts += [chr(rng.randrange(start, end)) for _ in range(rng.randint(1, 6))]
            elif kind < 0.9:
                parts += [chr(rng.choice(points)) for _ in range(rng.randint(1, 3))]
            else:
                parts.append(rng.choice(SPACES) * rng.randint(1, 3))
        yield "".join(parts)


def mixed_script(size, rng):
    """Long texts of made-up words in many scripts."""
    words, length = [], 0
    while length < size:
        start, end = rng.choice(BLOCKS)
        word = "".join(chr(rng.randrange(start, end)) for _ in range(rng.randint(1, 9)))
        words.append(word + rng.choice([" ", " ", " ", ", ", ". ", "\n", "  ", "\n\n"]))
        length += len(words[-1].encode())
    return "".join(words)


def cut(text, rng):
    rows, at = [], 0
    while at < len(text):
        size = rng.randint(1000, 10000)
        rows.append(text[at:at + size])
        at += size
    return rows


def gpt2_json(folder, path):
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    merges = [m for m in (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:] if m]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    token = {"id": 50256, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
    path.write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [token], "normalizer": None,
        "pre_tokenizer": level, "post_processor": level, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "vocab": vocab, "merges": merges}}), encoding="utf-8")


def smollm2_json(gguf, path):
    """The tokenizer.json that the GGUF vocabulary stands for, put together without the product."""
    from gguf import GGUFReader

    fields = GGUFReader(str(gguf)).fields
    tokens, types = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, token in enumerate(tokens) if types[i] == 3]
    path.write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
        "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "vocab": {t: i for i, t in enumerate(tokens)},
                  "merges": fields["tokenizer.ggml.merges"].contents()}}), encoding="utf-8")


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def ours(program, verb, model, rows, folder):
    """What the product makes of rows, and the seconds it took, starting up and JSON included."""
    source, target = folder / "rows.jsonl", folder / "out.jsonl"
    write_rows(source, rows)
    started = time.perf_counter()
    subprocess.run([program, "tokenizer", verb, str(model), "--input", str(source), "--output", str(target)], check=True)
    return read_rows(target), time.perf_counter() - started


def theirs(reference, folder):
    """The same job by the package: rows read, encoded one by one, rows written."""
    started = time.perf_counter()
    encodings = [reference.encode(row["text"]) for row in read_rows(folder / "rows.jsonl")]
    write_rows(folder / "theirs.jsonl", [{"ids": e.ids, "offsets": e.offsets} for e in encodings])
    return encodings, time.perf_counter() - started


def compare(name, program, model, reference, texts, folder, limit=10):
    differences = 0
    rows, our_seconds = ours(program, "encode", model, [{"text": text} for text in texts], folder)
    encodings, their_seconds = theirs(reference, folder)
    for text, row, encoding in zip(texts, rows, encodings, strict=True):
        if row["ids"] != encoding.ids or [tuple(o) for o in row["offsets"]] != encoding.offsets:
            differences += 1
            if differences <= limit:
                print(f"  {text[:80]!r}\n    ours {row['ids'][:12]} {row['offsets'][:6]}\n    reference "
                      f"{encoding.ids[:12]} {encoding.offsets[:6]}")
    decoded, _ = ours(program, "decode", model, [{"ids": encoding.ids} for encoding in encodings], folder)
    for row, encoding in zip(decoded, encodings, strict=True):
        if row["text"] != reference.decode(encoding.ids, skip_special_tokens=False):
            differences += 1
            print(f"  decode {encoding.ids[:12]}: ours {row['text'][:60]!r}")
    size = sum(len(text.encode()) for text in texts)
    print(f"{name}: {len(texts)} texts, {size / 1e6:.2f} MB, {differences} differences; ours {size / our_seconds / 1e6:.2f} "
          f"MB/s, reference {size / their_seconds / 1e6:.2f} MB/s, rows read and written by both, ratio "
          f"{their_seconds / our_seconds:.2f}", flush=True)
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--needletail", default=".build/release/needletail")
    parser.add_argument("--smollm2", type=pathlib.Path, required=True)
    parser.add_argument("--gpt2", type=pathlib.Path, required=True)
    parser.add_argument("--texts", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--fuzz", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    points, total = assigned()
    print(f"tokenizers {tokenizers.__version__}; fuzzing over {len(points)} code points assigned in Unicode "
          f"{unicodedata.unidata_version}; the other {total - len(points)} are not drawn")
    book = "".join(path.read_text(encoding="utf-8", errors="replace") for path in options.texts)
    sets = [("prose", cut(book, rng)), ("one text", [book]), ("mixed scripts", cut(mixed_script(1_000_000, rng), rng)),
            ("fuzz", list(fuzzed(options.fuzz, rng, points)))]
    differences = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        gpt2, smollm2 = folder / "gpt2.json", folder / "smollm2.json"
        gpt2_json(options.gpt2, gpt2)
        smollm2_json(options.smollm2, smollm2)
        for model, file in [(gpt2, gpt2), (options.smollm2, smollm2)]:
            reference = tokenizers.Tokenizer.from_file(str(file))
            for name, texts in sets:
                if any(texts):
                    differences += compare(f"{file.stem}, {name}", options.needletail, model, reference, texts, folder)
    print(f"{differences} differences")
    sys.exit(differences > 0)


main()
