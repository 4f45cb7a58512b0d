"""Golden values for the model families and for LoRA, rsLoRA and DoRA, computed by transformers and peft.

    .deps/oracle/bin/python Tests/ModelsTests/Fixtures/make_goldens.py

writes `model_goldens.json`, `encoder_goldens.json` and `lora_goldens.json` beside itself. No weights are stored: both sides fill tensor
number k (its place in the case's "tensors" list) from the integer formula of `filled`, so the numbers are equal bit for bit.
Everything runs in fp32 on one thread; the norms and the softmax of transformers are fp32 whatever the dtype, so a finer
reference would gain nothing. Tolerance for tests: 1e-5 relative to the largest logit (other summation orders).
"""

import json
import pathlib
import sys

import numpy
import peft
import torch
import transformers

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)

FORMULA = (
    "x = uint32((i + 1000003 * k) * 0x9E3779B1); x ^= x >> 15; x = uint32(x * 0x85EBCA77); x ^= x >> 13; "
    "value = float32((x / 2**32 - 0.5) * scale + offset), computed in float64; "
    "i = row-major element index, k = tensor index"
)


def filled(shape, k, scale, offset=0.0):
    """Tensor number k as the formula above gives it."""
    i = numpy.arange(int(numpy.prod(shape)), dtype=numpy.uint64)
    mask = numpy.uint64(0xFFFFFFFF)
    x = ((i + numpy.uint64(1000003 * k)) * numpy.uint64(0x9E3779B1)) & mask
    x ^= x >> numpy.uint64(15)
    x = (x * numpy.uint64(0x85EBCA77)) & mask
    x ^= x >> numpy.uint64(13)
    values = (x.astype(numpy.float64) / 2.0**32 - 0.5) * scale + offset
    return torch.from_numpy(values.astype(numpy.float32)).reshape(shape)


def rounded(tensor, digits=7):
    """Nested lists with as many digits as fp32 has meaning."""
    if tensor.dim() == 0:
        return float(f"{tensor.item():.{digits}g}")
    return [rounded(row, digits) for row in tensor]


# -- model families ---------------------------------------------------------------------------------------------------

