"""Tiny random models in Hugging Face folders, each with a byte-level BPE tokenizer trained on generated text.

    .deps/oracle/bin/python verify/models.py FOLDER [--only llama_gqa ...]

Nothing is downloaded. Weights are drawn large enough (std 0.15) that attention is not uniform and log-probabilities
spread over several nats: an error in a mask or a rotation shows.
"""

import argparse
import json
import pathlib
import random

import safetensors.torch
import tokenizers
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64, "rope_theta": 10000.0}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
# name: (model type, config changes, shard size in bytes or None, whether the tokenizer begins texts with <s>)
TINY = {
    "llama_gqa": ("llama", {}, None, True),
    "llama_tied": ("llama", {"tie_word_embeddings": True, "num_hidden_layers": 3}, None, False),
    "llama_rope_llama3": ("llama", {"rope_parameters": LLAMA3}, None, True),
    "llama_rope_linear": ("llama", {"rope_parameters": LINEAR}, None, False),
    "llama_older_keys": ("llama", {"rope_parameters": LLAMA3}, None, True),
    "llama_sharded": ("llama", {"num_hidden_layers": 3}, 150_000, True),
    "mistral_full": ("mistral", {"sliding_window": None, "head_dim": 32}, None, True),
    "mistral_window": ("mistral", {"sliding_window": 8}, None, True),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, "rms_norm_eps": 1e-6}, None, False),
    "qwen2_sharded": ("qwen2", {"num_hidden_layers": 3}, 150_000, False),
    "qwen3": ("qwen3", {"head_dim": 16}, None, False),
    "qwen3_layer_types": ("qwen3", {
        "head_dim": 16, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2, "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"]}, None, False),
    "olmo2": ("olmo2", {}, None, False),
    "phi3": ("phi3", {"sliding_window": 8, "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}, None, False),
    "phi3_longrope": ("phi3", {"max_position_embeddings": 512, "original_max_position_embeddings": 32, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0, "short_factor": [1.0 + i / 8 for i in range(8)],
        "long_factor": [2.0 + i for i in range(8)], "original_max_position_embeddings": 32}}, 150_000, False),
    "gemma2": ("gemma2", {
        "head_dim": 32, "tie_word_embeddings": True, "query_pre_attn_scalar": 24, "sliding_window": 8,
        "attn_logit_softcapping": 3.0}, None, True),
    "gemma3": ("gemma3_text", {
        "head_dim": 32, "tie_word_embeddings": True, "query_pre_attn_scalar": 24, "sliding_window": 8,
        "num_hidden_layers": 3, "sliding_window_pattern": 2}, None, True),
    "gpt_neox": ("gpt_neox", {"hidden_dropout": 0.0}, None, False),
    "llama_yarn": ("llama", {"rope_parameters": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}}, None, True),
    "gpt2": ("gpt2", {}, None, False),
    "gpt2_bare": ("gpt2", {"n_layer": 3, "n_inner": None}, None, False),
    "gpt2_untied": ("gpt2", {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}, 150_000, False),
}
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|turn|>", "<|end|>"]
# Nothing follows the end token of a turn, so which tokens belong to the assistant is beyond doubt. The second template
# renders the same text and carries the marks by which transformers reports assistant tokens.
TURN = "{{ message['content'] + '<|end|>' }}"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|turn|>' + message['role'] + '\\n' }}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"
)
GENERATION_TEMPLATE = CHAT_TEMPLATE.replace(
    TURN, "{% if message['role'] == 'assistant' %}{% generation %}" + TURN + "{% endgeneration %}{% else %}" + TURN
    + "{% endif %}")

NOUNS = ("river stone lamp garden window letter engine harbour market winter swallow needle tail feather cloud "
         "bridge").split()
VERBS = "carries breaks finds follows paints mends forgets answers crosses lifts counts watches".split()
ADJECTIVES = "quiet narrow bright heavy seven green distant honest late wooden".split()


