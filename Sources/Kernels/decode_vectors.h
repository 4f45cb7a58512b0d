// Part of decode_body.h: vectors of fp32, and what is made of them.
// L lanes

#if NT_WIDE
using Vec = __m512;
constexpr int64_t L = 16;
inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float *p) { return _mm512_loadu_ps(p); }
inline Vec load(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
/// 2 L elements: the even ones and the odd ones.
inline void load_halves(const uint16_t *p, Vec &even, Vec &odd) {
    const __m512i both = _mm512_loadu_si512(p);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(int(0xffff0000))));
}
/// The first `count` < L elements, zeros after them.
inline Vec load_part(const float *p, int64_t count) { return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p); }
inline Vec load_part(const uint16_t *p, int64_t count) {
    const __m256i half = _mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline void store(float *p, Vec v) { _mm512_storeu_ps(p, v); }
inline void store_part(float *p, Vec v, int64_t count) { _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), v); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
/// x where a < b, else y.
inline Vec where_less(Vec a, Vec b, Vec x, Vec y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
inline Vec round_near(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/// a 2^n for whole n.
inline Vec scale_by_power(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }
inline float sum(Vec v) { return _mm512_reduce_add_ps(v); }
inline float largest(Vec v) { return _mm512_reduce_max_ps(v); }
#else
using Vec = __m256;
constexpr int64_t L = 8;
inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float *p) { return _mm256_loadu_ps(p); }
inline Vec load(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
inline void load_halves(const uint16_t *p, Vec &even, Vec &odd) {
    const __m256i both = _mm256_loadu_si256((const __m256i *)p);
    even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    odd = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(int(0xffff0000))));
}
template <class T>
inline Vec load_part(const T *p, int64_t count) {
    T part[8] = {};
    for (int64_t i = 0; i < count; ++i) part[i] = p[i];
    return load(part);
}
inline void store(float *p, Vec v) { _mm256_storeu_ps(p, v); }
inline void store_part(float *p, Vec v, int64_t count) {
    float part[8];
    store(part, v);
    for (int64_t i = 0; i < count; ++i) p[i] = part[i];
}
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec where_less(Vec a, Vec b, Vec x, Vec y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
inline Vec round_near(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec scale_by_power(Vec a, Vec n) {
    // Two halves, so that results down to the subnormal ones are right.
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    a = _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}
inline float sum(Vec v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float largest(Vec v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
#endif

#if NT_WIDE
/// 16 x 16 words: v[i][j] and v[j][i] change places.
inline void transpose(Vec *v) {
    Vec a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; ++j) {
            const __m512d x = _mm512_castps_pd(a[i + j]), y = _mm512_castps_pd(a[i + j + 2]);
            v[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            v[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    // v[4 i + j], lane 4 k + l: row 4 i + l, column 4 k + j
    for (int j = 0; j < 4; ++j) {
        const Vec x = _mm512_shuffle_f32x4(v[j], v[j + 4], 0x88), y = _mm512_shuffle_f32x4(v[j + 8], v[j + 12], 0x88);
        const Vec z = _mm512_shuffle_f32x4(v[j], v[j + 4], 0xDD), w = _mm512_shuffle_f32x4(v[j + 8], v[j + 12], 0xDD);
        a[j] = _mm512_shuffle_f32x4(x, y, 0x88);
        a[j + 8] = _mm512_shuffle_f32x4(x, y, 0xDD);
        a[j + 4] = _mm512_shuffle_f32x4(z, w, 0x88);
        a[j + 12] = _mm512_shuffle_f32x4(z, w, 0xDD);
    }
    for (int i = 0; i < 16; ++i) v[i] = a[i];
}
#endif

/// e^x, error below 2 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, and a polynomial of degree 6 for e^r (Cephes' expf).
inline Vec exponential(Vec x) {
    x = max(set1(-104.f), min(set1(88.7f), x));  // x last: NaN stays
    const Vec n = round_near(mul(x, set1(1.44269504f)));
    const Vec r = fma(n, set1(2.12194440e-4f), fma(n, set1(-0.693359375f), x));
    Vec p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    return scale_by_power(fma(mul(r, r), p, add(r, set1(1))), n);
}

inline Vec reciprocal(Vec x) { return div(set1(1), x); }

/// x / (1 + e^-u)
inline Vec logistic_share(Vec x, Vec u) { return div(x, add(set1(1), exponential(sub(zero(), u)))); }

/// Relative error below 1e-6: a polynomial where 1 - 2 / (e^2x + 1) would cancel (Cephes' tanhf).
inline Vec hyperbolic_tangent(Vec x) {
    const Vec size = max(x, sub(zero(), x)), square = mul(x, x);
    Vec near = set1(-5.70498872745e-3f);
    near = fma(near, square, set1(2.06390887954e-2f));
    near = fma(near, square, set1(-5.37397155531e-2f));
    near = fma(near, square, set1(1.33314422036e-1f));
    near = fma(near, square, set1(-3.33332819422e-1f));
    near = fma(mul(near, square), x, x);
    const Vec far = sub(set1(1), mul(set1(2), reciprocal(add(exponential(add(size, size)), set1(1)))));
    // In this order NaN is near, and stays.
    return where_less(set1(0.625f), size, where_less(x, zero(), sub(zero(), far), far), near);
}

/// x times the normal distribution function, absolute error below 3e-7 |x|: Abramowitz and Stegun, 7.1.26, whose sum is
/// the smaller tail, so that nothing cancels.
inline Vec normal_share(Vec x) {
    const Vec size = mul(max(x, sub(zero(), x)), set1(0.707106781f));
    const Vec t = reciprocal(fma(set1(0.3275911f), size, set1(1)));
    Vec p = set1(1.061405429f);
    p = fma(p, t, set1(-1.453152027f));
    p = fma(p, t, set1(1.421413741f));
    p = fma(p, t, set1(-0.284496736f));
    p = fma(p, t, set1(0.254829592f));
    const Vec tail = mul(mul(set1(0.5f), mul(p, t)), exponential(sub(zero(), mul(size, size))));
    return mul(x, where_less(x, zero(), tail, sub(set1(1), tail)));
}

/// Sums of the lanes of each of four vectors times `factor`, stored in order.
inline void store_sums(const Vec *v, float factor, float *out) {
#if NT_WIDE
    const Vec a = add(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const Vec b = add(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    const Vec c = add(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(c), _mm512_extractf32x8_ps(c, 1));
#else
    const Vec a = add(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
    const Vec b = add(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
    const __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
    const __m256 half = add(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)), _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
#endif
    const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    _mm_storeu_ps(out, _mm_mul_ps(sums, _mm_set1_ps(factor)));
}

/// Lines ahead of the reading position that are asked for, in bytes.
constexpr int64_t kAhead = 8192;
inline void prefetch(const void *p) { _mm_prefetch((const char *)p + kAhead, _MM_HINT_T0); }

inline float from_f16_fast(uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }

/// L elements of which `left` exist, zeros for the others.
inline Vec up_to(const float *p, int64_t left) { return left >= L ? load(p) : left > 0 ? load_part(p, left) : zero(); }
