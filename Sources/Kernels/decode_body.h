// The kernels of generation once for all vector instruction sets: included by decode_avx2.cpp, decode_avx512.cpp,
// decode_avx512bf16.cpp and decode_amx.cpp, each inside its own namespace and under its own target attribute.
// NT_WIDE: 16 lanes instead of 8, and products of bytes. NT_PAIRS: products of bf16 pairs. NT_TILES: products of tiles.
// n rows of x, I inputs, R weight rows at a time, L lanes

#if NT_WIDE
using Vec = __m512;
constexpr int64_t L = 16;
inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float *p) { return _mm512_loadu_ps(p); }
inline Vec load(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
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
    x = max(min(x, set1(88.7f)), set1(-104.f));
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

inline int64_t rounded_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

/// Lines ahead of the reading position that are asked for, in bytes.
constexpr int64_t kAhead = 8192;
inline void prefetch(const void *p) { _mm_prefetch((const char *)p + kAhead, _MM_HINT_T0); }

// MARK: Packed x
// Up to kDotRows rows stand one after the other, filled up with zeros; more stand element by element, L rows as lanes, but
// for pairs of bf16 without tiles, whose rows always stand one after the other.

inline int64_t padded(Packing packing, int64_t columns) {
    return rounded_up(columns, packing == Packing::floats ? L : packing == Packing::pairs ? 64 : kPanel);
}
inline bool in_lanes(int64_t n) { return n > kDotRows; }
inline int64_t packed_rows(int64_t n) { return in_lanes(n) ? rounded_up(n, L) : n; }

/// Bytes: codes; per block of 32 a scale and the sum of scale x code; that sum per half block. Rows: [n][width],
/// [n][width / 32], [n][width / 16]; as lanes: [groups][width / 4][L][4], [groups][width / 32][L],
/// [groups][width / 16][L].
struct PackedBytes {
    int8_t *codes;
    float *scales, *sums, *half_sums;
    int64_t width;
    PackedBytes(const void *packed, int64_t columns, int64_t n) : width(padded(Packing::bytes, columns)) {
        const int64_t rows = packed_rows(n), blocks = width / 32;
        codes = (int8_t *)packed;
        scales = (float *)(codes + rows * width);
        sums = scales + rows * blocks;
        half_sums = sums + rows * blocks;
    }
    static size_t bytes(int64_t columns, int64_t n) {
        const int64_t width = padded(Packing::bytes, columns), rows = packed_rows(n);
        return size_t(rows * width + 4 * (4 * rows * (width / 32)));
    }
};

inline size_t packed_bytes(Packing packing, int64_t columns, int64_t n) {
    const int64_t elements = packed_rows(n) * padded(packing, columns);
    switch (packing) {
        case Packing::floats: return size_t(4 * elements);
        case Packing::pairs: return size_t(2 * elements);
        case Packing::bytes: return PackedBytes::bytes(columns, n);
    }
    return 0;
}

inline void pack_floats(const float *x, int64_t stride, int64_t columns, int64_t n, float *out) {
    const int64_t width = padded(Packing::floats, columns);
    if (!in_lanes(n)) {
        for (int64_t t = 0; t < n; ++t, out += width) {
            memcpy(out, x + t * stride, size_t(4 * columns));
            for (int64_t i = columns; i < width; ++i) out[i] = 0;
        }
        return;
    }
    for (int64_t t = 0; t < n; t += L, out += width * L) {
        const int64_t lanes = n - t < L ? n - t : L;
        if (lanes < L) memset(out, 0, size_t(4 * width * L));
        for (int64_t lane = 0; lane < lanes; ++lane)
            for (int64_t i = 0; i < columns; ++i) out[i * L + lane] = x[(t + lane) * stride + i];
    }
}

// MARK: fp32 products, weights fp32 or bf16

/// out[r][t] += x[t] . w[r]
template <class T, int R, int N>
inline void dot_tile(const T *w, int64_t row, const float *x, int64_t x_row, int64_t columns, float (*out)[kDotRows]) {
    Vec sums[R][N];
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) sums[r][t] = zero();
    int64_t i = 0;
    for (; i + L <= columns; i += L)
        for (int r = 0; r < R; ++r) {
            const Vec v = load(w + r * row + i);
            if (i * int64_t(sizeof(T)) % 64 == 0) prefetch(w + r * row + i);
            for (int t = 0; t < N; ++t) sums[r][t] = fma(v, load(x + t * x_row + i), sums[r][t]);
        }
    if (i < columns)
        for (int r = 0; r < R; ++r) {
            const Vec v = load_part(w + r * row + i, columns - i);
            for (int t = 0; t < N; ++t) sums[r][t] = fma(v, load(x + t * x_row + i), sums[r][t]);
        }
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) out[r][t] += sum(sums[r][t]);
}

/// out[r][lane] += x[lane] . w[r]; x [columns][L]. `ahead`: bytes to the rows that come next, which are asked for line by
/// line meanwhile.
template <class T, int R>
inline void lane_tile(const T *w, int64_t row, const float *x, int64_t columns, int64_t ahead, float *out) {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    Vec sums[R];
    for (int r = 0; r < R; ++r) sums[r] = load(out + r * L);
    for (int64_t first = 0; first < columns; first += line) {
        if (ahead)
            for (int r = 0; r < R; ++r) _mm_prefetch((const char *)(w + r * row + first) + ahead, _MM_HINT_T0);
        const int64_t end = first + line < columns ? first + line : columns;
        for (int64_t i = first; i < end; ++i) {
            const Vec v = load(x + i * L);
            for (int r = 0; r < R; ++r) sums[r] = fma(set1(widened(w[r * row + i])), v, sums[r]);
        }
    }
    for (int r = 0; r < R; ++r) store(out + r * L, sums[r]);
}

