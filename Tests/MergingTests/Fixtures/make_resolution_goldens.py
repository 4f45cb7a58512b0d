"""Parameters that mergekit's own planner gives every tensor of a merge, for configurations with gradients, filters, slices
and levels. Writes resolution_goldens.json.

    .deps/oracle/bin/python Tests/MergingTests/Fixtures/make_resolution_goldens.py

The models are tiny and random; only names and numbers of layers matter. `DIR` in a configuration is the folder of models.
"""

import json
import pathlib
import tempfile

import torch
import transformers
import yaml
from importlib import metadata

from mergekit.architecture import get_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import _model_out_config
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

HERE = pathlib.Path(__file__).resolve().parent
TAIL = "dtype: float32\n"
PAIR = "models:\n  - {{model: DIR/a, parameters: {a}}}\n  - {{model: DIR/b, parameters: {b}}}\n"
CONFIGS = {
    "gradient over four layers": "merge_method: linear\n" + PAIR.format(a="{weight: [0, 1]}", b="{weight: 1}"),
    "gradients of 2, 3 and 5 points": "merge_method: linear\n" + PAIR.format(
        a="{weight: [0.2, -0.4, 1e-1]}", b="{weight: [1, 0, 0.5, 0.25, 2]}"),
    "filters with gradients": "merge_method: linear\n" + PAIR.format(
        a="{weight: [{filter: self_attn, value: [0, 0.5, 1]}, {filter: mlp, value: 0.3}, {value: 0.9}]}",
        b='{weight: [{filter: norm, value: 1e-3}, {filter: "*", value: 0.5}]}'),
    "a filter that fits none falls to the next level": "merge_method: linear\nparameters: {weight: 0.7, normalize: false}\n"
        + PAIR.format(a="{weight: [{filter: q_proj, value: 0.1}]}", b="{}"),
    "shared gradient": "merge_method: slerp\nbase_model: DIR/a\nparameters: {t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]},"
        " {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}, {value: 0.5}]}\n" + PAIR.format(a="{}", b="{}"),
    "base without a parameter of its own": "merge_method: ties\nbase_model: DIR/base\nparameters: {density: 0.5, normalize: false}\n"
        + PAIR.format(a="{weight: [0, 0.3]}", b="{weight: '0.25', density: [{filter: mlp, value: 1}]}"),
    "flags picked along the layers": "merge_method: ties\nbase_model: DIR/base\nparameters: {weight: 1, normalize: [true, false, true]}\n"
        + PAIR.format(a="{}", b="{}"),
    "one-layer slices": "merge_method: linear\nslices:\n" + "".join(
        f"  - sources: [{{model: DIR/a, layer_range: [{i}, {i + 1}], parameters: {{weight: [0.1, 0.9]}}}}]\n" for i in range(4)),
    "levels": "merge_method: linear\nparameters: {weight: 0.25}\nslices:\n  - sources:\n"
        "    - {model: DIR/a, layer_range: [0, 2], parameters: {weight: [0, 1]}}\n    - {model: DIR/b, layer_range: [1, 3]}\n"
        "    parameters: {weight: [0.1, 0.9]}\n  - sources:\n    - {model: DIR/b, layer_range: [3, 4]}\n"
        "    - {model: DIR/a, layer_range: [0, 1], parameters: {weight: [{filter: layers.0., value: 0.3}]}}\n",
    "zero-length last slice": "merge_method: passthrough\nslices:\n"
        "  - sources: [{model: DIR/a, layer_range: [0, 3], parameters: {scale: [1, 2, 3]}}]\n"
        "  - sources: [{model: DIR/b, layer_range: [1, 4], parameters: {scale: [{filter: o_proj, value: 0}, {value: 1}]}}]\n"
        "  - sources: [{model: DIR/base, layer_range: [4, 4], parameters: {scale: 7}}]\n",
    "modules": "merge_method: linear\nmodules:\n  default:\n    parameters: {weight: [0.5, 1.5]}\n    models:\n"
        "      - {model: DIR/a, parameters: {weight: 0.2}}\n      - {model: DIR/b}\n",
    "base of a slice": "merge_method: task_arithmetic\nparameters: {lambda: [1, 2]}\nslices:\n  - base_model: DIR/base\n    sources:\n"
        "    - {model: DIR/base, layer_range: [0, 2]}\n    - {model: DIR/a, layer_range: [0, 2], parameters: {weight: 0.4}}\n"
        "  - base_model: DIR/a\n    sources:\n    - {model: DIR/a, layer_range: [2, 4]}\n"
        "    - {model: DIR/b, layer_range: [2, 4], parameters: {weight: [0.6, 0.8]}}\n",
}


def write_models(folder):
    for seed, name in enumerate(["base", "a", "b"]):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=8, hidden_size=4, intermediate_size=6, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=1)
        transformers.LlamaForCausalLM(config).save_pretrained(folder / name)


def plain(value):
    return value.item() if hasattr(value, "item") else value


def resolved(text, folder):
    """Output tensor -> shared parameters and, by model, its own (with the input's position among the sources)."""
    config = MergeConfiguration.model_validate(yaml.safe_load(text.replace("DIR", str(folder))))
    options = MergeOptions()
    LoaderCache().setup(options)
    arch = get_architecture_info(config, options)
    planner = MergePlanner(config, arch, options, _model_out_config(config, arch))
    planner._plan()
    result = {}
    for weight, task in planner._tensors:
        names = {model: info.name for model, info in task.gather_tensors.weight_info.items()}
        inputs = []
        for model in task.model_order:
            inputs.append({
                "model": pathlib.Path(str(model)).name, "tensor": names[model], "base": model == task.base_model,
                "parameters": {k: plain(v) for k, v in task.input_parameters[model].items()}})
        result[weight.name] = {"shared": {k: plain(v) for k, v in task.parameters.items()}, "inputs": inputs}
    return result


def main():
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        write_models(pathlib.Path(folder))
        for name, text in CONFIGS.items():
            cases.append({"name": name, "config": text + TAIL, "tensors": resolved(text + TAIL, folder)})
    versions = {p: metadata.version(p) for p in ["mergekit", "torch", "transformers"]}
    (HERE / "resolution_goldens.json").write_text(json.dumps({"versions": versions, "cases": cases}, separators=(",", ":")) + "\n")


main()
