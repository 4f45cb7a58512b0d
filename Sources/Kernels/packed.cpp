// Packed weights: arguments, the scalar twins, the C entries. Formats: include/packed.h.
#include "packed.h"

#include <cmath>

#include "dispatch.h"
#include "merge.h"
#include "packed_types.h"

namespace {

// What decode_rows writes: rows counted from `row`, each from `column` on.
template <class T> struct Decode {
    nt_packed w;
    int64_t row, column, columns;
    T *out;
    int64_t stride;
};

template <class T> struct Encode {
    int64_t columns;
    const T *w;
    uint8_t *data;
    float *magnitudes;  // NF4
};

// Appendix E of the paper. A test compares them with the quantiles that define them.
constexpr float nf4_values[16] = {-1.0f,
                                  -0.6961928009986877f,
                                  -0.5250730514526367f,
                                  -0.39491748809814453f,
                                  -0.28444138169288635f,
                                  -0.18477343022823334f,
                                  -0.09105003625154495f,
                                  0.0f,
                                  0.07958029955625534f,
                                  0.16093020141124725f,
                                  0.24611230194568634f,
                                  0.33791524171829224f,
                                  0.44070982933044434f,
                                  0.5626170039176941f,
                                  0.7229568362236023f,
                                  1.0f};

struct Middles {
    float at[15];
};
// Halfway between neighbours: a number above k of them has code k.
constexpr Middles nf4_middles = [] {
    Middles middles{};
    for (int k = 0; k < 15; ++k) middles.at[k] = float((double(nf4_values[k]) + double(nf4_values[k + 1])) / 2);
    return middles;
}();

// Calls body(type) with the type as a constant: NT_W_TAUGHT for all that were taught.
template <class Body> auto with_packed_type(int32_t type, Body &&body) {
    if (nt::is_taught(type)) return body(std::integral_constant<int32_t, NT_W_TAUGHT>{});
#define NT_TYPE(name) \
    case name: return body(std::integral_constant<int32_t, name>{});
    switch (type) {
        NT_TYPE(NT_W_BF16)
        NT_TYPE(NT_W_F16)
        NT_TYPE(NT_W_Q8_0)
        NT_TYPE(NT_W_Q4_0)
        NT_TYPE(NT_W_Q4_1)
        NT_TYPE(NT_W_Q5_0)
        NT_TYPE(NT_W_Q5_1)
        NT_TYPE(NT_W_Q2_K)
        NT_TYPE(NT_W_Q3_K)
        NT_TYPE(NT_W_Q4_K)
        NT_TYPE(NT_W_Q5_K)
        NT_TYPE(NT_W_Q6_K)
        default: return body(std::integral_constant<int32_t, NT_W_NF4>{});
    }
#undef NT_TYPE
}

// Columns begin ..< begin + count of a block's row, zeros beyond the row's end.
template <class T> void row_part(const Encode<T> &a, int64_t row, int64_t begin, int64_t count, float *out) {
    const int64_t there = std::min(count, a.columns - begin);
    for (int64_t i = 0; i < there; ++i) out[i] = float(a.w[row * a.columns + begin + i]);
    for (int64_t i = there; i < count; ++i) out[i] = 0;
}

// 1 / d; 0 where that would be infinite, which is where d is 0 in half precision.
float q8_0_inverse(float d) { return d >= 0x1p-126f ? 1 / d : 0; }

// 64 codes as 32 bytes.
void store_nf4(const uint8_t *codes, uint8_t *out) {
    for (int i = 0; i < 32; ++i) out[i] = uint8_t(codes[i] | codes[32 + i] << 4);
}

}  // namespace

