"""Writes Sources/Tokenizers/UnicodeTables.swift: the character classes as the `tokenizers` package sees them.

The classes are asked from the package itself (its regex engine for \\p{..}, its Digits pre-tokenizer for numerics), so
the table follows that release and not the Unicode version of the Swift toolchain. Run with tokenizers 0.23.3:

    python Tests/TokenizersTests/Fixtures/make_unicode_tables.py
"""

import pathlib

import tokenizers
from tokenizers import Regex, pre_tokenizers

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


CLASSES = [  # bit i of a class, in the order of `CharacterClass`
    matching(r"\p{L}"),
    matching(r"\p{N}"),
    matching(r"\s"),
    numeric(),
    matching(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    matching(r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
]


def base36(number):
    digits = ""
    while True:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
        if number == 0:
            return digits


def main():
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
    width = 110
    lines = [text[i:i + width] for i in range(0, len(text), width)]
    here = pathlib.Path(__file__).resolve()
    target = here.parents[3] / "Sources/Tokenizers/UnicodeTables.swift"
    with open(target, "w") as out:
        out.write(f"// Made by {here.relative_to(here.parents[3])} from tokenizers {tokenizers.__version__}; do not edit.\n\n")
        out.write("/// Runs of code points of one class: length in base 36 (absent for 1), then a letter that indexes\n")
        out.write("/// `unicodeRunClasses`.\n")
        out.write("let unicodeRuns: StaticString = \"\"\"\n")
        out.write("".join(f"    {line}\\\n" for line in lines))
        out.write("    \"\"\"\n\n/// Bits of `CharacterClass` for the letters A, B, ...\n")
        bits = ", ".join(str(b) for b in sorted(letters, key=letters.get))
        out.write(f"let unicodeRunClasses: [UInt8] = [{bits}]\n")


main()
