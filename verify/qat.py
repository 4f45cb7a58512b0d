"""Quantization-aware training against rounding afterwards, on the real model (what must be shown: QAT beats PTQ).

    .deps/oracle/bin/python verify/qat.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --rows FILE [--steps 60] [--types q4_0 q4_k]

The same fine-tuning of all weights on the same rows twice, once as always and once with `training.quantize_aware`; both are
exported in that block type, and `eval` judges both files and the unrounded model on the same held-out rows. The run's own last
held-out loss must be that of its file: what it trained with is what was written. Blocks that hold numbers are read with the
`gguf` package to prove that the files are of the type.
"""

import json
import pathlib

import gguf

from common import Program, Report, Workspace, override, parser, read_rows, write_rows


def rows_of(path, count):
    rows = json.loads(path.read_text())
    return [{"instruction": r["instruction"], "input": r.get("input", ""), "output": r["output"]} for r in rows
            if 20 < len(r["output"]) < 600][:count]


def held_out_loss(program, model, rows):
    result = program.must("eval", model, rows, "--json", "--dtype", "fp32", timeout=1800)
    return json.loads(result.stdout)["loss"]


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--gguf", type=pathlib.Path, required=True)
    arguments.add_argument("--rows", type=pathlib.Path, required=True)
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--types", nargs="+", default=["q4_0", "q4_k"])
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail, 2)
    with Workspace(arguments) as work:
        rows = rows_of(arguments.rows, 700)
        write_rows(work / "train.jsonl", rows[150:])
        write_rows(work / "held.jsonl", rows[:150])
        base = work / "base"
        program.must("convert", arguments.gguf, base, timeout=600)

        def train(name, *settings):
            program.must("finetune", base, work / "train.jsonl", "--method", "full", "--output", work / name,
                         override("steps", arguments.steps), override("rows_per_step", 8), override("learning_rate", 5e-5),
                         override("dtype", "fp32"), override("log_every", 1), f"data.validation=[{work / 'held.jsonl'}]",
                         override("eval_every", arguments.steps), *settings, timeout=3600)
            return work / name

        plain = train("plain")
        report.note("held-out loss, not rounded", f"{held_out_loss(program, plain, work / 'held.jsonl'):.4f}")
        for kind in arguments.types:
            aware = train(f"aware-{kind}", f"training.quantize_aware={kind}")
            losses = {}
            for name, run in [("plain", plain), ("aware", aware)]:
                file = work / f"{name}-{kind}.gguf"
                program.must("export", run, file, "--type", kind, timeout=1800)
                types = [t.tensor_type.name for t in gguf.GGUFReader(file).tensors if len(t.shape) == 2]
                # Rows of 576 numbers are no whole blocks of 256, so there the K types are Q8_0.
                least = len(types) if kind in ("q4_0", "q8_0") else 30
                report.holds(f"{kind}, {name}: matrices of the type", types.count(kind.upper()) >= least, f"{types.count(kind.upper())} of {len(types)}")
                losses[name] = held_out_loss(program, file, work / "held.jsonl")
            last = [row["eval/loss"] for row in read_rows(aware / "metrics.jsonl") if "eval/loss" in row][-1]
            report.at_most(f"{kind}: held-out loss of the run and of its file, difference", abs(last - losses["aware"]), 1e-3)
            report.holds(f"{kind}: held-out loss, trained for it against rounded afterwards", losses["aware"] < losses["plain"],
                         f"{losses['aware']:.4f} against {losses['plain']:.4f}")
    report.exit()


if __name__ == "__main__":
    main()
