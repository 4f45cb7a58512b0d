"""Adapters taken out of fine-tuned models, opened by peft.

    .deps/oracle/bin/python verify/lora_extraction.py

- full rank: base and adapter in peft give the fine-tuned model's logits (limit 1e-5);
- a LoRA of rank r merged by peft and extracted at rank r gives the merged model's logits; at rank r - 1 it does not;
- the shares that `--json` reports are those of numpy's singular values.
"""

import json

import numpy
import peft
import torch
import transformers

import models
from common import Program, Report, Workspace, parser

LIMIT = 1e-5
torch.set_num_threads(1)


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def save(model, base, folder):
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def extract(program, tuned, base, out, *options):
    return json.loads(program.must("extract-lora", tuned, out, "--base", base, "--json", *options).stdout)


def with_adapter(base, adapter):
    return peft.PeftModel.from_pretrained(load(base), str(adapter)).eval()


def check_full(report, program, work, name, base, ids):
    model = load(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "proj.weight" in key or "embed_tokens" in key:
                weight.add_(torch.randn_like(weight) * 0.02)
    tuned = save(model, base, work / f"{name}-tuned")
    found = extract(program, tuned, base, work / f"{name}-full", "--rank", "64")
    report.at_most(f"{name}: full rank, logits in peft", relative(logits(with_adapter(base, work / f"{name}-full"), ids), logits(model, ids)), LIMIT)
    report.equals(f"{name}: tables saved", [t["name"] for t in found["saved"]], ["model.embed_tokens.weight"])
    cut = extract(program, tuned, base, work / f"{name}-cut", "--rank", "8")
    one, other = dict(load(tuned).named_parameters()), dict(load(base).named_parameters())
    worst = 0.0
    for module in cut["modules"]:
        key = module["name"] + ".weight"
        s = numpy.linalg.svd((one[key] - other[key]).detach().double().numpy(), compute_uv=False)
        worst = max(worst, abs(module["share"] - numpy.sqrt((s[:8] ** 2).sum() / (s**2).sum())),
                    abs(module["delta_norm"] - numpy.sqrt((s**2).sum())))
    report.at_most(f"{name}: shares and norms beside numpy", worst, 1e-5)


def check_round(report, program, work, name, base, ids):
    torch.manual_seed(2)
    model = peft.get_peft_model(
        load(base), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.normal_(0, 0.1)
    merged = save(model.merge_and_unload(), base, work / f"{name}-merged")
    wanted = logits(load(merged), ids)
    for rank in [4, 3]:
        found = extract(program, merged, base, work / f"{name}-r{rank}", "--rank", rank)
        difference = relative(logits(with_adapter(base, work / f"{name}-r{rank}"), ids), wanted)
        if rank == 4:
            report.at_most(f"{name}: rank 4 again, logits in peft", difference, LIMIT)
            report.at_most(f"{name}: rank 4 again, share missing", 1 - found["share"], 1e-6)
        else:
            report.holds(f"{name}: rank 3 loses something", difference > 1e-3 and found["share"] < 0.999, f"{difference:.2g}, share {found['share']:.3f}")


def main():
    arguments = parser(__doc__).parse_args()
    report, program = Report(), Program(arguments.needletail)
    transformers.utils.logging.set_verbosity_error()
    with Workspace(arguments) as work:
        for name in ["llama_gqa", "qwen2", "llama_sharded"]:
            base = models.write_tiny(work, name)
            ids = torch.randint(5, 150, (1, 24), generator=torch.Generator().manual_seed(arguments.seed))
            check_full(report, program, work, name, base, ids)
            check_round(report, program, work, name, base, ids)
    report.exit()


if __name__ == "__main__":
    main()
