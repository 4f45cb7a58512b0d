"""Runs all oracles against the built program and writes `verify/results/<date>.md`; `make verify` calls this.

    .deps/oracle/bin/python verify/run.py [--gguf MODEL.gguf] [--demo runs/demo] [--only score ...]

Exits non-zero when any item failed, any oracle ended badly, or one that `--only` names could not run; the file is written
in any case. What is left out is said in one line, on the screen and in the file, with what it needs.
"""

import datetime
import os
import pathlib
import platform
import re
import subprocess
import sys
import time
from importlib import metadata

from common import REPOSITORY, parser

HERE = pathlib.Path(__file__).resolve().parent
LINE = re.compile(r"^(?P<name>.+?): (?P<value>.*) \(limit ?(?P<limit>.*)\) (?P<verdict>ok|FAIL)$")
PACKAGES = ["torch", "transformers", "peft", "tokenizers", "sentencepiece", "tiktoken", "jinja2", "safetensors", "gguf",
            "numpy", "pyarrow", "mergekit", "bitsandbytes", "llama-cpp-python"]


def commands(arguments):
    """Oracle -> its own arguments, and oracle -> what it would need, for those that cannot run."""
    seed = ["--seed", arguments.seed]
    gguf = ["--gguf", arguments.gguf] if arguments.gguf else []
    gguf_model = ["--model", arguments.gguf] if arguments.gguf else []
    demo = ["--run", arguments.demo]
    tokenizers = ["--tokenizers", arguments.tokenizers] if arguments.tokenizers else []
    others = ["--others", arguments.tokenizers] if arguments.tokenizers else []
    others += ["--translations", arguments.translations] if arguments.translations else []
    texts = ["--gpt2", arguments.gpt2, "--texts", *(arguments.texts or [])]
    entries = {
        "training self-check": ["training.py", "--self-check"],
        "score": ["score.py", *gguf, "--other-gguf", *(arguments.other_gguf or [])],
        "training": ["training.py"],
        "adapters": ["adapters.py"],
        "kill": ["kill.py", *seed],
        "merges": ["merging.py", *seed],
        "merge kill": ["merge_kill.py", *seed],
        "bad input": ["bad_input.py"],
        "options": ["options.py"],
        "token cache": ["token_cache.py", *gguf, "--texts", *(arguments.texts or []), *seed],
        "columns": ["columns.py", *seed],
        "JSON suite": ["json_suite.py", "--suite", arguments.json_suite],
        "mixtures of experts": ["moe_assembly.py", *seed],
        "LoRA extraction": ["lora_extraction.py", *seed],
        "union tokenizers": ["union_tokenizer.py"],
        "gradients": ["gradients.py", *seed],
        "kinship": ["kinship.py"],
        "program": ["program.py"],
        "hub": ["hub.py", *seed],
        "fuzzing": ["fuzz.py"],
        "embed": ["embed.py", "--minilm", arguments.minilm],
        "quantised bases": ["quantization.py", *gguf],
        "quantization-aware training": ["qat.py", *gguf, "--rows", arguments.rows],
        "export": ["export.py", *gguf, "--texts", *(arguments.texts or []), *tokenizers, *seed],
        "optimizers": ["optimizers.py", "--texts", *(arguments.texts or [])],
        "tokenization": ["tokenization.py", *gguf, *texts, *others, *seed],
        "chat templates": ["templates.py", "--templates", arguments.templates],
        "training, real model": ["training.py", "--model", arguments.real_model, "--methods", "full", "lora"],
        "demo": ["demo.py", *demo],
        "demo beside peft": ["bench_demo.py", *demo],
        "chat rows beside peft": ["bench_demo.py", *gguf_model, "--rows", arguments.rows],
        "merge speed": ["merge_speed.py", *seed],
    }
    named = arguments.only or []
    no_demo = not arguments.demo and "a finished demo: make demo"
    needs = {
        "quantised bases": not arguments.gguf and "--gguf",
        "quantization-aware training": not (arguments.gguf and arguments.rows) and "--gguf and --rows",
        "export": not (arguments.gguf and arguments.texts) and "--gguf and --texts",
        "token cache": not (arguments.gguf and arguments.texts) and "--gguf and --texts",
        "tokenization": not (arguments.gguf and arguments.gpt2 and arguments.texts) and "--gguf, --gpt2 and --texts",
        "embed": not arguments.minilm and "--minilm",
        "JSON suite": not arguments.json_suite and "--json-suite",
        "optimizers": not arguments.texts and "--texts",
        "chat templates": not arguments.templates and "--templates",
        "training, real model": not arguments.real_model and "--real-model FOLDER",
        "demo": no_demo,
        "demo beside peft": no_demo,
        "chat rows beside peft": "chat rows beside peft" not in named and "a quiet machine, so --only or make bench",
        "merge speed": "merge speed" not in named and "minutes and gigabytes, so --only or make bench",
    }
    if unknown := sorted(set(named) - set(entries)):
        sys.exit(f"run.py: no oracle {', '.join(unknown)}; there are: {', '.join(entries)}")
    wanted = {name: command for name, command in entries.items() if not named or name in named}
    left_out = {name: needs[name] for name in wanted if needs.get(name)}
    # A part of an oracle that runs without it.
    parts = {"score": ("score of Gemma 3 270M", not arguments.other_gguf and
                       "--other-gguf, after scripts/fetch-assets gemma-1 gemma-2 gemma-3 gemma-4 under Google's Gemma terms")}
    lacking = dict(part for name, part in parts.items() if name in wanted and part[1])
    return {name: command for name, command in wanted.items() if name not in left_out}, {**left_out, **lacking}