BASE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, attention_dropout=0.0,
)
# Head dimension 8 has wavelengths 6.28, 62.8, 628, 6283: with an original length of 64 the llama3 rule keeps the first
# (below 16), blends the second (16 to 64) and divides the others.
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64, "rope_theta": 10000.0,
}
# Wavelengths as above; the ramp between 32 turns and 1 turn in 64 positions lies over the second and third.
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
NEOX = {"hidden_dropout": 0.0, "layer_norm_eps": 1e-5}
CASES = {
    "llama_gqa": ("llama", {}),
    "llama_tied_mha": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama_multi_query_theta": ("llama", {
        "num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "llama_rope_llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama_rope_linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama_attention_and_mlp_bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral_window_null_wide_heads": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral_window_4": ("mistral", {"sliding_window": 4}),
    "qwen2_biases": ("qwen2", {"tie_word_embeddings": True, "rms_norm_eps": 1e-6}),
    "llama_rope_yarn": ("llama", {"rope_parameters": YARN}),
    "llama_rope_yarn_scaled": ("llama", {"rope_parameters": YARN | {
        "mscale": 1.0, "mscale_all_dim": 0.6, "beta_fast": 16, "beta_slow": 2, "truncate": False}}),
    "llama_rope_dynamic": ("llama", {
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama_rope_dynamic_long": ("llama", {  # the longer text is beyond the length first trained with
        "max_position_embeddings": 10,
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}),
    "qwen3_head_norms": ("qwen3", {"head_dim": 16}),
    "olmo2": ("olmo2", {"pad_token_id": 0}),  # its own, 1, is a token here, whose row would not be trained
    "phi3_window": ("phi3", {"sliding_window": 5, "pad_token_id": 0}),
    "phi3_longrope": ("phi3", {
        "pad_token_id": 0, "original_max_position_embeddings": 32, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "short_factor": [1.1, 1.7],
            "long_factor": [2.0, 6.0], "original_max_position_embeddings": 32}}),
    "phi3_longrope_long": ("phi3", {
        "pad_token_id": 0, "original_max_position_embeddings": 10, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "short_factor": [1.1, 1.7],
            "long_factor": [2.0, 6.0], "original_max_position_embeddings": 10}}),
    "gemma2": ("gemma2", {
        "head_dim": 16, "tie_word_embeddings": True, "query_pre_attn_scalar": 12, "sliding_window": 4,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 10.0}),
    "gemma3": ("gemma3_text", {
        "head_dim": 16, "tie_word_embeddings": True, "query_pre_attn_scalar": 12, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"]}),
    "gemma3_capped_linear": ("gemma3_text", {
        "head_dim": 8, "tie_word_embeddings": True, "sliding_window": 6, "final_logit_softcapping": 10.0,
        "layer_types": ["full_attention", "sliding_attention"], "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    "gpt_neox_parallel": ("gpt_neox", NEOX | {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}}),
    "gpt_neox_serial_tanh": ("gpt_neox", NEOX | {
        "use_parallel_residual": False, "hidden_act": "gelu_new", "attention_bias": False,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}}),
}
# GPT-2's own names for the same sizes.
GPT2 = dict(vocab_size=64, n_embd=32, n_inner=48, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
CASES |= {
    "gpt2_tied": ("gpt2", {"n_inner": None}),
    "gpt2_head_of_its_own": ("gpt2", {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}),
}
SHORT = [1, 17, 42, 5, 63, 8, 30, 17]
LONG = [1, 9, 33, 33, 2, 50, 61, 7, 12, 40, 28, 3, 19, 55]


def model_case(kind, changes):
    """One tiny model: the config.json it would have, its tensors, logits, loss and gradient norms."""
    config = transformers.AutoConfig.for_model(kind, **{**(GPT2 if kind == "gpt2" else BASE), **changes})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    tensors = []
    parameters = dict(model.named_parameters())  # a tied head is listed once, as the embedding
    for k, name in enumerate(sorted(parameters)):
        norm = name.endswith("norm.weight") or ".ln_" in name and name.endswith("weight")
        scale, offset = (0.4, 1.0) if norm else (0.2, 0.0) if name.endswith("bias") else (0.7, 0.0)
        parameters[name].data = filled(tuple(parameters[name].shape), k, scale, offset)
        tensors.append({"name": name, "shape": list(parameters[name].shape), "scale": scale, "offset": offset})
    if kind == "gpt_neox":  # as files name it
        parameters["embed_out.weight"] = parameters.pop("lm_head.weight")
        tensors[-1]["name"] = "embed_out.weight"
    if config.tie_word_embeddings:
        model.tie_weights()
        assert model.lm_head.weight is model.get_input_embeddings().weight
    with torch.no_grad():
        short = model(torch.tensor([SHORT])).logits[0]
        long = model(torch.tensor([LONG])).logits[0, -1]
    loss = torch.nn.functional.cross_entropy(model(torch.tensor([LONG])).logits[0, :-1], torch.tensor(LONG[1:]))
    loss.backward()
    saved = config.to_dict()
    for key in ("_name_or_path", "transformers_version", "architectures", "dtype"):
        saved.pop(key, None)
    return {
        "config": saved, "tensors": tensors, "short_logits": rounded(short), "long_last_logits": rounded(long),
        "long_mean_loss": rounded(loss.detach(), 9),
        "gradient_norms": {t["name"]: rounded(parameters[t["name"]].grad.norm()) for t in tensors},
    }


# -- encoders ---------------------------------------------------------------------------------------------------------

ENCODER = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
               max_position_embeddings=128, type_vocab_size=2, hidden_dropout_prob=0.0,
               attention_probs_dropout_prob=0.0)
STEP = 1e-3  # learning rate
ENCODERS = {"bert": {}, "bert_tanh_epsilon": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}}


def encoder_case(changes):
    """A tiny BERT: config.json, tensors, hidden states of two texts, the pooler's outputs, losses of 30 steps of AdamW."""
    config = transformers.BertConfig(**{**ENCODER, **changes})
    config._attn_implementation = "eager"
    model = transformers.BertModel(config).float().eval()
    parameters, tensors = dict(model.named_parameters()), []
    for k, name in enumerate(sorted(parameters)):
        norm = name.endswith("LayerNorm.weight")
        scale, offset = (0.4, 1.0) if norm else (0.2, 0.0) if name.endswith("bias") else (0.7, 0.0)
        parameters[name].data = filled(tuple(parameters[name].shape), k, scale, offset)
        tensors.append({"name": name, "shape": list(parameters[name].shape), "scale": scale, "offset": offset})
    with torch.no_grad():
        results = [model(torch.tensor([ids])) for ids in (SHORT, LONG)]
    optimizer, losses = torch.optim.AdamW(parameters.values(), lr=STEP, weight_decay=0.0), []
    wanted = [filled((len(ids), ENCODER["hidden_size"]), 100 + i, 2.0) for i, ids in enumerate((SHORT, LONG))]
    for _ in range(30):
        outputs = [model(torch.tensor([ids])) for ids in (SHORT, LONG)]
        loss = sum((o.last_hidden_state[0] - w).square().mean() + o.pooler_output[0].square().mean()
                   for o, w in zip(outputs, wanted))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(rounded(loss.detach(), 9))
    saved = config.to_dict()
    for key in ("_name_or_path", "transformers_version", "architectures", "dtype"):
        saved.pop(key, None)
    return {"config": saved, "tensors": tensors, "losses": losses, "short_states": rounded(results[0].last_hidden_state[0]),
            "long_states": rounded(results[1].last_hidden_state[0]), "pooled": [rounded(r.pooler_output[0]) for r in results]}


# -- adapters ---------------------------------------------------------------------------------------------------------

IN, OUT, RANK, ALPHA = 6, 5, 2, 3.0


def adapter_case(rslora, dora, at_start):
    """One linear layer with an adapter: output, and gradients of sum(output * direction)."""
    layer = torch.nn.Sequential(torch.nn.Linear(IN, OUT))
    layer[0].weight.data, layer[0].bias.data = filled((OUT, IN), 0, 1.0), filled((OUT,), 1, 1.0)
    settings = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["0"], lora_dropout=0.0, use_rslora=rslora, use_dora=dora)
    wrapped = peft.get_peft_model(layer, settings)
    lora = wrapped.base_model.model[0]
    a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
    a.data = filled((RANK, IN), 2, 1.0)
    b.data = torch.zeros(OUT, RANK) if at_start else filled((OUT, RANK), 3, 1.0)
    x = filled((3, IN), 4, 2.0).requires_grad_(True)
    direction = filled((3, OUT), 5, 2.0)
    leaves = {"x": x, "lora_A": a, "lora_B": b}
    result = {"rslora": rslora, "dora": dora, "at_start": at_start, "scaling": lora.scaling["default"]}
    if dora:
        magnitude = lora.lora_magnitude_vector["default"].weight
        if not at_start:
            magnitude.data = magnitude.data + filled((OUT,), 6, 0.5)
        leaves["magnitude"] = magnitude
        result["magnitude"] = rounded(magnitude.detach())
    y = wrapped(x)
    (y * direction).sum().backward()
    result["output"] = rounded(y.detach())
    result["gradients"] = {name: rounded(leaf.grad) for name, leaf in leaves.items()}
    with torch.no_grad():
        merged = lora.get_base_layer().weight + lora.get_delta_weight("default")
        if dora:
            merged *= (magnitude / merged.norm(dim=1))[:, None]
    result["merged_weight"] = rounded(merged)
    return result


