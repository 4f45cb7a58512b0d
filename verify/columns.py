"""Parquet, Arrow and CSV files of pyarrow against its own `to_pylist`: `needletail data convert` must give the same rows.

    .deps/oracle/bin/python verify/columns.py [--needletail PROGRAM]

Columns: every type that is read, with nulls, in every codec and layout that pyarrow writes (row groups, page versions,
dictionaries, batches of many sizes). Rows: tables, chats as lists of structs, verifiable questions with tools, questions with
answers, tags. What the shim documents is undone here: nulls are left out, numbers that JSON lacks are null, dates, times,
durations and decimals are texts, bytes are text or base64. Types that are not read are refused in one line with their name.
"""

import base64
import datetime
import decimal
import math
import random
import struct

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq

from common import Program, Report, Workspace, one_line, parser, read_rows

TEXTS = ["plain", "", "a \"quoted\" line\nand a tab\t.", "C:\\new\\table\\", "日本 👍 é", "\b\f\u0001\u007f\u2028", "{\"a\": 1}", "null"]
DAY = datetime.datetime(2024, 2, 29, 12, 30, 1)


def single(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def half(number):
    return struct.unpack("e", struct.pack("e", number))[0]


def scalar_columns(rows, random):
    """Name -> array of `rows` values, about a fifth of them null."""
    def column(values, type=None):
        return pa.array([random.choice(values) if random.random() > 0.2 else None for _ in range(rows)], type)

    fraction, utc = DAY.replace(microsecond=250000), datetime.timezone.utc
    ints = {f"{sign}int{bits}": column([low, high, 0, 1], getattr(pa, f"{sign}int{bits}")())
            for bits in (8, 16, 32, 64)
            for sign, low, high in (("", -2 ** (bits - 1), 2 ** (bits - 1) - 1), ("u", 2, 2 ** bits - 1))}
    doubles = [0.1, -1e-300, 1e22, 5e-324, 1.7976931348623157e308, 123456789.123, -0.0, math.inf, math.nan]
    texts = {"string": pa.string(), "large_string": pa.large_string(), "string_view": pa.string_view()}
    coded = {f"coded_{i}": column(TEXTS).cast(pa.dictionary(i, pa.string())) for i in (pa.int8(), pa.uint16(), pa.int32())}
    return {
        **ints, **coded, **{name: column(TEXTS, type) for name, type in texts.items()},
        "bool": column([True, False]), "double": column(doubles, pa.float64()),
        "single": column([single(x) for x in (0.1, -1.5, 3e38, 1e-45)] + [math.inf], pa.float32()),
        "half": column([half(x) for x in (0.1, -1.5, 65504, 6e-8)] + [math.nan], pa.float16()),
        "binary": column([b"text", b"\xff\x00", b"", "é".encode()], pa.binary()),
        "large_binary": column([b"text", b"\xc3"], pa.large_binary()),
        "date32": column([DAY.date(), datetime.date(1, 1, 1), datetime.date(1969, 12, 31)], pa.date32()),
        "date64": column([DAY.date(), datetime.date(1969, 12, 31)], pa.date64()),
        "seconds": column([DAY, datetime.datetime(1900, 1, 1)], pa.timestamp("s")),
        "milliseconds": column([fraction], pa.timestamp("ms")), "microseconds": column([fraction], pa.timestamp("us")),
        "nanoseconds": column([fraction], pa.timestamp("ns")),
        "utc": column([fraction.replace(tzinfo=utc)], pa.timestamp("us", "UTC")),
        "paris": column([fraction.replace(tzinfo=utc)], pa.timestamp("ms", "Europe/Paris")),
        "time32": column([DAY.time()], pa.time32("s")), "time64": column([fraction.time()], pa.time64("us")),
        "duration": column([datetime.timedelta(days=1, seconds=3), datetime.timedelta(seconds=-1)], pa.duration("s")),
        "price": column([decimal.Decimal("1.50"), decimal.Decimal("-0.01")], pa.decimal128(10, 2)),
        "wide": column([decimal.Decimal(10) ** 40], pa.decimal256(50, 3)),
        "nothing": pa.nulls(rows), "target": pa.array([random.choice(TEXTS[:1] + TEXTS[2:]) for _ in range(rows)]),
        "na\\me \"q\"": column(TEXTS),
    }


def same(found, expected, type):
    """Whether a value of the program's JSON is pyarrow's."""
    if pa.types.is_dictionary(type):
        return same(found, expected, type.value_type)
    if pa.types.is_map(type):
        items = {key: value for key, value in expected if value is not None}
        return isinstance(found, dict) and found.keys() == items.keys() and all(
            same(found[key], value, type.item_type) for key, value in items.items())
    if pa.types.is_struct(type):
        return same_fields(found, expected, type)
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        return isinstance(found, list) and len(found) == len(expected) and all(
            a is None if b is None else same(a, b, type.value_type) for a, b in zip(found, expected))
    if pa.types.is_floating(type):
        if not math.isfinite(expected):
            return found is None
        return isinstance(found, float) and found == expected
    if isinstance(expected, bytes):
        return found == text_of(expected)
    if isinstance(expected, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return isinstance(found, str) and read(found, type) == expected
    return found.__class__ is expected.__class__ and found == expected


def same_fields(found, expected, fields):
    """Objects and rows: what is null is left out."""
    given = {name: value for name, value in expected.items() if value is not None}
    return isinstance(found, dict) and found.keys() == given.keys() and all(
        same(found[name], value, fields.field(name).type) for name, value in given.items())


def text_of(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


def read(text, type):
    """The value that a text of the program stands for."""
    if pa.types.is_decimal(type):
        return decimal.Decimal(text)
    if pa.types.is_duration(type):
        return datetime.timedelta(seconds=int(text))
    if pa.types.is_date(type):
        return datetime.date.fromisoformat(text)
    return (datetime.time if pa.types.is_time(type) else datetime.datetime).fromisoformat(text)


def first_difference(found, expected, schema):
    """Empty when all rows are the same."""
    if len(found) != len(expected):
        return f"{len(found)} rows instead of {len(expected)}"
    for i, (a, b) in enumerate(zip(found, expected)):
        given = {name for name, value in b.items() if value is not None}
        if a.keys() != given:
            return f"row {i + 1}: keys {sorted(a.keys() ^ given)}"
        for name in given:
            if not same(a[name], b[name], schema.field(name).type):
                return f"row {i + 1}, {name}: {a[name]!r} instead of {b[name]!r}"
    return ""


class Tables:
    """Files written by pyarrow, converted by the program and compared."""

    def __init__(self, report, program, work):
        self.report, self.program, self.work = report, program, work

    def convert(self, path, *flags):
        out = self.work / "out.jsonl"
        out.unlink(missing_ok=True)
        result = self.program.run("data", "convert", path, out, *flags)
        return result, read_rows(out) if result.returncode == 0 else []

    def compare(self, name, table, path, *flags, expected=None):
        result, rows = self.convert(path, *flags)
        if result.returncode != 0:
            return self.report.identical(name, f"exit code {result.returncode}: {one_line(result.stderr)}")
        self.report.identical(name, first_difference(rows, expected or table.to_pylist(), table.schema))

    def refused(self, name, table, *mentions):
        path = self.work / "refused.arrow"
        write_arrow(table, path, pa.ipc.new_file)
        result, _ = self.convert(path, "--kind", "tabular")
        lines = result.stderr.splitlines()
        good = result.returncode == 65 and len(lines) == 1 and all(m in lines[0] for m in (path.name, *mentions))
        self.report.holds(f"{name}: refused in one line with its type", good, one_line(result.stderr))


def write_arrow(table, path, writer, size=None, codec=None):
    with pa.OSFile(str(path), "wb") as file, writer(
            file, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as out:
        out.write_table(table, max_chunksize=size)


def check_types(tables, work, random):
    """A table with every type in every layout that pyarrow writes."""
    table = pa.table(scalar_columns(700, random))
    parts = pa.concat_tables([table.slice(0, 1), table.slice(1, 0), table.slice(1, 300), table.slice(301)])
    layouts = [
        {"compression": "none"}, {"compression": "snappy", "row_group_size": 100},
        {"compression": "gzip", "row_group_size": 1}, {"compression": "zstd", "data_page_version": "2.0"},
        {"compression": "brotli", "use_dictionary": False}, {"compression": "lz4", "data_page_size": 64},
        {"compression": "snappy", "use_dictionary": False, "store_schema": False, "column_encoding": {
            "int64": "DELTA_BINARY_PACKED", "string": "DELTA_BYTE_ARRAY", "double": "BYTE_STREAM_SPLIT"}},
    ]
    for options in layouts:
        path = work / "types.parquet"
        pq.write_table(table, path, **options)
        # What Parquet keeps of the types is what pyarrow itself reads back.
        back = pq.read_table(path)
        tables.compare("Parquet, " + ", ".join(f"{k} {v}" for k, v in options.items()), back, path, "--kind", "tabular")
    path = work / "types.arrow"
    for name, writer, size, codec in (("file", pa.ipc.new_file, None, None), ("file", pa.ipc.new_file, 33, "zstd"),
                                      ("stream", pa.ipc.new_stream, 1, None), ("stream", pa.ipc.new_stream, 256, "lz4")):
        write_arrow(parts, path, writer, size, codec)
        tables.compare(f"Arrow {name}, batches of {size}, {codec}", table, path, "--kind", "tabular")
    pyarrow.feather.write_feather(table.drop_columns(["string_view"]), work / "types.feather", compression="lz4")
    tables.compare("Feather", table.drop_columns(["string_view"]), work / "types.feather", "--kind", "tabular")


def message(random):
    turn = {"role": random.choice(["user", "assistant"]), "content": random.choice(TEXTS[:1] + TEXTS[2:])}
    return {**turn, "name": random.choice(["Ann", None])}


def chats(random):
    rows = [[message(random) for _ in range(random.randint(0, 4))] for _ in range(300)]
    question, answer = {"role": "user", "content": "q", "name": None}, {"role": "assistant", "content": "a", "name": None}
    return [[question] + row + [answer] for row in rows]


def check_rows(tables, work, random):
    """Rows of several kinds, whose columns are lists and structs."""
    struct_type = pa.struct([("role", pa.string()), ("content", pa.large_string()), ("name", pa.string())])
    coded = pa.struct([("role", pa.dictionary(pa.int8(), pa.string())), ("content", pa.string()), ("name", pa.string())])
    rows = chats(random)
    for name, type in (("list of structs", pa.list_(struct_type)), ("large list", pa.large_list(struct_type)),
                       ("list with coded roles", pa.list_(coded))):
        table = pa.table({"messages": pa.array(rows, type)})
        # A struct's null fields are left out, as a row's null columns are.
        expected = [{"messages": [{k: v for k, v in turn.items() if v is not None} for turn in row]} for row in rows]
        pq.write_table(table, work / "chats.parquet", row_group_size=70)
        tables.compare(f"chats, {name}, Parquet", table, work / "chats.parquet", expected=expected)
        write_arrow(table, work / "chats.arrow", pa.ipc.new_stream, 64)
        tables.compare(f"chats, {name}, Arrow", table, work / "chats.arrow", expected=expected)
    kinds = {
        "rlvr": {"messages": [[{"role": "user", "content": "12+7?"}]] * 3, "ground_truth": [["19", "x"], ["é", "\\"], ["", "1"]],
                 "dataset": [["gsm8k", "math"]] * 3,
                 "env_config": [{"name": "counter", "deep": {"list": [[1, None], []], "flag": True}}] * 2 + [None]},
        "question_answering": {"context": ["É red.", "a\\b", "It is."], "question": ["What?"] * 3,
                               "answers": [{"text": ["red"], "answer_start": [2]}, {"text": ["\\"], "answer_start": [1]},
                                           {"text": [], "answer_start": []}]},
        "tagging": {"tokens": [["New", "York"], ["a"], ["\\n", "\"", "é"]], "tags": [["B", "I"], ["O"], ["B", "O", "I"]]},
    }
    for kind, columns in kinds.items():
        table = pa.table(columns)
        pq.write_table(table, work / "rows.parquet")
        tables.compare(f"rows of kind {kind}", table, work / "rows.parquet", "--kind", kind)
    settings = pa.array([[("a", 1), ("b\\", None)], [], None], pa.map_(pa.string(), pa.int32()))
    table = pa.table({"messages": kinds["rlvr"]["messages"], "ground_truth": ["1", "2", "3"], "dataset": ["gsm8k"] * 3,
                      "env_config": settings})
    pq.write_table(table, work / "rows.parquet")
    tables.compare("a map", table, work / "rows.parquet", "--kind", "rlvr")


def check_text(tables, work, random):
    """CSV as pyarrow writes it: quoted line breaks, quotes, separators; empty fields are no values there."""
    texts = [text for text in TEXTS if text] * 20
    random.shuffle(texts)
    table = pa.table({"prompt": texts, "completion": texts[::-1]})
    for separator, ending in ((",", "csv"), (";", "csv"), ("\t", "tsv")):
        path = work / f"rows.{ending}"
        pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(delimiter=separator))
        tables.compare(f"CSV between {separator!r}", table, path, "--kind", "prompt_completion")


def check_refusals(tables):
    target = pa.array(["a"])
    keys = pa.array([[(1, "x")]], pa.map_(pa.int32(), pa.string()))
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1]), pa.array(["x"])])
    interval = pa.array([pa.MonthDayNano([1, 2, 3])])
    for name, column, mention in (("map with whole numbers as keys", keys, "int32"), ("union", union, "union"),
                                  ("interval", interval, "interval")):
        tables.refused(name, pa.table({"target": target, "x": column}), mention)


def main():
    arguments = parser(__doc__).parse_args()
    report, generator = Report(), random.Random(arguments.seed)
    with Workspace(arguments) as work:
        tables = Tables(report, Program(arguments.needletail), work)
        check_types(tables, work, generator)
        check_rows(tables, work, generator)
        check_text(tables, work, generator)
        check_refusals(tables)
    report.exit()


if __name__ == "__main__":
    main()
