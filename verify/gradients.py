"""`needletail analyze gradients` against transformers' autograd and numpy's SVD: same weights, fp32, base and chat style.

    .deps/oracle/bin/python verify/gradients.py [--tiny llama_gqa ...] [--kills 5]

Compared per model and style, for every example, projection and layer: tokens and response tokens (equal), loss (1e-5),
nuclear norm, ratio, Frobenius norm, effective rank (relative), entries and singular values (on the scale of the largest
singular value). Limit 1e-4, since both sides compute gradients in fp32 and with other summation orders. Then a study is
killed at random moments until it ends by itself, and its file must be that of an undisturbed one, byte for byte.
"""

import random
import signal
import time

import numpy
import torch
import transformers

import models
from common import Program, Report, Workspace, parser, read_rows, write_rows

LIMIT = 1e-4
PROJECTIONS = ["q", "k", "v", "o", "gate", "up", "down"]
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def make_rows(count=12):
    """Instruction rows of many lengths, so that few and many tokens against the width of 64 both occur."""
    short = [{"instruction": "2+2", "input": "", "output": "four"}, {"instruction": "river?", "input": "mill", "output": "no"}]
    return short + [{"instruction": models.text(3 * i, 1 + i % 3), "input": models.text(3 * i + 1, 1) if i % 2 else "",
                     "output": models.text(3 * i + 2, 1 + i % 6)} for i in range(count - 2)]


def expected_tokens(tokenizer, row, style):
    """Ids and whether each belongs to the response: it holds a character of it."""
    question = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
    if style == "chat":
        prompt = tokenizer.apply_chat_template(
            [SYSTEM, {"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
    else:
        prompt = question + "\n"
    encoding = tokenizer(prompt + row["output"], add_special_tokens=style != "chat", return_offsets_mapping=True)
    return encoding["input_ids"], [end > len(prompt) and end > start for start, end in encoding["offset_mapping"]]


def expected_matrices(model, ids, response):
    """Loss and gradients by projection, one a layer."""
    model.zero_grad()
    ids = torch.tensor([ids])
    labels = torch.where(torch.tensor([response]), ids, -100)
    logits = model(input_ids=ids).logits[0, :-1].double()
    chosen = labels[0, 1:] >= 0
    loss = torch.nn.functional.cross_entropy(logits[chosen], labels[0, 1:][chosen])
    loss.backward()
    named = dict(model.named_parameters())
    place = {p: "self_attn" if p in "qkvo" else "mlp" for p in PROJECTIONS}
    return loss.item(), {
        p: [named[f"model.layers.{i}.{place[p]}.{p}_proj.weight"].grad.double().numpy()
            for i in range(model.config.num_hidden_layers)] for p in PROJECTIONS}


def statistics(gradient):
    """Name: (value, scale of its error)."""
    sigma = numpy.linalg.svd(gradient, compute_uv=False)
    s, p = sigma.sum(), sigma[sigma > 0] / sigma.sum()
    rank = numpy.exp(-(p * numpy.log(p)).sum())
    norm = numpy.sqrt((gradient**2).sum())
    return sigma, {
        "nuclear": (s, s), "ratio": (sigma[0] / s, sigma[0] / s), "frobenius": (norm, norm),
        "effective_rank": (rank, rank), "sigma_max": (sigma[0], sigma[0]), "sigma_min": (sigma[-1], sigma[0]),
        "mean": (gradient.mean(), sigma[0]), "min": (gradient.min(), sigma[0]), "max": (gradient.max(), sigma[0])}


def check_model(report, program, work, name, style):
    path = models.write_tiny(work / "tiny", name)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    rows, file, output = make_rows(), work / "rows.jsonl", work / f"{name}-{style}"
    write_rows(file, rows)
    program.must("analyze", "gradients", "--model", path, "--data", file, "--template", style, "--projections",
                 ",".join(PROJECTIONS), "--save-singular-values", "--threads", 1, "--output", output)
    found = read_rows(output / "examples.jsonl")
    report.equals(f"{name}, {style}: examples", len(found), len(rows))
    other, worst_loss, worst, few = 0, 0.0, {}, 0
    for row, record in zip(rows, found):
        ids, response = expected_tokens(tokenizer, row, style)
        other += (record["tokens"], record["response_tokens"]) != (len(ids), sum(response))
        few += 2 * len(ids) < 64
        loss, gradients = expected_matrices(model, ids, response)
        worst_loss = max(worst_loss, abs(record["loss"] - loss))
        for projection, layers in gradients.items():
            for layer, gradient in enumerate(layers):
                sigma, values = statistics(gradient)
                mine = record["gradients"][projection]
                values["singular_values"] = (0.0, sigma[0])
                for key, (value, scale) in values.items():
                    seen = mine[key][layer]
                    error = numpy.abs(numpy.array(seen) - sigma).max() if key == "singular_values" else abs(seen - value)
                    worst[key] = max(worst.get(key, 0.0), error / scale)
    report.equals(f"{name}, {style}: examples with other tokens", other, 0)
    report.at_most(f"{name}, {style}: largest loss difference", worst_loss, 1e-5)
    for key, value in worst.items():
        report.at_most(f"{name}, {style}: {key}", value, LIMIT)
    if style == "none":  # a template's text makes every prompt long
        report.holds(f"{name}, {style}: examples with few tokens and with many", 0 < few < len(rows), f"{few} of {len(rows)}")


def check_kills(report, program, work, kills, seed):
    """kill -9 at random moments of the same command; what is left is taken up each time."""
    path, file = models.write_tiny(work / "tiny", "llama_gqa"), work / "many.jsonl"
    write_rows(file, make_rows(150))
    command = ["analyze", "gradients", "--model", path, "--data", file, "--irrelevant", "shuffle", "--threads", 1]
    began = time.monotonic()
    program.must(*command, "--output", work / "whole")
    seconds, random_state = time.monotonic() - began, random.Random(seed)
    killed = 0
    for _ in range(kills):
        process = program.start(*command, "--output", work / "killed")
        time.sleep(random_state.uniform(0.1, 0.6) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    program.must(*command, "--output", work / "killed")
    report.holds("kills that met a running study", killed > 0, f"{killed} of {kills}")
    for name in ["examples.jsonl", "summary.csv", "layers.csv"]:
        same = (work / "whole" / name).read_bytes() == (work / "killed" / name).read_bytes()
        report.identical(f"{name} after the kills", "" if same else "differs")


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--tiny", nargs="*", choices=list(models.TINY),
                           default=["llama_gqa", "llama_tied", "mistral_window", "qwen2"])
    arguments.add_argument("--kills", type=int, default=5)
    arguments = arguments.parse_args()
    torch.set_num_threads(1)
    report, program = Report(), Program(arguments.needletail)
    with Workspace(arguments) as work:
        for name in arguments.tiny:
            for style in ["none", "chat"]:
                check_model(report, program, work, name, style)
        check_kills(report, program, work, arguments.kills, arguments.seed)
    report.exit()


if __name__ == "__main__":
    main()
