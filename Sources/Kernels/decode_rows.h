// Part of decode_body.h: how rows of x are packed, how tiles of products are written, loops over rows.
// n rows of x, R weight rows at a time, N rows of x at a time

// Up to kDotRows rows stand one after the other, filled up with zeros; more stand element by element, L rows as lanes, but
// for pairs of bf16 without tiles, whose rows always stand one after the other.

inline int64_t padded(Packing packing, int64_t columns) {
    return rounded_up(columns, packing == Packing::floats ? L : packing == Packing::pairs ? (NT_PAIRS ? 64 : 2 * L) : kPanel);
}
inline bool in_lanes(int64_t n) { return n > kDotRows; }
inline int64_t packed_rows(int64_t n) { return in_lanes(n) ? rounded_up(n, L) : n; }

/// Bytes: codes (of rows each 64 as `interleave_codes` orders them); per block of 32 a scale and the sum of scale x code;
/// that sum per half block. Rows: [n][width], [n][width / 32], [n][width / 16]; as lanes: [groups][width / 4][L][4],
/// [groups][width / 32][L], [groups][width / 16][L].
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
        case Packing::pairs: return size_t((NT_PAIRS ? 2 : 4) * elements);
        case Packing::bytes: return PackedBytes::bytes(columns, n);
    }
    return 0;
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

/// Calls body<R> over begin ..< end, R at a time, then for what is left half as many.
template <int R, class Body>
inline void in_tiles(int64_t begin, int64_t end, Body &&body) {
    int64_t o = begin;
    for (; o + R <= end; o += R) body(std::integral_constant<int, R>{}, o);
    if constexpr (R > 1) in_tiles<R / 2>(o, end, body);
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
