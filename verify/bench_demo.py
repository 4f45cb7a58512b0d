"""The demo, or other rows, beside peft: tokens per second and peak memory on the same rows.

    .deps/oracle/bin/python verify/bench_demo.py --run runs/demo [--model FOLDER_OR_GGUF]
    .deps/oracle/bin/python verify/bench_demo.py --rows alpaca_en_demo.json --model FOLDER_OR_GGUF

peft trains as the demo does (LoRA r 16 on all linear layers, learning rate 5e-4, 16 rows a step), in bf16 where the
processor has instructions for it and else in fp32, as much of a step at once as is fastest, each way of making batches in
its own process, and its fastest counts:
  padded    16 rows padded to the longest
  grouped   the same, rows of similar length together
  packed    one sequence a step, documents kept apart by a block-diagonal mask and their own positions
  trained   packed, and logits only where there is a label (`logits_to_keep`)
Documents come from the run's `batches.jsonl` when it was recorded, else from the rows it was trained on (beside it, in
`<run>-rows/train.jsonl`), rendered by transformers with the model's chat template; they must have as many trained tokens
as the run. With --rows the program first trains on that file for a few steps, whose batches it records: rows of any
length, every one as long as it is. Needletail is measured in the same session: the run's config for a few steps in a new folder, and what
`summary.json` says. Tokens are real tokens, never padding.
"""

import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time

import peft
import torch
import transformers
import yaml

from common import REPOSITORY, Program, Report, Workspace, override, parser, read_rows, setting
from demo import answer_tokens, rows_of
from training import documents

BATCHINGS = ("padded", "grouped", "packed", "trained")
VARIANTS = [f"{dtype}-{batching}" for dtype in ("fp32", "bf16") for batching in BATCHINGS]
FAST_DTYPE = "bf16" if re.search(r"\b(avx512_bf16|amx_bf16)\b", pathlib.Path("/proc/cpuinfo").read_text()) else "fp32"
ROWS_PER_STEP = 16
# Of a forward pass of peft: rows of 636 tokens 16 at once pass 24 GiB, and 4096 tokens at once are slower than 1024.
TOKENS_AT_ONCE = 1024


# -- documents --------------------------------------------------------------------------------------------------------

def recorded_documents(run):
    return [document for row in read_rows(run / "batches.jsonl") for document in documents(row)]


def rendered_documents(path, model):
    """(ids, shifted labels) of chat rows, in their order; trained are the answer and the token that ends it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    return [shifted(*answer_tokens(tokenizer, row["messages"])) for row in read_rows(path)]


def shifted(ids, start, end):
    return ids, [-100] * (start - 1) + ids[start:end] + [-100] * (len(ids) - end + 1)


def documents_of(run, model, report):
    """What the run was trained on, and whether that is known to be all of it."""
    recorded = (run / "batches.jsonl").exists()
    rows = recorded_documents(run) if recorded else rendered_documents(rows_of(run) / "train.jsonl", model)
    lengths = sorted(len(ids) for ids, _ in rows)
    report.note("documents", f"{len(rows)}, {sum(lengths) / len(rows):.1f} tokens each ({lengths[0]} to {lengths[-1]}), "
                             f"{'recorded by the run' if recorded else 'rendered by transformers'}")
    if not (run / "summary.json").exists():  # not the demo's
        return rows
    trained = sum(label != -100 for _, labels in rows for label in labels)
    report.equals("trained tokens, the run's and of these documents", trained,
                  json.loads((run / "summary.json").read_text())["trained_tokens"])
    return rows


# -- peft -------------------------------------------------------------------------------------------------------------

def steps_of(rows, batching):
    """Groups of 16 documents; grouped: sorted by length within windows of eight steps."""
    if batching == "grouped":
        window = 8 * ROWS_PER_STEP
        rows = [row for start in range(0, len(rows), window)
                for row in sorted(rows[start:start + window], key=lambda row: len(row[0]))]
    return [rows[start:start + ROWS_PER_STEP] for start in range(0, len(rows), ROWS_PER_STEP)]


def micro_batches(rows, batching):
    """A step's rows, as many at once as give at most TOKENS_AT_ONCE tokens, padding included."""
    parts = [[]]
    for row in rows:
        lengths = [len(ids) for ids, _ in parts[-1] + [row]]
        size = max(lengths) * len(lengths) if batching in ("padded", "grouped") else sum(lengths)
        if parts[-1] and size > TOKENS_AT_ONCE:
            parts.append([])
        parts[-1].append(row)
    return parts


def padded_inputs(rows, pad):
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows])
    return dict(input_ids=ids, attention_mask=mask), labels


