// Part of decode_body.h: products of pairs of bf16, with tiles where there are some.
// n rows of x, I inputs, R weight rows at a time, N rows of x at a time

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
