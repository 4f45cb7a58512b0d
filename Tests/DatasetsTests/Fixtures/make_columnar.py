#!/usr/bin/env python3
"""Writes the same chats as JSON lines, Parquet and both Arrow formats, and one table with columns of many types together
with its rows as pyarrow itself gives them.

    python3 make_columnar.py          needs the package pyarrow (made with 26.0.1)
"""
import base64
import datetime
import decimal
import json
import pathlib

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

here = pathlib.Path(__file__).parent


def without_nulls(value):
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


questions = ["What is it?", "Is it blue?", "A \"quoted\" line\nand a tab\t.", "Émile, 日本, 👍", "It is \\ here."]
chats = []
for i in range(600):
    messages = [
        {"role": "user", "content": questions[i % 5] + " " * (i % 3)},
        {"role": "assistant", "content": f"It is {i}."},
    ]
    if i % 7 == 0:
        messages.insert(0, {"role": "system", "content": "Answer."})
    if i % 11 == 0:
        messages[-1]["weight"] = 1
    chats.append({"messages": messages})
(here / "chats.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chats), encoding="utf-8")
table = pa.Table.from_pylist(chats)
# Roles as numbers into a dictionary, of which each row group has its own.
coded = pa.struct([("role", pa.dictionary(pa.int8(), pa.string())), ("content", pa.string())])
pq.write_table(
    pa.Table.from_pylist(chats, pa.schema([("messages", pa.list_(coded))])), here / "chats.parquet", compression="zstd",
    row_group_size=250)
with pa.OSFile(str(here / "chats.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
    writer.write_table(table, max_chunksize=100)
with pa.OSFile(str(here / "chats-stream.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
    writer.write_table(table, max_chunksize=256)

day = datetime.datetime(2024, 2, 29, 12, 30, 1)
columns = {
    "target": pa.array(["a", "b", None, "é\u0001\u2028"]),
    "coded": pa.array(["x", None, "y", "x"]).dictionary_encode(),
    "large": pa.array(["l", "m", "n", "o"], pa.large_string()),
    "flag": pa.array([True, False, None, True]),
    "small": pa.array([-128, 127, None, 0], pa.int8()),
    "long": pa.array([-(2**63), 2**63 - 1, 0, None]),
    "unsigned": pa.array([0, 2**64 - 1, None, 1], pa.uint64()),
    "single": pa.array([0.1, -1.5, 3e38, None], pa.float32()),
    "half": pa.array([0.5, -1.5, 65504.0, None], pa.float16()),
    "double": pa.array([0.1, 1e-300, 100000.0, None]),
    "day": pa.array([day.date()] * 4),
    "bytes": pa.array([b"text", b"\xff\x00", None, b""]),
    "price": pa.array([decimal.Decimal("1.50")] * 3 + [None]),
}
types = pa.table(columns)
pq.write_table(types, here / "types.parquet")
rows = []
for row in types.to_pylist():
    row = without_nulls(row)
    if "bytes" in row:
        row["bytes"] = row["bytes"].decode() if row["bytes"] != b"\xff\x00" else base64.b64encode(row["bytes"]).decode()
    for name in ("day", "price"):
        if name in row:
            row[name] = str(row[name])
    rows.append(row)
(here / "types.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
pq.write_table(pa.table({"text": ["one"], "odd": pa.array([{"a": [{"b": [1, None]}]}]), "map": pa.array(
    [[("k", "v")]], pa.map_(pa.string(), pa.string()))}), here / "nested.parquet", compression="gzip")

# Texts whose characters JSON escapes, and texts that look like escapes, as values and as names of columns.
texts = ["C:\\new\\table", "\\", "\\\\", "\\\"", "\"", "\\u0041\\n", "a\nb\r\tc", "\b\f\u0000\u001f\u007f", "end\\", "\\é\\日\\👍"]
escapes = pa.table({
    "target": texts, "large": pa.array(texts[::-1], pa.large_string()), "coded": pa.array(texts).dictionary_encode(),
    "viewed": pa.array(texts, pa.string_view()), "na\\me": texts, "quo\"ted\\n": texts})
with pa.OSFile(str(here / "escapes.arrow"), "wb") as file, pa.ipc.new_stream(file, escapes.schema) as writer:
    writer.write_table(escapes)
(here / "escapes.json").write_text(json.dumps(escapes.to_pylist(), indent=1) + "\n", encoding="utf-8")
