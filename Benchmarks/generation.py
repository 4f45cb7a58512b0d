"""Generation beside transformers and llama.cpp, on the real 135M model (issue: train faster than PyTorch, item 4).

    scripts/fetch-assets smollm2
    .deps/oracle/bin/python Benchmarks/generation.py [--rounds 3] [--tokens 128] [--llama PYTHON] [--write FILE]

Each round starts every program once, in turn (A B C A B C); of all steps of all rounds the median counts, and the
ratio is taken per round first, since a shared machine's speed drifts. Every program continues prompts of 16 tokens
greedily, without stopping early.

transformers: bf16 and fp32, sdpa attention, `generate`; as users call it, with its static cache and each step under
torch.compile, and that with the compiled code called from C++ (cpp_wrapper). The fastest of the six counts; those that are not
within 20 % of it in the first round are left out of the others. (Weights frozen into the graph, without which max-autotune
finds no product to replace, do not work with that cache: it fails on its index.) All peers keep freed blocks as ours does.
llama.cpp: its Python package on the same GGUF file, called token by token (`--llama` names a Python that has
llama-cpp-python, which compiles for minutes: `scripts/bootstrap --llama-cpp`; without it that row is missing and says so).
The bandwidth is that of a pass over the very weights that does nothing but read them, on all threads, between the steps of
our process; median against median. All should take about an hour on two cores with bf16; `--only` chooses programs.
"""

import argparse
import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from functools import partial

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
PROGRAM = ROOT / ".build/release/needletail"
GGUF = ROOT / ".deps/demo/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = 16
# What keeps freed blocks in a process of glibc's, as our program sets for itself: the system would clear new ones each time.
REUSED_BLOCKS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2 ** 31 - 1), "MALLOC_TOP_PAD_": str(64 << 20)}


def prompts(batch, vocabulary):
    return [[(7919 * (row * PROMPT + i) + 17) % vocabulary for i in range(PROMPT)] for row in range(batch)]


# -- peers, each in a process of its own; print seconds of each step ------------------------------------------------------

def transformers_peer(folder, mode, batch, tokens):
    """`mode`: a dtype, alone or with -compiled or -compiled-cpp."""
    import torch
    import transformers
    dtype, *how = mode.split("-")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
    ids = torch.tensor(prompts(batch, model.config.vocab_size))
    options = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    if "compiled" in how:
        import torch._inductor.config
        torch._inductor.config.cpp_wrapper = "cpp" in how
        compiling = transformers.CompileConfig(mode="default")
        compiling._compile_all_devices = True  # else only what runs on GPUs and their like is compiled
        options |= {"cache_implementation": "static", "compile_config": compiling}

    class Clock(transformers.generation.streamers.BaseStreamer):
        """Notes when tokens arrive; only for one sequence, which is all that streamers take."""
        def __init__(self):
            self.times = []

        def put(self, value):
            self.times.append(time.perf_counter())

        def end(self):
            pass

    with torch.inference_mode():
        model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **options)  # also compiles, for this length
        if batch == 1:
            clock = Clock()
            model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, streamer=clock, **options)
            return [b - a for a, b in zip(clock.times[1:], clock.times[2:])]
        # The prompt's share is taken off by a generation of one token.
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=1, min_new_tokens=1, **options)
        middle = time.perf_counter()
        model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **options)
        whole = time.perf_counter() - middle
        return [(whole - (middle - start)) / (tokens - 1)]


def llama_peer(batch, tokens, threads):
    import llama_cpp
    if "amx_int8" in pathlib.Path("/proc/cpuinfo").read_text():
        # Its AMX code (0.3.36) dies of an illegal instruction on its second thread: tiles are used there unconfigured.
        # Without its own buffers it takes AVX-512, which is no slower for one sequence: memory decides.
        defaults = llama_cpp.llama_model_default_params

        def without_amx():
            parameters = defaults()
            parameters.use_extra_bufts = False
            return parameters
        llama_cpp.llama_cpp.llama_model_default_params = without_amx
    model = llama_cpp.Llama(
        str(GGUF), n_ctx=PROMPT + tokens + 1, n_threads=threads, n_threads_batch=threads, verbose=False, logits_all=False)
    steps = []
    for tokens_wanted in (8, tokens):
        model.reset()
        model.eval(prompts(1, model.n_vocab())[0])
        steps = []
        for _ in range(tokens_wanted):
            token = model.sample(temp=0)  # not timed: what its Python wrapper adds is not llama.cpp's
            start = time.perf_counter()
            model.eval([token])
            steps.append(time.perf_counter() - start)
    return steps


# -- all programs -------------------------------------------------------------------------------------------------------

def run_python(python, threads, *words):
    environment = {**os.environ, **REUSED_BLOCKS, "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run(
        [python, __file__, "--peer", *map(str, words), "--threads", str(threads)], env=environment, capture_output=True,
        text=True)
    if result.returncode:
        return {"error": " ".join(result.stderr.strip().splitlines()[-1:]) or f"exit status {result.returncode}"}
    return json.loads(result.stdout.splitlines()[-1])


