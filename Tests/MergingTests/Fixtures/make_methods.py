"""Golden values of the merge methods, from mergekit 0.1.5: writes methods.json beside this script.

    .deps/oracle/bin/python Tests/MergingTests/Fixtures/make_methods.py

`table`: the small fixture of the specification; the script stops unless mergekit gives the specification's numbers.
`random`: larger random tensors in f32, f64, bf16 and f16. Tensors are base64 of little-endian elements.
Random methods: torch.bernoulli is replaced by our draws (Philox4x32-10 under the key that the program uses, written
here a second time in numpy), so that everything but the generator is mergekit's.
"""

import base64
import json
import os

import mergekit
import numpy as np
import torch
from mergekit.merge_methods.api import merge_tensors

torch.set_num_threads(1)
SEED = 20261125

# ---- the specification's fixture ---------------------------------------------------------------------------------

w0 = [0.10, -0.20, 0.30, -0.40, 0.50, -0.60, 0.70, -0.80]
delta = {
    "a": [0.11, -0.23, 0.05, 0.31, -0.17, 0.29, -0.02, 0.41],
    "b": [-0.13, -0.19, 0.37, 0.07, 0.03, -0.43, 0.27, -0.01],
    "c": [0.21, 0.06, -0.09, 0.15, -0.33, 0.12, 0.47, -0.25],
}
small = {"0": torch.tensor(w0).reshape(2, 4)}
small |= {k: (torch.tensor(w0, dtype=torch.float64) + torch.tensor(d, dtype=torch.float64)).float().reshape(2, 4) for k, d in delta.items()}

# inputs, base, method, parameters (lists: per input or per non-base input), the specification's row
T = [
    ("ab", None, "linear", {"weight": [0.6, 0.4]}, "+.114000 -.414000 +.478000 -.186000 +.410000 -.598000 +.796000 -.558000"),
    ("ab", "a", "slerp", {"t": 0.35}, "+.128067 -.424362 +.472031 -.178022 +.408528 -.574878 +.797955 -.548758"),
    ("ab", None, "nuslerp", {"weight": [0.65, 0.35], "nuslerp_flatten": False}, "+.129890 -.431757 +.480910 -.181584 +.405163 -.569795 +.791462 -.544118"),
    ("ab", None, "nuslerp", {"weight": [0.65, 0.35], "nuslerp_flatten": False, "nuslerp_row_wise": True}, "+.130678 -.432571 +.462939 -.174579 +.419340 -.587540 +.783040 -.538692"),
    ("0ab", "0", "nuslerp", {"weight": [0.65, 0.35]}, "+.125565 -.519064 +.558408 -.076983 +.362194 -.582795 +.837045 -.431782"),
    ("abc", None, "multislerp", {"weight": [0.5, 0.3, 0.2]}, "+.193570 -.416471 +.439566 -.184945 +.385380 -.544672 +.909326 -.648404"),
    ("abc", None, "karcher", {}, "+.195388 -.371253 +.433293 -.218799 +.370615 -.601872 +.989883 -.760733"),
    ("0ab", "0", "task_arithmetic", {"weight": [0.7, 0.3], "lambda": 0.8}, "+.130400 -.374400 +.416800 -.209600 +.412000 -.540800 +.753600 -.572800"),
    ("0abc", "0", "ties", {"weight": [1, 1, 1], "density": [0.5, 0.5, 0.5]}, "+.310000 -.410000 +.670000 -.090000 +.170000 -1.030000 +1.070000 -.390000"),
    ("0ab", "0", "ties", {"weight": [0.7, 0.3], "density": [0.5, 1]}, "-.030000 -.418000 +.670000 -.162000 +.530000 -.310000 +.970000 -.390000"),
    ("0ab", "0", "breadcrumbs", {"weight": [1, 1], "density": [0.5, 0.5], "gamma": [0.25, 0.25]}, "+.080000 -.620000 +.300000 -.330000 +.330000 -.310000 +.970000 -.800000"),
    ("0ab", "0", "breadcrumbs_ties", {"weight": [1, 1], "density": [0.5, 0.5], "gamma": [0.25, 0.25]}, "-.030000 -.620000 +.300000 -.330000 +.330000 -.310000 +.970000 -.800000"),
    ("0abc", "0", "model_stock", {}, "+.094911 -.190359 +.291162 -.414194 +.512587 -.599464 +.680717 -.804017"),
    ("0abc", "0", "model_stock", {"filter_wise": True}, "+.117771 -.233672 +.330866 -.350428 +.576635 -.596739 +.582602 -.824458"),
    ("ab", "a", "nearswap", {"t": 0.1}, "+.110000 -.390000 +.450000 -.190000 +.430000 -.410000 +.780000 -.490000"),
    ("ab", "a", "arcee_fusion", {}, "+.210000 -.430000 +.350000 -.090000 +.330000 -1.030000 +.680000 -.810000"),
    ("0abc", "0", "sce", {}, "+.262145 -.409811 +.511513 -.224758 +.246568 -1.030000 +1.073345 -.390000"),
    ("0abc", "0", "sce", {"select_topk": 0.5}, "+.100000 -.200000 +.544393 -.400000 +.500000 -1.030000 +1.057313 -.390000"),
    ("0abc", "0", "ram", {"epsilon": 0.1}, None),
    ("0abc", "0", "ramplus_tl", {"epsilon": 0.1, "r": 0.3, "alpha": 0.7}, None),
    ("a", None, "passthrough", {"scale": [0.5]}, None),
]

