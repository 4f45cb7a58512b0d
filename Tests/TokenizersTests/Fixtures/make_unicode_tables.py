"""Writes Sources/Tokenizers/UnicodeTables.swift: character classes and normal forms as the `tokenizers` package has them.

All is asked from the package itself (its regex engine for \\p{..}, its Digits pre-tokenizer for numerics, its NFD and NFC
normalizers), so the tables follow that release and not the Unicode version of the Swift toolchain. Run with tokenizers 0.23.3:

    python Tests/TokenizersTests/Fixtures/make_unicode_tables.py
"""

import pathlib
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matching(pattern):
    """Code points that a one-character pattern of the package's regex engine matches."""
    splitter = pre_tokenizers.Split(Regex(pattern), "removed")
    kept = set()
    for start in range(0, len(CODE_POINTS), 4096):
        for piece, _ in splitter.pre_tokenize_str("".join(map(chr, CODE_POINTS[start:start + 4096]))):
            kept.update(map(ord, piece))
    return set(CODE_POINTS) - kept


def numeric():
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {c for c in CODE_POINTS if len(digits.pre_tokenize_str("x" + chr(c))) == 2}


NFD, NFC = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic, not by table


def combining_classes():
    """Class by code point. The values never change between Unicode versions; which marks are known does."""
    known = {}
    for c in CODE_POINTS:
        value = unicodedata.combining(chr(c))
        if value > 1 and NFD(chr(c) + "\u0334") == "\u0334" + chr(c):
            known[c] = value
        elif value == 1 and NFD("\u0345" + chr(c)) == chr(c) + "\u0345":
            known[c] = value
    return known


COMBINING = combining_classes()
DECOMPOSED = {c: NFD(chr(c)) for c in CODE_POINTS if c not in HANGUL and NFD(chr(c)) != chr(c)}
COMPOSED = {c for c in DECOMPOSED if NFC(chr(c)) == chr(c)}


def normal_form_matters():
    """Characters that NFC may change or join to the one before: any text without them is in NFC already."""
    joining = {ord(DECOMPOSED[c][-1]) for c in COMPOSED} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    return set(COMBINING) | (set(DECOMPOSED) - COMPOSED) | joining


CLASSES = [  # bit i of a class, in the order of `CharacterClass`
    matching(r"\p{L}"),
    matching(r"\p{N}"),
    matching(r"\s"),
    numeric(),
    matching(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    matching(r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
    normal_form_matters(),
]


def base36(number):
    digits = ""
    while True:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
        if number == 0:
            return digits


def class_runs():
    runs, letters = [], {}
    for c in range(0x110000):
        bits = sum(1 << i for i, members in enumerate(CLASSES) if c in members)
        if runs and runs[-1][1] == bits:
            runs[-1][0] += 1
        else:
            runs.append([1, bits])
    for _, bits in runs:
        letters.setdefault(bits, chr(ord("A") + len(letters)))
    text = "".join(("" if n == 1 else base36(n)) + letters[bits] for n, bits in runs)
    return text, sorted(letters, key=letters.get)


def combining_runs():
    text, end = "", 0
    for c in sorted(COMBINING):
        text += base36(c - end) + "A" + base36(COMBINING[c]) + "B"
        end = c + 1
    return text


def decompositions():
    text, previous = "", 0
    for c in sorted(DECOMPOSED):
        text += base36(c - previous) + ("C" if c in COMPOSED else "D")
        text += "".join(base36(ord(part)) + "A" for part in DECOMPOSED[c])
        previous = c
    return text


def literal(out, name, doc, text, width=112):
    lines = [text[i:i + width] for i in range(0, len(text), width)]
    for line in doc:
        out.write(f"/// {line}\n")
    out.write(f'let {name}: StaticString = """\n' + "".join(f"    {line}\\\n" for line in lines[:-1]))
    out.write(f'    {lines[-1]}\n    """\n')


def main():
    here = pathlib.Path(__file__).resolve()
    root = here.parents[3]
    with open(root / "Sources/Tokenizers/UnicodeTables.swift", "w") as out:
        out.write(f"// Made by {here.relative_to(root)}\n// from tokenizers {tokenizers.__version__}; do not edit.\n\n")
        runs, classes = class_runs()
        literal(out, "unicodeRuns", ["Runs of code points of one class: length in base 36 (absent for 1), then a letter "
                                     "that indexes", "`unicodeRunClasses`."], runs)
        out.write("\n/// Bits of `CharacterClass` for the letters A, B, ...\n")
        out.write(f"let unicodeRunClasses: [UInt8] = [{', '.join(map(str, classes))}]\n\n")
        literal(out, "unicodeCombiningClasses",
                ["Marks: distance from the one before (A), combining class (B), in base 36."], combining_runs())
        out.write("\n")
        literal(out, "unicodeDecompositions",
                ["Characters with a canonical decomposition: distance from the one before (C if NFC keeps it, D if not),",
                 "then the code points of the full decomposition (A), in base 36."], decompositions())


if __name__ == "__main__":
    main()
