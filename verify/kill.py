"""Kills, bit flips and signals (what must be shown, item 6; reliability tests T1, T5, T14).

    .deps/oracle/bin/python verify/kill.py [--kills 20] [--cases full demo] [--only kills flips signals refusals]

For each case, a short run of a tiny model is made undisturbed once. Every disturbed run, resumed by the same command
until it ends, must end with the same bytes: all safetensors outside `checkpoints/`, the tensors and (times aside) the
JSON of its newest checkpoint, and the rows of `metrics.jsonl` without their time, speed and memory fields.
"""

import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time

import models
from common import Program, Report, Workspace, one_line, override, parser, read_rows, wait_until, write_config
from training import make_data

# Fields that may differ between equal runs; `offset` is the length of metrics.jsonl, which holds times.
VOLATILE = re.compile(r"time|second|memory|_ms$|bytes|offset|nonce|path")


# What is killed: all weights in fp32, and what `make demo` trains (LoRA on every linear layer, its learning rate and
# schedule) in bf16, on two threads. A step of either has several micro-batches. Few steps of the second: they
# take long where a processor has no instructions for bf16.
CASES = {
    "full": dict(
        threads=1, dtype="fp32", method="full", learning_rate=1e-3, schedule="cosine", warmup_steps=5, steps=360,
        rows_per_step=4, micro_batch_tokens=256),
    "demo": dict(
        threads=2, dtype="bf16", method="lora", rank=16, alpha=32.0, learning_rate=5e-4, schedule="linear", steps=32,
        rows_per_step=8, micro_batch_tokens=256),
}
PARTS = {"full": ["kills", "flips", "signals", "refusals"], "demo": ["kills", "flips"]}


