"""Merges beside mergekit's, tensor by tensor (spec table 5.3).

    .deps/oracle/bin/python verify/merging.py [--only PART ...]

Random Llama-shaped checkpoints (vocabulary 64, width 32, MLP 48, 4 layers, 4 heads over 2) in f32, bf16 and f16, tied and
untied, in one shard and in three, are merged by the program and by mergekit 0.1.5 from the same YAML: every deterministic
method; 16-bit inputs against mergekit's work in f32; gradients, filters and slices; tokenizers; shards and config.json; the
random methods by their kept share and L1 norm; what both refuse; and twenty mixed configs drawn from --seed. Where the
program's rule is deliberately another than mergekit's the item's name says "(our rule)".
"""

import contextlib
import json
import logging
import pathlib
import random
import shutil
import warnings

import torch
import transformers
import yaml
from mergekit.architecture import arch_info_for_config
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from safetensors.torch import load_file, save_file

import models
import union_tokenizer
from common import Program, Report, Workspace, one_line, parser

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
LIMIT, SPHERICAL_LIMIT = 2e-6, 1e-5
SPHERICAL = {"multislerp", "karcher"}
# Entries near a threshold or a tied vote may fall on either side.
DISCRETE = {"ties", "breadcrumbs", "breadcrumbs_ties", "sce", "arcee_fusion", "ram", "ramplus_tl"}
BIT_EQUAL = {"passthrough", "linear"}
FLIPS = 1e-5
# What cancels to about nothing has no last place to compare; errors of the work in f32 are of this size (the spherical
# means are allowed more there too).
FLOOR = 1e-7
torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
logging.disable(logging.ERROR)
warnings.simplefilter("ignore")


# -- checkpoints ------------------------------------------------------------------------------------------------------

def save(folder, config, weights, shards=1):
    """A checkpoint of one file, or of several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    if shards == 1:
        return save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    names, place = sorted(weights), {}
    for k in range(shards):
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[k::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(part, file)
    total = sum(w.numel() * w.element_size() for w in weights.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": place}))


def distinct(base, dtype, scale, generator):
    """A fine-tune of `base`: the sizes of the changes in a tensor all differ, since mergekit's sorts are unstable."""
    tuned = (base + scale * torch.randn(base.shape, generator=generator)).to(dtype).flatten()
    start = base.to(dtype).flatten()
    while True:
        size = (tuned.float() - start.float()).abs()
        values, inverse, count = size.unique(return_inverse=True, return_counts=True)
        again = (count[inverse] > 1) | (size == 0)
        if not again.any():
            return tuned.reshape(base.shape)
        noise = 2 * scale * torch.randn(int(again.sum()), generator=generator)
        tuned[again] = (start[again].float() + noise).to(dtype)


