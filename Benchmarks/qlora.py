"""LoRA on quantised bases: held-out loss, memory and speed of the same training on each form of the base.

    .deps/oracle/bin/python Benchmarks/qlora.py [--rows 400] [--write FILE]

Headlines, sarcastic or sincere, and the real SmolLM2-135M-Instruct from its GGUF file (`scripts/fetch-assets smollm2
sarcasm`): one epoch of LoRA of rank 16 on all linear maps in fp32, then 200 rows held out. Then the memory and speed of a
step of a 1.1B Llama shape of random weights (`bench train`), where the base is most of what is held. Runs go one after
another, each in a process of its own; memory is VmHWM, libraries included.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from generation import machine

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent / ".build/release/needletail"
ASSETS = HERE.parent / ".deps/demo"
GGUF = ASSETS / "SmolLM2-135M-Instruct.Q4_1.gguf"
FORMS = ["none", "nf4", "int8", "as_stored"]
NAMES = {"none": "LoRA, base in fp32", "nf4": "QLoRA, base in NF4", "int8": "base in int8 (Q8_0)",
         "as_stored": "base as stored (Q4_1)"}

LLAMA_1B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"}


def run(*words):
    result = subprocess.run([str(word) for word in (PROGRAM, *words)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"needletail {' '.join(map(str, words))}: {result.stderr.strip().splitlines()[-1:]}")
    return result.stdout


def trained(form, work, arguments):
    """What one run ends with."""
    output = work / form
    run("finetune", GGUF, work / "train.jsonl", "--output", output, "--threads", arguments.threads,
        f"model.quantize={form}", "model.dtype=fp32", f"data.validation=[{work / 'held-out.jsonl'}]",
        "optimizer.learning_rate=5e-4", "training.epochs=1", "training.batch_rows=16", "data.max_length=256",
        "training.eval_every=1000", "training.save_every=1000", *arguments.set)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    speeds = sorted(row["tokens_per_second"] for row in rows if "tokens_per_second" in row)
    return {"before": next(row["train/loss"] for row in rows if "train/loss" in row),
            "loss": [row["eval/loss"] for row in rows if "eval/loss" in row][-1],
            "memory": max(row["peak_memory_bytes"] for row in rows if "peak_memory_bytes" in row),
            "speed": speeds[len(speeds) // 2], "steps": max(row["step"] for row in rows)}


def training_table(work, arguments):
    headlines = (ASSETS / "sarcasm.jsonl").read_text().splitlines()
    (work / "train.jsonl").write_text("\n".join(headlines[:arguments.rows]) + "\n")
    (work / "held-out.jsonl").write_text("\n".join(headlines[arguments.rows:arguments.rows + 200]) + "\n")
    found = {}
    for form in FORMS:
        found[form] = trained(form, work, arguments)
        print(f"{form}: {found[form]}", file=sys.stderr, flush=True)
    plain = found["none"]
    lines = [f"### SmolLM2-135M-Instruct on {arguments.rows} headlines, {plain['steps']} steps of 16 rows, fp32, "
             f"{arguments.threads} threads", "",
             "| base | held-out loss, nats a token | beside LoRA | peak memory, MiB | tokens/s |", "|---|---|---|---|---|"]
    for form, figures in found.items():
        lines.append(f"| {NAMES[form]} | {figures['loss']:.4f} | {100 * (figures['loss'] / plain['loss'] - 1):+.1f} % "
                     f"| {figures['memory'] / 2**20:.0f} | {figures['speed']:.0f} |")
    worst = max(figures["loss"] / plain["loss"] - 1 for figures in found.values())
    return [*lines, "", f"First step's loss {plain['before']:.2f}. The farthest above LoRA is {100 * worst:+.1f} %; the goal "
            "is within 5 %.", ""], worst <= 0.05


def step_table(work, arguments):
    path = work / "config.json"
    path.write_text(json.dumps(LLAMA_1B))
    lines = ["### A step of a 1.1B Llama shape, random weights, 1 x 256 tokens, fp32, "
             f"{arguments.threads} threads", "", "| method | tokens/s | peak memory, MiB |", "|---|---|---|"]
    for method in ("lora", "qlora"):
        figures = json.loads(run(
            "bench", "train", "--model", path, "--method", method, "--batch", 1, "--sequence", 256, "--steps", 5,
            "--dtype", "fp32", "--threads", arguments.threads, "--json"))
        lines.append(f"| {method} | {figures['tokens_per_second']:.1f} | {figures['peak_memory_bytes'] / 2**20:.0f} |")
    return lines + [""]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--write", help="also write the tables to this file")
    parser.add_argument("--set", nargs="*", default=[], help="more key=value of every run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        table, is_close = training_table(work, arguments)
        text = "\n".join([f"Quantised bases. {machine()}", "", *table, *step_table(work, arguments)])
    print(text)
    if arguments.write:
        pathlib.Path(arguments.write).write_text(text)
    sys.exit(0 if is_close else 1)


if __name__ == "__main__":
    main()
