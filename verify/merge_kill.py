"""Merges killed at random moments: never a folder that loads half-merged; the same command again gives the same bytes.

    .deps/oracle/bin/python verify/merge_kill.py [--kills 20]

A merge of three random models is made undisturbed. Then it is started again and again and killed (SIGKILL) at moments
spread over its whole length, half of them inside the time in which weights are written. After each kill neither the output
nor anything beside it may open as a model (transformers, safetensors) unless it is the finished merge; the same command then
ends well, and its folder equals the undisturbed one byte for byte. SIGTERM and SIGINT leave nothing behind at all.
"""

import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import safetensors
import torch
import transformers

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


def digest(folder):
    """Every file of a folder and its hash."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def loads(path):
    """Why a leftover counts as a model; empty when nothing would take it for one."""
    folders = [path] + [p for p in path.rglob("*") if p.is_dir()]
    for folder in folders:
        if (folder / "config.json").exists():
            return f"{folder.name}: has config.json"
        for file in folder.glob("*.safetensors"):
            try:
                with safetensors.safe_open(file, "pt") as opened:
                    names = list(opened.keys())
                if names and not complete(file):
                    return f"{file.name}: opens with {len(names)} tensors and is not complete"
            except Exception:
                continue
    return ""


EXPECTED = {}


def complete(file):
    """A shard that opens must already hold what the undisturbed merge's shard of that name holds."""
    return hashlib.sha256(file.read_bytes()).hexdigest() == EXPECTED.get(file.name)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--kills", type=int, default=20)
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail)
    chance = random.Random(arguments.seed)
    with Workspace(arguments) as work:
        write_models(work)
        config = work / "merge.yaml"
        config.write_text(
            f"merge_method: ties\nbase_model: {work / 'base'}\nmodels:\n"
            f"  - {{model: {work / 'a'}, parameters: {{weight: 0.6, density: 0.5}}}}\n"
            f"  - {{model: {work / 'b'}, parameters: {{weight: 0.4, density: 0.5}}}}\ndtype: bfloat16\n")
        command = lambda out: ["merge", config, out, "--shard-size", "20MB"]
        began = time.monotonic()
        program.must(*command(work / "undisturbed"))
        seconds = time.monotonic() - began
        expected = digest(work / "undisturbed")
        # The card is titled after the folder.
        expected.pop("README.md")
        EXPECTED.update({pathlib.Path(name).name: value for name, value in expected.items()})
        report.note("undisturbed merge, seconds", f"{seconds:.2f}")
        place = work / "killed"
        half, unequal, killed, finished, inside = [], [], 0, 0, 0
        while killed < arguments.kills:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            process = program.start(*command(place / "out"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if killed % 2:  # from the moment the folder of weights is there
                while process.poll() is None and not any(p.name.startswith("out.partial-") for p in place.iterdir()):
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, 0.9 * seconds))
            else:
                time.sleep(chance.uniform(0, seconds))
            if process.poll() is not None:
                finished += 1
                if finished > 20 * arguments.kills:
                    break
                continue
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            left = list(place.iterdir())
            inside += any(p.name.startswith("out.partial-") for p in left)
            for path in left:
                if path.name == "out":  # in place: then it must be whole
                    found = digest(path)
                    found.pop("README.md", None)
                    half += [] if found == expected else [f"kill {killed}: out is not the finished merge"]
                elif problem := loads(path):
                    half.append(f"kill {killed}: {problem}")
            shutil.rmtree(place / "out", ignore_errors=True)
            again = program.run(*command(place / "out"))
            found = digest(place / "out") if again.returncode == 0 else {}
            found.pop("README.md", None)
            if found != expected:
                unequal.append(f"kill {killed}: {again.stderr[-200:] or 'other bytes'}")
        report.note("kills, of them while weights were being written", f"{killed}, {inside}")
        report.equals("kills that hit a running merge", killed, arguments.kills)
        report.identical("folders that load half-merged after SIGKILL", "; ".join(half[:3]))
        report.identical("the same command after each kill", "; ".join(unequal[:3]))
        for number in [signal.SIGTERM, signal.SIGINT]:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            process = program.start(*command(place / "out"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not any(p.name.startswith("out.partial-") for p in place.iterdir()):
                time.sleep(0.001)
            process.send_signal(number)
            code = process.wait()
            left = ", ".join(p.name for p in place.iterdir())
            report.holds(f"{number.name} ends with {128 + number} and leaves nothing", code == 128 + number and not left,
                         f"exit {code}, left: {left or 'nothing'}")
    report.exit()


if __name__ == "__main__":
    main()
