"""Adapters in both directions (what must be shown, item 7).

    .deps/oracle/bin/python verify/adapters.py

Ours: after a short run, the adapter folder opens in peft and the folder that `needletail merge-adapter` wrote opens in
transformers; both give the log-probabilities of `needletail score` on the same folder. Theirs: adapters written by peft
with random weights (LoRA, rsLoRA, DoRA, a subset of the layers, a trained head, patterns) are scored and merged by
needletail with the same result. Limit 1e-4.
"""

import json

import peft
import torch
import transformers

import models
from common import Program, Report, Workspace, parser, write_config, write_rows
from score import LIMIT, log_probs, make_rows, score
from training import make_data, settings_of

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# name: (LoraConfig arguments, whether a clean refusal, exit code 65 and one line, is as good as an equal result)
WRITTEN_BY_PEFT = {
    "LoRA on q_proj, v_proj": (dict(target_modules=["q_proj", "v_proj"]), False),
    "rsLoRA on all linear layers": (dict(target_modules="all-linear", use_rslora=True), False),
    "DoRA on o_proj, up_proj": (dict(target_modules=["o_proj", "up_proj"], use_dora=True), False),
    "DoRA and rsLoRA on all linear layers": (dict(target_modules="all-linear", use_dora=True, use_rslora=True), False),
    "LoRA with a trained head": (dict(target_modules=ATTENTION, modules_to_save=["lm_head"]), False),
    "LoRA on the second layer only": (dict(target_modules=ATTENTION, layers_to_transform=[1]), False),
    "LoRA with rank and alpha patterns": (
        dict(target_modules=ATTENTION, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 5}), False),
    "rsLoRA and DoRA with patterns of whole names": (
        dict(target_modules=ATTENTION, use_rslora=True, use_dora=True, rank_pattern={r"model\.layers\.0\.self_attn\.k_proj": 7},
             alpha_pattern={r".*\.1\.self_attn\.[qv]_proj": 3}), False),
    "LoRA on names by a pattern": (dict(target_modules=r".*(self_attn|mlp).*(q_proj|down_proj)"), False),
    "LoRA with maps left out": (dict(target_modules="all-linear", exclude_modules=["up_proj"]), False),
    "LoRA with tables that are not listed": (dict(target_modules=ATTENTION), False),
    "LoRA on the token table": (dict(target_modules=["q_proj", "embed_tokens"], alpha_pattern={"embed_tokens": 3}), False),
    "LoRA on the output table": (dict(target_modules=["q_proj", "lm_head"], rank_pattern={"lm_head": 2}), False),
    "rsLoRA on both tables": (dict(target_modules=["q_proj", "embed_tokens", "lm_head"], use_rslora=True), False),
    "DoRA on the token table": (dict(target_modules=["q_proj", "embed_tokens"], use_dora=True), False),
    "DoRA on both tables": (dict(target_modules=["q_proj", "embed_tokens", "lm_head"], use_dora=True), False),
}
# On a base whose tables are tied: peft parts them.
WRITTEN_BY_PEFT_FOR_TIED = {
    "LoRA on the token table": (dict(target_modules=["q_proj", "embed_tokens"]), False),
    "LoRA on the output table": (dict(target_modules=["q_proj", "lm_head"]), False),
    "LoRA with a trained head": (dict(target_modules=ATTENTION, modules_to_save=["lm_head"]), False),
    "LoRA with a trained token table": (dict(target_modules=ATTENTION, modules_to_save=["embed_tokens"]), False),
    "LoRA with both trained": (dict(target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"]), False),
    "LoRA with both trained and saved as tables": (
        dict(target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"]), False),
}
# On GPT-2, whose maps peft calls `Conv1D`.
WRITTEN_BY_PEFT_FOR_GPT2 = {
    "LoRA on c_attn": (dict(target_modules=["c_attn"], fan_in_fan_out=True), False),
    "rsLoRA on all linear layers": (dict(target_modules="all-linear", use_rslora=True, fan_in_fan_out=True), False),
    "DoRA on c_attn, c_fc": (dict(target_modules=["c_attn", "c_fc"], use_dora=True, fan_in_fan_out=True), False),
    "LoRA with norms and MLPs trained": (dict(target_modules=["c_attn"], modules_to_save=["ln_f", "mlp"], fan_in_fan_out=True), False),
    "LoRA with a wrong fan_in_fan_out and a trained head": (
        dict(target_modules=["c_attn", "c_proj"], modules_to_save=["lm_head"]), False),
}


def largest_difference(model, scored):
    """Between a transformers or peft model and the program, over the ids that the program reports."""
    worst = 0.0
    for result in scored:
        expected = log_probs(model, result["tokens"])
        assert len(expected) == len(result["logprobs"]) - 1, "logprobs and tokens differ in length"
        worst = max([worst] + [abs(a - b) for a, b in zip(expected, result["logprobs"][1:])])
    return worst


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def check_written_by_us(report, program, work, base, method, tables=None):
    """`tables`: also trains and saves the token table (and the head, where the two are not tied)."""
    data, run = work / "train.jsonl", work / f"run-{method}{'-tables' if tables else ''}-{base.name}"
    if not data.exists():
        make_data(data, 60, 4)
    settings = {**settings_of(method, 6), "learning_rate": 1e-2, "warmup_steps": 0, "record_batches": None, "save_embeddings": tables}
    write_config(work / f"{method}.yaml", **settings, model=str(base), train_files=[str(data)], output=str(run))
    program.must("train", work / f"{method}.yaml")
    found = [p.parent for p in run.rglob("adapter_config.json")
             if not {"checkpoints", "initial_adapter"} & set(p.relative_to(run).parts)]
    name = f"ours, {base.name}, {method}{', tables trained' if tables else ''}"
    report.equals(f"{name}: adapter folders in the run", len(found), 1)
    if len(found) == 1:
        check_folder(report, program, work, name, base, found[0])


def check_folder(report, program, work, name, base, adapter, parted=False):
    """Scores and merges one adapter folder on both sides. `parted`: the base's tables are tied, and low-rank maps part them."""
    rows = make_rows(load(base).config.vocab_size)
    model = peft.PeftModel.from_pretrained(load(base), adapter).eval()
    bare = largest_difference(load(base), (scored := score(program, adapter, rows, work)))
    report.at_most(f"{name}: log-prob difference to peft", largest_difference(model, scored), LIMIT)
    report.holds(f"{name}: the adapter changes log-probs", bare > 100 * LIMIT, f"{bare:.3g}", f"> {100 * LIMIT:g}")

    merged = work / f"merged-{adapter.parent.name}-{adapter.name}"
    program.must("merge-adapter", adapter, merged, "--dtype", "fp32")
    report.at_most(f"{name}: merged folder, log-prob difference to transformers",
                   largest_difference(load(merged), score(program, merged, rows, work)), LIMIT)
    report.at_most(f"{name}: merged folder against the adapter in peft",
                   largest_difference(model, score(program, merged, rows, work)), LIMIT)
    if parted:  # peft adds what it has learnt of one table to the other one too
        return
    theirs, ours = model.merge_and_unload().state_dict(), load(merged).state_dict()
    report.equals(f"{name}: tensors of the merged folder missing or too many", sorted(set(theirs) ^ set(ours)), [])
    report.at_most(f"{name}: largest difference of merged weights", max(
        float((theirs[key] - ours[key]).abs().max()) for key in theirs if key in ours), 1e-5)


def write_with_peft(base, folder, arguments, seed, tables):
    """An adapter whose every tensor is random: A, B, the magnitudes, the saved modules and, if wanted, the token table."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(load(base), peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **arguments))
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            scale = 0.1 if "magnitude" in name else 0.15
            parameter.data = parameter.data + scale * torch.randn_like(parameter)
    if tables:
        table = model.get_input_embeddings().weight
        table.data = table.data + 0.15 * torch.randn_like(table)
    model.save_pretrained(folder, save_embedding_layers=tables)


def check_written_by_peft(report, program, work, base, number, name, arguments, may_refuse):
    name = f"{name}, {base.name}"
    folder = work / f"peft-{number}"
    write_with_peft(base, folder, arguments, number, "tables" in name)
    if may_refuse and refused(program, work, folder):
        report.holds(f"peft's {name}: refused with exit code 65 and one line", True)
        return
    tied = transformers.AutoConfig.from_pretrained(base).tie_word_embeddings
    check_folder(report, program, work, f"peft's {name}", base, folder, tied and "LoRA on the" in name)


def refused(program, work, folder):
    write_rows(work / "one.jsonl", [{"input_ids": [1, 2, 3]}])
    result = program.run("score", folder, "--input", work / "one.jsonl", "--output", work / "one.out.jsonl")
    return result.returncode == 65 and len(result.stderr.splitlines()) == 1


def check_moved_base(report, program, work, base):
    """An adapter whose base has moved: `--base` finds it, and nothing else is needed."""
    folder = work / "peft-0"
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "no-such/model"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    scored = score(program, folder, [{"input_ids": [1, 5, 9, 33]}], work, "--base", base)
    model = peft.PeftModel.from_pretrained(load(base), folder).eval()
    report.at_most("peft's adapter with --base: log-prob difference", largest_difference(model, scored), LIMIT)


def main():
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    report = Report()
    with Workspace(arguments) as work:
        program = Program(arguments.needletail, NEEDLETAIL_CACHE=str(work / "cache"))
        base, gpt2 = models.write_tiny(work, "llama_gqa"), models.write_tiny(work, "gpt2_untied")
        for name in ["llama_gqa", "gpt2"]:
            for method in ["lora", "rslora", "dora"]:
                check_written_by_us(report, program, work, models.write_tiny(work, name), method)
        for name in ["llama_gqa", "llama_tied", "gpt2", "gpt2_untied", "gpt_neox"]:
            check_written_by_us(report, program, work, models.write_tiny(work, name), "lora", tables=True)
        cases = [(base, *case) for case in WRITTEN_BY_PEFT.items()]
        cases += [(gpt2, *case) for case in WRITTEN_BY_PEFT_FOR_GPT2.items()]
        cases += [(models.write_tiny(work, "llama_tied"), *case) for case in WRITTEN_BY_PEFT_FOR_TIED.items()]
        cases.append((models.write_tiny(work, "gpt_neox"), "LoRA with a trained head", (
            dict(target_modules=["query_key_value"], modules_to_save=["lm_head"]), False)))
        cases.append((models.write_tiny(work, "qwen2"), "LoRA with maps and norms trained", (
            dict(target_modules=["v_proj"], modules_to_save=["q_proj", "norm", "mlp"]), False)))
        cases.append((models.write_tiny(work, "gpt2"), "LoRA on the token table", (
            dict(target_modules=["c_attn", "wte"], fan_in_fan_out=True), False)))
        for number, (model, name, (options, may_refuse)) in enumerate(cases):
            check_written_by_peft(report, program, work, model, number, name, options, may_refuse)
        check_moved_base(report, program, work, base)
    report.exit()


if __name__ == "__main__":
    main()
