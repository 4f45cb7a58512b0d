#!/usr/bin/env python3
"""Packs rows with Python's gzip and with the zstd program's library; both are other people's work.

    python3 make_packed.py            needs the package zstandard (made with 0.25.0)
"""
import gzip
import pathlib

import zstandard

here = pathlib.Path(__file__).parent
rows = b'{"text":"one"}\n{"text":"two"}\n'
first, second = rows[:15], rows[15:]
(here / "rows.jsonl.gz").write_bytes(gzip.compress(rows, mtime=0))
# Two members and two frames, as `cat a.gz b.gz` makes them.
(here / "members.jsonl.gz").write_bytes(gzip.compress(first, mtime=0) + gzip.compress(second, mtime=0))
(here / "rows.jsonl.zst").write_bytes(zstandard.compress(rows))
(here / "frames.jsonl.zst").write_bytes(zstandard.compress(first) + zstandard.compress(second))
(here / "columns.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfprompt;completion\n1,5?;\"a\nb\"\n", mtime=0))
(here / "twice.gz").write_bytes(gzip.compress(gzip.compress(rows, mtime=0), mtime=0))
