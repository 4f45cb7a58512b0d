"""Options and failure paths of `train` in the real program.

    .deps/oracle/bin/python verify/options.py [--only options failures models]

Options: every key of the SFT config is changed once; the run must differ from the one without the change, or be refused
with exit 64 and the key's name. Failures: loss that is no number, spikes, early stop. Models: runs, steps and adapters
named as MODEL, tokens added, adapters continued, a template that prints the date.
"""

import hashlib
import json
import shutil
import time

import safetensors.torch
import torch
import yaml

import models
from common import Program, Report, Workspace, one_line, parser, read_rows, write_rows
from kill import checkpoints, digest, steady
from training import make_data


class Place:
    """A tiny model, rows, and runs on them."""

    def __init__(self, program, work):
        self.program, self.work, self.count = program, work, 0
        self.base = models.write_tiny(work, "llama_gqa")
        self.rows = work / "rows.jsonl"
        make_data(self.rows, 24, 5)
        self.settings = {
            "recipe": "sft", "model.path": str(self.base), "model.dtype": "fp32", "data.train": [str(self.rows)],
            "data.validation_rows": 4, "data.max_length": 256, "adapter.rank": 4, "optimizer.learning_rate": 1e-3,
            "training.steps": 6, "training.batch_rows": 4, "training.record_batches": True, "threads": 1}

    def run(self, *flags, name=None, remove=(), expect=None, **changes):
        """Trains; the finished process and the run folder. Keys of `changes` have `__` for dots."""
        self.count += 1
        folder = self.work / (name or f"run-{self.count}")
        settings = {key: value for key, value in self.settings.items() if key not in remove}
        settings.update({key.replace("__", "."): value for key, value in changes.items()})
        settings.setdefault("output", str(folder))
        tree = {}
        for key, value in settings.items():
            *parents, leaf = key.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        (file := self.work / f"{folder.name}.yaml").write_text(yaml.safe_dump(tree))
        result = self.program.run("train", file, *flags)
        if expect is not None and result.returncode != expect:
            raise SystemExit(f"{folder.name}: exit code {result.returncode}: {one_line(result.stderr[-600:], 600)} "
                             f"(limit {expect}) FAIL")
        return result, folder

    def seen(self, result, folder):
        """What a run did, without times and names of files that hold times."""
        if not folder.exists():
            return result.returncode
        files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "tfevents" not in p.name)
        weights = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
                   for p in folder.rglob("*.safetensors") if "checkpoints" not in p.parts}
        if not (folder / "metrics.jsonl").exists():
            return result.returncode, files
        batches = folder / "batches.jsonl"
        record = json.loads((folder / "run.json").read_text())
        return (result.returncode, files, weights, digest([steady(r) for r in read_rows(folder / "metrics.jsonl")]),
                batches.read_text() if batches.exists() else None, record["machine"])


