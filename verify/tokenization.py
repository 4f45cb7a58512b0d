"""Compares `needletail tokenizer` with the packages `tokenizers`, `sentencepiece` and `tiktoken` and with llama.cpp, its
vectors and itself: ids, offsets and decoded texts must be equal everywhere.

    .deps/oracle/bin/python verify/tokenization.py --gguf SmolLM2.gguf --gpt2 FOLDER --texts FILE ... [--others FOLDER]
        [--translations FOLDER] [--kinds NAME ...] [--parts texts speed runs llama]

FOLDER holds encoder.json and vocab.bpe of GPT-2; the one of --others what scripts/fetch-assets puts into
.deps/demo/tokenizers, ten more tokenizers and llama.cpp's vocabularies (verify/tokenizer_references.py); the one of
--translations a program's messages in a hundred languages. Texts are plain UTF-8 files, 5 MB or more together; generated
mixed-script text and fuzzed strings come on top. Speed is processor time of one thread against one thread in the same
run, for the same job: rows read, encoded to ids, rows written; the package by the faster of its ways. The program's
start-up is not counted there, since the package's loading is not either. Loading has a bound of its own: it is the processor
time of `tokenizer encode` of one row less that of `needletail --version`, which is the program's own start. One more file is
loaded only: a tokenizer.json of Qwen2's vocabulary as `tokenizers` writes it, indented and with merges as pairs.

An offset is a range of characters: from the one that the token's first byte is of to behind the one that its last byte is of,
so that tokens that begin inside a character begin, as with tiktoken, where it does.
"""

import json
import os
import pathlib
import random
import resource
import sys
import time
import unicodedata

from common import Program, Report, Workspace, parser, read_rows, write_rows

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizer_references  # noqa: E402  (imports tokenizers, which reads the variable above)
import tokenizers  # noqa: E402

# Of a file of 150,000 entries or fewer; larger ones may take longer in proportion.
LOADING_SECONDS = 0.150

BLOCKS = [(0x20, 0x7F), (0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xA00),
          (0xE00, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2150, 0x2190), (0x2460, 0x2500),
          (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xFB00, 0xFB50), (0x1D400, 0x1D800), (0x1F300, 0x1F650)]
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000"
PIECES = ["'s", "'S", "'ll", "'LL", "'re", "'Ve", "'\u017f", "\r\n", "\n\n", "  ", " ", "123", "1234567", "<|endoftext|>",
          "<|im_start|>", "<|im_end|>", "...", "/\n", "e\u0301", "Hello", " World", " the", "\u200d", "İ", "ﬁ"]


def ranges(points):
    """Sorted code points as text: `0897, 10D40-10D65`."""
    runs = []
    for point in points:
        if runs and runs[-1][1] == point - 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    return ", ".join(f"{a:04X}" if a == b else f"{a:04X}-{b:04X}" for a, b in runs)


def code_points(report):
    """All code points, and those that Unicode assigns in the package's version.

    The product's tables are made from the package (Tests/TokenizersTests/Fixtures/make_unicode_tables.py), so nothing is
    left out: assigned or not, every code point is drawn.
    """
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    splitter = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\p{Cn}"), "removed")
    assigned = [ord(c) for piece, _ in splitter.pre_tokenize_str("".join(map(chr, points))) for c in piece]
    newer = sorted(c for c in assigned if unicodedata.category(chr(c)) == "Cn")
    report.note("tokenizers", tokenizers.__version__)
    report.equals("code points fuzzed over", len(points), 0x110000 - 0x800)
    report.equals("code points left out because Unicode versions differ", ranges([]) or "none", "none")
    print(f"  {len(newer)} code points assigned in the package's Unicode version but not in {unicodedata.unidata_version}, "
          f"drawn too: {ranges(newer)}")
    return points, assigned


def fuzzed(count, rng, points, assigned):
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.35:
                parts.append(rng.choice(PIECES))
            elif kind < 0.7:
                start, end = rng.choice(BLOCKS)
                parts += [chr(rng.randrange(start, end)) for _ in range(rng.randint(1, 6))]
            elif kind < 0.85:
                parts += [chr(rng.choice(assigned)) for _ in range(rng.randint(1, 3))]
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


