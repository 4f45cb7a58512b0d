// Part of decode_bytes.h: codes, scales and products of bytes in 16 lanes, with AVX512-VNNI.

using Codes = __m512i;

inline void store_codes(uint8_t *p, Codes v) { _mm512_storeu_si512(p, v); }
/// 64 codes of a row of x as `add_dots` reads them: as they are.
inline void interleave_codes(int8_t *p, const int8_t *codes) { memcpy(p, codes, kStep); }

/// Codes, scale and sums of 32 elements, of which `left` exist.
inline void pack_block(const float *x, int64_t left, int8_t *codes, float &scale, float *half_sums) {
    const Vec low = up_to(x, left), high = up_to(x + 16, left - 16);
    // Sizes compared as bits, of which a NaN's are the largest.
    const __m512i sizes = _mm512_max_epi32(_mm512_castps_si512(_mm512_abs_ps(low)), _mm512_castps_si512(_mm512_abs_ps(high)));
    scale = float_of(uint32_t(_mm512_reduce_max_epi32(sizes))) / 127;
    const Vec inverse = set1(inverse_of(scale));
    const __m512i a = _mm512_cvtps_epi32(mul(low, inverse)), b = _mm512_cvtps_epi32(mul(high, inverse));
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtsepi32_epi8(a));
    _mm_storeu_si128((__m128i *)(codes + 16), _mm512_cvtsepi32_epi8(b));
    half_sums[0] = scale * float(_mm512_reduce_add_epi32(a));
    half_sums[1] = scale * float(_mm512_reduce_add_epi32(b));
}

/// 64 codes in order, the s-th 64 of a row of `columns`.
template <int32_t type>
inline Codes codes_at(const uint8_t *row, int64_t s, int64_t columns) {
    if constexpr (type == NT_W_I8) {
        const int64_t left = columns - 64 * s;
        const __m512i flip = _mm512_set1_epi8(char(0x80));
        if (left >= 64) return _mm512_xor_si512(_mm512_loadu_si512(row + 64 * s), flip);
        return _mm512_xor_si512(_mm512_maskz_loadu_epi8((1ull << left) - 1, row + 64 * s), flip);
    } else if constexpr (type == NT_W_Q8_0) {
        const uint8_t *block = row + 68 * s;
        const __m512i flip = _mm512_set1_epi8(char(0x80));
        const __m256i first = _mm256_loadu_si256((const __m256i *)(block + 2));
        // The last block may stand alone.
        if (64 * s + 32 >= columns) return _mm512_xor_si512(_mm512_zextsi256_si512(first), flip);
        const __m256i second = _mm256_loadu_si256((const __m256i *)(block + 36));
        return _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1), flip);
    } else if constexpr (type == NT_W_Q4_0 || type == NT_W_Q4_1) {
        constexpr int bytes = type == NT_W_Q4_0 ? 18 : 20, head = bytes - 16;
        const uint8_t *block = row + 2 * bytes * s;
        const __m128i first = _mm_loadu_si128((const __m128i *)(block + head));
        const __m128i second =
            64 * s + 32 < columns ? _mm_loadu_si128((const __m128i *)(block + bytes + head)) : _mm_setzero_si128();
        const __m512i both = _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1));
        // [first, first, second, second], the second and fourth shifted by a half byte
        const __m512i spread = _mm512_permutexvar_epi64(_mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0), both);
        const __m512i shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
        return _mm512_and_si512(_mm512_srlv_epi64(spread, shifts), _mm512_set1_epi8(15));
    } else if constexpr (type == NT_W_Q4_K) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(row + s / 4 * 144 + 16 + s % 4 * 32));
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(v), _mm256_srli_epi16(v, 4), 1);
        return _mm512_and_si512(both, _mm512_set1_epi8(15));
    } else {
        const uint8_t *block = row + s / 4 * 210;
        const __m512i low = _mm512_loadu_si512(block + s % 4 / 2 * 64);
        const __m256i high = _mm256_loadu_si256((const __m256i *)(block + 128 + s % 4 / 2 * 32));
        __m512i low4, high2;
        if (s % 2 == 0) {
            low4 = low;
            const __m512i first = _mm512_castsi256_si512(_mm256_slli_epi16(high, 4));
            high2 = _mm512_inserti64x4(first, _mm256_slli_epi16(high, 2), 1);
        } else {
            low4 = _mm512_srli_epi16(low, 4);
            high2 = _mm512_inserti64x4(_mm512_castsi256_si512(high), _mm256_srli_epi16(high, 2), 1);
        }
        // low4 & 15 | high2 & 48
        return _mm512_or_si512(
            _mm512_and_si512(low4, _mm512_set1_epi8(15)), _mm512_and_si512(high2, _mm512_set1_epi8(48)));
    }
}

