# Makes ggml.gguf, ggml.f32 and quantized.gguf beside this script: python make_ggml_goldens.py LLAMA_CPP_FOLDER
# numpy, gguf 0.19; what that package lacks comes from ggml's C as shipped in the llama-cpp-python 0.3.36 source package
# (vendor/llama.cpp), compiled here without fused multiply-add, which would round otherwise on each machine.
import ctypes
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
ROWS = 3
rng = np.random.default_rng(20261126)
T = gguf.GGMLQuantizationType


def ggml_library():
    ggml = pathlib.Path(sys.argv[1]) / "ggml"
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/ggml-quants.so"
        include = [f"-I{ggml / part}" for part in ["include", "src", "src/ggml-cpu"]]
        subprocess.run(
            ["gcc", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-DNDEBUG", *include, ggml / "src/ggml-quants.c"]
            + ["-o", library, "-lm"],
            check=True,
        )
        return ctypes.CDLL(library, os.RTLD_LAZY)  # it also names functions of ggml that are not called here


ggml = ggml_library()


def in_c(function, source, out):
    getattr(ggml, function)(
        source.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(max(source.size, out.size))
    )
    return out


def write(name, tensors):
    """A GGUF file of (name, number of the type, row-major shape, bytes): the package does not know all types."""
    text = lambda value: struct.pack("<Q", len(value)) + value.encode()
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1) + text("general.architecture") + struct.pack("<I", 8) + text("golden")
    data = b""
    for label, number, shape, raw in tensors:
        out += text(label) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)) + struct.pack("<IQ", number, len(data))
        data += raw + bytes(-len(raw) % 32)
    (HERE / name).write_bytes(out + bytes(-len(out) % 32) + data)


def finite(blocks, *places):
    """Half-precision scales at `places` without the all-ones exponent; those of the second block subnormal."""
    for place in places:
        blocks[:, place + 1] &= 0xBF
        blocks[1, place + 1] &= 0x83
    return blocks


def make_types():
    """Three random blocks of each type that types.gguf has not, and their values."""
    tensors, floats = [], []

    def add(label, number, elements, blocks, values):
        assert np.isfinite(values).all() and values.size == ROWS * elements
        tensors.append((label, number, (ROWS, elements), blocks.tobytes()))
        floats.append(values.astype(np.float32).tobytes())

    random = lambda size: np.frombuffer(rng.bytes(ROWS * size), np.uint8).reshape(ROWS, size).copy()
    first, last = {T.TQ1_0: [52], T.TQ2_0: [64]}, [T.MXFP4, T.NVFP4, T.IQ1_M]
    kinds = [T.IQ2_XXS, T.IQ2_XS, T.IQ3_XXS, T.IQ1_S, T.IQ4_NL, T.IQ3_S, T.IQ2_S, T.IQ4_XS, T.IQ1_M, T.TQ1_0, T.TQ2_0, T.MXFP4, T.NVFP4]
    for kind in kinds:
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random(size) if kind in last else finite(random(size), *first.get(kind, [0]))
        if kind == T.IQ1_M:
            blocks[:, 55] &= 0xBF  # the top of the scale's exponent
        if kind == T.MXFP4:
            blocks[:, 0] = [0, 1, 200]
        if kind == T.NVFP4:
            blocks[0, :4] = [0, 0x7F, 5, 0x7E]
        add(kind.name.lower(), kind.value, elements, blocks, gguf.dequantize(blocks, kind))
    for label, number, elements, size in [("q1_0", 41, 128, 18), ("q2_0", 42, 64, 18)]:
        blocks = finite(random(size), 0)
        add(label, number, elements, blocks, in_c(f"dequantize_row_{label}", blocks, np.empty(ROWS * elements, np.float32)))
    blocks = random(292)
    blocks[:, 3] = [0x3F, 0x80, 0xC1]
    add("q8_K", 15, 256, blocks, in_c("dequantize_row_q8_K", blocks, np.empty(ROWS * 256, np.float32)))
    # No reference reads it back; by its definition, d q.
    blocks = finite(random(36), 0)
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    add("q8_1", 9, 32, blocks, d * blocks[:, 4:].view(np.int8).astype(np.float32))
    for number, kind in [(24, np.int8), (25, np.int16), (26, np.int32), (27, np.int64)]:
        values = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, ROWS * 5, kind, endpoint=True)
        add(np.dtype(kind).name, number, 5, values, values)
    values = rng.standard_normal(ROWS * 5)
    add("f64", 28, 5, values, values)
    write("ggml.gguf", tensors)
    (HERE / "ggml.f32").write_bytes(b"".join(floats))


def make_quantized():
    """Rows of 256 numbers, and their blocks of every type that can be written."""
    rows = [rng.standard_normal(256) * scale for scale in [0.02, 1, 300, 1e-6]]
    rows += [rng.standard_t(2, 256), np.zeros(256), np.full(256, 0.7), np.full(256, -0.3), rng.uniform(0.5, 1, 256)]
    rows += [rng.standard_normal(256) * 1e-20, rng.integers(-4, 5, 256) / 4, np.where(np.arange(256) == 77, 60, 0.01)]
    rows += [np.repeat(rng.standard_normal(8) * 10.0 ** rng.integers(-8, 3, 8), 32) * rng.standard_normal(256)]
    values = np.array(rows, np.float32)
    n = len(values)
    tensors = [("values", 0, values.shape, values.tobytes()), ("f16", 1, values.shape, values.astype(np.float16).tobytes())]
    for kind in [T.BF16, T.Q8_0, T.Q4_0]:
        tensors.append((kind.name.lower(), kind.value, values.shape, gguf.quantize(values, kind).tobytes()))
    for number, label, size in [(12, "q4_K", 144), (13, "q5_K", 176), (14, "q6_K", 210)]:
        blocks = in_c(f"quantize_row_{label}_ref", values, np.zeros((n, size), np.uint8))
        tensors.append((label, number, values.shape, blocks.tobytes()))
    write("quantized.gguf", tensors)


make_types()
make_quantized()
