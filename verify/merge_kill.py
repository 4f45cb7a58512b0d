"""Merges killed at random moments: never a folder that loads half-merged; the same command again gives the same bytes.

    .deps/oracle/bin/python verify/merge_kill.py [--kills 32]

Two merges are made undisturbed: one of three random models, whose time goes into weights, and one of many small tensors in
many shards with a union of two vocabularies, whose time goes into everything else. Then each is started again and again and
killed (SIGKILL) in every one of its phases, which are known by what lies beside the output: nothing yet (reading, planning,
the union of the tokenizers, the check of the base), weights, the files after them (index, tokenizer, card, config.json), and
the moments around the rename into place. After each kill neither the output nor anything beside it may open as a model
(transformers, safetensors) unless it is the finished merge; the same command then ends well, and its folder equals the
undisturbed one byte for byte. SIGTERM and SIGINT leave nothing behind at all.
"""

import collections
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time

import safetensors
import torch
import transformers
from safetensors.torch import load_file, save_file

import union_tokenizer
from common import Program, Report, Workspace, parser

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


def write_models(work, hidden=512, layers=8):
    """A base and two fine-tunes of it, about 50 MB each in bf16."""
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(work / "base")
    base = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ["a", "b"]:
        with torch.no_grad():
            for key, value in model.state_dict().items():
                value.copy_(base[key] + 0.01 * torch.randn_like(value))
        model.save_pretrained(work / name)


def write_speakers(work):
    """A base, a fine-tune of it, and a model with another vocabulary that shares 200 of its 300 tokens."""
    for k, (name, vocabulary) in enumerate([("speaker", "a"), ("listener", "a"), ("foreigner", "b")]):
        (work / name).mkdir()
        union_tokenizer.write_model(work / name, union_tokenizer.GOLDENS[vocabulary], 300, 1)
        generator = torch.Generator().manual_seed(70 + k)
        state = load_file(work / name / "model.safetensors")
        moved = {key: w + 0.002 * torch.randn(w.shape, generator=generator) for key, w in state.items()}
        save_file(moved, work / name / "model.safetensors", metadata={"format": "pt"})


def digest(folder):
    """Every file of a folder and its hash; without the card, which is titled after the folder."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "README.md"}


def loads(path, expected):
    """Why a leftover counts as a model; empty when nothing would take it for one. A shard that opens must already hold what
    the undisturbed merge's shard of that name holds."""
    folders = [path] + [p for p in path.rglob("*") if p.is_dir()]
    for folder in folders:
        # Written last: where it lies, everything else must.
        if (folder / "config.json").exists() and digest(folder) != expected:
            return f"{folder.name}: has config.json and is not the finished merge"
        for file in folder.glob("*.safetensors"):
            try:
                with safetensors.safe_open(file, "pt") as opened:
                    names = list(opened.keys())
                if names and hashlib.sha256(file.read_bytes()).hexdigest() != expected.get(file.name):
                    return f"{file.name}: opens with {len(names)} tensors and is not complete"
            except Exception:
                continue
    return ""


BEFORE, WEIGHTS, AFTER, RENAME = "before anything is written", "while weights are written", "after the weights", "around the rename"
# Not a phase to aim at: the process was killed after the rename and before its end.
DONE = "after the rename"


def phase(place):
    """Where a merge is, by what lies beside its output."""
    if (place / "out").exists():
        return DONE
    folders = [p for p in place.iterdir() if p.name.startswith("out.partial-")]
    if not folders:
        return BEFORE
    try:
        names = {p.name for p in folders[0].iterdir()}
    except FileNotFoundError:  # renamed between the two looks
        return DONE
    if "config.json" in names:
        return RENAME
    # The index and everything after it are written when all shards are.
    return AFTER if names - {n for n in names if n.endswith(".safetensors") or n.startswith(".")} else WEIGHTS


