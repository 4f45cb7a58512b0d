"""Optimizers on a language model that learns real text: Muon beside AdamW, and AdamW's moments in 8 bits.

    .deps/oracle/bin/python verify/optimizers.py --texts FILE ... [--steps 200] [--only muon int8]

muon   A Llama of about 2 million weights from random ones, same rows for all. AdamW's best rate of several after N steps
       against Muon's after 0.8 N, each with its whole schedule. The Muon run is repeated by torch.optim.Muon on the recorded
       batches; then Muon turns the token table too, which must be worse.
int8   A smaller one for 500 steps with moments in fp32 and in 8 bits. Torch repeats the run with an 8-bit AdamW of its
       own, once with a scale for each block of 256 numbers and once with one scale for each tensor, which must be worse.
"""

import pathlib
import random
import re
import unittest.mock

import safetensors.torch
import tokenizers
import torch
import transformers
import yaml

from common import Program, Report, Workspace, parser, read_rows, setting, write_config, write_rows
from training import documents, learning_rate

transformers.utils.logging.set_verbosity_error()
LENGTH = 128


# -- the place --------------------------------------------------------------------------------------------------------

def make_rows(files, work):
    """Pieces of about LENGTH tokens, in a fixed order that no file rules: (rows to train, held-out rows)."""
    text = "\n\n".join(pathlib.Path(file).read_text(errors="replace") for file in files)
    words, rows, piece = re.split(r"(?<=\s)(?=\S)", text), [], ""
    for word in words:
        piece += word
        if len(piece) >= 3 * LENGTH:
            rows.append({"text": piece})
            piece = ""
    random.Random(3).shuffle(rows)
    write_rows(work / "held-out.jsonl", rows[:100])
    write_rows(work / "train.jsonl", rows[100:])
    return text


