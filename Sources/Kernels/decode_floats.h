// Part of decode_body.h: products in fp32, weights in fp32 or bf16.
// n rows of x, I inputs, R weight rows at a time, N rows of x at a time

/// Vectors that one read of a weight row fills: of bf16 the even elements, then the odd ones, which takes fewer
/// instructions than widening them in order. x stands alike: `place` is where its element i is.
template <class T> constexpr int64_t kReads = sizeof(T) == 2 ? 2 : 1;
inline void read(const float *p, Vec (&v)[1]) { v[0] = load(p); }
inline void read(const uint16_t *p, Vec (&v)[2]) { load_halves(p, v[0], v[1]); }
template <class T>
inline int64_t place(int64_t i) {
    constexpr int64_t step = kReads<T> * L;
    return i - i % step + i % kReads<T> * L + i % step / kReads<T>;
}
/// The same of the first `count` elements, zeros after them.
template <class T>
inline void read_part(const T *p, int64_t count, Vec (&v)[kReads<T>]) {
    T part[kReads<T> * L] = {};
    for (int64_t i = 0; i < count; ++i) part[i] = p[i];
    read(part, v);
}

/// For weights of type T.
template <class T>
inline void pack_floats(const float *x, int64_t stride, int64_t columns, int64_t n, float *out) {
    const int64_t width = rounded_up(columns, kReads<T> * L), lanes = in_lanes(n) ? L : 1;
    for (int64_t t = 0; t < n; t += lanes, out += width * lanes) {
        if (width > columns || n - t < lanes) memset(out, 0, size_t(4 * width * lanes));
        for (int64_t lane = 0; lane < lanes && t + lane < n; ++lane)
            for (int64_t i = 0; i < columns; ++i) out[place<T>(i) * lanes + lane] = x[(t + lane) * stride + i];
    }
}

/// out[r][t] = x[t] . w[r], R rows `row` elements apart: a chain of sums each, whatever is multiplied beside it.
template <int R, int N, class T>
inline void dot_tile(const T *w, int64_t row, const float *x, int64_t x_row, int64_t columns, float *out) {
    constexpr int64_t line = 64 / int64_t(sizeof(T)), step = kReads<T> * L;
    Vec sums[R][N];
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) sums[r][t] = zero();
    const auto add_products = [&](const Vec (&v)[kReads<T>], int64_t i, int r) {
        for (int j = 0; j < kReads<T>; ++j)
            for (int t = 0; t < N; ++t) sums[r][t] = fma(v[j], load(x + t * x_row + i + j * L), sums[r][t]);
    };
    Vec v[kReads<T>];
    int64_t i = 0;
    for (; i + step <= columns; i += step) {
        if (R == 1 && i % line == 0) prefetch(w + i);
        for (int r = 0; r < R; ++r) read(w + r * row + i, v), add_products(v, i, r);
    }
    if (i < columns)
        for (int r = 0; r < R; ++r) read_part(w + r * row + i, columns - i, v), add_products(v, i, r);
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) out[r * N + t] = sum(sums[r][t]);
}

/// R far ranges at the same time (why: pair_blocks), since one chain of sums is also slower than memory.
template <int R, int N, class T>
inline void dot_rows(const nt_weight &w, const float *x, int64_t begin, int64_t end, const Sink &sink) {
    const int64_t I = w.columns, width = rounded_up(I, kReads<T> * L), apart = (end - begin) / R;
    const T *data = (const T *)w.data;
    for (int64_t o = begin; o < begin + apart; ++o) {
        float out[R * N];
        dot_tile<R, N>(data + o * I, apart * I, x, width, I, out);
        sink.block<R, N>(o, apart, 0, out);
    }
    if constexpr (R > 1) dot_rows<1, N, T>(w, x, begin + R * apart, end, sink);
}

