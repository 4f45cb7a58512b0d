"""Tokens kept for the next run: what is in the file, how soon a second run has it, damage, kills, places that cannot be written.

    .deps/oracle/bin/python verify/token_cache.py --gguf MODEL.gguf --texts PLAY.txt ... [--only contents reuse ...]

The rows are chats of one line of text and the one after it, 100,000 and more. The file is read here by its documented
layout (`Sources/Datasets/TokenCacheFile.swift`, `TokenChunk.swift`); ids and marks are transformers' of the converted
model. Runs that train do so on a tiny model.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import time

import numpy
import transformers

import models
from common import Program, Report, Workspace, one_line, override, parser, read_rows, wait_until, write_config, write_rows
from training import make_data

MAGIC, HEADER, FOOTER = b"NDLTOKEN", 16, 56
KEPT, FOUND, NOT_KEPT = "tokens kept in the cache: ", "tokens from the cache: ", "tokens are not kept: "


class Tokens:
    """A cache file by its documented layout, every checksum compared."""

    def __init__(self, path):
        data = path.read_bytes()
        assert data[:8] == MAGIC and data[-8:] == MAGIC and struct.unpack("<II", data[8:16]) == (3, 0)
        offset, length = struct.unpack("<QQ", data[-FOOTER : -FOOTER + 16])
        text = data[offset : offset + length]
        assert offset + length + FOOTER == len(data) and hashlib.sha256(text).digest() == data[-FOOTER + 16 : -8]
        self.description, at, self.rows = json.loads(text), HEADER, []
        for size, digest in self.description["blocks"]:
            block = data[at : at + size]
            assert hashlib.sha256(block).hexdigest() == digest
            self._read(block)
            at += size
        assert at == offset

    def _read(self, block):
        rows, tokens, notes, _ = struct.unpack("<IIII", block[:16])
        at = 16 + 20 * rows
        records = numpy.frombuffer(block[16:at], "<u4").reshape(rows, 5)
        ids = numpy.frombuffer(block[at : at + 4 * tokens], "<i4")
        marks = numpy.frombuffer(block[at + 4 * tokens : at + 5 * tokens], "u1")
        assert not any(block[at + 5 * tokens + notes :])
        start = 0
        for end, trained, cut, file, number in records.tolist():
            self.rows.append((ids[start:end].tolist(), marks[start:end].tolist(), trained, cut, file, number))
            start = end
        assert start == tokens


class Place:
    """The program with a cache of its own, and the rows."""

    def __init__(self, program, work, arguments):
        self.program, self.work, self.random = program, work, random.Random(arguments.seed)
        self.gguf = arguments.gguf
        lines = [line.strip() for path in arguments.texts for line in open(path, encoding="utf-8", errors="replace")]
        lines = [line for line in lines if line]
        self.chats = [[{"role": "user", "content": f"What comes after: {line}"}, {"role": "assistant", "content": after}]
                      for line, after in zip(lines, lines[1:])][:120_000]
        self.rows = work / "rows.jsonl"
        write_rows(self.rows, [{"messages": chat} for chat in self.chats])
        self.text = work / "lines.txt"
        self.text.write_text("\n".join(lines) + "\n")

    def cache(self, name):
        """Chooses and empties a cache; its folder of tokens."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        self.program.environment["NEEDLETAIL_CACHE"] = str(self.work / name)
        return self.work / name / "tokens"

    def fill(self, *settings, rows=None, **options):
        """Tokenizes; the finished process and its wall seconds."""
        began = time.monotonic()
        result = self.program.run("data", "cache", "fill", "sft-lora", f"model.path={self.gguf}",
                                  f"data.train={rows or self.rows}", *settings, **options)
        return result, time.monotonic() - began


def only_file(folder):
    files = sorted(p for p in folder.iterdir())
    return files[0] if len(files) == 1 and files[0].suffix == ".tokens" else None


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- contents ---------------------------------------------------------------------------------------------------------

