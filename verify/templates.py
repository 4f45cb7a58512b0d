"""Public chat templates: texts of generated conversations with transformers, and what of them is trained.

    .deps/oracle/bin/python verify/templates.py --templates FOLDER [--templates FOLDER ...]

FOLDER holds *.jinja files, for example what `scripts/fetch-assets chat-templates trl-templates axolotl-templates vllm-templates` leaves.
Texts of `tokenizer render` must agree byte for byte, each conversation with tools and without. Where one refuses the other
must too, and for the same cause; these are counted apart and listed with both reasons. Both see the same clock.

Masks of `data inspect`: every message says in a word of its own who wrote it. A row is either refused, or all the
assistant's words are trained and nobody else's. Where a template marks the assistant's text itself (`{% generation %}`),
what is trained is what transformers finds marked, white space aside.
"""
import collections
import datetime
import json
import pathlib
import random
import re

import tokenizers
import transformers
import transformers.utils.chat_template_utils as renderer

from common import Program, Report, Workspace, one_line, parser, write_rows

NOW = datetime.datetime(2026, 7, 4, 9, 5, 3)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


renderer.datetime = FixedClock

BYTES = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
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
    """Twenty conversations with tools and without: fixed shapes with seeded words, each used by every template."""
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
    rows = [{"messages": chat, "add_generation_prompt": i % 2 == 0} for i, chat in enumerate(chats)]
    return rows + [{**row, "tools": TOOLS} for row in rows]


def training_chats():
    """Rows whose messages say who wrote them."""
    def says(role, number, **more):
        return {"role": role, "content": f"this {role}word{number} is.", **more}

    turn = [says("user", 1), says("assistant", 2)]
    alike = [says("user", 1), says("assistant", 2), says("user", 3), says("assistant", 2)]
    untrained = [says("user", 1), {**says("assistant", 2), "weight": 0}, says("user", 3), says("assistant", 4)]
    twice = [says("user", 1), says("assistant", 2), {**says("assistant", 4), "weight": 0}, says("assistant", 6)]
    weather = [says("user", 1), says("assistant", 2, tool_calls=[call("get_weather", {"city": "assistantcity"})]),
               {**says("tool", 3), "name": "get_weather", "tool_call_id": "call12345"}, says("assistant", 4)]
    thinking = [says("user", 1), {"role": "assistant", "content": "<think>\nhm\n</think>\n\nthis assistantword2 is."}]
    chats = [turn, [says("system", 0), *turn], [*turn, says("user", 3), says("assistant", 4)],
             [says("system", 0), *turn, says("user", 3), says("assistant", 4), says("user", 5), says("assistant", 6)],
             thinking, [*thinking, says("user", 3), says("assistant", 4)], weather, [says("system", 0), *weather], alike, untrained, twice]
    return [{"messages": chat} for chat in chats] + [{"messages": chat, "tools": TOOLS} for chat in (turn, weather)]


def expected(source, row):
    try:
        texts, _ = renderer.render_jinja_template(
            [json.loads(json.dumps(row["messages"]))], tools=row.get("tools"), chat_template=source,
            add_generation_prompt=row["add_generation_prompt"], **TOKENS)
        texts[0].encode()
        return texts[0]
    except Exception as error:  # any refusal is one outcome
        return error


def model_folder(folder, source):
    """A tokenizer of single bytes with the special tokens and the template."""
    folder.mkdir(exist_ok=True)
    special = [{"id": i, "content": t, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False} for i, t in enumerate(TOKENS.values())]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": special, "normalizer": None, "pre_tokenizer": level, "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate([*TOKENS.values(), *BYTES])}, "merges": []}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({**TOKENS, "chat_template": source}))


def product(program, folder, source, rows):
    """What the program makes of the rows: a text, or an exception with its message."""
    model_folder(folder / "model", source)

    def render(rows):
        write_rows(folder / "in.jsonl", rows)
        output = folder / "out.jsonl"
        output.unlink(missing_ok=True)
        done = program.run("tokenizer", "render", folder / "model", "--now", NOW.isoformat(), "--input",
                           folder / "in.jsonl", "--output", output)
        if done.returncode != 0:
            return RuntimeError(done.stderr.strip())
        return [json.loads(line)["text"] for line in output.read_text(encoding="utf-8").split("\n") if line]

    texts = render(rows)
    if not isinstance(texts, Exception):
        return texts
    results = [render([row]) for row in rows]  # a refused row ends a call
    return [result if isinstance(result, Exception) else result[0] for result in results]