/// Writes a tile of products; bias, addition and the layout of y are all here.
struct Sink {
    const nt_weight &w;
    float *y;
    int64_t stride, begin, n;
    bool adds;
    void put(int64_t o, int64_t t, float value) const {
        if (w.bias) value += w.bias[o];
        float *at = y + t * stride + o - begin;
        *at = adds ? *at + value : value;
    }
    template <int R>
    void rows(int64_t o, const float (*out)[kDotRows]) const {
        for (int64_t t = 0; t < n; ++t)
            for (int r = 0; r < R; ++r) put(o + r, t, out[r][t]);
    }
    /// out [R][N] for rows `apart` from each other and rows t ..< t + N of x.
    template <int R, int N>
    void block(int64_t o, int64_t apart, int64_t t, const float *out) const {
        for (int j = 0; j < N; ++j)
            for (int r = 0; r < R; ++r) put(o + r * apart, t + j, out[r * N + j]);
    }
    /// out [R][L] for rows t ..< t + L of x.
    template <int R>
    void lanes(int64_t o, int64_t t, float *out) const {
#if NT_WIDE
        if constexpr (R == 16) {
            Vec v[16];
            for (int r = 0; r < 16; ++r) v[r] = load(out + r * L);
            transpose(v);
            const Vec bias = w.bias ? load(w.bias + o) : zero();
            for (int64_t lane = 0; lane < L && t + lane < n; ++lane) {
                float *at = y + (t + lane) * stride + o - begin;
                const Vec value = add(v[lane], bias);
                store(at, adds ? add(load(at), value) : value);
            }
            return;
        }
#endif
        for (int64_t lane = 0; lane < L && t + lane < n; ++lane)
            for (int r = 0; r < R; ++r) put(o + r, t + lane, out[r * L + lane]);
    }
};

/// Calls body<R> over begin ..< end, R at a time, then one at a time.
template <int R, class Body>
inline void in_tiles(int64_t begin, int64_t end, Body &&body) {
    int64_t o = begin;
    for (; o + R <= end; o += R) body(std::integral_constant<int, R>{}, o);
    for (; o < end; ++o) body(std::integral_constant<int, 1>{}, o);
}

template <class Body>
inline void with_rows(int64_t n, Body &&body) {
    switch (n) {
        case 1: return body(std::integral_constant<int, 1>{});
        case 2: return body(std::integral_constant<int, 2>{});
        case 3: return body(std::integral_constant<int, 3>{});
        default: return body(std::integral_constant<int, 4>{});
    }
}

/// Rows o ..< o + R of bf16 weights against all n rows of x as lanes, widened a panel at a time. out [n / L][R L]
template <int R>
inline void wide_lane_tile(const uint16_t *w, const float *x, int64_t n, int64_t I, int64_t ahead, float (*out)[R * L]) {
    constexpr int64_t panel_width = 192;  // with 16 rows a quarter of a first-level cache; no power of two, whose rows share sets
    alignas(64) float panel[R * panel_width];
    const int64_t width = padded(Packing::floats, I);
    for (int64_t i = 0; i < I; i += panel_width) {
        const int64_t count = I - i < panel_width ? I - i : panel_width;
        for (int r = 0; r < R; ++r) {
            const uint16_t *row = w + r * I + i;
            for (int64_t j = 0; j < count; j += L) {
                if (ahead && j % 32 == 0) _mm_prefetch((const char *)(row + j) + ahead, _MM_HINT_T0);
                store(panel + r * panel_width + j, count - j < L ? load_part(row + j, count - j) : load(row + j));
            }
        }
        for (int64_t t = 0; t < n; t += L)
            lane_tile<float, R>(panel, panel_width, x + t * width + i * L, count, 0, out[t / L]);
    }
}

template <class T>
inline void float_rows(const nt_weight &w, const float *x, int64_t n, int64_t begin, int64_t end, const Sink &sink) {
    const T *data = (const T *)w.data;
    const int64_t I = w.columns, width = padded(Packing::floats, I);
    if (in_lanes(n)) {
        in_tiles<(NT_WIDE ? 16 : 8)>(begin, end, [&](auto R, int64_t o) {
            const int64_t next = o + 2 * R <= end ? R * I * int64_t(sizeof(T)) : 0;
            float out[kPassRows / L][R * L];
            memset(out, 0, sizeof out);
            if constexpr (std::is_same_v<T, float>)
                for (int64_t t = 0; t < n; t += L)
                    lane_tile<T, R>(data + o * I, I, x + t * width, I, t == 0 ? next : 0, out[t / L]);
            else
                wide_lane_tile<R>(data + o * I, x, n, I, next, out);
            for (int64_t t = 0; t < n; t += L) sink.lanes<R>(o, t, out[t / L]);
        });
    } else {
        with_rows(n, [&](auto N) {
            // One at a time: rows side by side are read less fast (pairs of bf16 lie far apart: pair_blocks).
            in_tiles<1>(begin, end, [&](auto R, int64_t o) {
                float out[R][kDotRows] = {};
                dot_tile<T, R, N>(data + o * I, I, x, width, I, out);
                sink.rows<R>(o, out);
            });
        });
    }
}

