"""The demo, or other rows, beside peft: tokens per second and peak memory on the same rows.

    .deps/oracle/bin/python verify/bench_demo.py --run runs/demo [--model FOLDER_OR_GGUF]
    .deps/oracle/bin/python verify/bench_demo.py --rows alpaca_en_demo.json --model FOLDER_OR_GGUF

peft trains as the demo does (LoRA r 16 on all linear layers, learning rate 5e-4, 16 rows a step), each way in its own
process, and its fastest counts. A way is numerics, how batches are made, how many tokens at once at the most (padding
included), and perhaps -compile (torch.compile with dynamic shapes) and -reuse (glibc keeps freed blocks, as in our process):
  padded    16 rows padded to the longest
  grouped   the same, rows of similar length together
  packed    one sequence a step, documents kept apart by a block-diagonal mask and their own positions
  trained   packed, and logits only where there is a label (`logits_to_keep`)
  trl       packed by TRL (best fit, decreasing) where it is installed, documents kept apart by transformers from positions
It is searched for in short trials with blocks reused, in the numerics that the processor is fast with (bf16 where it has
instructions for it, else fp32): grouped and packed with 512, 1,024, 2,048 and 4,096 tokens at once, so far as that makes
other batches; the other ways of making batches with the better of these sizes; then the best in autocast (beside bf16), and
each of them compiled. What is fastest is measured in `--rounds` rounds, with and without -reuse and with needletail in turn
(A B C A B C), of which the median counts. `--variants` names ways to measure instead, and nothing is searched for.
Documents come from the run's `batches.jsonl` when it was recorded, else from the rows it was trained on (beside it, in
`<run>-rows/train.jsonl`), rendered by transformers with the model's chat template; they must have as many trained tokens
as the run. With --rows the program first trains on that file for a few steps, whose batches it records: rows of any
length, every one as long as it is. Needletail is measured in the same session: the run's config for a few steps in a new
folder, and what `summary.json` says. Tokens are real tokens, never padding.
"""

import importlib.util
import itertools
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

sys.path.append(str(REPOSITORY / "Benchmarks"))
from generation import REUSED_BLOCKS

BATCHINGS = ["padded", "grouped", "packed", "trained"] + (["trl"] if importlib.util.find_spec("trl") else [])
TOKENS_AT_ONCE = [512, 1024, 2048, 4096]
HAS_BF16 = re.search(r"\b(avx512_bf16|amx_bf16)\b", pathlib.Path("/proc/cpuinfo").read_text())
NUMERICS = ["bf16", "autocast"] if HAS_BF16 else ["fp32"]
ROWS_PER_STEP = 16


class Variant:
    """A way of training, from a name such as bf16-grouped-1024-compile-reuse."""

    def __init__(self, name):
        found = re.fullmatch(r"(fp32|bf16|autocast)-([a-z]+)-(\d+)(-compile)?(-reuse)?", name)
        if not found or found[2] not in BATCHINGS:
            raise ValueError(f"{name}: no such way of training")
        self.name, self.numerics, self.batching, self.tokens = name, found[1], found[2], int(found[3])
        self.compiles, self.reuses = bool(found[4]), bool(found[5])
        self.dtype = torch.bfloat16 if self.numerics == "bf16" else torch.float32

    def __str__(self):
        return self.name

    def but(self, **changes):
        """The same with another numerics, batching, tokens, compiles or reuses."""
        parts = {**vars(self), **changes}
        return Variant(f"{parts['numerics']}-{parts['batching']}-{parts['tokens']}"
                       + "-compile" * parts["compiles"] + "-reuse" * parts["reuses"])


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


def micro_batches(rows, batching, tokens):
    """A step's rows, as many at once as give at most so many tokens, padding included; one row at the least."""
    if batching == "trl":
        return packed_by_trl(rows, tokens)
    parts = [[]]
    for row in rows:
        lengths = [len(ids) for ids, _ in parts[-1] + [row]]
        size = max(lengths) * len(lengths) if batching in ("padded", "grouped") else sum(lengths)
        if parts[-1] and size > tokens:
            parts.append([])
        parts[-1].append(row)
    return parts


