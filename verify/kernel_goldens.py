#!/usr/bin/env python3
"""Golden values of the loss and optimizer kernels from PyTorch in float64: prints Tests/KernelsTests/Goldens.swift.

    .deps/oracle/bin/python verify/kernel_goldens.py > Tests/KernelsTests/Goldens.swift

Cross-entropy with soft-cap, label smoothing and z-loss through autograd; AdamW through torch.optim; the 8-bit codes from
the definition of the dynamic map (Dettmers et al. 2022, arXiv:2110.02861).
"""
import torch

torch.manual_seed(20)
torch.set_default_dtype(torch.float64)


def swift(name, values):
    numbers = ", ".join(repr(float(x)) for x in torch.as_tensor(values).flatten())
    lines, line = [], ""
    for number in numbers.split(" "):
        if len(line) + len(number) > 108:
            lines.append(line)
            line = ""
        line += (" " if line else "") + number
    body = "\n        ".join(lines + [line])
    print(f"    static let {name}: [Double] = [\n        {body},\n    ]")


def cross_entropy(cap, smoothing, zeta):
    logits = (torch.randn(4, 19) * 5).requires_grad_()
    labels, factors = torch.tensor([3, -100, 18, 0]), torch.tensor([0.25, 0.5, 0.125, 1.5])
    l = cap * torch.tanh(logits / cap) if cap else logits
    rows = torch.nn.functional.cross_entropy(
        l, labels, ignore_index=-100, label_smoothing=smoothing, reduction="none")
    rows = (rows + zeta * l.logsumexp(-1) ** 2 * (labels >= 0)) * factors
    rows.sum().backward()
    return logits, rows, logits.grad


def adamw():
    start = torch.randn(23)
    p = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    gradients = torch.randn(3, 23)
    for g in gradients:
        p.grad = g * 0.5  # the multiplier of the kernel
        optimizer.step()
    state = optimizer.state[p]
    return start, gradients, p, state["exp_avg"], state["exp_avg_sq"]


def dynamic_map(signed):
    """Decade by decade, 2^i (twice as many without a sign) means of neighbours in 0.1 ... 1; with 0 and 1."""
    codes = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        means = 10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        codes += means.tolist() + ((-means).tolist() if signed else [])
    return sorted(codes)


print(f"// Made by verify/kernel_goldens.py with PyTorch {torch.__version__.split('+')[0]}, float64, seed 20.")
print("\nenum Goldens {")
for name, options in [("plain", (0, 0, 0)), ("full", (4, 0.1, 1e-2))]:
    for part, values in zip(["Logits", "Losses", "Gradients"], cross_entropy(*options)):
        swift(name + part, values.detach())
for part, values in zip(["adamStart", "adamGradients", "adamWeights", "adamMean", "adamSquare"], adamw()):
    swift(part, values.detach())
for name, signed in [("signedCodes", True), ("unsignedCodes", False)]:
    swift(name, dynamic_map(signed))
print("}")