/// Blocks decoded to fp32 a panel at a time.
template <int32_t type>
inline void decoded_rows(const nt_weight &w, const float *x, int64_t n, int64_t begin, int64_t end, const Sink &sink) {
    const int64_t I = w.columns, width = padded(Packing::floats, I);
    in_tiles<4>(begin, end, [&](auto R, int64_t o) {
        float panel[R * kPanel];
        float lanes[8][R * L];  // up to 8 L rows of x
        float dots[R][kDotRows] = {};
        memset(lanes, 0, sizeof lanes);
        for (int64_t i = 0; i < I; i += kPanel) {
            const int64_t count = I - i < kPanel ? I - i : kPanel;
            for (int r = 0; r < R; ++r)
                decode_floats<type>(row_of(w, o + r), w.scales ? w.scales[o + r] : 1, i, count, panel + r * kPanel);
            if (in_lanes(n))
                for (int64_t t = 0; t < n; t += L)
                    lane_tile<float, R>(panel, kPanel, x + t * width + i * L, count, 0, lanes[t / L]);
            else
                with_rows(n, [&](auto N) { dot_tile<float, R, N>(panel, kPanel, x + i, width, count, dots); });
        }
        if (in_lanes(n))
            for (int64_t t = 0; t < n; t += L) sink.lanes<R>(o, t, lanes[t / L]);
        else
            sink.rows<R>(o, dots);
    });
}

#if NT_WIDE
/// 16 elements of which `left` exist, zeros for the others.
inline Vec up_to(const float *p, int64_t left) { return left >= L ? load(p) : left > 0 ? load_part(p, left) : zero(); }
#endif

#if NT_PAIRS
// MARK: Pairs of bf16

inline __m512i bf16_of(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/// Elements i ..< i + 32 of a row as 16 pairs, zeros beyond `columns`.
inline __m512i pairs_at(const float *row, int64_t i, int64_t columns) {
    return bf16_of(up_to(row + i, columns - i), up_to(row + i + 16, columns - i - 16));
}

inline void pack_pairs(const float *x, int64_t stride, int64_t columns, int64_t n, uint16_t *out) {
    const int64_t width = padded(Packing::pairs, columns);
#if NT_TILES
    // [width / 2][L][2]
    if (in_lanes(n)) {
        for (int64_t t = 0; t < n; t += L, out += width * L)
            for (int64_t i = 0; i < width; i += 32) {
                Vec v[16];
                for (int64_t lane = 0; lane < L; ++lane)
                    v[lane] = t + lane < n ? _mm512_castsi512_ps(pairs_at(x + (t + lane) * stride, i, columns)) : zero();
                transpose(v);
                for (int64_t j = 0; j < 16; ++j) store((float *)(out + (i + 2 * j) * L), v[j]);
            }
        return;
    }
#endif
    for (int64_t t = 0; t < n; ++t, out += width)
        for (int64_t i = 0; i < width; i += 32) _mm512_storeu_si512(out + i, pairs_at(x + t * stride, i, columns));
}

/// What a block asks memory for: nothing, the rows of weights behind the next ones, or the next ones into the first cache.
enum class Asks { nothing, farther, next };

/// out[r][t] = x[t] . w[r apart]. A product is one chain of sums whatever R and N are, so neither the number of threads nor
/// that of sequences changes it.
template <int R, int N, Asks asks>
inline void pair_block(
    const uint16_t *w, int64_t apart, const uint16_t *x, int64_t x_row, int64_t columns, float *out) {
    constexpr int count = (R * N + 3) / 4 * 4;
    Vec sums[count];
    for (int i = 0; i < count; ++i) sums[i] = zero();
    const auto step = [&](int64_t i, auto &&read) {
        __m512bh v[R];
        for (int r = 0; r < R; ++r) {
            const uint16_t *at = w + r * apart + i;
            if constexpr (asks == Asks::farther) _mm_prefetch((const char *)(at + 2 * columns), _MM_HINT_T1);
            if constexpr (asks == Asks::next) _mm_prefetch((const char *)(at + columns), _MM_HINT_T0);
            v[r] = (__m512bh)read(at);
        }
        for (int t = 0; t < N; ++t) {
            const __m512bh u = (__m512bh)_mm512_loadu_si512(x + t * x_row + i);
            for (int r = 0; r < R; ++r) sums[r * N + t] = _mm512_dpbf16_ps(sums[r * N + t], v[r], u);
        }
    };
    int64_t i = 0;
    for (; i + 32 <= columns; i += 32) step(i, [](const uint16_t *at) { return _mm512_loadu_si512(at); });
    if (i < columns)
        step(i, [&](const uint16_t *at) { return _mm512_maskz_loadu_epi16((1u << (columns - i)) - 1, at); });
    for (int j = 0; j < count; j += 4) store_sums(sums + j, 1, out + j);
}

/// Rows begin ..< end against all rows of x. Four far ranges are read at the same time: at the end of a page of memory the
/// processor's prefetching stops, but of one stream of four only.
inline void pair_blocks(
    const nt_weight &w, const uint16_t *x, int64_t width, int64_t n, int64_t begin, int64_t end, const Sink &sink) {
    const uint16_t *data = (const uint16_t *)w.data;
    const int64_t I = w.columns, quarter = (end - begin) / 4;
    const auto against = [&](auto R, auto asks, int64_t o, int64_t apart, int64_t t) {
        with_rows(n - t, [&](auto N) {
            float out[R * N + 3];
            pair_block<R, N, asks>(data + o * I, apart * I, x + t * width, width, I, out);
            sink.block<R, N>(o, apart, t, out);
        });
    };
    // The processor foresees what the first rows of x read; during the others it would read no memory.
    const auto against_all = [&](auto R, int64_t o, int64_t apart) {
        for (int64_t t = 0; t < n; t += kDotRows) {
            if (t == kDotRows)
                against(R, std::integral_constant<Asks, Asks::farther>{}, o, apart, t);
            else if (t > kDotRows && t + kDotRows >= n)
                against(R, std::integral_constant<Asks, Asks::next>{}, o, apart, t);
            else
                against(R, std::integral_constant<Asks, Asks::nothing>{}, o, apart, t);
        }
    };
    for (int64_t o = begin; o < begin + quarter; ++o) against_all(std::integral_constant<int, 4>{}, o, quarter);
    for (int64_t o = begin + 4 * quarter; o < end; ++o) against_all(std::integral_constant<int, 1>{}, o, 1);
}

#if NT_TILES
/// x [columns / 2][L][2]. `ahead`: bytes to the rows that come next, which are asked for line by line meanwhile.
template <int R>
inline void pair_lane_tile(const uint16_t *w, const uint16_t *x, int64_t columns, int64_t ahead, float *out) {
    Vec sums[R];
    for (int r = 0; r < R; ++r) sums[r] = zero();
    int64_t i = 0;
    const auto step = [&](int64_t i) {
        const __m512bh v = (__m512bh)_mm512_loadu_si512(x + i * L);
        const uint16_t *at = w + i;
#pragma clang loop unroll(full)
        for (int r = 0; r < R; ++r, at += columns) {
            int pair;
            memcpy(&pair, at, 4);
            sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)_mm512_set1_epi32(pair), v);
        }
    };
    for (; i + 32 <= columns; i += 32) {
        if (ahead)
            for (int r = 0; r < R; ++r) _mm_prefetch((const char *)(w + r * columns + i) + ahead, _MM_HINT_T0);
        for (int64_t j = 0; j < 32; j += 2) step(i + j);
    }
    for (; i + 2 <= columns; i += 2) step(i);
    if (i < columns) {
        const __m512bh v = (__m512bh)_mm512_loadu_si512(x + i * L);
        for (int r = 0; r < R; ++r)
            sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)_mm512_set1_epi32(w[r * columns + i]), v);
    }
    for (int r = 0; r < R; ++r) store(out + r * L, sums[r]);
}

