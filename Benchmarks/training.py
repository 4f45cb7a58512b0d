"""Training speed and memory beside PyTorch, transformers and peft (issue: train faster than PyTorch on the same CPU).

    .deps/oracle/bin/python Benchmarks/training.py [--cases full-135m lora-135m] [--rounds 3] [--seconds 15]
        [--modes bf16-compile bf16-compile-reuse] [--alone] [--llmc FOLDER]

Random weights of a shape, random tokens, every label trained: speed does not depend on content. Each mode of each
program runs in its own process, so that peak memory (VmHWM, libraries included) is its own; modes are interleaved
round by round (A B C A B C) and the median step of all rounds counts. The floor is what a step's products and one pass over
the optimizer's memory take by themselves, blocks reused. `--llmc` names a folder with llm.c's built CPU trainer (fp32,
4 x 64 tokens), a checkpoint and tokens where it looks for them: random ones will do.

Modes of the peer are numerics (fp32; where the processor has instructions for it autocast to bf16, and bf16 weights,
gradients and moments), as they are or under torch.compile (-compile) or its mode max-autotune (-autotune, whose products in
C++ want constant weights: in training it found none to replace), each with or without -reuse, by which glibc keeps freed
blocks as in our process instead of returning them to the system: as a rule faster, at more memory. Numerics and compilations
are tried first, a few steps each, with blocks reused; of each numerics the fastest, and what is within 5 % of it, goes into the
rounds, with and without -reuse. `--modes` names the modes of the rounds instead, and nothing is tried. A process that takes
more than half an hour has failed. With `--alone` all should take about two hours on two cores with bf16, most of it compiling
and trying, and several times that without AVX-512.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from generation import REUSED_BLOCKS, machine

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent / ".build/release/needletail"

LLAMA_135M = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"}

GPT2_124M = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12,
    "n_positions": 1024, "vocab_size": 50257, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 50256, "eos_token_id": 50256}

# name: (config, method, sequences, tokens each)
CASES = {
    "full-135m": (LLAMA_135M, "full", 2, 512),
    "lora-135m": (LLAMA_135M, "lora", 2, 512),
    "gpt2-124m": (GPT2_124M, "full", 4, 64),
}
NUMERICS = ["fp32", "autocast", "bf16"]
PEER_MODES = [numerics + how for how in ("", "-compile", "-autotune") for numerics in NUMERICS]
RANK = 16  # of LoRA on every linear map of the blocks, by both programs
OUR_MODES = ["fp32", "bf16"]


def has_bf16():
    return any(flag in pathlib.Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))


def modes_of(modes):
    """Those worth waiting for: without instructions for it, bf16 is many times slower than fp32 on both sides."""
    return [mode for mode in modes if has_bf16() or mode.startswith("fp32")]


# -- the peer, in a process of its own --------------------------------------------------------------------------------

def peak_memory():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024


def peer(config, method, mode, batch, sequence, seconds):
    """Forward, backward, clip and AdamW on random tokens; prints a JSON line."""
    import torch
    import transformers
    numerics, *how = mode.split("-")
    dtype = torch.bfloat16 if numerics == "bf16" else torch.float32
    torch.manual_seed(0)
    settings = transformers.AutoConfig.for_model(**config)
    model = transformers.AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation="sdpa").train()
    if method == "lora":
        import peft
        model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    if "compile" in how or "autotune" in how:
        run = torch.compile(model, mode="max-autotune" if "autotune" in how else None)
    else:
        run = model
    tokens = torch.randint(0, config["vocab_size"], (batch, sequence))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=numerics == "autocast"):
            loss = run(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    times = []
    for _ in range(2):
        step()
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    print(json.dumps({"step_seconds": times, "peak_memory_bytes": peak_memory()}))


# -- what a step costs at the least ------------------------------------------------------------------------------------

def products(config):
    """(outputs, inputs, how many) of the matrices that multiply activations."""
    if config["model_type"] == "gpt2":
        D, L = config["n_embd"], config["n_layer"]
        return [(3 * D, D, L), (D, D, L), (4 * D, D, L), (D, 4 * D, L), (config["vocab_size"], D, 1)]
    D, L, F = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    kv = D // config["num_attention_heads"] * config["num_key_value_heads"]
    return [(D, D, 2 * L), (kv, D, 2 * L), (F, D, 2 * L), (D, F, L), (config["vocab_size"], D, 1)]


def fastest(work, times=5):
    work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def step_products(config, method, rows):
    """(M, N, K, how many) of a step's products [M, K] [K, N]: forward, to the input, to the weight; of a frozen weight the
    first two, with an adapter's six on those of the blocks. The first block's products to the input are counted, too."""
    for outputs, inputs, count in products(config):
        yield rows, outputs, inputs, count
        yield rows, inputs, outputs, count
        if method == "full":
            yield outputs, inputs, rows, count
        elif outputs != config["vocab_size"]:
            for M, N, K in ((rows, RANK, inputs), (rows, outputs, RANK),  # x A', (x A') B'
                            (rows, RANK, outputs), (rows, inputs, RANK),  # dy B, (dy B) A
                            (RANK, inputs, rows), (outputs, RANK, rows)):  # the gradients of A and B
                yield M, N, K, count


def floor(config, method, mode, rows):
    """Seconds of a step of nothing but its products (each shape's fastest, by the faster of PyTorch's two libraries) and one
    pass over the optimizer's memory (28 bytes a trained number: master, two moments and gradient in fp32) at the bandwidth of
    a copy; prints a JSON line."""
    import torch
    dtype = torch.bfloat16 if mode == "bf16" else torch.float32
    seconds = 0
    for M, N, K, count in step_products(config, method, rows):
        left, right = torch.randn(M, K).to(dtype), torch.randn(N, K).to(dtype)
        ways = [lambda: torch.nn.functional.linear(left, right)]
        if dtype == torch.float32:  # by MKL, which leaves AVX-512 to Intel's processors; this is oneDNN
            ways.append(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))
        seconds += count * min(fastest(work) for work in ways)
    numbers = sum(count * (outputs * inputs if method == "full" else RANK * (outputs + inputs))
                  for outputs, inputs, count in products(config) if method == "full" or outputs != config["vocab_size"])
    source, target = torch.zeros(2 ** 27), torch.zeros(2 ** 27)
    bandwidth = 8 * 2 ** 27 / fastest(lambda: target.copy_(source))
    print(json.dumps({"products": seconds, "optimizer": 28 * numbers / bandwidth, "bandwidth": bandwidth}))


# -- both programs ----------------------------------------------------------------------------------------------------

def outcome(words, environment=None):
    """What a program prints last, a JSON line, or what it says of its failure."""
    try:
        result = subprocess.run(
            [str(word) for word in words], env=environment, capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired:
        return {"error": "not done after half an hour"}
    if result.returncode:
        return {"error": " ".join(result.stderr.strip().splitlines()[-1:]) or f"exit status {result.returncode}"}
    return json.loads(result.stdout.splitlines()[-1])


def run_peer(case, mode, seconds, threads, job="--peer"):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if mode.endswith("-reuse") or job == "--floor":
        environment |= REUSED_BLOCKS
    return outcome([sys.executable, __file__, job, case, mode, "--seconds", seconds], environment)


def run_ours(case, mode, seconds, threads, work):
    config, method, batch, sequence = CASES[case]
    return ours(config, work, "--batch", batch, "--sequence", sequence, "--method", method, "--dtype", mode, "--seconds",
                seconds, "--threads", threads)


def run_llmc(folder, threads):
    result = subprocess.run(
        ["./train_gpt2"], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{folder}/train_gpt2: {(result.stderr or result.stdout).strip().splitlines()[-1:]}")
    return [float(ms) / 1000 for ms in re.findall(r"\(took ([0-9.]+) ms\)", result.stdout)][2:]


def rate(case, figures):
    """Tokens a second of the median step."""
    _, _, batch, sequence = CASES[case]
    return batch * sequence / statistics.median(figures["step_seconds"])


def finalists(case, seconds, threads):
    """(the peer's modes that go into the rounds, a line on those that were tried)."""
    tried = {mode: run_peer(case, mode + "-reuse", seconds, threads) for mode in modes_of(PEER_MODES)}
    speeds = {mode: rate(case, figures) for mode, figures in tried.items() if "error" not in figures}
    chosen = []
    for numerics in NUMERICS:
        alike = {mode: speed for mode, speed in speeds.items() if mode.split("-")[0] == numerics}
        chosen += [mode for mode, speed in alike.items() if speed > 0.95 * max(alike.values())]
    notes = [f"{mode} " + (f"{speeds[mode]:.0f} tokens/s and {figures['peak_memory_bytes'] / 2**20:.0f} MiB"
                           if mode in speeds else f"failed ({figures['error']})") for mode, figures in tried.items()]
    return [mode + reuse for mode in chosen for reuse in ("", "-reuse")], (
        f"torch's modes, tried with blocks reused, {seconds:.0f} s each: {', '.join(notes)}")


def measure(case, arguments, work):
    config, method, batch, sequence = CASES[case]
    rounds, seconds, threads, llmc = arguments.rounds, arguments.seconds, arguments.threads, arguments.llmc
    mine, (theirs, tried) = modes_of(OUR_MODES), (
        (arguments.modes, "") if arguments.modes else finalists(case, seconds / 4, threads))
    modes = [("needletail", m) for m in mine] + [("torch", m) for m in theirs]
    found = {mode: {"step_seconds": [], "peak_memory_bytes": 0} for mode in modes}
    least = {mode: [] for mode in mine}
    beside = []
    for _ in range(rounds):
        if llmc and case == "gpt2-124m":
            beside += run_llmc(llmc, threads)
        for mode in least:
            least[mode].append(run_peer(case, mode, seconds, threads, job="--floor"))
        for who, mode in modes:
            figures = (run_peer(case, mode, seconds, threads) if who == "torch" else
                       run_ours(case, mode, seconds, threads, work))
            if "error" in figures:
                found[who, mode]["error"] = figures["error"]
                continue
            found[who, mode]["step_seconds"] += figures["step_seconds"]
            found[who, mode]["peak_memory_bytes"] = max(
                found[who, mode]["peak_memory_bytes"], figures["peak_memory_bytes"])
    rows = []
    for (who, mode), figures in found.items():
        if not figures["step_seconds"]:
            rows.append(f"| {who} {mode} | failed: {figures.get('error')} | | | |")
            continue
        steps = figures["step_seconds"]
        speed = [batch * sequence / s for s in steps]
        rows.append(
            f"| {who} {mode} | {batch * sequence / statistics.median(steps):.0f} | {min(speed):.0f} to {max(speed):.0f} "
            f"| {len(steps)} | {figures['peak_memory_bytes'] / 2**20:.0f} |")
    ratios = [tried] if tried else []
    for mode in mine:
        us = best(found, "needletail", [mode])
        peer = best(found, "torch", [m for m in theirs if mode != "fp32" or m.startswith("fp32")])
        if us and peer:
            ratios.append(f"{mode}: speed {us[0] / peer[0]:.2f} x, memory {us[1] / peer[1]:.2f} x torch's fastest"
                          f" {'fp32' if mode == 'fp32' else 'of any numerics'} ({peer[2]})")
    for mode in mine if beside else []:
        ratio = statistics.median(beside) / statistics.median(found["needletail", mode]["step_seconds"])
        ratios.append(
            f"{mode}: speed {ratio:.1f} x llm.c's {batch * sequence / statistics.median(beside):.0f} tokens/s (fp32, "
            f"median of {len(beside)} steps)")
    for mode, floors in least.items():
        floors = [floor for floor in floors if "error" not in floor]
        if not floors or not found["needletail", mode]["step_seconds"]:
            continue
        products, optimizer = (statistics.median(f[part] for f in floors) for part in ("products", "optimizer"))
        share = (products + optimizer) / statistics.median(found["needletail", mode]["step_seconds"])
        ratios.append(
            f"{mode}: {100 * share:.0f} % of the floor: the library's products {1000 * products:.0f} ms, one pass over the "
            f"optimizer's memory {1000 * optimizer:.1f} ms "
            f"({statistics.median(f['bandwidth'] for f in floors) / 1e9:.1f} GB/s)")
    return [f"### {case}: {method}, {batch} x {sequence} tokens a step, {threads} threads", "",
            "| mode | tokens/s (median step) | slowest to fastest | steps | peak memory, MiB |", "|---|---|---|---|---|",
            *rows, "", *ratios, ""]


def best(found, who, modes):
    """(steps a second, peak memory, name) of the fastest mode; None where none was measured."""
    return max(((1 / statistics.median(found[who, m]["step_seconds"]), found[who, m]["peak_memory_bytes"], m)
                for m in modes if found[who, m]["step_seconds"]), default=None)


# -- ours alone: memory and scaling -----------------------------------------------------------------------------------

def ours(config, work, *flags):
    path = work / "config.json"
    path.write_text(json.dumps(config))
    return outcome([PROGRAM, "bench", "train", "--model", path, "--json", *flags])


def table(title, first, settings, rounds, work):
    """Settings (name, config, flags) in turn, round by round (A B C A B C); medians of the rounds."""
    found = {name: [] for name, _, _ in settings}
    for _ in range(rounds):
        for name, config, flags in settings:
            found[name].append(ours(config, work, *flags))
    lines = [f"### {title}, {rounds} rounds", "",
             f"| {first} | tokens/s | slowest to fastest round | share of the product's rate | peak memory, MiB |",
             "|---|---|---|---|---|"]
    for name, runs in found.items():
        failed = [run["error"] for run in runs if "error" in run]
        if failed:
            lines.append(f"| {name} | failed: {failed[0]} | | | |")
            continue
        speeds, shares, peaks = ([run[key] for run in runs] for key in (
            "tokens_per_second", "share_of_gemm_peak", "peak_memory_bytes"))
        lines.append(f"| {name} | {statistics.median(speeds):.0f} | {min(speeds):.0f} to {max(speeds):.0f} "
                     f"| {100 * statistics.median(shares):.0f} % | {statistics.median(peaks) / 2**20:.0f} |")
    return lines + [""]


def options(base, *sets):
    """Rows of a table that differ in what stands on the command line, which names them."""
    return [(f"`{words}`" if words else "none", LLAMA_135M, [*base, *words.split()]) for words in sets]


def memory_and_scaling(work, seconds, threads, rounds):
    dtype = "bf16" if has_bf16() else "fp32"
    short = ["--dtype", dtype, "--seconds", seconds, "--threads", threads]
    long = ["--dtype", dtype, "--steps", 1, "--threads", threads]  # after two that do not count
    tables = [
        (f"What lowers the peak: full-135m, {dtype}, 2 x 512 tokens", "options", options(
            short, "", "--head-chunk 0", "--state int8", "--recompute-selective", "--recompute-blocks 1",
            "--recompute-blocks 5", "--state int8 --recompute-blocks 1")),
        (f"The same with 4 x 2048 tokens, {dtype}", "options", options(
            [*long, "--batch", 4, "--sequence", 2048], "", "--head-chunk 0", "--recompute-selective",
            "--recompute-blocks 1", "--state int8 --recompute-blocks 1")),
        ("What lowers the peak of fp32: full-135m, 2 x 512 tokens", "options", options(
            ["--dtype", "fp32", "--seconds", seconds, "--threads", threads], "", "--recompute-blocks 1",
            "--recompute-blocks 1 --recompute-in-bf16")),
        (f"Threads: full-135m, {dtype}, 2 x 512 tokens", "threads", [
            (count, LLAMA_135M, ["--dtype", dtype, "--seconds", seconds, "--threads", count])
            for count in range(1, threads + 1)]),
        (f"Sequence length: full-135m, {dtype}, 8,192 tokens a step", "sequences x tokens", [
            (f"{8192 // n} x {n}", LLAMA_135M, [*long, "--batch", 8192 // n, "--sequence", n]) for n in (512, 2048, 8192)]),
        (f"Width: 8 layers, heads of 64, {dtype}, 2 x 512 tokens", "width", [
            (width, {**LLAMA_135M, "hidden_size": width, "intermediate_size": 8 * width // 3 // 64 * 64,
                     "num_hidden_layers": 8, "num_attention_heads": width // 64, "num_key_value_heads": width // 64}, short)
            for width in (256, 512, 1024, 2048)]),
    ]
    return [line for title, first, settings in tables for line in table(title, first, settings, rounds, work)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="measured time per mode and round")
    parser.add_argument("--modes", nargs="+", metavar="MODE", choices=[m + r for m in PEER_MODES for r in ("", "-reuse")],
                        help="the peer's modes of the rounds (such as bf16-compile-reuse), nothing tried before")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--write", help="also write the tables to this file")
    parser.add_argument("--alone", action="store_true", help="also memory and scaling of needletail alone")
    parser.add_argument("--llmc", metavar="FOLDER", help="a folder with llm.c's built train_gpt2 and what it reads")
    parser.add_argument("--peer", nargs=2, help="(internal) measure one mode and print JSON")
    parser.add_argument("--floor", nargs=2, help="(internal) measure what a step costs at the least and print JSON")
    arguments = parser.parse_args()
    if arguments.peer:
        case, mode = arguments.peer
        config, method, batch, sequence = CASES[case]
        return peer(config, method, mode, batch, sequence, arguments.seconds)
    if arguments.floor:
        case, mode = arguments.floor
        config, method, batch, sequence = CASES[case]
        return floor(config, method, mode, batch * sequence)
    lines = [f"Training. {machine()}", ""]
    with tempfile.TemporaryDirectory() as work:
        for case in arguments.cases:
            lines += measure(case, arguments, pathlib.Path(work))
        if arguments.alone:
            lines += memory_and_scaling(
                pathlib.Path(work), arguments.seconds, arguments.threads, arguments.rounds)
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        pathlib.Path(arguments.write).write_text(text)


if __name__ == "__main__":
    main()