class Merge:
    """A command whose undisturbed result is known, and the length of each of its phases in seconds."""

    def __init__(self, name, program, work, config, shard):
        self.name, self.program, self.place = name, program, work / f"killed-{name}"
        path = work / f"{name}.yaml"
        path.write_text(config)
        self.words = ["merge", path, self.place / "out", "--shard-size", shard]
        self.seconds = collections.Counter()
        program.must("merge", path, work / f"first-{name}", "--shard-size", shard)
        process, last = self.start(), time.monotonic()
        while process.poll() is None:
            at, now = phase(self.place), time.monotonic()
            self.seconds[at] += now - last
            last = now
        assert process.returncode == 0, "the undisturbed merge"
        self.expected = digest(self.place / "out")

    def start(self):
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        return self.program.start(*self.words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self, aim, chance):
        """Kills inside a phase; returns where the merge was, None when it had ended."""
        process = self.start()
        if aim != BEFORE:
            while process.poll() is None and phase(self.place) not in ([aim, DONE] if aim != RENAME else [RENAME, DONE]):
                pass
        time.sleep(chance.uniform(0, 0.9 * self.seconds[aim]))
        if process.poll() is not None:
            return None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return phase(self.place)

    def half_merged(self):
        """What a kill left that loads and is not the finished merge."""
        for path in self.place.iterdir():
            if path.name == "out":  # in place: then it must be whole
                if digest(path) != self.expected:
                    return "out is not the finished merge"
            elif problem := loads(path, self.expected):
                return problem
        return ""

    def again(self):
        """Why the same command, over what a kill left, does not give the undisturbed result."""
        shutil.rmtree(self.place / "out", ignore_errors=True)
        result = self.program.run(*self.words)
        if result.returncode:
            return result.stderr[-200:]
        return "" if digest(self.place / "out") == self.expected else "other bytes"


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--kills", type=int, default=32)
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail)
    chance = random.Random(arguments.seed)
    with Workspace(arguments) as work:
        write_models(work)
        write_speakers(work)
        weights = Merge("weights", program, work, (
            f"merge_method: ties\nbase_model: {work / 'base'}\nmodels:\n"
            f"  - {{model: {work / 'a'}, parameters: {{weight: 0.6, density: 0.5}}}}\n"
            f"  - {{model: {work / 'b'}, parameters: {{weight: 0.4, density: 0.5}}}}\ndtype: bfloat16\n"), "20MB")
        union = Merge("union", program, work, (
            f"merge_method: task_arithmetic\nbase_model: {work / 'speaker'}\nmodels:\n"
            f"  - {{model: {work / 'listener'}, parameters: {{weight: 0.6}}}}\n"
            f"  - {{model: {work / 'foreigner'}, parameters: {{weight: 0.4}}}}\n"
            "tokenizer: {source: union}\ndtype: float32\n"), "2kB")
        for merge in [weights, union]:
            parts = ", ".join(f"{name} {merge.seconds[name]:.3f}" for name in [BEFORE, WEIGHTS, AFTER, RENAME, DONE])
            report.note(f"undisturbed merge ({merge.name}), {len(merge.expected)} files, seconds", parts)
        aims = [(merge, aim) for aim in [BEFORE, WEIGHTS, AFTER, RENAME] for merge in [weights, union]]
        half, unequal, fell, missed = [], [], collections.Counter(), 0
        while sum(fell.values()) < arguments.kills and missed < 20 * arguments.kills:
            merge, aim = aims[sum(fell.values()) % len(aims)]
            where = merge.kill(aim, chance)
            if where is None:
                missed += 1
                continue
            fell[merge.name, where] += 1
            if problem := merge.half_merged():
                half.append(f"{merge.name}, {where}: {problem}")
            if problem := merge.again():
                unequal.append(f"{merge.name}, {where}: {problem}")
        for merge in [weights, union]:
            for where in [BEFORE, WEIGHTS, AFTER, RENAME, DONE]:
                report.note(f"kills of the merge ({merge.name}) {where}", fell[merge.name, where])
        report.note("starts that had ended before they were killed", missed)
        report.equals("kills that hit a running merge", sum(fell.values()), arguments.kills)
        for where in [BEFORE, WEIGHTS, AFTER]:
            count = fell["weights", where] + fell["union", where]
            report.holds(f"kills {where}", count > 0, str(count), "at least 1")
        report.identical("folders that load half-merged after SIGKILL", "; ".join(half[:3]))
        report.identical("the same command after each kill", "; ".join(unequal[:3]))
        for number in [signal.SIGTERM, signal.SIGINT]:
            for aim in [BEFORE, WEIGHTS]:
                check_signal(report, weights, number, aim)
    report.exit()


def check_signal(report, merge, number, aim):
    process = merge.start()
    while process.poll() is None and phase(merge.place) != aim:
        pass
    process.send_signal(number)
    code = process.wait()
    left = ", ".join(p.name for p in merge.place.iterdir())
    # Nothing to tidy up yet: then the signal ends the process itself, which a shell sees as the same number.
    ended = code == 128 + number or aim == BEFORE and code == -number
    report.holds(f"{number.name} {aim} ends with {128 + number} and leaves nothing", ended and not left,
                 f"exit {code}, left: {left or 'nothing'}", f"exit {128 + number}, nothing")


if __name__ == "__main__":
    main()