/// 16 halves that stand `words` half words apart, `count` of them live, zeros for the others.
template <int words>
inline Vec halves_apart(const uint8_t *at, int64_t count) {
    __m512i found = _mm512_setzero_si512();
    const __mmask16 live = __mmask16((1u << count) - 1);
#pragma clang loop unroll(full)
    for (int part = 0; part * 32 <= 15 * words; ++part) {
        alignas(64) static constexpr auto index = [] {
            struct { uint16_t of[17][32]; uint32_t mask[17]; } t{};
            for (int p = 0; p < 17; ++p)
                for (int b = 0; b < 16; ++b) {
                    const int word = b * words - 32 * p;
                    if (word >= 0 && word < 32) t.of[p][b] = uint16_t(word), t.mask[p] |= 1u << b;
                }
            return t;
        }();
        const __mmask32 mask = index.mask[part] & live;
        if (!mask) continue;
        // Not beyond the last live half.
        const int64_t last = (count - 1) * words - 32 * part;
        const __m512i v = last >= 31 ? _mm512_loadu_si512(at + 64 * part)
                                     : _mm512_maskz_loadu_epi16(__mmask32((2ull << last) - 1), at + 64 * part);
        found = _mm512_mask_permutexvar_epi16(found, mask, _mm512_load_si512(index.of[part]), v);
    }
    return _mm512_cvtph_ps(_mm512_castsi512_si256(found));
}

/// d and m of up to 16 groups from `at` on, zeros beyond them. A Q6_K block is one part.
template <int32_t type>
inline void chunk_scales(const uint8_t *at, int64_t /*part*/, float row_scale, int64_t groups, Vec &d, Vec &m) {
    const __mmask16 live = __mmask16((1u << groups) - 1);
    if constexpr (type == NT_W_I8) {
        d = _mm512_maskz_mov_ps(live, set1(row_scale));
        m = mul(d, set1(-128));
    } else if constexpr (type == NT_W_Q8_0) {
        d = halves_apart<17>(at, groups);
        m = mul(d, set1(-128));
    } else if constexpr (type == NT_W_Q4_0) {
        d = halves_apart<9>(at, groups);
        m = mul(d, set1(-8));
    } else if constexpr (type == NT_W_Q4_1) {
        // Blocks of five words, the first of which is d and m.
        const int64_t words = 5 * groups;
        const auto part = [&](int64_t from) {
            if (words - from >= 16) return _mm512_loadu_si512(at + 4 * from);
            const __mmask16 exist = __mmask16((1u << (words > from ? words - from : 0)) - 1);
            return _mm512_maskz_loadu_epi32(exist, at + 4 * from);
        };
        const __m512i i = _mm512_set_epi32(75, 70, 65, 60, 55, 50, 45, 40, 35, 30, 25, 20, 15, 10, 5, 0);
        __m512i v = _mm512_permutex2var_epi32(part(0), i, part(16));  // 0 ... 30
        if (groups > 7) {
            const __m512i w = _mm512_permutex2var_epi32(part(32), i, part(48));  // indices modulo 32: 35 ... 60
            v = _mm512_mask_mov_epi32(v, 0x1F80, w);
            v = _mm512_mask_permutexvar_epi32(v, 0xE000, i, part(64));
        }
        v = _mm512_maskz_mov_epi32(live, v);  // the others have bits of codes, perhaps a NaN's
        d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
        m = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));
    } else if constexpr (type == NT_W_Q4_K) {
        Vec halves[2][2] = {{zero(), zero()}, {zero(), zero()}};
        for (int b = 0; b < groups / 8; ++b, at += 144) {
            const Vec wide = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q4_k_scales(at)));
            halves[0][b] = mul(wide, set1(from_f16_fast(half_bits(at))));
            halves[1][b] = mul(wide, set1(-from_f16_fast(half_bits(at + 2))));
        }
        d = _mm512_shuffle_f32x4(halves[0][0], halves[0][1], 0x44);
        m = _mm512_shuffle_f32x4(halves[1][0], halves[1][1], 0xEE);
    } else {
        const Vec wide = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(at + 192))));
        d = mul(wide, set1(from_f16_fast(half_bits(at + 208))));
        m = mul(d, set1(-32));
    }
}

using Spread = Vec;

/// Each of 8 numbers twice.
inline Vec load_twice(const float *p) {
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}

/// sum += the products of the s-th 64 codes, four to a lane, times their groups' scales.
template <int32_t type>
inline Vec add_dots(Codes q, const int8_t *x, Vec scales, int64_t s, Vec sum) {
    constexpr int64_t per_step = kStep / group_of(type);
    const __m512i pick = per_step == 4 ? _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0)
                                       : _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i groups = _mm512_add_epi32(pick, _mm512_set1_epi32(int(per_step * s)));
    const __m512i whole = _mm512_dpbusd_epi32(_mm512_setzero_si512(), q, _mm512_loadu_si512(x));
    return fma(_mm512_cvtepi32_ps(whole), _mm512_permutexvar_ps(groups, scales), sum);
}

/// Sums over a group's quads of codes, in whole numbers: R rows against 16 lanes.
template <int32_t type, int R>
inline void lane_dots(const uint8_t (*q)[kPanel], int64_t begin, int64_t end, const int8_t *codes, Vec *out) {
    __m512i whole[R];
    for (int r = 0; r < R; ++r) whole[r] = _mm512_setzero_si512();
    for (int64_t quad = begin; quad < end; ++quad) {
        const __m512i v = _mm512_loadu_si512(codes + quad * 4 * L);
        for (int r = 0; r < R; ++r) {
            int four;
            memcpy(&four, q[r] + 4 * quad, 4);
            whole[r] = _mm512_dpbusd_epi32(whole[r], _mm512_set1_epi32(four), v);
        }
    }
    for (int r = 0; r < R; ++r) out[r] = _mm512_cvtepi32_ps(whole[r]);
}
