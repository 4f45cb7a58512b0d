// Vectors of 8 floats with AVX2 and FMA: see simd.h, which includes this file in namespace nt_avx2.

using F = __m256;
using I = __m256i;
using Mask = __m256;
constexpr int64_t lanes = 8;
struct Full {};
struct Tail {
    int64_t count;
};
NT_INLINE Tail tail(int64_t count) { return {count}; }

NT_INLINE F set(float x) { return _mm256_set1_ps(x); }
NT_INLINE F zero() { return _mm256_setzero_ps(); }
NT_INLINE F widen(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
// To the nearest, ties to even; NaN stays NaN, quiet.
NT_INLINE __m128i narrow_exactly(F x) {
    const I b = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
    const I rounded = _mm256_add_epi32(b, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const I quiet = _mm256_or_si256(b, _mm256_set1_epi32(0x400000)), nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, 3));
    const I half = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
NT_INLINE __m128i narrow(F x) { return narrow_exactly(x); }
NT_INLINE F load(const float *p, Full) { return _mm256_loadu_ps(p); }
NT_INLINE F load(const bf16 *p, Full) { return widen(_mm_loadu_si128((const __m128i *)p)); }
NT_INLINE void store(float *p, F x, Full) { _mm256_storeu_ps(p, x); }
NT_INLINE void store(bf16 *p, F x, Full) { _mm_storeu_si128((__m128i *)p, narrow(x)); }
template <class T> NT_INLINE F load(const T *p, Tail part) {
    T block[8] = {};
    memcpy(block, p, size_t(part.count) * sizeof(T));
    return load(block, Full{});
}
template <class T> NT_INLINE void store(T *p, F x, Tail part) {
    T block[8];
    store(block, x, Full{});
    memcpy(p, block, size_t(part.count) * sizeof(T));
}

template <class Part> NT_INLINE void store_exactly(bf16 *p, F x, Part part) { store(p, x, part); }

NT_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
NT_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
NT_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }  // b where one of them is NaN
NT_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
NT_INLINE F sqrt(F a) { return _mm256_sqrt_ps(a); }
NT_INLINE F abs(F a) { return _mm256_andnot_ps(set(-0.0f), a); }
NT_INLINE F copy_sign(F magnitude, F sign) { return _mm256_or_ps(abs(magnitude), _mm256_and_ps(set(-0.0f), sign)); }
NT_INLINE Mask less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
NT_INLINE F select(Mask m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
NT_INLINE F first_or(F x, F, Full) { return x; }
NT_INLINE F first_or(F x, F other, Tail part) {
    const I index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return select(_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(int(part.count)), index)), x, other);
}
NT_INLINE F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
NT_INLINE F reciprocal(F x) { return set(1.0f) / x; }
// x 2^n for whole n in -126 ... 127
NT_INLINE F scale(F x, F n) {
    const I exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return x * _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
NT_INLINE float sum(F x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
NT_INLINE float largest(F x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
// p 2^n, where that is e^x; below e^-87.33 it is 0, as subnormals are not made.
constexpr float least_exponent = -87.3365f;
NT_INLINE F power(F p, F n, F x) {
    // In two factors: 2^128 does not exist where p 2^128 may.
    const F half = round(n * set(0.5f));
    return select(less(x, set(least_exponent)), zero(), scale(scale(p, half), n - half));
}

// Whole numbers in the lanes.
NT_INLINE I bits(F x) { return _mm256_castps_si256(x); }
NT_INLINE F floats(I x) { return _mm256_castsi256_ps(x); }
NT_INLINE I set_whole(int32_t x) { return _mm256_set1_epi32(x); }
NT_INLINE I add(I a, I b) { return _mm256_add_epi32(a, b); }
NT_INLINE I both(I a, I b) { return _mm256_and_si256(a, b); }
NT_INLINE I either(I a, I b) { return _mm256_or_si256(a, b); }
template <int n> NT_INLINE I up(I x) { return _mm256_slli_epi32(x, n); }
template <int n> NT_INLINE I down(I x) { return _mm256_srli_epi32(x, n); }
template <int n> NT_INLINE I down_signed(I x) { return _mm256_srai_epi32(x, n); }
NT_INLINE I select(Mask m, I yes, I no) { return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(m)); }
NT_INLINE Mask is_nan(F x) { return _mm256_cmp_ps(x, x, _CMP_UNORD_Q); }
NT_INLINE F to_float(I x) { return _mm256_cvtepi32_ps(x); }
NT_INLINE I truncated(F x) { return _mm256_cvttps_epi32(x); }
NT_INLINE I load_whole(const uint8_t *p, Full) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
NT_INLINE I load_whole(const uint16_t *p, Full) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)); }
NT_INLINE void store_whole(uint16_t *p, I x, Full) {  // the lower 16 bits
    const I low = both(x, set_whole(0xFFFF));
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
NT_INLINE void store_whole(uint8_t *p, I x, Full) {  // 0 ... 255
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}
template <class T> NT_INLINE I load_whole(const T *p, Tail part) {
    T block[8] = {};
    memcpy(block, p, size_t(part.count) * sizeof(T));
    return load_whole(block, Full{});
}
template <class T> NT_INLINE void store_whole(T *p, I x, Tail part) {
    T block[8];
    store_whole(block, x, Full{});
    memcpy(p, block, size_t(part.count) * sizeof(T));
}
// table[i] for i in 0 ..< 16
NT_INLINE F lookup(const float *table, I i) { return _mm256_i32gather_ps(table, i, 4); }
// table[i mod 32]
NT_INLINE F lookup32(const float *table, I i) { return lookup(table, both(i, set_whole(31))); }
NT_INLINE I lookup32(const int32_t *table, I i) { return _mm256_i32gather_epi32(table, both(i, set_whole(31)), 4); }
NT_INLINE I plus_one_where(Mask m, I x) { return _mm256_sub_epi32(x, _mm256_castps_si256(m)); }

struct Doubles {
    __m256d at[2];
};
NT_INLINE void add_squares(Doubles &sum, F x) {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(x)), high = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
    sum.at[0] = _mm256_fmadd_pd(low, low, sum.at[0]);
    sum.at[1] = _mm256_fmadd_pd(high, high, sum.at[1]);
}
NT_INLINE double sum(const Doubles &x) {
    const __m256d s = x.at[0] + x.at[1];
    return (s[0] + s[2]) + (s[1] + s[3]);
}
