// Part of decode_bytes.h: codes, scales and products of bytes in 8 lanes, with AVX2. Products of an unsigned and a signed
// byte are added in pairs to 16 bits, which saturate: codes of up to 6 bits stay below that. Codes of 8 bits are taken
// signed, w = d q, as the size of one and the other with its sign.

/// Two times 32 codes, interleaved: their first halves and their second halves, so that the sums over two halves are joined
/// before they are widened.
struct Codes {
    __m256i first, second;
};
constexpr bool has_signed_codes(int32_t type) { return type == NT_W_I8 || type == NT_W_Q8_0; }

inline __m256i load_bytes(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
/// 16 bytes from one place and 16 from another.
inline __m256i load_bytes(const void *low, const void *high) {
    return _mm256_set_m128i(_mm_loadu_si128((const __m128i *)high), _mm_loadu_si128((const __m128i *)low));
}
inline __m256i four_bits(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
inline Codes codes_of(const uint8_t *a, const uint8_t *b) { return {load_bytes(a, b), load_bytes(a + 16, b + 16)}; }

/// In the row's order.
inline void store_codes(uint8_t *p, Codes v) {
    __m128i *to = (__m128i *)p;
    _mm_storeu_si128(to, _mm256_castsi256_si128(v.first));
    _mm_storeu_si128(to + 1, _mm256_castsi256_si128(v.second));
    _mm_storeu_si128(to + 2, _mm256_extracti128_si256(v.first, 1));
    _mm_storeu_si128(to + 3, _mm256_extracti128_si256(v.second, 1));
}
/// 64 codes of a row of x, in that order, as `add_dots` reads them.
inline void interleave_codes(int8_t *p, const int8_t *codes) {
    const Codes v = codes_of((const uint8_t *)codes, (const uint8_t *)codes + 32);
    _mm256_storeu_si256((__m256i *)p, v.first);
    _mm256_storeu_si256((__m256i *)(p + 32), v.second);
}

/// Codes, scale and sums of 32 elements, of which `left` exist.
inline void pack_block(const float *x, int64_t left, int8_t *codes, float &scale, float *half_sums) {
    // Sizes compared as bits, of which a NaN's are the largest.
    Vec v[4];
    __m256i sizes = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
        v[i] = up_to(x + i * L, left - i * L);
        sizes = _mm256_max_epi32(sizes, _mm256_and_si256(_mm256_castps_si256(v[i]), _mm256_set1_epi32(0x7FFFFFFF)));
    }
    __m128i top = _mm_max_epi32(_mm256_castsi256_si128(sizes), _mm256_extracti128_si256(sizes, 1));
    top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0x4E));
    top = _mm_max_epi32(top, _mm_shuffle_epi32(top, 0xB1));
    scale = float_of(uint32_t(_mm_cvtsi128_si32(top))) / 127;
    const Vec inverse = set1(inverse_of(scale));
    __m256i whole[4];
    for (int i = 0; i < 4; ++i) whole[i] = _mm256_cvtps_epi32(mul(v[i], inverse));
    for (int half = 0; half < 2; ++half) {
        const __m256i low = whole[2 * half], high = whole[2 * half + 1];
        half_sums[half] = scale * sum(_mm256_cvtepi32_ps(_mm256_add_epi32(low, high)));
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(codes + 16 * half), bytes);
    }
}

/// The s-th 64 codes of a row of `columns`.
template <int32_t type>
inline Codes codes_at(const uint8_t *row, int64_t s, int64_t columns) {
    const int64_t left = columns - kStep * s;
    if constexpr (type == NT_W_I8) {
        const uint8_t *at = row + kStep * s;
        if (left >= kStep) return codes_of(at, at + 32);
        uint8_t some[kStep] = {};
        memcpy(some, at, size_t(left));
        return codes_of(some, some + 32);
    } else if constexpr (type == NT_W_Q8_0 || type == NT_W_Q4_0 || type == NT_W_Q4_1) {
        constexpr int64_t bytes = type == NT_W_Q8_0 ? 34 : type == NT_W_Q4_0 ? 18 : 20;
        constexpr int64_t head = type == NT_W_Q4_1 ? 4 : 2;
        const uint8_t *a = row + 2 * bytes * s + head, *b = left > 32 ? a + bytes : a;  // the last may stand alone
        if constexpr (type == NT_W_Q8_0) return codes_of(a, b);
        const __m256i v = load_bytes(a, b);
        return {four_bits(v), four_bits(_mm256_srli_epi16(v, 4))};
    } else if constexpr (type == NT_W_Q4_K) {
        const auto half = [](const uint8_t *at) {
            const __m128i v = _mm_loadu_si128((const __m128i *)at);
            return four_bits(_mm256_set_m128i(_mm_srli_epi16(v, 4), v));
        };
        const uint8_t *at = row + s / 4 * 144 + 16 + s % 4 * 32;
        return {half(at), half(at + 16)};
    } else {
        const uint8_t *block = row + s / 4 * 210, *low = block + s % 4 / 2 * 64, *high = block + 128 + s % 4 / 2 * 32;
        const auto half = [&](int64_t at) {
            const __m256i four = load_bytes(low + at, low + 32 + at);
            const __m128i two = _mm_loadu_si128((const __m128i *)(high + at));
            const __m256i moved = s % 2 == 0 ? _mm256_set_m128i(_mm_slli_epi16(two, 2), _mm_slli_epi16(two, 4))
                                             : _mm256_set_m128i(_mm_srli_epi16(two, 2), two);
            return _mm256_or_si256(
                four_bits(s % 2 == 0 ? four : _mm256_srli_epi16(four, 4)),
                _mm256_and_si256(moved, _mm256_set1_epi8(48)));
        };
        return {half(0), half(16)};
    }
}

