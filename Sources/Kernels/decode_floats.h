// Part of decode_body.h: products in fp32, weights in fp32, bf16 or blocks that are decoded.
// n rows of x, I inputs, R weight rows at a time, N rows of x at a time

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
