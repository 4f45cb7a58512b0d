# Makes the golden files beside this script: python make_goldens.py
# gguf 0.19, safetensors 0.8, numpy. Weights are random bytes, so every bit pattern of a block is met.
import json
import pathlib

import gguf
import numpy as np
import safetensors.numpy

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(20261123)


def make_gguf():
    """Three blocks (or rows of 6) of every type that can be dequantised, metadata of every kind; and the floats."""
    writer = gguf.GGUFWriter(HERE / "types.gguf", "golden")
    writer.add_uint8("t.u8", 255)
    writer.add_int8("t.i8", -128)
    writer.add_uint16("t.u16", 65535)
    writer.add_int16("t.i16", -32768)
    writer.add_uint32("t.u32", 4294967295)
    writer.add_int32("t.i32", -2147483648)
    writer.add_uint64("t.u64", 2**64 - 1)
    writer.add_int64("t.i64", -(2**63))
    writer.add_float32("t.f32", 0.1)
    writer.add_float64("t.f64", 0.1)
    writer.add_bool("t.bool", True)
    writer.add_string("t.string", "na\u00efve \U0001f426")
    writer.add_array("t.strings", ["a", "", "\u00e9", "e\u0301"])
    writer.add_array("t.ints", [-1, 0, 7])
    writer.add_array("t.floats", [0.5, -1.25])
    writer.add_array("t.bools", [True, False])
    floats = []
    T = gguf.GGMLQuantizationType
    for kind in [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K]:
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = np.frombuffer(rng.bytes(3 * size), np.uint8).reshape(3, size).copy()
        if elements == 1:
            values = rng.standard_normal(6).astype(np.float32).reshape(2, 3)
            raw = values if kind == T.F32 else gguf.quantize(values, kind)
            raw = raw.view(np.float16) if kind == T.F16 else raw
            out = gguf.dequantize(raw.view(np.uint8) if kind == T.BF16 else raw, kind)
            writer.add_tensor(kind.name.lower(), raw, raw_dtype=kind)
        else:
            finite_scales(kind, blocks)
            out = gguf.dequantize(blocks, kind)
            writer.add_tensor(kind.name.lower(), blocks, raw_dtype=kind)
        assert np.isfinite(out).all()
        floats.append(out.astype(np.float32).reshape(-1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (HERE / "types.f32").write_bytes(np.concatenate(floats).tobytes())


def finite_scales(kind, blocks):
    """Half-precision scales without the all-ones exponent; one of them subnormal."""
    places = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208]}
    for place in places.get(kind.name, [0]):
        blocks[:, place + 1] &= 0xBF
        blocks[1, place + 1] &= 0x83


def make_safetensors():
    tensors = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.weight": np.array([1.5, -2], dtype=np.float32),
        "half": np.array([[0.5], [65504]], dtype=np.float16),
        "ids": np.array([2**40, -1], dtype=np.int64),
        "flags": np.array([True, False, True]),
        "byte": np.array([1, 255], dtype=np.uint8),
        "scalar": np.array(3, dtype=np.int32),
        "empty": np.zeros((0, 4), dtype=np.float64),
        "quote\"\\\u00e9\u0007": np.array([7], dtype=np.uint16),
        "signed": np.array([-1], dtype=np.int8),
    }
    safetensors.numpy.save_file(tensors, HERE / "golden.safetensors", metadata={"format": "pt"})


def make_halves():
    """Rows of u32 float32 bits, u16 the nearest float16 (numpy), u16 the nearest bfloat16 (gguf); no NaN."""
    halves = rng.integers(0, 2**16, 700, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    corners = [0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x387FF000]
    corners += [0x7F7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0x3F808000, 0x3F818000, 0x3F808001, 0x387FFFFF, 0x38800000]
    bits = np.concatenate(
        [
            rng.integers(0, 2**32, 800, dtype=np.uint32),
            rng.integers(0x32000000, 0x48000000, 800, dtype=np.uint32),  # where half precision has its range
            halves + rng.integers(0, 3, 700, dtype=np.uint32) * np.uint32(0x1000),  # ties
            np.array(corners, np.uint32),
        ]
    )
    bits = bits[~np.isnan(bits.view(np.float32))]
    with np.errstate(over="ignore"):
        f16 = bits.view(np.float32).astype(np.float16).view(np.uint16)
    bf16 = gguf.quantize(bits.view(np.float32).reshape(-1, 1), gguf.GGMLQuantizationType.BF16).view(np.uint16).reshape(-1)
    rows = np.empty(bits.size, dtype=[("f32", "<u4"), ("f16", "<u2"), ("bf16", "<u2")])
    rows["f32"], rows["f16"], rows["bf16"] = bits, f16, bf16
    (HERE / "halves.bin").write_bytes(rows.tobytes())


if __name__ == "__main__":
    make_gguf()
    make_safetensors()
    make_halves()
