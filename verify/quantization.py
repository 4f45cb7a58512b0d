"""Quantised bases on the real model: NF4, int8 and a GGUF file's own blocks (what must be shown, issue 5, item 5).

    .deps/oracle/bin/python verify/quantization.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf

An adapter that changes nothing, folded into the quantised base, writes the base's numbers as training sees them. They are
compared with NF4 and double quantisation in numpy (bit for bit), with bitsandbytes (whose scales are not quantised here:
within the error of 8 bits), and with the `gguf` package's Q8_0. Then scores with `--quantize` against transformers with
those numbers as weights, and `as_stored` against the conversion to fp32.
"""

import bitsandbytes
import gguf
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

import models
from common import Program, Report, Workspace, parser, read_rows, write_rows
from packed_goldens import PUBLISHED, nf4
from score import log_probs

MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def idle_adapter(folder, base, weights):
    """LoRA of rank 1 on one map, B at zero."""
    folder.mkdir()
    O, I = weights["model.layers.0.self_attn.q_proj.weight"].shape
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    save_file({name + "A.weight": np.ones((1, I), np.float32), name + "B.weight": np.zeros((O, 1), np.float32)},
              folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["layers.0.self_attn.q_proj"], '
        f'"base_model_name_or_path": "{base}"}}')


def is_map(name):
    return name.split(".")[-2] in MAPS


def as_numpy(weight):
    return nf4(weight, np.array(PUBLISHED, np.float32))[2].reshape(weight.shape)


def as_bitsandbytes(weight):
    packed, state = bitsandbytes.functional.quantize_4bit(torch.from_numpy(weight), blocksize=64, quant_type="nf4")
    return bitsandbytes.functional.dequantize_4bit(packed, state).numpy()


def as_q8_0(weight):
    kind = gguf.GGMLQuantizationType.Q8_0
    return gguf.dequantize(gguf.quantize(weight, kind), kind)


def scale_errors(weight):
    """Half a step of the scales in 8 bits, a block of 64 of the matrix, with a little for rounding."""
    magnitudes = np.abs(weight.reshape(-1, 64)).max(1)
    rest = np.abs(magnitudes - magnitudes.mean(dtype=np.float64))
    steps = np.concatenate([np.full(len(part), part.max() / 127) for part in np.split(rest, range(256, len(rest), 256))])
    return (steps / 2 + 1e-6 * magnitudes)[:, None]


def in_the_middle(weight):
    """Where a number is so near the middle between two of the 16 that rounding decides."""
    blocks = weight.reshape(-1, 64)
    shares = blocks / np.abs(blocks).max(1, keepdims=True)
    middles = (np.array(PUBLISHED)[1:] + np.array(PUBLISHED)[:-1]) / 2
    return np.abs(shares[..., None] - middles).min(-1) < 1e-7


def check_numbers(report, program, work, base, weights):
    """The merged numbers of each form; what is not a block's map must be as it was."""
    idle_adapter(work / "idle", base, weights)
    found = {}
    for form in ("nf4", "int8"):
        program.must("merge-adapter", work / "idle", work / form, "--quantize", form, "--dtype", "fp32")
        found[form] = load_file(work / form / "model.safetensors")
        others = [name for name in weights if not is_map(name) and not np.array_equal(weights[name], found[form][name])]
        report.identical(f"{form}: embedding, norms", ", ".join(others))
    maps = [name for name in weights if is_map(name)]
    numbers = sum(weights[name].size for name in maps)
    report.identical("int8: numbers of the gguf package", ", ".join(
        name for name in maps if not np.array_equal(as_q8_0(weights[name]), found["int8"][name])))
    for who, values, allowed in (
            ("numpy", as_numpy, lambda weight: 0), (f"bitsandbytes {bitsandbytes.__version__}", as_bitsandbytes, scale_errors)):
        beyond = edges = 0
        for name in maps:
            ours, theirs = found["nf4"][name].reshape(-1, 64), values(weights[name]).reshape(-1, 64)
            far = np.abs(ours - theirs) > allowed(weights[name])
            edge = in_the_middle(weights[name])[far]
            edges += int(edge.sum())
            beyond += int(far.sum()) - int(edge.sum())
        report.equals(f"nf4: numbers unlike {who}'s, of {numbers:,}", beyond, 0)
        report.note(f"nf4: numbers in the middle of two that went the other way than {who}'s", edges)
    for form in ("nf4", "int8"):
        error = sum(float(((weights[n] - found[form][n]).astype(np.float64) ** 2).sum()) for n in maps)
        power = sum(float((weights[n].astype(np.float64) ** 2).sum()) for n in maps)
        report.note(f"{form}: relative error of the numbers", f"{(error / power) ** 0.5:.4f}")
    return found


@torch.no_grad()
def check_scores(report, program, work, base, found, gguf_file):
    rows = [{"text": models.text(seed, 1 + seed)} for seed in range(4)]
    write_rows(work / "rows.jsonl", rows)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)

    def score(model, *flags):
        program.must("score", model, "--input", work / "rows.jsonl", "--output", work / "out.jsonl", "--dtype", "fp32",
                     *flags)
        return [row["logprobs"][1:] for row in read_rows(work / "out.jsonl")]

    def difference(a, b):
        return max(abs(x - y) for one, other in zip(a, b) for x, y in zip(one, other))

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    ids = [tokenizer(row["text"])["input_ids"] for row in rows]
    plain = [log_probs(model, each) for each in ids]
    for form, numbers in found.items():
        model.load_state_dict({name: torch.from_numpy(value) for name, value in numbers.items()}, strict=False)
        expected = [log_probs(model, each) for each in ids]
        report.at_most(f"score --quantize {form}: log-probabilities", difference(score(base, "--quantize", form), expected), 1e-4)
        report.note(f"score --quantize {form}: moved from the base by up to", f"{difference(expected, plain):.3f}")
    report.at_most("score --quantize as_stored: against the conversion",
                   difference(score(gguf_file, "--quantize", "as_stored"), plain), 1e-4)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--gguf", required=True, help="the real model")
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail)
    with Workspace(arguments) as work:
        base = work / "base"
        program.must("convert", arguments.gguf, base, "--dtype", "fp32")
        weights = load_file(base / "model.safetensors")
        found = check_numbers(report, program, work, base, weights)
        check_scores(report, program, work, base, found, arguments.gguf)
    report.exit()


if __name__ == "__main__":
    main()
