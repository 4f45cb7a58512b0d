"""Fifty steps of full, LoRA, rsLoRA and DoRA training, thirty of every family, against PyTorch and peft.

    .deps/oracle/bin/python verify/training.py [--model FOLDER] [--tiny llama_gqa gpt2] [--methods full lora rslora dora] [--steps 50]
    .deps/oracle/bin/python verify/training.py --self-check

The program trains with `record_batches`, which makes the run folder hold
- `batches.jsonl`: {"step": k, "micro_batches": [{"input_ids", "labels", "document_starts"}]} per optimiser step;
  labels are already shifted (labels[t] is the token after input_ids[t], -100 = not trained), document_starts are
  offsets, first 0, last the number of tokens;
- `initial_adapter/`: the adapter before step 1 as a PEFT folder (adapter methods only);
- `config.yaml` (resolved) and `metrics.jsonl` with `train/loss` for every step.
Here every document is run alone, without packing, padding or micro-batches; the loss is the sum over the documents
divided by the trained tokens of the whole step; torch.optim.AdamW, clip_grad_norm_ and the schedule come from the
config. So packing, accumulation, masks, adapter arithmetic, optimiser and schedule are compared at once.

`--self-check` needs no program: a second trainer written differently (packed rows under a block-diagonal mask, AdamW
spelled out, LoRA's product added to the weights) writes such a folder, and the replay must agree with it; a planted
error must make it disagree.
"""

import json
import math
import pathlib
import shutil

import peft
import torch
import transformers
import yaml

import models
from common import Program, Report, Workspace, parser, read_rows, setting, write_config, write_rows

LIMIT = 1e-4
NORM_LIMIT = 1e-3
# What is trained and how; weight decay is on where the parameters it applies to are beyond doubt.
METHODS = {
    "full": dict(learning_rate=1e-4, weight_decay=0.1, schedule="cosine", warmup_steps=5, min_ratio=0.1),
    "lora": dict(learning_rate=1e-3, weight_decay=0.01, schedule="linear", warmup_steps=0),
    "rslora": dict(learning_rate=1e-3, weight_decay=0.0, schedule="wsd", warmup_steps=5, decay_ratio=0.2),
    "dora": dict(learning_rate=1e-3, weight_decay=0.0, schedule="constant", warmup_steps=3),
}


def settings_of(method, steps):
    """The whole config of one comparison, by the names of `common.KEYS`."""
    chosen = dict(
        recipe="sft", seed=11, data_seed=12, dtype="fp32", validation_rows=0, max_length=256, packing=True,
        method=method, steps=steps, rows_per_step=8, micro_batch_tokens=256, max_grad_norm=1.0, log_every=1,
        save_every=steps, record_batches=True, beta1=0.9, beta2=0.999, eps=1e-8)
    if method != "full":
        chosen.update(rank=8, alpha=16.0)
    return {**chosen, **METHODS[method]}


# -- formulas of the config -------------------------------------------------------------------------------------------

def learning_rate(config, k, steps):
    """Rate of update k = 0, 1, ...: warm-up from 0 and the shapes of `transformers.get_scheduler`, ending at
    `min_ratio` of the peak; wsd falls in a straight line over the last `decay_ratio` of all steps."""
    peak, name = setting(config, "learning_rate", 0.0), setting(config, "schedule", "constant")
    warmup, floor = setting(config, "warmup_steps", 0), setting(config, "min_ratio", 0.0)
    if k < warmup:
        return peak * k / warmup
    if name == "constant":
        return peak
    fall = round(setting(config, "decay_ratio", 0.0) * steps) if name == "wsd" else steps - warmup
    done = max(0.0, (k - (steps - fall)) / max(1, fall))
    shape = (1 + math.cos(math.pi * done)) / 2 if name == "cosine" else 1 - done
    return peak * (floor + (1 - floor) * shape)


def decayed(name, parameter):
    """Weight decay applies to matrices (embeddings included), not to norms, biases and magnitudes."""
    return parameter.dim() >= 2