/// out[v][r][lane] += x[v][lane] . w[r] for V groups of L rows of x as lanes, each [columns][L] and `x_group` from the next.
/// `ahead`: bytes to the rows that come next, which are asked for line by line meanwhile.
template <int R, int V, class T>
inline void lane_tile(
    const T *w, int64_t row, const float *x, int64_t x_group, int64_t columns, int64_t ahead, float (*out)[R * L]) {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    Vec sums[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = load(out[v] + r * L);
    for (int64_t first = 0; first < columns; first += line) {
        if (ahead)
            for (int r = 0; r < R; ++r) _mm_prefetch((const char *)(w + r * row + first) + ahead, _MM_HINT_T0);
        const int64_t end = first + line < columns ? first + line : columns;
        for (int64_t i = first; i < end; ++i) {
            Vec lanes[V];
            for (int v = 0; v < V; ++v) lanes[v] = load(x + v * x_group + i * L);
            for (int r = 0; r < R; ++r) {
                const Vec weight = set1(widened(w[r * row + i]));
                for (int v = 0; v < V; ++v) sums[r][v] = fma(weight, lanes[v], sums[r][v]);
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(out[v] + r * L, sums[r][v]);
}

/// The same for all n rows of x, V groups of lanes at a time. x [n / L][width][L], out [n / L][R L]
template <int R, int V, class T>
inline void lane_tiles(
    const T *w, int64_t row, const float *x, int64_t width, int64_t n, int64_t columns, int64_t ahead,
    float (*out)[R * L]) {
    int64_t t = 0;
    for (; t + V * L < n + L; t += V * L)
        lane_tile<R, V>(w, row, x + t * width, width * L, columns, t == 0 ? ahead : 0, out + t / L);
    if constexpr (V > 1)
        if (t < n) lane_tile<R, 1>(w, row, x + t * width, width * L, columns, 0, out + t / L);
}

/// Rows o ..< o + R of bf16 weights against all n rows of x as lanes, widened a panel at a time. out [n / L][R L]
template <int R, int V>
inline void wide_lane_tile(const uint16_t *w, const float *x, int64_t n, int64_t I, int64_t ahead, float (*out)[R * L]) {
    // With 16 rows a quarter of a first-level cache; no power of two, whose rows share sets.
    constexpr int64_t panel_width = 192, line = 32;
    alignas(64) float panel[R * panel_width];
    const int64_t width = rounded_up(I, 2 * L);
    for (int64_t i = 0; i < I; i += panel_width) {
        const int64_t count = I - i < panel_width ? I - i : panel_width, whole = rounded_up(count, 2 * L);
        for (int r = 0; r < R; ++r) {
            const uint16_t *from = w + r * I + i;
            float *to = panel + r * panel_width;
            for (int64_t j = 0; j < whole; j += 2 * L) {
                if (ahead && j % line == 0) _mm_prefetch((const char *)(from + j) + ahead, _MM_HINT_T0);
                Vec v[2];
                count - j < 2 * L ? read_part(from + j, count - j, v) : read(from + j, v);
                store(to + j, v[0]);
                store(to + j + L, v[1]);
            }
        }
        lane_tiles<R, V>(panel, panel_width, x + i * L, width, n, whole, 0, out);
    }
}

/// R rows of weights and V groups of lanes at a time.
template <int R, int V, class T>
inline void lane_rows(const nt_weight &w, const float *x, int64_t n, int64_t begin, int64_t end, const Sink &sink) {
    const int64_t I = w.columns, width = rounded_up(I, kReads<T> * L);
    in_tiles<R>(begin, end, [&](auto rows, int64_t o) {
        const int64_t next = o + 2 * rows <= end ? rows * I * int64_t(sizeof(T)) : 0;
        const T *data = (const T *)w.data + o * I;
        float out[kPassRows / L][rows * L];
        memset(out, 0, sizeof out);
        if constexpr (sizeof(T) == 2)
            wide_lane_tile<rows, V>(data, x, n, I, next, out);
        else
            lane_tiles<rows, V>(data, I, x, width, n, I, next, out);
        for (int64_t t = 0; t < n; t += L) sink.lanes<rows>(o, t, out[t / L]);
    });
}

template <class T>
inline void float_rows(const nt_weight &w, const float *x, int64_t n, int64_t begin, int64_t end, const Sink &sink) {
    if (in_lanes(n)) {
        // Sums in registers, with room for a weight and for its lanes.
        if constexpr (NT_WIDE)
            lane_rows<16, 1, T>(w, x, n, begin, end, sink);
        else if (n <= L)
            lane_rows<8, 1, T>(w, x, n, begin, end, sink);
        else
            lane_rows<6, 2, T>(w, x, n, begin, end, sink);
        return;
    }
    with_rows(n, [&](auto N) { dot_rows<(N > 2 ? 1 : 4), N, T>(w, x, begin, end, sink); });
}