# Key, value, and settings that both the plain and the changed run have besides.
def options(place):
    work = place.work
    other, doubled, broken, renamed = (work / f"{n}.jsonl" for n in ("other", "doubled", "broken", "renamed"))
    make_data(other, 10, 9)
    doubled.write_text(place.rows.read_text() * 2)
    broken.write_text(place.rows.read_text() + "{}\n")
    write_rows(renamed, [{"talk": row["messages"]} for row in read_rows(place.rows)])
    (prose := work / "prose.txt").write_text("The river finds a lamp.\nThe lamp breaks.\n\n" * 8)
    (template := work / "template.jinja").write_text(models.CHAT_TEMPLATE.replace("<|turn|>", "<|turn|>:"))
    _, first = place.run(name="first", expect=0, adapter__rank=6)
    spiky = {"training.steps": 60, "training.on_spike": "skip", "training.spike_window": 16,
             "training.spike_threshold": 1.5}
    no_split = {"data.validation_rows": None}
    muon = {"optimizer.name": "muon", "adapter.method": "full", "adapter.rank": 16}
    return [
        ("model.base", str(place.base), {}), ("model.dtype", "bf16", {}),
        ("training.quantize_aware", "q4_0", {"adapter.method": "full", "adapter.rank": 16}),
        ("training.quantize_aware", "q4_0", {}), ("training.quantize_aware_after", 3, {}),
        ("training.quantize_aware_after", 3, {"adapter.method": "full", "adapter.rank": 16, "training.quantize_aware": "q4_0"}),
        ("model.quantize", "nf4", {}), ("model.quantize", "nf4", {"adapter.method": "full", "adapter.rank": 16}),
        ("model.initialize", "random", {}), ("model.initialize", "random", {"adapter.method": "full", "adapter.rank": 16}),
        ("data.train", [str(other)], {}),
        ("data.validation", [str(other)], no_split), ("data.validation_fraction", 0.5, no_split),
        ("data.validation_rows", 8, {}), ("data.kind", "instruction", {}),
        ("data.column_map", {"messages": "talk"}, {"data.train": [str(renamed)]}), ("data.template", str(template), {}),
        ("data.text_unit", "line", {"data.train": [str(prose)]}), ("data.text_unit", "paragraph", {}),
        ("data.template", "chatml", {}), ("data.train_on", "all", {}), ("data.train_on", "last_assistant", {}),
        ("data.max_length", 40, {}), ("data.truncation", "left", {"data.max_length": 40}),
        ("data.truncation", "drop", {"data.max_length": 40}), ("data.packing", False, {}),
        ("data.truncation", "split", {"data.max_length": 40}),
        ("data.deduplicate", True, {"data.train": [str(doubled)]}),
        ("data.bad_rows", "drop", {"data.train": [str(broken)]}), ("data.limit", 5, {}), ("data.seed", 3, {}),
        ("data.weights", [3, 1], {"data.train": [str(place.rows), str(other)]}), ("data.weights", [1], {}),
        ("data.add_tokens", ["<new>"], {}), ("data.add_tokens", ["<new>"], {"adapter.save_embeddings": True}),
        ("adapter.method", "full", {"adapter.rank": 16}), ("adapter.method", "rslora", {}), ("adapter.method", "dora", {}),
        ("adapter.rank", 5, {}), ("adapter.alpha", 8, {}), ("adapter.dropout", 0.3, {}),
        ("adapter.targets", ["q_proj"], {}), ("adapter.continue_from", str(first / "adapter"), {"adapter.rank": 6}),
        ("adapter.rank", 5, {"adapter.continue_from": str(first / "adapter"), "adapter.rank": 6}),
        ("adapter.save_embeddings", True, {}), ("adapter.dropout", 0.3, {"adapter.method": "full", "adapter.rank": 16}),
        ("optimizer.learning_rate", 2e-3, {}), ("optimizer.beta1", 0.5, {}), ("optimizer.beta2", 0.5, {}),
        ("optimizer.state", "int8", {"adapter.method": "full", "adapter.rank": 16}), ("optimizer.epsilon", 1e-3, {}),
        ("optimizer.name", "muon", {}), ("optimizer.name", "muon", {"adapter.method": "full", "adapter.rank": 16}),
        *((f"optimizer.{key}", value, muon) for key, value in (
            ("adamw_learning_rate", 3e-3), ("momentum", 0.5), ("momentum_warmup_steps", 3),
            ("orthogonalization", "polar_express"), ("state", "int8"))),
        ("optimizer.momentum", 0.5, {}), ("optimizer.adamw_learning_rate", 3e-3, {}),
        ("optimizer.momentum_warmup_steps", 3, {}), ("optimizer.orthogonalization", "polar_express", {}),
        ("optimizer.weight_decay", 0.5, {}), ("schedule.name", "cosine", {}),
        ("schedule.name", "wsd", {}), ("schedule.name", "constant", {}), ("schedule.warmup_steps", 2, {}),
        ("schedule.warmup_steps", 1, {"training.steps": 1}), ("schedule.warmup_ratio", 0.4, {}),
        ("schedule.min_ratio", 0.5, {}), ("schedule.min_ratio", 0.5, {"schedule.name": "constant"}),
        ("schedule.decay_ratio", 0.5, {"schedule.name": "wsd"}), ("schedule.decay_ratio", 0.5, {}),
        ("training.epochs", 2, {"training.steps": None}),
        ("training.steps", 7, {}), ("training.batch_rows", 3, {}),
        ("training.micro_batch_tokens", 300, {}), ("training.micro_batch_tokens", 300, {"data.packing": False}),
        ("training.label_smoothing", 0.1, {}), ("training.z_loss", 0.01, {}), ("training.recompute_in_bf16", True, {}),
        ("training.recompute_in_bf16", True, {"training.recompute_blocks": 1}),
        ("training.loss_reduction", "sequence", {}), ("training.loss_reduction", "sum", {}),
        ("training.max_grad_norm", 0.01, {}), ("training.max_grad_norm", None, {}), ("training.seed", 4, {}),
        ("training.seed", 4, {"adapter.method": "full", "adapter.rank": 16}), ("training.log_every", 2, {}),
        ("training.eval_every", 2, {}), ("training.eval_every", 2, {"data.validation_rows": 0}),
        ("training.save_every", 4, {"training.eval_every": 6}), ("training.keep_checkpoints", 4, {}),
        ("training.early_stop_patience", 1, {"training.eval_every": 1, "optimizer.learning_rate": 1.0}),
        ("training.early_stop_patience", 1, {"data.validation_rows": 0}),
        ("training.sample_prompts", ["What is it?"], {}), ("training.sample_every", 1, {"training.sample_prompts": ["Hm?"], "training.eval_every": 3}),
        ("training.sample_every", 1, {}), ("training.record_batches", False, {}),
        ("training.on_spike", "log", spiky), ("training.on_spike", "stop", spiky), ("training.spike_window", 64, spiky),
        ("training.spike_threshold", 50.0, spiky), ("output", str(work / "elsewhere"), {}), ("threads", 2, {}),
        ("device", "cuda", {}),
    ]


