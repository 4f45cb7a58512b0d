"""llama.cpp's part of verify/tokenization.py: its own vocabulary files, every name of `tokenizer.ggml.pre`, and the kinds of
vocabulary that no other package has, each by llama-cpp-python with the vocabulary alone loaded.

Texts are made of characters that Unicode 14 assigns, since llama.cpp's tables are older than the `tokenizers` package's,
which the program's are made of.
"""

import ast
import ctypes
import re
import unicodedata

import gguf
import llama_cpp
import regex
import tokenizer_references
from common import read_rows, write_rows

# All that llama.cpp 0.3.36 (llama-vocab.cpp) gives a meaning for BPE vocabularies.
BYTE_LEVEL = """default minicpm5 llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano deepseek-llm
    deepseek-coder deepseek-v3 spark2_5 youtu falcon mpt starcoder gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de
    a.x-4.0 mellum modern-bert jais-2 jina-v1-en jina-v2-code roberta-bpe refact command-r qwen2 deepseek-r1-qwen kormo f2llmv2
    qwen35 stablelm2 olmo dbrx smaug-bpe poro-chat chatglm-bpe glm4 glm5 viking jais tekken smollm codeshell bloom gpt3-finnish
    exaone exaone4 exaone-moe chameleon minerva-7b megrez gpt-4o llama4 kanana2 talkie granite-embed-multi-97m tiny_aya
    cohere2moe superbpe trillion granite-docling bailingmoe bailingmoe2 llada-moe seed-coder hunyuan hunyuan-dense hy_v4
    joyai-llm kimi-k2 ufakzeka grok-2 afmoe laguna minimax-m2 solar-open mellum2""".split()
MARKED = ["gemma4", "granite-embed-multi-311m", "sarvam-moe"]
REFUSED = ["whitespace"]
# Their models bring texts into form C, which the program does and llama.cpp does not.
FORM_C = ["qwen2", "deepseek-r1-qwen"]
# One character or more of each kind that some pattern tells from others.
SIGNS = ("\t\n\r\x0b\x1c\x85\xa0\u1680\u2003\u2028\u3000éÀßſǅʰªאعक\u093f\u094d\u0301ก\u0e34가ㄱㅎ한中㐀々〇の゠カｶ\u20dd٣४½Ⅷ²€+×\u200d\u00ad"
         "\U0001f600\ue000\ufeff、。，！：“”‘’…—‟ㄅ〿︰﹏豈\U00020000⼀ເក\U00010400Ա۔।µ")
MARKS = ["<|endoftext|>", "<mask>", " <mask>", "  <mask> ", "<sentinel:12>", "IMGIMGABCZ", "IMGIMGABCDEZ"]


class Llama:
    """A file's vocabulary in llama.cpp."""

    def __init__(self, path):
        self.model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    def encode(self, text):
        return self.model.tokenize(text.encode(), add_bos=False, special=True)

    def decode(self, ids):
        """Token by token: the package's own `detokenize` loses tokens of more than 32 bytes."""
        buffer = ctypes.create_string_buffer(1024)
        counts = ((llama_cpp.llama_token_to_piece(self.model._model.vocab, i, buffer, len(buffer), 0, True)) for i in ids)
        return b"".join(buffer.raw[:count] for count in counts).decode(errors="replace")


def compare(report, program, title, path, texts, folder, offsets=None):
    """Ids without begin and end tokens (whether those are added other oracles see), decoded texts, and offsets if told how
    many bytes each token stands for."""
    source, target, model = folder / "llama.jsonl", folder / "llama-ids.jsonl", Llama(path)
    write_rows(source, [{"text": text} for text in texts])
    program.must("tokenizer", "encode", path, "--input", source, "--output", target, "--no-special-tokens")
    rows, wanted = read_rows(target), [model.encode(text) for text in texts]
    other = [i for i, row in enumerate(rows) if row["ids"] != wanted[i]]
    report.equals(f"{title}, of {len(texts)} texts with other ids than llama.cpp's", len(other), 0)
    for i in other[:1]:
        print(f"  {texts[i][:80]!r}: {rows[i]['ids'][:60]} but {wanted[i][:60]}")
    if offsets is None:
        return
    other = sum([tuple(place) for place in row["offsets"]] != tokenizer_references.places(map(offsets, ids))
                for row, ids, text in zip(rows, wanted, texts) if not text.startswith("\ufeff"))
    report.equals(f"{title}, texts with other offsets than the tokens' bytes", other, 0)
    write_rows(source, [{"ids": ids} for ids in wanted])
    program.must("tokenizer", "decode", path, "--input", source, "--output", target, "--json")
    pairs = [(row["text"], model.decode(ids)) for row, ids in zip(read_rows(target), wanted, strict=True)]
    other = [pair for pair in pairs if pair[0] != pair[1]]
    report.equals(f"{title}, decoded otherwise than by llama.cpp", len(other), 0)
    for mine, theirs in other[:1]:
        print(f"  {mine[:80]!r} but {theirs[:80]!r}")