# ---- our random draws, once more -----------------------------------------------------------------------------------

M64 = (1 << 64) - 1


def words(seed, name, model, count):
    """Words 0 ..< count of the stream that the program keys by (seed, tensor's name, model)."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & M64
    state = 0x9E3779B97F4A7C15
    for part in (h, model):
        state = ((state ^ part) + 0x9E3779B97F4A7C15) & M64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & M64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & M64
        state ^= state >> 31
    counter = np.arange((count + 3) // 4, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c = [counter & low, counter >> np.uint64(32), np.full_like(counter, state & 0xFFFFFFFF), np.full_like(counter, state >> 32)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & low, (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, 1).reshape(-1)[:count]


class Draws:
    """Replaces torch.bernoulli: one call for each model whose density is inside (0, 1), in order."""

    def __init__(self, name, models):
        self.name, self.models = name, list(models)

    def __call__(self, probabilities):
        model = self.models.pop(0)
        drawn = words(SEED, self.name, model, probabilities.numel()).reshape(probabilities.shape)
        kept = drawn < probabilities.double().numpy() * 2.0**32
        return torch.from_numpy(kept).to(probabilities.dtype)


# ---- writing -------------------------------------------------------------------------------------------------------

NAMES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16"}


def stored(tensor):
    raw = tensor.contiguous().view(-1)
    raw = raw.view(torch.int16) if tensor.element_size() == 2 else raw
    return {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data": base64.b64encode(raw.numpy().tobytes()).decode()}


def case(tensors, inputs, base, method, parameters, dtype=None, out_dtype=None):
    base_index = None if base is None else inputs.index(base)
    name = f"{method}.weight"
    ours = {k: v for k, v in parameters.items() if k != "seed"}
    if method in ("dare_linear", "dare_ties", "della", "della_linear"):
        models = [i for i in range(len(inputs)) if i != base_index]
        density = parameters["density"]
        original = torch.bernoulli
        torch.bernoulli = Draws(name, [m for m, p in zip(models, density) if 0 < p < 1])
        parameters = parameters | {"seed": SEED}
    try:
        result = merge_tensors(
            [tensors[i] for i in inputs], method, parameters=ours, base_index=base_index, name=name, dtype=dtype, out_dtype=out_dtype)
    finally:
        if method in ("dare_linear", "dare_ties", "della", "della_linear"):
            torch.bernoulli = original
    return {"name": name, "inputs": list(inputs), "base": base, "method": method, "parameters": parameters, "expected": stored(result)}


table = []
for inputs, base, method, parameters, row in T:
    entry = case(small, inputs, base, method, parameters)
    if row:
        given = torch.tensor([float(x) for x in row.split()], dtype=torch.float64)
        got = torch.frombuffer(bytearray(base64.b64decode(entry["expected"]["data"])), dtype=torch.float32)
        assert (given - got).abs().max() < 2e-6, (method, parameters, got)
    table.append(entry)

# ---- random tensors ------------------------------------------------------------------------------------------------

generator = torch.Generator().manual_seed(SEED)


def family(shape, dtype, spread=0.02):
    """A base and three models whose task vectors have different sizes."""
    base = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.05
    out = {"0": base}
    for key, size in zip("abc", (1, 0.6, 1.7)):
        out[key] = base + torch.randn(shape, generator=generator, dtype=torch.float64) * spread * size
    return {k: v.to(dtype) for k, v in out.items()}


def methods(two_dims=True):
    yield "abc", None, "linear", {"weight": [0.5, 0.3, 0.4]}
    yield "abc", None, "linear", {"weight": [0.5, 0.3, 0.4], "normalize": False}
    yield "ab", "b", "slerp", {"t": 0.3}
    yield "ab", None, "nuslerp", {"weight": [0.65, 0.35]}
    yield "a0b", "0", "nuslerp", {"weight": [0.65, 0.35]}
    for row_wise in (False, True):
        yield "ab", None, "nuslerp", {"weight": [0.65, 0.35], "nuslerp_flatten": False, "nuslerp_row_wise": row_wise}
        yield "ab0", "0", "nuslerp", {"weight": [0.65, 0.35], "nuslerp_flatten": False, "nuslerp_row_wise": row_wise}
    yield "abc", None, "multislerp", {"weight": [0.5, 0.3, 0.4]}
    yield "0abc", "0", "multislerp", {"weight": [0.5, 0.3, 0.4], "normalize_weights": False}
    yield "abc", None, "karcher", {}
    yield "ab", None, "karcher", {"max_iter": 1}
    yield "0abc", "0", "task_arithmetic", {"weight": [0.5, 0.3, -0.4]}
    yield "0abc", "0", "task_arithmetic", {"weight": [0.5, 0.3, 0.4], "normalize": True, "lambda": 0.7}
    yield "0abc", "0", "ties", {"weight": [0.5, 0.3, 0.4], "density": [0.5, 0.21, 1]}
    yield "0abc", "0", "ties", {"weight": [1, -0.3, 0.4], "density": [0.5, 0, 0.7], "normalize": False, "lambda": 1.3, "rescale": True}
    yield "0abc", "0", "dare_linear", {"weight": [0.5, 0.3, 0.4], "density": [0.5, 0.21, 1]}
    yield "0abc", "0", "dare_ties", {"weight": [0.5, 0.3, 0.4], "density": [0.9, 0.1, 0.5], "rescale": False, "normalize": True}
    if two_dims:
        yield "0abc", "0", "della_linear", {"weight": [0.5, 0.3, 0.4], "density": [0.5, 0.3, 1]}
        yield "a0bc", "0", "della", {"weight": [0.5, 0.3, 0.4], "density": [0.8, 0.2, 0.5], "epsilon": [0.1, 0.15, 0.3]}
    yield "0abc", "0", "breadcrumbs", {"weight": [0.5, 0.3, 0.4], "density": [0.5, 0.21, 0.995]}
    yield "0abc", "0", "breadcrumbs_ties", {"weight": [0.5, 0.3, 0.4], "density": [0.5, 0.21, 1], "gamma": [0.02, 0.3, 0.1], "rescale": True}
    yield "0abc", "0", "sce", {}
    yield "0abc", "0", "sce", {"select_topk": 0.37}
    yield "0abc", "0", "model_stock", {}
    yield "0abc", "0", "model_stock", {"filter_wise": True}
    yield "ab", "b", "nearswap", {"t": 0.01}
    yield "ab", "b", "arcee_fusion", {}
    yield "0abc", "0", "ram", {"epsilon": 0.015}
    yield "0abc", "0", "ramplus_tl", {"epsilon": 0.015, "r": 0.5, "alpha": 0.9}
    yield "a", None, "passthrough", {"scale": [-1.3]}


random = []
for shape, dtype, out_dtype, wanted in [
    ((17, 73), torch.float32, None, None),
    ((611,), torch.float32, None, ("nuslerp", "model_stock", "arcee_fusion", "ties", "della", "slerp")),
    ((3, 5, 33), torch.float32, None, ("nuslerp", "model_stock", "arcee_fusion", "sce")),
    ((3, 41), torch.float64, None, None),
    ((13, 29), torch.bfloat16, torch.bfloat16, ("linear", "slerp", "task_arithmetic", "karcher", "model_stock", "ties", "passthrough")),
    ((13, 29), torch.float16, torch.float16, ("linear", "slerp", "task_arithmetic", "sce", "nearswap", "passthrough")),
]:
    tensors = family(shape, dtype)
    cases = [
        case(tensors, *entry, dtype=torch.float32 if out_dtype else None, out_dtype=out_dtype)
        for entry in methods(len(shape) < 3) if wanted is None or entry[2] in wanted]
    random.append({"tensors": {k: stored(v) for k, v in tensors.items()}, "cases": cases})

out = {
    "made_by": {"mergekit": mergekit.__version__ if hasattr(mergekit, "__version__") else "0.1.5", "torch": torch.__version__, "numpy": np.__version__, "seed": SEED},
    "table": {"tensors": {k: stored(v) for k, v in small.items()}, "cases": table},
    "random": random,
}
with open(os.path.join(os.path.dirname(__file__), "methods.json"), "w") as file:
    json.dump(out, file, separators=(",", ":"))
    file.write("\n")
