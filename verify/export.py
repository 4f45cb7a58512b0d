"""Exported GGUF files in llama.cpp and the `gguf` package: the same tokens, the same log-probabilities (issue item 4).

    .deps/oracle/bin/python verify/export.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --texts TEXT.txt ... [--tokenizers .deps/demo/tokenizers]

A SmolLM2 fine-tuned by the program for a few steps is exported as F32, F16 and Q8_0 and loaded by llama-cpp-python
(`scripts/bootstrap --llama-cpp` builds it). On ten texts of 64 tokens, teacher-forced:

- `score` of the file is the program's fp32 arithmetic; transformers on the weights that `convert` reads from it gives whole
  distributions, after both have agreed on every log-probability;
- llama.cpp's log-probabilities stay within a bound of it, and its likeliest token differs only where the two likeliest
  tokens are nearer to each other than that bound.

llama.cpp computes each file twice. All 64 rows at once it hands to a BLAS, which multiplies in 32 bits whatever the file
holds: so all three types are held to one tight bound. Sixteen rows at a time it multiplies as people's programs do: with F16
weights it rounds activations to 11 bits, with Q8_0 to 8, and how far that moves log-probabilities the source says when its
own inputs are rounded so. Both errors have one size, as means over the 640 tokens; token by token they are two chances,
since rounding decides anew wherever sums in another order differ.
Tokens: llama.cpp's of the ten texts and of generated strings equal the program's. Blocks: the `gguf` package's of the source,
and of every type that `quantize` writes those of ggml's own C, of half a million numbers of several distributions.
A file that the `gguf` package has split is the model that it was whole, and a part of it alone is refused.
Real tokenizers of several kinds ride on tiny models: what llama.cpp makes of their files is what the program makes of theirs.
Tiny random models of every family that llama.cpp knows are exported as F32 and compared the same way.
"""

import contextlib
import ctypes
import pathlib
import random

import gguf
import llama_cpp
import numpy as np
import torch
import transformers

import models
from common import Program, Report, Workspace, parser, read_rows, write_config, write_rows

TEXTS, TOKENS = 10, 64
# Rows at a time: llama.cpp gives 32 and more to BLAS.
IN_32_BITS, AS_USUAL = 128, 16
# Largest difference of a log-probability, nats: sums in another order; and of F16 as usual, which rounds activations.
BOUND, ROUNDED_F16 = 2e-4, 2e-2
# Of Q8_0 as usual: its errors' root mean square may differ from the rounded source's by so much, and its largest by twice.
LIKENESS, ROUNDINGS = 1.25, 2
# llama.cpp reads GELU out of a table of fp16 numbers.
TABLES = dict.fromkeys(["gemma2_export", "gemma3_export", "gpt_neox_tanh", "gpt2", "gpt2_untied"], 2e-2)
TINY = ["llama_gqa", "llama_tied", "llama_rope_llama3", "llama_rope_linear", "llama_yarn", "mistral_full", "qwen2", "qwen3", "olmo2", "phi3_plain",
        "phi3_longrope", "gemma2_export", "gemma3_export", "gpt_neox_tanh", "gpt2", "gpt2_untied"]