def write_family(work, name, dtype, tied, shards, seed, vocabulary=64):
    """`base`, `a`, `b`, `c` under a folder."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, dtype=TYPES[dtype], architectures=["LlamaForCausalLM"])
    generator = torch.Generator().manual_seed(seed)
    model = transformers.LlamaForCausalLM(config)
    shapes = {key: w.shape for key, w in model.state_dict().items() if not (tied and key == "lm_head.weight")}
    base = {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    save(work / name / "base", config, {key: w.to(TYPES[dtype]) for key, w in base.items()}, shards)
    for other in "abc":
        tuned = {key: distinct(w, TYPES[dtype], 0.2, generator) for key, w in base.items()}
        save(work / name / other, config, tuned, shards)
    return work / name


def tensors(folder):
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        found |= load_file(path)
    return found


# -- both programs ----------------------------------------------------------------------------------------------------

class Pair:
    """Runs the same YAML through the program and through mergekit, in this process."""

    def __init__(self, program, work):
        self.program, self.work, self.count = program, work, 0

    def place(self):
        self.count += 1
        return self.work / f"ours-{self.count}", self.work / f"theirs-{self.count}", self.work / f"{self.count}.yaml"

    def ours(self, config, path, out, *options):
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return self.program.run("merge", "run", path, out, "--any-base", *options)

    def theirs(self, config, out, **options):
        """mergekit's own message when it refuses."""
        try:
            with open("/dev/null", "w") as null, contextlib.redirect_stderr(null), contextlib.redirect_stdout(null):
                run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(write_model_card=False, quiet=True, **options))
        except Exception as problem:
            return f"{type(problem).__name__}: {problem}"
        return ""

    def run(self, config, shard=None, theirs=None):
        """(our folder, their folder, why one of them failed)."""
        a, b, path = self.place()
        result = self.ours(config, path, a, *(["--shard-size", shard[0]] if shard else []))
        if result.returncode:
            return a, b, f"needletail: {result.stderr[-300:]}"
        problem = self.theirs(theirs or config, b, **({"out_shard_size": shard[1]} if shard else {}))
        return a, b, problem and f"mergekit: {problem}"

    def clean(self):
        for path in self.work.iterdir():
            if path.name.split("-")[0] in ("ours", "theirs"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def last_places(a, b, floor):
    """Elements further apart than one step of their format, and how many there are."""
    size = torch.maximum(a.abs(), b.abs())
    step = (torch.nextafter(size, torch.full_like(size, torch.inf)) - size).double()
    return int(((a.double() - b.double()).abs() > step + floor).sum()), a.numel()


def compare(report, name, pair, config, method, kind="f32", theirs=None):
    a, b, problem = pair.run(config, theirs=theirs)
    if problem:
        report.identical(name, one_line(problem))
        return
    ours, reference = tensors(a), tensors(b)
    odd = sorted(set(ours) ^ set(reference)) + [
        k for k in ours if k in reference and (ours[k].shape, ours[k].dtype) != (reference[k].shape, reference[k].dtype)]
    if odd:
        report.identical(f"{name}: names, shapes and types", " ".join(odd[:5]))
    elif method in BIT_EQUAL and kind != "f32":
        report.identical(f"{name}: bits", " ".join([k for k in ours if not torch.equal(ours[k], reference[k])][:4]))
    elif kind == "f32":
        limit = SPHERICAL_LIMIT if method in SPHERICAL else LIMIT
        if method == "passthrough":
            limit = 0
        gaps = [(ours[k].double() - reference[k].double()).abs() for k in ours]
        report.at_most(f"{name}: largest difference", max(g.max().item() for g in gaps), limit)
    else:
        counts = [last_places(ours[k], reference[k], SPHERICAL_LIMIT if method in SPHERICAL else FLOOR) for k in ours]
        share = sum(n for n, _ in counts) / sum(n for _, n in counts)
        report.at_most(f"{name}: share beyond one last place", share, FLIPS if method in DISCRETE else 0)
    shutil.rmtree(a), shutil.rmtree(b)


# -- configs ----------------------------------------------------------------------------------------------------------

def recipe(method, family, inputs, base=None, dtype="float32", parameters=None, **more):
    """A config of `models`; `inputs` maps a model's name to its parameters."""
    config = {"merge_method": method, "dtype": dtype, **more}
    if base:
        config["base_model"] = str(family / base)
    config["models"] = [{"model": str(family / m), **({"parameters": p} if p else {})} for m, p in inputs.items()]
    if parameters:
        config["parameters"] = parameters
    return config


def weights(*values, **more):
    return {m: {"weight": v, **more} for m, v in zip("abc", values)}


NOTHING = {"a": None, "b": None, "c": None}
METHODS = [
    ("linear", "linear", weights(0.6, 0.4), None, None),
    ("linear, not normalised", "linear", weights(0.7, 0.5, -0.1), None, {"normalize": False}),
    ("linear, base counts", "linear", {"base": {"weight": 0.5}, **weights(0.3, 0.4)}, "base", None),
    ("slerp", "slerp", {"a": None, "b": None}, "a", {"t": 0.35}),
    ("nuslerp", "nuslerp", weights(0.65, 0.35), None, None),
    ("nuslerp, by last dimension", "nuslerp", weights(0.65, 0.35), None, {"nuslerp_flatten": False}),
    ("nuslerp, by first dimension", "nuslerp", weights(0.65, 0.35), None, {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("nuslerp with a base", "nuslerp", weights(0.65, 0.35), "base", None),
    ("nuslerp with a base, by last dimension", "nuslerp", weights(0.65, 0.35), "base", {"nuslerp_flatten": False}),
    ("multislerp", "multislerp", weights(0.5, 0.3, 0.2), None, None),
    ("multislerp with a base", "multislerp", weights(0.5, 0.3, 0.2), "base", None),
    ("multislerp, weights not normalised", "multislerp", weights(0.5, 0.3, 0.4), None, {"normalize_weights": False}),
    ("karcher", "karcher", NOTHING, None, None),
    ("karcher, base averaged in", "karcher", NOTHING, "base", {"max_iter": 20, "tol": "1e-6"}),
    ("task_arithmetic", "task_arithmetic", weights(0.7, 0.3), "base", {"lambda": 0.8}),
    ("task_arithmetic, normalised", "task_arithmetic", weights(0.7, 0.5, -0.2), "base", {"normalize": True}),
    ("ties", "ties", weights(1, 1, 1, density=0.5), "base", None),
    ("ties, unequal", "ties", {"a": {"weight": 0.7, "density": 0.5}, "b": {"weight": 0.3, "density": 1}}, "base", {"lambda": 1.1}),
    ("ties, rescaled, not normalised", "ties", weights(0.7, 0.4, density=0.3), "base", {"rescale": True, "normalize": False}),
    ("ties, int8_mask", "ties", weights(0.7, 0.4, density=0.3), "base", {"int8_mask": True}),
    ("breadcrumbs", "breadcrumbs", weights(1, 0.6, density=0.5, gamma=0.25), "base", None),
    ("breadcrumbs, default gamma", "breadcrumbs", weights(1, 0.6, density=0.7), "base", None),
    ("breadcrumbs_ties", "breadcrumbs_ties", weights(1, 0.6, 0.5, density=0.5, gamma=0.1), "base", None),
    ("sce", "sce", NOTHING, "base", None),
    ("sce, select_topk .5", "sce", NOTHING, "base", {"select_topk": 0.5}),
    ("model_stock", "model_stock", NOTHING, "base", None),
    ("model_stock, filter_wise", "model_stock", NOTHING, "base", {"filter_wise": True}),
    ("nearswap", "nearswap", {"a": None}, "base", {"t": 0.1}),
    ("arcee_fusion", "arcee_fusion", {"a": None}, "base", None),
    ("ram", "ram", NOTHING, "base", {"epsilon": 0.05}),
    ("ramplus_tl", "ramplus_tl", NOTHING, "base", {"epsilon": 0.05, "r": 0.2, "alpha": 0.3}),
    ("passthrough", "passthrough", {"a": None}, None, None),
    ("passthrough, scaled", "passthrough", {"a": {"scale": [{"filter": "down_proj", "value": 0.5}, {"value": 1}]}}, None, None),
    ("dare_linear, density 1", "dare_linear", weights(0.7, 0.3, density=1), "base", None),
    ("dare_ties, density 1", "dare_ties", weights(0.7, 0.3, density=1), "base", None),
    ("della_linear, density 1", "della_linear", weights(0.7, 0.3, density=1), "base", None),
    ("della, density 1", "della", weights(0.7, 0.3, density=1), "base", None),
]


def check_methods(report, pair, families):
    for name, method, inputs, base, parameters in METHODS:
        for form in ["f32", "f32 tied"]:
            config = recipe(method, families[form], inputs, base, parameters=parameters)
            compare(report, f"{name}, {form}", pair, config, method)


def check_sixteen(report, pair, families):
    """16-bit inputs: theirs is their own f32 work, rounded by them."""
    for name, method, inputs, base, parameters in METHODS:
        for form, label in [("bf16", "bfloat16"), ("f16", "float16")]:
            config = recipe(method, families[form], inputs, base, parameters=parameters, dtype="bfloat16" if form == "bf16" else "float16")
            theirs = {**config, "dtype": "float32", "out_dtype": label}
            compare(report, f"{name}, {form}", pair, config, method, form, theirs)
    mixed = recipe("linear", families["bf16"], weights(0.6, 0.4), out_dtype="bfloat16")
    mixed["models"][1]["model"] = str(families["f32"] / "b")
    compare(report, "linear, bf16 with f32", pair, mixed, "linear", "bf16")


def source(family, model, first, end, **parameters):
    return {"model": str(family / model), "layer_range": [first, end], **({"parameters": parameters} if parameters else {})}


def structured(family):
    """(name, method, config): gradients, filters, slices."""
    def slices(method, *parts, **more):
        return {"merge_method": method, "dtype": "float32", "slices": list(parts), **more}

    base = str(family / "base")
    both = lambda a, b, **p: {"sources": [source(family, "a", a, b), source(family, "b", a, b)], **p}
    gradient = lambda v: {"base_model": str(family / "a"), "parameters": {"t": v}}
    for points in [[0, 1], [0.2, 0.9, 0.4], [0, 0.5, 0.3, 0.7, 1]]:
        yield f"gradient of {len(points)} points", "slerp", recipe("slerp", family, {"a": None, "b": None}, "a", parameters={"t": points})
        yield f"weights' gradients of {len(points)} points", "task_arithmetic", recipe("task_arithmetic", family, weights(points, 0.5), "base")
    t = [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]}, {"value": 0.5}]
    yield "filters with gradients", "slerp", recipe("slerp", family, {"a": None, "b": None}, "a", parameters={"t": t})
    t = [{"filter": "q_proj", "value": 0.1}, {"filter": "*", "value": 0.8}]
    yield "filter *", "slerp", recipe("slerp", family, {"a": None, "b": None}, "a", parameters={"t": t})
    t = [{"filter": "layers.2.", "value": 0.9}]
    yield "filters that fall through to the shared level", "linear", {
        **recipe("linear", family, {"a": {"weight": t}, "b": {"weight": 0.4}}), "parameters": {"weight": [0.1, 0.6]}}
    yield "flags with gradients", "linear", recipe("linear", family, weights(0.3, 0.4), parameters={"normalize": [True, False, True]})
    density = [{"filter": "mlp", "value": [0.2, 0.9]}, {"value": 0.6}]
    yield "densities by filter and gradient", "ties", recipe("ties", family, weights(0.6, 0.5, density=density), "base")
    yield "numbers as 1e-5 in YAML 1.1", "ram", recipe("ram", family, NOTHING, "base", parameters={"epsilon": "1e-5"})
    yield "stack", "passthrough", slices("passthrough", *[{"sources": [source(family, m, a, b)]} for m, a, b in [("a", 0, 3), ("b", 1, 4), ("a", 2, 4)]])
    yield "repeated layers, scaled", "passthrough", slices("passthrough", *[
        {"sources": [source(family, "a", i, i + 1, scale=[{"filter": "o_proj", "value": s}, {"value": 1}])]} for i, s in [(0, 1), (1, 0), (1, 0.7), (3, 1)]])
    yield "two slices", "slerp", slices("slerp", both(0, 2), both(1, 4), **gradient([0.1, 0.9]))
    yield "one-layer slices", "slerp", slices("slerp", *[both(i, i + 1) for i in range(4)], **gradient([0.1, 0.4, 0.9]))
    yield "settings of a slice", "slerp", slices("slerp", both(0, 2, parameters={"t": 0.2}), both(2, 4), **gradient(0.7))
    yield "settings of a source", "linear", slices("linear", {
        "sources": [source(family, "a", 0, 4, weight=[0.2, 0.9]), source(family, "b", 0, 4)]}, parameters={"weight": 0.5})
    yield "layers at different depths", "linear", slices("linear", {
        "sources": [source(family, "a", 0, 2, weight=0.3), source(family, "b", 2, 4, weight=0.7)]}, {"sources": [source(family, "c", 1, 3)]}, parameters={"weight": 1})
    yield "a base for each slice", "ties", slices("ties", *[{
        "base_model": str(family / m), "sources": [source(family, m, a, b), source(family, "a", a, b, weight=0.7, density=0.4), source(family, "b", a, b, weight=0.4, density=0.8)]}
        for m, a, b in [("base", 0, 2), ("c", 2, 4)]])
    yield "a last slice without layers", "passthrough", slices(
        "passthrough", {"sources": [source(family, "a", 0, 4)]}, {"sources": [source(family, "b", 4, 4)]})
    yield "modules", "ties", {"merge_method": "ties", "dtype": "float32", "base_model": base, "modules": {"default": {
        "models": recipe("ties", family, weights(0.6, 0.5, density=0.5))["models"], "parameters": {"normalize": False}}}}


def write_seeing(work):
    """Three models of a text decoder, a vision tower and a projector, with the tensors that mergekit's table lists."""
    config = transformers.Mistral3Config(
        architectures=["Mistral3ForConditionalGeneration"],
        text_config={"model_type": "mistral", "num_hidden_layers": 3, "hidden_size": 16, "vocab_size": 32},
        vision_config={"model_type": "pixtral", "num_hidden_layers": 2, "hidden_size": 12})
    names = [w.name for w in arch_info_for_config(config).all_weights(config)]
    for k, model in enumerate(["base", "a", "b"]):
        generator = torch.Generator().manual_seed(90 + k)
        save(work / "seeing" / model, config, {n: torch.randn(8, 6, generator=generator) for n in names})
    return work / "seeing"


def check_modules(report, pair, family):
    """Each module with inputs, slices and settings of its own."""
    both = lambda a, b: [{"model": str(family / m), "parameters": {"weight": w, "density": 0.5}} for m, w in [("a", a), ("b", b)]]
    base = str(family / "base")
    text = [{"sources": [source(family, m, first, first + 1, **p) for m, p in [
        ("base", {}), ("a", {"weight": 0.7, "density": 0.4}), ("b", {"weight": [0.2, 0.5], "density": 0.9})]]} for first in (0, 2)]
    config = {"merge_method": "ties", "dtype": "float32", "base_model": base, "parameters": {"normalize": False}, "modules": {
        "text_decoder": {"slices": text}, "vision_tower": {"models": both(1, 0.5), "parameters": {"normalize": True}},
        "multi_modal_projector": {"models": both(0, 1)}}}
    compare(report, "three modules", pair, config, "ties")
    a, b, problem = pair.run(config)
    counts = [[json.loads((f / "config.json").read_text())[part]["num_hidden_layers"] for part in ("text_config", "vision_config")]
              for f in (a, b) if not problem]
    report.equals("three modules: layers of text and vision, ours and mergekit's", counts, [[2, 2], [2, 2]])


def check_structure(report, pair, families):
    for form in ["f32", "f32 tied"]:
        for name, method, config in structured(families[form]):
            compare(report, f"{name}, {form}", pair, config, method)
    check_modules(report, pair, write_seeing(pair.work))


# -- tokenizers -------------------------------------------------------------------------------------------------------

def write_speakers(work):
    """Three models: `base` and `a` with one vocabulary, `b` with another that shares 200 of its 300 tokens."""
    family = work / "speakers"
    for k, (name, vocabulary) in enumerate([("base", "a"), ("a", "a"), ("b", "b")]):
        (family / name).mkdir(parents=True)
        union_tokenizer.write_model(family / name, union_tokenizer.GOLDENS[vocabulary], 300, k + 1)
        generator = torch.Generator().manual_seed(70 + k)
        state = load_file(family / name / "model.safetensors")
        moved = {key: w + 0.1 * torch.randn(w.shape, generator=generator) for key, w in state.items()}
        save_file(moved, family / name / "model.safetensors", metadata={"format": "pt"})
    return family


def vocabulary(folder):
    return transformers.AutoTokenizer.from_pretrained(folder).get_vocab()


def check_speech(report, name, pair, config, limit, padded=False):
    """Rows through the two id maps; everything else by name."""
    a, b, problem = pair.run(config)
    if problem:
        return report.identical(name, one_line(problem))
    ours, reference, va, vb = tensors(a), tensors(b), vocabulary(a), vocabulary(b)
    report.identical(f"{name}: tokens", " ".join(sorted(set(va) ^ set(vb))[:5]))
    tokens = [t for t in va if t in vb]
    ia, ib = torch.tensor([va[t] for t in tokens]), torch.tensor([vb[t] for t in tokens])
    worst = 0.0
    for key in ours:
        if key in ("model.embed_tokens.weight", "lm_head.weight"):
            gap = ours[key][ia] - reference[key][ib]
            if padded:
                extra = ours[key][len(va):] - reference[key][len(vb):]
                gap = torch.cat([gap, extra])
        else:
            gap = ours[key] - reference[key]
        worst = max(worst, gap.abs().max().item())
    report.at_most(f"{name}: rows by token and the other tensors", worst, limit)
    sizes = [json.loads((folder / "config.json").read_text())["vocab_size"] for folder in (a, b)]
    report.equals(f"{name}: vocab_size", sizes[0], sizes[1])


def check_tokenizers(report, pair, family):
    only_b = sorted(set(union_tokenizer.token_ids(union_tokenizer.GOLDENS["b"])) - union_tokenizer.SHARED)
    only_a = sorted(set(union_tokenizer.token_ids(union_tokenizer.GOLDENS["a"])) - union_tokenizer.SHARED)
    both = sorted(union_tokenizer.SHARED)
    b = str(family / "b")
    tokens = {
        only_b[0]: {"source": {"kind": "zero"}},
        only_b[1]: {"source": {"kind": "model_token", "model": str(family / "a"), "token": both[5]}},
        only_a[0]: {"source": {"kind": "model_token", "model": b, "token_id": 7}},
        only_a[1]: {"source": str(family / "a")},
        both[3]: {"source": b, "force": True},
        both[4]: {"source": {"kind": "zero"}, "force": True},
    }
    settings = {
        "union": {"source": "union"}, "base": {"source": "base"}, "a model's": {"source": b},
        "union with token settings": {"source": "union", "tokens": tokens},
        "union, padded to 64": {"source": "union", "pad_to_multiple_of": 64},
        "base, padded to 7": {"source": "base", "pad_to_multiple_of": 7},
        "base with token settings, padded": {"source": "base", "tokens": {k: v for k, v in tokens.items() if k not in only_b}, "pad_to_multiple_of": 128},
    }
    inputs = weights(0.6, 0.4)
    for name, tokenizer in settings.items():
        padded = "padded" in name
        check_speech(report, f"{name}, linear", pair, recipe("linear", family, {"base": {"weight": 0.1}, **inputs}, "base", tokenizer=tokenizer), LIMIT, padded)
        check_speech(report, f"{name}, task_arithmetic", pair, recipe("task_arithmetic", family, inputs, "base", tokenizer=tokenizer), LIMIT, padded)
    check_speech(report, "tokenizer_source: union, slerp", pair, recipe("slerp", family, {"a": None, "b": None}, "a", parameters={"t": 0.4}, tokenizer_source="union"), LIMIT)
    check_speech(report, "union without a base", pair, recipe("linear", family, inputs, tokenizer={"source": "union"}), LIMIT)
    check_speech(report, "tokenizer_source: a model", pair, recipe("linear", family, inputs, tokenizer_source=b), LIMIT)


# -- files ------------------------------------------------------------------------------------------------------------

def broken_rule(folder, places, limit):
    """The first tensor that is not where this rule puts it: by name; a new shard when the present one would be too big."""
    found = tensors(folder)
    shard, size, at = 1, 0, {}
    for name in sorted(found):
        more = found[name].numel() * found[name].element_size()
        if size and size + more > limit:
            shard, size = shard + 1, 0
        at[name], size = shard, size + more
    wanted = {n: f"model-{k:05d}-of-{shard:05d}.safetensors" for n, k in at.items()} if shard > 1 else {}
    return " ".join([n for n in found if places.get(n) != wanted.get(n)][:3])


def check_files(report, pair, families):
    stack = lambda f: {"merge_method": "passthrough", "dtype": "float32", "slices": [
        {"sources": [source(f, "a", 0, 3)]}, {"sources": [source(f, "b", 1, 4)]}]}
    for form, bf16 in [("f32", False), ("f32 tied", False), ("bf16", True)]:
        family = families[form]
        configs = {"ties": recipe("ties", family, weights(0.6, 0.4, density=0.5), "base", dtype="bfloat16" if bf16 else "float32"),
                   "stack": {**stack(family), "dtype": "bfloat16" if bf16 else "float32"}}
        if not bf16:
            configs["linear, out_dtype float16"] = recipe("linear", family, weights(0.6, 0.4), "base", out_dtype="float16")
            configs["linear, out_dtype float16"]["models"].append({"model": str(family / "base"), "parameters": {"weight": 0.1}})
        for kind, config in configs.items():
            for label, size in [("20kB", 20_000), ("70kB", 70_000), ("5GB", 5_000_000_000)]:
                name = f"{kind}, {form}, shards of {label}"
                a, b, problem = pair.run(config, shard=(label, size))
                if problem:
                    report.identical(name, one_line(problem))
                    continue
                files = [sorted(p.name for p in f.glob("model*")) for f in (a, b)]
                index = [json.loads(p.read_text()) if (p := f / "model.safetensors.index.json").exists() else {} for f in (a, b)]
                maps = [i.get("weight_map", {}) for i in index]
                if kind == "stack":
                    # mergekit's order is that of the donors' names, and as its sets fall among equal ones: ours is by name.
                    report.identical(f"{name}: the rule of shards, by name (our rule)", broken_rule(a, maps[0], size))
                    report.identical(f"{name}: names in the index", " ".join(sorted(set(maps[0]) ^ set(maps[1]))[:3]) if maps[1] else "")
                else:
                    report.identical(f"{name}: files", "" if files[0] == files[1] else f"{len(files[0])} and {len(files[1])}: {set(files[0]) ^ set(files[1])}")
                    report.identical(f"{name}: weight_map", " ".join([k for k in maps[0] if maps[0][k] != maps[1].get(k)][:3]) + " ".join(set(maps[1]) - set(maps[0])))
                totals = [i.get("metadata", {}).get("total_size") for i in index]
                report.equals(f"{name}: total_size", totals[0], totals[1])
                ours, mine, theirs = tensors(a), *[json.loads((f / "config.json").read_text()) for f in (a, b)]
                report.equals(f"{name}: layers", mine["num_hidden_layers"], theirs["num_hidden_layers"])
                wanted = config.get("out_dtype") or config["dtype"]
                report.equals(f"{name}: dtype", [mine["dtype"], mine["torch_dtype"], theirs.get("dtype", theirs.get("torch_dtype"))], [wanted] * 3)
                report.equals(f"{name}: tied flag", [mine["tie_word_embeddings"], theirs.get("tie_word_embeddings", False)], ["lm_head.weight" not in ours] * 2)
                model = transformers.AutoModelForCausalLM.from_pretrained(a)
                state = model.state_dict()
                report.identical(f"{name}: opened by transformers", " ".join([k for k in ours if not torch.equal(state[k], ours[k])][:3]))
                shutil.rmtree(a), shutil.rmtree(b)
    config = {"merge_method": "linear", "dtype": "float32", "models": [
        {"model": str(families[f] / m), "parameters": {"weight": w}} for f, m, w in [("f32 tied", "a", 0.4), ("f32", "b", 0.6)]]}
    compare(report, "tied with untied: the embedding serves as head", pair, config, "linear")
    a, _, path = pair.place()
    problem = pair.ours(config, path, a).stderr
    mine = json.loads((a / "config.json").read_text()) if (a / "config.json").exists() else {}
    report.equals("tied with untied: tied flag (our rule)", mine.get("tie_word_embeddings", problem), False)


# -- GPT-2 ------------------------------------------------------------------------------------------------------------

def check_gpt2(report, pair, work):
    """Merges go by names: GPT-2's, with and without its prefix, and the result opens in transformers."""
    for name in ["gpt2", "gpt2_bare"]:
        folder = work / f"{name}-pair"
        for model, seed in [("a", 1), ("b", 2), ("base", 3)]:
            models.write_tiny(folder / f"{model}-drawn", name, seed=seed).rename(folder / model)
        for method, base in [("linear", None), ("slerp", "a"), ("ties", "base")]:
            inputs = {"a": None, "b": None} if method == "slerp" else weights(0.7, 0.3, **({"density": 0.6} if base else {}))
            config = recipe(method, folder, inputs, base, parameters={"t": 0.35} if method == "slerp" else None)
            a, _, path = pair.place()
            problem = pair.ours(config, path, a)
            if problem.returncode:
                report.identical(f"{name}, {method}", one_line(problem.stderr))
                continue
            opened = transformers.AutoModelForCausalLM.from_pretrained(a).state_dict()
            if method == "linear":
                states = [transformers.AutoModelForCausalLM.from_pretrained(folder / m).state_dict() for m in "ab"]
                gaps = [(opened[k] - 0.7 * states[0][k] - 0.3 * states[1][k]).abs().max().item() for k in opened]
                report.at_most(f"{name}, linear, opened by transformers: largest difference", max(gaps), LIMIT)
            ours = {k if k.startswith(("transformer.", "lm_head.")) else f"transformer.{k}": w for k, w in tensors(a).items()}
            report.identical(f"{name}, {method}: opened by transformers", " ".join([k for k in ours if not torch.equal(opened[k], ours[k])][:3]))


# -- random methods ---------------------------------------------------------------------------------------------------

def check_random(report, pair, families):
    family = families["f32"]
    base, tuned = tensors(family / "base"), tensors(family / "a")
    for method in ["dare_linear", "dare_ties", "della_linear", "della"]:
        for density in [0.3, 0.5, 0.8]:
            more = {"epsilon": 0.1} if method.startswith("della") else {}
            config = recipe(method, family, {"a": {"weight": 1, "density": density, **more}}, "base", parameters={"rescale": True})
            a, b, problem = pair.run(config)
            if problem:
                report.identical(f"{method}, density {density}", one_line(problem))
                continue
            for who, merged in [("", tensors(a)), ("mergekit's ", tensors(b))]:
                kept = sum(int((merged[k] != base[k]).sum()) for k in base)
                count = sum(w.numel() for w in base.values())
                sigma = (density * (1 - density) / count) ** 0.5
                report.at_most(f"{method}, density {density}: {who}kept share, sigmas from the density", abs(kept / count - density) / sigma, 4)
                ratio = max(abs((merged[k].double() - base[k].double()).abs().sum() / (tuned[k].double() - base[k].double()).abs().sum() - 1).item() for k in base)
                report.at_most(f"{method}, density {density}: {who}L1 norm of each tensor's change", ratio, 1e-5)


# -- refusals ---------------------------------------------------------------------------------------------------------

def check_refusals(report, pair, families):
    f = families["f32"]
    both = {"a": None, "b": None}
    unequal = {"merge_method": "linear", "dtype": "float32", "parameters": {"weight": 1}, "slices": [{"sources": [source(f, "a", 0, 2), source(f, "b", 0, 3)]}]}
    twice = {"merge_method": "linear", "dtype": "float32", "parameters": {"weight": 1}, "slices": [{"sources": [source(f, "a", 0, 2), source(f, "a", 2, 4)]}]}
    other = {"merge_method": "linear", "dtype": "float32", "models": [
        {"model": str(families["f32"] / "a"), "parameters": {"weight": 1}}, {"model": str(families["wider"] / "b"), "parameters": {"weight": 1}}]}
    cases = {
        "three inputs to slerp": recipe("slerp", f, {**both, "c": None}, "a", parameters={"t": 0.5}),
        "slerp without t": recipe("slerp", f, both, "a"),
        "slerp without a base": recipe("slerp", f, both, parameters={"t": 0.5}),
        "slices of unequal length": unequal,
        "a missing weight": recipe("linear", f, {"a": {"weight": 0.5}, "b": None}),
        "ties without a base": recipe("ties", f, weights(1, 1)),
        "model_stock with one model": recipe("model_stock", f, {"a": None}, "base"),
        "passthrough of two": recipe("passthrough", f, both),
        "unequal vocabularies": other,
        "a model twice in one slice": twice,
        "a model twice": {**recipe("linear", f, weights(1)), "models": recipe("linear", f, weights(1))["models"] * 2},
        "models and slices": {**unequal, **recipe("linear", f, weights(1, 1))},
        "no such method": recipe("linaer", f, weights(1, 1)),
        "no such model": recipe("linear", f, {"a": {"weight": 1}, "nowhere": {"weight": 1}}),
        "layers beyond the model": {"merge_method": "passthrough", "dtype": "float32", "slices": [{"sources": [source(f, "a", 2, 6)]}]},
        "della, density plus epsilon above 1": recipe("della", f, weights(1, 1, density=0.9, epsilon=0.15), "base"),
        "della, density minus epsilon below 0": recipe("della", f, weights(1, 1, density=0.1, epsilon=0.15), "base"),
        "dare, density below 0": recipe("dare_linear", f, weights(1, 1, density=-0.5), "base"),
        "tokenizer and tokenizer_source": recipe("linear", f, weights(1, 1), tokenizer={"source": "union"}, tokenizer_source="union"),
        "dtype int64": recipe("linear", f, weights(1, 1), dtype="int64"),
        "a tokenizer where there is none": recipe("linear", f, weights(1, 1), tokenizer={"source": "union"}),
    }
    for name, config in cases.items():
        a, b, path = pair.place()
        result, problem = pair.ours(config, path, a), pair.theirs(config, b)
        if not problem:
            # Only a second opinion is missing; the program must still refuse.
            name += " (our rule)"
        seen = f"{result.returncode}, {'written' if a.exists() else 'nothing written'}; {one_line(result.stderr, 90)}"
        # A density or an input that only the merging shows is data; both are exit 65.
        report.holds(name, result.returncode == 65 and not a.exists(), seen, "65, nothing written")
    for name, config in {
        "an unknown key (our rule)": {**recipe("linear", f, weights(1, 1)), "modles": []},
        "a mistyped parameter (our rule)": recipe("ties", f, weights(1, 1, densty=0.5), "base"),
        "weights whose sum is 0 (our rule)": recipe("linear", f, weights(1, -1)),
    }.items():
        a, _, path = pair.place()
        result = pair.ours(config, path, a)
        report.holds(name, result.returncode == 65 and not a.exists(), f"{result.returncode}; {one_line(result.stderr, 100)}", "65, nothing written")


# -- mixed configs ----------------------------------------------------------------------------------------------------

class Drawer:
    """Configs drawn at random."""

    def __init__(self, seed):
        self.chance = random.Random(seed)

    def number(self, low, high):
        return round(self.chance.uniform(low, high), 3)

    def setting(self, low, high):
        """A number, a gradient, or filters with either."""
        plain = lambda: self.chance.choice([lambda: self.number(low, high), lambda: [self.number(low, high) for _ in range(self.chance.choice([2, 3, 5]))]])()
        if self.chance.random() < 0.5:
            return plain()
        names = self.chance.sample(["self_attn", "mlp", "q_proj", "norm", "layers.1", "embed_tokens", "down_proj"], 2)
        last = {"value": plain()} if self.chance.random() < 0.5 else {"filter": "*", "value": plain()}
        return [{"filter": n, "value": plain()} for n in names] + [last]

    def config(self, family, layers, others, tokenizer):
        method = self.chance.choice(["linear", "slerp", "nuslerp", "multislerp", "task_arithmetic", "ties", "breadcrumbs_ties", "breadcrumbs", "sce", "model_stock", "nearswap", "passthrough", "karcher"])
        single = method in ("slerp", "nearswap")
        others = ["a"] if method in ("passthrough",) else others[:1] if single else others[:2] if method == "nuslerp" else others
        based = method not in ("linear", "karcher", "passthrough")
        shared, own = {}, {}
        if method in ("slerp", "nearswap"):
            shared["t"] = self.setting(0.05, 0.95)
        if method == "passthrough":
            own = {"scale": lambda: self.setting(0.5, 1.5)}
        if method in ("linear", "nuslerp", "multislerp", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties"):
            own["weight"] = lambda: self.setting(0.2, 1)
        if method in ("ties", "breadcrumbs", "breadcrumbs_ties"):
            own["density"] = lambda: self.setting(0.2, 0.9)
            shared["lambda"] = self.number(0.7, 1.2)
        if method == "sce":
            shared["select_topk"] = self.number(0.3, 1)
        slices, at = [], 0
        while at < layers:
            end = self.chance.randint(at + 1, layers)
            part = {"sources": [{**source(family, m, at, end), **({"parameters": {k: v() for k, v in own.items()}} if own else {})} for m in others]}
            if based:
                part["sources"].append(source(family, "base", at, end))
            if shared and self.chance.random() < 0.4:
                part["parameters"] = {k: self.number(0.3, 0.9) for k in list(shared)[:1]}
            slices.append(part)
            # Layers may come back in the next slice.
            at = end if end == layers or self.chance.random() < 0.7 else max(at + 1, end - 1)
        config = {"merge_method": method, "dtype": "float32", "slices": slices, **({"parameters": shared} if shared else {})}
        if based:
            config["base_model"] = str(family / "base")
        if tokenizer:
            if not based:
                config["tokenizer"] = {"source": "union"}
            else:
                # Padded rows are copies of one row, and mergekit's sorts choose freely among equal magnitudes.
                padded = [] if method in DISCRETE else [{"source": "union", "pad_to_multiple_of": 32}]
                config["tokenizer"] = self.chance.choice([{"source": "union"}, {"source": "base"}] + padded)
        return method, config


def check_mixed(report, pair, families, speakers, seed):
    for i in range(20):
        # seed and number name the config, so that a failure can be drawn again
        drawer = Drawer(1000 * seed + i)
        if i % 2:
            method, config = drawer.config(families["f32"], 4, ["a", "b", "c"], False)
            compare(report, f"mixed {i}, {method}, {len(config['slices'])} slices", pair, config, method)
        else:
            method, config = drawer.config(speakers, 2, ["b", "a"], True)
            name = f"mixed {i}, {method}, {len(config['slices'])} slices, tokenizer {config['tokenizer']['source']}"
            check_speech(report, name, pair, config, SPHERICAL_LIMIT if method in SPHERICAL else LIMIT, "pad_to_multiple_of" in config["tokenizer"])


def main():
    arguments = parser(__doc__)
    parts = ["methods", "sixteen", "structure", "tokenizers", "files", "gpt2", "random", "refusals", "mixed"]
    arguments.add_argument("--only", nargs="+", choices=parts, default=parts)
    arguments = arguments.parse_args()
    report = Report()
    with Workspace(arguments) as work:
        families = {
            "f32": write_family(work, "f32", "f32", False, 1, 1), "f32 tied": write_family(work, "f32-tied", "f32", True, 3, 2),
            "bf16": write_family(work, "bf16", "bf16", False, 3, 3), "f16": write_family(work, "f16", "f16", True, 1, 4),
            "wider": write_family(work, "wider", "f32", False, 1, 5, vocabulary=72)}
        speakers = write_speakers(work)
        pair = Pair(Program(arguments.needletail), work)
        checks = {
            "methods": lambda: check_methods(report, pair, families), "sixteen": lambda: check_sixteen(report, pair, families),
            "structure": lambda: check_structure(report, pair, families), "tokenizers": lambda: check_tokenizers(report, pair, speakers),
            "files": lambda: check_files(report, pair, families), "gpt2": lambda: check_gpt2(report, pair, work), "random": lambda: check_random(report, pair, families),
            "refusals": lambda: check_refusals(report, pair, families),
            "mixed": lambda: check_mixed(report, pair, families, speakers, arguments.seed)}
        for part in arguments.only:
            checks[part]()
            pair.clean()
    report.exit()


if __name__ == "__main__":
    main()
