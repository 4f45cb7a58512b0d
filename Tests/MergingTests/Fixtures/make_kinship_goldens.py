"""Golden values of model kinship, computed by numpy in float64.

    .deps/oracle/bin/python Tests/MergingTests/Fixtures/make_kinship_goldens.py

writes `kinship_goldens.json` beside itself. No weights are stored: both sides fill tensor number k from the integer formula
of `filled` (the one of Tests/ModelsTests/Fixtures/make_goldens.py). A model's tensor is base + change, rounded to the
model's number format; the changes are filled with index k + 100 * (model + 1) and the model's scale and offset.
"""

import json
import pathlib

import numpy
import torch

HERE = pathlib.Path(__file__).parent
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def filled(shape, k, scale, offset=0.0):
    i = numpy.arange(int(numpy.prod(shape)), dtype=numpy.uint64)
    x = ((i + 1000003 * k) * 0x9E3779B1).astype(numpy.uint32)
    x ^= x >> 15
    x = (x.astype(numpy.uint64) * 0x85EBCA77).astype(numpy.uint32)
    x ^= x >> 13
    return ((x / 2.0**32 - 0.5) * scale + offset).astype(numpy.float32).reshape(shape)


def shapes(vocab, tied):
    out = [("model.embed_tokens.weight", [vocab, 16])]
    for layer in range(2):
        for name, shape in [("self_attn.q_proj", [16, 16]), ("self_attn.k_proj", [8, 16]), ("mlp.up_proj", [24, 16]),
                            ("input_layernorm", [16])]:
            out.append((f"model.layers.{layer}.{name}.weight", shape))
    out.append(("model.norm.weight", [16]))
    if not tied:
        out.append(("lm_head.weight", [vocab, 16]))
    return out


def rounded(values, kind):
    return torch.from_numpy(values).to(TYPES[kind]).to(torch.float64).numpy()


def metrics(d):
    """d [N, D] -> the matrices of every metric; undefined values None."""
    n = len(d)
    out = {name: [[None] * n for _ in range(n)] for name in ("pcc", "cs", "abs_cs", "ed")}
    for i in range(n):
        for j in range(n):
            norms = numpy.linalg.norm(d[i]) * numpy.linalg.norm(d[j])
            out["ed"][i][j] = float(numpy.linalg.norm(d[i] - d[j]))
            if norms == 0:
                continue
            out["cs"][i][j] = float(d[i] @ d[j] / norms)
            out["abs_cs"][i][j] = abs(out["cs"][i][j])
            if d[i].std() > 0 and d[j].std() > 0:
                out["pcc"][i][j] = float(numpy.corrcoef(d[i], d[j])[0, 1])
    return out


def case(name, tied, vocab, models):
    """models: (type, vocabulary, scale, offset) of each; scale 0 is the base itself."""
    base, changes = {}, [{} for _ in models]
    for k, (tensor, shape) in enumerate(shapes(vocab, tied)):
        width = shape[1:]
        base[tensor] = filled(shape, k, 0.7, 1.0 if len(shape) == 1 else 0.0)
        for m, (kind, rows, scale, offset) in enumerate(models):
            isTable = tensor.startswith(("model.embed", "lm_head"))
            own = [rows] + width if isTable else shape
            whole = filled(own, k, 0.7, 1.0 if len(shape) == 1 else 0.0)
            if scale:
                whole = whole + filled(own, k + 100 * (m + 1), scale, offset)
            common = min([vocab] + [r for _, r, _, _ in models]) if isTable else shape[0]
            changes[m][tensor] = (rounded(whole, kind)[:common] - base[tensor].astype(numpy.float64)[:common]).ravel()
    names = [tensor for tensor, _ in shapes(vocab, tied)]

    def of(chosen):
        return metrics(numpy.stack([numpy.concatenate([change[t] for t in chosen]) for change in changes]))

    return {
        "name": name, "tied": tied, "vocab": vocab,
        "models": [dict(zip(("type", "vocab", "scale", "offset"), m)) for m in models],
        "elements": int(sum(changes[0][t].size for t in names)),
        "total": of(names),
        "layer": {f"layer {i}": of([t for t in names if f".{i}." in t]) for i in range(2)}
        | {t[len("model."):-len(".weight")] if t.startswith("model.") else t[:-len(".weight")]: of([t])
           for t in names if ".layers." not in t},
        "module": {part: of([t for t in names if part in t])
                   for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "input_layernorm")},
        "tiedTwice": of(names + ["model.embed_tokens.weight"]) if tied else None,
    }


cases = [
    case("plain", False, 20, [("F32", 20, 0.02, 0.0), ("F32", 20, 0.03, 0.004), ("F32", 20, 0.01, -0.002)]),
    case("types", True, 20, [("F32", 20, 0.05, 0.0), ("BF16", 20, 0.05, 0.01), ("F16", 20, 0.02, 0.0), ("F32", 20, 0.0, 0.0)]),
    case("vocabulary", False, 20, [("F32", 24, 0.02, 0.0), ("F32", 20, 0.02, 0.001)]),
]
versions = {"numpy": numpy.__version__, "torch": torch.__version__}
(HERE / "kinship_goldens.json").write_text(json.dumps({"versions": versions, "cases": cases}, indent=1) + "\n")
