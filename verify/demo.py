"""What `make demo` left, recomputed (what must be shown, item 1): figures, adapter, merged model, a second start.

    .deps/oracle/bin/python verify/demo.py [--run runs/demo]

The held-out rows lie beside the run, in `<run>-rows/held-out.jsonl`. Loss is in nats a token over the answers and the
tokens that end them; a row is right when, of the two labels in the answer's place, its own has the higher summed
log-probability. Both are computed by `needletail eval`, by transformers from the merged folder, and (loss) by peft from
the adapter, which names its base; all must agree with `summary.json`.
"""

import json
import math
import pathlib
import time

import peft
import torch
import transformers

from common import REPOSITORY, Program, Report, parser, read_rows

LIMIT = 1e-4
LABELS = ["sarcastic", "sincere"]
FIGURES = ["accuracy_before", "accuracy_after", "accuracy_gain_interval_95", "loss_before", "loss_after",
           "trained_tokens", "train_seconds", "tokens_per_second", "peak_memory_bytes"]


def rows_of(run):
    """The folder of rows beside a run of the demo."""
    return run.parent / f"{run.name}-rows"


def answer_tokens(tokenizer, messages):
    """Ids of a chat that ends with an answer, and where in them the answer and the token that ends it lie."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt), "the template renders the prompt otherwise when an answer follows"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return ids, start, ids.index(tokenizer.eos_token_id, start) + 1


def labelled(messages, label):
    """The chat with a label in the answer's place."""
    return messages[:-1] + [{**messages[-1], "content": label}]


@torch.no_grad()
def answer_log_probs(model, tokenizer, chats, batch=16):
    """log p of each token of every chat's answer. Chats of like length go together, padded at the end, where a causal
    model does not see it; logits are computed from the first answer of a batch on."""
    found, rows = [None] * len(chats), [answer_tokens(tokenizer, messages) for messages in chats]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    for chosen in (order[i:i + batch] for i in range(0, len(order), batch)):
        longest, first = max(len(rows[i][0]) for i in chosen), min(rows[i][1] for i in chosen)
        ids = torch.tensor([rows[i][0] + [0] * (longest - len(rows[i][0])) for i in chosen])
        logits = model(ids, logits_to_keep=longest - first + 1, use_cache=False).logits.float()
        for row, i in enumerate(chosen):
            tokens, start, end = rows[i]
            answer = torch.log_softmax(logits[row, start - first:end - first], -1)
            found[i] = answer.gather(1, torch.tensor(tokens[start:end])[:, None])[:, 0].tolist()
    return found


def loss_of(answers):
    """Nats a token over all answers."""
    return -sum(map(math.fsum, answers)) / sum(map(len, answers))


# -- checks -----------------------------------------------------------------------------------------------------------

def check_summary(report, summary, run):
    strange = [key for key in FIGURES if not isinstance(summary.get(key), (int, float)) or not math.isfinite(summary[key])]
    report.equals("summary.json: figures missing or not finite", strange, [])
    report.note("summary.json", ", ".join(f"{key} {summary.get(key):.5g}" for key in FIGURES if key not in strange))
    report.holds("accuracy after training", summary["accuracy_after"] >= 0.72, summary["accuracy_after"], ">= 0.72")
    report.at_most("seconds of training", summary["train_seconds"], 600)
    report.equals("free answers before and after", [len(summary.get(f"answers_{when}", [])) for when in ("before", "after")],
                  [2, 2])
    for name in ("adapter", "merged"):
        report.holds(f"{name} folder is the one that the summary names", (REPOSITORY / summary[name]) == run / name
                     and (run / name).is_dir(), summary[name])
    report.holds("loss plot", (run / "plots/loss.svg").is_file())


def check_eval(report, program, summary, merged, held_out, count):
    """The merged folder, loaded anew by the program."""
    choices = [word for label in LABELS for word in ("--choice", label)]
    found = json.loads(program.must("eval", merged, held_out, *choices, "--dtype", "fp32", "--json", timeout=1800).stdout)
    report.at_most("merged, needletail eval: loss difference", abs(found["loss"] - summary["loss_after"]), LIMIT)
    report.at_most("merged, needletail eval: answers judged otherwise",
                   abs(found["correct"] - summary["accuracy_after"] * count), 1)


def check_transformers(report, summary, merged, rows):
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    model = transformers.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    scores = {label: answer_log_probs(model, tokenizer, [labelled(row["messages"], label) for row in rows])
              for label in LABELS}
    right = [row["messages"][-1]["content"] for row in rows]
    loss = loss_of([scores[label][i] for i, label in enumerate(right)])
    correct = sum(max(LABELS, key=lambda name: math.fsum(scores[name][i])) == label for i, label in enumerate(right))
    report.note("merged, transformers: loss, accuracy", f"{loss:.6f}, {correct} of {len(rows)}")
    report.at_most("merged, transformers: loss difference", abs(loss - summary["loss_after"]), LIMIT)
    report.at_most("merged, transformers: answers judged otherwise",
                   abs(correct - summary["accuracy_after"] * len(rows)), 1)


def check_peft(report, summary, adapter, merged, rows):
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    model = peft.AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
    chats = [row["messages"] for row in rows]
    loss = loss_of(answer_log_probs(model, tokenizer, chats))
    report.at_most("adapter, peft: loss difference", abs(loss - summary["loss_after"]), LIMIT)
    with model.disable_adapter():
        loss = loss_of(answer_log_probs(model, tokenizer, chats))
    report.at_most("adapter, peft: switched off, difference to the loss before", abs(loss - summary["loss_before"]), LIMIT)


def check_second_start(report, program, run):
    """The same command once more."""
    before = state(run)
    began = time.monotonic()
    result = program.run("demo", "--output", run, timeout=60)
    report.at_most("second start: seconds", time.monotonic() - began, 5)
    report.holds("second start: exit 0, says what is there and how to start over",
                 result.returncode == 0 and "--redo" in result.stderr and "accuracy" in result.stderr,
                 f"exit {result.returncode}: {result.stderr}", "exit 0, accuracy, --redo")
    after = state(run)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    report.identical("second start: files of the run", ", ".join(changed))


def state(folder):
    """Length and time of change of every file."""
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--run", type=pathlib.Path, default=REPOSITORY / "runs/demo", help="the demo's run folder")
    arguments = arguments.parse_args()
    report, program, run = Report(), Program(arguments.needletail, threads=torch.get_num_threads()), arguments.run.resolve()
    held_out = rows_of(run) / "held-out.jsonl"
    summary, rows = json.loads((run / "summary.json").read_text()), read_rows(held_out)
    report.equals("held-out rows", len(rows), 500)
    check_summary(report, summary, run)
    check_second_start(report, program, run)
    check_eval(report, program, summary, run / "merged", held_out, len(rows))
    check_transformers(report, summary, run / "merged", rows)
    check_peft(report, summary, run / "adapter", run / "merged", rows)
    report.exit()


if __name__ == "__main__":
    main()
