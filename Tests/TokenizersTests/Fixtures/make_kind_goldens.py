"""Makes golden files for every part of `tokenizer.json` and for SentencePiece and tekken files, with the packages
`tokenizers` (0.23.3), `sentencepiece` (0.2.3) and `tiktoken` (0.14.0):

    python Tests/TokenizersTests/Fixtures/make_kind_goldens.py

Writes goldens/kinds.json, a list of {"name", "tokenizer", "cases"} as make_goldens.py describes them, and for each
other format its file beside {"cases": [{"text", "ids", "offsets", "decoded"}]}. All is trained on the text of
make_goldens.py (no published vocabulary).
"""

import base64
import io
import itertools
import json
import pathlib
import random

import sentencepiece
import tiktoken
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models, normalizers as N, pre_tokenizers as P
from tokenizers import processors, trainers

import make_goldens
from make_goldens import CASES, TEXT, cased, decoded, encoded, random_cases

HERE = pathlib.Path(__file__).resolve().parent / "goldens"
SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "<s>", "</s>"]
BYTES = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)]
EXTRA = ["a <left> b <right> c", "HELLO Fox fox_ dogs", "한국 ﬁ ① ｱ ½ Å", "x" * 120, "İstanbul ÀÉ", "a\u200bb\u00adc"]
TRAINERS = {"WordPiece": trainers.WordPieceTrainer, "BPE": trainers.BpeTrainer, "Unigram": trainers.UnigramTrainer,
            "WordLevel": trainers.WordLevelTrainer}


def make(model, normalizer=None, pre=None, decoder=None, post=None, special=SPECIAL, size=160, **options):
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    if decoder:
        tokenizer.decoder = decoder
    kind = type(model).__name__
    if kind == "Unigram":
        options["unk_token"] = "[UNK]"
    tokenizer.train_from_iterator([TEXT], TRAINERS[kind](
        vocab_size=size, special_tokens=special, show_progress=False, **options))
    tokenizer.add_tokens([AddedToken("fox", single_word=True), AddedToken("Hello"),
                          AddedToken("<left>", lstrip=True, normalized=False),
                          AddedToken("<right>", rstrip=True, normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True)])
    if post:
        tokenizer.post_processor = post(tokenizer)
    return tokenizer


def bert(tokenizer):
    return processors.BertProcessing(*((t, tokenizer.token_to_id(t)) for t in ("[SEP]", "[CLS]")))


def roberta(trim, prefix):
    return lambda t: processors.RobertaProcessing(*((s, t.token_to_id(s)) for s in ("</s>", "<s>")), trim, prefix)