def main():
    versions = {"python": sys.version.split()[0], "numpy": numpy.__version__, "torch": torch.__version__,
                "transformers": transformers.__version__, "peft": peft.__version__}
    print(versions)
    cases = {name: model_case(*case) for name, case in CASES.items()}
    write("model_goldens.json", {
        "versions": versions, "formula": FORMULA, "short_ids": SHORT, "long_ids": LONG, "cases": cases})
    write("encoder_goldens.json", {
        "versions": versions, "formula": FORMULA, "short_ids": SHORT, "long_ids": LONG,
        "cases": {name: encoder_case(changes) for name, changes in ENCODERS.items()}})
    kinds = [(False, False, False), (True, False, False), (False, True, False), (True, True, False), (False, True, True)]
    adapters = [adapter_case(*kind) for kind in kinds]
    tensors = {"weight": [0, 1.0], "bias": [1, 1.0], "lora_A": [2, 1.0], "lora_B": [3, 1.0], "x": [4, 2.0],
               "direction": [5, 2.0], "magnitude_increment": [6, 0.5]}
    write("lora_goldens.json", {
        "versions": versions, "formula": FORMULA, "tensors [k, scale]": tensors, "in": IN, "out": OUT, "rank": RANK,
        "alpha": ALPHA, "rows": 3, "loss": "sum(output * direction); DoRA's norm is a constant in backward",
        "cases": adapters})


def write(name, value):
    path = HERE / name
    path.write_text(json.dumps(value, indent=None, separators=(",", ":")) + "\n")
    print(name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