def gpt2_lists(folder):
    """Tokens by id, and merges."""
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    return sorted(vocab, key=vocab.get), [m for m in (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:] if m]


def gpt2_json(folder, path):
    tokens, merges = gpt2_lists(folder)
    vocab = {token: i for i, token in enumerate(tokens)}
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


def qwen2_json(gguf, path):
    """Qwen2's vocabulary as `tokenizers` saves it, put together without the product; the number of its entries."""
    from gguf import GGUFReader

    fields = GGUFReader(str(gguf)).fields
    tokens, types = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": types[i] == 3} for i, token in enumerate(tokens) if types[i] in (3, 4)]
    outside = {token["id"] for token in added}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": tokenizer_references.PATTERNS["qwen"]}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "post_processor": level, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens) if i not in outside},
                  "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"].contents()]}},
        indent=2, ensure_ascii=False), encoding="utf-8")
    return len(tokens)


def child_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ours(program, verb, model, source, target, *flags):
    """Runs the verb on a file; (rows, seconds of processor time)."""
    began = child_seconds()
    program.must("tokenizer", verb, model, "--input", source, "--output", target, *flags)
    return read_rows(target), child_seconds() - began


def start_up(report, program, name, model, entries, folder):
    """Seconds of processor time that one row takes; of these, loading is held to its bound."""
    source, target = folder / "rows.jsonl", folder / "out.jsonl"
    write_rows(source, [{"text": "a"}])
    row, bare = [], []
    for _ in range(3):
        row.append(ours(program, "encode", model, source, target)[1])
        began = child_seconds()
        program.must("--version")
        bare.append(child_seconds() - began)
    report.at_most(f"{name}, loading, processor seconds for {entries} entries", min(row) - min(bare),
                   LOADING_SECONDS * max(1, entries / 150_000))
    return min(row)


def theirs(reference, texts):
    """Ids and offsets by the package, one text at a time."""
    return [{"ids": e.ids, "offsets": e.offsets} for e in map(reference.encode, texts)]


def fastest(encode, source, target):
    """The speed job by one of the package's ways: (seconds of it all, seconds of encoding)."""
    began = time.process_time()
    with open(source, encoding="utf-8") as rows:
        texts = [json.loads(line)["text"] for line in rows]
    start = time.process_time()
    encoded = encode(texts)
    encoding = time.process_time() - start
    with open(target, "w", encoding="utf-8") as out:
        for ids in encoded:
            out.write(json.dumps({"ids": ids}) + "\n")
    return time.process_time() - began, encoding