/// The same for 16 rows and all groups of 16 rows of x (at most four, `width` L elements apart) while a tile of weights is
/// there. out [groups][16][L]; columns a multiple of 32.
template <int groups>
inline void tile_rows(const uint16_t *w, const uint16_t *x, int64_t width, int64_t columns, int64_t ahead, float *out) {
    _tile_zero(0);
    if constexpr (groups > 1) _tile_zero(1);
    if constexpr (groups > 2) _tile_zero(2);
    if constexpr (groups > 3) _tile_zero(3);
    for (int64_t i = 0; i < columns; i += 32) {
        if (ahead)
            for (int r = 0; r < 16; ++r) _mm_prefetch((const char *)(w + r * columns + i) + ahead, _MM_HINT_T0);
        _tile_loadd(4, w + i, columns * 2);
        _tile_loadd(5, x + i * L, 64);
        _tile_dpbf16ps(0, 4, 5);
        if constexpr (groups > 1) {
            _tile_loadd(6, x + (width + i) * L, 64);
            _tile_dpbf16ps(1, 4, 6);
        }
        if constexpr (groups > 2) {
            _tile_loadd(7, x + (2 * width + i) * L, 64);
            _tile_dpbf16ps(2, 4, 7);
        }
        if constexpr (groups > 3) {
            _tile_loadd(5, x + (3 * width + i) * L, 64);
            _tile_dpbf16ps(3, 4, 5);
        }
    }
    _tile_stored(0, out, 64);
    if constexpr (groups > 1) _tile_stored(1, out + 16 * L, 64);
    if constexpr (groups > 2) _tile_stored(2, out + 32 * L, 64);
    if constexpr (groups > 3) _tile_stored(3, out + 48 * L, 64);
}

inline void tiled_pair_rows(const nt_weight &w, const uint16_t *x, int64_t n, int64_t begin, int64_t end, const Sink &sink) {
    const Tiles tiles;
    const uint16_t *data = (const uint16_t *)w.data;
    const int64_t I = w.columns, width = padded(Packing::pairs, I);
    with_rows((n + L - 1) / L, [&](auto groups) {
        for (int64_t o = begin; o < end; o += 16) {
            alignas(64) float out[groups * 16 * L];
            tile_rows<groups>(data + o * I, x, width, I, o + 32 <= end ? 32 * I : 0, out);
            for (int64_t t = 0; t < n; t += L) sink.lanes<16>(o, t, out + t * 16);
        }
    });
}
#endif

