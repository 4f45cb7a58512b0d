// bf16 (its 16 bits) and fp32, one number at a time.
#pragma once
#include <cstdint>
#include <cstring>

namespace nt {

inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline float widened(float x) { return x; }
inline float widened(uint16_t bf16) { return float_of(uint32_t(bf16) << 16); }

/// To the nearest bf16, ties to even; NaN stays a quiet NaN.
inline uint16_t rounded(float x) {
    const uint32_t bits = bits_of(x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace nt