def check_options(report, place):
    report.holds("control: the same options twice are the same", place.seen(*place.run()) == place.seen(*place.run()))
    plain, tried = {}, set()
    for key, value, besides in options(place):
        besides = {name.replace(".", "__"): setting for name, setting in besides.items()}
        group = json.dumps(besides, sort_keys=True)
        if group not in plain:
            plain[group] = place.seen(*place.run(**besides))
        result, folder = place.run(**{**besides, key.replace(".", "__"): value})
        refused = result.returncode == 64 and key.split(".")[-1] in result.stderr and not folder.exists()
        differs = place.seen(result, folder) != plain[group]
        shown = f"{key}={value}" if len(str(value)) < 20 else key
        report.holds(f"option {shown}{' beside ' + ', '.join(besides).replace('__', '.') if besides else ''}",
                     refused or differs, "refused" if refused else "differs" if differs else "no effect",
                     "differs or refused")
        tried.add(key)
        shutil.rmtree(folder, ignore_errors=True)
    keys = {k for k in listed_keys(place)} - tried - {"recipe", "model.path", "training.on_nonfinite",
                                           "training.recompute_blocks", "training.recompute_selective",  # memory only: PropertyTests
                                           "data.cache"}  # time only: token_cache.py
    report.identical("keys of the config that were not tried", ", ".join(sorted(keys)))


def listed_keys(place):
    """Every key of the resolved config of a run."""
    _, folder = place.run(expect=0)
    def walk(node, path):
        for key, value in node.items():
            if isinstance(value, dict) and key != "column_map":
                yield from walk(value, f"{path}{key}.")
            else:
                yield path + key
    return walk(yaml.safe_load((folder / "config.yaml").read_text()), "")


