"""Kinship of three models beside numpy in f64, through the command line (spec 2.2; within 1e-9).

    .deps/oracle/bin/python verify/kinship.py

A random Llama and three changes of it of different size and likeness, in f32, bf16 and f16, tied and untied, in one shard
and in three, one of them an adapter: every metric of every pair, of the whole and by layer, module and tensor, as
`kinship --json` prints them, against numpy on the same files. Then what must be refused: exit 65, one line, nothing written.
"""

import json

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from common import Program, Report, Workspace, one_line, parser

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
METRICS = ["pcc", "cs", "abs_cs", "ed"]
LIMIT = 1e-9


# -- models -----------------------------------------------------------------------------------------------------------

def write_family(folder, kind, tied, shards):
    """`base`, and three models whose changes differ in size and share a part."""
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, dtype=TYPES[kind])
    base = {k: w for k, w in transformers.LlamaForCausalLM(config).state_dict().items() if not (tied and k == "lm_head.weight")}
    common = {k: torch.randn(w.shape) for k, w in base.items()}
    write(folder / "base", config, base, kind, shards)
    for name, size, share in [("a", 3e-2, 0.5), ("b", 1e-2, 0.5), ("c", 5e-3, -0.2)]:
        change = {k: size * (share * common[k] + torch.randn(w.shape)) for k, w in base.items()}
        write(folder / name, config, {k: w.float() + change[k] for k, w in base.items()}, kind, shards)
    return folder