def charsmap():
    """The rules of nmt_nfkc, as every SentencePiece model carries them."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(trained("unigram", "nmt_nfkc"))
    return bytes(model.normalizer_spec.precompiled_charsmap)


def piece():
    return models.WordPiece(unk_token="[UNK]")


def bpe(**options):
    return models.BPE(unk_token="[UNK]", **options)


def kinds():
    yield "bert", make(piece(), N.BertNormalizer(), P.BertPreTokenizer(), D.WordPiece(), bert)
    yield "bert_cased", make(piece(), N.BertNormalizer(lowercase=False), P.BertPreTokenizer(), D.WordPiece(cleanup=False))
    yield "word_level", make(models.WordLevel(unk_token="[UNK]"), N.Sequence([N.NFD(), N.StripAccents(), N.Lowercase()]),
                             P.Whitespace())
    for name, part in [
            ("nfc", N.NFC()), ("nfd", N.NFD()), ("nfkc", N.NFKC()), ("nfkd", N.NFKD()), ("strip", N.Strip()),
            ("strip_left", N.Strip(right=False)), ("accents", N.Sequence([N.NFKD(), N.StripAccents()])), ("nmt", N.Nmt()),
            ("lowercase", N.Lowercase()), ("replace", N.Replace(Regex("[aeiou]+"), "@")), ("replace_text", N.Replace("the", "")),
            ("prepend", N.Prepend("▁")), ("bytes", N.ByteLevel())]:
        yield "normalizer_" + name, make(bpe(), part, P.WhitespaceSplit(), D.BPEDecoder())
    splits = [(f"split_{b}_{i}", P.Split(Regex(r"\s+|[.,!?]+|\p{Nd}"), b, i)) for i in (False, True)
              for b in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")]
    for name, part in splits + [
            ("bert", P.BertPreTokenizer()), ("delimiter", P.CharDelimiterSplit("e")), ("digits", P.Digits(True)),
            ("metaspace", P.Metaspace()), ("metaspace_first", P.Metaspace(prepend_scheme="first")),
            ("metaspace_whole", P.Metaspace(prepend_scheme="never", split=False)), ("punctuation", P.Punctuation("contiguous")),
            ("whitespace", P.Whitespace()), ("scripts", P.UnicodeScripts()), ("fixed", P.FixedLength(3)),
            ("every_character", P.Split("", "isolated"))]:
        yield "pre_" + name, make(bpe(), None, part, D.Metaspace() if "meta" in name else None)
    yield "byte_splits", make(models.BPE(), None, P.Sequence([
        P.Punctuation("contiguous"), P.Split(Regex(r"\d{1,3}(?=(?:\d{3})*\b)"), "isolated"),
        P.ByteLevel(add_prefix_space=False)]), D.ByteLevel(), roberta(True, False), size=400,
        initial_alphabet=P.ByteLevel.alphabet())
    yield "byte_first", make(models.BPE(), None, P.Sequence([P.ByteLevel(), P.Digits(False)]), D.ByteLevel(),
                             roberta(False, True), size=400, initial_alphabet=P.ByteLevel.alphabet())
    affixes = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
    yield "affixes", make(bpe(**affixes), None, P.Whitespace(), D.BPEDecoder("</w>"), **affixes)
    yield "suffix_fused", make(bpe(end_of_word_suffix="</w>", fuse_unk=True), N.Lowercase(), P.BertPreTokenizer(),
                               D.BPEDecoder("</w>"), end_of_word_suffix="</w>")
    marks = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    llama = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    yield "byte_fallback", make(bpe(byte_fallback=True, fuse_unk=True), marks, None, llama, special=BYTES, size=460)
    yield "some_bytes", make(bpe(byte_fallback=True), marks, None, llama, special=BYTES[:200], size=400)
    yield "ignore_merges", make(bpe(ignore_merges=True, byte_fallback=True), None, P.Metaspace(prepend_scheme="first"),
                                D.Sequence([D.ByteFallback(), D.Metaspace(prepend_scheme="first")]), special=BYTES, size=460)
    yield "unigram", make(models.Unigram(), N.Sequence([N.Precompiled(charsmap()), N.Strip(), N.Replace(Regex(" {2,}"), " ")]),
                          P.Metaspace(), D.Metaspace(), size=200)
    yield "template", make(piece(), N.BertNormalizer(), P.BertPreTokenizer(), D.Sequence(
        [D.WordPiece(), D.Fuse(), D.Replace(" ", "_")]), lambda t: processors.Sequence([
            processors.TemplateProcessing("[CLS] $A [SEP] [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)]),
            processors.ByteLevel(trim_offsets=True)]))
    letters = {t: i for i, t in enumerate(["[UNK]", "<pad>", "|", "h", "e", "l", "o", "t"])}
    ctc = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    ctc.pre_tokenizer, ctc.decoder = P.Split("", "isolated"), D.CTC()
    yield "ctc", ctc
    limited = make(piece(), N.BertNormalizer(), P.BertPreTokenizer(), D.WordPiece(), bert)
    limited.enable_truncation(12, direction="left")
    limited.enable_padding(length=16, pad_id=3, pad_token="<s>", direction="left")
    yield "limits", limited


def small_limits():
    """Every small length: what it leaves of a text when the tokens around it alone are as long or longer."""
    tokenizer, cases = make(piece(), N.BertNormalizer(), P.BertPreTokenizer(), D.WordPiece(), bert), []
    file = json.loads(tokenizer.to_str())
    for strategy, length, direction in itertools.product(["longest_first", "only_first", "only_second"], range(7), ["right", "left"]):
        tokenizer.enable_truncation(length, strategy=strategy, direction=direction)
        for text in ["", "the", "the quick brown fox"]:
            case = {"truncation": json.loads(tokenizer.to_str())["truncation"], "text": text}
            for key, special in [("ids", True), ("plain", False)]:
                try:
                    case[key] = tokenizer.encode(text, add_special_tokens=special).ids
                except Exception as error:  # a single text cannot be cut by only_second
                    assert "Second sequence not provided" in str(error), error
            cases.append(case)
    return {"tokenizers": tokenizers.__version__, "tokenizer": file, "cases": cases}


def trained(kind, rules, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")), model_writer=model, vocab_size=options.pop("vocab_size", 420),
        model_type=kind, normalization_rule_name=rules, minloglevel=2, hard_vocab_limit=False, **options)
    return model.getvalue()


def characters(text):
    """Character index of each byte offset."""
    index = [0]
    for c in text:
        index += [index[-1]] * (len(c.encode()) - 1) + [index[-1] + 1]
    return index


def sentence_cases(model, texts):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in texts:
        at, proto = characters(text), processor.encode(text, return_type="proto")
        ids = [p.id for p in proto.pieces]
        yield {"text": text, "ids": ids, "offsets": [at[i] for p in proto.pieces for i in (p.begin, p.end)],
               "decoded": processor.decode(ids)}


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace('{"text"', '\n{"text"')
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def tekken(texts):
    """A tekken.json of the 256 bytes and a few merges by rank, and what tiktoken makes of it."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [b"th", b"he", b"the", b" t", b" the", b"in", b"ing", b"aa", b"aaa", b"aaaa", b"  ", b"   ", b"\xd0\xbf", "е́".encode(),
               b"12", b"23", b"123", b"\n\n", b"or", b"er", b"ver", b" o", b" ov", b" over"]
    pattern = cased(r"\p{N}", "")
    vocab = [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for i, t in enumerate(tokens)]
    file = {"config": {"pattern": pattern, "num_vocab_tokens": len(tokens) + 2, "default_vocab_size": len(tokens) + 30,
                       "default_num_special_tokens": 30, "version": "v3"},
            "vocab": vocab + [{"rank": len(tokens) + i, "token_bytes": "eHl6", "token_str": "xyz"} for i in range(2)]}
    encoding = tiktoken.Encoding("tekken", pat_str=pattern, mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens={})
    cases = []
    for text in texts:
        ids = encoding.encode_ordinary(text)
        cases.append({"text": text, "ids": [i + 30 for i in ids], "decoded": encoding.decode(ids)})
    return file, cases


