"""Bad input (what must be shown, item 8): the right exit code, one line that begins `error: `, nothing half-written.

    .deps/oracle/bin/python verify/bad_input.py [--only rows models config writing]

Every group begins with a control that is not broken and must succeed, so that a refusal is not for another reason. The
messages are the values of the report, which so is the catalogue of malformed files; no two of them may be alike.
Exit codes: 64 usage and config, 65 data and models, 73 cannot write; where a missing thing may be either, both pass.
"""

import base64
import bz2
import ctypes
import gzip
import io
import json
import lzma
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import tarfile
import time
import zipfile
import zlib

import numpy
import pyarrow
import pyarrow.parquet
import safetensors.numpy
import safetensors.torch
import torch
import yaml

import models
from common import REPOSITORY, Program, Report, Workspace, measure, one_line, override, parser, wait_until, write_config, write_rows
from training import make_data

USAGE, DATA, EITHER, CANNOT_WRITE = (64,), (65,), (64, 65), (73,)


# Cases that are one to the program.
ONE_CAUSE = [
    {"weights, index names an absent shard", "weights, a shard missing"},
    {"data file, empty file", "data file, only blank lines"},
    {"data file, zip archive", "data file, zip archive named as rows"},
    {"data file, tar archive", "data file, tar archive, gzip"},
    {"GGUF, no architecture", "GGUF, architecture is a number"},
]


class Cases:
    """Runs commands that must be refused."""

    def __init__(self, report, program, work):
        self.report, self.program, self.work = report, program, work
        self.messages = {}  # kind of file and message -> names of cases
        self.base = models.write_tiny(work, "llama_gqa")
        self.sharded = models.write_tiny(work, "llama_sharded")
        self.rows = work / "good.jsonl"
        make_data(self.rows, 12, 2)
        self.texts = work / "texts.jsonl"
        write_rows(self.texts, [{"text": "The quiet river."}])
        # Conversions are cached; here, so that half-written ones are seen and none is left behind.
        self.cache = work / "cache"
        program.environment.update(
            {name: str(self.cache) for name in ("XDG_CACHE_HOME", "HF_HOME", "NEEDLETAIL_CACHE")})

    def refused(self, name, arguments, codes, output, mentions=(), several=False, **options):
        """`output` must not exist afterwards; `mentions` are words the message must hold."""
        before = listing(self.cache)
        result = self.program.run(*arguments, timeout=60, **options)
        self.judge(name, result, codes, mentions, several)
        left = [str(output)] if os.path.lexists(output) else []
        left += sorted(listing(self.cache) - before)
        self.report.identical(f"{name}: nothing written", ", ".join(left))
        remove(output)

    def judge(self, name, result, codes, mentions=(), several=False):
        lines = result.stderr.splitlines()
        enough = len(lines) >= 1 if several else len(lines) == 1
        good = result.returncode in codes and enough and all(line.startswith("error: ") for line in lines)
        missing = [word for word in mentions if word not in result.stderr]
        message = " / ".join(line.removeprefix("error: ") for line in lines)
        # Within a kind of file, whatever the file is called.
        plain = re.sub(r"[^\s:]*/[^\s:]+", "FILE", message)
        self.messages.setdefault((name.split(",")[0], plain), []).append(name)
        value = message.replace(f"{self.work}/", "")
        if not good or missing:
            value = f"exit {result.returncode}, {len(lines)} line(s), not named: {missing}: {value or '(none)'}"
        limit = f"exit {' or '.join(map(str, codes))}, {'error lines' if several else 'one error line'}"
        self.report.holds(name, good and not missing, value, limit, width=500)

    def accepted(self, name, arguments, output, **options):
        result = self.program.run(*arguments, timeout=120, **options)
        self.report.holds(f"control, {name}", result.returncode == 0 and os.path.exists(output),
                          f"exit {result.returncode}: {one_line(result.stderr[-200:])}", "exit 0")
        remove(output)

    def scoring(self, model, rows=None):
        """Arguments and output of `score`."""
        output = self.work / "scores.jsonl"
        return ["score", model, "--input", rows or self.texts, "--output", output, "--dtype", "fp32"], output

    def training(self, data, *overrides, **settings):
        """Arguments and output of a short training on the given file."""
        output, config = self.work / "run", self.work / "config.yaml"
        chosen = dict(recipe="sft", model=str(self.base), dtype="fp32", train_files=[str(data)], output=str(output),
                      validation_rows=0, steps=2, rows_per_step=2, max_length=128, **settings)
        write_config(config, **chosen)
        return ["train", config, *overrides], output


def listing(folder):
    return {str(p) for p in pathlib.Path(folder).rglob("*") if p.is_file()}


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


# -- rows -------------------------------------------------------------------------------------------------------------

GOOD = b'{"messages":[{"role":"user","content":"2+3?"},{"role":"assistant","content":"5"}]}\n'
# Malformed second rows of a chat file.
BAD_CHAT_ROWS = {
    "not JSON": b"hello\n",
    "truncated JSON": b'{"messages":[{"role":"user","content":"2+\n',
    "two values on a line": GOOD.strip() + b" {}\n",
    "array instead of an object": b'["user","hi"]\n',
    "invalid UTF-8": b'{"messages":[{"role":"user","content":"\xff\xfe"},{"role":"assistant","content":"5"}]}\n',
    "unpaired surrogate": b'{"messages":[{"role":"user","content":"\\ud800"},{"role":"assistant","content":"5"}]}\n',
    "no key of the schema": b'{"chat":[{"role":"user","content":"hi"}]}\n',
    "messages is a string": b'{"messages":"hi"}\n',
    "messages is null": b'{"messages":null}\n',
    "messages is empty": b'{"messages":[]}\n',
    "message is a string": b'{"messages":["hi"]}\n',
    "message without role": b'{"messages":[{"content":"hi"},{"role":"assistant","content":"5"}]}\n',
    "message without content": b'{"messages":[{"role":"user"},{"role":"assistant","content":"5"}]}\n',
    "content is a number": b'{"messages":[{"role":"user","content":7},{"role":"assistant","content":"5"}]}\n',
    "unknown role": b'{"messages":[{"role":"robot","content":"hi"},{"role":"assistant","content":"5"}]}\n',
    "raw control character": b'{"messages":[{"role":"user","content":"a\x01b"},{"role":"assistant","content":"5"}]}\n',
    "nested 100,000 deep": b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "number that is none": b'{"messages":[{"role":"user","content":"hi","weight":NaN},'
                           b'{"role":"assistant","content":"5"}]}\n',
}


