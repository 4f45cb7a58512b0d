"""Golden correlations, computed by scipy.

    .deps/oracle/bin/python Tests/EvolutionTests/Fixtures/make_statistics_goldens.py

reads `path1.json` (the rows of Path 1 as the paper prints them, arXiv:2410.12613) and writes `statistics_goldens.json`:
Pearson's r and its two-sided p for those rows and for random lists of several lengths, and the regularized incomplete
beta function at some points.
"""

import json
import pathlib

import numpy
import scipy
import scipy.special
import scipy.stats

HERE = pathlib.Path(__file__).parent
rows = json.loads((HERE / "path1.json").read_text())["rows"]


def correlation(name, x, y):
    r, p = scipy.stats.pearsonr(x, y)
    return {"name": name, "x": list(map(float, x)), "y": list(map(float, y)), "r": float(r), "p": float(p)}


gain = numpy.array([row["gain"] for row in rows])
cases = []
for metric in ("pcc", "cs", "ed"):
    values = numpy.array([row[metric] for row in rows])
    cases.append(correlation(f"path1 {metric} gain", values, gain))
    cases.append(correlation(f"path1 {metric} |gain|", values, numpy.abs(gain)))
random = numpy.random.default_rng(7)
for n, share in [(3, 0.5), (4, 0.0), (10, 0.2), (30, 0.9), (100, 0.05), (1000, 0.02)]:
    x = random.normal(size=n)
    cases.append(correlation(f"random {n}", x, share * x + random.normal(size=n)))
beta = [
    {"x": x, "a": a, "b": b, "value": float(scipy.special.betainc(a, b, x))}
    for a in (0.5, 1.0, 6.0, 499.0) for b in (0.5, 3.0) for x in (0.0, 1e-6, 0.1, 0.5, 0.9, 0.999999, 1.0)
]
versions = {"numpy": numpy.__version__, "scipy": scipy.__version__}
(HERE / "statistics_goldens.json").write_text(json.dumps({"versions": versions, "cases": cases, "beta": beta}) + "\n")
