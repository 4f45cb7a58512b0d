"""Golden gradients of tiny models: torch's autograd through transformers, numpy's SVD in float64.

    .deps/oracle/bin/python Tests/GradientAnalysisTests/Fixtures/make_goldens.py

writes `gradient_goldens.json` beside itself. No weights are stored: both sides fill tensor number k (its place among the
sorted parameter names) from the integer formula of `Tests/ModelsTests/Fixtures/make_goldens.py`. The models compute in
fp32, so tests compare to 1e-4 relative.
"""

import json
import pathlib
import sys

import numpy
import torch
import transformers

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "ModelsTests/Fixtures"))
from make_goldens import filled  # noqa: E402

torch.set_num_threads(1)
BASE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=0, eos_token_id=1)
FAMILIES = {
    "llama": transformers.LlamaConfig(**BASE),
    "mistral": transformers.MistralConfig(**BASE, sliding_window=4, head_dim=16),
    "qwen2": transformers.Qwen2Config(**{**BASE, "tie_word_embeddings": True}),
}
PROJECTIONS = ["q", "k", "v", "o", "gate", "up", "down"]


def tiny(config):
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
        norm, bias = name.endswith("norm.weight"), name.endswith("bias")
        with torch.no_grad():
            parameter.copy_(filled(parameter.shape, k, 0.4 if norm else 0.2 if bias else 0.7, 1.0 if norm else 0.0))
    return model


def statistics(gradient):
    """The definitions of the specification, 3.2, in float64."""
    g = gradient.double().numpy()
    sigma = numpy.linalg.svd(g, compute_uv=False)
    p = sigma[sigma > 0] / sigma.sum()
    return {
        "nuclear": sigma.sum(), "ratio": sigma[0] / sigma.sum(), "frobenius": numpy.sqrt((g**2).sum()),
        "mean": g.mean(), "min": g.min(), "max": g.max(), "sigma_max": sigma[0], "sigma_min": sigma[-1],
        "effective_rank": numpy.exp(-(p * numpy.log(p)).sum()), "singular_values": list(sigma)}


def cosine(a, b):
    a, b = a.double().flatten(), b.double().flatten()
    return (a @ b / (a.norm() * b.norm())).item()


def case(family, tokens, response):
    model = tiny(FAMILIES[family])
    ids = [(17 * i * i + 5 * i + 3) % 64 for i in range(tokens)]
    labels = torch.tensor([[-100] * (tokens - response) + ids[tokens - response:]])
    loss = model(input_ids=torch.tensor([ids]), labels=labels).loss
    loss.backward()
    named = dict(model.named_parameters())
    layers = range(FAMILIES[family].num_hidden_layers)
    place = {p: "self_attn" if p in "qkvo" else "mlp" for p in PROJECTIONS}
    gradients = {p: [named[f"model.layers.{i}.{place[p]}.{p}_proj.weight"].grad for i in layers] for p in PROJECTIONS}
    result = {"family": family, "ids": ids, "response": response, "loss": loss.item(), "projections": {
        p: [statistics(g) for g in gradients[p]] for p in PROJECTIONS}}
    if gradients["q"][0].shape == gradients["o"][0].shape:
        result["cosine_q_o"] = [cosine(a, b) for a, b in zip(gradients["q"], gradients["o"])]
    result["cosine_k_v"] = [cosine(a, b) for a, b in zip(gradients["k"], gradients["v"])]
    result["cosine_layers_q"] = [[cosine(a, b) for b in gradients["q"]] for a in gradients["q"]]
    return result


def rounded(value):
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def main():
    # Six tokens go through the QR core everywhere (2 * 6 < 16), forty directly everywhere.
    cases = [case(family, *size) for family in FAMILIES for size in [(6, 3), (40, 11)]]
    text = json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "cases": rounded(cases)})
    (HERE / "gradient_goldens.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