def documents(row):
    """(ids, labels) of each document of a step."""
    for batch in row["micro_batches"]:
        starts = batch["document_starts"]
        assert starts[0] == 0 and starts[-1] == len(batch["input_ids"]) == len(batch["labels"]), "document_starts"
        for start, end in zip(starts, starts[1:]):
            yield batch["input_ids"][start:end], batch["labels"][start:end]


# -- the replay -------------------------------------------------------------------------------------------------------

def load_for_training(model_path, run):
    """The base in fp32, with the run's initial adapter when it has one."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_path, dtype=torch.float32, attn_implementation="eager")
    if (run / "initial_adapter").exists():
        model = peft.PeftModel.from_pretrained(model, run / "initial_adapter", is_trainable=True)
    return model.train()


def replay(model, config, rows):
    """Trains on the recorded documents; (loss, gradient norm, learning rate) of every step."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decay = setting(config, "weight_decay", 0.0)
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in trained if decayed(n, p)], "weight_decay": decay},
         {"params": [p for n, p in trained if not decayed(n, p)], "weight_decay": 0.0}],
        betas=(setting(config, "beta1", 0.9), setting(config, "beta2", 0.999)), eps=setting(config, "eps", 1e-8))
    history = []
    for k, row in enumerate(rows):
        parts = [(ids, labels) for ids, labels in documents(row) if any(label != -100 for label in labels)]
        tokens = sum(label != -100 for _, labels in parts for label in labels)
        loss = 0.0
        for ids, labels in parts:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            part = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum") / tokens
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_([p for _, p in trained], setting(config, "max_grad_norm", 1.0)).item()
        rate = learning_rate(config, k, setting(config, "steps", len(rows)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        history.append((loss, norm, rate))
    return history


def compare(report, name, model_path, run):
    """Replays one run folder and compares its metrics."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    rows = read_rows(run / "batches.jsonl")
    metrics = [row for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]
    report.equals(f"{name}: steps recorded and logged", (len(rows), len(metrics)), (setting(config, "steps"),) * 2)
    history = replay(load_for_training(model_path, run), config, rows)
    documents_per_batch = [len(b["document_starts"]) - 1 for row in rows for b in row["micro_batches"]]
    packed, accumulated = sum(documents_per_batch) / len(documents_per_batch), len(documents_per_batch) / len(rows)
    report.holds(f"{name}: documents per micro-batch, micro-batches per step", packed > 1 and accumulated > 1,
                 f"{packed:.2f}, {accumulated:.2f}", "both above 1")
    relative = [abs(row["train/loss"] - loss) / abs(loss) for row, (loss, _, _) in zip(metrics, history)]
    worst = max(range(len(relative)), key=relative.__getitem__)
    report.at_most(f"{name}: largest relative loss difference of {len(relative)} steps", relative[worst], LIMIT)
    report.note(f"{name}: loss, first and last step; step of the largest difference",
                f"{history[0][0]:.5f} -> {history[-1][0]:.5f}; {worst + 1}")
    if all("train/grad_norm" in row for row in metrics):
        report.at_most(f"{name}: largest relative gradient norm difference", max(
            abs(row["train/grad_norm"] - norm) / norm for row, (_, norm, _) in zip(metrics, history)), NORM_LIMIT)
    if all("train/learning_rate" in row for row in metrics):
        report.at_most(f"{name}: largest learning rate difference, relative to the peak", max(
            abs(row["train/learning_rate"] - rate) for row, (_, _, rate) in zip(metrics, history))
            / setting(config, "learning_rate", 0.0), 1e-6)
    return relative


def make_data(path, rows, seed):
    """Conversations of ragged length."""
    write_rows(path, [{"messages": models.conversation(seed * 1000 + i, turns=1 + i % 2)} for i in range(rows)])


def check(report, program, work, model_path, method, steps):
    name = f"{model_path.name}, {method}"
    data, run, file = work / "train.jsonl", work / f"run-{model_path.name}-{method}", work / f"{method}.yaml"
    if not data.exists():
        make_data(data, 120, 3)
    write_config(file, **settings_of(method, steps), model=str(model_path), train_files=[str(data)], output=str(run))
    program.must("train", file, timeout=3600)
    compare(report, name, model_path, run)


# -- self-check -------------------------------------------------------------------------------------------------------

class WrittenOutAdamW:
    """AdamW from its equations (Loshchilov and Hutter 2019), apart from torch.optim."""

    def __init__(self, parameters, beta1, beta2, eps, decay):
        self.parameters, self.beta1, self.beta2, self.eps, self.decay = parameters, beta1, beta2, eps, decay
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self.count = 0

    @torch.no_grad()
    def step(self, rate, clip):
        self.count += 1
        correction1, correction2 = 1 - self.beta1**self.count, 1 - self.beta2**self.count
        for p, (m, v) in zip(self.parameters, self.moments):
            gradient = p.grad * clip
            if p.dim() >= 2:
                p *= 1 - rate * self.decay
            m += (1 - self.beta1) * (gradient - m)
            v += (1 - self.beta2) * (gradient * gradient - v)
            p -= rate * (m / correction1) / ((v / correction2).sqrt() + self.eps)
            p.grad = None


def pack(rows, tokenizer, length):
    """Micro-batches of whole conversations in order, as the contract spells them; the last label of each is -100."""
    batches = []
    for row in rows:
        encoding = tokenizer.apply_chat_template(
            row["messages"], chat_template=models.GENERATION_TEMPLATE, tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True)
        ids, mask = encoding["input_ids"][:length], encoding["assistant_masks"][:length]
        labels = [i if m else -100 for i, m in zip(ids[1:], mask[1:])] + [-100]
        if not batches or len(batches[-1]["input_ids"]) + len(ids) > length:
            batches.append({"input_ids": [], "labels": [], "document_starts": [0]})
        batches[-1]["input_ids"] += ids
        batches[-1]["labels"] += labels
        batches[-1]["document_starts"].append(len(batches[-1]["input_ids"]))
    return batches


def packed_logits(model, batch):
    """Logits of a packed micro-batch: positions from 0 in each document, block-diagonal causal mask."""
    starts = torch.tensor(batch["document_starts"])
    document = torch.bucketize(torch.arange(len(batch["input_ids"])), starts[1:], right=True)
    positions = torch.arange(len(document)) - starts[document]
    allowed = (document[:, None] == document[None]) & torch.ones(len(document), len(document)).tril().bool()
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    return model(input_ids=torch.tensor([batch["input_ids"]]), position_ids=positions[None],
                 attention_mask=mask[None, None], use_cache=False).logits[0]


def adapted_weights(base, adapter, config):
    """Every adapted weight of the base with its product added (DoRA: rescaled to the magnitude)."""
    rank, alpha = setting(config, "rank"), setting(config, "alpha")
    scaling = alpha / math.sqrt(rank) if setting(config, "method") == "rslora" else alpha / rank
    result = {}
    for name, tensors in adapter.items():
        weight = base[name] + scaling * tensors["lora_B"] @ tensors["lora_A"]
        if "magnitude" in tensors:
            weight = weight * (tensors["magnitude"] / weight.norm(dim=1).detach())[:, None]
        result[name] = weight
    return result


def read_adapter(folder):
    """The adapter file as {weight name: {part: leaf tensor}}."""
    import safetensors.torch
    result = {}
    for key, value in safetensors.torch.load_file(folder / "adapter_model.safetensors").items():
        name = key.removeprefix("base_model.model.").removesuffix(".weight")
        target, part = name.rsplit(".", 1)
        part = "magnitude" if "magnitude" in part else part
        result.setdefault(target + ".weight", {})[part] = value.clone().requires_grad_(True)
    return result


def reference_run(run, model_path, method, steps, error=None):
    """The second trainer: writes a run folder as the contract says. `error` plants a mistake."""
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    write_config(run / "config.yaml", **settings_of(method, steps))
    config = yaml.safe_load((run / "config.yaml").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_path, dtype=torch.float32, attn_implementation="eager")
    base = dict(model.named_parameters())
    adapter = {}
    if method != "full":
        torch.manual_seed(5)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(
            r=setting(config, "rank"), lora_alpha=setting(config, "alpha"), target_modules="all-linear",
            use_rslora=method == "rslora", use_dora=method == "dora"))
        wrapped.save_pretrained(run / "initial_adapter")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            model_path, dtype=torch.float32, attn_implementation="eager").requires_grad_(False)
        base = dict(model.named_parameters())
        adapter = read_adapter(run / "initial_adapter")
    leaves = [t for parts in adapter.values() for t in parts.values()] or list(base.values())
    optimizer = WrittenOutAdamW(leaves, setting(config, "beta1"), setting(config, "beta2"), setting(config, "eps"),
                                setting(config, "weight_decay", 0.0))
    make_data(run / "data.jsonl", 120, 3)
    data, recorded, metrics = read_rows(run / "data.jsonl"), [], []
    for k in range(steps):
        chosen = [data[(8 * k + i) * 7 % len(data)] for i in range(8)]
        batches = pack(chosen, tokenizer, 256)
        tokens = sum(label != -100 for b in batches for label in b["labels"])
        total = 0.0
        for batch in batches:
            weights = adapted_weights(base, adapter, config) if adapter else {}
            functional = lambda **kw: torch.func.functional_call(model, weights, kwargs=kw)  # noqa: E731
            log_p = torch.log_softmax(packed_logits(functional, batch), -1)
            labels = torch.tensor(batch["labels"])
            kept = labels != -100
            share = int(kept.sum()) * len(batches) if error == "mean of means" else tokens
            loss = -log_p[kept].gather(1, labels[kept][:, None]).sum() / share
            loss.backward()
            total += loss.item()
        norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in leaves if p.grad is not None))
        rate = learning_rate(config, k + (error == "schedule one step ahead"), steps)
        clip = min(1.0, setting(config, "max_grad_norm") / (norm + 1e-6))
        optimizer.step(rate, 1.0 if error == "no clipping" else clip)
        recorded.append({"step": k + 1, "micro_batches": batches})
        metrics.append({"step": k + 1, "train/loss": total, "train/grad_norm": norm, "train/learning_rate": rate})
    write_rows(run / "batches.jsonl", recorded)
    write_rows(run / "metrics.jsonl", metrics)


def self_check(report, work, methods, steps):
    path = models.write_tiny(work, "llama_gqa")
    for method in methods:
        reference_run(work / method, path, method, steps)
        compare(report, f"self-check {method}", path, work / method)
    for error in ["mean of means", "schedule one step ahead", "no clipping"]:
        reference_run(work / "broken", path, "full", steps, error)
        quiet = Quiet()
        relative = compare(quiet, error, path, work / "broken")
        report.holds(f"self-check: planted error found ({error})", max(relative) > LIMIT, f"{max(relative):.3g}",
                     f"> {LIMIT:g}")


# Beside those that are trained by every method.
FAMILIES = ["mistral_window", "qwen2", "qwen3", "olmo2", "phi3", "phi3_longrope", "gemma2", "gemma3", "gpt_neox", "llama_yarn"]


class Quiet(Report):
    """Collects without printing."""

    def _line(self, name, value, limit, passed):
        self.failed += not passed

    def note(self, name, value):
        pass


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--model", type=pathlib.Path, help="Hugging Face folder (default: tiny models)")
    arguments.add_argument("--tiny", nargs="+", choices=list(models.TINY), default=["llama_gqa", "gpt2"])
    arguments.add_argument("--families", nargs="*", choices=list(models.TINY), default=FAMILIES,
                           help="tiny models trained 30 steps, all weights and LoRA")
    arguments.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--self-check", action="store_true")
    arguments = arguments.parse_args()
    torch.set_num_threads(1)
    report = Report()
    with Workspace(arguments) as work:
        if arguments.self_check:
            self_check(report, work, arguments.methods, arguments.steps)
        else:
            program = Program(arguments.needletail)
            folders = [arguments.model] if arguments.model else [models.write_tiny(work, n) for n in arguments.tiny]
            for model in folders:
                for method in arguments.methods:
                    check(report, program, work, model.resolve(), method, arguments.steps)
            for name in [] if arguments.model else arguments.families:
                for method in ["full", "lora"]:
                    check(report, program, work, models.write_tiny(work, name).resolve(), method, 30)
    report.exit()


if __name__ == "__main__":
    main()
