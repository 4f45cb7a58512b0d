"""Writes Sources/Tokenizers/UnicodeProperties.swift: categories, scripts, lower case and compatibility decompositions as
the `tokenizers` package has them, for the same reason and in the same way as make_unicode_tables.py. Run with tokenizers
0.23.3:

    python Tests/TokenizersTests/Fixtures/make_unicode_properties.py
"""

import pathlib

import tokenizers
from tokenizers import normalizers, pre_tokenizers

from make_unicode_tables import CODE_POINTS, HANGUL, NFD, base36, literal, matching

CATEGORIES = ("Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split())
SCRIPTS = ("Latin Greek Cyrillic Armenian Hebrew Arabic Syriac Thaana Devanagari Bengali Gurmukhi Gujarati Oriya Tamil "
           "Telugu Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Hangul Ethiopic Cherokee Mongolian Khmer "
           "Hiragana Katakana Bopomofo Han Yi").split()
BIT = {"old mark": 32, "old punctuation": 64, "old other": 128}


def categories():
    """Category of Unicode as the regex engine knows it, and three sets of the older Unicode of the other parts."""
    table = [0] * 0x110000
    for number, name in enumerate(CATEGORIES):
        for c in matching(rf"\p{{{name}}}"):
            table[c] = number
    accents = normalizers.BertNormalizer(False, False, True, False)
    clean = normalizers.BertNormalizer(True, False, False, False)
    punctuation = pre_tokenizers.Punctuation("isolated")
    for c in CODE_POINTS:
        text = chr(c)
        if accents.normalize_str(text) == "":
            table[c] |= BIT["old mark"]
        if len(punctuation.pre_tokenize_str("a" + text)) == 2:
            table[c] |= BIT["old punctuation"]
        if clean.normalize_str(text) == "":
            table[c] |= BIT["old other"]
    return table


def words():
    """`\\w` of the Whitespace pre-tokenizer (1) and of the regex engine (2), white space (4), marks of StripAccents (8)."""
    pre, spaces, table = pre_tokenizers.Whitespace(), pre_tokenizers.WhitespaceSplit(), [0] * 0x110000
    engine, accents = matching(r"\w"), normalizers.StripAccents()
    for c in CODE_POINTS:
        table[c] = (len(pre.pre_tokenize_str("a" + chr(c) + "a")) == 1) | (c in engine) << 1
        table[c] |= (len(spaces.pre_tokenize_str("a" + chr(c) + "a")) == 2) << 2
        table[c] |= (accents.normalize_str(chr(c)) == "") << 3
    return table


def scripts_of_engine():
    table = [0] * 0x110000
    for number, name in enumerate(SCRIPTS, 1):
        for c in matching(rf"\p{{{name}}}"):
            table[c] = number
    return table


def scripts_of_pretokenizer():
    """Script number of the UnicodeScripts pre-tokenizer; 0 for what joins every script."""
    pre, table, samples = pre_tokenizers.UnicodeScripts(), [0] * 0x110000, []

    def together(a, b):
        return len(pre.pre_tokenize_str(a + b)) == 1

    previous = None
    for c in CODE_POINTS:
        text = chr(c)
        if together("a", text) and together("я", text):
            continue
        if previous is not None and together(chr(previous), text):
            table[c] = table[previous]
        else:
            for number, sample in enumerate(samples, 1):
                if together(sample, text):
                    table[c] = number
                    break
            else:
                samples.append(text)
                table[c] = len(samples)
        previous = c
    return table


def runs(table):
    """Runs as in make_unicode_tables.py, but with the value in base 36 too: length (A) value (B)."""
    text, start = "", 0
    for c in range(1, len(table) + 1):
        if c == len(table) or table[c] != table[start]:
            text += ("" if c - start == 1 else base36(c - start) + "A") + base36(table[start]) + "B"
            start = c
    return text


def mapped(change, known=lambda c: False):
    """Characters that a normalizer changes: distance from the one before (C), then what it becomes (A)."""
    text, previous = "", 0
    for c in CODE_POINTS:
        new = change(chr(c))
        if new != chr(c) and not known(c):
            text += base36(c - previous) + "C" + "".join(base36(ord(part)) + "A" for part in new)
            previous = c
    return text


def main():
    here = pathlib.Path(__file__).resolve()
    root = here.parents[3]
    nfkd = normalizers.NFKD().normalize_str
    with open(root / "Sources/Tokenizers/UnicodeProperties.swift", "w") as out:
        out.write(f"// Made by {here.relative_to(root)}\n// from tokenizers {tokenizers.__version__}; do not edit.\n\n")
        out.write(f"/// Names of the categories in `unicodeCategories`.\nlet unicodeCategoryNames = [\n"
                  + "".join("    " + ", ".join(f'"{n}"' for n in CATEGORIES[i:i + 15]) + ",\n" for i in range(0, 29, 15))
                  + "]\n\n")
        out.write("/// Names of the scripts in `unicodeScripts`, from number 1 on.\nlet unicodeScriptNames = [\n"
                  + "".join("    " + ", ".join(f'"{n}"' for n in SCRIPTS[i:i + 8]) + ",\n" for i in range(0, 33, 8))
                  + "]\n\n")
        literal(out, "unicodeCategories", [
            "Category (low 5 bits), and by older versions of Unicode: nonspacing mark (32), punctuation (64), other (128).",
            "Runs: length (A, absent for 1), value (B), in base 36."], runs(categories()))
        out.write("\n")
        literal(out, "unicodeWords", ["Word characters of the Whitespace pre-tokenizer (1) and of patterns (2), white "
                                      "space (4), marks", "that StripAccents removes (8)."], runs(words()))
        out.write("\n")
        literal(out, "unicodeScripts", ["Scripts that patterns can name."], runs(scripts_of_engine()))
        out.write("\n")
        literal(out, "unicodeScriptRuns", ["Scripts that the UnicodeScripts pre-tokenizer tells apart; 0 joins all."],
                runs(scripts_of_pretokenizer()))
        out.write("\n")
        literal(out, "unicodeLowerCase", ["Characters with a lower case: distance from the one before (C), what it is (A)."],
                mapped(normalizers.Lowercase().normalize_str))
        out.write("\n")
        literal(out, "unicodeCompatibility", ["Full compatibility decompositions that are not canonical ones, alike."],
                mapped(nfkd, lambda c: c in HANGUL or nfkd(chr(c)) == NFD(chr(c))))


main()