class Comparison:
    """One tokenizer, both ways."""

    def __init__(self, report, program, name, model, reference, folder):
        self.report, self.program, self.name, self.model, self.folder = report, program, name, model, folder
        self.reference = reference
        self.source, self.target = folder / "rows.jsonl", folder / "out.jsonl"
        self.start_up = start_up(report, program, name, model, reference.size, folder)

    def texts(self, kind, texts):
        write_rows(self.source, [{"text": text} for text in texts])
        rows, _ = ours(self.program, "encode", self.model, self.source, self.target)
        expected = theirs(self.reference, texts)
        ids, offsets, placed, first = 0, 0, 0, ""
        for text, row, wanted in zip(texts, rows, expected, strict=True):
            wrong_ids = row["ids"] != wanted["ids"]
            wrong_offsets = wanted["offsets"] is not None and [tuple(o) for o in row["offsets"]] != wanted["offsets"]
            ids, offsets, placed = ids + wrong_ids, offsets + wrong_offsets, placed + (wanted["offsets"] is not None)
            if (wrong_ids or wrong_offsets) and not first:
                first = f"{text[:60]!r}: {row} but {wanted}"
        size = sum(len(text.encode()) for text in texts) / 1e6
        title = f"{self.name}, {kind} ({len(texts)} texts, {size:.2f} MB)"
        self.report.equals(f"{title}, texts with other ids", ids, 0)
        self.report.equals(f"{title}, of {placed} that the package gives offsets of with other offsets", offsets, 0)
        if first:
            print("  " + first[:1000])
        write_rows(self.source, [{"ids": row["ids"]} for row in expected])
        decoded, _ = ours(self.program, "decode", self.model, self.source, self.target, "--json")
        wanted = [self.reference.decode(row["ids"], skip_special_tokens=False) for row in expected]
        other = sum(row["text"] != text for row, text in zip(decoded, wanted, strict=True))
        self.report.equals(f"{title}, decoded otherwise", other, 0)
        # A vocabulary without some bytes and without an unknown token (SmolLM2's) loses them, in the package too.
        lost = sum(a != b for a, b in zip(wanted, texts, strict=True))
        changed = sum(row["text"] != text for row, text in zip(decoded, texts, strict=True))
        self.report.equals(f"{title}, texts that do not come back, as with the package", changed, lost)

    def speed(self, kind, texts, rounds=3):
        """Best of a few rounds, taken in turn."""
        write_rows(self.source, [{"text": text} for text in texts])
        size, program, packages = sum(len(text.encode()) for text in texts) / 1e6, [], {}
        for _ in range(rounds):
            _, seconds = ours(self.program, "encode", self.model, self.source, self.target, "--no-offsets")
            program.append(seconds - self.start_up)
            for way, encode in self.reference.fastest.items():
                packages.setdefault(way, []).append(fastest(encode, self.source, self.folder / "theirs.jsonl"))
        program = min(program)
        way, (job, inside) = min(((way, tuple(map(min, zip(*times)))) for way, times in packages.items()),
                                 key=lambda item: item[1])
        self.report.note(f"{self.name}, {kind}, MB/s of rows to ids: program, package ({way}), package without JSON",
                         f"{size / program:.2f}, {size / job:.2f}, {size / inside:.2f}")
        self.report.holds(f"{self.name}, {kind}, speed over package, same job", job / program >= 1, f"{job / program:.2f}",
                          ">= 1")
        self.report.holds(f"{self.name}, {kind}, speed of whole job over package's encoding alone", inside / program >= 1,
                          f"{inside / program:.2f}", ">= 1")

    def runs(self):
        """Ten megabytes of one character within five seconds."""
        for character in ["a", " ", "1", "中", "\U0001f600"]:
            write_rows(self.source, [{"text": character * (10_000_000 // len(character.encode()))}])
            _, seconds = ours(self.program, "encode", self.model, self.source, self.target)
            self.report.holds(f"{self.name}, 10 MB of {ascii(character)}, processor seconds", seconds <= 5, f"{seconds:.2f}",
                              "<= 5")


def vectors(report, program, vocabularies, folder):
    """The texts and ids that llama.cpp publishes beside its vocabularies."""
    for inputs in sorted(vocabularies.glob("*.gguf.inp")):
        model = inputs.with_suffix("")
        texts = inputs.read_bytes().decode().split("\n__ggml_vocab_test__\n")
        wanted = [[int(i) for i in line.split()] for line in model.with_suffix(".gguf.out").read_text().split("\n")]
        source, target = folder / "vectors.jsonl", folder / "ids.jsonl"
        write_rows(source, [{"text": text} for text in texts])
        program.must("tokenizer", "encode", model, "--input", source, "--output", target, "--no-special-tokens")
        other = sum(row["ids"] != ids for row, ids in zip(read_rows(target), wanted))
        report.equals(f"{model.stem}, of {len(texts)} texts of llama.cpp with other ids", other, 0)


def limits(report, program, file, texts, folder):
    """Truncation and padding as the file says."""
    reference, source, target = tokenizers.Tokenizer.from_file(str(file)), folder / "rows.jsonl", folder / "out.jsonl"
    write_rows(source, [{"text": text} for text in texts])
    program.must("tokenizer", "encode", file, "--input", source, "--output", target, "--limited")
    other = sum(row["ids"] != reference.encode(text).ids for row, text in zip(read_rows(target), texts))
    report.equals(f"MiniLM, truncated and padded, of {len(texts)} texts with other ids", other, 0)


def converted(report, folder, file, texts):
    """The tokenizer.json that `needletail convert` wrote for the GGUF file, read by both packages."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    wanted = [encoding.ids for encoding in tokenizers.Tokenizer.from_file(str(file)).encode_batch(texts)]
    written = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)
    report.equals("SmolLM2 converted, read by tokenizers, texts with other ids",
                  sum(a != b.ids for a, b in zip(wanted, written, strict=True)), 0)
    loaded = AutoTokenizer.from_pretrained(str(folder))(texts)["input_ids"]
    report.equals("SmolLM2 converted, read by transformers, texts with other ids",
                  sum(a != b for a, b in zip(wanted, loaded, strict=True)), 0)


def main():
    options = parser(__doc__)
    options.add_argument("--gguf", type=pathlib.Path, required=True, help="the SmolLM2 model")
    options.add_argument("--gpt2", type=pathlib.Path, required=True, help="folder with encoder.json and vocab.bpe")
    options.add_argument("--texts", type=pathlib.Path, nargs="+", required=True, help="plain text files")
    options.add_argument("--others", type=pathlib.Path, help="the folder tokenizers/ that scripts/fetch-assets fills")
    options.add_argument("--translations", type=pathlib.Path, help="the folder that scripts/fetch-assets fills")
    options.add_argument("--kinds", nargs="+", help="only the tokenizers whose names contain one of these")
    parts = ["texts", "speed", "runs", "llama"]
    options.add_argument("--parts", nargs="+", choices=parts, default=parts,
                         help="what to do; speed, and the bounds of start-up, need a quiet machine")
    options.add_argument("--converted", type=pathlib.Path, help="the folder that `needletail convert` made of the GGUF")
    options.add_argument("--fuzz", type=int, default=100_000)
    options = options.parse_args()
    rng, report, program = random.Random(options.seed), Report(), Program(options.needletail)
    points, assigned = code_points(report)
    book = "".join(path.read_text(encoding="utf-8", errors="replace") for path in options.texts).replace("\0", "")
    prose = cut(book, rng)
    sets = [("prose", prose), ("one text", [book]), ("mixed scripts", cut(mixed_script(1_000_000, rng), rng)),
            ("fuzz", list(fuzzed(options.fuzz, rng, points, assigned)))]
    if options.translations:
        files = sorted(options.translations.iterdir())
        sets.append(("a hundred languages", cut("".join(file.read_text(encoding="utf-8") for file in files), rng)))
    with Workspace(options) as folder:
        gpt2, smollm2 = folder / "gpt2.json", folder / "smollm2.json"
        gpt2_json(options.gpt2, gpt2)
        smollm2_json(options.gguf, smollm2)
        kinds = [(name, model, tokenizer_references.Package(file))
                 for name, model, file in [("SmolLM2", options.gguf, smollm2), ("GPT-2", gpt2, gpt2)]]
        if options.others:
            kinds += tokenizer_references.others(options.others)
            vectors(report, program, options.others / "ggml", folder)
            limits(report, program, options.others / "minilm/tokenizer.json", prose[:300] + sets[3][1][:2000], folder)
            qwen2 = folder / "qwen2.json"
            entries = qwen2_json(options.others / "ggml/ggml-vocab-qwen2.gguf", qwen2)
            start_up(report, program, "Qwen2 (indented, pairs of merges)", qwen2, entries, folder)
        if options.others and "llama" in options.parts:
            import llama_vocabularies  # compiled by scripts/bootstrap --llama-cpp

            llama_vocabularies.compare_all(report, program, folder, options.others, gpt2_lists(options.gpt2), fuzzed, PIECES,
                                           prose, rng)
        for name, model, reference in kinds:
            if options.kinds and not any(part in name for part in options.kinds):
                continue
            comparison = Comparison(report, program, name, model, reference, folder)
            for kind, texts in sets if "texts" in options.parts else []:
                comparison.texts(kind, tokenizer_references.allowed(reference, texts))
            for kind, texts in sets[::4] if "speed" in options.parts else []:  # prose and, where given, languages
                comparison.speed(kind, texts)
            if "runs" in options.parts:
                comparison.runs()
        if options.converted:
            converted(report, options.converted, smollm2, prose + sets[3][1])
    report.exit()


if __name__ == "__main__":
    main()
