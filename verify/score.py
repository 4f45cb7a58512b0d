"""`needletail score` against transformers: same weights, fp32, rows of every kind (what must be shown, item 2).

    .deps/oracle/bin/python verify/score.py [--gguf SmolLM2-135M-Instruct.Q4_1.gguf] [--tiny llama_gqa ...]

Compared per model: token ids (equal), mask (equal), log-probabilities, sum and mean (1e-4). A GGUF file is also
converted with `needletail convert`; transformers loads it both ways, and the weights must agree exactly.
"""

import pathlib

import torch
import transformers

import models
from common import Program, Report, Workspace, parser, read_rows, write_rows

LIMIT = 1e-4


def make_rows(vocabulary_size):
    """Twelve rows: texts, completions, conversations and ids. Completions start with a space or a line break, where
    every byte-level pre-tokenizer splits, so that encoding in one piece or in two gives the same ids."""
    rows = [{"text": models.text(seed, 1 + seed)} for seed in range(4)]
    rows.append({"text": "<|end|>Special tokens</s> inside <|im_end|> a text, tabs\t\tand\r\n\r\n  spaces  "})
    rows += [{"prompt": models.text(20, 2), "completion": " " + models.text(21, 2)},
             {"prompt": "Question: 12 + 30?\nAnswer:", "completion": " 42"},
             {"prompt": models.text(22, 1), "completion": "\n\n" + models.text(23, 1)}]
    rows += [{"messages": models.conversation(30, turns=1)},
             {"messages": models.conversation(31, turns=2, system=True)}]
    ids = [(37 * i * i + 11 * i) % vocabulary_size for i in range(60)]
    return rows + [{"input_ids": ids}, {"input_ids": ids[::-1][:25]}]


def expected_tokens(tokenizer, row, generation_template):
    """Ids, mask, and positions where the mask may be either (white space between a turn's end and the next turn)."""
    if "input_ids" in row:
        ids = row["input_ids"]
        return ids, [0] + [1] * (len(ids) - 1), set()
    if "text" in row:
        ids = tokenizer(row["text"])["input_ids"]
        return ids, [0] + [1] * (len(ids) - 1), set()
    if "prompt" in row:
        encoding = tokenizer(row["prompt"] + row["completion"], return_offsets_mapping=True)
        mask = [int(start >= len(row["prompt"])) for start, _ in encoding["offset_mapping"]]
        return encoding["input_ids"], mask, set()
    if generation_template:
        encoding = tokenizer.apply_chat_template(
            row["messages"], chat_template=generation_template, tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True)
        return encoding["input_ids"], encoding["assistant_masks"], set()
    return chatml_tokens(tokenizer, row["messages"])


def chatml_tokens(tokenizer, messages):
    """ChatML without generation marks: the assistant's tokens run from after its header to its `<|im_end|>`."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    header, end = "<|im_start|>assistant\n", "<|im_end|>"
    spans, position = [], 0
    while (found := text.find(header, position)) >= 0:
        start = found + len(header)
        position = text.index(end, start) + len(end)
        spans.append((start, position))
    mask = [int(any(a <= start < b for a, b in spans)) for start, _ in encoding["offset_mapping"]]
    breaks = {b for _, b in spans}
    free = {i for i, (start, _) in enumerate(encoding["offset_mapping"]) if start in breaks}
    return encoding["input_ids"], mask, free


@torch.no_grad()
def log_probs(model, ids):
    """log p(ids[t] | ids[:t]) for t >= 1, natural log, of fp32 logits. The sum over the vocabulary is fp64: PyTorch's own in
    fp32 is off by up to 1.3e-4 for Gemma's 262,144 tokens on processors without AVX-512."""
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def compare(report, name, model, tokenizer, rows, scored, generation_template=None):
    """One result line per property over all rows."""
    report.equals(f"{name}: rows scored", len(scored), len(rows))
    ids_differ = masks_differ = 0
    worst = worst_sum = worst_mean = 0.0
    for row, result in zip(rows, scored):
        ids, mask, free = expected_tokens(tokenizer, row, generation_template)
        if result["tokens"] != ids:
            ids_differ += 1
            continue
        mine = result["mask"]
        differ = [i for i, (a, b) in enumerate(zip(mask, mine)) if a != b and i not in free]
        masks_differ += bool(differ) or len(mine) != len(ids)
        expected = [None] + log_probs(model, ids)
        if result["logprobs"][0] is not None or len(result["logprobs"]) != len(ids):
            worst = float("inf")
            continue
        worst = max([worst] + [abs(a - b) for a, b in zip(expected[1:], result["logprobs"][1:])])
        chosen = [value for value, flag in zip(expected, mine) if flag and value is not None]
        worst_sum = max(worst_sum, abs(sum(chosen) - result["sum"]) / max(1, len(chosen)))
        worst_mean = max(worst_mean, abs(sum(chosen) / max(1, len(chosen)) - result["mean"]))
    report.equals(f"{name}: rows with other ids", ids_differ, 0)
    report.equals(f"{name}: rows with another mask", masks_differ, 0)
    report.at_most(f"{name}: largest log-prob difference", worst, LIMIT)
    report.at_most(f"{name}: largest difference of sums per token", worst_sum, LIMIT)
    report.at_most(f"{name}: largest difference of means", worst_mean, LIMIT)