def cause(message):
    """A refusal in words that both sides share."""
    message = re.sub(r"^.*?chat template(, line \d+)?: ", "", one_line(message, 600))
    for pattern, name in [
        (r"has no (?:attribute|element|item)|is undefined|type undefined is not json", "undefined value"),
        (r"can only concatenate|unsupported operand|must be str|not \"?(?:nonetype|list|dict|undefined)", "wrong type"),
        (r"has no len", "no length"),
        (r"not json serializable", "not JSON"),
        (r"not iterable", "not iterable"),
        (r"no first item|no last item|sequence was empty", "empty list"),
        (r"no filter named '(?:\w+)'", "unknown filter"),
        (r"is not callable", "not callable"),
        (r"is not allowed|unsafe|securityerror", "not allowed"),
    ]:
        if re.search(pattern, message.lower()):
            return name
    return re.sub(r"\W+", " ", message).strip().lower()


WORD = re.compile(r"assistantword\d")


def trained_characters(row):
    return {i for (start, end), trained in zip(row["offsets"], row["trained"]) if trained for i in range(start, end)}


def marked_characters(source, row):
    """What transformers finds between the template's own marks, or None where it has none."""
    if not re.search(r"\{%-?\s*generation\s*-?%\}", source):
        return None
    _, spans = renderer.render_jinja_template(
        [json.loads(json.dumps(row["messages"]))], tools=row.get("tools"), chat_template=source,
        return_assistant_tokens_mask=True, **TOKENS)
    return {i for start, end in spans[0] for i in range(start, end)}


def judge_mask(inspected, row):
    """What is wrong with the mask of a row, by its words."""
    trained = trained_characters(inspected)
    silent = {word for message in row["messages"] if message.get("weight") == 0 for word in WORD.findall(message["content"])}
    words = {match: set(range(match.start(), match.end())) for match in re.finditer(
        r"(system|user|assistant|tool)(word\d|city)", inspected["text"])}
    wanted = {match: match[1] == "assistant" and match[0] not in silent for match in words}
    wrong = [f"{match[0]} is {'not ' if wanted[match] else ''}trained" for match, place in words.items()
             if (place & trained) != (place if wanted[match] else set())]
    # An answer that the template leaves out is a row to refuse.
    answers = collections.Counter(word for message in row["messages"] if message["role"] == "assistant" and message.get("weight") != 0
                                  for word in WORD.findall(message["content"]))
    printed = collections.Counter(match[0] for match in words)
    return wrong + [f"{word} is {printed[word]} times in the text" for word, count in answers.items() if printed[word] != count]


def check_masks(report, program, folder, paths):
    rows = training_chats()
    proven, marked, refusals, wrong, unlike = 0, 0, collections.Counter(), [], []
    for path in paths:
        source = path.read_text(encoding="utf-8")
        model_folder(folder / "model", source)
        write_rows(folder / "rows.jsonl", rows)
        done = program.run("data", "inspect", folder / "model", folder / "rows.jsonl", "--json", "--limit", len(rows),
                           "--max-length", 1_000_000)
        read = {row["source"]: row for row in map(json.loads, done.stdout.splitlines())}
        for number, row in enumerate(rows, 1):
            place = f"{path.parent.name}/{path.name}, row {number}"
            inspected = next((found for source_name, found in read.items() if source_name.endswith(f"line {number}")), None)
            if inspected is None:
                reasons = [line for line in done.stderr.splitlines() if f"line {number}:" in line or "error:" in line]
                if not reasons:
                    wrong.append(f"{place}: neither read nor refused")
                refusals[one_line(reasons[0].split(": ", 2)[-1], 120) if reasons else "?"] += 1
                continue
            proven += 1
            wrong += [f"{place}: {what}" for what in judge_mask(inspected, row)]
            if any("weight" in message for message in row["messages"]):
                continue  # transformers knows no weights
            theirs = marked_characters(source, row)
            if theirs is not None:
                marked += 1
                # Where the template moves a thought, the turn is proven without the mark, which may hold a line break more.
                if any(not inspected["text"][i].isspace() for i in theirs ^ trained_characters(inspected)):
                    unlike.append(f"{place}: {len(theirs)} characters marked, {len(trained_characters(inspected))} trained")
    for line in wrong + unlike:
        print("  " + line)
    for reason, count in refusals.most_common():
        print(f"    mask refused: {count} x {reason}")
    report.note("masks: rows of every template", f"{len(rows)} x {len(paths)}")
    report.holds("masks proven", proven >= 8 * len(paths), f"{proven}; {sum(refusals.values())} refused", f">= {8 * len(paths)}")
    report.equals("masks that train others' words or leave the assistant's out", len(wrong), 0)
    report.holds("masks beside the template's own marks", marked >= 100, str(marked), ">= 100")
    report.equals("masks unlike the template's own marks", len(unlike), 0)


