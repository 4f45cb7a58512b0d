"""The program as it is installed and typed (what must be shown, items 9 and 10).

    .deps/oracle/bin/python verify/program.py [--only help text install completion]

help        `--help` of the program and of every verb, found by walking the help: exit 0, the median of some starts
text        verbs without tensors: alone in a folder, without the engine and LibTorch, with every loaded library listed
install     `make install`, the folder moved, the checkout's build products out of sight where this user may hide them:
            the same answers, and LibTorch out of the moved folder
completion  the scripts of bash, zsh and fish, parsed by every shell that is here; bash and fish complete a word
"""

import os
import pathlib
import re
import resource
import shutil
import statistics
import subprocess
import time

import models
from common import REPOSITORY, Program, Report, Workspace, parser, read_rows, write_config, write_rows
from score import make_rows
from training import make_data

REPEATS = 15
LIBTORCH = re.compile(r"libtorch|libc10|libgomp")
COMPLETIONS = {
    "bash": "share/bash-completion/completions/needletail",
    "zsh": "share/zsh/site-functions/_needletail",
    "fish": "share/fish/vendor_completions.d/needletail.fish",
}


# -- help -------------------------------------------------------------------------------------------------------------

def subverbs(text):
    """Names in the lists of a help text that are headed `SUBCOMMANDS:` or `... SUBCOMMANDS:`."""
    for section in re.findall(r"^.*SUBCOMMANDS:\n((?:  .*\n)+)", text, re.MULTILINE):
        yield from re.findall(r"^  ([a-z][\w-]*)", section, re.MULTILINE)


def walk(program, verb=()):
    """Every verb below this one, itself first, with its help."""
    text = program.must(*verb, "--help").stdout
    yield verb, text
    for name in subverbs(text):
        yield from walk(program, (*verb, name))


def processor_seconds():
    """Of all children that have ended: what a busy machine does not change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def median_ms(program, words):
    def once():
        began = time.perf_counter()
        program.must(*words)
        return 1e3 * (time.perf_counter() - began)
    return statistics.median(once() for _ in range(REPEATS))


def check_help(report, program, _):
    found = dict(walk(program))
    report.holds("help: verbs with their own", len(found) >= 20, len(found), ">= 20")
    report.equals("help: verbs whose help does not show their use",
                  [" ".join(verb) for verb, text in found.items() if f"USAGE: needletail {' '.join(verb)}".strip() not in text], [])
    began = processor_seconds()
    times = {" ".join(["needletail", *verb, "--help"]): median_ms(program, (*verb, "--help")) for verb in found}
    slowest = max(times, key=times.get)
    report.at_most(f"help: median milliseconds of the slowest of {len(times)} ({slowest})", times[slowest], 50)
    processor_ms = 1e3 * (processor_seconds() - began) / (REPEATS * len(times))
    report.note("help: milliseconds, median of all verbs; processor time, mean",
                f"{statistics.median(times.values()):.1f}; {processor_ms:.1f}")


# -- verbs without tensors --------------------------------------------------------------------------------------------

def run_listed(program, *arguments):
    """The finished process and every library that the dynamic loader initialised in it, at the start or later."""
    result = program.run(*arguments, env={**program.environment, "LD_DEBUG": "files"})
    return result, set(re.findall(r"calling init: (/.+)$", result.stderr, re.MULTILINE))


def text_commands(work, model):
    """One command of each kind that computes without tensors, and the files it reads."""
    chats, texts, other = work / "train.jsonl", work / "texts.jsonl", shutil.copytree(model, work / "other")
    make_data(chats, 20, 3)
    write_rows(texts, [{"text": models.text(seed)} for seed in range(5)])
    write_rows(work / "ids.jsonl", [{"ids": [40, 41, 42]}])
    write_config(work / "run.yaml", recipe="sft", model=str(model), train_files=[str(chats)], output=str(work / "run"),
                 steps=1)
    (work / "merge.yaml").write_text(f"merge_method: linear\nmodels:\n  - {{model: {model}, parameters: {{weight: 1}}}}\n"
                                     f"  - {{model: {other}, parameters: {{weight: 2}}}}\ndtype: float32\n")
    return [
        ["--version"], ["--help"], ["completion", "bash"], ["recipes", "ls"], ["recipes", "check", work / "run.yaml"],
        ["tokenizer", "encode", model, "--input", texts, "--output", work / "encoded.jsonl"],
        ["tokenizer", "decode", model, "--input", work / "ids.jsonl", "--output", work / "decoded.jsonl"],
        ["tokenizer", "render", model, "--input", chats, "--output", work / "rendered.jsonl"],
        ["tokenizer", "inspect", model], ["data", "inspect", model, chats],
        ["data", "stats", model, chats], ["merge", "plan", work / "merge.yaml"],
        ["merge", work / "merge.yaml", work / "merged"],
    ]


def check_text(report, program, work):
    """The front program alone in a folder: no engine beside it, no LibTorch within its rpath."""
    commands = text_commands(work, models.write_tiny(work, "llama_gqa"))
    (work / "alone").mkdir()
    lone = Program(shutil.copy(program.path, work / "alone"))
    failed, with_torch, libraries = [], [], set()
    for command in commands:
        result, found = run_listed(lone, *command)
        words = " ".join(map(str, command[:2]))
        failed += [] if result.returncode == 0 else [f"{words}: exit {result.returncode}: {result.stdout}"]
        with_torch += [words] if any(map(LIBTORCH.search, found)) else []
        libraries |= {pathlib.Path(path).name for path in found}
    report.equals(f"text: of {len(commands)} commands, those that fail without engine and LibTorch", failed, [])
    report.equals("text: commands that load LibTorch", with_torch, [])
    report.note("text: libraries loaded", ", ".join(sorted(libraries)))
    _, found = run_listed(program, "doctor")
    report.holds("text: the same listing of `doctor` names LibTorch", any(map(LIBTORCH.search, found)))


# -- installation -----------------------------------------------------------------------------------------------------

def hiding(folders, empty):
    """Words that start a command for which these folders are empty; none where this user may not mount."""
    empty.mkdir()
    mounts = " && ".join(f"mount --bind '{empty}' '{folder}'" for folder in folders)
    for unshare in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        words = [*unshare, "bash", "-c", f'{mounts} && exec "$@"', "hidden"]
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    return []


def check_install(report, program, work):
    installed = subprocess.run(["make", "--silent", "install", f"PREFIX={work / 'installed'}"], cwd=REPOSITORY,
                               capture_output=True, text=True)
    report.equals("install: exit code of make install", installed.returncode, 0)
    if installed.returncode:
        return report.note("install: make said", installed.stderr[-300:])
    moved = work / "moved here" / "needletail"
    moved.parent.mkdir()
    (work / "installed").rename(moved)
    words = hiding([REPOSITORY / ".build", REPOSITORY / ".deps"], work / "empty")
    report.note("install: the checkout's .build and .deps", "out of sight" if words else "in sight: no right to mount")
    there = Program(moved / "bin/needletail", before=words, LD_LIBRARY_PATH=None, LIBTORCH=None)
    report.note("install: size, MiB", sum(p.stat().st_size for p in moved.rglob("*") if p.is_file()) >> 20)
    compare_installed(report, program, there, moved, work)
    for shell, path in COMPLETIONS.items():
        same = (moved / path).read_text() == program.must("completion", shell).stdout
        report.holds(f"install: completion of {shell} is what the program prints", same)


def compare_installed(report, program, there, moved, work):
    """The moved program's answers, and what it loads."""
    report.equals("install: --version", there.must("--version").stdout, program.must("--version").stdout)
    result, found = run_listed(there, "doctor")
    report.equals("install: exit code of doctor", result.returncode, 0)
    torch = {path for path in found if LIBTORCH.search(path)}
    outside = sorted(path for path in torch if not pathlib.Path(path).resolve().is_relative_to(moved))
    report.holds("install: LibTorch is loaded out of the moved folder", torch and not outside,
                 ", ".join(outside) or f"{len(torch)} libraries")
    model, rows = models.write_tiny(work, "llama_gqa"), work / "score.jsonl"
    write_rows(rows, make_rows(400))
    scores = []
    for which in (program, there):
        which.must("score", model, "--input", rows, "--output", work / "scores.jsonl", "--dtype", "fp32")
        scores.append((work / "scores.jsonl").read_bytes())
    report.identical(f"install: scores of {len(read_rows(rows))} rows", "" if scores[0] == scores[1] else "differ")


