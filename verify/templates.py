"""Live oracle for chat templates: public templates x generated conversations, rendered by transformers and by
`needletail tokenizer render`; the texts must agree byte for byte, and where one refuses the other must too.

    python verify/templates.py --templates FOLDER [--templates FOLDER ...] [--program .build/release/needletail]

FOLDER holds *.jinja files, for example vendor/llama.cpp/models/templates of the llama-cpp-python 0.3.36 sdist.
Prints one line for each difference and the figures at the end; exits 1 on any difference.
"""
import argparse
import datetime
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import transformers.utils.chat_template_utils as renderer

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Current weather <for> a \"city\" & its 'suburbs'",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Zürich, 東京"},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "days": {"type": "integer"}}, "required": ["city"]},
        "return": {"type": "string"}}},
    {"type": "function", "function": {
        "name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, as_text=False):
    arguments = json.dumps(arguments, ensure_ascii=False) if as_text else arguments
    return {"id": "call12345", "type": "function", "function": {"name": name, "arguments": arguments}}


def conversations():
    """Twenty conversations: fixed shapes with seeded words, each used by every template."""
    rng = random.Random(7)
    words = ["alpha", "Бета", "東京", "naïve", "🙂👩‍👩‍👧", "x < y && z", "\"quoted\"", "it's", "{{ braces }}", "tab\there", "line\nbreak"]

    def text():
        return " ".join(rng.choice(words) for _ in range(rng.randint(1, 6)))

    def user(content=None):
        return {"role": "user", "content": text() if content is None else content}

    def answer(content=None, **more):
        return {"role": "assistant", "content": text() if content is None else content, **more}

    def system(content=None):
        return {"role": "system", "content": text() if content is None else content}

    def tool(content):
        return {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": content}

    parts = [{"type": "text", "text": "what is"}, {"type": "image"}, {"type": "text", "text": "this?"}]
    weather = {"city": "Zürich", "days": 2, "list": [1, 2.5, None, True, {"a": []}]}
    chats = [
        [user()],
        [system(), user()],
        [user(), answer()],
        [system(), user(), answer(), user(), answer()],
        [user(), answer(), user()],
        [user("  spaced \n")],
        [user(""), answer("")],
        [system(""), user("a"), answer("b")],
        [],
        [user(), answer("<think>\nfirst\n</think>\n\nthen"), user()],
        [user(), answer("so", reasoning_content="because\nof this"), user(), answer("end", reasoning_content="x")],
        [user(), answer("said", thinking="private")],
        [user(parts)],
        [user([{"type": "text", "text": "only text"}]), answer([{"type": "text", "text": "parts back"}])],
        [user(), answer("", tool_calls=[call("get_weather", weather)]), tool("{\"t\": 21}"), answer("21 degrees")],
        [user(), {"role": "assistant", "content": None, "tool_calls": [call("get_weather", weather, as_text=True)]},
         tool("sunny"), answer("sunny it is")],
        [system(), user(), answer("two", tool_calls=[call("get_weather", weather), call("now", {})]), tool("a"),
         tool("b"), answer("done"), user("again?")],
        [answer("I begin"), answer("twice")],
        [user("one"), user("two"), {"role": "developer", "content": "dev"}, user("three")],
        [{"role": "user"}],
    ]
    result = []
    for i, chat in enumerate(chats):
        row = {"messages": chat, "add_generation_prompt": i % 2 == 0}
        if i in (1, 4, 14, 15, 16):
            row["tools"] = TOOLS
        result.append(row)
    return result


def expected(source, row):
    try:
        texts, _ = renderer.render_jinja_template(
            [json.loads(json.dumps(row["messages"]))], tools=row.get("tools"), chat_template=source,
            add_generation_prompt=row["add_generation_prompt"], **TOKENS)
        texts[0].encode()
        return texts[0]
    except Exception as error:  # any refusal is one outcome
        return error


def product(program, source, rows):
    """Renders row by row, since one refused row ends a call."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = folder / "model"
        model.mkdir()
        special = [{"id": i, "content": t, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                    "normalized": False} for i, t in enumerate(TOKENS.values())]
        (model / "tokenizer.json").write_text(json.dumps({
            "version": "1.0", "added_tokens": special, "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                                "use_regex": True},
            "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate([*TOKENS.values(), "a"])}, "merges": []}}))
        (model / "tokenizer_config.json").write_text(json.dumps({**TOKENS, "chat_template": source}))
        results = [None] * len(rows)

        def run(indices):
            (folder / "in.jsonl").write_text("".join(json.dumps(rows[i]) + "\n" for i in indices))
            output = folder / "out.jsonl"
            output.unlink(missing_ok=True)
            done = subprocess.run(
                [program, "tokenizer", "render", str(model), "--input", str(folder / "in.jsonl"), "--output",
                 str(output)], capture_output=True, text=True)
            return done, output

        done, output = run(range(len(rows)))
        if done.returncode == 0:
            return [json.loads(line)["text"] for line in output.read_text().split("\n") if line]
        for i in range(len(rows)):
            done, output = run([i])
            results[i] = json.loads(output.read_text())["text"] if done.returncode == 0 else RuntimeError(done.stderr)
        return results


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--templates", action="append", required=True)
    arguments.add_argument("--program", default=".build/release/needletail")
    options = arguments.parse_args()
    paths = sorted(path for folder in options.templates for path in pathlib.Path(folder).rglob("*.jinja"))
    rows = conversations()
    counts = {"equal texts": 0, "both refuse": 0, "different": 0}
    today = datetime.date.today()
    for path in paths:
        source = path.read_text()
        for i, (row, ours) in enumerate(zip(rows, product(options.program, source, rows))):
            theirs = expected(source, row)
            if isinstance(theirs, Exception) and isinstance(ours, Exception):
                counts["both refuse"] += 1
            elif isinstance(ours, str) and ours == theirs:
                counts["equal texts"] += 1
            else:
                counts["different"] += 1
                print(f"{path.name} conversation {i}:\n  transformers {str(theirs)[:300]!r}\n  needletail   {str(ours)[:300]!r}")
    print(f"{len(paths)} templates x {len(rows)} conversations on {today}: {counts}")
    sys.exit(1 if counts["different"] or not paths else 0)


if __name__ == "__main__":
    main()
