#!/usr/bin/env python3
"""Golden values of packed weights: prints Tests/KernelsTests/PackedGoldens.swift.

    .deps/oracle/bin/python verify/packed_goldens.py > Tests/KernelsTests/PackedGoldens.swift

The 16 numbers of NF4 from the quantiles that define them (Dettmers et al. 2023, arXiv:2305.14314, section 3: 2^(k-1)
quantiles below 0 and 2^(k-1) + 1 from 0 on, each half normalised to 1, one of the two zeros dropped), a matrix through
NF4 and double quantisation in numpy, and a hash of what the `gguf` package reads from random blocks of every type.
"""
import importlib.metadata

import gguf
import numpy as np
import scipy
from scipy.stats import norm

MASK = (1 << 64) - 1
# As the paper prints them (appendix E): fp32 numbers, the quantiles to about 2e-7.
PUBLISHED = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
             -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
             0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


class Noise:
    """The generator of Tests/KernelsTests/Support.swift."""

    def __init__(self, seed):
        self.state = (seed * 0x9E3779B97F4A7C15 + 1) & MASK

    def word(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return self.state

    def numbers(self, count, scale=2.0):
        return np.array([(self.word() >> 11) * 2.0 ** -53 - 0.5 for _ in range(count)]) * scale

    def bytes(self, count):
        return np.array([self.word() >> 56 for _ in range(count)], dtype=np.uint8)


def fnv(words):
    """FNV-1a over 32-bit words, in 64 bits."""
    value = 0xCBF29CE484222325
    for word in words:
        value = ((value ^ int(word)) * 0x100000001B3) & MASK
    return value


def nf4_values():
    # The outermost probability is the mean of those half a step inside 1 for 16 and for 15 equal parts.
    edge = 1 - (1 / 32 + 1 / 30) / 2
    positive = norm.ppf(np.linspace(edge, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(edge, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([negative, [0.0], positive]))
    return values / values.max()


def nf4(matrix, table):
    """Codes (nearest), magnitudes, and the numbers after double quantisation."""
    blocks = matrix.reshape(-1, 64)
    magnitudes = np.abs(blocks).max(1)
    shares = blocks / magnitudes[:, None]
    codes = np.abs(shares[:, :, None] - table).argmin(2)
    mean = np.float32(magnitudes.mean(dtype=np.float64))
    scales = np.empty_like(magnitudes)
    for start in range(0, len(magnitudes), 256):
        rest = magnitudes[start:start + 256] - mean
        step = np.float32(np.abs(rest).max() / np.float32(127))
        scales[start:start + 256] = mean + step * np.rint(rest / step).astype(np.float32)
    return codes, magnitudes, table[codes].astype(np.float32) * scales[:, None]


# Places of half-precision scales in a block: random bytes there could be infinite.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F16": [0], "BF16": [0]}


def decoded_hash(name):
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = Noise(9).bytes(512 // elements * 3 * size).reshape(-1, size)
    for place in HALVES[name]:
        blocks[:, place + 1] &= 0xBB  # no exponent is all ones
    values = gguf.dequantize(blocks.reshape(3, -1), kind)
    return fnv(np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).flatten())


def swift(name, numbers):
    lines, line = [], ""
    for number in (repr(float(x)) + "," for x in numbers):
        if len(line) + len(number) > 108:
            lines.append(line)
            line = ""
        line += (" " if line else "") + number
    body = "\n        ".join(lines + [line])
    print(f"    static let {name}: [Double] = [\n        {body}\n    ]")


def main():
    quantiles, table = nf4_values(), np.array(PUBLISHED)
    assert np.abs(quantiles - table).max() < 3e-7
    matrix = (Noise(4).numbers(600 * 64) ** 3).astype(np.float32)
    codes, _, decoded = nf4(matrix, table.astype(np.float32))
    numbers = Noise(5).numbers(7 * 96, 0.3).astype(np.float32).reshape(7, 96)
    q8 = gguf.quantize(numbers, gguf.GGMLQuantizationType.Q8_0)
    version = importlib.metadata.version("gguf")
    print(f"// Made by verify/packed_goldens.py with scipy {scipy.__version__}, numpy {np.__version__}, gguf {version}.")
    print("\nenum PackedGoldens {")
    swift("nf4Quantiles", quantiles)
    print("    /// FNV-1a of 600 blocks' codes, and of the bits of the numbers after double quantisation.")
    print(f"    static let nf4Codes: UInt64 = {fnv(codes.flatten())}")
    print(f"    static let nf4Decoded: UInt64 = {fnv(decoded.flatten().view(np.uint32))}")
    print("    /// FNV-1a of the bytes of 7 rows of 96 numbers in Q8_0.")
    print(f"    static let q8_0Bytes: UInt64 = {fnv(np.asarray(q8).flatten())}")
    print("    /// FNV-1a of the bits of three rows of 512 numbers read from random blocks.")
    print("    static let decoded: [String: UInt64] = [")
    for name in HALVES:
        print(f'        "{name}": {decoded_hash(name)},')
    print("    ]\n}")


if __name__ == "__main__":
    main()
