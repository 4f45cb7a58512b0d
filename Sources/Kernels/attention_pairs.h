// AVX512-BF16's operations on pairs of bf16 for attention_body.h. Included in the namespace of level 3 and 4.

// c + the sum of both products of each lane's pairs.
NT_INLINE F multiply_pairs(F a, F b, F c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
// 32 bf16: those of a, then those of b.
NT_INLINE __m512i narrow_pair(F a, F b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }
NT_INLINE void store_whole(float *p, __m512i x) { _mm512_storeu_si512(p, x); }
NT_INLINE void store_low(float *p, __m512i x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_castsi512_si256(x));
}
NT_INLINE void store_high(float *p, __m512i x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_extracti64x4_epi64(x, 1));
}
alignas(64) constexpr uint16_t zipped[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
// Words a[i], b[i] from what narrow_pair made.
NT_INLINE F interleaved(__m512i x) {
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_load_si512(zipped), x));
}
// 16 words: 32 bf16 of a row.
NT_INLINE F load_words(const bf16 *row) { return _mm512_loadu_ps(row); }
// Words row[i], next[i] (null: 0).
NT_INLINE F beside(const bf16 *row, const bf16 *next) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(row)));
    if (!next) return _mm512_castsi512_ps(low);
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(next)));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
