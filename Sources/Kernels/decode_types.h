// What the files of decode*.cpp share: stored weights one element at a time, packed activations, the table of kernels
// of an instruction set.
#pragma once
#include <string.h>

#include <type_traits>

#include "decode.h"
#include "numbers.h"
#include "run.h"

namespace nt {

/// Rows of x that a weight row is multiplied with as dot products at a time. Where there are more, 16 (or 8) of them are
/// lanes, but for pairs of bf16 without tiles.
constexpr int64_t kDotRows = 4;
/// Elements of a row that are decoded at a time; whole blocks of every type.
constexpr int64_t kPanel = 512;

inline uint16_t half_bits(const uint8_t *at) { return uint16_t(at[0] | at[1] << 8); }

inline float from_f16(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
    uint32_t bits;
    float value;
    if (exponent == 0) {  // subnormal: mantissa 2^-24
        value = float(mantissa) * 0x1p-24f;
        memcpy(&bits, &value, 4);
        bits |= sign;
    } else {
        bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
    }
    memcpy(&value, &bits, 4);
    return value;
}

/// Elements and bytes of a block.
struct Block {
    int64_t elements, bytes;
};

inline Block block_of(int32_t type) {
    switch (type) {
        case NT_W_F32: return {1, 4};
        case NT_W_BF16: return {1, 2};
        case NT_W_I8: return {1, 1};
        case NT_W_Q8_0: return {32, 34};
        case NT_W_Q4_0: return {32, 18};
        case NT_W_Q4_1: return {32, 20};
        case NT_W_Q4_K: return {256, 144};
        case NT_W_Q6_K: return {256, 210};
        default: return {0, 0};
    }
}

inline bool is_quantised(int32_t type) { return type >= NT_W_I8; }

inline const uint8_t *row_of(const nt_weight &w, int64_t o) {
    const Block block = block_of(w.type);
    return static_cast<const uint8_t *>(w.data) + o * (w.columns / block.elements * block.bytes);
}

/// The 6-bit scale and minimum of group j of the eight of a Q4_K block.
inline void packed_scale(const uint8_t *scales, int j, int &scale, int &min) {
    if (j < 4) {
        scale = scales[j] & 63;
        min = scales[j + 4] & 63;
    } else {
        scale = (scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4;
        min = scales[j + 4] >> 4 | (scales[j] >> 6) << 4;
    }
}

/// Elements per scale when a row is written as codes: w = d q + m with q unsigned bytes (AVX2 takes those of 8 bits signed).
constexpr int64_t group_of(int32_t type) { return type == NT_W_Q6_K ? 16 : 32; }

/// Elements begin ..< begin + count as codes q and, per group, d and m. `count` may end at the row's end for NT_W_I8,
/// whose last group is filled up with codes of zero weight.
template <int32_t type>
inline void decode_codes(
    const uint8_t *row, float row_scale, int64_t begin, int64_t count, uint8_t *q, float *d, float *m) {
    if constexpr (type == NT_W_I8) {
        for (int64_t i = 0; i < count; ++i) q[i] = row[begin + i] ^ 0x80;
        for (int64_t i = count; i % 32; ++i) q[i] = 0x80;
        for (int64_t g = 0; g * 32 < count; ++g) d[g] = row_scale, m[g] = -128 * row_scale;
    } else if constexpr (type == NT_W_Q8_0) {
        const uint8_t *block = row + begin / 32 * 34;
        for (int64_t g = 0; g < count / 32; ++g, block += 34, q += 32) {
            d[g] = from_f16(half_bits(block));
            m[g] = -128 * d[g];
            for (int i = 0; i < 32; ++i) q[i] = block[2 + i] ^ 0x80;
        }
    } else if constexpr (type == NT_W_Q4_0 || type == NT_W_Q4_1) {
        constexpr int bytes = type == NT_W_Q4_0 ? 18 : 20, head = bytes - 16;
        const uint8_t *block = row + begin / 32 * bytes;
        for (int64_t g = 0; g < count / 32; ++g, block += bytes, q += 32) {
            d[g] = from_f16(half_bits(block));
            m[g] = type == NT_W_Q4_0 ? -8 * d[g] : from_f16(half_bits(block + 2));
            uint8_t pairs[16];  // a copy, which q cannot overlap: the loop is then a few instructions
            memcpy(pairs, block + head, 16);
            for (int i = 0; i < 16; ++i) q[i] = pairs[i] & 15, q[16 + i] = pairs[i] >> 4;
        }
    } else if constexpr (type == NT_W_Q4_K) {
        const uint8_t *block = row + begin / 256 * 144;
        for (int64_t b = 0; b < count / 256; ++b, block += 144) {
            const float scale = from_f16(half_bits(block)), least = from_f16(half_bits(block + 2));
            for (int j = 0; j < 8; ++j) {
                int s, mn;
                packed_scale(block + 4, j, s, mn);
                d[b * 8 + j] = scale * float(s);
                m[b * 8 + j] = -(least * float(mn));
            }
            for (int j = 0; j < 4; ++j, q += 64)
                for (int i = 0; i < 32; ++i) {
                    q[i] = block[16 + 32 * j + i] & 15;
                    q[32 + i] = block[16 + 32 * j + i] >> 4;
                }
        }
    } else {
        const uint8_t *block = row + begin / 256 * 210;
        for (int64_t b = 0; b < count / 256; ++b, block += 210) {
            const float scale = from_f16(half_bits(block + 208));
            for (int g = 0; g < 16; ++g) {
                d[b * 16 + g] = scale * float(int8_t(block[192 + g]));
                m[b * 16 + g] = -32 * d[b * 16 + g];
            }
            for (int half = 0; half < 2; ++half, q += 128) {
                const uint8_t *low = block + 64 * half, *high = block + 128 + 32 * half;
                for (int i = 0; i < 32; ++i) {
                    q[i] = (low[i] & 15) | (high[i] & 3) << 4;
                    q[32 + i] = (low[32 + i] & 15) | (high[i] >> 2 & 3) << 4;
                    q[64 + i] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
                    q[96 + i] = low[32 + i] >> 4 | (high[i] >> 6) << 4;
                }
            }
        }
    }
}

/// Elements begin ..< begin + count (at most kPanel) as fp32. Signed codes come before the scale, so that d (q - 8) is
/// rounded once, as the formats say.
template <int32_t type>
inline void decode_floats(const uint8_t *row, float row_scale, int64_t begin, int64_t count, float *out) {
    if constexpr (type == NT_W_F32) {
        memcpy(out, row + 4 * begin, size_t(4 * count));
    } else if constexpr (type == NT_W_BF16) {
        for (int64_t i = 0; i < count; ++i) out[i] = widened(half_bits(row + 2 * (begin + i)));
    } else {
        constexpr int64_t group = group_of(type);
        constexpr bool hasMinima = type == NT_W_Q4_1 || type == NT_W_Q4_K;
        constexpr int offset = hasMinima ? 0 : type == NT_W_Q4_0 ? 8 : type == NT_W_Q6_K ? 32 : 128;
        uint8_t q[kPanel];
        float d[kPanel / 16], m[kPanel / 16];
        decode_codes<type>(row, row_scale, begin, count, q, d, m);
        const auto decode = [&](int64_t g, int64_t width) {
            const float scale = d[g], least = m[g];
            for (int64_t i = g * group; i < g * group + width; ++i) {
                const float value = scale * float(int(q[i]) - offset);
                out[i] = offset ? value : value + least;
            }
        };
        const int64_t whole = count / group;  // whose width is a constant
        for (int64_t g = 0; g < whole; ++g) decode(g, group);
        if (count % group) decode(whole, count % group);
    }
}

/// Calls `body` with the type as a constant.
template <class Body>
inline void with_type(int32_t type, Body &&body) {
    switch (type) {
        case NT_W_F32: return body(std::integral_constant<int32_t, NT_W_F32>{});
        case NT_W_BF16: return body(std::integral_constant<int32_t, NT_W_BF16>{});
        case NT_W_I8: return body(std::integral_constant<int32_t, NT_W_I8>{});
        case NT_W_Q8_0: return body(std::integral_constant<int32_t, NT_W_Q8_0>{});
        case NT_W_Q4_0: return body(std::integral_constant<int32_t, NT_W_Q4_0>{});
        case NT_W_Q4_1: return body(std::integral_constant<int32_t, NT_W_Q4_1>{});
        case NT_W_Q4_K: return body(std::integral_constant<int32_t, NT_W_Q4_K>{});
        case NT_W_Q6_K: return body(std::integral_constant<int32_t, NT_W_Q6_K>{});
    }
}

/// How x is packed for a product with weights in fp32, bf16 and blocks.
enum class Packing { floats, pairs, bytes };

/// Keys of one task of attention, at most: so few that short texts are work for several threads.
constexpr int64_t kKeys = 64;
/// Rows of x that one pass over the weights serves.
constexpr int64_t kPassRows = 64;

struct AttentionTask {
    const float *q;  // [group, E] of the token and key/value head
    const void *keys, *values;  // the first key of the task, rows `stride` elements apart
    int64_t stride, count, group, head_dim;
    int32_t type;
    float scale, cap;
    float *out;  // [group, E + 2]: sum of e^(s - max) v, then max and sum of e^(s - max)
};

/// The kernels of one instruction set.
struct DecodeKernels {
    Packing (*packing)(int32_t type);
    size_t (*packed_bytes)(Packing packing, int64_t columns, int64_t n);
    /// x [n, I] fp32
    void (*pack)(Packing packing, const float *x, int64_t stride, int64_t columns, int64_t n, void *out);
    /// y[t, o - begin] (+)= x[t] . W[o] for begin <= o < end; + bias.
    void (*rows)(
        const nt_weight &w, const void *packed, int64_t n, int64_t begin, int64_t end, float *y, int64_t stride,
        bool adds);
    void (*attend)(const AttentionTask &task);
    /// out = x weight / sqrt(mean(x^2) + epsilon)
    void (*rms_norm)(const float *x, const float *weight, int64_t count, float epsilon, float *out);
    /// out = (x - mean(x)) weight / sqrt(var(x) + epsilon) + bias
    void (*layer_norm)(
        const float *x, const float *weight, const float *bias, int64_t count, float epsilon, float *out);
    /// out = act(gate) up, or act(up) where gate is null; act: NT_ACT_SILU, ...
    void (*activate)(int32_t act, const float *gate, const float *up, int64_t count, float *out);
    /// x = cap tanh(x / cap)
    void (*cap)(float *x, int64_t count, float cap);
    /// out = exp(factor (x - top)); the sum.
    double (*weights)(const float *x, int64_t count, float top, float factor, float *out);
};

extern const DecodeKernels decode_scalar;
#if defined(__x86_64__)
extern const DecodeKernels decode_avx2, decode_avx512, decode_avx512bf16, decode_amx;
#endif

}  // namespace nt