def run(name, command, needletail):
    """(result lines, seconds, exit code); the lines are shown as they come."""
    print(f"== {name}", flush=True)
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(HERE / command[0]), "--needletail", needletail, *map(str, command[1:])],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines, tail = [], []
    for line in process.stdout:
        found = LINE.match(line.rstrip("\n"))
        lines += [found.groupdict()] if found else []
        tail = (tail + [line.rstrip("\n")])[-12:]
        print(line, end="", flush=True)
    code = process.wait()
    if code != 0 and not any(item["verdict"] == "FAIL" for item in lines):
        text = " / ".join(tail)[-400:]
        lines.append({"name": name, "value": f"ended with {code}: {text}", "limit": "= 0", "verdict": "FAIL"})
    return lines, time.monotonic() - began, code


def output_of(*command):
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    return result.stdout.strip() if result.returncode == 0 else "unknown"


def version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # llama-cpp-python, before scripts/bootstrap --llama-cpp
        return "absent"


def environment(needletail):
    """Versions, machine and commit, as lines of the report."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())
    changed = " (with uncommitted changes)" if output_of("git", "status", "--porcelain") else ""
    return [
        f"- commit {output_of('git', 'rev-parse', '--short=12', 'HEAD')}{changed}",
        f"- program {output_of(needletail, '--version')}",
        f"- machine {cpu[1] if cpu else platform.machine()}, {len(os.sched_getaffinity(0))} processors, "
        f"{int(memory[1]) / 2**20:.0f} GiB, {platform.system()} {platform.release()}",
        f"- Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in PACKAGES),
    ]


def cell(text):
    """Table cell: no bars, and no names of this machine's folders."""
    text = re.sub(r"(/[\w.+-]+){2,}/([\w.+-]+)", r"…/\2", text)
    return text.replace("|", "\\|").replace("\n", " ") or "(empty)"


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--gguf", help="the real model, for score")
    arguments.add_argument("--other-gguf", nargs="*", help="more real models, for score")
    arguments.add_argument("--gpt2", help="folder with GPT-2's encoder.json and vocab.bpe, for tokenization")
    arguments.add_argument("--texts", nargs="+", help="plain text files of 5 MB or more together, for tokenization and optimizers")
    arguments.add_argument("--tokenizers", help="folder of more tokenizers and llama.cpp's vocabularies, for tokenization")
    arguments.add_argument("--translations", help="folder of texts in many languages, for tokenization")
    arguments.add_argument("--templates", help="folder of *.jinja files, for chat templates")
    arguments.add_argument("--json-suite", help="folder of nst/JSONTestSuite's files, for JSON suite")
    arguments.add_argument("--real-model", help="a Hugging Face folder; also compares training on it (slow)")
    arguments.add_argument("--minilm", help="a folder with all-MiniLM-L6-v2, for embed")
    arguments.add_argument("--rows", help="alpaca_en_demo.json, for chat rows beside peft")
    arguments.add_argument("--demo", help="the demo's run folder, for demo and demo beside peft")
    arguments.add_argument("--only", nargs="+", help="names of oracles as in the report")
    arguments.add_argument("--results", default=str(HERE / "results"), help="folder of the report")
    arguments = arguments.parse_args()
    sections, failed, total = [], 0, 0
    chosen, left_out = commands(arguments)
    missing = "; ".join(f"{name} (needs {need})" for name, need in left_out.items()) or "nothing"
    print(f"left out: {missing}", flush=True)
    for name, command in chosen.items():
        lines, seconds, code = run(name, command, arguments.needletail)
        bad = sum(line["verdict"] == "FAIL" for line in lines)
        failed, total = failed + bad, total + len(lines)
        sections.append([f"## {name}", "", f"{len(lines)} items, {bad} failed, {seconds:.0f} s, exit code {code}", "",
                         "| item | value | limit | |", "| --- | --- | --- | --- |"] + [
            f"| {cell(item['name'])} | {cell(item['value'])} | {cell(item['limit'])} | {item['verdict']} |"
            for item in lines] + [""])
    today = datetime.date.today().isoformat()
    head = [f"# Verification, {today}", "", *environment(arguments.needletail), f"- left out: {missing}",
            f"- {total} items, {failed} failed", ""]
    folder = pathlib.Path(arguments.results)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{today}.md"
    path.write_text("\n".join(head + [line for section in sections for line in section]))
    print(f"{path.name}: {total} items, {failed} failed")
    sys.exit(1 if failed or set(arguments.only or []) & set(left_out) else 0)


if __name__ == "__main__":
    main()