# -- failures ---------------------------------------------------------------------------------------------------------

def poisoned(place):
    """A base whose embedding of one token is infinite, and rows of which one holds it."""
    folder = place.work / "poisoned"
    shutil.copytree(place.base, folder, dirs_exist_ok=True)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][3] = torch.inf  # <pad>
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rows = [{"messages": models.conversation(700 + i)} for i in range(20)]
    rows[7]["messages"][0]["content"] += " <pad>"
    write_rows(file := place.work / "poisoned.jsonl", rows)
    return dict(model__path=str(folder), data__train=[str(file)], data__validation_rows=0, training__batch_rows=2,
                training__steps=10, training__save_every=1)


def check_failures(report, place):
    bad = poisoned(place)
    result, folder = place.run(name="stops", **bad)
    at = (len(read_rows(folder / "metrics.jsonl")))
    failure = json.loads((folder / "failure.json").read_text()) if (folder / "failure.json").exists() else {}
    saved = [int(p.name[5:]) for p in checkpoints(folder)]
    report.holds("loss not finite: stops, one line", result.returncode not in (0, 70) and "not finite" in result.stderr
                 and result.stderr.splitlines()[-1].startswith("error: "), f"exit {result.returncode}: {result.stderr.splitlines()[-1]}")
    report.holds("loss not finite: rows named", any(r.endswith("line 8") for r in failure.get("rows", [])), failure.get("rows"))
    report.holds("loss not finite: nothing saved after it", max(saved, default=0) <= at, f"saved {saved}, steps done {at}")
    again, _ = place.run(name="stops", **bad)
    report.equals("loss not finite: the same end again", again.returncode, result.returncode)
    result, folder = place.run(name="skips", training__on_nonfinite="skip", **bad)
    rows = read_rows(folder / "metrics.jsonl")
    report.equals("loss not finite, skip: exit code, steps, steps skipped",
                  (result.returncode, len(rows), sum(row["train/loss"] is None for row in rows)), (0, 10, 1))
    weights = safetensors.torch.load_file(folder / "adapter/adapter_model.safetensors")
    report.holds("loss not finite, skip: weights finite", all(bool(w.isfinite().all()) for w in weights.values()))
    everywhere = dict(bad, data__train=[str(place.work / "all-poisoned.jsonl")])
    write_rows(place.work / "all-poisoned.jsonl", [{"messages": [{"role": "user", "content": f"<pad> {i}"}, {
        "role": "assistant", "content": "no"}]} for i in range(20)])
    result, _ = place.run(training__on_nonfinite="skip", **everywhere)
    report.holds("loss never finite, skip: ends after three in a row", result.returncode not in (0, 70)
                 and "in a row" in result.stderr, f"exit {result.returncode}: {result.stderr.splitlines()[-1]}")
    result, folder = place.run(optimizer__learning_rate=1.0, training__steps=30, training__max_grad_norm=None)
    weights = safetensors.torch.load_file(checkpoints(folder)[-1] / "adapter_model.safetensors")
    report.holds("absurd learning rate: ends or says why, nothing saved that is not finite", result.returncode in (0, 65)
                 and all(bool(w.isfinite().all()) for w in weights.values()), f"exit {result.returncode}")
    result, folder = place.run(data__limit=4, optimizer__learning_rate=0.03, training__steps=200, training__eval_every=5,
                               training__early_stop_patience=3)
    judged = [row["eval/loss"] for row in read_rows(folder / "metrics.jsonl") if "eval/loss" in row]
    best = judged.index(min(judged))
    report.holds("early stop: three validations after the best", result.returncode == 0 and len(judged) == best + 4 < 40
                 and "stopping early" in result.stderr, f"{len(judged)} validations, best {best + 1}")
    report.holds("early stop: the best is what is delivered", close(
        scores(place, folder / "adapter"), scores(place, folder / f"checkpoints/step-{5 * (best + 1)}")))
    spiky = dict(training__steps=60, training__spike_window=16, training__spike_threshold=1.5)
    log, _ = place.run(**spiky)
    report.holds("spike, log: named and trained", log.returncode == 0 and "deviations above the median" in log.stderr)
    stop, _ = place.run(training__on_spike="stop", **spiky)
    report.holds("spike, stop: ends", stop.returncode == 65 and "on_spike" in stop.stderr, one_line(stop.stderr[-200:]))
    wrong, folder = place.run(adapter__targets=["q_prog"], name="corrected")
    report.holds("a mistake that only the model shows: refused, no run begun", wrong.returncode == 64
                 and "did you mean q_proj" in wrong.stderr and not folder.exists(), f"exit {wrong.returncode}")
    right, _ = place.run(adapter__targets=["q_proj"], name="corrected")
    report.equals("the same command, corrected: exit code", right.returncode, 0)
    dry, folder = place.run("--dry-run")
    report.holds("dry run: exit 0, nothing written", dry.returncode == 0 and not folder.exists(), f"exit {dry.returncode}")
    made = place.program.run("finetune", place.base, place.rows, "--output", place.work / "tuned", "--dry-run")
    report.holds("finetune --dry-run: prints the config, writes nothing",
                 made.returncode == 0 and "recipe: sft" in made.stdout and not (place.work / "tuned").exists(),
                 f"exit {made.returncode}")


