"""Writes builtins.json: what jinja2 (with the settings of transformers) renders of the templates that come with the program.

    python make_builtins.py PATH/needletail      (transformers 5.23, jinja2 3.1.6)

`needletail tokenizer template` prints the templates; a line break at their end is not theirs.
"""
import json
import subprocess
import sys

from make_goldens import HERE, outcome


def printed(*arguments):
    return subprocess.run([sys.argv[1], "tokenizer", "template", *arguments], check=True, capture_output=True, text=True).stdout


turns = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "Hi <b>you</b> & 'me'\\n"},
    {"role": "assistant", "content": " Héllo\n\nthere 👍 "},
    {"role": "user", "content": "{{ 7 }} {% x %}"},
    {"role": "assistant", "content": "</think>\nyes"},
]
conversations = [turns, turns[1:], turns[1:3], turns[:2], turns[1:2], turns[:4], [{"role": "assistant", "content": "a"}]]
cases = []
for name in printed().split():
    source = printed(name)[:-1]
    for messages in conversations:
        for prompt in (False, True):
            result = outcome(
                source, {"messages": messages, "bos_token": "<s>", "eos_token": "</s>"}, add_generation_prompt=prompt)
            cases.append({"template": name, "messages": messages, "add_generation_prompt": prompt, **result})
(HERE / "builtins.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")
print(len(cases), "cases,", sum("error" in c for c in cases), "refused")