class Runs:
    """Starts the same run of a case in any folder, and compares what it left."""

    def __init__(self, program, work, case, seed):
        self.program, self.work, self.case, self.random = program, work, case, random.Random(seed)
        self.config, self.steps = work / "run.yaml", CASES[case]["steps"]
        base = models.write_tiny(work, "llama_gqa")
        make_data(work / "train.jsonl", 80, 6)
        write_config(
            self.config, recipe="sft", model=str(base), train_files=[str(work / "train.jsonl")],
            output=str(work / "undisturbed"), validation_rows=8, max_length=256, seed=5, log_every=1,
            save_every=self.steps // 6, eval_every=self.steps // 5, **CASES[case])
        began = time.monotonic()
        program.must("train", self.config)
        self.seconds = time.monotonic() - began
        self.expected = final_state(work / "undisturbed")

    def fresh(self, name):
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def start(self, folder, *overrides):
        """The run in its own session, its messages in a file beside the folder (a full pipe would stop it)."""
        with open(f"{folder}.err", "w") as messages:
            return self.program.start("train", self.config, override("output", folder), *overrides,
                                      stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True)

    def finish(self, folder, timeout=600):
        """Runs to the end; exit code and messages."""
        process = self.start(folder)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return code, pathlib.Path(f"{folder}.err").read_text()

    def difference(self, folder):
        """Empty when the folder equals the undisturbed run, else what differs."""
        found = final_state(folder)
        names = sorted(key for key in set(found) | set(self.expected) if found.get(key) != self.expected.get(key))
        left = [p.name for p in folder.rglob("*") if ".partial-" in p.name or ".trash-" in p.name]
        return ", ".join(names + [f"left over: {name}" for name in left])


def checkpoints(folder):
    """Finished checkpoint folders, oldest first."""
    found = [p for p in (folder / "checkpoints").glob("step-*") if p.name.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def steady(value):
    """JSON without the fields that may differ."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if not VOLATILE.search(key)}
    return [steady(item) for item in value] if isinstance(value, list) else value


def final_state(folder):
    """What must be equal: file or row set -> hash."""
    result = {"metrics.jsonl": digest([steady(row) for row in read_rows(folder / "metrics.jsonl")])}
    saved = checkpoints(folder)
    files = [p for p in folder.rglob("*.safetensors") if "checkpoints" not in p.relative_to(folder).parts]
    files += sorted(saved[-1].rglob("*")) if saved else []
    for file in files:
        if file.suffix == ".safetensors":
            result[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.suffix == ".json" and file.name != "manifest.json":
            result[str(file.relative_to(folder))] = digest(steady(json.loads(file.read_text())))
    return result


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# -- kills ------------------------------------------------------------------------------------------------------------

def check_kills(report, runs, kills):
    """SIGKILL at random moments, between start and a whole undisturbed run's length, and the same command again.

    One start in four saves five times as often, so that some kills fall while a checkpoint is written."""
    done, finished, folder, seen = 0, 0, runs.fresh("killed-0"), []
    problems = []
    while done < kills or folder.exists():
        often = [override("save_every", max(1, runs.steps // 40))] if runs.random.random() < 0.25 else []
        before = traces(folder)
        process = runs.start(folder, *often)
        delay = runs.random.uniform(0.0, runs.seconds) if done < kills else 600
        try:
            code = process.wait(delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            seen.append(phase(before, traces(folder)))
            continue
        if code != 0:
            problems.append(f"exit {code}: {one_line(pathlib.Path(f'{folder}.err').read_text())}")
        elif difference := runs.difference(folder):
            problems.append(f"differs: {difference}")
        finished += 1
        shutil.rmtree(folder, ignore_errors=True)
        folder = runs.work / f"killed-{finished}"
        if problems:
            break
    report.identical(f"{runs.case}, {done} kills in {finished} runs, resumed by themselves", "; ".join(problems))
    fell = ", ".join(f"{name} x{seen.count(name)}" for name in sorted(set(seen)))
    report.note(f"{runs.case}, where the kills fell", fell)
    report.holds(f"{runs.case}, kills while training", 4 * seen.count("training") >= kills, seen.count("training"),
                 f">= {kills // 4}")


def traces(folder):
    """What a process changes as it goes: the length of the metrics, and names of unfinished folders."""
    metrics = folder / "metrics.jsonl"
    unfinished = {p.name for p in folder.rglob("*") if ".partial-" in p.name}
    return metrics.stat().st_size if metrics.exists() else 0, unfinished


def phase(before, after):
    """Where a kill fell, by the traces at the process's start and after its end."""
    if after == before:
        return "starting"
    return "saving" if after[1] - before[1] else "training"


# -- damage -----------------------------------------------------------------------------------------------------------

def flip(file, random_state):
    data = bytearray(file.read_bytes())
    bit = random_state.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def check_flips(report, runs):
    """One bit in each file of the newest checkpoint, a truncated one, missing ones: the previous one is used."""
    stopped = runs.fresh("stopped")
    process = runs.start(stopped)
    ready = wait_until(lambda: len(checkpoints(stopped)) >= 2, 120, 0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    newest = checkpoints(stopped)[-1] if checkpoints(stopped) else None
    if not ready or len(checkpoints(stopped)) < 2:
        report.holds(f"{runs.case}, bit flips: an interrupted run with two checkpoints", False)
        return
    damages = [(f"flipped bit in {p.relative_to(newest)}", p.relative_to(newest), lambda f: flip(f, runs.random))
               for p in sorted(newest.rglob("*")) if p.is_file() and p.stat().st_size]
    tensors = next(p.relative_to(newest) for p in sorted(newest.rglob("*.safetensors")))
    damages.append((f"truncated {tensors}", tensors, lambda f: os.truncate(f, f.stat().st_size // 2)))
    damages.append((f"missing {tensors}", tensors, lambda f: f.unlink()))
    damages.append(("missing manifest.json", pathlib.Path("manifest.json"), lambda f: f.unlink()))
    damages.append(("another checkpoint's tensors", tensors,
                    lambda f: shutil.copy(checkpoints(f.parents[1 + len(tensors.parts)])[-2] / tensors, f)))
    for number, (name, file, damage) in enumerate(damages):
        folder = runs.fresh(f"damaged-{number}")
        shutil.copytree(stopped, folder)
        damage(folder / "checkpoints" / newest.name / file)
        code, messages = runs.finish(folder)
        named = any(newest.name in line and (file.name in line or "manifest" in line) for line in messages.splitlines())
        difference = runs.difference(folder) if code == 0 else one_line(messages)
        report.holds(f"{runs.case}, damage, {name}: reason named, previous used, end identical",
                     code == 0 and named and not difference,
                     f"exit {code}, {'named' if named else 'not named'}, {difference or 'identical'}", "all three")
        shutil.rmtree(folder)
    check_all_damaged(report, runs, stopped)


def check_all_damaged(report, runs, stopped):
    folder = runs.fresh("all-damaged")
    shutil.copytree(stopped, folder)
    for saved in checkpoints(folder):
        flip(next(iter(sorted(saved.rglob("*.safetensors")))), runs.random)
    code, messages = runs.finish(folder)
    report.holds(f"{runs.case}, damage, every checkpoint: exit 65", code == 65 and "error: " in messages, f"exit {code}: {messages}")


# -- signals ----------------------------------------------------------------------------------------------------------

def start_and_wait(runs, name, *overrides, rows=4):
    """A fresh run that has logged some steps."""
    folder = runs.fresh(name)
    process = runs.start(folder, *overrides)
    metrics = folder / "metrics.jsonl"
    wait_until(lambda: process.poll() is not None or metrics.exists() and metrics.read_bytes().count(b"\n") >= rows,
               60, 0.002)
    return folder, process


def check_signal(report, runs, name, number, code, twice=False):
    """A signal that ends the run: exit code, a save at the last step, and an identical end after the same command."""
    rarely = override("save_every", runs.steps)
    folder, process = start_and_wait(runs, f"signal-{name}", rarely)
    process.send_signal(number)
    began = time.monotonic()
    if twice:
        time.sleep(0.02)
        process.send_signal(number)
        began = time.monotonic()
    found = process.wait(60)
    seconds = time.monotonic() - began
    report.equals(f"{name}: exit code", found, code)
    report.at_most(f"{name}: seconds to the end", seconds, 1 if twice else 5)
    if not twice:
        saved = checkpoints(folder)
        rows = [row["step"] for row in read_rows(folder / "metrics.jsonl") if "train/loss" in row]
        report.holds(f"{name}: saved at the last step", bool(saved) and saved[-1].name == f"step-{rows[-1]}",
                     f"{saved[-1].name if saved else 'nothing'}, last step {rows[-1]}")
    code, messages = runs.finish(folder)
    report.identical(f"{name}: end after resuming", runs.difference(folder) if code == 0 else messages)


def check_save_now(report, runs):
    folder, process = start_and_wait(runs, "save-now", override("save_every", runs.steps))
    before = len(checkpoints(folder))
    process.send_signal(signal.SIGUSR1)
    saved = wait_until(lambda: len(checkpoints(folder)) > before or process.poll() is not None, 10, 0.002)
    alive = process.poll() is None
    code = process.wait(600)
    report.holds("SIGUSR1: saves now and goes on", saved and alive and before == 0 and code == 0,
                 f"saved {saved}, running on {alive}, exit {code}")
    report.identical("SIGUSR1: end", runs.difference(folder) if code == 0 else "did not end well")


def check_signals(report, runs):
    check_save_now(report, runs)
    check_signal(report, runs, "SIGTERM", signal.SIGTERM, 75)
    check_signal(report, runs, "SIGINT", signal.SIGINT, 130)
    check_signal(report, runs, "SIGINT twice", signal.SIGINT, 130, twice=True)
    report.identical("signals: any moment of start-up or training, resumed", "; ".join(early_signals(runs)))


def early_signals(runs, count=6):
    """SIGTERM and SIGINT at random moments from the very start; what went wrong."""
    problems, folder = [], runs.fresh("early")
    for i in range(count):
        number, allowed = [(signal.SIGTERM, {0, 75, 143, -15}), (signal.SIGINT, {0, 130, -2})][i % 2]
        process = runs.start(folder)
        time.sleep(runs.random.uniform(0, 0.4 * runs.seconds))
        process.send_signal(number)
        if (code := process.wait(60)) not in allowed:
            problems.append(f"{number.name}: exit {code}")
    code, messages = runs.finish(folder)
    problems.append(f"exit {code}: {one_line(messages)}" if code else runs.difference(folder))
    return [problem for problem in problems if problem]


# -- refusals ---------------------------------------------------------------------------------------------------------

def check_refusals(report, runs):
    folder, process = start_and_wait(runs, "locked")
    second = runs.program.run("train", runs.config, override("output", folder), timeout=30)
    report.holds("second trainer on one folder: refused, holder named",
                 second.returncode not in (0, -9) and str(process.pid) in second.stderr,
                 f"exit {second.returncode}: {second.stderr}", "non-zero and the other's process id")
    report.equals("the first trainer is undisturbed", (process.wait(600), runs.difference(folder)), (0, ""))
    for name, value in [("learning_rate", 2e-3), ("seed", 6), ("max_length", 128)]:
        other = runs.program.run("train", runs.config, override("output", folder), override(name, value))
        key = override(name, value).split("=")[0]
        report.holds(f"same folder, other {key}: refused with the difference",
                     other.returncode == 64 and key in other.stderr, f"exit {other.returncode}: {other.stderr}", "64")
    with open(runs.work / "train.jsonl", "a") as file:
        file.write(json.dumps({"messages": models.conversation(9999)}) + "\n")
    other = runs.program.run("train", runs.config, override("output", folder))
    report.holds("same folder, changed data: refused, file named",
                 other.returncode in (64, 65) and "train.jsonl" in other.stderr,
                 f"exit {other.returncode}: {other.stderr}", "64 or 65")
    report.identical("the folder after all refusals", runs.difference(folder))


def check_case(report, program, work, case, arguments):
    """All parts of one case, in a folder of its own."""
    work.mkdir()
    runs = Runs(program, work, case, arguments.seed)
    report.note(f"{case}, undisturbed run, seconds", f"{runs.seconds:.1f}")
    code, messages = runs.finish(runs.fresh("again"))
    report.identical(f"{case}, the same run again", runs.difference(work / "again") if code == 0 else messages)
    parts = set(PARTS[case]) & set(arguments.only)
    if "kills" in parts:
        check_kills(report, runs, arguments.kills)
    if "flips" in parts:
        check_flips(report, runs)
    if "signals" in parts:
        check_signals(report, runs)
    if "refusals" in parts:
        check_refusals(report, runs)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--kills", type=int, default=20, help="of each case")
    arguments.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    arguments.add_argument("--only", nargs="+", choices=PARTS["full"], default=PARTS["full"])
    arguments = arguments.parse_args()
    report = Report()
    with Workspace(arguments) as work:
        for case in arguments.cases:
            # Threads that wait without spinning: on a busy machine two of them would mostly wait for each other.
            program = Program(arguments.needletail, CASES[case]["threads"], OMP_WAIT_POLICY="passive")
            check_case(report, program, work / case, case, arguments)
    report.exit()


if __name__ == "__main__":
    main()