def check_named(report, program, folder):
    """Templates under names and all special tokens, in the settings and as files, with tools and without: transformers."""
    usual = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ sep_token }}{{ cls_token }}|{{ mask_token }}|{{ image_token }}{% endfor %}"
    named = {"default": usual, "tool_use": usual + "{{ tools | length }}{% for t in tools %}{{ t.function.name }}{% endfor %}", "rag": "no"}
    extra = {"sep_token": "<pad>", "cls_token": "<s>", "mask_token": "<unk>", "extra_special_tokens": {"image_token": "</s>"}}
    chat = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    rows = [{"messages": chat}, {"messages": chat, "tools": TOOLS}, {"messages": chat, "tools": []}]
    for place in ["settings", "files"]:
        texts = product_with(program, folder, place, named, extra, rows)
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder / place)
        theirs = [tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False) for row in rows]
        report.equals(f"templates under names, {place}", texts, theirs)


def product_with(program, folder, place, named, extra, rows):
    """Texts by the program of a tokenizer that has several templates."""
    model = folder / place
    model_folder(model, [{"name": name, "template": source} for name, source in named.items()])
    config = {**json.loads((model / "tokenizer_config.json").read_text()), **extra}
    if place == "files":
        config["chat_template"] = "stale"
        (model / "additional_chat_templates").mkdir()
        for name, source in named.items():
            file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
            (model / file).write_text(source)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    write_rows(folder / "named.jsonl", rows)
    program.must("tokenizer", "render", model, "--input", folder / "named.jsonl", "--output", folder / "named.out.jsonl")
    return [json.loads(line)["text"] for line in (folder / "named.out.jsonl").read_text().splitlines()]


def main():
    options = parser(__doc__)
    options.add_argument("--templates", action="append", required=True)
    options.add_argument("--masks-only", action="store_true", help="leave the texts out")
    options = options.parse_args()
    paths = sorted(path for folder in options.templates for path in pathlib.Path(folder).rglob("*.jinja"))
    rows, program, report = conversations(), Program(options.needletail), Report()
    equal, refusals, other_cause, different = 0, collections.Counter(), [], []
    with Workspace(options) as folder:
        for path in [] if options.masks_only else paths:
            source = path.read_text(encoding="utf-8")
            for i, (row, ours) in enumerate(zip(rows, product(program, folder, source, rows), strict=True)):
                theirs = expected(source, row)
                place = f"{path.parent.name}/{path.name}, conversation {i}"
                if isinstance(theirs, Exception) and isinstance(ours, Exception):
                    reasons = (cause(str(theirs)), cause(str(ours)))
                    refusals[path.name, reasons] += 1
                    if reasons[0] != reasons[1]:
                        other_cause.append(f"{place}: transformers {theirs} / needletail {ours}")
                elif isinstance(ours, str) and ours == theirs:
                    equal += 1
                else:
                    different.append(f"{place}: transformers {str(theirs)[:300]!r} / needletail {str(ours)[:300]!r}")
        check_named(report, program, folder)
        check_masks(report, program, folder, paths)
    for line in different + other_cause:
        print("  " + one_line(line, 900))
    print("  refused by both:")
    for (name, reasons), count in sorted(refusals.items()):
        print(f"    {name}: {count} x {reasons[0][:120]}")
    report.holds("public templates", len(paths) >= 100, str(len(paths)), ">= 100")
    report.equals("conversations each, half of them with tools", len(rows), 40)
    report.note("texts equal byte for byte", f"{equal} of {len(paths) * len(rows)}")
    report.equals("texts that differ", len(different), 0)
    report.note("refused by both", sum(refusals.values()))
    report.equals("refused by both, for another cause", len(other_cause), 0)
    report.exit()


if __name__ == "__main__":
    main()
