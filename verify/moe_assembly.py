"""Mixtures of experts made from dense models, read by transformers (spec row 17).

    .deps/oracle/bin/python verify/moe_assembly.py

- identical experts: the mixture's logits are the dense model's, whatever the gate, in both layouts (limit 1e-5);
- different experts behind a gate that always chooses one: the logits of the base with that expert's MLPs;
- the routers' rows are the hidden states that transformers computes, prompt by prompt;
- tensors beside mergekit-moe's for the same file: equal bit for bit, router rows to 1e-5; DeepSeek MoE too, which
  transformers has no code for, and Qwen3-MoE, which it reads (its dense base is not run here: gates without prompts).
"""

import json
import subprocess
import sys

import torch
import transformers
import yaml
from safetensors import safe_open

import models
from common import REPOSITORY, Program, Report, Workspace, parser

LIMIT = 1e-5
POSITIVE = [["the quiet river", "seven bright needles"], ["Größe 東京 in 1999"]]
NEGATIVE = [None, ["a narrow bridge"]]
torch.set_num_threads(1)


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def logits(folder, ids):
    with torch.no_grad():
        return load(folder)(ids).logits


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def write_moe(path, base, experts, gate, **more):
    entries = [{"source_model": str(e), "positive_prompts": POSITIVE[i % 2] + [f"number {i}"]} for i, e in enumerate(experts)]
    for entry, negative in zip(entries, NEGATIVE):
        if negative:
            entry["negative_prompts"] = negative
    path.write_text(yaml.safe_dump({"base_model": str(base), "gate_mode": gate, "experts": entries, **more}))
    return path


def shared(model):
    """A shared expert that adds nothing: its output is multiplied by 0."""
    return [{"source_model": str(model), "positive_prompts": ["all of it"], "residual_scale": 0}]


def moved(source, target, seed):
    """The model with other MLPs."""
    model = load(source)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".mlp." in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    model.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def check_identical(report, program, work, name, base, ids, more):
    dense = logits(base, ids)
    for gate in ["hidden", "hidden_avg", "cheap_embed", "random", "uniform_random"]:
        layouts = ["separate", "fused"] if gate in ("hidden", "random") else ["separate"]
        for layout in layouts:
            config = write_moe(work / "moe.yaml", base, [base] * 4, gate, **more)
            out = work / f"{name}-{gate}-{layout}"
            program.must("merge", "moe", config, out, "--layout", layout, "--allow-equal-experts", "--dtype", "fp32")
            report.at_most(f"{name}, {gate}, {layout}: identical experts, logits", relative(logits(out, ids), dense), LIMIT)


def check_chosen(report, program, work, name, base, experts, ids, more):
    """Router rows that give every token of `ids` to one expert, by solving for them at each layer."""
    config = write_moe(work / "moe.yaml", base, experts, "random", experts_per_token=1, **more)
    out = work / f"{name}-chosen"
    program.must("merge", "moe", config, out)
    for chosen in range(len(experts)):
        reference = load(base)
        source = dict(load(experts[chosen]).named_parameters())
        with torch.no_grad():
            for key, weight in reference.named_parameters():
                if ".mlp." in key:
                    weight.copy_(source[key])
        inputs = []
        hooks = [layer.mlp.register_forward_pre_hook(lambda _, x: inputs.append(x[0][0].double())) for layer in reference.model.layers]
        with torch.no_grad():
            wanted = reference(ids).logits
        for hook in hooks:
            hook.remove()
        mixture = load(out)
        with torch.no_grad():
            for layer, x in zip(mixture.model.layers, inputs):
                # x u = 1 for every token, so +u wins everywhere and -u loses
                row = 1e3 * (torch.linalg.pinv(x) @ torch.ones(len(x), dtype=torch.float64))
                assert (x @ row).min() > 100
                sign = torch.tensor([1.0 if e == chosen else -1.0 for e in range(len(experts))])
                layer.mlp.gate.weight.copy_(sign[:, None] * row.float())
            found = mixture(ids).logits
        report.at_most(f"{name}: gate on expert {chosen}, logits", relative(found, wanted), LIMIT)