def packed_inputs(rows, dtype):
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    document = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    allowed = (document[:, None] == document[None]) & torch.ones(len(document), len(document)).tril().bool()
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[None, None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    ids = torch.tensor([[i for ids, _ in rows for i in ids]])
    return dict(input_ids=ids, position_ids=positions, attention_mask=mask), torch.tensor(
        [[label for _, labels in rows for label in labels]])


def measure(variant, model_path, documents_path, seconds):
    """One way of training; prints a JSON line."""
    dtype_name, batching = variant.split("-")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype_name]
    rows = json.loads(pathlib.Path(documents_path).read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype, attn_implementation="sdpa")
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0, fused=True)
    tokens, labelled, times = [], [], []
    end = None
    for k, step in enumerate(steps_of(rows, batching)):
        began = time.perf_counter()
        count, loss = sum(label != -100 for _, labels in step for label in labels), 0
        for part in micro_batches(step, batching):
            if batching in ("padded", "grouped"):
                inputs, labels = padded_inputs(part, 0)
            else:
                inputs, labels = packed_inputs(part, dtype)
            if batching == "trained":
                kept = (labels[0] != -100).nonzero()[:, 0]
                inputs["logits_to_keep"], labels = kept, labels[:, kept]
            logits = model(**inputs, use_cache=False).logits.float()
            summed = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / count
            summed.backward()
            loss += summed.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if k == 1:  # two steps of warm-up
            end = time.perf_counter() + seconds
        if k >= 2:
            times.append(time.perf_counter() - began)
            tokens.append(sum(len(ids) for ids, _ in step))
            labelled.append(count)
            if time.perf_counter() > end and len(times) >= 3:
                break
    speeds = [n / t for n, t in zip(tokens, times)]
    print(json.dumps({
        "variant": variant, "steps": len(times), "tokens_per_second": sum(tokens) / sum(times),
        "trained_tokens_per_second": sum(labelled) / sum(times), "slowest": min(speeds), "fastest": max(speeds),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "last_loss": loss}))


def run_variant(variant, model, documents_path, seconds, threads):
    """In a process of its own, so that peak memory is this variant's."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run(
        [sys.executable, __file__, "--variant", variant, "--model", str(model), "--documents", str(documents_path),
         "--seconds", str(seconds)], env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{variant}: {result.stderr[-500:]}")
    return json.loads(result.stdout.splitlines()[-1])


def as_folder(model, work):
    """A Hugging Face folder of a GGUF file, written by transformers."""
    if model.is_dir():
        return model
    folder = work / "base"
    source = dict(pretrained_model_name_or_path=model.parent, gguf_file=model.name)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    loaded.config.quantization_config = None
    del loaded.config.quantization_config
    plain = transformers.AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    return folder


# -- needletail -------------------------------------------------------------------------------------------------------

def needletail_now(program, run, work, steps):
    """Median speed over a few steps of the run's own config, and its peak memory, measured in this session."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    overrides = [override("output", work / "now"), "training.epochs=null", override("steps", steps),
                 override("log_every", 1)]
    if setting(config, "record_batches") is not None:
        overrides.append(override("record_batches", "false"))
    program.must("train", run / "config.yaml", *overrides, timeout=1800)
    rows = [row for row in read_rows(work / "now" / "metrics.jsonl") if "tokens_per_second" in row][2:]
    return {"tokens_per_second": statistics.median(row["tokens_per_second"] for row in rows),
            "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows)}


def recorded_run(program, model, rows, work, steps):
    """A run of LoRA as the variants train it, on a file of rows, which records its batches."""
    settings = {"output": work / "run", "steps": steps, "record_batches": "true", "rows_per_step": ROWS_PER_STEP,
                "validation_rows": 0, "learning_rate": 5e-4, "max_grad_norm": 1.0, "log_every": 1}
    program.must("finetune", model, rows, *[override(key, value) for key, value in settings.items()], timeout=3600)
    return work / "run"


def show(report, name, figures):
    report.note(name, f"{figures['tokens_per_second']:.0f} tokens/s, "
                      f"{figures['peak_memory_bytes'] / 2**20:.0f} MiB at peak")


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=pathlib.Path, default=REPOSITORY / "runs/demo", help="the demo's run folder")
    arguments.add_argument("--rows", type=pathlib.Path, help="train on this file instead of looking at a run")
    arguments.add_argument("--model", type=pathlib.Path, help="folder or GGUF (default: the run's model)")
    arguments.add_argument("--seconds", type=float, default=20, help="measured time per variant")
    arguments.add_argument("--steps", type=int, default=25, help="steps of needletail measured in this session")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--variants", nargs="+", choices=VARIANTS,
                           default=[v for v in VARIANTS if v.startswith(FAST_DTYPE)])
    arguments.add_argument("--variant", choices=VARIANTS, help="(internal) measure one and print JSON")
    arguments.add_argument("--documents", help="(internal)")
    arguments = arguments.parse_args()
    if arguments.variant:
        return measure(arguments.variant, arguments.model, arguments.documents, arguments.seconds)

    report, program = Report(), Program(arguments.needletail, arguments.threads)
    with Workspace(arguments) as work:
        run = arguments.run
        if arguments.rows:
            run = recorded_run(program, arguments.model, arguments.rows.resolve(), work, arguments.steps)
        config = yaml.safe_load((run / "config.yaml").read_text())
        model = as_folder(arguments.model or pathlib.Path(setting(config, "model")), work)
        (work / "documents.json").write_text(json.dumps(documents_of(run, model, report)))
        found = [run_variant(v, model, work / "documents.json", arguments.seconds, arguments.threads)
                 for v in arguments.variants]
        for figures in found:
            show(report, f"peft {figures['variant']}", figures)
        best = max(found, key=lambda figures: figures["tokens_per_second"])
        now = needletail_now(program, run, work, arguments.steps)
        show(report, "needletail, this session", now)
        if (run / "summary.json").exists():
            show(report, "needletail, summary.json", json.loads((run / "summary.json").read_text()))
        report.note(f"needletail against peft's fastest ({best['variant']})",
                    f"speed x{now['tokens_per_second'] / best['tokens_per_second']:.2f}, "
                    f"memory x{now['peak_memory_bytes'] / best['peak_memory_bytes']:.2f}")
    report.exit()


if __name__ == "__main__":
    main()
