"""Makes the golden files of the tokenizer tests with the `tokenizers` package (0.23.3).

    python Tests/TokenizersTests/Fixtures/make_goldens.py

One small tokenizer of each kind is trained on the text below (no published vocabulary), and what the package makes of
the cases is written beside it: goldens/KIND.json = {"tokenizers", "tokenizer", "cases": [{"text", "ids", "offsets",
"plain", "decoded", "visible"}]}; "plain" are the ids without special tokens (absent when the same), "visible" the
decoded text without them (absent when the same).
"""

import json
import pathlib
import random

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = """The quick brown fox jumps over the lazy dog, and the dog doesn't mind: it's asleep. We'll see; they've been there.
In 1984 and 2024 the price rose from 12 to 3456 dollars. She said: "I'd rather not!" They're late... again!!!
HELLO WORLD, Hello World, helloWorld, HTTPServer, iPhone. naïve café über Straße, Việt Nam tiếng Việt.
Привет, мир! Как дела? Всё хорошо. Ελληνικά κείμενα. 你好，世界。日本語のテキスト。한국어 텍스트 नमस्ते दुनिया.
def f(x):\n    return x + 1\n\n\nfor i in range(10):\n\tprint(i)\r\n
""" * 3

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SIGN, BLANKS = r"[^\r\n\p{L}\p{N}]?", r"|\s*[\r\n]+|\s+(?!\S)|\s+"


def llama(numbers):
    return CONTRACTIONS + "|" + SIGN + r"\p{L}+|" + numbers + r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + BLANKS


def marked(numbers):
    return (CONTRACTIONS + "|" + SIGN + r"[\p{L}\p{M}]+|" + numbers + r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + BLANKS)


def cased(numbers, end):
    return (SIGN + UPPER + "*" + LOWER + "+" + end + "|" + SIGN + UPPER + "+" + LOWER + "*" + end + "|" + numbers
            + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + BLANKS)


def byte_level(**options):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(use_regex=False)])


def train(pre, normalizer=None, post=None, special=("<s>", "</s>"), size=300, alphabet=True, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else []))
    if post:
        tokenizer.post_processor = post(tokenizer)
    return tokenizer


def template(single):
    return lambda t: processors.TemplateProcessing(
        single=single, special_tokens=[(s, t.token_to_id(s)) for s in ("<s>", "</s>")])


def with_added(tokenizer):
    tokenizer.add_tokens([
        AddedToken("fox", single_word=True), AddedToken("dog"), AddedToken("dogma"), AddedToken("caf\u00e9"),
        AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("e\u0301t\u00e9", normalized=True), AddedToken("two words", normalized=False),
        AddedToken("  ", normalized=False), AddedToken("Ġ", normalized=False)])
    tokenizer.add_special_tokens([
        AddedToken("<|im_start|>", special=True, normalized=False), AddedToken("<mask>", lstrip=True, rstrip=True)])
    return tokenizer


def kinds():
    yield "gpt2", train(byte_level(), post=lambda t: processors.ByteLevel(trim_offsets=False))
    yield "gpt2_prefix", train(byte_level(add_prefix_space=True),
                               post=lambda t: processors.ByteLevel(add_prefix_space=True, trim_offsets=True))
    yield "smollm", train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]))
    yield "digits_prefix", train(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), byte_level(add_prefix_space=True)]),
        post=lambda t: processors.ByteLevel(add_prefix_space=True, trim_offsets=True))
    yield "llama3", train(split(llama(r"\p{N}{1,3}")), ignore_merges=True, post=lambda t: processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), template("<s> $A")(t)]))
    yield "qwen2", with_added(train(split(llama(r"\p{N}")), normalizers.NFC(),
                                    post=lambda t: processors.ByteLevel(add_prefix_space=False, trim_offsets=False)))
    yield "qwen35", train(split(marked(r"\p{N}")), normalizers.NFC())
    yield "tekken", train(split(cased(r"\p{N}", "")), post=template("<s> $A"))
    yield "o200k", train(split(cased(r"\p{N}{1,3}", CONTRACTIONS + "?")), normalizers.Sequence([normalizers.NFC()]))
    yield "added", with_added(train(byte_level(), post=lambda t: processors.Sequence(
        [template("<s> $A </s>")(t), processors.ByteLevel(trim_offsets=True)])))
    yield "partial_unk", train(byte_level(), special=("<unk>", "<s>", "</s>"), unk_token="<unk>", alphabet=False, size=90)
    yield "partial_fused", train(byte_level(), special=("<unk>", "<s>", "</s>"), unk_token="<unk>", fuse_unk=True,
                                 alphabet=False, size=90)
    yield "partial_dropped", train(byte_level(), alphabet=False, size=90)
    plain = train(byte_level())
    plain.decoder = None
    yield "no_decoder", plain