def main():
    golden = []
    for name, tokenizer in kinds():
        texts = (CASES + EXTRA)[::2] + random_cases(4) if name.startswith(("normalizer", "pre")) else CASES + EXTRA
        cases = [encoded(tokenizer, text) for text in texts]
        golden.append({"name": name, "tokenizer": json.loads(tokenizer.to_str()), "cases": cases})
    write("kinds.json", {"tokenizers": tokenizers.__version__, "kinds": golden})
    texts = [t for t in CASES + EXTRA + random_cases(12) if not any(s in t for s in ("<s>", "</s>"))] + ["a" * 33]
    for name, model in [
            ("unigram", trained("unigram", "nmt_nfkc", user_defined_symbols=["the", "ing", "<|im_start|>"])),
            ("unigram_bytes", trained("unigram", "identity", byte_fallback=True, vocab_size=560)),
            ("bpe", trained("bpe", "identity", byte_fallback=True, remove_extra_whitespaces=False, vocab_size=620)),
            ("bpe_plain", trained("bpe", "identity", add_dummy_prefix=False, user_defined_symbols=["the", "ing"]))]:
        (HERE / f"{name}.model").write_bytes(model)
        write(f"sentencepiece_{name}.json", {"sentencepiece": sentencepiece.__version__, "cases": list(sentence_cases(model, texts))})
    # Sums of scores grow past 100,000, where the package begins at 0 again: its rounding decides ties.
    long = random.Random(1).choices(TEXT.split() + ["the", "ing", "thethe", "ü", "漢", "xq"], k=12000)
    model = (HERE / "unigram.model").read_bytes()
    processor, text = sentencepiece.SentencePieceProcessor(model_proto=model), "".join(long)
    write("sentencepiece_long.json", {"sentencepiece": sentencepiece.__version__, "text": text, "ids": processor.encode(text)})
    write("small_limits.json", small_limits())
    file, cases = tekken(texts)
    write("tekken_file.json", file)
    write("tekken_cases.json", {"tiktoken": tiktoken.__version__, "cases": cases})


if __name__ == "__main__":
    main()
