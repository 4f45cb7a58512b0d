"""Golden values for the optimiser, the schedules and the loss, computed by torch and transformers.

    .deps/oracle/bin/python Tests/RecipesTests/Fixtures/make_goldens.py

writes `training_goldens.json` beside itself. AdamW and the loss are computed in float64 (tests in fp32: 1e-6 relative
for the loss, 1e-6 absolute for the weights; in fp64: 1e-12).
"""

import json
import pathlib
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)


def sequence(count, k):
    """Numbers in (-1, 1) with six digits, exact in JSON: no file or random generator needed."""
    return [((7919 * (i + 1) * (k + 1) + 104729 * k) % 2000003) / 1000001.5 - 1 for i in range(count)]


def rounded6(values):
    return [round(value, 6) for value in values]


def adamw_case(betas, eps, decay, rates):
    """Five steps of torch.optim.AdamW on six numbers; gradients are given, the learning rate changes every step."""
    start = rounded6(sequence(6, 0))
    weight = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=rates[0], betas=betas, eps=eps, weight_decay=decay)
    gradients = [[round(g * 10.0 ** (k - 3), 9) for g in rounded6(sequence(6, k + 1))] for k in range(len(rates))]
    gradients[2][0] = 0.0  # a parameter without a gradient still moves by its momentum and decays
    weights = []
    for rate, gradient in zip(rates, gradients):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        weights.append(weight.detach().tolist())
    state = optimizer.state[weight]
    return {"beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": decay, "learning_rates": rates,
            "start": start, "gradients": gradients, "weights_after": weights,
            "first_moment": state["exp_avg"].tolist(), "second_moment": state["exp_avg_sq"].tolist()}


def schedule_case(kind, steps, warmup, **specific):
    """Factors on the peak learning rate for the optimiser steps 0 ..< steps (step 0 is the first update)."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = transformers.get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=steps,
        scheduler_specific_kwargs=specific or None)
    factors = []
    for _ in range(steps):
        factors.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return {"kind": kind, "steps": steps, "warmup_steps": warmup, **specific, "factors": factors}


def clip_case(limit):
    """torch.nn.utils.clip_grad_norm_: scale by min(1, limit / (norm + 1e-6))."""
    tensors = [rounded6(sequence(4, 20)), rounded6(sequence(3, 21))]
    parameters = [torch.nn.Parameter(torch.zeros(len(t), dtype=torch.float64)) for t in tensors]
    for parameter, gradient in zip(parameters, tensors):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    return {"limit": limit, "gradients": tensors, "norm": norm.item(), "clipped": [p.grad.tolist() for p in parameters]}


def cross_entropy_case(labels):
    """Sum of -log softmax(logits)[label] over labels that are not -100, and its gradient."""
    logits = [[round(4 * v, 6) for v in rounded6(sequence(7, 30 + row))] for row in range(len(labels))]
    x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(x, torch.tensor(labels), ignore_index=-100, reduction="sum")
    loss.backward()
    return {"logits": logits, "labels": labels, "counted": sum(label != -100 for label in labels),
            "sum": loss.item(), "gradient": x.grad.tolist()}


def main():
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}
    print(versions)
    rates = [1e-3, 2e-3, 1.5e-3, 1e-3, 5e-4]
    goldens = {
        "versions": versions,
        "adamw": [adamw_case((0.9, 0.999), 1e-8, 0.1, rates), adamw_case((0.9, 0.95), 1e-6, 0.0, rates),
                  adamw_case((0.0, 0.999), 1e-8, 0.01, rates)],
        "schedules": [
            schedule_case("constant", 4, 0),
            schedule_case("constant_with_warmup", 8, 3),
            schedule_case("linear", 10, 0),
            schedule_case("linear", 20, 5),
            schedule_case("cosine", 10, 0),
            schedule_case("cosine", 20, 5),
            # WSD: up linearly for warmup_steps, stay at 1, down over the last num_decay_steps to min_lr_ratio
            schedule_case("warmup_stable_decay", 20, 4, num_decay_steps=6, decay_type="linear"),
            schedule_case("warmup_stable_decay", 20, 4, num_decay_steps=6, decay_type="cosine"),
            schedule_case("warmup_stable_decay", 20, 4, num_decay_steps=6, decay_type="1-sqrt"),
            schedule_case("warmup_stable_decay", 20, 4, num_decay_steps=6, decay_type="linear", min_lr_ratio=0.1),
        ],
        "clip": [clip_case(1.0), clip_case(100.0)],
        "cross_entropy": [cross_entropy_case([3, -100, 0, 6, -100]), cross_entropy_case([1, 2, 3, 4, 5]),
                          cross_entropy_case([-100, -100])],
    }
    path = HERE / "training_goldens.json"
    path.write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
    print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