def sentence(random_state):
    """A generated sentence with numbers, punctuation and now and then letters outside ASCII."""
    words = ["the", random_state.choice(ADJECTIVES), random_state.choice(NOUNS), random_state.choice(VERBS),
             random_state.choice(["a", "one", "no", "every"]), random_state.choice(NOUNS)]
    if random_state.random() < 0.3:
        words += ["in", str(random_state.randrange(1, 2030))]
    if random_state.random() < 0.2:
        words.append(random_state.choice(["café", "naïve", "Größe", "東京", "🙂", "Ωmega"]))
    return " ".join(words).capitalize() + random_state.choice([".", "!", "?", "; it's so."])


def text(seed, sentences=4):
    random_state = random.Random(seed)
    return " ".join(sentence(random_state) for _ in range(sentences))


def conversation(seed, turns=1, system=False):
    """Messages that end with an assistant's turn."""
    messages = [{"role": "system", "content": text(seed + 17, 1)}] if system else []
    for turn in range(turns):
        messages.append({"role": "user", "content": text(seed * 31 + 2 * turn, 1 + seed % 3)})
        messages.append({"role": "assistant", "content": text(seed * 31 + 2 * turn + 1, 1 + (seed + turn) % 4)})
    return messages


def make_tokenizer(vocabulary_size, begins):
    """Byte-level BPE: GPT-2's pre-tokenizer, 256 bytes, the special tokens, and merges learned from generated text."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator((text(seed, 5) for seed in range(400)), trainer)
    byte_level = tokenizers.processors.ByteLevel(trim_offsets=False)
    begin = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    tokenizer.post_processor = tokenizers.processors.Sequence([byte_level, begin]) if begins else byte_level
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|end|>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=["<|turn|>"], chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
        model_max_length=256)


def write_tiny(folder, name, seed=7):
    """Writes one model of `TINY` to folder/name, once, and returns that path."""
    kind, changes, shard_bytes, begins = TINY[name]
    path = pathlib.Path(folder) / name
    if (path / "config.json").exists():
        return path
    tokenizer = make_tokenizer(420, begins)
    settings = dict(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    if kind == "gpt2":  # its own names; dropout is not applied here, so the peer must not draw any
        settings = dict(
            vocab_size=len(tokenizer), n_embd=64, n_inner=112, n_layer=2, n_head=4, n_positions=256, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    config = transformers.AutoConfig.for_model(kind, **{**settings, **changes})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    for name_, parameter in model.named_parameters():
        if name_.endswith("norm.weight") or ".ln_" in name_ and name_.endswith("weight"):
            parameter.data = 1 + 0.2 * torch.randn_like(parameter)
        else:
            parameter.data = 0.15 * torch.randn_like(parameter)
    model.tie_weights()
    options = {} if shard_bytes is None else {"max_shard_size": shard_bytes}
    model.save_pretrained(path, **options)
    tokenizer.save_pretrained(path)
    if name == "llama_older_keys":
        use_older_keys(path / "config.json")
    if name == "gpt2_bare":
        use_bare_names(path / "model.safetensors", config.n_positions)
    if shard_bytes is not None:
        assert (path / "model.safetensors.index.json").exists(), "the model was not sharded"
    return path


def use_bare_names(path, positions):
    """Names the weights as the published GPT-2 folders do, and adds the masks that lie in them."""
    tensors = {name.removeprefix("transformer."): value for name, value in safetensors.torch.load_file(path).items()}
    mask = torch.ones(positions, positions).tril()[None, None]
    tensors |= {f"{name[:-len('c_attn.bias')]}bias": mask.clone() for name in list(tensors) if name.endswith("c_attn.bias")}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def use_older_keys(path):
    """Spells positions and dtype as transformers 4 did and as most published folders do."""
    config = json.loads(path.read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder")
    arguments.add_argument("--only", nargs="*", choices=list(TINY), default=list(TINY))
    arguments = arguments.parse_args()
    for name in arguments.only:
        path = write_tiny(arguments.folder, name)
        size = sum(file.stat().st_size for file in path.iterdir())
        print(f"{path}: {size} bytes, {', '.join(sorted(file.name for file in path.iterdir()))}")


if __name__ == "__main__":
    main()
