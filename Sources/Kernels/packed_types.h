// The blocks of packed weights: sizes, and codes of those types that decode_types.h does not have.
#pragma once
#include "decode_types.h"
#include "packed.h"

namespace nt {

/// A type whose blocks the caller decodes.
struct Taught {
    Block block{0, 0};
    nt_block_decoder decode = nullptr;
};
extern Taught taught_types[NT_W_TAUGHT_TYPES];

inline bool is_taught(int32_t type) { return type >= NT_W_TAUGHT && type < NT_W_TAUGHT + NT_W_TAUGHT_TYPES; }

inline Block packed_block_of(int32_t type) {
    if (is_taught(type)) return taught_types[type - NT_W_TAUGHT].block;
    switch (type) {
        case NT_W_NF4: return {NT_NF4_BLOCK, NT_NF4_BLOCK / 2};
        case NT_W_F16: return {1, 2};
        case NT_W_Q5_0: return {32, 22};
        case NT_W_Q5_1: return {32, 24};
        case NT_W_Q2_K: return {256, 84};
        case NT_W_Q3_K: return {256, 110};
        case NT_W_Q5_K: return {256, 176};
        case NT_W_I8: return {0, 0};
        default: return block_of(type);
    }
}

inline int64_t blocks_of_row(int32_t type, int64_t columns) {
    const int64_t elements = packed_block_of(type).elements;
    return (columns + elements - 1) / elements;
}

/// The block that holds column `begin`, where one starts.
inline const uint8_t *packed_at(const nt_packed &w, int64_t row, int64_t begin) {
    const Block block = packed_block_of(w.type);
    return static_cast<const uint8_t *>(w.data) +
           (row * blocks_of_row(w.type, w.columns) + begin / block.elements) * block.bytes;
}

/// `count` elements in whole blocks from `block` on, of a type that was taught.
inline void taught_part(int32_t type, const uint8_t *block, int64_t count, float *out) {
    const Taught &taught = taught_types[type - NT_W_TAUGHT];
    taught.decode(block, count / taught.block.elements, out);
}

/// The scale of block b of a row.
inline float nf4_scale(const nt_packed &w, int64_t row, int64_t b) {
    const int64_t at = row * blocks_of_row(NT_W_NF4, w.columns) + b;
    const float rest = w.scale_steps[at / NT_NF4_SCALES] * float(w.scale_codes[at]);
    return w.scale_mean + rest;
}

/// How codes become numbers: d (q - offset) + m, a d and m for each group.
struct Coded {
    int64_t group;
    int offset;
    bool has_minima;
};
constexpr Coded coded(int32_t type) {
    switch (type) {
        case NT_W_Q8_0: return {32, 128, false};
        case NT_W_Q4_0: return {32, 8, false};
        case NT_W_Q5_0: return {32, 16, false};
        case NT_W_Q3_K: return {16, 4, false};
        case NT_W_Q6_K: return {16, 32, false};
        case NT_W_Q2_K: return {16, 0, true};
        default: return {32, 0, true};  // Q4_1, Q5_1, Q4_K, Q5_K
    }
}

/// Codes, scales and minima of `count` elements in whole blocks from `block` on.
template <int32_t type>
inline void packed_codes(const uint8_t *block, int64_t count, uint8_t *q, float *d, float *m) {
    if constexpr (type == NT_W_Q5_0 || type == NT_W_Q5_1) {
        constexpr int bytes = type == NT_W_Q5_0 ? 22 : 24, head = bytes - 20;
        for (int64_t g = 0; g < count / 32; ++g, block += bytes, q += 32) {
            d[g] = from_f16(half_bits(block));
            m[g] = type == NT_W_Q5_0 ? 0 : from_f16(half_bits(block + 2));
            uint32_t fifth;
            memcpy(&fifth, block + head, 4);
            for (int i = 0; i < 16; ++i) {
                const uint8_t pair = block[head + 4 + i];
                q[i] = uint8_t((pair & 15) | (fifth >> i & 1) << 4);
                q[16 + i] = uint8_t(pair >> 4 | (fifth >> (i + 16) & 1) << 4);
            }
        }
    } else if constexpr (type == NT_W_Q2_K) {
        for (int64_t b = 0; b < count / 256; ++b, block += 84, q += 256, d += 16, m += 16) {
            const float scale = from_f16(half_bits(block + 80)), least = from_f16(half_bits(block + 82));
            for (int g = 0; g < 16; ++g) {
                d[g] = scale * float(block[g] & 15);
                m[g] = -(least * float(block[g] >> 4));
                const uint8_t *from = block + 16 + 32 * (g / 8) + 16 * (g % 2);
                for (int i = 0; i < 16; ++i) q[16 * g + i] = from[i] >> g / 2 % 4 * 2 & 3;
            }
        }
    } else if constexpr (type == NT_W_Q3_K) {
        for (int64_t b = 0; b < count / 256; ++b, block += 110, q += 256, d += 16) {
            const uint8_t *scales = block + 96;
            const float scale = from_f16(half_bits(block + 108));
            for (int g = 0; g < 16; ++g) {
                const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4, high = scales[8 + g % 4] >> g / 4 * 2 & 3;
                d[g] = scale * float((low | high << 4) - 32);
                const uint8_t *from = block + 32 + 32 * (g / 8) + 16 * (g % 2), *third = block + 16 * (g % 2);
                for (int i = 0; i < 16; ++i)
                    q[16 * g + i] = uint8_t((from[i] >> g / 2 % 4 * 2 & 3) | (third[i] >> g / 2 & 1) << 2);
            }
        }
    } else if constexpr (type == NT_W_Q5_K) {
        for (int64_t b = 0; b < count / 256; ++b, block += 176, q += 256, d += 8, m += 8) {
            const float scale = from_f16(half_bits(block)), least = from_f16(half_bits(block + 2));
            for (int g = 0; g < 8; ++g) {
                int s, mn;
                packed_scale(block + 4, g, s, mn);
                d[g] = scale * float(s);
                m[g] = -(least * float(mn));
                const uint8_t *high = block + 16, *low = block + 48 + 32 * (g / 2);
                for (int i = 0; i < 32; ++i)
                    q[32 * g + i] = uint8_t((low[i] >> g % 2 * 4 & 15) | (high[i] >> g & 1) << 4);
            }
        }
    } else {
        decode_codes<type>(block, 1, 0, count, q, d, m);
    }
}

}  // namespace nt
