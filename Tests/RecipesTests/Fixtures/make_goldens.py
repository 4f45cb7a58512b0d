"""Golden values for the optimiser, the schedules and the loss, computed by torch and transformers.

    .deps/oracle/bin/python Tests/RecipesTests/Fixtures/make_goldens.py

writes `training_goldens.json` beside itself. AdamW, Muon and the loss are computed in float64 (tests in fp32: 1e-6
relative for the loss, 1e-6 absolute for the weights; in fp64: 1e-12). Muon is written out in numpy, and where torch has
the same rule compared with torch's own code, whose rounding to bfloat16 is taken out.
"""

import json
import pathlib
import sys
import unittest.mock

import numpy
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


NEWTON_SCHULZ = [(3.4445, -4.7750, 2.0315)] * 5
POLAR_EXPRESS = [(8.15655, -22.48329, 15.87877), (4.04293, -2.80892, 0.50002), (3.89167, -2.77248, 0.50606),
                 (3.28575, -2.36813, 0.46449), (2.34655, -1.70978, 0.42324)]


def orthogonalized(x, polynomials, factor):
    """The polynomials on the singular values, by way of the decomposition: no product of the iteration is used."""
    u, s, vt = numpy.linalg.svd(x, full_matrices=False)
    s = s / (numpy.sqrt((x ** 2).sum()) * factor)
    for a, b, c in polynomials:
        s = a * s + b * s ** 3 + c * s ** 5
    return u @ numpy.diag(s) @ vt


def muon_case(name, rows, columns, parts, decay, moments, rates, compares=False):
    """Steps of Muon on a matrix of `parts` matrices above one another; the momentum and the rate change every step."""
    polynomials, factor = {"newton_schulz": (NEWTON_SCHULZ, 1.0), "polar_express": (POLAR_EXPRESS, 1.01)}[name]
    start = numpy.array(rounded6(sequence(rows * columns, 40))).reshape(rows, columns)
    weight, momentum = start.copy(), numpy.zeros_like(start)
    peer = torch.nn.Parameter(torch.tensor(start))
    torch_muon = torch.optim.Muon([peer], lr=rates[0], weight_decay=decay, momentum=moments[0],
                                  adjust_lr_fn="match_rms_adamw")
    gradients, weights = [], []
    for k, (mu, rate) in enumerate(zip(moments, rates)):
        gradient = numpy.array(rounded6(sequence(rows * columns, 41 + k))).reshape(rows, columns) * 10.0 ** (k - 2)
        momentum = mu * momentum + (1 - mu) * gradient
        update = mu * momentum + (1 - mu) * gradient
        turned = numpy.concatenate([orthogonalized(part, polynomials, factor) for part in numpy.split(update, parts)])
        weight = weight * (1 - rate * decay) - rate * 0.2 * max(rows // parts, columns) ** 0.5 * turned
        torch_muon.param_groups[0].update(lr=rate, momentum=mu)
        peer.grad = torch.tensor(gradient)
        with unittest.mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.double):
            torch_muon.step()
        gradients.append(gradient.flatten().tolist())
        weights.append(weight.flatten().tolist())
    if compares:
        off = numpy.abs(weight - peer.detach().numpy()).max()
        print(f"muon {rows} x {columns}: {off:.1e} from torch.optim.Muon")
        assert off < 1e-9, "torch.optim.Muon goes another way"
    return {"orthogonalization": name, "shape": [rows, columns], "parts": parts, "weight_decay": decay,
            "momentum": moments, "learning_rates": rates, "start": start.flatten().tolist(), "gradients": gradients,
            "weights_after": weights, "momentum_after": momentum.flatten().tolist()}


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
    versions = {"python": sys.version.split()[0], "numpy": numpy.__version__, "torch": torch.__version__,
                "transformers": transformers.__version__}
    print(versions)
    rates = [1e-3, 2e-3, 1.5e-3, 1e-3, 5e-4]
    goldens = {
        "versions": versions,
        "adamw": [adamw_case((0.9, 0.999), 1e-8, 0.1, rates), adamw_case((0.9, 0.95), 1e-6, 0.0, rates),
                  adamw_case((0.0, 0.999), 1e-8, 0.01, rates)],
        "muon": [muon_case("newton_schulz", 4, 6, 1, 0.1, [0.85, 0.9, 0.95], rates[:3], compares=True),
                 muon_case("newton_schulz", 7, 5, 1, 0.0, [0.9, 0.9, 0.9], rates[:3], compares=True),
                 muon_case("newton_schulz", 9, 4, 3, 0.1, [0.95, 0.95, 0.95], rates[:3]),
                 muon_case("polar_express", 4, 6, 1, 0.1, [0.85, 0.9, 0.95], rates[:3])],
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
