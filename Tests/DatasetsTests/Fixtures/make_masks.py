"""Tokens and labels of chats by transformers: `apply_chat_template(return_assistant_tokens_mask=True)`.

Writes tokenizer.json (a byte-level BPE of about 600 tokens, trained here on a few sentences) and masks.json. Every case
holds a template without `{% generation %}` (what models are published with, retold) for our side; the mask comes from
its twin with `{% generation %}`, and both must render the same text. Where no twin can say it (thoughts that the template
strips from earlier turns) the case holds the reason for which the row must be dropped, or the mask of what is left.

    pip install transformers==5.23 tokenizers==0.23.3 jinja2==3.1.6
    python make_masks.py
"""
import json
import os
import random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
SPECIAL = [
    "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<|user|>", "<|system|>", "<|assistant|>", "<start_of_turn>", "<end_of_turn>",
]
SENTENCES = """The answer is yes. What is the colour of the sky? It is blue, and in the evening it is red.
How many legs has a horse? A horse has four legs. Please write a short story about a boat on the river.
user assistant system model think Sum the numbers 1 2 3 4 5 6 7 8 9 10 and tell me the result.
Once upon a time there was a small boat; the captain said: "We sail at noon!" and they did.
"""


def build_tokenizer():
    tok = Tokenizer(models.BPE(unk_token=None))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600, min_frequency=1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL], show_progress=False)
    tok.train_from_iterator(SENTENCES.splitlines() * 4, trainer)
    return tok


# Each template: (name, text with G[ ... ]G around what the assistant writes).
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}G[{{ message['content'] + '<|im_end|>' }}]G{{ '\\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}G[{{ message['content'] | trim + '<|eot_id|>' }}]G"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\\n' }}G[{{ message['content'] + eos_token }}]G{{ '\\n' }}"
    "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)
TULU = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\\n' }}G[{{ message['content'] + eos_token }}]G{{ '\\n' }}"
    "{% else %}{{ '<|assistant|>\\n' }}G[{{ message['content'] + eos_token }}]G{% endif %}"
    "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)
# No header for the answer at all: it begins with a space behind [/INST].
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "G[{{ ' ' + message['content'] + eos_token }}]G{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<start_of_turn>model\\n' }}G[{{ message['content'] | trim + '<end_of_turn>' }}]G{{ '\\n' }}"
    "{% else %}{{ '<start_of_turn>' + message['role'] + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
# ChatML that takes no notice of add_generation_prompt: the header can only be told from the answer by the answer.
DEAF = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}"
    "G[{{ message['content'] + '<|im_end|>' }}]G{{ '\\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)
# Thoughts of earlier answers are stripped; the last answer gets an empty one (as some reasoning models' templates do).
THINKING = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}G["
    "{% if loop.last and '</think>' not in message['content'] %}{{ '<think>\\n\\n</think>\\n\\n' + message['content'] }}"
    "{% elif loop.last %}{{ message['content'] }}"
    "{% else %}{{ message['content'].split('</think>')[-1].lstrip('\\n') }}{% endif %}{{ '<|im_end|>' }}]G{{ '\\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML, "llama3": LLAMA3, "zephyr": ZEPHYR, "tulu": TULU, "mistral": MISTRAL, "gemma": GEMMA,
    "deaf": DEAF, "thinking": THINKING,
}

U, A, S = "user", "assistant", "system"
CHATS = [
    [(U, "What is the colour of the sky?"), (A, "It is blue.")],
    [(S, "You are a poet."), (U, "Sum 1 and 2."), (A, "3")],
    [(U, "Hello"), (A, "Hi!"), (U, "How many legs has a horse?"), (A, "A horse has four legs.\n\nIt runs.")],
    [(U, "a"), (A, "a"), (U, "a"), (A, "a")],
    [(U, " spaces "), (A, "  the answer\n")],
    [(U, "naïve café 你好"), (A, "日本 🐎🏽 é e\u0301")],
    [(U, "Say <|im_end|> and <|assistant|>"), (A, "</s> and\n<|assistant|>\nno <|im_start|>assistant\n")],
    [(U, "think"), (A, "<think>\nfour\n</think>\n\n4"), (U, "And?"), (A, "<think>\nfive\n</think>\n\n5")],
    [(U, "x"), (A, "<"), (U, "x"), (A, "assistant\n<|im_start|>assistant")],
]


def main():
    tok = build_tokenizer()
    tok.save(os.path.join(HERE, "tokenizer.json"), pretty=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False)
    templates, cases = {}, []
    for name, marked in TEMPLATES.items():
        plain = marked.replace("G[", "").replace("]G", "")
        twin = marked.replace("G[", "{% generation %}").replace("]G", "{% endgeneration %}")
        templates[name] = {"plain": plain, "generation": twin}
        for chat in CHATS:
            messages = [{"role": r, "content": c} for r, c in chat]
            try:
                text = fast.apply_chat_template(messages, chat_template=plain, tokenize=False)
            except Exception as error:  # the template's own refusal
                cases.append({"template": name, "messages": messages, "refused": str(error)})
                continue
            assert text == fast.apply_chat_template(messages, chat_template=twin, tokenize=False)
            out = fast.apply_chat_template(
                messages, chat_template=twin, return_dict=True, return_assistant_tokens_mask=True)
            assert out["input_ids"] == fast(text, add_special_tokens=False)["input_ids"]
            mask = out["assistant_masks"]
            cases.append({
                "template": name, "messages": messages, "text": text, "ids": out["input_ids"],
                "mask": "".join(map(str, mask))})
    with open(os.path.join(HERE, "masks.json"), "w") as f:
        f.write(json.dumps({"templates": templates, "cases": cases}, ensure_ascii=False).replace('{"template"', '\n{"template"'))


main()