def packed_by_trl(rows, tokens):
    import datasets
    import trl
    datasets.disable_progress_bars()
    columns = {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}
    longest = max(len(ids) for ids, _ in rows)  # which TRL would cut
    packs = trl.pack_dataset(datasets.Dataset.from_dict(columns), max(tokens, longest), strategy="bfd")
    parts = []
    for pack in packs:
        ends = list(itertools.accumulate(pack["seq_lengths"]))
        parts.append([(pack["input_ids"][start:end], pack["labels"][start:end]) for start, end in zip([0] + ends, ends)])
    return parts


def padded_inputs(rows, pad):
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows])
    return dict(input_ids=ids, attention_mask=mask), labels


def packed_inputs(rows, dtype, masks=True):
    """`masks`: whether the mask is made here; else transformers makes one where positions begin anew."""
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    ids = torch.tensor([[i for ids, _ in rows for i in ids]])
    inputs = dict(input_ids=ids, position_ids=torch.cat([torch.arange(n) for n in lengths])[None])
    if masks:
        document = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        allowed = (document[:, None] == document[None]) & torch.ones(len(document), len(document)).tril().bool()
        inputs["attention_mask"] = torch.zeros(allowed.shape, dtype=dtype).masked_fill(
            ~allowed, torch.finfo(dtype).min)[None, None]
    return inputs, torch.tensor([[label for _, labels in rows for label in labels]])


def measure(variant, model_path, documents_path, seconds):
    """One way of training, for at least two steps; prints a JSON line."""
    batching = variant.batching
    rows = json.loads(pathlib.Path(documents_path).read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_path, dtype=variant.dtype, attn_implementation="sdpa")
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")).train()
    run = torch.compile(model, dynamic=True) if variant.compiles else model
    warm = 4 if variant.compiles else 2  # steps that do not count: dynamic shapes are compiled more than once
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0, fused=True)
    tokens, labelled, times = [], [], []
    end = None
    for k, step in enumerate(itertools.cycle(steps_of(rows, batching))):
        began = time.perf_counter()
        count, loss = sum(label != -100 for _, labels in step for label in labels), 0
        for part in micro_batches(step, batching, variant.tokens):
            if batching in ("padded", "grouped"):
                inputs, labels = padded_inputs(part, 0)
            else:
                inputs, labels = packed_inputs(part, variant.dtype, masks=batching != "trl")
            if batching == "trained":
                kept = (labels[0] != -100).nonzero()[:, 0]
                inputs["logits_to_keep"], labels = kept, labels[:, kept]
            with torch.autocast("cpu", torch.bfloat16, enabled=variant.numerics == "autocast"):
                logits = run(**inputs, use_cache=False).logits
            summed = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), reduction="sum") / count
            summed.backward()
            loss += summed.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if k == warm - 1:
            end = time.perf_counter() + seconds
        if k >= warm:
            times.append(time.perf_counter() - began)
            tokens.append(sum(len(ids) for ids, _ in step))
            labelled.append(count)
            if time.perf_counter() > end and len(times) >= 2:
                break
    speeds = [n / t for n, t in zip(tokens, times)]
    print(json.dumps({
        "variant": variant.name, "steps": len(times), "tokens_per_second": sum(tokens) / sum(times),
        "trained_tokens_per_second": sum(labelled) / sum(times), "slowest": min(speeds), "fastest": max(speeds),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "last_loss": loss}))