def write(path, model, tokens, types, pre=None, merges=None, scores=None, **keys):
    """A GGUF file with a vocabulary and nothing else."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if merges is not None:
        writer.add_token_merges(merges)
    if scores is not None:
        writer.add_token_scores(scores)
    for key, value in keys.items():
        getattr(writer, "add_" + key)(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def assigned():
    return [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


def spelled(text):
    """Bytes in GPT-2's alphabet."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in text.encode())


def pairs(tokens, merges, characters):
    """A byte-level vocabulary (tokens, types, merges) with more merges, which join any two of the characters: nearly every place
    where words are cut shows in the ids."""
    tokens, merges, known = list(tokens), list(merges), set(tokens)

    def add(left, right):
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
        merges.append(f"{left} {right}")

    characters, joined = [spelled(character) for character in dict.fromkeys(characters)], set(merges)
    for character in characters:
        for end in range(2, len(character) + 1):
            if f"{character[:end - 1]} {character[end - 1]}" not in joined:
                add(character[:end - 1], character[end - 1])
                joined.add(merges[-1])
    for left in characters:
        for right in characters:
            if f"{left} {right}" not in joined:
                add(left, right)
    return tokens + ["<mask>"], [3 if t == "<|endoftext|>" else 1 for t in tokens] + [3], merges


def boundary_texts(count, rng, pieces):
    """Short texts of the characters that `pairs` joins."""
    plain = "aabcXYZsdtmleEvr0123456789 '''  .,!/$_-\n\r" + SIGNS
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 8)):
            kind = rng.random()
            if kind < 0.15:
                parts.append(rng.choice(MARKS + pieces))
            elif kind < 0.5:
                parts.append("".join(rng.choice(plain) for _ in range(rng.randint(1, 8))))
            elif kind < 0.7:
                parts.append(rng.choice(plain) * rng.randint(1, 9))
            else:
                parts.append(rng.choice([" ", "", "\n"]) + "".join(rng.choice(SIGNS) for _ in range(rng.randint(1, 6))))
        yield "".join(parts)


def vocabulary_files(report, program, folder, vocabularies, texts):
    """The files without published vectors, on the texts of the others too."""
    published = [text for inputs in sorted(vocabularies.glob("*.gguf.inp"))
                 for text in inputs.read_bytes().decode().split("\n__ggml_vocab_test__\n")]
    files = sorted(vocabularies.glob("*.gguf"))
    report.equals("llama.cpp's vocabulary files", len(files), 19)
    for path in files:
        if not path.with_suffix(".gguf.inp").exists():
            rows = published + texts
            if path.stem.endswith("nomic-bert-moe"):  # a t5 vocabulary: normalized as the model's own tokenizer.json says
                rows = [text for text in rows if not is_normalized_otherwise(text)]
            compare(report, program, path.stem, path, rows, folder)


def is_normalized_otherwise(text):
    """Control characters, and clusters of several characters (marks, joiners, letters of a Hangul syllable), which
    SentencePiece's normalizer (llama.cpp's) takes one by one and that of `tokenizers` as a whole."""
    clusters = regex.findall(r"\X", text)
    return any(len(cluster) > 1 and cluster != "\r\n" for cluster in clusters) or any(
        unicodedata.category(character) == "Cc" and character not in "\t\n\r" for character in text)