def make_base(work, name, text, vocabulary, hidden, layers):
    """A folder with a random model and a byte-level BPE tokenizer learned from the text."""
    path = work / name
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(text.split("\n\n"), tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<end>"], show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(path)
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=hidden * 8 // 3 // 16 * 16,
        num_hidden_layers=layers, num_attention_heads=hidden // 32, num_key_value_heads=hidden // 32, max_position_embeddings=2 * LENGTH,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0))
    model.save_pretrained(path)
    return path, sum(p.numel() for p in model.parameters())


class Runs:
    """Runs of the program on one base, every token trained."""

    def __init__(self, program, work, base, rows):
        self.program, self.work, self.base, self.rows = program, work, base, rows

    def __call__(self, name, steps, rate, **settings):
        """(held-out loss at the end, run folder)"""
        run = self.work / name
        write_config(
            self.work / f"{name}.yaml", recipe="sft", model=str(self.base), dtype="fp32", method="full",
            train_files=[str(self.work / "train.jsonl")], validation_files=[str(self.work / "held-out.jsonl")],
            kind="text", max_length=2 * LENGTH, rows_per_step=self.rows, micro_batch_tokens=4096, schedule="cosine",
            warmup_steps=steps // 20, beta2=0.95, weight_decay=0.1, steps=steps, learning_rate=rate, eval_every=steps,
            save_every=steps, record_batches=True, log_every=1, output=str(run), **settings)
        self.program.must("train", self.work / f"{name}.yaml", timeout=7200)
        return [row["eval/loss"] for row in read_rows(run / "metrics.jsonl") if "eval/loss" in row][-1], run

    def best(self, report, optimizer, steps, rates):
        """The best of several rates: (held-out loss, run folder)."""
        found = {rate: self(f"{optimizer}-{steps}-{rate:g}", steps, rate, optimizer=optimizer) for rate in rates}
        report.note(f"{optimizer}, {steps} steps: held-out loss by rate",
                    ", ".join(f"{rate:g}: {loss:.4f}" for rate, (loss, _) in found.items()))
        rate = min(found, key=lambda rate: found[rate][0])
        return *found[rate], rate


# -- the same in torch ------------------------------------------------------------------------------------------------

def replay(base, run, make_optimizers):
    """Losses of all steps on the recorded batches."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    optimizers, losses = make_optimizers(model, config), []
    rows = read_rows(run / "batches.jsonl")
    for k, row in enumerate(rows):
        parts = list(documents(row))
        width = max(len(ids) for ids, _ in parts)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in parts])  # what follows is never seen
        labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in parts])
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), setting(config, "max_grad_norm", 1.0))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, k, len(rows))
                if "momentum" in group:
                    group["momentum"] = 0.85 + 0.1 * min(1.0, k / 300)
            with unittest.mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.float):  # Muon's products in fp32
                optimizer.step()
        model.zero_grad()
        losses.append(loss.item())
    return losses


def adamw(parameters, config, kind=torch.optim.AdamW, **options):
    decay = setting(config, "weight_decay", 0.0)
    return kind(
        [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
         {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}],
        betas=(setting(config, "beta1", 0.9), setting(config, "beta2", 0.999)), eps=setting(config, "eps", 1e-8),
        **options)


def muon_on(is_turned):
    """Makes torch's Muon for the weights of which is_turned(name) is true, and AdamW for the others."""
    def make(model, config):
        named = list(model.named_parameters())
        turned = [p for name, p in named if is_turned(name)]
        return [torch.optim.Muon(turned, weight_decay=setting(config, "weight_decay", 0.0),
                                 adjust_lr_fn="match_rms_adamw"),
                adamw([p for name, p in named if not is_turned(name)], config)]
    return make


class NarrowAdamW(torch.optim.Optimizer):
    """AdamW with the moments of all but tables and small tensors in 8 bits, a scale for each `block` numbers (0: for each
    tensor). The map of codes is written out from Dettmers et al. 2022 (arXiv:2110.02861), section 1.3."""

    def __init__(self, groups, betas, eps, block, tables):
        super().__init__(groups, dict(betas=betas, eps=eps))
        self.block, self.tables, self.count = block, {id(p) for p in tables}, 0
        self.maps = [self.codes(signed) for signed in (True, False)]

    @staticmethod
    def codes(signed):
        values = [0.0, 1.0]
        for decade in range(7):
            parts = 2 ** (decade + (not signed))
            edges = torch.linspace(0.1, 1, parts + 1, dtype=torch.float64)
            positive = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
            values += positive + ([-v for v in positive] if signed else [])
        return torch.tensor(sorted(values), dtype=torch.float32)

    def narrowed(self, x, codes):
        flat = x.flatten()
        size = self.block or flat.numel()
        padded = torch.nn.functional.pad(flat, (0, -flat.numel() % size)).view(-1, size)
        scales = padded.abs().amax(1, keepdim=True).clamp(min=1e-38)
        index = torch.bucketize(padded / scales, (codes[1:] + codes[:-1]) / 2)
        return (codes[index] * scales).flatten()[:flat.numel()].view_as(x)

    @torch.no_grad()
    def step(self):
        self.count += 1
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                m, v = state.get("m", torch.zeros_like(p)), state.get("v", torch.zeros_like(p))
                m, v = beta1 * m + (1 - beta1) * p.grad, beta2 * v + (1 - beta2) * p.grad ** 2
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * (m / (1 - beta1 ** self.count))
                       / ((v / (1 - beta2 ** self.count)).sqrt() + group["eps"]))
                if p.numel() >= 4096 and id(p) not in self.tables:
                    m, v = self.narrowed(m, self.maps[0]), self.narrowed(v, self.maps[1])
                state["m"], state["v"] = m, v


def narrow(block):
    def make(model, config):
        return [adamw(list(model.parameters()), config, NarrowAdamW, block=block,
                      tables=[model.get_input_embeddings().weight])]
    return make


# -- what must be shown -----------------------------------------------------------------------------------------------

def tail(losses):
    return sum(losses[-20:]) / len(losses[-20:])