inline void pair_rows(const nt_weight &w, const uint16_t *x, int64_t n, int64_t begin, int64_t end, const Sink &sink) {
    const int64_t I = w.columns, width = padded(Packing::pairs, I);
#if NT_TILES
    if (in_lanes(n)) {
        const uint16_t *data = (const uint16_t *)w.data;
        const int64_t whole = I % 32 == 0 ? (end - begin) / 16 * 16 : 0;
        if (whole > 0) tiled_pair_rows(w, x, n, begin, begin + whole, sink);
        in_tiles<16>(begin + whole, end, [&](auto R, int64_t o) {
            const int64_t next = o + 2 * R <= end ? 2 * R * I : 0;
            for (int64_t t = 0; t < n; t += L) {
                float out[R * L];
                pair_lane_tile<R>(data + o * I, x + t * width, I, t == 0 ? next : 0, out);
                sink.lanes<R>(o, t, out);
            }
        });
        return;
    }
#endif
    pair_blocks(w, x, width, n, begin, end, sink);
}

#endif

#if NT_WIDE
// MARK: Bytes: sum of w x = sum over groups of d dx (sum of q xq) + m (dx sum of xq), w = d q + m

inline float from_f16_fast(uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }

/// Codes, scale and sums of 32 elements.
inline void pack_block(Vec low, Vec high, int8_t *codes, float &scale, float *half_sums) {
    const float top = largest(max(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    scale = top / 127;
    const Vec inverse = set1(top > 0 ? 127 / top : 0);
    const __m512i a = _mm512_cvtps_epi32(mul(low, inverse)), b = _mm512_cvtps_epi32(mul(high, inverse));
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtsepi32_epi8(a));
    _mm_storeu_si128((__m128i *)(codes + 16), _mm512_cvtsepi32_epi8(b));
    half_sums[0] = scale * float(_mm512_reduce_add_epi32(a));
    half_sums[1] = scale * float(_mm512_reduce_add_epi32(b));
}

inline void pack_bytes(const float *x, int64_t stride, int64_t columns, int64_t n, void *out) {
    const PackedBytes packed(out, columns, n);
    const bool lanes = in_lanes(n);
    // What no weight meets is left out: beyond a row's last 64 as lanes, nowhere in rows, whose zeros are read.
    const int64_t blocks = packed.width / 32, rows = packed_rows(n);
    const int64_t used = lanes ? rounded_up(columns, 64) / 32 : blocks;
    for (int64_t t = 0; t < rows; ++t) {
        const float *row = x + t * stride;
        const int64_t group = t / L, lane = t % L;
        for (int64_t b = 0; b < used; b += 2) {
            alignas(64) int8_t codes[64];
            for (int64_t j = 0; j < 2; ++j) {
                const int64_t i = 32 * (b + j), left = t < n ? columns - i : 0;
                const Vec low = up_to(row + i, left), high = up_to(row + i + 16, left - 16);
                float scale, sums[2];
                pack_block(low, high, codes + 32 * j, scale, sums);
                const int64_t at = lanes ? (group * blocks + b + j) * L + lane : t * blocks + b + j;
                packed.scales[at] = scale;
                packed.sums[at] = sums[0] + sums[1];
                const int64_t half = lanes ? (group * 2 * blocks + 2 * (b + j)) * L + lane : 2 * at;
                packed.half_sums[half] = sums[0];
                packed.half_sums[half + (lanes ? L : 1)] = sums[1];
            }
            if (!lanes) {
                memcpy(packed.codes + t * packed.width + 32 * b, codes, 64);
                continue;
            }
            int8_t *to = packed.codes + group * L * packed.width + b * 32 * L + 4 * lane;
            for (int quad = 0; quad < 16; ++quad) memcpy(to + quad * 4 * L, codes + 4 * quad, 4);
        }
    }
}

/// 64 codes in order, the s-th 64 of the row.
template <int32_t type>
inline __m512i codes64(const uint8_t *row, int64_t s, int64_t columns) {
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

/// d and m of up to 16 groups from `at` on, zeros beyond them.
template <int32_t type>
inline void chunk_scales(const uint8_t *at, float row_scale, int64_t groups, Vec &d, Vec &m) {
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
            uint32_t u[3];
            memcpy(u, at + 4, 12);
            const __m128i small = _mm_set_epi32(
                int((u[2] >> 4 & 0x0F0F0F0F) | (u[1] >> 6 & 0x03030303) << 4), int(u[1] & 0x3F3F3F3F),
                int((u[2] & 0x0F0F0F0F) | (u[0] >> 6 & 0x03030303) << 4), int(u[0] & 0x3F3F3F3F));
            const Vec wide = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(small));
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

/// out[r][t] = x[t] . w[r]. 16 groups at a time: their scales stay in registers.
template <int32_t type, int R, int N>
inline void byte_dot_tile(const nt_weight &w, int64_t o, const PackedBytes &x, float (*out)[kDotRows]) {
    constexpr int64_t group = group_of(type), per_step = 64 / group, span = 16 * group;
    const int64_t I = w.columns, blocks = x.width / 32;
    const Block block = block_of(type);
    const __m512i pick = per_step == 4 ? _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0)
                                       : _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const uint8_t *first = row_of(w, o);
    const int64_t row_bytes = I / block.elements * block.bytes;
    Vec sums[R][N], rest[R][N];
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) sums[r][t] = rest[r][t] = zero();
    for (int64_t from = 0; from < I; from += span) {
        const int64_t count = I - from < span ? I - from : span, groups = (count + group - 1) / group;
        const uint8_t *chunk = first + from / block.elements * block.bytes;
        Vec products[R][N];
        for (int r = 0; r < R; ++r) {
            for (int64_t line = 0; line < count / block.elements * block.bytes; line += 64)
                prefetch(chunk + r * row_bytes + line);
            Vec d, m;
            chunk_scales<type>(chunk + r * row_bytes, w.scales ? w.scales[o + r] : 1, groups, d, m);
            for (int t = 0; t < N; ++t) {
                const int64_t at = t * blocks + from / 32;
                Vec dx, sx;
                if constexpr (group == 32) {
                    dx = load(x.scales + at);
                    sx = load(x.sums + at);
                } else {
                    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
                    dx = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(x.scales + at)));
                    sx = load(x.half_sums + 2 * at);
                }
                products[r][t] = mul(d, dx);
                rest[r][t] = fma(m, sx, rest[r][t]);
            }
        }
        const int8_t *codes = x.codes + from;
        const auto step = [&](int64_t s) {
            const __m512i groups_of_step = _mm512_add_epi32(pick, _mm512_set1_epi32(int(per_step * s)));
            for (int r = 0; r < R; ++r) {
                const __m512i q = codes64<type>(chunk + r * row_bytes, s, count);
                for (int t = 0; t < N; ++t) {
                    const __m512i xq = _mm512_loadu_si512(codes + t * x.width + 64 * s);
                    const Vec whole = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), q, xq));
                    sums[r][t] = fma(whole, _mm512_permutexvar_ps(groups_of_step, products[r][t]), sums[r][t]);
                }
            }
        };
        if (count == span) {
#pragma clang loop unroll(full)
            for (int64_t s = 0; s < span / 64; ++s) step(s);
        } else {
            for (int64_t s = 0; 64 * s < count; ++s) step(s);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) out[r][t] = sum(add(sums[r][t], rest[r][t]));
}

