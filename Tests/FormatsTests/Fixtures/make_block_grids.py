# Writes Sources/Formats/BlockGrids.swift: python make_block_grids.py
# gguf 0.19 (ggml's tables, MIT licence), two or four bits an entry as that package packs them.
import pathlib

import gguf.quants as quants

TARGET = pathlib.Path(__file__).parents[3] / "Sources/Formats/BlockGrids.swift"
KINDS = [quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S, quants.IQ1_S]

lines = [
    "// Made by Tests/FormatsTests/Fixtures/make_block_grids.py: edit that. The points that the codes of IQ blocks name, from",
    "// ggml (MIT licence, Copyright the ggml authors); digits name entries of `values`, the lowest bits first.",
    "",
    "extension BlockGrid {",
]
for kind in KINDS:
    bits = 2 if len(kind.grid_map) <= 4 else 4
    text = kind.grid_hex.decode()
    assert len(text) * 4 == kind.grid_shape[0] * kind.grid_shape[1] * bits
    name = kind.__name__.lower()
    values = ", ".join(str(value) for value in kind.grid_map)
    lines.append(f"    static let {name} = BlockGrid(")
    lines.append(f"        width: {kind.grid_shape[1]}, bits: {bits}, values: [{values}],")
    lines.append('        digits: """')
    rows = [text[i : i + 100] for i in range(0, len(text), 100)]
    lines += [f"            {row}\\" for row in rows[:-1]] + [f"            {rows[-1]}", '            """)']
lines.append("}")
TARGET.write_text("\n".join(lines) + "\n")