def check_gates(report, program, work, base, experts):
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = load(base)

    def states(prompts, average):
        rows = []
        for prompt in prompts:
            ids = tokenizer((tokenizer.bos_token or "") + prompt, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                h = torch.stack(model(ids, output_hidden_states=True).hidden_states[:-1])[:, 0]
            rows.append(h.mean(1) if average else h[:, -1])
        return torch.stack(rows).mean(0)

    for gate in ["hidden", "hidden_avg"]:
        config = write_moe(work / "moe.yaml", base, experts, gate)
        out = work / f"gates-{gate}"
        program.must("merge", "moe", config, out, "--dtype", "fp32")
        found, worst = tensors(out), 0.0
        for e, entry in enumerate(yaml.safe_load(config.read_text())["experts"]):
            vector = states(entry["positive_prompts"], gate == "hidden_avg")
            if "negative_prompts" in entry:
                vector = vector - states(entry["negative_prompts"], gate == "hidden_avg")
            vector = vector / vector.norm(dim=-1, keepdim=True)
            for layer in range(len(vector)):
                row = found[f"model.layers.{layer}.block_sparse_moe.gate.weight"][e]
                worst = max(worst, (row - vector[layer]).abs().max().item())
        report.at_most(f"router rows, {gate}, beside transformers", worst, LIMIT)


def check_mergekit(report, program, work, base, experts):
    config = write_moe(work / "moe.yaml", base, experts, "cheap_embed", dtype="bfloat16")
    theirs, ours = work / "mergekit-moe", work / "ours-moe"
    command = [str(REPOSITORY / ".deps/oracle/bin/mergekit-moe"), str(config), str(theirs)]
    result = subprocess.run(command, capture_output=True, text=True)
    report.equals("mergekit-moe runs", result.returncode, 0)
    if result.returncode:
        return print(result.stderr[-800:], file=sys.stderr)
    program.must("merge", "moe", config, ours, "--layout", "fused", "--dtype", "fp32")
    a, b = tensors(ours), tensors(theirs)
    report.identical("beside mergekit-moe: names", " ".join(sorted(set(a) ^ set(b))[:4]))
    unequal = [name for name in a if name in b and not name.endswith("gate.weight") and not torch.equal(a[name], b[name])]
    report.identical("beside mergekit-moe: tensors", " ".join(unequal[:4]))
    gates = [name for name in a if name in b and name.endswith("gate.weight")]
    # both are rounded to bf16 from sums in different orders
    report.at_most("beside mergekit-moe: router rows", max((a[n].float() - b[n].float()).abs().max().item() for n in gates), 2e-3)
    keys = ["model_type", "num_local_experts", "num_experts_per_tok", "hidden_size", "vocab_size", "rope_parameters"]
    one, other = [transformers.AutoConfig.from_pretrained(folder).to_dict() for folder in (ours, theirs)]
    report.identical("beside mergekit-moe: config", " ".join(k for k in keys if one.get(k) != other.get(k)))


def check_deepseek(report, program, work, base, experts):
    """Tensors and config beside mergekit's; transformers cannot load the family."""
    config = write_moe(work / "deepseek.yaml", base, experts, "cheap_embed", dtype="float32",
                       shared_experts=[{"source_model": str(base)}])
    theirs, ours = work / "mergekit-deepseek", work / "ours-deepseek"
    result = subprocess.run([str(REPOSITORY / ".deps/oracle/bin/mergekit-moe"), str(config), str(theirs)],
                            capture_output=True, text=True)
    report.equals("DeepSeek MoE: mergekit-moe runs", result.returncode, 0)
    if result.returncode:
        return print(result.stderr[-800:], file=sys.stderr)
    program.must("merge", "moe", config, ours)
    a, b = tensors(ours), tensors(theirs)
    report.identical("DeepSeek MoE beside mergekit-moe: names", " ".join(sorted(set(a) ^ set(b))[:4]))
    unequal = [n for n in a if n in b and not n.endswith("mlp.gate.weight") and not torch.equal(a[n], b[n])]
    report.identical("DeepSeek MoE beside mergekit-moe: tensors", " ".join(unequal[:4]))
    gates = [n for n in a if n in b and n.endswith("mlp.gate.weight")]
    # theirs come from embeddings rounded to bf16
    report.at_most("DeepSeek MoE beside mergekit-moe: router rows", max(
        (a[n] - b[n]).abs().max().item() for n in gates), 2e-3)
    one, other = [json.loads((folder / "config.json").read_text()) for folder in (ours, theirs)]
    keys = ["architectures", "model_type", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "auto_map",
            "first_k_dense_replace", "moe_layer_freq", "scoring_func", "norm_topk_prob", "moe_intermediate_size"]
    report.identical("DeepSeek MoE beside mergekit-moe: config", " ".join(k for k in keys if one.get(k) != other.get(k)))


def check_qwen3(report, program, work, base, ids):
    """Identical experts: the mixture, read by transformers, gives the dense model's logits."""
    for layout in ["separate", "fused"]:
        config = write_moe(work / "qwen3.yaml", base, [base] * 4, "random")
        out = work / f"qwen3-{layout}"
        program.must("merge", "moe", config, out, "--layout", layout, "--allow-equal-experts", "--dtype", "fp32")
        report.at_most(f"Qwen3-MoE from Qwen3, {layout}: identical experts, logits",
                       relative(logits(out, ids), logits(base, ids)), LIMIT)


def main():
    arguments = parser(__doc__).parse_args()
    report, program = Report(), Program(arguments.needletail)
    transformers.utils.logging.set_verbosity_error()
    with Workspace(arguments) as work:
        families = {
            "Mixtral from Llama": ("llama_gqa", False), "Mixtral from Llama, tied, sharded": ("llama_tied", False),
            "Mixtral from Mistral with a window": ("mistral_window", False), "Qwen-MoE from Qwen2": ("qwen2", True),
            "Qwen-MoE from Llama": ("llama_rope_llama3", True),
        }
        for i, (name, (model, has_shared)) in enumerate(families.items()):
            base = models.write_tiny(work, model)
            ids = torch.randint(5, 150, (1, 20), generator=torch.Generator().manual_seed(arguments.seed))
            more = {"shared_experts": shared(base)} if has_shared else {}
            folder = work / f"f{i}"
            folder.mkdir()
            check_identical(report, program, folder, name, base, ids, more)
            experts = [moved(base, folder / f"expert{e}", e) for e in range(2)]
            check_chosen(report, program, folder, name, base, experts, ids, more)
            if model == "llama_gqa":
                check_gates(report, program, folder, base, experts)
                check_mergekit(report, program, folder, base, experts)
                check_deepseek(report, program, folder, base, experts)
        check_qwen3(report, program, work, models.write_tiny(work, "qwen3"), ids)
    report.exit()


if __name__ == "__main__":
    main()