/// 16 rows of x as lanes against R rows of codes. q [R][kPanel], d, m [R][kPanel / group]; out [R][L] +=
template <int64_t group, int R>
inline void byte_lane_tile(
    const uint8_t (*q)[kPanel], const float (*d)[kPanel / 16], const float (*m)[kPanel / 16], const int8_t *codes,
    const float *scales, const float *group_sums, int64_t groups, float *out) {
    Vec sums[R];
    for (int r = 0; r < R; ++r) sums[r] = load(out + r * L);
    for (int64_t g = 0; g < groups; ++g) {
        __m512i whole[R];
        for (int r = 0; r < R; ++r) whole[r] = _mm512_setzero_si512();
        for (int64_t quad = g * group / 4; quad < (g + 1) * group / 4; ++quad) {
            const __m512i v = _mm512_loadu_si512(codes + quad * 4 * L);
            for (int r = 0; r < R; ++r) {
                int four;
                memcpy(&four, q[r] + 4 * quad, 4);
                whole[r] = _mm512_dpbusd_epi32(whole[r], _mm512_set1_epi32(four), v);
            }
        }
        const Vec dx = load(scales + g * group / 32 * L);
        const Vec sx = load(group_sums + g * L);
        for (int r = 0; r < R; ++r) {
            sums[r] = fma(_mm512_cvtepi32_ps(whole[r]), mul(set1(d[r][g]), dx), sums[r]);
            sums[r] = fma(set1(m[r][g]), sx, sums[r]);
        }
    }
    for (int r = 0; r < R; ++r) store(out + r * L, sums[r]);
}

/// `count` codes of a row with their scales; whole 64s of codes and 16s of scales are written.
template <int32_t type>
inline void decode_panel(const uint8_t *row, float row_scale, int64_t count, uint8_t *q, float *d, float *m) {
    constexpr int64_t group = group_of(type), span = 16 * group;
    const Block block = block_of(type);
    for (int64_t from = 0; from < count; from += span) {
        const int64_t left = count - from < span ? count - from : span;
        const uint8_t *chunk = row + from / block.elements * block.bytes;
        Vec scale, least;
        chunk_scales<type>(chunk, row_scale, (left + group - 1) / group, scale, least);
        store(d + from / group, scale);
        store(m + from / group, least);
        for (int64_t s = 0; 64 * s < left; ++s) _mm512_storeu_si512(q + from + 64 * s, codes64<type>(chunk, s, left));
    }
}