def write(folder, config, weights, kind, shards=1):
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    weights = {k: w.to(TYPES[kind]).contiguous() for k, w in weights.items()}
    if shards == 1:
        return save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    place = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(sorted(weights.items())[i::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


def write_adapter(folder, base, rank=4, alpha=8):
    """A LoRA adapter in peft's form on the queries, and the weights that it stands for, in f64."""
    folder.mkdir()
    generator, tensors, whole = torch.Generator().manual_seed(9), {}, {k: w.double() for k, w in base.items()}
    for name, w in base.items():
        if name.endswith("q_proj.weight"):
            a, b = [0.2 * torch.randn(s, generator=generator) for s in [(rank, w.shape[1]), (w.shape[0], rank)]]
            stem = "base_model.model." + name.removesuffix(".weight")
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
            # Read into f64, the weight and its correction are added there, without a rounding between.
            whole[name] = (w.double() + (alpha / rank) * (b.double() @ a.double()))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"],
        "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False, "base_model_name_or_path": "base"}))
    return whole


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


# -- numpy ------------------------------------------------------------------------------------------------------------

def change(weights, base, names):
    return np.concatenate([(weights[k].double() - base[k].double()).numpy().ravel() for k in names])


def similarity(metric, x, y):
    """From the definitions, each by its own route: numpy's corrcoef, norms and differences."""
    if metric == "ed":
        return np.linalg.norm(x - y)
    if metric == "pcc":
        return np.corrcoef(x, y)[0, 1]
    cosine = x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
    return abs(cosine) if metric == "abs_cs" else cosine


def gap(printed, changes):
    """The largest difference of a printed object's matrices from numpy's."""
    return max(abs(printed[m][i][j] - similarity(m, changes[i], changes[j]))
               for m in METRICS for i in range(len(changes)) for j in range(len(changes)))


def group(name, kind):
    if kind == "tensor":
        return name
    stem = name.removesuffix(".weight").removeprefix("model.")
    if not stem.startswith("layers."):
        return stem
    _, layer, rest = stem.split(".", 2)
    return f"layer {layer}" if kind == "layer" else rest


# -- checks -----------------------------------------------------------------------------------------------------------

def kinship(program, folder, models, *options):
    """`models` are names in the folder."""
    result = program.must("kinship", *[folder / m for m in models], "--base", folder / "base",
                          "--metric", ",".join(METRICS), "--json", *options)
    return json.loads(result.stdout)


def check(report, program, folder, label):
    base, models = tensors(folder / "base"), [tensors(folder / m) for m in "abc"]
    names = sorted(base)
    printed = kinship(program, folder, "abc")
    report.at_most(f"{label}: every metric of every pair, largest difference", gap(printed, [change(m, base, names) for m in models]), LIMIT)
    for kind in ["layer", "module", "tensor"]:
        printed = kinship(program, folder, "abc", "--by", kind)
        groups, worst = {}, 0.0
        for name in names:
            groups.setdefault(group(name, kind), []).append(name)
        for one in printed["by"]["groups"]:
            worst = max(worst, gap(one, [change(m, base, groups[one["name"]]) for m in models]))
        report.equals(f"{label}: groups by {kind}", len(printed["by"]["groups"]), len(groups))
        report.at_most(f"{label}: by {kind}, largest difference", worst, LIMIT)
    if "lm_head.weight" not in base:
        twice = names + ["model.embed_tokens.weight"]
        printed = kinship(program, folder, "abc", "--count-tied-twice")
        report.at_most(f"{label}: tied table counted twice", gap(printed, [change(m, base, twice) for m in models]), LIMIT)


def check_adapter(report, program, folder):
    base = tensors(folder / "base")
    whole, names = write_adapter(folder / "adapter", base), sorted(base)
    changes = [change(m, base, names) for m in (whole, tensors(folder / "a"), tensors(folder / "b"))]
    report.at_most("an adapter with two models, largest difference", gap(kinship(program, folder, ["adapter", "a", "b"]), changes), LIMIT)


def check_refusals(report, program, folder):
    base = tensors(folder / "base")
    config = transformers.LlamaConfig.from_pretrained(folder / "base")
    nan = {k: w.clone() for k, w in tensors(folder / "a").items()}
    nan["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    lacking = {k: w for k, w in tensors(folder / "a").items() if not k.startswith("model.layers.2.self_attn.q_proj")}
    other = {k: w.clone() for k, w in tensors(folder / "a").items()}
    other["model.layers.0.self_attn.q_proj.weight"] = other["model.layers.0.self_attn.q_proj.weight"][:, :32]
    stranger = {k: torch.randn(w.shape) for k, w in base.items()}
    for name, weights, said in [
            ("nan", nan, "model.layers.1.mlp.up_proj.weight"), ("lacking", lacking, "model.layers.2.self_attn.q_proj.weight"),
            ("other", other, "model.layers.0.self_attn.q_proj.weight"), ("stranger", stranger, "closer to the base")]:
        write(folder / name, config, weights, "f32")
        out = folder / f"out-{name}"
        result = program.run("kinship", folder / name, folder / "b", "--base", folder / "base", "--output", out)
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        good = result.returncode == 65 and len(lines) == 1 and said in lines[0] and not out.exists() and not result.stdout
        report.holds(f"refused: {name}", good, f"{result.returncode}; {one_line(result.stderr, 120)}", "65, one line, nothing written")
    same = kinship(program, folder, ["base", "b"])
    report.equals("a model that equals the base: pcc, cs undefined, ed a number",
                  [same["pcc"][0][1], same["cs"][0][1], same["ed"][0][1] > 0], [None, None, True])


def main():
    arguments = parser(__doc__).parse_args()
    transformers.utils.logging.set_verbosity_error()
    report, program = Report(), Program(arguments.needletail)
    with Workspace(arguments) as work:
        for kind, tied, shards in [("f32", False, 1), ("f32", True, 3), ("bf16", False, 3), ("f16", True, 1)]:
            label = f"{kind}, {'tied' if tied else 'untied'}, {shards} shard{'s' if shards > 1 else ''}"
            check(report, program, write_family(work / f"{kind}-{tied}", kind, tied, shards), label)
        check_adapter(report, program, work / "f32-False")
        check_refusals(report, program, work / "f32-False")
    report.exit()


if __name__ == "__main__":
    main()