# -- completion -------------------------------------------------------------------------------------------------------

# What a shell offers for the last word of a line; $1 is the script, $2 the line after the program's name.
BASH = """source "$1"; COMP_WORDS=(needletail $2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}
_needletail needletail "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"; echo "${COMPREPLY[*]}" """
FISH = 'source $argv[1]; complete --do-complete "needletail $argv[2]" | string split --fields 1 \\t'
OFFERS = [("tr", "train"), ("tokenizer enc", "encode"), ("recipes cat demo-s", "demo-sarcasm"), ("completion z", "zsh"),
          ("train --dry", "--dry-run")]


def offered(shell, script, words):
    command = ["bash", "--norc", "-c", BASH, "complete"] if shell == "bash" else ["fish", "--no-config", "-c", FISH]
    return subprocess.run([*command, script, words], capture_output=True, text=True).stdout.split()


def check_completion(report, program, work):
    missing = [shell for shell in COMPLETIONS if not shutil.which(shell)]
    report.note("completion: shells that are not here, so not tried", ", ".join(missing) or "none")
    os.environ["PATH"] = f"{pathlib.Path(program.path).parent}:{os.environ['PATH']}"  # recipe names come from the program
    for shell in (shell for shell in COMPLETIONS if shell not in missing):
        script = work / f"completion.{shell}"
        script.write_text(program.must("completion", shell).stdout)
        parsed = subprocess.run([shell, "-n", script], capture_output=True, text=True)
        report.holds(f"completion: {shell} -n", parsed.returncode == 0, parsed.stderr)
        for words, wanted in OFFERS if shell != "zsh" else []:
            found = offered(shell, script, words)
            report.equals(f"completion: {shell} offers for `needletail {words}`", found, [wanted])


def main():
    arguments = parser(__doc__)
    parts = {"help": check_help, "text": check_text, "install": check_install, "completion": check_completion}
    arguments.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail)
    with Workspace(arguments) as work:
        for name in arguments.only:
            parts[name](report, program, work)
    report.exit()


if __name__ == "__main__":
    main()