/// The first words of up to 8 blocks, zeros beyond them.
template <int size>
inline __m256i first_words(const uint8_t *at, int64_t blocks) {
    const auto word = [&](int64_t block) {
        int word = 0;
        if (block < blocks) memcpy(&word, at + block * size, 4);
        return word;
    };
    return _mm256_set_epi32(word(7), word(6), word(5), word(4), word(3), word(2), word(1), word(0));
}

/// 8 halves, each the lower part of a word.
inline Vec from_halves(__m256i words) {
    const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    return _mm256_cvtph_ps(_mm_packus_epi32(low, high));
}

/// d and m of up to 8 groups from `at` on, zeros beyond them; of a Q6_K block the first 8 or the last.
template <int32_t type>
inline void chunk_scales(const uint8_t *at, int64_t part, float row_scale, int64_t groups, Vec &d, Vec &m) {
    if constexpr (type == NT_W_I8) {
        d = set1(row_scale);
        m = zero();
    } else if constexpr (type == NT_W_Q4_K) {
        const __m128i small = q4_k_scales(at);
        const __m256i scales = _mm256_cvtepu8_epi32(small), least = _mm256_cvtepu8_epi32(_mm_srli_si128(small, 8));
        d = mul(_mm256_cvtepi32_ps(scales), set1(from_f16_fast(half_bits(at))));
        m = mul(_mm256_cvtepi32_ps(least), set1(-from_f16_fast(half_bits(at + 2))));
    } else if constexpr (type == NT_W_Q6_K) {
        const __m128i small = _mm_loadl_epi64((const __m128i *)(at + 192 + 8 * part));
        d = mul(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(small)), set1(from_f16_fast(half_bits(at + 208))));
        m = mul(d, set1(-32));
    } else {
        constexpr int size = type == NT_W_Q8_0 ? 34 : type == NT_W_Q4_0 ? 18 : 20;
        const __m256i words = groups >= L ? first_words<size>(at, L) : first_words<size>(at, groups);
        d = from_halves(_mm256_and_si256(words, _mm256_set1_epi32(0xFFFF)));
        m = type == NT_W_Q8_0   ? zero()
            : type == NT_W_Q4_0 ? mul(d, set1(-8))
                                : from_halves(_mm256_srli_epi32(words, 16));
    }
}

/// Scales of 8 groups in memory, where each can be had in many lanes.
struct Spread {
    alignas(32) float scales[L];
    Spread() = default;
    explicit Spread(Vec v) { store(scales, v); }
    /// Two groups', each in half the lanes.
    Vec of(int64_t a, int64_t b) const { return _mm256_set_m128(_mm_set1_ps(scales[b]), _mm_set1_ps(scales[a])); }
};

/// Each of 4 numbers twice.
inline Vec load_twice(const float *p) {
    const __m128 v = _mm_loadu_ps(p);
    return _mm256_set_m128(_mm_unpackhi_ps(v, v), _mm_unpacklo_ps(v, v));
}

/// Sums of two products each, in 16 bits.
template <int32_t type>
inline __m256i dot_pairs(__m256i q, __m256i x) {
    if constexpr (has_signed_codes(type)) return _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q));
    return _mm256_maddubs_epi16(q, x);
}
inline __m256i widened_pairs(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

/// sum += the products of the s-th 64 codes times their groups' scales.
template <int32_t type>
inline Vec add_dots(const Codes &q, const int8_t *x, const Spread &scales, int64_t s, Vec sum) {
    const __m256i first = dot_pairs<type>(q.first, load_bytes(x)), second = dot_pairs<type>(q.second, load_bytes(x + 32));
    if constexpr (type == NT_W_Q6_K) {  // whose halves are groups
        sum = fma(_mm256_cvtepi32_ps(widened_pairs(first)), scales.of(4 * s, 4 * s + 2), sum);
        return fma(_mm256_cvtepi32_ps(widened_pairs(second)), scales.of(4 * s + 1, 4 * s + 3), sum);
    } else {
        const __m256i whole = has_signed_codes(type)
                                  ? _mm256_add_epi32(widened_pairs(first), widened_pairs(second))
                                  : widened_pairs(_mm256_add_epi16(first, second));
        return fma(_mm256_cvtepi32_ps(whole), scales.of(2 * s, 2 * s + 1), sum);
    }
}

/// Sums over a group's quads of codes, in whole numbers: R rows against 8 lanes.
template <int32_t type, int R>
inline void lane_dots(const uint8_t (*q)[kPanel], int64_t begin, int64_t end, const int8_t *codes, Vec *out) {
    // Quads whose sums 16 bits hold: of 2 x 127 x 15, 63 or 128 each.
    constexpr int64_t quads = has_signed_codes(type) ? 1 : type == NT_W_Q6_K ? 2 : 8;
    __m256i whole[R];
    for (int r = 0; r < R; ++r) whole[r] = _mm256_setzero_si256();
    for (int64_t from = begin; from < end; from += quads) {
        __m256i sums[R];
        for (int r = 0; r < R; ++r) sums[r] = _mm256_setzero_si256();
        for (int64_t quad = from; quad < from + quads; ++quad) {
            const __m256i v = load_bytes(codes + quad * 4 * L);
            for (int r = 0; r < R; ++r) {
                int four;
                memcpy(&four, q[r] + 4 * quad, 4);
                sums[r] = _mm256_add_epi16(sums[r], dot_pairs<type>(_mm256_set1_epi32(four), v));
            }
        }
        for (int r = 0; r < R; ++r) whole[r] = _mm256_add_epi32(whole[r], widened_pairs(sums[r]));
    }
    for (int r = 0; r < R; ++r) out[r] = _mm256_cvtepi32_ps(whole[r]);
}
