// AVX2's vector operations for attention_body.h and products: 8 floats a vector. Included in the namespaces of level 1.

using F = __m256;
constexpr int64_t lanes = 8;
constexpr int tile_rows = 4;
alignas(32) constexpr float lane_numbers[8] = {0, 1, 2, 3, 4, 5, 6, 7};

NT_INLINE F set(float x) { return _mm256_set1_ps(x); }
NT_INLINE F load(const float *p) { return _mm256_loadu_ps(p); }
NT_INLINE F load(const bf16 *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
NT_INLINE void store(float *p, F x) { _mm256_storeu_ps(p, x); }
// Round to nearest even; NaN stays quiet.
NT_INLINE void store(bf16 *p, F x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i half = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p),
                     _mm_packus_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
NT_INLINE float first(F x) { return _mm256_cvtss_f32(x); }
NT_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
NT_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
NT_INLINE float largest(F x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
NT_INLINE float total(F x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
NT_INLINE F at_most(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
NT_INLINE F select(F mask, F yes, F no) { return _mm256_blendv_ps(no, yes, mask); }
// 2^x for x <= 127, 0 below -126.5: minimax polynomial on [-1/2, 1/2] (relative error 8e-8), exponent put in by bits.
NT_INLINE F exp2(F x) {
    x = _mm256_max_ps(set(-127), x);  // x last: NaN stays
    const F n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = x - n;
    F p = fma(set(1.32764720e-3f), r, set(9.67554133e-3f));
    p = fma(p, r, set(5.55071327e-2f));
    p = fma(p, r, set(2.40221197e-1f));
    p = fma(p, r, set(6.93146967e-1f));
    p = fma(p, r, set(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return p * _mm256_castsi256_ps(power);
}

// x [8, 8] transposed where it lies.
NT_INLINE void transpose(F (&x)[8]) {
    F y[8];
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i += 4) {  // 4 x 4 squares in each half of a vector
        const F low = _mm256_unpacklo_ps(x[i], x[i + 1]), high = _mm256_unpackhi_ps(x[i], x[i + 1]);
        const F low2 = _mm256_unpacklo_ps(x[i + 2], x[i + 3]), high2 = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
        y[i] = _mm256_shuffle_ps(low, low2, 0x44);
        y[i + 1] = _mm256_shuffle_ps(low, low2, 0xEE);
        y[i + 2] = _mm256_shuffle_ps(high, high2, 0x44);
        y[i + 3] = _mm256_shuffle_ps(high, high2, 0xEE);
    }
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; ++j) {
        x[j] = _mm256_permute2f128_ps(y[j], y[j + 4], 0x20);
        x[j + 4] = _mm256_permute2f128_ps(y[j], y[j + 4], 0x31);
    }
}

// out [8, 8] = in transposed.
NT_INLINE void transpose(const float *in, int64_t in_row, float *out, int64_t out_row) {
    F x[8];
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; ++i) x[i] = load(in + i * in_row);
    transpose(x);
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; ++i) store(out + i * out_row, x[i]);
}