def check_muon(report, program, work, text, steps):
    base, weights = make_base(work, "base", text, 1024, 160, 6)
    report.note("weights of the model", weights)
    runs, fewer = Runs(program, work, base, 16), steps * 4 // 5
    adamw_loss, _, rate = runs.best(report, "adamw", steps, [2e-3, 4e-3, 8e-3])
    muon_loss, run, muon_rate = runs.best(report, "muon", fewer, [4e-3, 8e-3, 16e-3])
    report.at_most(f"Muon's held-out loss after {fewer} steps (limit: AdamW's after {steps})", muon_loss, adamw_loss)
    polar, _ = runs(f"polar-{fewer}", fewer, muon_rate, optimizer="muon", orthogonalization="polar_express")
    report.note(f"the same with Polar Express, {fewer} steps", f"{polar:.4f}")
    own = [row["train/loss"] for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]
    blocks = replay(base, run, muon_on(lambda name: "layers" in name and "proj" in name))
    report.at_most("torch.optim.Muon on the same batches: largest relative loss difference of 50 steps",
                   max(abs(a - b) / b for a, b in zip(own[:50], blocks)), 1e-3)
    report.at_most("and of the mean of the last 20", abs(tail(own) / tail(blocks) - 1), 1e-2)
    table = replay(base, run, muon_on(lambda name: "norm" not in name))
    report.holds("control: Muon on the token table too is worse", tail(table) > tail(blocks),
                 f"{tail(table):.4f} against {tail(blocks):.4f}, mean of the last 20 losses", "above")


def state_bytes(run, steps):
    """(bytes of the moments that the other run keeps in 8 bits, of all), by name."""
    tensors = safetensors.torch.load_file(run / f"checkpoints/step-{steps}/optimizer.safetensors")
    sizes = {name: t.numel() * t.element_size() for name, t in tensors.items()}
    return sum(size for name, size in sizes.items() if "proj" in name), sum(sizes.values())


def check_int8(report, program, work, text, steps):
    base, weights = make_base(work, "small", text, 512, 128, 3)
    report.note("weights of the smaller model", weights)
    runs = Runs(program, work, base, 4)
    whole, whole_run = runs("whole", steps, 4e-3)
    int8, int8_run = runs("int8", steps, 4e-3, optimizer_state="int8")
    report.at_most(f"8-bit moments: held-out loss after {steps} steps, relative to fp32's", abs(int8 / whole - 1), 0.01)
    (matrices, all_whole), (narrowed, all_int8) = state_bytes(whole_run, steps), state_bytes(int8_run, steps)
    report.at_most("bytes of the moments in 8 bits, share of fp32's", narrowed / matrices, 0.3)
    report.note("bytes of all moments (tables stay in fp32), share of fp32's", f"{all_int8 / all_whole:.3f}")
    exact = tail(replay(base, whole_run, lambda model, config: [adamw(list(model.parameters()), config)]))
    blocks, tensors = (tail(replay(base, whole_run, narrow(block))) for block in (256, 0))
    off, far = abs(blocks / exact - 1), tensors / exact - 1
    report.at_most("torch's own 8-bit AdamW, blocks of 256: last losses relative to fp32's", off, 0.01)
    report.holds("control: one scale for each tensor is worse", not far <= 3 * off + 1e-3,
                 f"{far:+.2%} against {blocks / exact - 1:+.2%}", "3 times as far off and 0.1 %, above")


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--texts", nargs="+", required=True, help="plain text files of a megabyte or more together")
    arguments.add_argument("--steps", type=int, default=200, help="of AdamW beside Muon")
    arguments.add_argument("--int8-steps", type=int, default=500)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--only", nargs="+", choices=["muon", "int8"], default=["muon", "int8"])
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    report, program = Report(), Program(arguments.needletail, arguments.threads)
    with Workspace(arguments) as work:
        text = make_rows(arguments.texts, work)
        if "muon" in arguments.only:
            check_muon(report, program, work, text, arguments.steps)
        if "int8" in arguments.only:
            check_int8(report, program, work, text, arguments.int8_steps)
    report.exit()


if __name__ == "__main__":
    main()