def zip_of(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# Whole files: name, content, words the message must hold.
BAD_FILES = {
    "empty file": ("empty.jsonl", b"", ["empty.jsonl"]),
    "only blank lines": ("blank.jsonl", b"\n\n\n", ["blank.jsonl"]),
    "prompt without completion": ("p.jsonl", b'{"prompt":"a"}\n', ["p.jsonl"]),
    "completion is a list": ("q.jsonl", b'{"prompt":"a","completion":["b"]}\n', ["q.jsonl", "1"]),
    "text is null": ("t.jsonl", b'{"text":"a good row"}\n{"text":null}\n', ["t.jsonl", "2"]),
    "JSON array cut short": ("a.json", b"[" + GOOD.strip() + b",", ["a.json"]),
    "JSON that is no array": ("b.json", b'"hello"', ["b.json"]),
    "CSV with a row too long": ("c.csv", b"prompt,completion\na,b\na,b,c\n", ["c.csv", "3"]),
    "CSV with an open quote": ("d.csv", b'prompt,completion\na,"b\nc,d\n', ["d.csv"]),
    "CSV with carriage returns alone": ("u.csv", b"prompt,completion\ra,b\r", ["u.csv", "carriage return"]),
    "CSV with Latin-1": ("v.csv", b"prompt,completion\na,b\ncaf\xe9,b\n", ["v.csv line 3", "column 1", "UTF-8"]),
    "JSON array with a } too many": ("w.json", b"[" + GOOD.strip() + b"}," + GOOD.strip() + b"]", ["w.json row 1", "}"]),
    "JSON array with brackets crossed": ("x.json", b'[{"messages":[},' + GOOD.strip() + b"]", ["x.json row 1", "] should be"]),
    "one object over several lines": ("y.json", b'{\n  "messages": []\n}\n', ["y.json line 1", "several lines"]),
    "rows inside an object": ("z.json", b'{"rows":[' + GOOD.strip() + b"]}", ["z.json", "rows"]),
    "CSV with no known column": ("e.csv", b"x,y\n1,2\n", ["e.csv"]),
    "CSV with a column twice": ("f.csv", b"prompt,prompt,completion\na,b,c\n", ["f.csv", "prompt"]),
    "UTF-16 text": ("g.jsonl", "\ufeff".encode("utf-16-le") + GOOD.decode().encode("utf-16-le"), ["g.jsonl"]),
    "unknown ending, no text": ("h.xyz", b"\x7fELF\2\1\1\0" + bytes(200), ["h.xyz", "NUL"]),
    "gzip cut short": ("j.jsonl.gz", gzip.compress(GOOD)[:-9], ["j.jsonl.gz", "gzip", "too early"]),
    "gzip with a byte changed": ("k.jsonl.gz", gzip.compress(GOOD)[:20] + b"\xff\xff" + gzip.compress(GOOD)[22:], ["k.jsonl.gz", "gzip"]),
    "gzip of gzip": ("l.jsonl.gz", gzip.compress(gzip.compress(GOOD)), ["l.jsonl.gz", "twice"]),
    "zstd cut short": ("m.jsonl.zst", pyarrow.compress(GOOD, "zstd", asbytes=True)[:-9], ["m.jsonl.zst", "zstd"]),
    "zip archive": ("n.zip", zip_of("a.jsonl", GOOD), ["n.zip", "unzip"]),
    "tar archive": ("o.tar", tar_of("a.jsonl", GOOD), ["o.tar", "tar -xf"]),
    "tar archive, gzip": ("p.tar.gz", gzip.compress(tar_of("a.jsonl", GOOD)), ["p.tar.gz", "tar -xf"]),
    "bzip2": ("q.jsonl.bz2", bz2.compress(GOOD), ["q.jsonl.bz2", "bunzip2"]),
    "xz": ("r.jsonl.xz", lzma.compress(GOOD), ["r.jsonl.xz", "unxz"]),
    "7-Zip archive": ("s.7z", b"7z\xbc\xaf\x27\x1c\0\4" + bytes(24), ["s.7z", "7z x"]),
    "zip archive named as rows": ("t.jsonl", zip_of("a.jsonl", GOOD), ["t.jsonl", "unzip"]),
    "no trained token in any row": ("i.jsonl", b'{"messages":[{"role":"user","content":"hi"}]}\n', []),
}
# Rows that are not imitated: the kind, and the row after a good one.
BAD_TASK_ROWS = {
    "no question before two answers": ("preference", {"chosen": "a", "rejected": "b"}),
    "two answers that are equal": ("preference", {"prompt": "q", "chosen": "a", "rejected": "a"}),
    "an answer without the assistant": ("preference", {"prompt": "q", "chosen": [{"role": "user", "content": "a"}], "rejected": "b"}),
    "label that is neither": ("unpaired", {"prompt": "q", "completion": "a", "label": "maybe"}),
    "truth without a question": ("rlvr", {"ground_truth": "1", "dataset": "gsm8k"}),
    "one truth for two verifiers": ("rlvr", {"prompt": "q", "ground_truth": ["1"], "dataset": ["a", "b"]}),
    "truth that is a number": ("rlvr", {"prompt": "q", "ground_truth": [1], "dataset": ["a"]}),
    "question that is answered": ("rlvr", {"messages": models.conversation(1), "ground_truth": "1", "dataset": "a"}),
    "score that is no number": ("scored", {"completion": "a", "score": "high"}),
    "label that is a list": ("classification", {"text": "a", "target": [1]}),
    "more tokens than tags": ("tagging", {"tokens": ["a", "b"], "tags": ["O"]}),
    "tag that is an object": ("tagging", {"tokens": ["a"], "tags": [{}]}),
    "answer that is not in the context": ("question_answering", {
        "context": "It is red.", "question": "q", "answers": {"text": ["red"], "answer_start": [5]}}),
    "answers of another form": ("question_answering", {"context": "It is red.", "question": "q", "answers": "red"}),
    "second sentence that is empty": ("sentence_pairs", {"sentence1": "a", "sentence2": " "}),
    "target and nothing else": ("tabular", {"target": 1}),
    "column of lists": ("tabular", {"age": [1], "target": 1}),
}
# Bytes of Parquet and Arrow files from those of a good one.
BAD_COLUMNS = {
    "Parquet cut short": ("a.parquet", lambda parquet, _: parquet[: len(parquet) // 2]),
    "Parquet, a footer longer than the file": ("b.parquet", lambda parquet, _: parquet[:-8] + struct.pack("<I", 1 << 30) + b"PAR1"),
    "Parquet, a footer of other bytes": (
        "c.parquet", lambda parquet, _: parquet[: -8 - 40] + b"\xff" * 40 + parquet[-8:]),
    "Parquet, other bytes in a page": ("d.parquet", lambda parquet, _: parquet[:4] + b"\xff" * 60 + parquet[64:]),
    "Parquet by its name only": ("e.parquet", lambda *_: b"text"),
    "Arrow cut short": ("f.arrow", lambda _, arrow: arrow[: len(arrow) // 2]),
    "Arrow, a stream cut short": ("g.arrow", lambda _, arrow: b"\xff\xff\xff\xff" + struct.pack("<I", 1 << 20) + arrow[16:200]),
    "Arrow by its name only": ("h.arrow", lambda *_: b"text"),
}
BAD_SCORE_ROWS = {
    "no known key": {"words": "hi"},
    "ids out of the vocabulary": {"input_ids": [1, 2, 1_000_000]},
    "negative id": {"input_ids": [1, -2, 3]},
    "fractional id": {"input_ids": [1, 2.5, 3]},
    "no ids": {"input_ids": []},
    "longer than the context": {"input_ids": [7] * 300},
    "text longer than the context": {"text": "river " * 2000},
    "prompt without completion": {"prompt": "hi"},
}


def check_rows(cases):
    arguments, output = cases.training(cases.rows)
    cases.accepted("training on good rows", arguments, output)
    for name, row in BAD_CHAT_ROWS.items():
        file = cases.work / "chat.jsonl"
        file.write_bytes(GOOD + row + GOOD)
        arguments, output = cases.training(file)
        cases.refused(f"row, {name}", arguments, DATA, output, ["chat.jsonl", "2"])
    for name, (file, content, mentions) in BAD_FILES.items():
        (cases.work / file).write_bytes(content)
        arguments, output = cases.training(cases.work / file)
        cases.refused(f"data file, {name}", arguments, DATA, output, mentions)
    arguments, output = cases.training(cases.work / "absent.jsonl")
    cases.refused("data file, absent", arguments, EITHER, output, ["absent.jsonl"])
    check_bombs(cases)
    check_columns(cases)
    check_task_rows(cases)
    arguments, output = cases.scoring(cases.base)
    cases.accepted("scoring a good row", arguments, output)
    for name, row in BAD_SCORE_ROWS.items():
        file = cases.work / "score.jsonl"
        write_rows(file, [{"text": "A good row."}, row])
        arguments, output = cases.scoring(cases.base, file)
        cases.refused(f"row to score, {name}", arguments, DATA, output, ["score.jsonl", "2"])


def converting(cases, path, *flags):
    """Arguments and output of `data convert`."""
    output = cases.work / "converted.jsonl"
    return ["data", "convert", path, output, *flags], output


def check_columns(cases):
    table = pyarrow.table({"text": [f"a good row, the {i}th" for i in range(300)]})
    pyarrow.parquet.write_table(table, cases.work / "good.parquet")
    with pyarrow.OSFile(str(cases.work / "good.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    good = [cases.work / name for name in ("good.parquet", "good.arrow")]
    for path in good:
        cases.accepted(f"converting {path.name}", *converting(cases, path))
    for name, (file, damage) in BAD_COLUMNS.items():
        (cases.work / file).write_bytes(damage(*(path.read_bytes() for path in good)))
        arguments, output = converting(cases, cases.work / file)
        cases.refused(f"data file, {name}", arguments, DATA, output, [file])


def check_task_rows(cases):
    for name, (kind, row) in BAD_TASK_ROWS.items():
        write_rows(cases.work / "task.jsonl", [row])
        arguments, output = converting(cases, cases.work / "task.jsonl", "--kind", kind)
        cases.refused(f"row of kind {kind}, {name}", arguments, DATA, output, ["task.jsonl", "1"])


def packed(kind, pieces):
    """All pieces, packed one behind the other without ever being together in memory."""
    if kind == "zst":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            for piece in pieces:
                stream.write(piece)
        return sink.getvalue().to_pybytes()
    sink, packer = io.BytesIO(), zlib.compressobj(9, wbits=31)
    for piece in pieces:
        sink.write(packer.compress(piece))
    sink.write(packer.flush())
    return sink.getvalue()


def check_bombs(cases):
    """A gigabyte from a megabyte: refused in one line, with memory bounded by 64 MiB + 4 x the file."""
    million = 1 << 20
    bombs = {
        "zeros in gzip": ("zeros.jsonl.gz", [bytes(million)] * 1024, "64 MiB"),
        "zeros in zstd": ("zeros.jsonl.zst", [bytes(million)] * 1024, "64 MiB"),
        "one field of CSV": ("field.csv.gz", [b"prompt,completion\n", *[b"x" * million] * 1024], "64 MiB"),
        "empty rows": ("rows.jsonl.gz", [b'{"text":"a"}\n', *[b"{}\n" * (million // 3)] * 1024], "line 2"),
        "white space in an array": ("array.json.gz", [b"[", *[b" " * million] * 1024], "array"),
    }
    for name, (file, pieces, mention) in bombs.items():
        path, log = cases.work / file, cases.work / "bomb.log"
        path.write_bytes(packed(file.split(".")[-1], pieces))
        command = [cases.program.path, "data", "convert", str(path), str(cases.work / "out.jsonl")]
        code, _, seconds, peak = measure(command, {**cases.program.environment, "TMPDIR": str(cases.work)}, log)
        lines = log.read_text().splitlines()
        good = code == 65 and len(lines) == 1 and lines[0].startswith("error: ") and mention in lines[0]
        cases.report.holds(f"packed bomb, {name}", good, f"exit {code}: {' / '.join(lines)}", "exit 65, one error line")
        limit = 64 * million + 4 * path.stat().st_size
        cases.report.at_most(f"packed bomb, {name}: memory, MiB, after {seconds:.1f} s", peak / million, limit / million)
        path.unlink()


# -- models -----------------------------------------------------------------------------------------------------------

def raw_safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


TWO = b"\0" * 16
BAD_SAFETENSORS = {
    "empty": b"",
    "five bytes": b"\1\0\0\0\0",
    "header longer than the file": raw_safetensors({"a": entry()}, TWO, 1 << 20),
    "header of 2^63 bytes": raw_safetensors({"a": entry()}, TWO, 1 << 63),
    "header not an object": raw_safetensors(b"[1, 2]", TWO),
    "header not JSON": raw_safetensors(b'{"a": ', TWO),
    "header not UTF-8": raw_safetensors(b'{"\xff": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', TWO[:8]),
    "name twice": raw_safetensors(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        TWO),
    "unknown dtype": raw_safetensors({"a": entry("F31")}, TWO[:8]),
    "no dtype": raw_safetensors({"a": {"shape": [2], "data_offsets": [0, 8]}}, TWO[:8]),
    "no offsets": raw_safetensors({"a": {"dtype": "F32", "shape": [2]}}, TWO[:8]),
    "negative size": raw_safetensors({"a": entry(shape=(-2,))}, TWO[:8]),
    "sizes whose product overflows": raw_safetensors({"a": entry(shape=(1 << 62, 1 << 62))}, TWO[:8]),
    "offsets not of the shape": raw_safetensors({"a": entry(offsets=(0, 4))}, TWO[:4]),
    "offsets reversed": raw_safetensors({"a": entry(offsets=(8, 0))}, TWO[:8]),
    "offsets past the end": raw_safetensors({"a": entry(offsets=(0, 8))}, TWO[:4]),
    "overlapping tensors": raw_safetensors({"a": entry(), "b": entry(offsets=(4, 12))}, TWO[:12]),
    "hole between tensors": raw_safetensors({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20),
    "bytes after the tensors": raw_safetensors({"a": entry()}, TWO),
    "metadata that is no text": raw_safetensors({"__metadata__": {"a": 7}, "a": entry()}, TWO[:8]),
}


def copy_model(cases, source=None):
    folder = cases.work / "broken"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source or cases.base, folder)
    return folder


def check_models(cases):
    for name, content in BAD_SAFETENSORS.items():
        folder = copy_model(cases)
        (folder / "model.safetensors").write_bytes(content)
        refuse_model(cases, f"safetensors, {name}", folder, mentions=["model.safetensors"])
    check_weights(cases)
    check_config_json(cases)
    check_tokenizers(cases)
    check_tokenizer_files(cases)
    check_folders(cases)
    check_code(cases)
    check_gguf(cases)


def refuse_model(cases, name, model, codes=DATA, mentions=()):
    arguments, output = cases.scoring(model)
    cases.refused(name, arguments, codes, output, mentions)


def check_weights(cases):
    """Well-formed files that do not fit the model."""
    changes = {
        "a tensor missing": ("model.layers.1.mlp.up_proj.weight", None),
        "a tensor of another shape": ("model.norm.weight", torch.ones(63)),
        "a tensor too many": ("model.layers.7.surprise", torch.ones(3)),
        "an integer weight": ("model.norm.weight", torch.ones(64, dtype=torch.int64)),
    }
    for name, (tensor, value) in changes.items():
        folder = copy_model(cases)
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        tensors[tensor] = value
        tensors = {key: value for key, value in tensors.items() if value is not None}
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        refuse_model(cases, f"weights, {name}", folder, mentions=[tensor])
    index_changes = {
        "index not JSON": lambda text: text[:-20],
        "index without weight_map": lambda text: json.dumps({"metadata": {}}),
        "index names an absent shard": lambda text: text.replace("model-00002", "model-00099"),
        "index names a file outside": lambda text: text.replace("model-00002", "../llama_sharded/model-00002"),
        "index names a tensor its shard lacks": lambda text: text.replace("2.mlp.up_proj", "2.mlp.up_prok"),
    }
    for name, change in index_changes.items():
        folder = copy_model(cases, cases.sharded)
        index = folder / "model.safetensors.index.json"
        index.write_text(change(index.read_text()))
        refuse_model(cases, f"weights, {name}", folder)
    folder = copy_model(cases, cases.sharded)
    (folder / "model-00003-of-00005.safetensors").unlink()
    refuse_model(cases, "weights, a shard missing", folder, mentions=["model-00003-of-00005.safetensors"])


def check_config_json(cases):
    changes = {
        "unknown model type": ({"model_type": "perceptron", "architectures": ["Perceptron"]}, "perceptron"),
        "no hidden_size": ({"hidden_size": None}, "hidden_size"),
        "hidden_size is text": ({"hidden_size": "64"}, "hidden_size"),
        "negative number of layers": ({"num_hidden_layers": -1}, "num_hidden_layers"),
        "an absurd number of layers": ({"num_hidden_layers": 1_000_000_000}, ""),
        "heads that do not divide": ({"num_key_value_heads": 3}, "num_key_value_heads"),
        "unknown activation": ({"hidden_act": "blink"}, "hidden_act"),
        "unknown rope type": ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "spiral"),
        "llama3 rope without factor": ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, ""),
        "another vocabulary size": ({"vocab_size": 99}, ""),
    }
    for name, (change, mention) in changes.items():
        folder = copy_model(cases)
        config = {**json.loads((folder / "config.json").read_text()), **change}
        config = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))
        refuse_model(cases, f"config.json, {name}", folder, mentions=[mention] if mention else [])
    for name, content in {"not JSON": "{", "an array": "[]", "empty": ""}.items():
        folder = copy_model(cases)
        (folder / "config.json").write_text(content)
        refuse_model(cases, f"config.json, {name}", folder, mentions=["config.json"])


def check_tokenizers(cases):
    def change(path, value):
        def apply(tokenizer):
            *parents, leaf = path
            node = tokenizer
            for parent in parents:
                node = node[parent]
            node[leaf] = value
        return apply

    changes = {
        "model kind unknown": change(["model", "type"], "Oracle"),
        "merge of absent tokens": change(["model", "merges"], [["never", "there"]]),
        "merge with three parts": change(["model", "merges"], [["a", "b", "c"]]),
        "negative id": change(["model", "vocab", "a"], -4),
        "vocabulary is a list": change(["model", "vocab"], ["a", "b"]),
        "unknown pre-tokenizer": change(["pre_tokenizer"], {"type": "Scissors"}),
        "pattern that is no regular expression": change(
            ["pre_tokenizer"], {"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": False}),
        "added token without content": change(["added_tokens"], [{"id": 3, "special": True}]),
    }
    for name, apply in changes.items():
        folder = copy_model(cases)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        apply(tokenizer)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        refuse_model(cases, f"tokenizer.json, {name}", folder, mentions=["tokenizer.json"])
    folder = copy_model(cases)
    (folder / "tokenizer.json").write_text('{"version":')
    refuse_model(cases, "tokenizer.json, not JSON", folder, mentions=["tokenizer.json"])
    folder = copy_model(cases)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    refuse_model(cases, "a model without a tokenizer", folder, EITHER, ["tokenizer"])
    folder = copy_model(cases)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}")
    write_rows(cases.work / "chats.jsonl", [{"messages": models.conversation(1)}])
    arguments, output = cases.scoring(folder, cases.work / "chats.jsonl")
    cases.refused("chat template, not closed", arguments, DATA, output, ["chat"])


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number, content):
    """A field of a protobuf message: bytes, or a whole number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def piece(text, score=0.0, kind=1):
    return field(1, field(1, text) + b"\x15" + struct.pack("<f", score) + field(3, kind))


BAD_SENTENCEPIECE = {
    "empty": lambda good: b"",
    "text": lambda good: b"hello world\n",
    "cut short": lambda good: good[: len(good) // 2],
    "piece that is not UTF-8": lambda good: good + piece(b"\xff\xfe"),
    "piece of an unknown type": lambda good: good + piece(b"x", kind=99),
    "score that is no number": lambda good: good + piece(b"x", float("nan")),
    "no unknown piece": lambda good: piece(b"a") + piece(b"b"),
    "model of words": lambda good: good + field(2, field(3, 3)),
    "model of an unknown kind": lambda good: good + field(2, field(3, 9)),
    "bytes without a piece": lambda good: piece(b"<unk>", kind=2) + piece(b"a") + field(2, field(35, 1)),
}
RANKS = b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256))
BAD_RANKS = {
    "empty": b"",
    "token that is no base64": RANKS + b"!!!! 256\n",
    "rank that is no number": RANKS + b"YWI= many\n",
    "rank twice": RANKS + b"YWI= 7\n",
    "rank left out": RANKS + b"YWI= 300\n",
    "no known number of ranks": RANKS,
}
TEKKEN = {"config": {"pattern": "[a-z]+", "num_vocab_tokens": 256, "default_vocab_size": 258, "default_num_special_tokens": 2,
                     "version": "v3"},
          "special_tokens": [{"rank": i, "token_str": f"<{i}>", "is_control": True} for i in range(2)],
          "vocab": [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)]}
BAD_TEKKEN = {
    "not JSON": lambda t: None,
    "no pattern": lambda t: t["config"].pop("pattern"),
    "fewer tokens than it says": lambda t: t["vocab"].pop(),
    "token without a rank": lambda t: t["vocab"][3].pop("rank"),
    "rank twice": lambda t: t["vocab"][3].update(rank=2),
    "token that is no base64": lambda t: t["vocab"][3].update(token_bytes="!!"),
    "pattern that is none": lambda t: t["config"].update(pattern="(["),
    "special token without text": lambda t: t.update(special_tokens=[{"rank": 0, "is_control": True}]),
    "more special tokens than it says": lambda t: t.update(
        special_tokens=[{"rank": i, "token_str": f"<{i}>", "is_control": True} for i in range(3)]),
}


def check_tokenizer_files(cases):
    """Tokenizers in files of their own."""
    output = cases.work / "ids.jsonl"

    def encoding(path):
        return ["tokenizer", "encode", path, "--input", cases.texts, "--output", output]

    good = (REPOSITORY / "Tests/TokenizersTests/Fixtures/goldens/bpe.model").read_bytes()
    (path := cases.work / "tokenizer.model").write_bytes(good)
    cases.accepted("encoding with a SentencePiece model", encoding(path), output)
    for name, damage in BAD_SENTENCEPIECE.items():
        path.write_bytes(damage(good))
        cases.refused(f"SentencePiece, {name}", encoding(path), DATA, output, [path.name])
    path = cases.work / "some.tiktoken"
    for name, content in BAD_RANKS.items():
        path.write_bytes(content)
        cases.refused(f"rank file, {name}", encoding(path), DATA, output, [path.name])
    (path := cases.work / "tekken.json").write_text(json.dumps(TEKKEN))
    cases.accepted("encoding with a tekken file", encoding(path), output)
    for name, damage in BAD_TEKKEN.items():
        tree = json.loads(json.dumps(TEKKEN))
        damage(tree)
        path.write_text(json.dumps(tree)[: -9 if name == "not JSON" else None])
        cases.refused(f"tekken, {name}", encoding(path), DATA, output, [path.name])


def check_folders(cases):
    """Pickles, adapters and folders that are no model."""
    folder = copy_model(cases)
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refuse_model(cases, "pickle: pytorch_model.bin only", folder, DATA, ["pytorch_model.bin"])
    folder = copy_model(cases)
    torch.save({"a": torch.ones(2)}, folder / "model.safetensors")
    refuse_model(cases, "pickle: named model.safetensors", folder, DATA, ["model.safetensors"])
    pickle = cases.work / "weights.pt"
    torch.save({"a": torch.ones(2)}, pickle)
    refuse_model(cases, "pickle: a .pt file", pickle, EITHER, ["weights.pt"])
    pickle.rename(disguised := cases.work / "weights.gguf")
    refuse_model(cases, "pickle: named .gguf", disguised, DATA, ["weights.gguf"])

    refuse_model(cases, "no such folder", cases.work / "nowhere", EITHER, ["nowhere"])
    (empty := cases.work / "empty-folder").mkdir(exist_ok=True)
    refuse_model(cases, "an empty folder", empty, EITHER, ["empty-folder"])
    check_adapters(cases)


def check_adapters(cases):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(cases.base), "r": 2, "lora_alpha": 4,
               "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "bias": "none"}
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors = {f"{prefix}A.weight": numpy.ones((2, 64), "float32"), f"{prefix}B.weight": numpy.ones((64, 2), "float32"),
               f"{prefix}A.weight".replace("layers.0", "layers.1"): numpy.ones((2, 64), "float32"),
               f"{prefix}B.weight".replace("layers.0", "layers.1"): numpy.ones((64, 2), "float32")}
    folder = cases.work / "adapter"
    folder.mkdir(exist_ok=True)

    def write(config=adapter, values=tensors):
        (folder / "adapter_config.json").write_text(json.dumps(config))
        safetensors.numpy.save_file(values, folder / "adapter_model.safetensors")

    write()
    cases.accepted("scoring an adapter", *cases.scoring(folder))
    write({**adapter, "base_model_name_or_path": "no-such/base"})
    refuse_model(cases, "adapter, base not found", folder, EITHER, ["no-such/base", "--base"])
    write({**adapter, "base_model_name_or_path": None})
    refuse_model(cases, "adapter, no base named", folder, EITHER, ["--base"])
    write({**adapter, "peft_type": "VERA"})
    refuse_model(cases, "adapter, another method", folder, DATA, ["VERA"])
    write({**adapter, "r": 3})
    refuse_model(cases, "adapter, rank unlike the tensors", folder)
    write(values={key: value for key, value in tensors.items() if "layers.1" not in key or "lora_A" in key})
    refuse_model(cases, "adapter, B without A", folder, DATA, ["layers.1"])
    write(values={key.replace("layers.1", "layers.9"): value for key, value in tensors.items()})
    refuse_model(cases, "adapter, layer that the base lacks", folder, DATA, ["layers.9"])
    write()
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"a": torch.ones(2)}, folder / "adapter_model.bin")
    refuse_model(cases, "adapter, pickle only", folder, DATA, ["adapter_model.bin"])
    (folder / "adapter_model.bin").unlink()
    refuse_model(cases, "adapter, no weights", folder, EITHER, ["adapter_model.safetensors"])


# -- code -------------------------------------------------------------------------------------------------------------

class Watch:
    """Files that were opened in some folders while the block ran (inotify)."""

    OPENED = 0x20

    def __init__(self, *folders):
        self.libc, self.names, self.folders = ctypes.CDLL(None, use_errno=True), set(), folders

    def __enter__(self):
        self.descriptor = self.libc.inotify_init1(os.O_NONBLOCK)
        self.watched = {self.libc.inotify_add_watch(self.descriptor, str(f).encode(), self.OPENED): f for f in self.folders}
        assert self.descriptor >= 0 and -1 not in self.watched
        return self

    def __exit__(self, *_):
        try:
            while data := os.read(self.descriptor, 1 << 16):
                while data:
                    watch, _, _, length = struct.unpack_from("iIII", data)
                    name = data[16 : 16 + length].rstrip(b"\0").decode()
                    self.names.add(str(pathlib.Path(self.watched[watch]) / name))
                    data = data[16 + length :]
        except BlockingIOError:
            pass
        os.close(self.descriptor)


CODE = {
    "config.json": {
        "auto_map": {"AutoConfig": "configuration_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"},
        "model_file": "modeling_evil.py", "custom_code": "modeling_evil.py", "trust_remote_code": True, "_target_": "os.system",
        "_args_": ["touch canary"], "custom_pipelines": {"evil": {"impl": "modeling_evil.Pipe", "pt": ["AutoModel"]}}},
    "tokenizer_config.json": {
        "auto_map": {"AutoTokenizer": ["tokenization_evil.Slow", "tokenization_evil.Fast"]}, "trust_remote_code": True},
    "generation_config.json": {"custom_generate": "custom_generate", "trust_remote_code": True},
}
SCRIPTS = ["modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "__init__.py", "setup.py", "conftest.py",
           "sitecustomize.py", "custom_generate/generate.py", "handler.py", "adapter.py", "Makefile", "evil.so", ".env"]
TEMPLATES = {
    "include": "{% include 'OUTSIDE/secret' %}", "import": "{% import 'OUTSIDE/secret' as s %}{{ s.x }}",
    "from": "{% from 'OUTSIDE/secret' import x %}{{ x }}", "extends": "{% extends 'OUTSIDE/secret' %}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch OUTSIDE/canary').read() }}",
    "open": "{{ open('OUTSIDE/secret').read() }}", "self": "{{ self.__init__.__globals__ }}",
}


def check_code(cases):
    """A model folder with every known trigger: read as if they were not there, and told of."""
    folder, outside = copy_model(cases), cases.work / "outside"
    (outside / "package").mkdir(parents=True)
    for name in ("secret", "canary.py", "package/__init__.py"):
        (outside / name).write_text("open('canary', 'w')\n")
    for name, keys in CODE.items():
        path = folder / name
        old = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**old, **keys}))
    (folder / "custom_generate").mkdir()
    for name in SCRIPTS:
        (folder / name).write_text(f"import os; os.system('touch {outside}/canary')\n")
    (folder / "linked.py").symlink_to(outside / "canary.py")
    (folder / "package").symlink_to(outside / "package")
    expected, output = cases.scoring(cases.base)
    cases.program.must(*expected)
    wanted = output.read_text()
    remove(output)
    with Watch(folder, folder / "custom_generate", outside, outside / "package") as watch:
        arguments, _ = cases.scoring(folder)
        scored = cases.program.run(*arguments)
        encoded = cases.program.run("tokenizer", "encode", folder, "--input", cases.texts)
    opened = [name for name in watch.names if pathlib.Path(name).name in [pathlib.Path(s).name for s in SCRIPTS]
              or str(outside) in name or name.endswith(("linked.py", "package"))]
    cases.report.holds("folder with code: the weights are read", folder / "model.safetensors" in map(pathlib.Path, watch.names))
    cases.report.identical("folder with code: scripts and outside files opened", ", ".join(opened))
    cases.report.equals("folder with code: exit codes", (scored.returncode, encoded.returncode), (0, 0))
    cases.report.equals("folder with code: scores as without", output.exists() and output.read_text() == wanted, True)
    for verb, result in (("score", scored), ("tokenizer encode", encoded)):
        lines = [line for line in result.stderr.splitlines() if "auto_map" in line and "never run" in line]
        cases.report.holds(f"folder with code: {verb} tells of it", bool(lines), " / ".join(lines) or result.stderr)
    remove(output)
    write_rows(cases.work / "chats.jsonl", [{"messages": models.conversation(1)}])
    for name, template in TEMPLATES.items():
        (folder / "chat_template.jinja").write_text(template.replace("OUTSIDE", str(outside)))
        with Watch(outside) as watch:
            result = cases.program.run("tokenizer", "render", folder, "--input", cases.work / "chats.jsonl")
        shown = result.stdout + result.stderr
        inert = not watch.names and "open('canary'" not in shown and result.returncode in (0, 65)
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        cases.report.holds(f"template with {name}: inert", inert and len(errors) <= 1, f"exit {result.returncode}: {shown}")
    cases.report.identical("folder with code: nothing ran", ", ".join(p.name for p in outside.glob("canary") if p.is_file()))


# -- GGUF -------------------------------------------------------------------------------------------------------------

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def text_bytes(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def value_bytes(kind, value):
    if kind == STRING:
        return text_bytes(value)
    if kind == ARRAY:
        item_kind, items = value
        return struct.pack("<IQ", item_kind, len(items)) + b"".join(value_bytes(item_kind, item) for item in items)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<?", U64: "<Q"}[kind], value)


class GGUF:
    """A writer of GGUF files, whole or broken: every field of the format can be set wrong."""

    def __init__(self, model):
        self.magic, self.version, self.alignment = b"GGUF", 3, 32
        self.tensor_count = self.key_count = None
        self.keys, self.tensors = list(metadata(model)), list(weights(model))
        self.truncate_to = None
        self.offset_shift = 0

    def key(self, name, kind, value, raw=None):
        """Replaces or adds a key; `raw` stands for the value's bytes."""
        entry = (name, kind, value, raw)
        for i, old in enumerate(self.keys):
            if old[0] == name:
                self.keys[i] = entry
                return
        self.keys.append(entry)

    def bytes(self):
        keys = b"".join(
            text_bytes(name) + struct.pack("<I", kind) + (value_bytes(kind, value) if raw is None else raw)
            for name, kind, value, raw in self.keys)
        infos, data = b"", b""
        for name, shape, kind, content in self.tensors:
            data += b"\0" * (-len(data) % 32)
            infos += text_bytes(name) + struct.pack("<I", len(shape))
            infos += b"".join(struct.pack("<Q", size) for size in shape)
            infos += struct.pack("<IQ", kind, len(data) + self.offset_shift)
            data += content
        count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        key_count = len(self.keys) if self.key_count is None else self.key_count
        head = self.magic + struct.pack("<IQQ", self.version, count, key_count) + keys + infos
        return (head + b"\0" * (-len(head) % 32) + data)[: self.truncate_to]


def metadata(model):
    """The tiny Llama as llama.cpp spells it."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    config = json.loads((model / "config.json").read_text())
    ids = {**tokenizer["model"]["vocab"], **{t["content"]: t["id"] for t in tokenizer["added_tokens"]}}
    tokens = sorted(ids, key=ids.get)
    special = {t["content"] for t in tokenizer["added_tokens"] if t["special"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    for name, kind, value in [
        ("general.architecture", STRING, "llama"), ("general.name", STRING, "tiny"),
        ("llama.block_count", U32, 2), ("llama.context_length", U32, 256), ("llama.embedding_length", U32, 64),
        ("llama.feed_forward_length", U32, config["intermediate_size"]), ("llama.attention.head_count", U32, 4),
        ("llama.attention.head_count_kv", U32, 2), ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        ("llama.rope.freq_base", F32, 1e4), ("llama.rope.dimension_count", U32, 16),
        ("llama.vocab_size", U32, len(tokens)), ("general.file_type", U32, 0),
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (5, [3 if token in special else 1 for token in tokens])),
        ("tokenizer.ggml.merges", ARRAY, (STRING, merges)),
        ("tokenizer.ggml.bos_token_id", U32, 1), ("tokenizer.ggml.eos_token_id", U32, 5),
        ("tokenizer.chat_template", STRING, models.CHAT_TEMPLATE),
    ]:
        if name == "tokenizer.ggml.token_type":
            raw = struct.pack("<IQ", 5, len(tokens)) + struct.pack(f"<{len(tokens)}i", *value[1])
            yield name, kind, None, raw
        else:
            yield name, kind, value, None


def weights(model):
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, tensor in safetensors.numpy.load_file(model / "model.safetensors").items():
        stem = name.removesuffix(".weight")
        if stem not in outer:
            _, _, layer, part = stem.split(".", 3)
            stem, outer_name = part, f"blk.{layer}.{names[part]}"
        else:
            outer_name = outer[stem]
        yield f"{outer_name}.weight", list(reversed(tensor.shape)), 0, tensor.astype("float32").tobytes()


def change_tensor(index, **changes):
    """Changes name, shape, kind or content of one tensor."""
    def apply(file):
        fields = dict(zip(("name", "shape", "kind", "content"), file.tensors[index]))
        file.tensors[index] = tuple({**fields, **changes}.values())
    return apply


BAD_GGUF = {
    "other magic": lambda f: setattr(f, "magic", b"GGML"),
    "version 1": lambda f: setattr(f, "version", 1),
    "version 99": lambda f: setattr(f, "version", 99),
    "big-endian version": lambda f: setattr(f, "version", 3 << 24),
    "empty": lambda f: setattr(f, "truncate_to", 0),
    "cut in the header": lambda f: setattr(f, "truncate_to", 17),
    "cut in the keys": lambda f: setattr(f, "truncate_to", 300),
    "cut in the tensors": lambda f: setattr(f, "truncate_to", -1000),
    "2^62 tensors": lambda f: setattr(f, "tensor_count", 1 << 62),
    "2^62 keys": lambda f: setattr(f, "key_count", 1 << 62),
    "a key too many": lambda f: setattr(f, "key_count", len(f.keys) + 1),
    "text of 2^60 bytes": lambda f: f.key("general.name", STRING, None, struct.pack("<Q", 1 << 60) + b"x"),
    "array of 2^60 items": lambda f: f.key("x", ARRAY, None, struct.pack("<IQ", U32, 1 << 60)),
    "array whose byte count overflows": lambda f: f.key("x", ARRAY, None, struct.pack("<IQ", U64, (1 << 61) + 1)),
    "array of arrays": lambda f: f.key("x", ARRAY, None, struct.pack("<IQIQ", ARRAY, 1, U32, 0)),
    "unknown value type": lambda f: f.key("x", 77, None, b"\0" * 8),
    "bool that is 7": lambda f: f.key("x", BOOL, None, b"\7"),
    "text that is not UTF-8": lambda f: f.key("general.name", STRING, b"\xff\xfe"),
    "key twice": lambda f: f.keys.append(f.keys[2]),
    "alignment 0": lambda f: f.key("general.alignment", U32, 0),
    "alignment 7": lambda f: f.key("general.alignment", U32, 7),
    "no architecture": lambda f: f.keys.pop(0),
    "unknown architecture": lambda f: f.key("general.architecture", STRING, "perceptron"),
    "architecture is a number": lambda f: f.key("general.architecture", U32, 7),
    "no number of layers": lambda f: f.keys.pop(2),
    "tensor name twice": lambda f: f.tensors.append(f.tensors[1]),
    "tensor of nine dimensions": change_tensor(1, shape=[1] * 9),
    "tensor of no elements": change_tensor(1, shape=[0, 64]),
    "tensor whose size overflows": change_tensor(1, shape=[1 << 40, 1 << 40]),
    "unknown tensor type": change_tensor(1, kind=250),
    "quantised row not whole blocks": change_tensor(1, kind=12, shape=[63, 2]),
    "offset not aligned": lambda f: setattr(f, "offset_shift", 3),
    "offset past the end": lambda f: setattr(f, "offset_shift", 1 << 40),
    "tensor missing": lambda f: f.tensors.pop(4),
    "no tokens": lambda f: f.key("tokenizer.ggml.tokens", ARRAY, (STRING, [])),
    "merges of absent tokens": lambda f: f.key("tokenizer.ggml.merges", ARRAY, (STRING, ["never there"])),
    "end token out of range": lambda f: f.key("tokenizer.ggml.eos_token_id", U32, 1 << 30),
}


def check_gguf(cases):
    path = cases.work / "good.gguf"
    path.write_bytes(GGUF(cases.base).bytes())
    cases.accepted("scoring a GGUF file", *cases.scoring(path))
    for name, damage in BAD_GGUF.items():
        file = GGUF(cases.base)
        damage(file)
        path = cases.work / "broken.gguf"
        path.write_bytes(file.bytes())
        refuse_model(cases, f"GGUF, {name}", path, mentions=["broken.gguf"])


# -- config and command line ------------------------------------------------------------------------------------------

def check_config(cases):
    """Config files, overrides and flags; all problems at once, each on its own line."""
    def edited(change):
        arguments, output = cases.training(cases.rows)
        tree = yaml.safe_load(arguments[1].read_text())
        change(tree)
        arguments[1].write_text(yaml.safe_dump(tree, sort_keys=False))
        return arguments, output

    def setter(section, key, value):
        return lambda tree: tree.setdefault(section, {}).__setitem__(key, value)

    files = {
        "unknown key": (setter("optimizer", "lerning_rate", 1e-4),
                        ["optimizer.lerning_rate", "learning_rate?", "config.yaml"]),
        "unknown section": (setter("optimiser", "beta1", 0.9), ["optimiser", "optimizer"]),
        "text for a number": (setter("training", "steps", "many"), ["training.steps"]),
        "number out of range": (setter("optimizer", "beta1", 1.5), ["optimizer.beta1"]),
        "unknown choice": (setter("adapter", "method", "lorra"), ["adapter.method", "lora"]),
        "no model": (lambda tree: tree.pop("model"), ["model.path"]),
        "unknown recipe": (lambda tree: tree.update(recipe="stf"), ["stf", "sft"]),
    }
    for name, (change, mentions) in files.items():
        arguments, output = edited(change)
        cases.refused(f"config, {name}", arguments, USAGE, output, mentions, several=True)
    arguments, output = edited(lambda tree: tree.update(optimizer={"lerning_rate": 1, "beta1": 2}))
    cases.refused("config, two problems at once", arguments, USAGE, output,
                  ["optimizer.lerning_rate", "optimizer.beta1"], several=True)
    for name, text in {"not YAML": "a: [1, 2\nb: }", "a key twice": "recipe: sft\nrecipe: sft\n", "empty": ""}.items():
        arguments, output = cases.training(cases.rows)
        arguments[1].write_text(text)
        cases.refused(f"config, {name}", arguments, USAGE, output, ["config.yaml"], several=True)
    arguments, output = cases.training(cases.rows)
    cases.refused("override, unknown key", [*arguments, "training.stepz=3"], USAGE, output,
                  ["training.stepz", "steps"], several=True)
    cases.refused("override, no equals sign", [*arguments, "training.steps"], USAGE, output, ["training.steps"])
    arguments[1] = cases.work / "absent.yaml"
    cases.refused("config, absent", arguments, EITHER, output, ["absent.yaml"])
    cases.refused("unknown verb", ["trane", "x.yaml"], USAGE, output, ["train"])
    cases.refused("score without --input", ["score", cases.base, "--output", output], USAGE, output, ["--input"],
                  several=True)


# -- places that cannot be written ------------------------------------------------------------------------------------

def check_writing(cases):
    (file := cases.work / "a-file").write_text("")
    arguments, _ = cases.training(cases.rows)
    places = {"below a file": file / "run", "in /proc": pathlib.Path("/proc/needletail-run")}
    for name, place in places.items():
        cases.refused(f"run folder {name}", [*arguments, override("output", place)], CANNOT_WRITE, place)
        cases.refused(f"converted folder {name}", ["convert", cases.base, place], CANNOT_WRITE, place)
    scoring, _ = cases.scoring(cases.base)
    scoring[scoring.index("--output") + 1] = file / "scores.jsonl"
    cases.refused("scores below a file", scoring, CANNOT_WRITE, file / "scores.jsonl")
    check_existing_folder(cases)
    small_disk = SmallDisk(cases.work / "disk", 400_000)
    if small_disk.mounted:
        check_full_disk(cases, small_disk)
    else:
        check_file_size_limit(cases)
    check_interrupt(cases)


def check_existing_folder(cases):
    (folder := cases.work / "taken").mkdir()
    (folder / "precious.txt").write_text("mine")
    result = cases.program.run("convert", cases.base, folder)
    cases.judge("converting into a folder that exists", result, (64, 73), ["taken"])
    cases.report.equals("what was in that folder", sorted(p.name for p in folder.iterdir()), ["precious.txt"])


class SmallDisk:
    """A tmpfs of a few hundred kB, when this user may mount one."""

    def __init__(self, path, size):
        path.mkdir(exist_ok=True)
        self.path = path
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        self.mounted = subprocess.run(command, capture_output=True).returncode == 0

    def close(self):
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True)


def check_full_disk(cases, disk):
    """A verb ends at once; a run that has begun waits and goes on when there is space."""
    try:
        target = disk.path / "converted"
        converting = ["convert", cases.base, target, "--dtype", "fp32"]
        cases.refused("no space left, convert", converting, CANNOT_WRITE, target)
        cases.report.equals("no space left, files left behind", sorted(listing(disk.path)), [])
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk.path)], check=True)
        (filler := disk.path / "filler").write_bytes(b"\0" * 19_900_000)
        arguments, _ = cases.training(cases.rows, method="full", save_every=1)
        messages = cases.work / "waiting.err"
        with open(messages, "w") as file:
            run = cases.program.start(*arguments, override("output", disk.path / "run"), stdout=subprocess.DEVNULL,
                                      stderr=file)
        waits = wait_until(lambda: "space" in messages.read_text() or run.poll() is not None, 30)
        alive = run.poll() is None
        cases.report.holds("no space left, training: pauses with a message", waits and alive,
                           f"running {alive}: {messages.read_text()[-200:]}")
        filler.unlink()
        try:
            code = run.wait(90)
        except subprocess.TimeoutExpired:
            run.kill()
            code = run.wait()
        cases.report.equals("no space left, training: exit code when space is back", code, 0)
    finally:
        disk.close()


def check_file_size_limit(cases):
    """Where nothing can be mounted: no file may grow beyond 64 kB."""
    import resource

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    # Python ignores SIGXFSZ, and without restoring it so does the child: writes fail with EFBIG instead.
    target = cases.work / "converted"
    cases.refused("file size limit, convert", ["convert", cases.base, target, "--dtype", "fp32"], CANNOT_WRITE, target,
                  preexec_fn=limited, restore_signals=False)


def check_interrupt(cases):
    """Ctrl-C twice during a long verb."""
    rows = cases.work / "many.jsonl"
    write_rows(rows, [{"text": models.text(i, 6)} for i in range(20_000)])
    arguments, output = cases.scoring(cases.base, rows)
    process = cases.program.start(*arguments)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    began = time.monotonic()
    try:
        process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    cases.report.at_most("Ctrl-C twice while scoring: seconds to the end", time.monotonic() - began, 1)
    cases.report.equals("Ctrl-C twice while scoring: exit code", process.returncode, 130)
    cases.report.identical("Ctrl-C twice while scoring: nothing half-written",
                           f"{output} is there" if output.exists() else
                           ", ".join(p.name for p in cases.work.iterdir() if ".partial-" in p.name))


def main():
    arguments = parser(__doc__)
    parts = {"rows": check_rows, "models": check_models, "config": check_config, "writing": check_writing}
    arguments.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail)
    with Workspace(arguments) as work:
        cases = Cases(report, program, work)
        for name in arguments.only:
            parts[name](cases)
        alike = [names for names in cases.messages.values() if len(names) > 1 and set(names) not in ONE_CAUSE]
        report.holds("malformed files with a message that another one of their kind has", not alike,
                     "; ".join(" = ".join(names) for names in alike) or "none", "none", width=2000)
        report.note("messages in this catalogue", len(cases.messages))
    report.exit()


if __name__ == "__main__":
    main()