def check_contents(report, place):
    """The file by its layout, and 500 of its rows by transformers."""
    folder = place.cache("contents")
    result, _ = place.fill("data.validation_fraction=0", "data.max_length=64")
    report.equals("filled: exit code", result.returncode, 0)
    tokens = Tokens(only_file(folder))
    report.equals("rows in the file", len(tokens.rows), len(place.chats))
    report.equals("rows of the description", tokens.description["rows"], len(place.chats))
    report.equals("tokens of the description", tokens.description["tokens"], sum(len(row[0]) for row in tokens.rows))
    report.equals("trained tokens of the description", tokens.description["trained_tokens"],
                  sum(sum(row[1]) for row in tokens.rows))
    report.identical("records", next((f"row {i}" for i, (ids, marks, trained, _, file, number) in enumerate(tokens.rows)
                                      if len(ids) != len(marks) or sum(marks) != trained or file or number != i + 1), ""))
    place.program.must("convert", place.gguf, place.work / "model", "--dtype", "fp32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place.work / "model")
    wrong, cut = [], 0
    for index in place.random.sample(range(len(place.chats)), 500):
        ids, marks = expected(tokenizer, place.chats[index])
        cut += len(ids) > 64
        if tokens.rows[index][:2] != (ids[:64], marks[:64]) or tokens.rows[index][3] != max(0, len(ids) - 64):
            wrong.append(index + 1)
    report.identical(f"ids, marks and lengths of 500 rows ({cut} of them cut) as of transformers",
                     f"lines {wrong[:5]}" if wrong else "")
    report.holds("some of them are cut", cut > 0)


def expected(tokenizer, chat):
    """transformers' ids of a chat, and marks on the answer with its end token."""
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    start = text.rindex("<|im_start|>assistant\n") + len("<|im_start|>assistant\n")
    end = text.index("<|im_end|>", start) + len("<|im_end|>")
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoding["input_ids"], [int(start <= a and b <= end) for a, b in encoding["offset_mapping"]]


# -- reuse ------------------------------------------------------------------------------------------------------------

def check_reuse(report, place):
    """A second run is soon there and has the same bytes; threads, names and splits change nothing."""
    files = {}
    for threads in (1, 2):
        folder = place.cache(f"reuse-{threads}")
        result, seconds = place.fill(f"threads={threads}")
        report.holds(f"first run, {threads} threads: kept", result.stdout.startswith(KEPT), result.stdout)
        report.note(f"first run, {threads} threads: seconds for {len(place.chats):,} rows", f"{seconds:.2f}")
        files[threads] = sha256(only_file(folder))
    report.equals("file of two threads", files[2], files[1])
    file = only_file(folder)
    before, seconds, outputs = file.stat(), [], set()
    for _ in range(3):
        again, took = place.fill("threads=2")
        seconds.append(took)
        outputs.add(again.stdout.replace(FOUND, KEPT))
    report.equals("later runs print the same", outputs, {result.stdout})
    report.holds("later runs take the tokens", again.stdout.startswith(FOUND), again.stdout)
    report.at_most(f"later run, whole program, seconds for {before.st_size / 1e6:.0f} MB of tokens (best of 3)",
                   min(seconds), 1)
    report.equals("the file is as it was", (file.stat().st_mtime_ns, sha256(file)), (before.st_mtime_ns, files[2]))
    (moved := place.work / "moved").mkdir()
    shutil.copy(place.rows, moved / "other name.jsonl")
    for name, settings in {"a copy under another name": (), "another seed": ("data.seed=9",),
                           "another split": ("data.validation_fraction=0.2",), "fewer rows": ("data.limit=100",)}.items():
        rows = moved / "other name.jsonl" if "name" in name else None
        result, _ = place.fill(*settings, rows=rows)
        report.holds(f"{name}: takes the same tokens", result.stdout.startswith(FOUND), result.stdout)
    for name in ("data.max_length=99", "data.train_on=all", "data.template=zephyr", "data.add_tokens=[xyzzy] adapter.save_embeddings=true",
                 "data.truncation=left", "data.deduplicate=true", "data.bad_rows=drop"):
        result, _ = place.fill(*name.split())
        report.holds(f"{name}: makes tokens of its own", result.stdout.startswith(KEPT), result.stdout)
    listed = place.program.must("data", "cache", "ls").stdout
    report.equals("listed files", len(listed.splitlines()), 8)
    cleared = place.program.must("data", "cache", "clear").stdout
    report.holds("cleared", cleared.startswith("8 files, ") and not list(folder.iterdir()), cleared)


def check_speed(report, place):
    """Rates of the specification (toolkits 2.3), and ten times those."""
    place.cache("speed")
    for name, rows, rate, more in (("chat", place.rows, 400, ()), ("short text", place.text, 1130, ("--text-unit", "line"))):
        result = place.program.must("bench", "data", "--model", place.gguf, rows, *more, "--json", "--threads", 2)
        bench = json.loads(result.stdout)
        each = bench["rows"] / (bench["parts"]["render"] + bench["parts"]["tokenize"])
        report.holds(f"{name} rows a second on one core", each >= 10 * rate, f"{each:,.0f}", f">= {10 * rate}")
        report.note(f"{name} rows a second from the files to tokens, two threads", f"{bench['rows_per_second']:,.0f}")
        report.at_most(f"{name}: cache read, seconds", bench["parts"]["cache_read"], 1)
        steps = sorted(bench["step_seconds"])
        report.at_most(f"{name}: a step waits for its micro-batches, median ms", 1000 * steps[len(steps) // 2], 1)


# -- damage -----------------------------------------------------------------------------------------------------------

def small(place):
    """A smaller set of rows, so that the many runs below take a second each."""
    rows = place.work / "small.jsonl"
    if not rows.exists():
        write_rows(rows, [{"messages": chat} for chat in place.chats[:3000]])
    return rows


def check_damage(report, place):
    rows, folder = small(place), place.cache("damage")
    whole, _ = place.fill(rows=rows)
    file = only_file(folder)
    data = file.read_bytes()
    description = struct.unpack("<Q", data[-FOOTER : -FOOTER + 8])[0]
    regions = {"header": range(HEADER), "blocks": range(HEADER, description), "end": range(len(data) - FOOTER, len(data)),
               "description": range(description, len(data) - FOOTER)}
    damages = [(f"a flipped bit in the {name}", place.random.choice(region)) for name, region in regions.items()
               for _ in range(6)]
    damages += [(f"cut to {length} bytes", length) for length in (0, 20, len(data) // 2, len(data) - 1)]
    for name, where in damages:
        changed = bytearray(data)
        if name.startswith("cut"):
            changed = changed[:where]
        else:
            changed[where] ^= 1 << place.random.randrange(8)
        file.write_bytes(changed)
        result, _ = place.fill(rows=rows)
        lines = result.stdout.splitlines()
        named = lines[0].startswith(f"{file}: ") and lines[0].endswith("; its rows are encoded anew")
        good = result.returncode == 0 and named and lines[1:] == whole.stdout.splitlines() and file.read_bytes() == data
        report.holds(f"{name}, named in one line and made anew", good, lines[0].split(": ", 1)[-1])
    (folder / "0123.tokens").write_bytes(data[:-9])
    listed = place.program.must("data", "cache", "ls").stdout
    report.holds("ls names the damaged file", "0123.tokens" in listed and "damaged at its end" in listed, listed)


# -- kills ------------------------------------------------------------------------------------------------------------

def check_kills(report, place):
    rows, folder = small(place), place.cache("kills")
    rows = place.rows  # long enough that kills fall into the writing
    _, seconds = place.fill(rows=rows)
    good = sha256(only_file(folder))
    shutil.rmtree(folder)
    problems, left, kills, finished = [], 0, 0, 0
    while kills < 30 and not problems:
        process = place.program.start("data", "cache", "fill", "sft-lora", f"model.path={place.gguf}",
                                      f"data.train={rows}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(place.random.uniform(0, 1.1 * seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        names = list(folder.iterdir()) if folder.exists() else []
        left += any(p.name.startswith(".partial-") for p in names)
        for path in (p for p in names if p.suffix == ".tokens"):
            if sha256(path) != good:
                problems.append(f"{path.name} is half")
            finished += 1
            path.unlink()
        for path in names:  # as if a while had passed
            if path.exists():
                os.utime(path, (time.time() - 100,) * 2)
    report.identical(f"{kills} kills: no half file has the name of a whole one", "; ".join(problems))
    report.note("kills that left an unfinished file, and runs that ended before", f"{left}, {finished}")
    report.holds("kills while the file was written", left >= 5, left, ">= 5")
    result, _ = place.fill(rows=rows)
    report.holds("the next run: unfinished files gone, tokens whole",
                 result.returncode == 0 and only_file(folder) is not None and sha256(only_file(folder)) == good,
                 [p.name for p in folder.iterdir()])
    shutil.rmtree(folder)
    process = place.program.start("data", "cache", "fill", "sft-lora", f"model.path={place.gguf}", f"data.train={rows}")
    wait_until(lambda: folder.exists() and any(folder.iterdir()), 60, 0.002)
    process.send_signal(signal.SIGINT)
    process.communicate()
    report.equals("interrupted: exit code, files left", (process.returncode, list(folder.iterdir())), (130, []))


def check_several(report, place):
    """Several programs at a time in one cache."""
    rows, folder = small(place), place.cache("several")
    alone, _ = place.fill(rows=rows)
    shutil.rmtree(folder)
    command = ["data", "cache", "fill", "sft-lora", f"model.path={place.gguf}", f"data.train={rows}"]
    for _ in range(4):
        outcomes = [p.communicate() + (p.returncode,) for p in [place.program.start(*command) for _ in range(6)]]
        same = {(out.replace(FOUND, KEPT), err, code) for out, err, code in outcomes} == {(alone.stdout, "", 0)}
        report.holds("six programs at a time: all the same, one file", same and only_file(folder) is not None, outcomes[0])
        shutil.rmtree(folder)


# -- places that cannot be written ------------------------------------------------------------------------------------

def check_places(report, place):
    rows = small(place)
    place.cache("places")
    expected = place.fill(rows=rows)[0].stdout.splitlines()[1:]
    for name, options in {"read-only": "size=50m,ro", "full": "size=200k"}.items():
        folder = place.cache(name)
        folder.parent.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder.parent)]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            report.note(f"{name} folder", "left out: this user may not mount one")
            continue
        try:
            result, _ = place.fill(rows=rows)
            lines = result.stdout.splitlines()
            left = [p.name for p in folder.parent.rglob("*") if p.is_file()]
        finally:
            subprocess.run(["umount", "-l", str(folder.parent)], capture_output=True)
        good = result.returncode == 0 and lines[0].startswith(NOT_KEPT) and lines[1:] == expected and not left
        report.holds(f"{name} folder: said once, the rows all the same, nothing left", good, f"{lines[0]} {left}")
    place.cache("places")
    environment = {**place.program.environment}
    for name in ("NEEDLETAIL_CACHE", "XDG_CACHE_HOME", "HOME"):
        environment.pop(name, None)
    result, _ = place.fill(rows=rows, env=environment)
    lines = result.stdout.splitlines()
    report.holds("no folder at all: said once, the rows all the same", result.returncode == 0
                 and lines[0].startswith(NOT_KEPT) and lines[1:] == expected, lines[:1])


# -- runs -------------------------------------------------------------------------------------------------------------

def check_runs(report, place):
    """Training with tokens made, taken, damaged or not kept ends with the same bytes, also after a kill."""
    base, work = models.write_tiny(place.work, "llama_gqa"), place.work
    make_data(work / "train.jsonl", 80, 6)
    write_config(work / "run.yaml", recipe="sft", model=str(base), train_files=[str(work / "train.jsonl")],
                 validation_rows=8, max_length=256, seed=5, steps=60, rows_per_step=4, save_every=10, threads=1,
                 dtype="fp32", learning_rate=1e-3, record_batches=True, output="runs/x")
    folder = place.cache("runs")

    def run(name, *settings):
        output = work / name
        result = place.program.run("train", work / "run.yaml", override("output", output), *settings)
        if result.returncode != 0:
            return one_line(result.stderr[-300:]), result.stderr
        metrics = [[row.get("train/loss"), row.get("eval/loss")] for row in read_rows(output / "metrics.jsonl")]
        return (sha256(output / "adapter/adapter_model.safetensors"), sha256(output / "batches.jsonl"), metrics), result.stderr

    plain, _ = run("plain", "data.cache=false")
    report.holds("data.cache=false keeps nothing", not folder.exists())
    made, messages = run("made")
    report.holds("kept, and said so", KEPT in messages and only_file(folder) is not None, messages[:200])
    taken, messages = run("taken")
    report.holds("taken, and said so", FOUND in messages, messages[:300])
    report.holds("weights, batches and losses: without, made, taken", plain == made == taken, plain if isinstance(plain, str) else "")
    for name, change in {"the tokens taken": lambda: None, "the tokens damaged": lambda: damage(folder),
                         "the cache gone": lambda: shutil.rmtree(folder), "data.cache=false": lambda: None}.items():
        output = work / f"killed {name}"
        process = place.program.start("train", work / "run.yaml", override("output", output), stderr=subprocess.DEVNULL)
        wait_until(lambda: (output / "checkpoints/step-20").exists() or process.poll() is not None, 60, 0.002)
        process.kill()
        process.wait()
        change()
        resumed, messages = run(output.name, *(["data.cache=false"] if "=" in name else []))
        report.holds(f"killed and resumed, {name}: the same end", resumed == plain and "going on from step" in messages,
                     resumed if isinstance(resumed, str) else "")


def damage(folder):
    file = only_file(folder)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def main():
    arguments = parser(__doc__)
    parts = {"contents": check_contents, "reuse": check_reuse, "speed": check_speed, "damage": check_damage,
             "kills": check_kills, "several": check_several, "places": check_places, "runs": check_runs}
    arguments.add_argument("--gguf", required=True, help="the real model, for its tokenizer")
    arguments.add_argument("--texts", nargs="+", required=True, help="plain text files with 100,000 lines together")
    arguments.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail)
    with Workspace(arguments) as work:
        place = Place(program, work, arguments)
        report.holds("rows are 100,000 or more", len(place.chats) >= 100_000, f"{len(place.chats):,}")
        for name in arguments.only:
            parts[name](report, place)
    report.exit()


if __name__ == "__main__":
    main()