template <int32_t type>
inline void byte_rows(const nt_weight &w, const void *packed, int64_t n, int64_t begin, int64_t end, const Sink &sink) {
    constexpr int64_t group = group_of(type);
    const int64_t I = w.columns;
    const PackedBytes x(packed, I, n);
    const int64_t blocks = x.width / 32;
    const Block block = block_of(type);
    if (!in_lanes(n)) {
        with_rows(n, [&](auto N) {
            in_tiles<(N > 2 ? 2 : 4)>(begin, end, [&](auto R, int64_t o) {
                float out[R][kDotRows];
                byte_dot_tile<type, R, N>(w, o, x, out);
                sink.rows<R>(o, out);
            });
        });
        return;
    }
    in_tiles<8>(begin, end, [&](auto R, int64_t o) {
        alignas(64) uint8_t q[R][kPanel];
        float d[R][kPanel / 16], m[R][kPanel / 16];
        float out[4][R * L];
        memset(out, 0, sizeof out);
        for (int64_t i = 0; i < I; i += kPanel) {
            const int64_t count = I - i < kPanel ? I - i : kPanel;
            for (int r = 0; r < R; ++r) {
                const uint8_t *row = row_of(w, o + r) + i / block.elements * block.bytes;
                decode_panel<type>(row, w.scales ? w.scales[o + r] : 1, count, q[r], d[r], m[r]);
            }
            const float *sums = group == 32 ? x.sums : x.half_sums;
            for (int64_t t = 0; t < n; t += L)
                byte_lane_tile<group, R>(
                    q, d, m, x.codes + t * x.width + i * L, x.scales + (t / L * blocks + i / 32) * L,
                    sums + (t / L * (x.width / group) + i / group) * L, (count + group - 1) / group, out[t / L]);
        }
        for (int64_t t = 0; t < n; t += L) sink.lanes<R>(o, t, out[t / L]);
    });
}
#endif

// MARK: The table

inline Packing packing(int32_t type) {
#if NT_PAIRS
    if (type == NT_W_BF16) return Packing::pairs;
#endif
#if NT_WIDE
    if (is_quantised(type)) return Packing::bytes;
#endif
    (void)type;
    return Packing::floats;
}

inline void pack(Packing packing, const float *x, int64_t stride, int64_t columns, int64_t n, void *out) {
#if NT_PAIRS
    if (packing == Packing::pairs) return pack_pairs(x, stride, columns, n, (uint16_t *)out);
#endif
#if NT_WIDE
    if (packing == Packing::bytes) return pack_bytes(x, stride, columns, n, out);
#endif
    (void)packing;
    pack_floats(x, stride, columns, n, (float *)out);
}

inline void rows(
    const nt_weight &w, const void *packed, int64_t n, int64_t begin, int64_t end, float *y, int64_t stride,
    bool adds) {
    const Sink sink{w, y, stride, begin, n, adds};
    with_type(w.type, [&](auto type) {
        if constexpr (type == NT_W_F32)
            float_rows<float>(w, (const float *)packed, n, begin, end, sink);
        else if constexpr (type == NT_W_BF16)
#if NT_PAIRS
            pair_rows(w, (const uint16_t *)packed, n, begin, end, sink);
#else
            float_rows<uint16_t>(w, (const float *)packed, n, begin, end, sink);
#endif
        else
#if NT_WIDE
            byte_rows<type>(w, packed, n, begin, end, sink);
#else
            decoded_rows<type>(w, (const float *)packed, n, begin, end, sink);
#endif
    });
}

// MARK: Attention

/// Query heads of one key/value head that are served together, so that a key and a value are read once for them.
constexpr int kHeads = 4;

/// out[g][s] = scale q[g] . k[s] for G query heads, up to the next multiple of four of keys. The values of the same slots
/// are asked for meanwhile: a head's slice of a slot is a line or two, which no prefetcher of the processor foresees.
template <class T, int G>
inline void scores(const AttentionTask &task, const float *q, float (*out)[kKeys]) {
    const T *keys = (const T *)task.keys, *values = (const T *)task.values;
    const int64_t E = task.head_dim, line = 64 / int64_t(sizeof(T));
    const auto ask = [&](const T *from, int64_t s) {
        if (s < task.count)
            for (int64_t e = 0; e < E; e += line) _mm_prefetch((const char *)(from + s * task.stride + e), _MM_HINT_T0);
    };
    for (int64_t s = 0; s < task.count; s += 4) {
        // Past the end the last key stands in; what it gives is not looked at.
        const T *k[4];
        for (int64_t j = 0; j < 4; ++j) {
            k[j] = keys + (s + j < task.count ? s + j : task.count - 1) * task.stride;
            ask(keys, s + j + 16);
            ask(values, s + j);
        }
        Vec sums[G][4];
        for (int g = 0; g < G; ++g)
            for (int j = 0; j < 4; ++j) sums[g][j] = zero();
        const auto step = [&](int64_t e, auto &&read) {
            Vec v[4];
            for (int j = 0; j < 4; ++j) v[j] = read(k[j] + e);
            for (int g = 0; g < G; ++g) {
                const Vec x = read(q + g * E + e);
                for (int j = 0; j < 4; ++j) sums[g][j] = fma(x, v[j], sums[g][j]);
            }
        };
        int64_t e = 0;
        for (; e + L <= E; e += L) step(e, [](auto *p) { return load(p); });
        if (e < E) step(e, [&](auto *p) { return load_part(p, E - e); });
        for (int g = 0; g < G; ++g) store_sums(sums[g], task.scale, out[g] + s);
    }
}

/// p = e^(p - max) of `count` scores, zeros behind them up to a whole vector; the largest and the sum.
inline void exponentials(float *p, int64_t count, float *largest_and_sum) {
    const int64_t end = rounded_up(count, L);
    for (int64_t s = count; s < end; ++s) p[s] = -INFINITY;
    Vec most = load(p), total = zero();
    for (int64_t s = L; s < end; s += L) most = max(most, load(p + s));
    const float top = largest(most);
    for (int64_t s = 0; s < end; s += L) {
        const Vec e = exponential(sub(load(p + s), set1(top)));
        store(p + s, e);
        total = add(total, e);
    }
    largest_and_sum[0] = top;
    largest_and_sum[1] = sum(total);
}

