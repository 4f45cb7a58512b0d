// The kernels of generation once for all vector instruction sets: included by decode_avx2.cpp, decode_avx512.cpp,
// decode_avx512bf16.cpp and decode_amx.cpp, each inside its own namespace and under its own target attribute.
// NT_WIDE: 16 lanes instead of 8, and products of bytes. NT_PAIRS: products of bf16 pairs. NT_TILES: products of tiles.
// n rows of x, I inputs, R weight rows at a time, L lanes

#include "decode_vectors.h"
#include "decode_rows.h"
#include "decode_floats.h"
#if NT_PAIRS
#include "decode_pairs.h"
#endif
#if NT_WIDE
#include "decode_bytes.h"
#endif
#include "decode_attention.h"

// MARK: The table

inline Packing packing(int32_t type) {
#if NT_PAIRS
    if (type == NT_W_BF16) return Packing::pairs;
#endif
#if NT_WIDE
    if (is_quantised(type)) return Packing::bytes;
#endif
    (void)type;
    return Packing::floats;
}

inline void pack(Packing packing, const float *x, int64_t stride, int64_t columns, int64_t n, void *out) {
#if NT_PAIRS
    if (packing == Packing::pairs) return pack_pairs(x, stride, columns, n, (uint16_t *)out);
#endif
#if NT_WIDE
    if (packing == Packing::bytes) return pack_bytes(x, stride, columns, n, out);
#endif
    (void)packing;
    pack_floats(x, stride, columns, n, (float *)out);
}

inline void rows(
    const nt_weight &w, const void *packed, int64_t n, int64_t begin, int64_t end, float *y, int64_t stride,
    bool adds) {
    const Sink sink{w, y, stride, begin, n, adds};
    with_type(w.type, [&](auto type) {
        if constexpr (type == NT_W_F32)
            float_rows<float>(w, (const float *)packed, n, begin, end, sink);
        else if constexpr (type == NT_W_BF16)
#if NT_PAIRS
            pair_rows(w, (const uint16_t *)packed, n, begin, end, sink);
#else
            float_rows<uint16_t>(w, (const float *)packed, n, begin, end, sink);
#endif
        else
#if NT_WIDE
            byte_rows<type>(w, packed, n, begin, end, sink);
#else
            decoded_rows<type>(w, (const float *)packed, n, begin, end, sink);
#endif
    });
}

// MARK: Around the products

inline void rms_norm(const float *x, const float *weight, int64_t count, float epsilon, float *out) {
    Vec squares[2] = {zero(), zero()};
    int64_t i = 0;
    for (; i + L <= count; i += L) squares[i / L % 2] = fma(load(x + i), load(x + i), squares[i / L % 2]);
    if (i < count) {
        const Vec v = load_part(x + i, count - i);
        squares[0] = fma(v, v, squares[0]);
    }
    const float scale = 1 / sqrtf(sum(add(squares[0], squares[1])) / float(count) + epsilon);
    for (i = 0; i + L <= count; i += L) store(out + i, mul(mul(load(x + i), set1(scale)), load(weight + i)));
    for (; i < count; ++i) out[i] = x[i] * scale * weight[i];
}

inline void swiglu(const float *gate, const float *up, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += L) {
        const int64_t lanes = count - i < L ? count - i : L;
        const Vec g = lanes == L ? load(gate + i) : load_part(gate + i, lanes);
        const Vec u = lanes == L ? load(up + i) : load_part(up + i, lanes);
        const Vec y = mul(div(g, add(set1(1), exponential(sub(zero(), g)))), u);
        if (lanes == L)
            store(out + i, y);
        else
            store_part(out + i, y, lanes);
    }
}

inline double weights(const float *x, int64_t count, float top, float factor, float *out) {
    double total = 0;
    constexpr int64_t piece = 32 * L;  // summed in fp32
    for (int64_t i = 0; i < count;) {
        const int64_t end = count - i < piece ? count : i + piece;
        Vec part = zero();
        for (; i + L <= end; i += L) {
            const Vec e = exponential(mul(sub(load(x + i), set1(top)), set1(factor)));
            store(out + i, e);
            part = add(part, e);
        }
        total += double(sum(part));
        if (i < end) {
            float rest[L];
            store(rest, exponential(mul(sub(load_part(x + i, end - i), set1(top)), set1(factor))));
            for (int64_t j = 0; i < end; ++i, ++j) total += double(out[i] = rest[j]);
        }
    }
    return total;
}

constexpr DecodeKernels kernels{packing, packed_bytes, pack, rows, attend, rms_norm, swiglu, weights};