# -- models -----------------------------------------------------------------------------------------------------------

def scores(place, model, rows=None):
    """The sums of log-probabilities that `score` gives, or its message."""
    source, output = place.work / "to-score.jsonl", place.work / "scored.jsonl"
    write_rows(source, rows or [{"text": models.text(i)} for i in range(3)])
    result = place.program.run("score", model, "--input", source, "--output", output, "--dtype", "fp32")
    return [row["sum"] for row in read_rows(output)] if result.returncode == 0 else one_line(result.stderr)


def close(a, b):
    return isinstance(a, list) and isinstance(b, list) and all(abs(x - y) < 1e-4 for x, y in zip(a, b, strict=True))


def check_models(report, place):
    for method in ("lora", "full"):
        more = {} if method == "lora" else {"adapter__method": "full", "adapter__rank": 16}
        _, run = place.run(name=f"model-{method}", expect=0, training__eval_every=2, training__save_every=2, **more)
        final = scores(place, run / ("adapter" if method == "lora" else "model"))
        report.holds(f"{method}: score of the run is that of its final folder", close(scores(place, run), final), final)
        steps = checkpoints(run)
        judged = {row["step"]: row["eval/loss"] for row in read_rows(run / "metrics.jsonl") if "eval/loss" in row}
        best = min(judged, key=judged.get)
        report.holds(f"{method}: score of its best step", close(scores(place, run / f"checkpoints/step-{best}"), final))
        others = [scores(place, step) for step in steps if step.name != f"step-{best}"]
        report.holds(f"{method}: other steps can be named", all(isinstance(s, list) for s in others), others)
        output = place.work / "ids.jsonl"
        write_rows(place.work / "texts.jsonl", [{"text": "The quiet river."}])
        for model in (run, steps[-1]):
            result = place.program.run("tokenizer", "encode", model, "--input", place.work / "texts.jsonl",
                                       "--output", output)
            report.equals(f"{method}: tokenizer encode {model.name}", result.returncode, 0)
    check_added_tokens(report, place)
    check_continuing(report, place)
    check_date(report, place)


