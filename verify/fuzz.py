"""Coverage-guided fuzzing of every reader of files from outside (what must be shown: no crash, no hang over 1 s, no
allocation beyond 64 MB + 4 x input).

    .deps/oracle/bin/python verify/fuzz.py [--seconds 60] [--readers json gguf ...]

Builds `verify/fuzz` with libFuzzer into .build-fuzz (minutes the first time) and runs each reader for so long, from the
fixtures of the tests, on inputs of at most 64 KB. A trap, one input of more than a second, and more memory held at once than
64 MB and four times the input (verify/fuzz-memory counts every malloc) are failures; the input is then kept in
.build-fuzz/found and named. First a reader that takes 80 MB in pieces must fail.
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
    "rows": ["DatasetsTests/Fixtures/**/*.jsonl", "DatasetsTests/Fixtures/*.json"], "config": [], "tables": [],
    "columns": ["DatasetsTests/Fixtures/*.parquet", "DatasetsTests/Fixtures/*.arrow"],
    "packed": ["DatasetsTests/Fixtures/*.gz", "DatasetsTests/Fixtures/*.zst"], "config.json": [], "adapter": [],
    "shard index": [], "token cache": [], "manifest": [], "merge": [],
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
    "config": b"recipe: sft\nmodel:\n  path: x\ndata:\n  train: [a.jsonl]\n", "json": b'{"a":[1,2.5e3,"\\u00e9",null,true]}',
    "tables": b'prompt,completion\n"a ""b"", c",d\n', "config.json": b'{"model_type":"llama","max_position_embeddings":8,'
    b'"num_hidden_layers":1,"rope_scaling":{"rope_type":"yarn","factor":2.0,"original_max_position_embeddings":4}}',
    "shard index": b'{"metadata":{"total_size":20},"weight_map":{"a":"model-00001-of-00002.safetensors",'
                   b'"b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}}',
    "token cache": b'{"made_from":["a.jsonl"],"rows":1,"tokens":2,"blocks":[[72,"00"]],"remarks":[]}',
    "manifest": b'{"schema_version":1,"run":"r","step":1,"parent":null,"score":0.5,"files":[{"name":"state.json","bytes":2,'
                b'"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}]}',
}
# More of the same, one of each kind that the reader tells apart.
MORE = {
    "merge": [
        b"merge_method: ties\nbase_model: {model: {path: o/b, revision: c}}\nslices:\n  - sources:\n      - model: a+b\n"
        b"        layer_range: [0, 8]\n        parameters: {weight: [0, 1], density: [{filter: mlp, value: 0.5}, {value: 1e-1}]}\n"
        b"    parameters: {normalize: no}\ndtype: bfloat16\ntokenizer:\n  source: union\n  tokens:\n    <s>: {source: a, force: true}\n"
        b"    x: {source: {kind: model_token, model: c, token_id: 7}}\nchat_template: auto\n",
        b"models:\n  - model: &a x\n    parameters:\n      weight: 0.5\n  - model: *a\nmerge_method: slerp\nbase_model: x\nparameters:\n"
        b"  t: [0, 0.5, 1]\ntokenizer_source: base\n",
        b"name: first\nmodels: [{model: a}]\nmerge_method: linear\n---\nmodules:\n  decoder:\n    slices: [{sources: [{model: first}]}]\n"
        b"merge_method: passthrough\n"],
    "rows": [
        b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n',
        b'{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]},{"role":"assistant","tool_calls":[{"type":'
        b'"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"1"},{"role":"assistant","content":"b",'
        b'"weight":0}],"tools":[{"type":"function","function":{"name":"f"}}]}\n',
        b'{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}],"system":"s"}\n',
        b'{"instruction":"a","input":"b","output":"c"}\n', b'{"prompt":"a","completion":"b"}\n',
        b'{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}]}\n',
        b'{"input":"a","ideal":["b","c"]}\n', b'{"text":"a"}\n{"text":"b","text":"c"}\n',
        b'{"prompt":"a","chosen":"b","rejected":"c"}\n', b'{"prompt":"a","completion":"b","label":true}\n',
        b'{"messages":[{"role":"user","content":"a"}],"ground_truth":"4","dataset":"gsm8k","env_config":{"n":[1,null]}}\n',
        b'{"text":"a","label":"b"}\n', b'{"tokens":["a","b"],"tags":["O","B"]}\n', b'{"text":"a","target":0.5}\n',
        b'{"context":"It is red.","question":"What?","answers":{"text":["red"],"answer_start":[6]}}\n',
        b'[{"text":"a"},\n {"text":"]}\\""}]', b"\xef\xbb\xbfa\n\nb\r\n"],
    "tables": [b"prompt\tcompletion\na\tb\n", b"text;label\r\na;1\r\n", b'text\n"a\nb"\n', b"prompt|completion\na|b\n",
               b'messages\n"[{""role"":""user"",""content"":""a""},{""role"":""assistant"",""content"":""b""}]"\n'],
    "adapter": [
        b'{"peft_type":"LORA","r":2,"lora_alpha":4,"lora_dropout":0.1,"target_modules":["q_proj"],"use_dora":false,"bias":"none",'
        b'"use_rslora":true,"modules_to_save":["lm_head"],"base_model_name_or_path":"x","task_type":"CAUSAL_LM"}',
        b'{"fine_tune_type":"lora","num_layers":1,"lora_parameters":{"rank":2,"scale":20.0,"dropout":0.0},"model":"x"}',
        b'{"r":2,"lora_alpha":4,"target_modules":["q_proj"],"peft_type":"LORA","base_model_name_or_path":"x"}'],
    "config.json": [
        b'{"model_type":"gemma3_text","layer_types":["sliding_attention"],"rope_parameters":{"full_attention":{"rope_theta":1e6}}}',
        b'{"model_type":"gpt2","n_ctx":8,"n_positions":8,"auto_map":{"AutoModel":"m.M"}}', b'{"model_type":"bert"}'],
}


def build(needletail):
    environment = {**os.environ, "NEEDLETAIL_FUZZ": "1"}
    command = ["swift", "build", "--configuration", "release", "--sanitize", "fuzzer", "--product", "needletail-fuzz",
               "--scratch-path", str(BUILD)]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit("fuzz.py: the build failed: " + " / ".join((result.stdout + result.stderr).strip().splitlines()[-5:]))
    # Not built for the fuzzer, which would want to be its main program. Replaced whole: another run may have it mapped.
    library = BUILD / "release/libneedletail-arrow.so"
    shutil.copyfile(pathlib.Path(needletail).parent / library.name, f"{library}.new")
    os.replace(f"{library}.new", library)
    return BUILD / "release/needletail-fuzz"


WRITTEN["tokenizer object"] = WRITTEN["tokenizer.json"]


def tokenizers():
    """The tokenizers inside the golden files, small ones of every kind."""
    for path in sorted(FIXTURES.glob("TokenizersTests/Fixtures/goldens/*.json")):
        golden = json.loads(path.read_text())
        for case in [golden, *golden.get("kinds", [])]:
            if "tokenizer" in case:
                yield json.dumps(case["tokenizer"], ensure_ascii=False).encode()


def templates():
    """Those of the tests, small ones and whole, and of what was fetched."""
    fixtures = FIXTURES / "ChatTemplatesTests/Fixtures"
    yield from (case.encode() for case in (fixtures / "micro_cases.txt").read_text().split("\n---\n"))
    yield from (path.read_bytes() for path in sorted((REPOSITORY / ".deps/demo/chat-templates").glob("*.jinja")))


def recipes(program):
    """The configs that come with the program."""
    def shown(*arguments):
        return subprocess.run([program, "recipes", *arguments], capture_output=True, check=True).stdout

    for line in shown("ls").decode().splitlines():
        if name := line.split()[:1]:
            yield shown("cat", name[0])


def seeds(reader, folder, program):
    folder.mkdir(parents=True)
    paths = [path for pattern in READERS[reader] for path in FIXTURES.glob(pattern)]
    for i, path in enumerate(sorted(p for p in paths if p.stat().st_size <= 1 << 16)[:200]):
        shutil.copyfile(path, folder / f"{i}")
    if reader.startswith("tokenizer"):
        for i, tokenizer in enumerate(t for t in tokenizers() if len(t) <= 1 << 16):
            (folder / f"golden-{i}").write_bytes(tokenizer)
    more = {"template": templates, "config": lambda: recipes(program)}
    for i, text in enumerate([*MORE.get(reader, []), *more.get(reader, list)()]):
        if len(text) <= 1 << 16:
            (folder / f"more-{i}").write_bytes(text)
    if reader in WRITTEN:
        (folder / "written").write_bytes(WRITTEN[reader])
    return len(list(folder.iterdir()))


def fuzz(report, program, reader, seconds, work, needletail):
    name = reader.replace(" ", "-")
    count = seeds(reader, work / name / "seeds", needletail)
    (work / name / "corpus").mkdir()
    found = BUILD / "found"
    found.mkdir(exist_ok=True)
    command = [str(program), f"-max_total_time={seconds}", "-max_len=65536", "-timeout=1", "-rss_limit_mb=4096",
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


def self_check(report, program):
    """The limit of memory works."""
    environment = {**os.environ, "NEEDLETAIL_FUZZ_READER": "too much", "SWIFT_BACKTRACE": "enable=no"}
    result = subprocess.run([str(program), "-runs=2", f"-artifact_prefix={BUILD}/self-check-"], env=environment, capture_output=True,
                            errors="replace")
    report.holds("80 MB in pieces", "more memory held than a reader may" in result.stderr and result.returncode != 0,
                 f"exit code {result.returncode}", "a failure")


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS))
    arguments = arguments.parse_args()
    report, program = Report(), build(arguments.needletail)
    self_check(report, program)
    with Workspace(arguments) as work:
        for reader in arguments.readers:
            fuzz(report, program, reader, arguments.seconds, work, arguments.needletail)
    report.exit()


if __name__ == "__main__":
    main()