def run_ours(words, batch, tokens, threads):
    result = subprocess.run(
        [PROGRAM, "bench", "generate", "--model", GGUF, "--batch", str(batch), "--tokens", str(tokens), "--prompt-tokens",
         str(PROMPT), "--threads", str(threads), "--json", *words], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def model_folder():
    """The Hugging Face folder that the program makes of the GGUF file: the same weights for all."""
    words = [PROGRAM, "convert", GGUF, ROOT / ".deps/demo/SmolLM2-135M-Instruct"]
    if not words[-1].is_dir():
        subprocess.run(words, check=True, capture_output=True)
    return words[-1]


def table(title, runs):
    """runs: name -> {"rounds": [seconds of a step, median of a round], "batch", and ours also "share"}."""
    lines = [f"### {title}", "", "| program | tokens/s | slowest to fastest round | rounds | share of read bandwidth |",
             "|---|---|---|---|---|"]
    for name, run in runs.items():
        if not run["rounds"]:
            lines.append(f"| {name} | failed: {run['error']} | | | |")
            continue
        speeds = [run["batch"] / s for s in run["rounds"]]
        share = ""
        if run["share"]:
            bandwidth = statistics.median(run["bandwidth"]) / 1e9
            share = f"{100 * statistics.median(run['share']):.0f} % of {bandwidth:.1f} GB/s"
        lines.append(f"| {name} | {run['batch'] / statistics.median(run['rounds']):.0f} "
                     f"| {min(speeds):.0f} to {max(speeds):.0f} | {len(speeds)} | {share} |")
    return lines


def ratios(runs, ours, peers, target):
    whole = [p for p in peers if p in runs and len(runs[p]["rounds"]) == len(runs[ours]["rounds"])]
    best = min(whole, key=lambda p: statistics.median(runs[p]["rounds"]), default=None)
    if best is None:
        return [f"{ours}: no peer was measured (target {target} x)"]
    found = [b / a for a, b in zip(runs[ours]["rounds"], runs[best]["rounds"])]
    return [f"{ours}: {statistics.median(found):.2f} x {best} (rounds {min(found):.2f} to {max(found):.2f}; target {target} x)"]


def without_slow_peers(programs, runs):
    """The programs without transformers' modes that failed in the first round, or were far from its fastest."""
    seconds = {name: min(run["rounds"], default=math.inf) for name, run in runs.items() if name.startswith("transformers")}
    return {name: program for name, program in programs.items()
            if name not in seconds or seconds[name] < 1.25 * min(seconds.values())}


def measure(arguments):
    folder, threads, tokens = model_folder(), arguments.threads, arguments.tokens
    lines = []
    for batch in (1, 16):
        programs = {}
        for name, dtype in (("bf16", "bfloat16"), ("fp32", "float32")):
            programs[f"needletail {name}"] = partial(run_ours, ["--dtype", name], batch, tokens, threads)
            for how in ("", "-compiled", "-compiled-cpp"):
                programs[f"transformers {name}{how}"] = partial(
                    run_python, sys.executable, threads, "transformers", folder, dtype + how, batch, tokens)
        programs["needletail Q4_1"] = partial(run_ours, ["--weights", "as-is"], batch, tokens, threads)
        if arguments.llama and batch == 1:
            programs["llama.cpp Q4_1"] = partial(
                run_python, arguments.llama, threads, "llama", GGUF, "-", batch, tokens)
        programs = {n: p for n, p in programs.items() if not arguments.only or any(word in n for word in arguments.only)}
        if not programs:
            continue
        runs = {name: {"rounds": [], "batch": batch, "share": [], "bandwidth": []} for name in programs}
        for k in range(arguments.rounds):
            if k == 1:
                programs = without_slow_peers(programs, runs)
            for name, program in programs.items():
                figures = program()
                if "error" in figures:
                    runs[name]["error"] = figures["error"]
                    continue
                if isinstance(figures, dict):
                    runs[name]["share"].append(figures["share_of_read_bandwidth"])
                    runs[name]["bandwidth"].append(figures["read_bandwidth"])
                    figures = figures["step_seconds"]
                runs[name]["rounds"].append(statistics.median(figures))
        lines += table(f"{batch} sequence{'s' if batch > 1 else ''}, {tokens} tokens each, {threads} threads", runs) + [""]
        if "needletail bf16" in runs:
            peers = [name for name in runs if name.startswith("transformers")]
            lines += ratios(runs, "needletail bf16", peers, 3.5 if batch == 1 else 4) + [""]
        if "needletail Q4_1" in runs and batch == 1:
            lines += ratios(runs, "needletail Q4_1", ["llama.cpp Q4_1"], 0.8) + [""]
    return lines


def machine():
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    import torch
    import transformers
    return (f"{model}, {os.cpu_count()} processors; commit {commit}; torch {torch.__version__}, transformers "
            f"{transformers.__version__}; {time.strftime('%Y-%m-%d')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only programs whose name has one of these words")
    parser.add_argument("--llama", metavar="PYTHON", help="a Python with llama-cpp-python (default: this one, if it has it)",
                        default=sys.executable if importlib.util.find_spec("llama_cpp") else None)
    parser.add_argument("--write", help="also write the tables to this file")
    parser.add_argument("--peer", nargs=5, help="(internal) measure one peer and print seconds of its steps")
    arguments = parser.parse_args()
    if arguments.peer:
        who, folder, mode, batch, tokens = arguments.peer
        if who == "llama":
            print(json.dumps(llama_peer(int(batch), int(tokens), arguments.threads)))
        else:
            print(json.dumps(transformers_peer(folder, mode, int(batch), int(tokens))))
        return
    text = "\n".join([f"Generation, SmolLM2-135M-Instruct. {machine()}", ""] + measure(arguments))
    print(text)
    if arguments.write:
        pathlib.Path(arguments.write).write_text(text + "\n")


if __name__ == "__main__":
    main()