def check_added_tokens(report, place):
    rows = [{"messages": models.conversation(900 + i)} for i in range(16)]
    for row in rows:
        row["messages"][-1]["content"] = "<yes> " + row["messages"][-1]["content"]
    write_rows(file := place.work / "yes.jsonl", rows)
    for method, more in [("full", {"adapter__method": "full"}), ("lora", {"adapter__save_embeddings": True})]:
        _, run = place.run(name=f"added-{method}", remove=["adapter.rank"], expect=0, data__train=[str(file)],
                           data__add_tokens=["<yes>"], **more)
        folder = run / ("model" if method == "full" else "adapter")
        found = scores(place, folder, [{"messages": rows[0]["messages"]}])
        report.holds(f"added token, {method}: the result opens again and scores", isinstance(found, list), found)
        if method == "lora":
            result = place.program.run("merge-adapter", folder, place.work / "merged-yes", "--dtype", "fp32")
            merged = scores(place, place.work / "merged-yes", [{"messages": rows[0]["messages"]}])
            report.holds("added token, lora: merged model scores the same", close(found, merged), f"{found} {merged} {result.stderr}")
            again, run = place.run(remove=["adapter.rank"], data__train=[str(file)], model__path=str(folder))
            found = scores(place, run / "adapter", [{"messages": rows[0]["messages"]}])
            report.holds("added token, lora: training goes on from the adapter folder",
                         again.returncode == 0 and isinstance(found, list), f"exit {again.returncode}: {one_line(again.stderr[-200:])} {found}")


def check_continuing(report, place):
    _, first = place.run(name="continued", expect=0)
    last = read_rows(first / "metrics.jsonl")
    by_key, run1 = place.run(adapter__continue_from=str(first / "adapter"), expect=0)
    by_path, run2 = place.run(model__path=str(first / "adapter"), expect=0)
    losses = [[row["train/loss"] for row in read_rows(run / "metrics.jsonl") if "train/loss" in row] for run in (run1, run2)]
    report.holds("continue_from and model.path = adapter: the same losses", losses[0] == losses[1], losses)
    report.holds("continued: begins below where the first began", losses[0][0] < last[0]["train/loss"], losses[0][0])
    both, _ = place.run(model__path=str(first / "adapter"), adapter__continue_from=str(first / "adapter"))
    report.equals("continue_from beside an adapter as model: exit code", both.returncode, 64)
    full, _ = place.run(model__path=str(first / "adapter"), adapter__method="full", remove=["adapter.rank"])
    report.equals("all weights of an adapter folder: exit code", full.returncode, 64)


def check_date(report, place):
    """A template that prints the time must give a resumed run the tokens of its first start."""
    (template := place.work / "clock.jinja").write_text(
        "{{ strftime_now('%H %M %S') }}" + models.CHAT_TEMPLATE)
    _, whole = place.run(name="clock", data__template=str(template), training__save_every=1, training__keep_checkpoints=9, expect=0)
    for step in checkpoints(whole)[2:]:
        shutil.rmtree(step)
    expected = (whole / "batches.jsonl").read_text()
    time.sleep(1.1)
    again, _ = place.run(name="clock", data__template=str(template), training__save_every=1, training__keep_checkpoints=9)
    report.holds("template with the time: resumed with the same tokens",
                 again.returncode == 0 and "going on from step 2" in again.stderr and (whole / "batches.jsonl").read_text() == expected,
                 f"exit {again.returncode}: {one_line(again.stderr[-200:])}")
    template.write_text(template.read_text() + " ")
    other, _ = place.run(name="clock", data__template=str(template), training__save_every=1, training__keep_checkpoints=9)
    report.holds("another text in the template's file: refused", other.returncode == 64 and "template" in other.stderr,
                 f"exit {other.returncode}")


def main():
    arguments = parser(__doc__)
    parts = {"options": check_options, "failures": check_failures, "models": check_models}
    arguments.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail)
    with Workspace(arguments) as work:
        program.environment["NEEDLETAIL_CACHE"] = str(work / "cache")
        place = Place(program, work)
        for name in arguments.only:
            parts[name](report, place)
    report.exit()


if __name__ == "__main__":
    main()
