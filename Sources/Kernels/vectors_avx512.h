// AVX-512's vector operations for attention_body.h: 16 floats a vector. Included in the namespaces of levels 2 to 4.

using F = __m512;
constexpr int64_t lanes = 16;
constexpr int tile_rows = 8;
alignas(64) constexpr float lane_numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

NT_INLINE F set(float x) { return _mm512_set1_ps(x); }
NT_INLINE F load(const float *p) { return _mm512_loadu_ps(p); }
NT_INLINE F load(const bf16 *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
NT_INLINE void store(float *p, F x) { _mm512_storeu_ps(p, x); }
// Round to nearest even; NaN stays quiet.
NT_INLINE void store(bf16 *p, F x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(quiet, 16)));
}
NT_INLINE float first(F x) { return _mm512_cvtss_f32(x); }
NT_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
NT_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
NT_INLINE float largest(F x) { return _mm512_reduce_max_ps(x); }
NT_INLINE float total(F x) { return _mm512_reduce_add_ps(x); }
NT_INLINE __mmask16 at_most(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
NT_INLINE F select(__mmask16 mask, F yes, F no) { return _mm512_mask_mov_ps(no, mask, yes); }
// 2^x = 2^floor(x) 2^r, 0 <= r < 1: minimax polynomial (relative error 8e-8). 0 for -infinity; NaN stays.
NT_INLINE F exp2(F x) {
    const F r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x - floor(x), 0 for an infinity
    F p = fma(set(1.87757668e-3f), r, set(8.98934009e-3f));
    p = fma(p, r, set(5.58263181e-2f));
    p = fma(p, r, set(2.40153617e-1f));
    p = fma(p, r, set(6.93153073e-1f));
    p = fma(p, r, set(9.99999925e-1f));
    return _mm512_scalef_ps(p, x);  // takes floor(x) itself
}
// out [16, 16] = in transposed.
NT_INLINE void transpose(const float *in, int64_t in_row, float *out, int64_t out_row) {
    F x[16], y[16];
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; ++i) x[i] = load(in + i * in_row);
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i += 4) {  // 4 x 4 squares in each quarter of a vector
        const F low = _mm512_unpacklo_ps(x[i], x[i + 1]), high = _mm512_unpackhi_ps(x[i], x[i + 1]);
        const F low2 = _mm512_unpacklo_ps(x[i + 2], x[i + 3]), high2 = _mm512_unpackhi_ps(x[i + 2], x[i + 3]);
        y[i] = _mm512_shuffle_ps(low, low2, 0x44);
        y[i + 1] = _mm512_shuffle_ps(low, low2, 0xEE);
        y[i + 2] = _mm512_shuffle_ps(high, high2, 0x44);
        y[i + 3] = _mm512_shuffle_ps(high, high2, 0xEE);
    }
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; ++j) {  // quarters to their places
        const F even = _mm512_shuffle_f32x4(y[j], y[j + 4], 0x88), odd = _mm512_shuffle_f32x4(y[j], y[j + 4], 0xDD);
        const F even2 = _mm512_shuffle_f32x4(y[j + 8], y[j + 12], 0x88);
        const F odd2 = _mm512_shuffle_f32x4(y[j + 8], y[j + 12], 0xDD);
        store(out + j * out_row, _mm512_shuffle_f32x4(even, even2, 0x88));
        store(out + (j + 8) * out_row, _mm512_shuffle_f32x4(even, even2, 0xDD));
        store(out + (j + 4) * out_row, _mm512_shuffle_f32x4(odd, odd2, 0x88));
        store(out + (j + 12) * out_row, _mm512_shuffle_f32x4(odd, odd2, 0xDD));
    }
}