CASES = [
    "", " ", "  ", "a", " a", "The quick brown fox", " leading and trailing ", "it's IT'S they'LL We'Re I'd 'tis 'x '",
    "'\u017f long s, '\u017fo", "12345 1 12 123 1234 \u0661\u0662\u0663 \u00bd\u00b2 \u216b x1y22z333", "a  b   c    d",
    "line\nbreaks\n\n\nand\r\nmore \n \n  x", "tabs\t\ttabs \t x", "\u00a0nbsp\u2003em\u3000wide ", "!!! ... ?! (a) [b] {c}/\n/x",
    "na\u00efve caf\u00e9 cafe\u0301 e\u0301t\u00e9 \u1e69 s\u0323\u0307 s\u0307\u0323", "\uac00\u1100\u1161\u11a8\uac01\u11a8",
    "\u0958 \u2126 \u212b \u2000x\u2001", "\u0344 \u0301x \u0300\u0345\u0334 a\u0345\u0334\u0301", "Straße ﬁn Ǆ ǅ ǆ ʰX ªb",
    "Привет, мир!", "你好，世界。日本語", "한국어 텍스트", "नमस्ते दुनिया", "👩‍👩‍👧 👍🏽 🇩🇪 😀😀", "a\u0000b\u0001\u007f\u0085",
    "helloWorld HTTPServer iPhone ABCdefGHI don'T", "<s>x</s> <s> </s>", "fox foxes xfox _fox fox. 狐fox fox", "dog dogma dogmatic",
    "a <left> b  <right>  c<mask>  d <mask>", " <left><right> <mask>", "été e\u0301te\u0301 caf\u00e9 cafe\u0301s", "two words two  words",
    "Ġx Ġ Ġ", "<|im_start|>user\nhi<|im_end|>", "<|im_start|", "\ufeffBOM", "ab" * 30 + " " * 50,
    "\u0301\u0301a \u0301 !\u0301a \u0301\u0301! \u0903x1\u0301 नि\u094d \n\u0301\r\n",
]


def random_cases(count):
    rng = random.Random(7)
    pieces = ["'s", "'LL", " ", "  ", "\n", "\r\n", "1", "234", "the", " The", "WORLD", "é", "e\u0301", "\u0323", "中", "한", "\u1161", "!",
              "...", "/", "<s>", "fox", " dog", "<left>", "<mask>", "\u00a0", "😀", "\u200d", "ǅ", "ª", "\u0903", "½", "'\u017f"]
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(2, 9))) for _ in range(count)]


def decoded(tokenizer, ids):
    text, visible = (tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True))
    return {"decoded": text} | ({} if visible == text else {"visible": visible})


def encoded(tokenizer, text):
    encoding, plain = tokenizer.encode(text), tokenizer.encode(text, add_special_tokens=False).ids
    row = {"text": text, "ids": encoding.ids, "offsets": [i for pair in encoding.offsets for i in pair]}
    return row | ({} if plain == encoding.ids else {"plain": plain}) | decoded(tokenizer, encoding.ids)


def main():
    folder = pathlib.Path(__file__).resolve().parent / "goldens"
    folder.mkdir(exist_ok=True)
    for name, tokenizer in kinds():
        cases = [encoded(tokenizer, text) for text in CASES + random_cases(12)]
        rng, count = random.Random(3), tokenizer.get_vocab_size()
        for _ in range(6):  # ids in any order make broken UTF-8
            ids = [rng.randrange(count + 3) for _ in range(12)]
            cases.append({"ids": ids} | decoded(tokenizer, ids))
        golden = {"tokenizers": tokenizers.__version__, "tokenizer": json.loads(tokenizer.to_str()), "cases": cases}
        text = json.dumps(golden, ensure_ascii=False, separators=(",", ":")).replace('{"text"', '\n{"text"')
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