def run_variant(variant, model, documents_path, seconds, threads):
    """In a process of its own, so that peak memory is this variant's; None when it failed, as for want of memory, or took
    more than half an hour."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **(REUSED_BLOCKS if variant.reuses else {})}
    try:
        result = subprocess.run(
            [sys.executable, __file__, "--variant", variant.name, "--model", str(model), "--documents", str(documents_path),
             "--seconds", str(seconds)], env=environment, capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired:
        return None
    if result.returncode:
        print(f"{variant}: {result.stderr[-500:] or result.returncode}", file=sys.stderr, flush=True)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def speed(figures):
    return figures["tokens_per_second"] if figures else 0


def fastest_variant(rows, attempt):
    """The way of training that trials find; `attempt` measures one. Each stage goes on from the best of those before."""
    tried = {}

    def attempt_all(variants):
        for variant in variants:
            if variant.name not in tried:
                tried[variant.name] = speed(attempt(variant))
        return max(variants, key=lambda variant: tried[variant.name])

    def sizes(batching):
        """Numbers of tokens at once that make different batches, the smallest first."""
        made = {}
        for tokens in TOKENS_AT_ONCE:
            counts = [[len(part) for part in micro_batches(step, batching, tokens)] for step in steps_of(rows, batching)]
            made.setdefault(str(counts), tokens)
        return made.values()

    start = Variant(f"{NUMERICS[0]}-grouped-{TOKENS_AT_ONCE[0]}-reuse")
    grouped, packed = (attempt_all([start.but(batching=batching, tokens=tokens) for tokens in sizes(batching)])
                       for batching in ("grouped", "packed"))
    best = attempt_all([grouped, packed, grouped.but(batching="padded")] + [
        packed.but(batching=batching) for batching in BATCHINGS if batching in ("trained", "trl")])
    return attempt_all([best] + [
        best.but(numerics=numerics, compiles=compiles) for numerics in NUMERICS for compiles in (False, True)])


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

def needletail_now(program, run, output, steps):
    """Median speed over a few steps of the run's own config, and its peak memory, measured in this session."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    overrides = [override("output", output), "training.epochs=null", override("steps", steps),
                 override("log_every", 1)]
    if setting(config, "record_batches") is not None:
        overrides.append(override("record_batches", "false"))
    program.must("train", run / "config.yaml", *overrides, timeout=1800)
    rows = [row for row in read_rows(output / "metrics.jsonl") if "tokens_per_second" in row][2:]
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
                      f"{figures['peak_memory_bytes'] / 2**20:.0f} MiB at peak" if figures else "failed")


def of_rounds(rounds):
    """Median speed and largest memory; None when one failed."""
    return all(rounds) and {
        "tokens_per_second": statistics.median(map(speed, rounds)),
        "peak_memory_bytes": max(figures["peak_memory_bytes"] for figures in rounds)} or None


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=pathlib.Path, default=REPOSITORY / "runs/demo", help="the demo's run folder")
    arguments.add_argument("--rows", type=pathlib.Path, help="train on this file instead of looking at a run")
    arguments.add_argument("--model", type=pathlib.Path, help="folder or GGUF (default: the run's model)")
    arguments.add_argument("--seconds", type=float, default=20, help="measured time per variant and round")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=25, help="steps of needletail measured in this session")
    arguments.add_argument("--threads", type=int, default=os.cpu_count())
    arguments.add_argument("--variants", nargs="+", type=Variant, metavar="VARIANT",
                           help="measure these (such as bf16-grouped-1024-compile-reuse), search for nothing")
    arguments.add_argument("--variant", type=Variant, help="(internal) measure one and print JSON")
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
        rows = documents_of(run, model, report)
        (work / "documents.json").write_text(json.dumps(rows))

        def peft_now(variant, seconds):
            return run_variant(variant, model, work / "documents.json", seconds, arguments.threads)

        def attempt(variant):
            figures = peft_now(variant, seconds=0)
            show(report, f"tried: peft {variant}", figures)
            return figures

        variants = arguments.variants
        if not variants:
            found = fastest_variant(rows, attempt)
            variants = [found.but(reuses=False), found.but(reuses=True)]
        measured = {who: [] for who in (*variants, "needletail")}
        for k in range(arguments.rounds):
            for variant in variants:
                measured[variant].append(peft_now(variant, arguments.seconds))
            measured["needletail"].append(needletail_now(program, run, work / f"now-{k}", arguments.steps))
        measured = {who: of_rounds(rounds) for who, rounds in measured.items()}
        for who, figures in measured.items():
            show(report, "needletail, this session" if who == "needletail" else f"peft {who}", figures)
        if (run / "summary.json").exists():
            show(report, "needletail, summary.json", json.loads((run / "summary.json").read_text()))
        best, now = max(variants, key=lambda variant: speed(measured[variant])), measured["needletail"]
        if measured[best]:
            report.note(f"needletail against peft's fastest ({best})",
                        f"speed x{speed(now) / speed(measured[best]):.2f}, "
                        f"memory x{now['peak_memory_bytes'] / measured[best]['peak_memory_bytes']:.2f}")
    report.exit()


if __name__ == "__main__":
    main()