def score(program, model, rows, work, *options):
    """Rows through the program."""
    rows_file, scores = work / "rows.jsonl", work / "scores.jsonl"
    scores.unlink(missing_ok=True)
    write_rows(rows_file, rows)
    program.must("score", model, "--input", rows_file, "--output", scores, "--dtype", "fp32", *options)
    return read_rows(scores)


def check_tiny(report, program, work, name):
    path = models.write_tiny(work / "tiny", name)
    # Not AutoTokenizer: for some families it replaces what tokenizer.json says by its class's own pattern.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager").eval()  # sdpa leaves out Gemma 2's cap
    rows = make_rows(model.config.vocab_size)
    compare(report, name, model, tokenizer, rows, score(program, path, rows, work), models.GENERATION_TEMPLATE)


def check_gguf(report, program, work, gguf):
    name = gguf.stem
    direct = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    rows = make_rows(direct.config.vocab_size)
    compare(report, f"{name} (GGUF in transformers)", direct, tokenizer, rows, score(program, gguf, rows, work))

    folder = work / f"{name}-fp32"
    program.must("convert", gguf, folder, "--dtype", "fp32")
    converted = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    theirs, ours = direct.state_dict(), converted.state_dict()
    report.equals(f"{name}: tensors of the converted folder missing or too many", sorted(set(theirs) ^ set(ours)), [])
    different = [key for key in theirs if key in ours and not torch.equal(theirs[key], ours[key])]
    report.equals(f"{name}: converted tensors that differ from transformers' own conversion", len(different), 0)
    del direct
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    compare(report, f"{name} (converted folder)", converted, tokenizer, rows, score(program, folder, rows, work))


def check_other_gguf(report, program, work, gguf):
    """Rows of ids, cut by the program: transformers makes a tokenizer of its own of some files."""
    direct = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="eager").eval()
    texts, ids = work / "texts.jsonl", work / "ids.jsonl"
    write_rows(texts, [{"text": models.text(seed, 12)} for seed in range(3)] + [{"text": models.text(9, 90)}])
    program.must("tokenizer", "encode", gguf, "--input", texts, "--output", ids)
    rows = [{"input_ids": row["ids"]} for row in read_rows(ids)]
    report.holds(f"{gguf.stem}: a row is longer than the window", len(rows[-1]["input_ids"]) > 512, len(rows[-1]["input_ids"]))
    compare(report, f"{gguf.stem} (GGUF in transformers)", direct, None, rows, score(program, gguf, rows, work))


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--other-gguf", nargs="*", type=pathlib.Path, default=[], help="more real models, rows of ids")
    arguments.add_argument("--tiny", nargs="*", choices=list(models.TINY), default=list(models.TINY))
    arguments.add_argument("--gguf", type=pathlib.Path, help="a real model; left out, only tiny ones are compared")
    arguments = arguments.parse_args()
    torch.set_num_threads(1)
    report, program = Report(), Program(arguments.needletail)
    with Workspace(arguments) as work:
        for name in arguments.tiny:
            check_tiny(report, program, work, name)
        if arguments.gguf:
            check_gguf(report, program, work, arguments.gguf.resolve())
        for gguf in arguments.other_gguf:
            check_other_gguf(report, program, work, gguf.resolve())
    report.exit()


if __name__ == "__main__":
    main()
