// The kernels of generation once for all vector instruction sets: included by decode_avx2.cpp, decode_avx512.cpp,
// decode_avx512bf16.cpp and decode_amx.cpp, each inside its own namespace and under its own target attribute.
// NT_WIDE: 16 lanes instead of 8. NT_PAIRS: products of bf16 pairs. NT_TILES: products of tiles.
// n rows of x, I inputs, R weight rows at a time, L lanes

#include "decode_vectors.h"
#include "decode_rows.h"
#include "decode_floats.h"
#if NT_PAIRS
#include "decode_pairs.h"
#endif
#include "decode_bytes.h"

// MARK: Packing and products

inline Packing packing(int32_t type) {
    if (type == NT_W_BF16) return Packing::pairs;
    return is_quantised(type) ? Packing::bytes : Packing::floats;
}

inline void pack(Packing packing, const float *x, int64_t stride, int64_t columns, int64_t n, void *out) {
    if (packing == Packing::pairs)
#if NT_PAIRS
        return pack_pairs(x, stride, columns, n, (uint16_t *)out);
#else
        return pack_floats<uint16_t>(x, stride, columns, n, (float *)out);
#endif
    if (packing == Packing::bytes) return pack_bytes(x, stride, columns, n, out);
    pack_floats<float>(x, stride, columns, n, (float *)out);
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
            byte_rows<type>(w, packed, n, begin, end, sink);
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

inline void layer_norm(
    const float *x, const float *weight, const float *bias, int64_t count, float epsilon, float *out) {
    // Of the last vector the lanes beyond x are the mean, so that they add nothing.
    const auto rest = [&](const float *p, float filler) {
        float lanes[L];
        for (int64_t l = 0; l < L; ++l) lanes[l] = l < count % L ? p[count - count % L + l] : filler;
        return load(lanes);
    };
    Vec total = count % L ? rest(x, 0) : zero();
    for (int64_t i = 0; i + L <= count; i += L) total = add(total, load(x + i));
    const float mean = sum(total) / float(count);
    const auto centred = [&](Vec v) { return sub(v, set1(mean)); };
    Vec squares = count % L ? centred(rest(x, mean)) : zero();
    squares = mul(squares, squares);
    for (int64_t i = 0; i + L <= count; i += L) squares = fma(centred(load(x + i)), centred(load(x + i)), squares);
    const float scale = 1 / sqrtf(sum(squares) / float(count) + epsilon);
    int64_t i = 0;
    for (; i + L <= count; i += L)
        store(out + i, fma(mul(centred(load(x + i)), set1(scale)), load(weight + i), load(bias + i)));
    for (; i < count; ++i) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

/// out = body(vectors of the inputs at the same place), the last of `count` numbers in a part of a vector.
template <class Body, class... Inputs>
inline void each_vector(int64_t count, float *out, Body &&body, const Inputs *...inputs) {
    int64_t i = 0;
    for (; i + L <= count; i += L) store(out + i, body(load(inputs + i)...));
    if (i < count) store_part(out + i, body(load_part(inputs + i, count - i)...), count - i);
}

template <class Bend>
inline void activate_by(Bend &&bend, const float *gate, const float *up, int64_t count, float *out) {
    if (gate)
        each_vector(count, out, [&](Vec g, Vec u) { return mul(bend(g), u); }, gate, up);
    else
        each_vector(count, out, bend, up);
}

inline void activate(int32_t act, const float *gate, const float *up, int64_t count, float *out) {
    // x / 2 (1 + tanh u) = x / (1 + e^-2u)
    const auto tanh_gelu = [](Vec x) {
        return logistic_share(x, mul(mul(set1(1.595769122f), x), fma(mul(x, x), set1(0.044715f), set1(1))));
    };
    if (act == NT_ACT_SILU) return activate_by([](Vec x) { return logistic_share(x, x); }, gate, up, count, out);
    if (act == NT_ACT_TANH_GELU) return activate_by(tanh_gelu, gate, up, count, out);
    activate_by([](Vec x) { return normal_share(x); }, gate, up, count, out);
}

inline void cap(float *x, int64_t count, float cap) {
    each_vector(count, x, [&](Vec v) { return mul(hyperbolic_tangent(mul(v, set1(1 / cap))), set1(cap)); }, x);
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

// MARK: Attention and the table

#include "decode_attention.h"

constexpr DecodeKernels kernels{packing, packed_bytes, pack,     rows, attend,
                                rms_norm, layer_norm,  activate, cap,  weights};
