"""What the oracles share: calling the program, reporting results, and the names of the config keys they use."""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

# -- config keys ------------------------------------------------------------------------------------------------------
# The one place that knows how an SFT config spells things; everything else uses the names on the left. The oracles
# write configs with these keys and read the resolved `config.yaml` of a run with them.
KEYS = {
    "recipe": "recipe",
    "output": "output",
    "threads": "threads",
    "model": "model.path",
    "dtype": "model.dtype",
    "train_files": "data.train",
    "validation_files": "data.validation",
    "validation_rows": "data.validation_rows",
    "kind": "data.kind",
    "max_length": "data.max_length",
    "packing": "data.packing",
    "data_seed": "data.seed",
    "method": "adapter.method",
    "rank": "adapter.rank",
    "alpha": "adapter.alpha",
    "save_embeddings": "adapter.save_embeddings",
    "optimizer": "optimizer.name",
    "optimizer_state": "optimizer.state",
    "orthogonalization": "optimizer.orthogonalization",
    "learning_rate": "optimizer.learning_rate",
    "beta1": "optimizer.beta1",
    "beta2": "optimizer.beta2",
    "eps": "optimizer.epsilon",
    "weight_decay": "optimizer.weight_decay",
    "schedule": "schedule.name",
    "warmup_steps": "schedule.warmup_steps",
    "decay_ratio": "schedule.decay_ratio",
    "min_ratio": "schedule.min_ratio",
    "steps": "training.steps",
    "rows_per_step": "training.batch_rows",
    "micro_batch_tokens": "training.micro_batch_tokens",
    "max_grad_norm": "training.max_grad_norm",
    "seed": "training.seed",
    "log_every": "training.log_every",
    "save_every": "training.save_every",
    "eval_every": "training.eval_every",
    "record_batches": "training.record_batches",
}


def write_config(path, **settings):
    """Writes a YAML config from names of `KEYS`; None leaves a key out."""
    tree = {}
    for name, value in settings.items():
        if value is None:
            continue
        *parents, leaf = KEYS[name].split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    pathlib.Path(path).write_text(yaml.safe_dump(tree, sort_keys=False))


def setting(config, name, default=None):
    """One value of a parsed config by its name in `KEYS`."""
    node = config
    for part in KEYS[name].split("."):
        if not isinstance(node, dict) or node.get(part) is None:
            return default
        node = node[part]
    return float(node) if isinstance(node, str) and isinstance(default, float) else node


def override(name, value):
    """`key=value` for the command line."""
    return f"{KEYS[name]}={value}"


# -- results ----------------------------------------------------------------------------------------------------------

class Report:
    """Prints one line per item, `name: value (limit L) ok|FAIL`, and remembers whether all passed."""

    def __init__(self):
        self.failed = 0

    def at_most(self, name, value, limit):
        """A number that must not exceed its limit; NaN fails."""
        self._line(name, f"{value:.3g}", f"{limit:g}", value <= limit)

    def equals(self, name, value, expected):
        self._line(name, value, f"= {expected}", value == expected)

    def identical(self, name, difference):
        """`difference` says what differs; empty when nothing does."""
        self._line(name, difference or "identical", "identical", not difference)

    def holds(self, name, passed, value="", limit="holds", width=160):
        """A condition; `value` says what was seen, in at most `width` characters."""
        self._line(name, value or ("yes" if passed else "no"), limit, passed, width)

    def note(self, name, value):
        """A figure without a limit."""
        print(f"{name}: {one_line(value)} (limit none) ok", flush=True)

    def _line(self, name, value, limit, passed, width=160):
        self.failed += not passed
        print(f"{name}: {one_line(value, width)} (limit {one_line(limit)}) {'ok' if passed else 'FAIL'}", flush=True)

    def exit(self):
        sys.exit(1 if self.failed else 0)


def one_line(value, width=160):
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


# -- the program ------------------------------------------------------------------------------------------------------

def parser(description):
    """Arguments every oracle takes."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--needletail", default=str(REPOSITORY / ".build/release/needletail"), help="the program")
    result.add_argument("--work", help="folder for everything written (default: a temporary one, removed at the end)")
    result.add_argument("--seed", type=int, default=1)
    return result


class Workspace:
    """`--work`, or a temporary folder."""

    def __init__(self, arguments):
        self._temporary = None
        if arguments.work is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="needletail-verify-")
        self.path = pathlib.Path(arguments.work or self._temporary.name).resolve()

    def __enter__(self):
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path

    def __exit__(self, *_):
        if self._temporary:
            self._temporary.cleanup()


class Program:
    """Runs needletail: one thread for LibTorch unless the caller says otherwise, since sums must be repeatable.

    `before` are words that start the program; `environment` sets variables, and None takes one away."""

    def __init__(self, path, threads=1, before=(), **environment):
        if not os.access(path, os.X_OK):
            sys.exit(f"{path}: no such program; build it with `make build` or name it with --needletail")
        # A shell's background job ignores SIGINT, and what it starts would too: a test that sends it would wait for ever.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.path = str(pathlib.Path(path).resolve())
        self.before = list(before)
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **environment}
        self.environment = {name: value for name, value in variables.items() if value is not None}

    def start(self, *arguments, **options):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                   "env": self.environment, **options}
        return subprocess.Popen(
            [*self.before, self.path, *map(str, arguments)], text=True, errors="replace", **options)

    def run(self, *arguments, timeout=600, **options):
        """The finished process with `returncode`, `stdout`, `stderr`; killed after `timeout` seconds (code -9)."""
        process = self.start(*arguments, **options)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def must(self, *arguments, **options):
        """Like `run`, and stops this oracle with the program's own message when it fails."""
        result = self.run(*arguments, **options)
        if result.returncode != 0:
            print(f"needletail {' '.join(map(str, arguments))}: exit code {result.returncode}: "
                  f"{one_line(result.stderr[-600:], 600)} (limit 0) FAIL", flush=True)
            sys.exit(1)
        return result


def measure(command, environment, log):
    """(exit code, CPU seconds in the program and in the system, wall seconds, largest RssAnon in bytes) of a child."""
    began = time.monotonic()
    with open(log, "w") as file:
        child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    peak = 0
    while True:
        try:
            status = pathlib.Path(f"/proc/{child.pid}/status").read_text()
            peak = max([peak] + [1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")])
        except OSError:
            pass
        ended, code, usage = os.wait4(child.pid, os.WNOHANG)
        if ended:
            child.returncode = os.waitstatus_to_exitcode(code)
            return child.returncode, (usage.ru_utime, usage.ru_stime), time.monotonic() - began, peak
        time.sleep(0.01)


# -- files ------------------------------------------------------------------------------------------------------------

def read_rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def wait_until(condition, seconds, interval=0.01):
    """Polls; whether the condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(interval)
    return bool(condition())