namespace nt_twin {

// Element i of `count` whole blocks' elements from `begin` on is `put`.
template <auto type, class Put> void decode_part(const nt_packed &w, int64_t row, int64_t begin, int64_t count, Put put) {
    const uint8_t *block = nt::packed_at(w, row, begin);
    if constexpr (type == NT_W_NF4) {
        for (int64_t i = 0; i < count; ++i) {
            const uint8_t pair = block[i / 64 * 32 + i % 32];
            const int code = i % 64 < 32 ? pair & 15 : pair >> 4;
            put(i, float(double(nf4_values[code]) * nt::nf4_scale(w, row, (begin + i) / 64)));
        }
    } else if constexpr (type == NT_W_BF16 || type == NT_W_F16) {
        for (int64_t i = 0; i < count; ++i) {
            const uint16_t bits = nt::half_bits(block + 2 * i);
            put(i, type == NT_W_F16 ? nt::from_f16(bits) : widened(bits));
        }
    } else if constexpr (type == NT_W_TAUGHT) {
        float x[nt::kPanel];
        nt::taught_part(w.type, block, count, x);
        for (int64_t i = 0; i < count; ++i) put(i, x[i]);
    } else {
        constexpr nt::Coded form = nt::coded(type);
        uint8_t q[nt::kPanel];
        float d[nt::kPanel / 16], m[nt::kPanel / 16];
        nt::packed_codes<type>(block, count, q, d, m);
        for (int64_t i = 0; i < count; ++i) {
            const float scaled = float(double(d[i / form.group]) * (int(q[i]) - form.offset));
            put(i, form.has_minima ? float(double(scaled) + m[i / form.group]) : scaled);
        }
    }
}

template <class T, auto type> void decode_rows(const Decode<T> &a, int64_t begin, int64_t end) {
    const int64_t block = nt::packed_block_of(type).elements;
    for (int64_t row = begin; row < end; ++row)
        for (int64_t from = 0; from < a.columns; from += nt::kPanel) {
            const int64_t there = std::min(nt::kPanel, a.columns - from);
            T *out = a.out + row * a.stride + from;
            decode_part<type>(
                a.w, a.row + row, a.column + from, (there + block - 1) / block * block, [&](int64_t i, float x) {
                    if (i < there) put(out[i], double(x));
                });
        }
}

template <class T> void nf4_encode(const Encode<T> &a, int64_t begin, int64_t end) {
    const int64_t blocks = nt::blocks_of_row(NT_W_NF4, a.columns);
    for (int64_t row = begin; row < end; ++row)
        for (int64_t b = 0; b < blocks; ++b) {
            float x[64], most = 0;
            uint8_t codes[64];
            row_part(a, row, 64 * b, 64, x);
            for (float value : x) most = std::max(most, std::fabs(value));
            for (int i = 0; i < 64; ++i) {
                codes[i] = 0;
                for (float middle : nf4_middles.at) codes[i] += (most > 0 ? x[i] / most : 0) > middle;
            }
            a.magnitudes[row * blocks + b] = most;
            store_nf4(codes, a.data + (row * blocks + b) * 32);
        }
}

template <class T> void q8_0_encode(const Encode<T> &a, int64_t begin, int64_t end) {
    const int64_t blocks = nt::blocks_of_row(NT_W_Q8_0, a.columns);
    for (int64_t row = begin; row < end; ++row)
        for (int64_t b = 0; b < blocks; ++b) {
            float x[32], most = 0;
            row_part(a, row, 32 * b, 32, x);
            for (float value : x) most = std::max(most, std::fabs(value));
            const float d = most / 127, inverse = q8_0_inverse(d);
            uint8_t *out = a.data + (row * blocks + b) * 34;
            nt_f16_from_f32(&d, out, 1);
            for (int i = 0; i < 32; ++i) out[2 + i] = uint8_t(int8_t(std::round(x[i] * inverse)));  // halves away from 0
        }
}

}  // namespace nt_twin

#define NT_BODY "packed.simd.h"
#include "each_isa.h"

NT_DISPATCH(decode_rows)
NT_DISPATCH(nf4_encode)
NT_DISPATCH(q8_0_encode)

nt::Taught nt::taught_types[NT_W_TAUGHT_TYPES];

extern "C" void nt_packed_teach(int32_t type, int64_t elements, int64_t bytes, nt_block_decoder decode) {
    nt::taught_types[type - NT_W_TAUGHT] = {{elements, bytes}, decode};
}
extern "C" int64_t nt_packed_block(int32_t type) { return nt::packed_block_of(type).elements; }
extern "C" int64_t nt_packed_row_bytes(int32_t type, int64_t columns) {
    return nt::blocks_of_row(type, columns) * nt::packed_block_of(type).bytes;
}
extern "C" const float *nt_nf4_values(void) { return nf4_values; }

#define NT_ENTRIES(T, S)                                                                                             \
    extern "C" void nt_packed_decode_##S(const nt_packed *w, int64_t row, int64_t rows, int64_t column,              \
                                         int64_t columns, T *out, int64_t stride, nt_parallel parallel) {            \
        const auto range = with_packed_type(w->type, [](auto type) { return picked_decode_rows<T, type.value>(); }); \
        const Decode<T> a{*w, row, column, columns, out, stride};                                                    \
        nt::run(parallel, rows, nt::row_grain(columns), range, a);                                                   \
    }
NT_ENTRIES(uint16_t, bf16)
NT_ENTRIES(float, f32)
NT_ENTRIES(double, f64)

extern "C" void nt_nf4_encode(
    int64_t rows, int64_t columns, const float *w, uint8_t *data, float *magnitudes, nt_parallel parallel) {
    const Encode<float> a{columns, w, data, magnitudes};
    nt::run(parallel, rows, nt::row_grain(columns), picked_nf4_encode<float>(), a);
}

extern "C" void nt_q8_0_encode(int64_t rows, int64_t columns, const float *w, uint8_t *data, nt_parallel parallel) {
    const Encode<float> a{columns, w, data, nullptr};
    nt::run(parallel, rows, nt::row_grain(columns), picked_q8_0_encode<float>(), a);
}

extern "C" void nt_nf4_encode_scales(int64_t count, const float *magnitudes, int8_t *codes, float *steps, float *mean) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += magnitudes[i];
    *mean = count > 0 ? float(sum / double(count)) : 0;
    for (int64_t from = 0; from < count; from += NT_NF4_SCALES) {
        const int64_t end = std::min<int64_t>(count, from + NT_NF4_SCALES);
        float most = 0;
        for (int64_t i = from; i < end; ++i) most = std::max(most, std::fabs(magnitudes[i] - *mean));
        const float step = most / 127;
        steps[from / NT_NF4_SCALES] = step;
        for (int64_t i = from; i < end; ++i)
            codes[i] = step > 0 ? int8_t(std::lrint((magnitudes[i] - *mean) / step)) : int8_t(0);
    }
}