def names(report, program, folder, gpt2, gemma4, texts):
    """Each name with GPT-2's vocabulary and merges for what it never joins; the marked ones with Gemma 4's."""
    path = folder / "name.gguf"
    tokens, types, merges = pairs(*gpt2, [chr(c) for c in range(0x20, 0x7F)] + list(SIGNS))
    for name in BYTE_LEVEL:
        write(path, "gpt2", tokens, types, name, merges)
        # (?i:'s) of the models' own files matches a long s too, which the program follows.
        rows = [text for text in texts if "'\u017f" not in text]
        if name.startswith("jina-v2-"):  # the models' own files take all white space before <mask>, llama.cpp only ASCII's
            rows = [text for text in rows if not re.search(r"[^\S\t-\r ][\t-\r ]*<mask>", text)]
        if name in FORM_C:
            rows = [unicodedata.normalize("NFC", text) for text in rows]
        compare(report, program, f"pre {name}", path, rows, folder)
    fields = gguf.GGUFReader(str(gemma4)).fields
    tokens, types, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ["tokens", "token_type", "merges"])
    for name in MARKED:
        write(path, "gpt2", tokens, types, name, merges)
        compare(report, program, f"pre {name}", path, texts, folder)
    for name in REFUSED + ["unheard-of"]:
        write(path, "gpt2", ["a"], [1], name, [])
        write_rows(folder / "one.jsonl", [{"text": "a"}])
        result = program.run("tokenizer", "encode", path, "--input", folder / "one.jsonl", "--output", folder / "none")
        report.holds(f"pre {name}, refused in one line", result.returncode == 65 and name in result.stderr
                     and len(result.stderr.strip().split("\n")) == 1, result.stderr)


def rwkv(report, program, folder, file, texts):
    """RWKV's own vocabulary, written as llama.cpp's converter writes it."""
    tokens, sizes = ["<s>"], [3]
    for line in file.read_text(encoding="utf-8").splitlines():
        token = ast.literal_eval(line[line.index(" "):line.rindex(" ")])
        token = token.encode() if isinstance(token, str) else token
        tokens.append(repr(token)[2:-1])
        sizes.append(token)
    count = len(tokens)
    tokens += [f"[PAD{i}]" for i in range(count, 65536)]
    path = folder / "rwkv.gguf"
    write(path, "rwkv", tokens, [3] + [1] * (count - 1) + [5] * (65536 - count))
    compare(report, program, "rwkv", path, [text for text in texts if "[PAD" not in text], folder,
            lambda i: sizes[i] if i else b"<s>")


def plamo2(report, program, folder, file, texts):
    """A vocabulary of PLaMo 2's kind out of a SentencePiece model's pieces and scores: the model itself no package has."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    tokens, types = ["<|plamo:unk|>", "<|plamo:bos|>", "<|plamo:eos|>", "<|plamo:pad|>"], [2, 3, 3, 3]
    scores = [0.0] * 4
    for byte in range(256):
        tokens.append(f"<0x{byte:02X}>")
        types.append(6)
        scores.append(0.0)
    known = set(tokens)
    for i in range(processor.get_piece_size()):
        piece = processor.id_to_piece(i).replace("\u2581", " ")
        if piece and piece not in known and not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i)):
            known.add(piece)
            tokens.append(piece)
            types.append(1)
            # Whole numbers make many sums equal: then the longest piece from the left counts.
            scores.append(processor.get_score(i) if i % 3 else float(round(processor.get_score(i))))
    path = folder / "plamo2.gguf"
    write(path, "plamo2", tokens, types, scores=scores, bos_token_id=1, eos_token_id=2, unk_token_id=0, pad_token_id=3)
    compare(report, program, "plamo2", path, texts, folder,
            lambda i: bytes([i - 4]) if 4 <= i < 260 else tokens[i].encode())


def compare_all(report, program, folder, others, gpt2, fuzzed, pieces, prose, rng):
    """- Parameter fuzzed: generated strings of given code points."""
    points = assigned()
    texts = prose[:40] + list(fuzzed(3000, rng, points, points))
    vocabulary_files(report, program, folder, others / "ggml", texts)
    rwkv(report, program, folder, others / "rwkv" / "rwkv_vocab_v20230424.txt", texts)
    plamo2(report, program, folder, others / "jurassic" / "tokenizer.model", texts)
    names(report, program, folder, gpt2, others / "ggml" / "ggml-vocab-gemma-4.gguf",
          [text[:1500] for text in prose[:20]] + list(boundary_texts(3000, rng, pieces)) + texts[-1000:])