# Settings of the tiny models that llama.cpp computes.
models.TINY.update(
    phi3_plain=("phi3", {"rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}, None, False),
    gemma2_export=("gemma2", {**models.TINY["gemma2"][1], "query_pre_attn_scalar": 32}, None, True),
    gemma3_export=("gemma3_text", {**models.TINY["gemma3"][1], "query_pre_attn_scalar": 32}, None, True),
    gpt_neox_tanh=("gpt_neox", {"hidden_dropout": 0.0, "hidden_act": "gelu_new"}, None, False),
)


# llama.cpp's AMX kernels stop on virtual machines that announce AMX and do not allow it.
default_parameters = llama_cpp.llama_cpp.llama_model_default_params


def plain_parameters():
    parameters = default_parameters()
    parameters.use_extra_bufts = False
    return parameters


llama_cpp.llama_cpp.llama_model_default_params = plain_parameters


class Llama:
    """A file in llama.cpp, keys and values in 32 bits."""

    def __init__(self, path, context, rows=IN_32_BITS):
        self.model = llama_cpp.Llama(
            str(path), n_ctx=context, n_batch=context, n_ubatch=min(rows, context), logits_all=True, verbose=False, n_threads=2,
            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)

    def log_probs(self, ids):
        """[N, V]"""
        self.model.reset()
        self.model.eval(ids)
        return torch.log_softmax(torch.from_numpy(self.model.scores[: len(ids)].copy()).float(), -1)

    def tokenize(self, text):
        return self.model.tokenize(text.encode(), add_bos=False, special=True)


@torch.no_grad()
def source_log_probs(model, ids):
    return torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)


@contextlib.contextmanager
def rounding_inputs(model):
    """Inputs of every matrix as Q8_0 holds them: in blocks of 32, a half-precision scale and codes of 8 bits."""
    def rounded(module, inputs):
        blocks = inputs[0].unflatten(-1, (-1, 32))
        scale = blocks.abs().amax(-1, keepdim=True) / 127
        codes = (blocks / scale.clamp_min(1e-30)).round()
        return ((codes * scale.half().float()).flatten(-2),)

    hooks = [module.register_forward_pre_hook(rounded) for module in model.modules() if isinstance(module, torch.nn.Linear)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def of_next(log_probs, ids):
    return log_probs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def compare(report, name, llama, sources, rows, bound):
    """llama.cpp beside the source's distributions; a flip counts where the source's margin is beyond the bound. All errors."""
    errors, margins, count = [], [0.0], 0
    for source, ids in zip(sources, rows):
        found = llama.log_probs(ids)
        errors.append(of_next(found, ids) - of_next(source, ids))
        two = source.topk(2, -1).values
        margins += (two[:, 0] - two[:, 1])[found.argmax(-1) != source.argmax(-1)].tolist()
        count += len(ids)
    errors = torch.cat(errors)
    report.at_most(f"{name}: llama.cpp's log-probabilities, largest difference to the source", errors.abs().max().item(), bound)
    report.at_most(f"{name}: largest margin of a likeliest token that differs", max(margins), bound)
    report.note(f"{name}: likeliest tokens that differ", f"{len(margins) - 1} of {count}")
    return errors


def root_mean_square(values):
    return values.square().mean().sqrt().item()


def compare_as_usual(report, name, kind, path, read, sources, rows):
    """llama.cpp's own products, which round their inputs, beside the source."""
    llama = Llama(path, 128, AS_USUAL)
    if kind == "f16":
        compare(report, name, llama, sources, rows, ROUNDED_F16)
        return
    with rounding_inputs(read):
        moved = torch.cat([of_next(source_log_probs(read, row), row) - of_next(source, row) for source, row in zip(sources, rows)])
    errors = compare(report, name, llama, sources, rows, ROUNDINGS * moved.abs().max().item())
    likeness = root_mean_square(errors) / root_mean_square(moved)
    report.holds(f"{name}: root mean square of its errors as of the source with rounded inputs, at most {LIKENESS} x either way",
                 1 / LIKENESS <= likeness <= LIKENESS, f"{root_mean_square(errors):.4f}, {root_mean_square(moved):.4f}")


def scored(program, model, rows, folder, name):
    write_rows(folder / f"{name}.jsonl", [{"input_ids": ids} for ids in rows])
    program.must("score", model, "--dtype", "fp32", "--input", folder / f"{name}.jsonl", "--output", folder / f"{name}.out")
    return [torch.tensor(row["logprobs"][1:]) for row in read_rows(folder / f"{name}.out")]


def encoded(program, model, texts, folder):
    write_rows(folder / "texts.jsonl", [{"text": text} for text in texts])
    out = folder / "ids.jsonl"
    program.must("tokenizer", "encode", model, "--no-special-tokens", "--input", folder / "texts.jsonl", "--output", out)
    return [row["ids"] for row in read_rows(out)]


def generated_texts(count, seed):
    """Strings of letters of several scripts, digits, signs, blanks and line breaks."""
    state = random.Random(seed)
    alphabet = list("abc XYZ 0123456789 .,!?'\"()[]{}<>|@#$%^&*_+-=/\\~`\t\n  ") + list("éüñßøж漢字かな한글ا🙂👍🏽—…“”") + ["'s", "'LL", "\r\n", "   "]
    return ["".join(state.choice(alphabet) for _ in range(state.randrange(1, 60))) for _ in range(count)]


def tokens_agree(report, name, program, path, llama, texts, folder):
    ids = encoded(program, path, texts, folder)
    differing = [text for text, mine in zip(texts, ids) if llama.tokenize(text) != mine]
    report.equals(f"{name}: texts of {len(texts)} that llama.cpp cuts otherwise", len(differing), 0)
    if differing:
        report.note(f"{name}: the first of them", repr(differing[0]))


def blocks_agree(report, name, path, source, kind):
    """Matrices of the file are the source's, rounded or quantised by the gguf package; the names are llama.cpp's."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    weights = {"token_embd.weight": "model.embed_tokens.weight", "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
               "blk.3.ffn_down.weight": "model.layers.3.mlp.down_proj.weight"}
    state = source.state_dict()
    wrong = [stored for stored, mine in weights.items()
             if bytes(tensors[stored].data.tobytes()) != gguf.quantize(state[mine].numpy(), kind).tobytes()]
    report.identical(f"{name}: blocks beside the gguf package's of the source", ", ".join(wrong))


def smollm2(report, program, arguments, folder):
    rows = [{"messages": [{"role": "user", "content": models.text(seed, 2)},
                          {"role": "assistant", "content": models.text(seed + 1000, 2)}]} for seed in range(40)]
    write_rows(folder / "rows.jsonl", rows)
    write_config(
        folder / "run.yaml", recipe="sft", output=str(folder / "run"), model=str(pathlib.Path(arguments.gguf).resolve()),
        dtype="fp32", train_files=[str(folder / "rows.jsonl")], kind="chat", method="lora", rank=8, alpha=16.0,
        learning_rate=1e-3, steps=8, rows_per_step=4, max_length=128, validation_rows=0)
    program.must("train", folder / "run.yaml", timeout=3000)
    program.must("merge-adapter", folder / "run", folder / "merged")
    source = transformers.AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    parts = [pathlib.Path(path).read_text(errors="replace") for path in arguments.texts]
    texts = [part[len(part) // 3 :][:2000] for part in parts[:: max(1, len(parts) // TEXTS)]][:TEXTS]
    while len(texts) < TEXTS:
        texts.append(parts[0][2000 * len(texts) :][:2000])
    ids = [row[:TOKENS] for row in encoded(program, folder / "merged", [text[:1000] for text in texts], folder)]
    report.equals("SmolLM2: texts of 64 tokens", sum(len(row) == TOKENS for row in ids), TEXTS)
    sources = [source_log_probs(source, row) for row in ids]
    mine = scored(program, folder / "merged", ids, folder, "source")
    report.at_most("SmolLM2: score beside transformers", max(
        (a - of_next(b, row)).abs().max().item() for a, b, row in zip(mine, sources, ids)), 1e-4)
    for kind, number in [("f32", gguf.GGMLQuantizationType.F32), ("f16", gguf.GGMLQuantizationType.F16),
                         ("q8_0", gguf.GGMLQuantizationType.Q8_0)]:
        path, name = folder / f"{kind}.gguf", f"SmolLM2 {kind.upper()}"
        printed = program.must("export", folder / "run", path, "--type", kind).stdout
        report.note(f"{name}: export printed", printed)
        program.must("convert", path, folder / kind, "--dtype", "fp32")
        read = transformers.AutoModelForCausalLM.from_pretrained(folder / kind, dtype=torch.float32)
        theirs = [source_log_probs(read, row) for row in ids]
        own = scored(program, path, ids, folder, kind)
        report.at_most(f"{name}: score of the file beside transformers on its weights", max(
            (a - of_next(b, row)).abs().max().item() for a, b, row in zip(own, theirs, ids)), 1e-4)
        report.note(f"{name}: score of the file, largest difference to the model before export", max(
            (a - b).abs().max().item() for a, b in zip(own, mine)))
        llama = Llama(path, 128)
        compare(report, name, llama, theirs, ids, BOUND)
        if kind != "f32":
            compare_as_usual(report, f"{name}, as usual", kind, path, read, theirs, ids)
        blocks_agree(report, name, path, source, number)
        if kind == "f32":
            tokens_agree(report, name, program, path, llama, texts + generated_texts(300, arguments.seed), folder)
            template = llama.model.metadata.get("tokenizer.chat_template")
            wanted = (folder / "merged" / "chat_template.jinja").read_text()
            report.identical(f"{name}: chat template", "" if template == wanted else "differs")


def distributions(seed):
    """Matrices [96, 1024] of numbers as weights have them and as they may be, by name."""
    state = np.random.default_rng(seed)
    shape = (96, 1024)
    heavy = np.clip(state.standard_cauchy(shape), -6e4, 6e4)
    sparse = state.normal(0, 0.02, shape) * (state.random(shape) < 0.03)
    equal = np.repeat(state.normal(size=shape[0] * 4), 256).reshape(shape)  # one number a block, of 256 and of 32
    steps = state.integers(-8, 8, shape) / 16  # ties wherever a block is rounded
    scales = np.repeat(10.0 ** state.integers(-38, 4, shape[0] * 32), 32).reshape(shape) * state.normal(size=shape)
    found = {"normal": state.normal(0, 0.02, shape), "uniform": state.uniform(-1, 1, shape), "heavy": heavy, "sparse": sparse,
             "equal": equal, "steps": steps, "scales": scales, "positive": state.exponential(size=shape), "zeros": np.zeros(shape)}
    return {f"{name}.weight": values.astype(np.float32) for name, values in found.items()}


def ggml_blocks(values, kind):
    """What ggml's C makes of a matrix, without an importance matrix."""
    library = ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.zeros((values.size // elements, size), np.uint8)
    written = library.ggml_quantize_chunk(kind, values.ctypes.data, blocks.ctypes.data, 0, *values.shape, None)
    assert written == blocks.nbytes, (kind, written)
    return blocks


def blocks_of_ggml(report, program, folder, seed):
    """Every type that `quantize` writes, block by block beside ggml."""
    matrices = distributions(seed)
    writer = gguf.GGUFWriter(folder / "numbers.gguf", "numbers")  # no architecture: only the blocks count
    for name, values in matrices.items():
        writer.add_tensor(name, values)
    write_gguf(writer)
    for kind in [gguf.GGMLQuantizationType[name] for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K")]:
        path = folder / f"numbers-{kind.name}.gguf"
        program.must("quantize", folder / "numbers.gguf", path, "--type", kind.name.lower())
        stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        differing, count = {}, 0
        for name, values in matrices.items():
            theirs = ggml_blocks(values, kind)
            mine = np.frombuffer(stored[name].data.tobytes(), np.uint8).reshape(theirs.shape)
            wrong, count = int((mine != theirs).any(1).sum()), count + len(theirs)
            if wrong or stored[name].tensor_type != kind:
                differing[name] = f"{wrong} ({stored[name].tensor_type.name})"
        report.identical(f"{kind.name}: {count} blocks beside ggml's", ", ".join(f"{k} {v}" for k, v in differing.items()))


def write_gguf(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def split_files(report, program, folder):
    """The `gguf` package's parts of an exported file beside the file."""
    whole = folder / "whole.gguf"
    program.must("export", models.write_tiny(folder, "llama_gqa"), whole, "--type", "f32")
    reader = gguf.GGUFReader(whole)
    writer = gguf.GGUFWriter(folder / "parts.gguf", "llama", split_max_tensors=7)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    write_gguf(writer)
    parts = sorted(folder.glob("parts-*.gguf"))
    report.holds("split file: several parts", len(parts) > 2, len(parts))
    ids = [[(37 * i * i + 11 * i) % 60 for i in range(TOKENS)]]
    report.holds("split file: score of the first part is the whole file's", torch.equal(
        scored(program, parts[0], ids, folder, "parts")[0], scored(program, whole, ids, folder, "whole")[0]))
    tensors = []
    for path in (parts[0], whole):
        made = folder / f"{path.stem}-q8_0.gguf"
        program.must("quantize", path, made, "--type", "q8_0")
        tensors.append([(tensor.name, tensor.data.tobytes()) for tensor in gguf.GGUFReader(made).tensors])
    report.holds("split file: quantize writes the whole model", sorted(tensors[0]) == sorted(tensors[1]), len(tensors[0]))
    for path, lost in [(parts[1], None), (parts[0], parts[2])]:
        if lost:
            lost.unlink()
        result = program.run("quantize", path, folder / "half.gguf", "--type", "q8_0")
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        report.holds(f"split file: {'a part lost' if lost else 'another part given'}: one line names the file to have",
                     result.returncode == 65 and len(lines) == 1 and (lost or parts[0]).name in lines[0]
                     and not (folder / "half.gguf").exists(), result.stderr[-300:])


def tiny(report, program, name, folder):
    path = models.write_tiny(folder, name)
    file = folder / f"{name}.gguf"
    program.must("export", path, file, "--type", "f32")
    source = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    size = source.config.vocab_size
    rows = [[(37 * i * i + 11 * i + seed) % size for i in range(TOKENS)] for seed in range(3)]
    sources = [source_log_probs(source, row) for row in rows]
    llama = Llama(file, 128)
    # Windows, soft caps, rotations and layouts show at 1e-2 and above.
    compare(report, name, llama, sources, rows, TABLES.get(name, 2e-4))
    own = scored(program, file, rows, folder, name)
    report.at_most(f"{name}: score of the file beside transformers on the source", max(
        (a - of_next(b, row)).abs().max().item() for a, b, row in zip(own, sources, rows)), 1e-4)
    tokens_agree(report, name, program, file, llama, [models.text(seed, 3) for seed in range(50)] + generated_texts(100, 7), folder)


# Tokenizers of `scripts/fetch-assets` in their folders, and what export says of those that GGUF cannot express. Qwen 3.5's rank
# file has 201 tokens that are found by looking words up and that no merge makes, which llama.cpp does not do under its name.
REAL = {"mistral": None, "tekken": None, "qwen": None, "qwen35": "ignore_merges", "o200k": None, "deepseek": None, "cl100k": "pre_tokenizer",
        "anthropic": "normalizer", "jurassic": "byte_fallback"}


def real_tokenizer(report, program, name, refusal, folder, source, texts):
    """A tiny model with a real tokenizer: exported and cut as llama.cpp cuts, or refused in one line."""
    path = folder / f"tokenizer-{name}"
    path.mkdir()
    for file in (source / name).iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    inspected = program.must("tokenizer", "inspect", path).stdout
    size = int(next(line.split()[1] for line in inspected.splitlines() if line.startswith("vocabulary")))
    config = transformers.LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        tie_word_embeddings=True, max_position_embeddings=512)
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    file = folder / f"tokenizer-{name}.gguf"
    result = program.run("export", path, file, "--type", "q8_0")
    if refusal:
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        report.holds(f"{name} tokenizer: refused in one line, exit 65", result.returncode == 65 and len(lines) == 1
                     and refusal in lines[0] and not file.exists(), result.stderr[-300:])
        return
    report.equals(f"{name} tokenizer: exported", (result.returncode, result.stderr[-300:] if result.returncode else ""), (0, ""))
    if result.returncode == 0:
        tokens_agree(report, f"{name} tokenizer", program, path, Llama(file, 512), texts, folder)


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--tokenizers", type=pathlib.Path, help="folder of real tokenizers, as scripts/fetch-assets leaves them")
    arguments.add_argument("--gguf", help="SmolLM2-135M-Instruct.Q4_1.gguf, which is fine-tuned")
    arguments.add_argument("--texts", nargs="*", default=[], help="text files")
    arguments.add_argument("--tiny", nargs="*", default=TINY, help="tiny models to write and compare")
    arguments = arguments.parse_args()
    report = Report()
    with Workspace(arguments) as folder:
        program = Program(arguments.needletail, threads=2, NEEDLETAIL_CACHE=str(folder / "cache"))
        blocks_of_ggml(report, program, folder, arguments.seed)
        split_files(report, program, folder)
        for name in arguments.tiny:
            tiny(report, program, name, folder)
        parts = [pathlib.Path(text).read_text(errors="replace") for text in arguments.texts]
        texts = [part[len(part) // 2 :][:3000] for part in parts] + generated_texts(300, arguments.seed)
        for name, refusal in REAL.items() if arguments.tokenizers else ():
            real_tokenizer(report, program, name, refusal, folder, arguments.tokenizers, texts)
        if arguments.gguf:
            smollm2(report, program, arguments, folder)
    report.exit()


if __name__ == "__main__":
    main()