/// out[g], elements e ..< e + chunks L, = sum over keys of p[g][s] v[s]; of the last chunk the first `lanes`.
template <class T, int G, int chunks>
inline void weighted_chunks(
    const AttentionTask &task, const float (*p)[kKeys], int64_t e, int64_t lanes, float *out, int64_t out_stride) {
    const T *values = (const T *)task.values + e;
    Vec sums[G][chunks];
    for (int g = 0; g < G; ++g)
        for (int c = 0; c < chunks; ++c) sums[g][c] = zero();
    for (int64_t s = 0; s < task.count; ++s)
        for (int c = 0; c < chunks; ++c) {
            const T *at = values + s * task.stride + c * L;
            const Vec v = c < chunks - 1 || lanes == L ? load(at) : load_part(at, lanes);
            for (int g = 0; g < G; ++g) sums[g][c] = fma(set1(p[g][s]), v, sums[g][c]);
        }
    for (int g = 0; g < G; ++g)
        for (int c = 0; c < chunks; ++c) {
            float *to = out + g * out_stride + e + c * L;
            if (c < chunks - 1 || lanes == L)
                store(to, sums[g][c]);
            else
                store_part(to, sums[g][c], lanes);
        }
}

template <class T, int G>
inline void weighted_values(const AttentionTask &task, const float (*p)[kKeys], float *out, int64_t out_stride) {
    constexpr int chunks = NT_WIDE ? 4 : 2;  // as many chains of sums as registers hold
    const int64_t E = task.head_dim;
    int64_t e = 0;
    for (; e + chunks * L <= E; e += chunks * L) weighted_chunks<T, G, chunks>(task, p, e, L, out, out_stride);
    for (; e < E; e += L) weighted_chunks<T, G, 1>(task, p, e, E - e < L ? E - e : L, out, out_stride);
}

template <class T>
inline void attend_as(const AttentionTask &task) {
    const int64_t E = task.head_dim;
    for (int64_t first = 0; first < task.group; first += kHeads)
        with_rows(task.group - first < kHeads ? task.group - first : kHeads, [&](auto heads) {
            constexpr int G = decltype(heads)::value;
            alignas(64) float p[G][kKeys];
            const float *q = task.q + first * E;
            float *out = task.out + first * (E + 2);
#if NT_WIDE
            scores<T, G>(task, q, p);
#else
            // Sixteen registers hold the sums of one head.
            for (int g = 0; g < G; ++g) scores<T, 1>(task, q + g * E, p + g);
#endif
            for (int g = 0; g < G; ++g) exponentials(p[g], task.count, out + g * (E + 2) + E);
            weighted_values<T, G>(task, p, out, E + 2);
        });
}

inline void attend(const AttentionTask &task) {
    if (task.type == NT_BF16)
        attend_as<uint16_t>(task);
    else
        attend_as<float>(task);
}

// MARK: Around the products

inline void rms_norm(const float *x, const float *weight, int64_t count, float epsilon, float *out) {
    Vec squares[2] = {zero(), zero()};
    int64_t i = 0;
    for (; i + L <= count; i += L) squares[i / L % 2] = fma(load(x + i), load(x + i), squares[i / L % 2]);
    if (i < count) {
        const Vec v = load_part(x + i, count - i);
        squares[0] = fma(v, v, squares[0]);
    }
    const float scale = 1 / sqrtf(sum(add(squares[0], squares[1])) / float(count) + epsilon);
    for (i = 0; i + L <= count; i += L) store(out + i, mul(mul(load(x + i), set1(scale)), load(weight + i)));
    for (; i < count; ++i) out[i] = x[i] * scale * weight[i];
}

inline void swiglu(const float *gate, const float *up, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += L) {
        const int64_t lanes = count - i < L ? count - i : L;
        const Vec g = lanes == L ? load(gate + i) : load_part(gate + i, lanes);
        const Vec u = lanes == L ? load(up + i) : load_part(up + i, lanes);
        const Vec y = mul(div(g, add(set1(1), exponential(sub(zero(), g)))), u);
        if (lanes == L)
            store(out + i, y);
        else
            store_part(out + i, y, lanes);
    }
}

inline double weights(const float *x, int64_t count, float top, float factor, float *out) {
    double total = 0;
    constexpr int64_t piece = 32 * L;  // summed in fp32
    for (int64_t i = 0; i < count;) {
        const int64_t end = count - i < piece ? count : i + piece;
        Vec part = zero();
        for (; i + L <= end; i += L) {
            const Vec e = exponential(mul(sub(load(x + i), set1(top)), set1(factor)));
            store(out + i, e);
            part = add(part, e);
        }
        total += double(sum(part));
        if (i < end) {
            float rest[L];
            store(rest, exponential(mul(sub(load_part(x + i, end - i), set1(top)), set1(factor))));
            for (int64_t j = 0; i < end; ++i, ++j) total += double(out[i] = rest[j]);
        }
    }
    return total;
}

constexpr DecodeKernels kernels{packing, packed_bytes, pack, rows, attend, rms_norm, swiglu, weights};
