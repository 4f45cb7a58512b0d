# Writes micro.json and families.json: what jinja2 (with the settings of transformers) renders, or "error".
# Versions: transformers 5.23, jinja2 3.1.6. Run: python make_goldens.py (in this folder).
import json
import pathlib
import datetime

import transformers.utils.chat_template_utils as renderer

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 7, 4, 9, 5, 3)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


renderer.datetime = FixedClock

VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi <b>you</b> & 'me'"},
        {"role": "assistant", "content": "Hello\nthere", "n": 3, "tags": ["b", "A", "c"]},
    ],
    "s": " Héllo wörld ",
    "n": 7,
    "x": 2.5,
    "items_": [3, 1, 2, 1],
    "d": {"b": 1, "a": {"c": [1, 2, {"k": None}]}, "items": "own"},
    "people": [{"name": "Zoe", "age": 30}, {"name": "adam", "age": 25}, {"name": "Bob", "age": 30}],
    "bos_token": "<s>",
    "empty": [],
    "t": True,
    "f": False,
}


def outcome(source, variables, **render):
    try:
        messages = [dict(m) for m in variables["messages"]]
        rest = {k: v for k, v in variables.items() if k != "messages"}
        text, _ = renderer.render_jinja_template([messages], chat_template=source, **render, **rest)
        text[0].encode()  # a text with half a surrogate pair counts as refused
        return {"text": text[0]}
    except Exception as error:  # every kind of failure is one outcome: refused
        return {"error": f"{type(error).__name__}: {error}"[:120]}


def micro():
    cases = []
    for line in (HERE / "micro_cases.txt").read_text().split("\n---\n"):
        source = line.strip("\n") if not line.startswith("RAW ") else json.loads(line[4:])
        cases.append({"template": source, **outcome(source, VARIABLES)})
    (HERE / "micro.json").write_text(
        json.dumps({"variables": VARIABLES, "cases": cases}, ensure_ascii=False, indent=0) + "\n")
    print(len(cases), "micro cases,", sum("error" in c for c in cases), "refused")


def families():
    conversations = json.loads((HERE / "conversations.json").read_text())
    cases = []
    for path in sorted(HERE.glob("*.jinja")):
        source = path.read_text()
        for i, conversation in enumerate(conversations):
            result = outcome(
                source, {"messages": conversation["messages"], "bos_token": "<s>", "eos_token": "</s>"},
                tools=conversation.get("tools"),
                add_generation_prompt=conversation.get("add_generation_prompt", False))
            cases.append({"template": path.name, "conversation": i, **result})
    (HERE / "families.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")
    print(len(cases), "family cases,", sum("error" in c for c in cases), "refused")


if __name__ == "__main__":
    micro()
    families()
