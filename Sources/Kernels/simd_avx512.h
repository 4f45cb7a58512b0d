// Vectors of 16 floats with AVX-512: see simd.h. With AVX512-BF16 (NT_ISA 3), activations are rounded by its instruction.

using F = __m512;
using I = __m512i;
using Mask = __mmask16;
constexpr int64_t lanes = 16;
struct Full {};
struct Tail {
    __mmask16 mask;
};
NT_INLINE Tail tail(int64_t count) { return {__mmask16((1u << count) - 1)}; }

NT_INLINE F set(float x) { return _mm512_set1_ps(x); }
NT_INLINE F zero() { return _mm512_setzero_ps(); }
NT_INLINE F widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
// To the nearest, ties to even; NaN stays NaN, quiet.
NT_INLINE __m256i narrow_exactly(F x) {
    const I b = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
    const I rounded = _mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const I half = _mm512_mask_or_epi32(rounded, nan, b, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(half, 16));
}
#if NT_ISA == 3
NT_INLINE __m256i narrow(F x) { return (__m256i)_mm512_cvtneps_pbh(x); }  // the same, but subnormals become 0
#else
NT_INLINE __m256i narrow(F x) { return narrow_exactly(x); }
#endif
NT_INLINE F load(const float *p, Full) { return _mm512_loadu_ps(p); }
NT_INLINE F load(const bf16 *p, Full) { return widen(_mm256_loadu_si256((const __m256i *)p)); }
NT_INLINE F load(const float *p, Tail part) { return _mm512_maskz_loadu_ps(part.mask, p); }
NT_INLINE F load(const bf16 *p, Tail part) { return widen(_mm256_maskz_loadu_epi16(part.mask, p)); }
NT_INLINE void store(float *p, F x, Full) { _mm512_storeu_ps(p, x); }
NT_INLINE void store(bf16 *p, F x, Full) { _mm256_storeu_si256((__m256i *)p, narrow(x)); }
NT_INLINE void store(float *p, F x, Tail part) { _mm512_mask_storeu_ps(p, part.mask, x); }
NT_INLINE void store(bf16 *p, F x, Tail part) { _mm256_mask_storeu_epi16(p, part.mask, narrow(x)); }

NT_INLINE void store_exactly(bf16 *p, F x, Full) { _mm256_storeu_si256((__m256i *)p, narrow_exactly(x)); }
NT_INLINE void store_exactly(bf16 *p, F x, Tail part) { _mm256_mask_storeu_epi16(p, part.mask, narrow_exactly(x)); }

NT_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
NT_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
NT_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }  // b where one of them is NaN
NT_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
NT_INLINE F sqrt(F a) { return _mm512_sqrt_ps(a); }
NT_INLINE F abs(F a) { return _mm512_abs_ps(a); }
NT_INLINE F copy_sign(F magnitude, F sign) { return _mm512_or_ps(abs(magnitude), _mm512_and_ps(set(-0.0f), sign)); }
NT_INLINE Mask less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
NT_INLINE F select(Mask m, F yes, F no) { return _mm512_mask_mov_ps(no, m, yes); }
NT_INLINE F first_or(F x, F, Full) { return x; }
NT_INLINE F first_or(F x, F other, Tail part) { return _mm512_mask_mov_ps(other, part.mask, x); }
NT_INLINE F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// 1 / x for |x| < 2^126: 14 bits, doubled by a step of Newton.
NT_INLINE F reciprocal(F x) {
    const F guess = _mm512_rcp14_ps(x);
    return guess * fnma(x, guess, set(2.0f));
}
NT_INLINE float sum(F x) { return _mm512_reduce_add_ps(x); }
NT_INLINE float largest(F x) { return _mm512_reduce_max_ps(x); }
constexpr float least_exponent = -104;  // e^x is 0 below
NT_INLINE F power(F p, F n, F) { return _mm512_scalef_ps(p, n); }

NT_INLINE I bits(F x) { return _mm512_castps_si512(x); }
NT_INLINE F floats(I x) { return _mm512_castsi512_ps(x); }
NT_INLINE I set_whole(int32_t x) { return _mm512_set1_epi32(x); }
NT_INLINE I add(I a, I b) { return _mm512_add_epi32(a, b); }
NT_INLINE I both(I a, I b) { return _mm512_and_si512(a, b); }
NT_INLINE I either(I a, I b) { return _mm512_or_si512(a, b); }
template <int n> NT_INLINE I up(I x) { return _mm512_slli_epi32(x, n); }
template <int n> NT_INLINE I down(I x) { return _mm512_srli_epi32(x, n); }
template <int n> NT_INLINE I down_signed(I x) { return _mm512_srai_epi32(x, n); }
NT_INLINE I select(Mask m, I yes, I no) { return _mm512_mask_mov_epi32(no, m, yes); }
NT_INLINE Mask is_nan(F x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
NT_INLINE F to_float(I x) { return _mm512_cvtepi32_ps(x); }
NT_INLINE I truncated(F x) { return _mm512_cvttps_epi32(x); }
NT_INLINE I load_whole(const uint8_t *p, Full) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
NT_INLINE I load_whole(const uint16_t *p, Full) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}
NT_INLINE I load_whole(const uint8_t *p, Tail part) { return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(part.mask, p)); }
NT_INLINE I load_whole(const uint16_t *p, Tail part) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(part.mask, p));
}
NT_INLINE void store_whole(uint8_t *p, I x, Full) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(x)); }
NT_INLINE void store_whole(uint16_t *p, I x, Full) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(x)); }
NT_INLINE void store_whole(uint8_t *p, I x, Tail part) { _mm_mask_storeu_epi8(p, part.mask, _mm512_cvtepi32_epi8(x)); }
NT_INLINE void store_whole(uint16_t *p, I x, Tail part) {
    _mm256_mask_storeu_epi16(p, part.mask, _mm512_cvtepi32_epi16(x));
}
NT_INLINE F lookup(const float *table, I i) { return _mm512_permutexvar_ps(i, _mm512_loadu_ps(table)); }
NT_INLINE F lookup32(const float *table, I i) {
    return _mm512_permutex2var_ps(_mm512_loadu_ps(table), i, _mm512_loadu_ps(table + 16));
}
NT_INLINE I lookup32(const int32_t *table, I i) {
    return _mm512_permutex2var_epi32(_mm512_loadu_si512(table), i, _mm512_loadu_si512(table + 16));
}
NT_INLINE I plus_one_where(Mask m, I x) { return _mm512_mask_add_epi32(x, m, x, _mm512_set1_epi32(1)); }

struct Doubles {
    __m512d at[2];
};
NT_INLINE void add_squares(Doubles &sum, F x) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    sum.at[0] = _mm512_fmadd_pd(low, low, sum.at[0]);
    sum.at[1] = _mm512_fmadd_pd(high, high, sum.at[1]);
}
NT_INLINE double sum(const Doubles &x) { return _mm512_reduce_add_pd(x.at[0] + x.at[1]); }
