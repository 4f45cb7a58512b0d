"""Orders of rows by an independent spelling of the keyed permutation; standard library only.

python3 make_order.py > order.json
"""
import json

M = (1 << 64) - 1


def splitmix(x):
    z = (x + 0x9E3779B97F4A7C15) & M
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
    return z ^ (z >> 31)


def order(count, seed, stream):
    bits = 1
    while (1 << (2 * bits)) < count:
        bits += 1
    key = splitmix(splitmix(seed) ^ stream)
    keys = [splitmix((key + r) & M) for r in range(8)]

    def once(x):
        left, right = divmod(x, 1 << bits)
        for k in keys:
            left, right = right, left ^ (splitmix(right ^ k) % (1 << bits))
        return left * (1 << bits) + right

    result = []
    for i in range(count):
        i = once(i)
        while i >= count:
            i = once(i)
        result.append(i)
    return result


cases = []
for count, seed, stream in [(1, 0, 0), (2, 1, 0), (5, 42, 0), (5, 42, 1), (17, 7, 3), (64, 2**63 + 5, 2), (1000, 42, 0)]:
    full = order(count, seed, stream)
    assert sorted(full) == list(range(count))
    cases.append({"count": count, "seed": str(seed), "stream": stream, "order": full[:40]})
print(json.dumps(cases, separators=(",", ":")).replace("},{", "},\n{"))
