"""Coverage-guided fuzzing of every reader of files from outside (what must be shown: no crash, no hang over 1 s, no
allocation beyond 64 MB + 4 x input).

    .deps/oracle/bin/python verify/fuzz.py [--seconds 60] [--readers json gguf ...]

Builds `verify/fuzz` with libFuzzer into .build-fuzz (minutes the first time) and runs each reader for so long, from the
fixtures of the tests, on inputs of at most 64 KB. libFuzzer counts as a failure a trap, one input of more than a second and one
allocation of more than 65 MB; the input is then kept in .build-fuzz/found and named.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from common import REPOSITORY, Report, Workspace, parser

BUILD = REPOSITORY / ".build-fuzz"
FIXTURES = REPOSITORY / "Tests"
# reader: patterns of seeds under Tests
READERS = {
    "json": ["*Tests/Fixtures/*.json"], "safetensors": ["**/*.safetensors"], "gguf": ["**/*.gguf"],
    "tokenizer.json": [], "sentencepiece": ["TokenizersTests/Fixtures/**/*.model"],
    "tokenizer object": [],
    "ranks": ["**/*.tiktoken"], "tekken": ["**/tekken*.json"], "template": ["ChatTemplatesTests/Fixtures/**/*.jinja"],
    "rows": ["DatasetsTests/Fixtures/**/*.jsonl", "DatasetsTests/Fixtures/**/*.csv"], "config": ["../Sources/RunConfig/**/*.yaml"],
}
# What a seed may be made of where no fixture is of that kind.
WRITTEN = {
    "safetensors": b'\x48\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{}}' + bytes(8),
    "gguf": b"GGUF\x03\0\0\0" + bytes(16), "ranks": b"IQ== 0\nIg== 1\nIyM= 2\n",
    "tokenizer.json": b'{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel"},"model":'
                      b'{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}',
    "tekken": b'{"config":{"pattern":"[a-z]+","num_vocab_tokens":3,"default_vocab_size":4,"default_num_special_tokens":1,'
              b'"version":"v3"},"vocab":[{"rank":0,"token_bytes":"YQ==","token_str":"a"}]}',
    "template": b"{% for m in messages %}{{ m.role | upper }}: {{ m['content'][::-1] }}{% endfor %}",
    "rows": b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n',
    "config": b"recipe: sft\nmodel:\n  path: x\ndata:\n  train: [a.jsonl]\n", "json": b'{"a":[1,2.5e3,"\\u00e9",null,true]}',
}


def build():
    environment = {**os.environ, "NEEDLETAIL_FUZZ": "1"}
    command = ["swift", "build", "--configuration", "release", "--sanitize", "fuzzer", "--product", "needletail-fuzz",
               "--scratch-path", str(BUILD)]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit("fuzz.py: the build failed: " + " / ".join((result.stdout + result.stderr).strip().splitlines()[-5:]))
    return BUILD / "release/needletail-fuzz"


WRITTEN["tokenizer object"] = WRITTEN["tokenizer.json"]


def tokenizers():
    """The tokenizers inside the golden files, small ones of every kind."""
    for path in sorted(FIXTURES.glob("TokenizersTests/Fixtures/goldens/*.json")):
        golden = json.loads(path.read_text())
        for case in [golden, *golden.get("kinds", [])]:
            if "tokenizer" in case:
                yield json.dumps(case["tokenizer"], ensure_ascii=False).encode()


def seeds(reader, folder):
    folder.mkdir(parents=True)
    paths = [path for pattern in READERS[reader] for path in FIXTURES.glob(pattern)]
    for i, path in enumerate(sorted(p for p in paths if p.stat().st_size <= 1 << 16)[:200]):
        shutil.copyfile(path, folder / f"{i}")
    if reader.startswith("tokenizer"):
        for i, tokenizer in enumerate(t for t in tokenizers() if len(t) <= 1 << 16):
            (folder / f"golden-{i}").write_bytes(tokenizer)
    if reader in WRITTEN:
        (folder / "written").write_bytes(WRITTEN[reader])
    return len(list(folder.iterdir()))


def fuzz(report, program, reader, seconds, work):
    name = reader.replace(" ", "-")
    count = seeds(reader, work / name / "seeds")
    (work / name / "corpus").mkdir()
    found = BUILD / "found"
    found.mkdir(exist_ok=True)
    command = [str(program), f"-max_total_time={seconds}", "-max_len=65536", "-timeout=1", "-malloc_limit_mb=65", "-rss_limit_mb=4096",
               f"-artifact_prefix={found}/{name}-", "-print_final_stats=1", str(work / name / "corpus"), str(work / name / "seeds")]
    # Swift's own report of a crash would take the signals by which libFuzzer keeps the input.
    environment = {**os.environ, "NEEDLETAIL_FUZZ_READER": reader, "SWIFT_BACKTRACE": "enable=no"}
    result = subprocess.run(command, env=environment, capture_output=True, errors="replace")
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", result.stderr)
    slowest = re.search(r"stat::slowest_unit_time_sec:\s*(\d+)", result.stderr)
    kept = re.findall(r"Test unit written to (\S+)", result.stderr)
    what = re.search(r"(Fatal error: .*|ERROR: libFuzzer: .*|SUMMARY: .*)", result.stderr)
    report.holds(f"{reader}: {count} seeds, {seconds} s", result.returncode == 0,
                 f"{runs[1] if runs else '?'} runs, slowest {slowest[1] if slowest else '?'} s"
                 + (f"; {what[1] if what else result.stderr[-200:]}; {' '.join(kept)}" if result.returncode else ""), "no failure")


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS))
    arguments = arguments.parse_args()
    report, program = Report(), build()
    with Workspace(arguments) as work:
        for reader in arguments.readers:
            fuzz(report, program, reader, arguments.seconds, work)
    report.exit()


if __name__ == "__main__":
    main()
