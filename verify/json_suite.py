"""nst/JSONTestSuite through the program's reading of rows: y_ files are taken, n_ files refused, i_ files noted.

    .deps/oracle/bin/python verify/json_suite.py --suite FOLDER [--needletail PROGRAM]

Each text is put where a row may have any value (`env_config` of a verifiable question), in a file of JSON lines where it has
no line break and in a JSON array; `data convert` writes it back, and what comes is Python's reading of the text. Of a key
that appears twice the last value counts, as in Python, and a note on standard error says so.
"""

import json
import lzma
import pathlib

from common import Program, Report, Workspace, one_line, parser, read_rows

BEFORE = b'{"messages":[{"role":"user","content":"2+2?"}],"ground_truth":"4","dataset":"gsm8k","env_config":'

def texts_of(suite):
    """Name -> text; the largest files are packed."""
    return {path.name.removesuffix(".xz"): lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
            for path in suite.iterdir()}


def files(text):
    """Name of a file and its bytes."""
    if b"\n" not in text:
        yield "rows.jsonl", BEFORE + text + b"}\n"
    yield "rows.json", b"[" + BEFORE + text + b"}]"


def convert(program, work, name, content):
    """Exit code, lines on standard error, and the value that was written."""
    (path, out) = work / name, work / "out.jsonl"
    out.unlink(missing_ok=True)
    path.write_bytes(content)
    result = program.run("data", "convert", path, out, "--kind", "rlvr", timeout=60)
    value = read_rows(out)[0].get("env_config") if result.returncode == 0 else None
    return result.returncode, result.stderr.splitlines(), value


def check(report, program, work, suite, kind):
    names = sorted(name for name in suite if name.startswith(f"{kind}_"))
    wrong, taken, count = [], [], 0
    for name in names:
        text, codes = suite[name], []
        for file, content in files(text):
            count += 1
            code, lines, value = convert(program, work, file, content)
            codes.append(code)
            if kind == "y":
                # Notes may precede the last line, which counts the rows.
                good = code == 0 and len(lines) == 1 + ("duplicated_key" in name) and value == json.loads(text)
            else:
                good = code == 65 and len(lines) == 1 and lines[0].startswith("error: ") and file in lines[0]
            if not good and (kind != "i" or code != 0):
                wrong.append(f"{name} in {file}: exit {code}, {one_line(' / '.join(lines))}")
        if len(set(codes)) > 1:
            wrong.append(f"{name}: not alike in {', '.join(file for file, _ in files(text))}")
        taken += [name] if codes[0] == 0 else []
    limit = {"y": "all taken", "n": "all refused in one line", "i": "taken or refused in one line"}[kind]
    report.holds(f"{kind}_ files, {len(names)} in {count} row files", bool(names) and not wrong, "; ".join(wrong), limit)
    if kind == "i":
        report.note("i_ files taken", ", ".join(taken))
        report.note("i_ files refused", len(names) - len(taken))


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--suite", required=True, help="folder of the suite's y_, n_ and i_ files")
    arguments = arguments.parse_args()
    report, program = Report(), Program(arguments.needletail)
    with Workspace(arguments) as work:
        suite = texts_of(pathlib.Path(arguments.suite))
        report.equals("texts in the suite", len(suite), 318)
        for kind in "yni":
            check(report, program, work, suite, kind)
    report.exit()


if __name__ == "__main__":
    main()
