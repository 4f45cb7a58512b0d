#!/usr/bin/env python3
"""Rows that amounts take, by the arithmetic of open-instruct's `dataset_mixer_list` (open_instruct/dataset_transformation.py:
`if "." in frac_or_num: int(float(frac_or_num) * len(dataset)) else: int(frac_or_num)`).

    python3 make_mixture.py > mixture.json
"""
import json


def taken(amount: str, rows: int) -> int:
    return int(float(amount) * rows) if "." in amount else int(amount)


print(json.dumps([
    {"amount": amount, "rows": rows, "taken": taken(amount, rows)}
    for rows in (1, 7, 100, 101, 1130)
    for amount in ("1", "1.0", "0.5", "2.5", "0.29", "3", "0.0")
], indent=0))
