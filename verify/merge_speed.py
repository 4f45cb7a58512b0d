"""Time and memory of merging 1.1B-parameter models beside mergekit (what must be shown of merging, item 2).

    .deps/oracle/bin/python verify/merge_speed.py [--work FOLDER] [--layers 22]

Three random bf16 models in TinyLlama's shape (22 layers, width 2048) are made on the spot, a base and two fine-tunes of it
(6.6 GB, removed afterwards), and merged by linear, slerp and TIES: once by mergekit, and by the program once for each shard
size. CPU seconds are the child's own (user and system, getrusage); what mergekit's imports alone take is measured apart and
subtracted. Memory is the largest anonymous resident size (RssAnon, sampled): mapped checkpoints do not count on either side.
"""

import pathlib
import shutil
import sys

import torch
import transformers
import yaml
from safetensors.torch import save_file

from common import Program, Report, Workspace, measure, parser

FASTER, MEMORY = 3, 400e6
SHARDS = ["200MB", "5GB"]
torch.set_num_threads(1)


def shapes(layers):
    """TinyLlama's tensors."""
    yield "model.embed_tokens.weight", (32000, 2048)
    for i in range(layers):
        at = f"model.layers.{i}."
        for name, rows, columns in [("q_proj", 2048, 2048), ("k_proj", 256, 2048), ("v_proj", 256, 2048), ("o_proj", 2048, 2048)]:
            yield f"{at}self_attn.{name}.weight", (rows, columns)
        for name, rows, columns in [("gate_proj", 5632, 2048), ("up_proj", 5632, 2048), ("down_proj", 2048, 5632)]:
            yield f"{at}mlp.{name}.weight", (rows, columns)
        yield f"{at}input_layernorm.weight", (2048,)
        yield f"{at}post_attention_layernorm.weight", (2048,)
    yield "model.norm.weight", (2048,)
    yield "lm_head.weight", (32000, 2048)


def write_models(work, layers, seed):
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=4, dtype=torch.bfloat16, architectures=["LlamaForCausalLM"])
    generator = torch.Generator().manual_seed(seed)
    base = {name: (0.02 * torch.randn(shape, generator=generator)).bfloat16() for name, shape in shapes(layers)}
    for name in ["base", "a", "b"]:
        weights = base
        if name != "base":
            weights = {key: (w + 0.004 * torch.randn(w.shape, generator=generator)).bfloat16() for key, w in base.items()}
        config.save_pretrained(work / name)
        save_file(weights, work / name / "model.safetensors", metadata={"format": "pt"})
    return sum(w.numel() for w in base.values())


def configs(work):
    pair = lambda *parameters: [
        {"model": str(work / m), **({"parameters": p} if p else {})} for m, p in zip("ab", parameters or (None, None))]
    yield "linear", {"merge_method": "linear", "models": pair({"weight": 0.6}, {"weight": 0.4})}
    yield "slerp", {"merge_method": "slerp", "base_model": str(work / "a"), "models": pair(), "parameters": {"t": 0.35}}
    half = {"weight": 0.5, "density": 0.5}
    yield "ties", {"merge_method": "ties", "base_model": str(work / "base"), "models": pair(half, half)}


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--layers", type=int, default=22)
    arguments.add_argument("--methods", nargs="+", choices=["linear", "slerp", "ties"], default=["linear", "slerp", "ties"])
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail)
    scripts = pathlib.Path(sys.executable).parent
    environment = {**program.environment, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with Workspace(arguments) as work:
        try:
            parameters = write_models(work, arguments.layers, arguments.seed)
            report.note("parameters of a model", f"{parameters / 1e9:.3f} billion")
            imports = min(sum(measure([sys.executable, "-c", "import mergekit.scripts.run_yaml, mergekit.merge"], environment, work / "log")[1]) for _ in range(2))
            report.note("mergekit's imports, CPU seconds", f"{imports:.2f}")
            for name, config in configs(work):
                if name in arguments.methods:
                    compare(report, name, config, program, scripts, environment, work, imports)
        finally:
            for model in ["base", "a", "b", "ours", "theirs"]:
                shutil.rmtree(work / model, ignore_errors=True)
    report.exit()


def compare(report, name, config, program, scripts, environment, work, imports):
    path, log = work / f"{name}.yaml", work / "log"
    path.write_text(yaml.safe_dump({**config, "dtype": "bfloat16"}))
    mine = []
    for shard in SHARDS:
        code, cpu, wall, peak = measure([program.path, "merge", "run", str(path), str(work / "ours"), "--shard-size", shard], environment, log)
        report.equals(f"{name}, shards of {shard}: exit code", code, 0)
        if code:
            print(log.read_text()[-600:], file=sys.stderr)
        report.note(f"{name}, shards of {shard}: CPU seconds (user, system), wall seconds", f"{sum(cpu):.2f} ({cpu[0]:.2f}, {cpu[1]:.2f}), {wall:.2f}")
        report.at_most(f"{name}, shards of {shard}: peak anonymous memory, MB", peak / 1e6, MEMORY / 1e6)
        mine.append(sum(cpu))
        shutil.rmtree(work / "ours", ignore_errors=True)
    command = [str(scripts / "mergekit-yaml"), str(path), str(work / "theirs"), "--no-write-model-card", "--no-copy-tokenizer", "--quiet"]
    code, cpu, wall, peak = measure(command, environment, log)
    report.equals(f"{name}, mergekit: exit code", code, 0)
    if code:
        print(log.read_text()[-600:], file=sys.stderr)
    report.note(f"{name}, mergekit: CPU seconds without imports, wall seconds, peak MB", f"{sum(cpu) - imports:.2f}, {wall:.2f}, {peak / 1e6:.0f}")
    ratio = (sum(cpu) - imports) / (sum(mine) / len(mine))
    report.holds(f"{name}: times fewer CPU seconds than mergekit", ratio >= FASTER, f"{ratio:.2f}", f">= {FASTER}")
    shutil.rmtree(work / "theirs", ignore_errors=True)


if __name__ == "__main__":
    main()
