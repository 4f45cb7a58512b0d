// Flash attention over the vector operations of one instruction set; included in its namespace, which defines
//
//   F, lanes            a vector of floats
//   tile_rows           rows of a register tile (x 2 vectors): the most whose sums stay in registers
//   NT_BF16_PAIRS       1: multiply_pairs, narrow_pair and their like exist
//   NT_TILES            1: product_of_tiles and Tiles exist
//   load, store, set, first, fma, max, largest, total, exp2, at_most, select, transpose: see the includers
//
// Matrices in scratch are row-major. A *word* is a float, or with bf16 pairs two bf16 that one instruction multiplies
// with two others and adds: n rows of pairs along E are [n, E / 2] words. `_across` means pairs along rows: [n / 2, E].

#if !NT_BF16_PAIRS  // names for what is never called
F multiply_pairs(F, F, F), narrow_pair(F, F), interleaved(F);
F beside(const bf16 *, const bf16 *), load_words(const bf16 *);
void store_whole(float *, F), store_low(float *, F), store_high(float *, F);
#endif
constexpr bool bf16_pairs = NT_BF16_PAIRS;

#if !NT_TILES
struct Tiles {};
template <bool add>
void product_of_tiles(const float *, int64_t, const float *, int64_t, float *, int64_t, int64_t, int64_t, int64_t);
#endif

template <class T> constexpr int pair_of = bf16_pairs && std::is_same_v<T, bf16> ? 2 : 1;
template <class T> constexpr bool by_tiles = NT_TILES && pair_of<T> == 2;
template <class T> constexpr int64_t line_words = block_keys / pair_of<T>;  // of one row of p or ds
constexpr int64_t strip = 2 * lanes, strips = block_keys / strip;
constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

template <int pair> NT_INLINE F multiply(F a, F b, F c) {
    if constexpr (pair == 2)
        return multiply_pairs(a, b, c);
    else
        return fma(a, b, c);
}

// c [rows, vectors * lanes] (+)= a [rows, steps] b [steps, vectors * lanes], rows a multiple of tile_rows. a's word
// (row, step) is a[row * a_row + step * a_step].
template <int pair, bool add, int vectors>
NT_INLINE void product_strip(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step, float *c,
                             int64_t c_row, int64_t rows, int64_t steps) {
    for (int64_t row = 0; row < rows; row += tile_rows) {
        F sum[tile_rows][vectors];
        float *out = c + row * c_row;
#pragma clang loop unroll(full)
        for (int i = 0; i < tile_rows; ++i)
#pragma clang loop unroll(full)
            for (int j = 0; j < vectors; ++j) sum[i][j] = add ? load(out + i * c_row + j * lanes) : set(0);
        const float *left = a + row * a_row, *right = b;
        for (int64_t step = 0; step < steps; ++step, left += a_step, right += b_step) {
            F line[vectors];
#pragma clang loop unroll(full)
            for (int j = 0; j < vectors; ++j) line[j] = load(right + j * lanes);
#pragma clang loop unroll(full)
            for (int i = 0; i < tile_rows; ++i) {
                const F word = set(left[i * a_row]);
#pragma clang loop unroll(full)
                for (int j = 0; j < vectors; ++j) sum[i][j] = multiply<pair>(word, line[j], sum[i][j]);
            }
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < tile_rows; ++i)
#pragma clang loop unroll(full)
            for (int j = 0; j < vectors; ++j) store(out + i * c_row + j * lanes, sum[i][j]);
    }
}

// The same for any number of columns that is a multiple of `lanes`; with tiles a_step is 1.
template <class T, bool add>
static void product(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step, float *c,
                    int64_t c_row, int64_t rows, int64_t columns, int64_t steps) {
    if constexpr (by_tiles<T>) return product_of_tiles<add>(a, a_row, b, b_step, c, c_row, rows, columns, steps);
    constexpr int pair = pair_of<T>;
    int64_t at = 0;
    for (; at + strip <= columns; at += strip)
        product_strip<pair, add, 2>(a, a_row, a_step, b + at, b_step, c + at, c_row, rows, steps);
    if (at < columns) product_strip<pair, add, 1>(a, a_row, a_step, b + at, b_step, c + at, c_row, rows, steps);
}

// ---- rows in and out ---------------------------------------------------------------------------------------------

NT_INLINE void put(float *to, float x) { *to = x; }
NT_INLINE void put(bf16 *to, float x) { *to = nt::rounded(x); }
NT_INLINE float word_of(bf16 low, bf16 high) { return nt::float_of(uint32_t(low) | uint32_t(high) << 16); }

// out [dim] words of pairs along E, from a row of E elements; zeros behind them.
template <class T> NT_INLINE void copy_row(const T *row, int64_t E, int64_t dim, float *out) {
    if constexpr (pair_of<T> == 2) {
        int64_t e = 0;
        for (; e + strip <= E; e += strip) store(out + e / 2, load_words(row + e));
        if (e == dim) return;
        bf16 rest[strip] = {};
        memcpy(rest, row + e, size_t(E - e) * sizeof(bf16));
        memcpy(out + e / 2, rest, size_t(dim - e) * sizeof(bf16));
    } else {
        int64_t e = 0;
        for (; e + lanes <= E; e += lanes) store(out + e, load(row + e));
        for (; e < E; ++e) out[e] = widened(row[e]);
        for (; e < dim; ++e) out[e] = 0;
    }
}

// out [dim] words: element e of `row` beside element e of `next` (null: 0).
template <class T>
NT_INLINE void copy_rows_across(const T *row, const T *next, int64_t E, int64_t dim, float *out) {
    int64_t e = 0;
    if constexpr (pair_of<T> == 2)
        for (; e + lanes <= E; e += lanes) store(out + e, beside(row + e, next ? next + e : nullptr));
    for (; e < E; ++e) out[e] = word_of(row[e], next ? next[e] : T(0));
    for (; e < dim; ++e) out[e] = 0;
}

template <class T> NT_INLINE void write_row(const float *row, F factor, int64_t E, T *out) {
    int64_t e = 0;
    for (; e + lanes <= E; e += lanes) store(out + e, load(row + e) * factor);
    for (; e < E; ++e) put(out + e, row[e] * first(factor));
}

// Row r of a panel in a matrix [N, H E]: token r / G, head r mod G of the group.
struct Rows {
    int64_t first_row, first_column, E, group;
    template <class T> T *at(T *matrix, int64_t stride, int64_t row) const {
        return matrix + (first_row + row / group) * stride + first_column + row % group * E;
    }
};

// The panel's rows of a matrix as words along E, [rows, dim], zeros up to padded_rows.
template <class T>
static void load_panel(const Rows &rows, const T *matrix, int64_t stride, int64_t count, int64_t padded, int64_t dim,
                       float *out) {
    const int64_t words = dim / pair_of<T>;
    for (int64_t r = 0; r < count; ++r) copy_row(rows.at(matrix, stride, r), rows.E, dim, out + r * words);
    memset(out + count * words, 0, size_t((padded - count) * words) * sizeof(float));
}

// `pairs` lines of pairs along rows from row `first` on, [pairs, dim] words, zeros behind `count` rows.
template <class T>
static void load_rows_across(const Rows &rows, const T *matrix, int64_t stride, int64_t first, int64_t count,
                             int64_t pairs, int64_t dim, float *out) {
    const int64_t written = std::clamp<int64_t>((count - first + 1) / 2, 0, pairs);
    for (int64_t i = 0; i < written; ++i) {
        const int64_t r = first + 2 * i;
        copy_rows_across(rows.at(matrix, stride, r), r + 1 < count ? rows.at(matrix, stride, r + 1) : nullptr, rows.E,
                         dim, out + i * dim);
    }
    memset(out + written * dim, 0, size_t((pairs - written) * dim) * sizeof(float));
}

// The panel as pairs along rows: [padded / 2, dim] words, for tiles transposed: [dim, padded / 2].
template <class T>
static void load_panel_across(const Rows &rows, const T *matrix, int64_t stride, int64_t count, int64_t padded,
                              int64_t dim, float *out) {
    if constexpr (!by_tiles<T>) return load_rows_across(rows, matrix, stride, 0, count, padded / 2, dim, out);
    float few[lanes * NT_ATTENTION_LARGEST_HEAD];  // [lanes, dim]
    for (int64_t pair = 0; pair < padded / 2; pair += lanes) {
        load_rows_across(rows, matrix, stride, 2 * pair, count, lanes, dim, few);
        for (int64_t e = 0; e < dim; e += lanes) transpose(few + e, dim, out + e * (padded / 2) + pair, padded / 2);
    }
}

// ---- packed keys and values --------------------------------------------------------------------------------------

// out [dim, block_keys] words of pairs along E: a block of keys transposed, so that a vector holds one e of many keys.
template <class T>
static void pack_transposed(const T *rows, int64_t stride, int64_t keys, int64_t E, int64_t dim, float *out) {
    const int64_t words = dim / pair_of<T>, width = rounded_up(words, lanes);
    float few[lanes * NT_ATTENTION_LARGEST_HEAD] = {};  // [lanes, width]
    for (int64_t key = 0; key < block_keys; key += lanes) {
        for (int64_t i = 0; i < lanes; ++i)
            if (key + i < keys)
                copy_row(rows + (key + i) * stride, E, dim, few + i * width);
            else
                memset(few + i * width, 0, size_t(words) * sizeof(float));
        for (int64_t w = 0; w < words; w += lanes) transpose(few + w, width, out + w * block_keys + key, block_keys);
    }
}

// out [block_keys, dim] words of pairs along keys.
template <class T>
static void pack_across(const T *rows, int64_t stride, int64_t keys, int64_t E, int64_t dim, float *out) {
    if constexpr (pair_of<T> == 2) {
        for (int64_t key = 0; key < keys; key += 2)
            copy_rows_across(rows + key * stride, key + 1 < keys ? rows + (key + 1) * stride : nullptr, E, dim,
                             out + key / 2 * dim);
        const int64_t written = (keys + 1) / 2;
        memset(out + written * dim, 0, size_t((block_keys / 2 - written) * dim) * sizeof(float));
    } else {
        for (int64_t key = 0; key < keys; ++key) copy_row(rows + key * stride, E, dim, out + key * dim);
        memset(out + keys * dim, 0, size_t((block_keys - keys) * dim) * sizeof(float));
    }
}

// Keys transposed and values (forward); keys transposed, values transposed and keys (backward).
template <class T>
void pack(const nt_attention &a, const Inputs<T> &in, const Scratch &s, int64_t kv_head, int64_t d, int64_t block,
          int64_t packed_block) {
    const Document document = nt_attention_kernels::document(a, d);
    const int64_t first = document.first_key + block * block_keys, E = a.head_dim, dim = s.layout.dim;
    const int64_t keys = std::min(block_keys, document.keys - block * block_keys);
    const T *k = in.k + first * in.k_stride + kv_head * E, *v = in.v + first * in.v_stride + kv_head * E;
    const auto out = [&](int which) NT_LAMBDA { return s.packed(which, kv_head, packed_block); };
    pack_transposed(k, in.k_stride, keys, E, dim, out(0));
    if (!s.backward) return pack_across(v, in.v_stride, keys, E, dim, out(1));
    pack_transposed(v, in.v_stride, keys, E, dim, out(1));
    pack_across(k, in.k_stride, keys, E, dim, out(2));
}

// ---- which keys a query sees -------------------------------------------------------------------------------------

// A panel's rows against one block of keys.
struct Sight {
    const nt_attention &a;
    const Panel &panel;
    int64_t first_key;  // of the block, among the document's keys
    int64_t group;
    int64_t position(int64_t row) const {
        return panel.document.past() + panel.first_token + std::min(row / group, panel.tokens - 1);
    }
    // Of row r: newest key seen, oldest key seen, counted from the block's first key (may lie outside the block).
    int64_t newest(int64_t row) const { return newest_key(a, panel.document, position(row)) - first_key; }
    int64_t oldest(int64_t row) const { return oldest_key(a, position(row)) - first_key; }
    // Strips that rows first ..< last see something of.
    int64_t first_strip(int64_t first) const { return std::clamp<int64_t>(oldest(first), 0, block_keys) / strip; }
    int64_t last_strip(int64_t last) const {
        return (std::clamp<int64_t>(newest(last - 1) + 1, 0, block_keys) + strip - 1) / strip;
    }
    // Whether each of the rows sees each key of the strips.
    bool whole(int64_t first, int64_t last, int64_t last_strip) const {
        return newest(first) >= last_strip * strip - 1 && oldest(last - 1) <= 0;
    }
};

NT_INLINE F counting(int64_t from) { return set(float(from)) + load(lane_numbers); }

// x where oldest <= index <= newest, else `other`.
NT_INLINE F seen(F x, F index, F oldest, F newest, F other) {
    return select(at_most(oldest, index), select(at_most(index, newest), x, other), other);
}

NT_INLINE F edge(int64_t key) { return set(float(std::clamp<int64_t>(key, -1, block_keys))); }

// ---- soft-cap ----------------------------------------------------------------------------------------------------

// Relative error below 1e-6: a polynomial where 1 - 2 / (e^2x + 1) would cancel (Cephes' tanhf).
NT_INLINE F tanh(F x) {
    const F size = max(x, set(0) - x), square = x * x;
    F small = fma(square, set(-5.70498872745e-3f), set(2.06390887954e-2f));
    small = fma(small, square, set(-5.37397155531e-2f));
    small = fma(small, square, set(1.33314422036e-1f));
    small = fma(small, square, set(-3.33332819422e-1f));
    small = fma(small * square, x, x);
    // Beyond 10 it is 1 in fp32; e^2x stays finite, and NaN stays.
    const F bounded = select(at_most(set(10), size), set(10), size);
    const F large = set(1) - set(2) / (exp2(bounded * set(2 * log2_e)) + set(1));
    const F with_sign = select(at_most(set(0), x), large, set(0) - large);
    return select(at_most(size, set(0.625f)), small, with_sign);
}

// Scores of rows [rows, block_keys] from strip s0 to s1, products q.k yet: what they are times scale is capped.
static void cap_scores(const nt_attention &a, float *scores, int64_t rows, int64_t s0, int64_t s1) {
    const F inner = set(float(a.scale / a.soft_cap)), outer = set(float(a.soft_cap / a.scale));
    for (int64_t row = 0; row < rows; ++row, scores += block_keys)
        for (int64_t i = s0 * strip; i < s1 * strip; i += lanes)
            store(scores + i, tanh(load(scores + i) * inner) * outer);
}

// ---- forward -----------------------------------------------------------------------------------------------------

// A row's maximum follows only when it is left behind by this much (in powers of 2): p may reach 2^8, which costs no
// precision, and what was summed is seldom scaled again.
constexpr float slack = 8;

// Gives a row a new maximum: what was summed before is scaled to it.
NT_INLINE void raise(float *largest_so_far, float *sums, float *o, int64_t dim, float now) {
    const float before = *largest_so_far;
    *largest_so_far = now;
    if (before == -__builtin_inff()) return;  // nothing was summed
    const F kept = set(__builtin_exp2f(before - now));
    store(sums, load(sums) * kept);
    for (int64_t e = 0; e < dim; e += lanes) store(o + e, load(o + e) * kept);
}

// One row of scores to probabilities in words, from strip s0 to s1; `whole`: the row sees all of them.
template <class T, bool whole>
NT_INLINE void soften(const Sight &sight, const Workspace &w, int64_t row, int64_t line, int64_t dim, int64_t s0,
                      int64_t s1, float factor) {
    float *scores = w.scores + line * block_keys, *p = w.p + line * line_words<T>;
    const F none = set(-__builtin_inff());
    if constexpr (!whole) {
        const F oldest = edge(sight.oldest(row)), newest = edge(sight.newest(row));
        for (int64_t i = s0 * strip; i < s1 * strip; i += lanes)
            store(scores + i, seen(load(scores + i), counting(i), oldest, newest, none));
    }
    F most[2] = {none, none};
    for (int64_t i = s0 * strip; i < s1 * strip; i += strip) {
        most[0] = max(load(scores + i), most[0]);
        most[1] = max(load(scores + i + lanes), most[1]);
    }
    const float now = largest(max(most[0], most[1])) * factor;
    if (now > w.largest[row] + slack) raise(w.largest + row, w.sums + row * 16, w.o + row * dim, dim, now);
    // A row that has seen nothing yet: all its scores are -infinity, its probabilities 0.
    const float shift = w.largest[row] == -__builtin_inff() ? 0 : -w.largest[row];
    F sum[2] = {load(w.sums + row * 16), set(0)};
    for (int64_t i = s0 * strip; i < s1 * strip; i += strip) {
        const F x = exp2(fma(load(scores + i), set(factor), set(shift)));
        const F y = exp2(fma(load(scores + i + lanes), set(factor), set(shift)));
        sum[0] = sum[0] + x;
        sum[1] = sum[1] + y;
        if constexpr (pair_of<T> == 2) {
            store_whole(p + i / 2, narrow_pair(x, y));
        } else {
            store(p + i, x);
            store(p + i + lanes, y);
        }
    }
    store(w.sums + row * 16, sum[0] + sum[1]);
}

// Softmax of a subpanel's rows against one block, and o += p v. Scores and p are of the first rows of their scratch.
template <class T>
static void forward_subpanel(const Sight &sight, const Workspace &w, int64_t dim, const float *keys,
                             const float *values, int64_t first, int64_t last, float factor) {
    constexpr int pair = pair_of<T>;
    const int64_t s0 = sight.first_strip(first), s1 = sight.last_strip(last), words = dim / pair;
    if (s0 >= s1) return;
    const int64_t columns = (s1 - s0) * strip, at = s0 * strip;
    product<T, false>(w.q + first * words, words, 1, keys + at, block_keys, w.scores + at, block_keys, last - first,
                         columns, words);
    if (sight.a.soft_cap > 0) cap_scores(sight.a, w.scores, last - first, s0, s1);
    if (sight.whole(first, last, s1))
        for (int64_t row = first; row < last; ++row) soften<T, true>(sight, w, row, row - first, dim, s0, s1, factor);
    else
        for (int64_t row = first; row < last; ++row) soften<T, false>(sight, w, row, row - first, dim, s0, s1, factor);
    product<T, true>(w.p + at / pair, line_words<T>, 1, values + at / pair * dim, dim, w.o + first * dim, dim,
                        last - first, dim, columns / pair);
}

template <class T>
static void forward_panel(const nt_attention &a, const Inputs<T> &in, const Outputs<T> &out, const Scratch &s,
                          const Workspace &w, const Panel &panel) {
    const Layout &l = s.layout;
    const int64_t count = panel.tokens * l.group, padded = rounded_up(count, l.row_step);
    const int64_t first_query = panel.document.first_query + panel.first_token;
    const int64_t position = panel.document.past() + panel.first_token;
    const Rows rows{first_query, panel.kv_head * l.group * a.head_dim, a.head_dim, l.group};
    load_panel(rows, in.q, in.q_stride, count, padded, l.dim, w.q);
    memset(w.o, 0, size_t(padded * l.dim) * sizeof(float));
    memset(w.sums, 0, size_t(padded * 16) * sizeof(float));
    for (int64_t row = 0; row < padded; ++row) w.largest[row] = -__builtin_inff();

    const int64_t last_block = newest_key(a, panel.document, position + panel.tokens - 1) / block_keys;
    for (int64_t block = oldest_key(a, position) / block_keys; block <= last_block; ++block) {
        const Sight sight{a, panel, block * block_keys, l.group};
        const float *keys = s.packed(0, panel.kv_head, panel.first_block + block);
        const float *values = s.packed(1, panel.kv_head, panel.first_block + block);
        for (int64_t first = 0; first < padded; first += subpanel_rows)
            forward_subpanel<T>(sight, w, l.dim, keys, values, first, std::min(padded, first + subpanel_rows),
                                float(a.scale) * log2_e);
    }

    const int64_t N = a.starts[a.documents];
    for (int64_t row = 0; row < count; ++row) {
        const float sum = total(load(w.sums + row * 16));
        write_row(w.o + row * l.dim, set(1 / sum), a.head_dim, rows.at(out.o, out.o_stride, row));
        out.lse[(panel.kv_head * l.group + row % l.group) * N + first_query + row / l.group] =
            w.largest[row] * ln_2 + __builtin_logf(sum);
    }
}

template <class T>
void forward(const nt_attention &a, const Inputs<T> &in, const Outputs<T> &out, const Scratch &s, int64_t part) {
    const Workspace w = workspace(s.layout, false, s.parts + size_t(part) * s.part_bytes);
    [[maybe_unused]] const Tiles tiles;
    each_panel(a, s.layout, [&](int64_t owner, const Panel &panel) {
        if (owner == part) forward_panel(a, in, out, s, w, panel);
    });
}

// ---- backward ----------------------------------------------------------------------------------------------------

// Of `pair` rows: p = 2^(s factor - lse), ds = p (dp - D) with the slope of the cap, as words along keys (ds) and across
// rows (p, ds_across).
template <class T, bool whole, bool capped>
NT_INLINE void soften_backward(const Sight &sight, const Workspace &w, int64_t row, int64_t line, int64_t s0,
                               int64_t s1, float factor) {
    constexpr int pair = pair_of<T>;
    const F inner = set(capped ? float(sight.a.scale / sight.a.soft_cap) : 0);
    F oldest[pair], newest[pair], lse[pair], D[pair];
    for (int i = 0; i < pair; ++i) {
        if constexpr (!whole) {
            oldest[i] = edge(sight.oldest(row + i));
            newest[i] = edge(sight.newest(row + i));
        }
        lse[i] = set(-w.largest[row + i]);
        D[i] = set(w.D[row + i]);
    }
    const float *scores = w.scores + line * block_keys, *dp = w.dp + line * block_keys;
    // Rows of p, ds_across [rows / pair, block_keys] and ds [rows, block_keys / pair].
    float *to_p = w.p + row / pair * block_keys, *to_ds = w.ds + row * line_words<T>;
    float *to_ds_across = w.ds_across + row / pair * block_keys;
    for (int64_t at = s0 * strip; at < s1 * strip; at += lanes) {
        F p[pair], ds[pair];
        for (int i = 0; i < pair; ++i) {
            p[i] = exp2(fma(load(scores + i * block_keys + at), set(factor), lse[i]));
            if constexpr (!whole) p[i] = seen(p[i], counting(at), oldest[i], newest[i], set(0));
            ds[i] = p[i] * (load(dp + i * block_keys + at) - D[i]);
            if constexpr (capped) {
                const F t = load(scores + i * block_keys + at) * inner;
                ds[i] = ds[i] * (set(1) - t * t);
            }
        }
        if constexpr (pair == 2) {
            const auto narrow_p = narrow_pair(p[0], p[1]), narrow_ds = narrow_pair(ds[0], ds[1]);
            store(to_p + at, interleaved(narrow_p));
            store(to_ds_across + at, interleaved(narrow_ds));
            store_low(to_ds + at / 2, narrow_ds);
            store_high(to_ds + line_words<T> + at / 2, narrow_ds);
        } else {
            store(to_p + at, p[0]);
            store(to_ds + at, ds[0]);
        }
    }
}

// The subpanel's part of p and ds against one block; dq += ds k.
template <class T>
static void backward_subpanel(const Sight &sight, const Workspace &w, int64_t dim, const float *keys,
                              const float *values, const float *keys_across, int64_t first, int64_t last,
                              float factor) {
    constexpr int pair = pair_of<T>;
    const int64_t s0 = sight.first_strip(first), s1 = sight.last_strip(last), words = dim / pair;
    if (s0 >= s1) return;
    const int64_t columns = (s1 - s0) * strip, at = s0 * strip;
    product<T, false>(w.q + first * words, words, 1, keys + at, block_keys, w.scores + at, block_keys, last - first,
                         columns, words);
    product<T, false>(w.d_o + first * words, words, 1, values + at, block_keys, w.dp + at, block_keys, last - first,
                         columns, words);
    const auto soften = [&](auto whole, auto capped) NT_LAMBDA {
        for (int64_t row = first; row < last; row += pair)
            soften_backward<T, whole.value, capped.value>(sight, w, row, row - first, s0, s1, factor);
    };
    const bool whole = sight.whole(first, last, s1), capped = sight.a.soft_cap > 0;
    if (capped) cap_scores(sight.a, w.scores, last - first, s0, s1);
    if (whole && !capped) soften(std::true_type(), std::false_type());
    if (!whole && !capped) soften(std::false_type(), std::false_type());
    if (whole && capped) soften(std::true_type(), std::true_type());
    if (!whole && capped) soften(std::false_type(), std::true_type());
    product<T, true>(w.ds + first * line_words<T> + at / pair, line_words<T>, 1, keys_across + at / pair * dim, dim,
                        w.o + first * dim, dim, last - first, dim, columns / pair);
}

// dv^T and dk^T [dim, block_keys] of one block += the panel's dO^T p and q^T ds, over the rows that see each strip.
template <class T>
static void backward_block(const Sight &sight, const Workspace &w, int64_t dim, int64_t padded, float *sums) {
    constexpr int pair = pair_of<T>;
    // Where the word (e, pair of rows) lies in what load_panel_across made.
    const int64_t across_e = by_tiles<T> ? padded / pair : 1, across_pair = by_tiles<T> ? 1 : dim;
    for (int64_t s = 0; s < strips; ++s) {
        int64_t first = padded, last = 0;
        for (int64_t row = 0; row < padded; row += subpanel_rows) {
            const int64_t end = std::min(padded, row + subpanel_rows);
            if (s < sight.first_strip(row) || s >= sight.last_strip(end)) continue;
            first = std::min(first, row);
            last = end;
        }
        if (first >= last) continue;
        const int64_t from = first / pair, steps = (last - first) / pair, at = from * block_keys + s * strip;
        product<T, true>(w.d_o_across + from * across_pair, across_e, across_pair, w.p + at, block_keys,
                         sums + s * strip, block_keys, dim, strip, steps);
        product<T, true>(w.q_across + from * across_pair, across_e, across_pair, w.ds_across + at, block_keys,
                         sums + dim * block_keys + s * strip, block_keys, dim, strip, steps);
    }
}

// D = sum over e of dO o, and lse in powers of 2, of the panel's rows; 0 for rows that only pad.
template <class T>
static void load_row_numbers(const nt_attention &a, const Gradients<T> &g, const Rows &rows, const Panel &panel,
                             const Layout &l, int64_t count, int64_t padded, const Workspace &w) {
    const int64_t N = a.starts[a.documents], E = a.head_dim;
    for (int64_t row = 0; row < count; ++row) {
        const T *o = rows.at(g.o, g.o_stride, row), *d_o = rows.at(g.d_o, g.do_stride, row);
        F sum = set(0);
        int64_t e = 0;
        for (; e + lanes <= E; e += lanes) sum = fma(load(o + e), load(d_o + e), sum);
        float D = total(sum);
        for (; e < E; ++e) D += widened(o[e]) * widened(d_o[e]);
        w.D[row] = D;
        w.largest[row] =
            log2_e * g.lse[(panel.kv_head * l.group + row % l.group) * N + rows.first_row + row / l.group];
    }
    for (int64_t row = count; row < padded; ++row) w.D[row] = w.largest[row] = 0;
}

template <class T>
static void backward_panel(const nt_attention &a, const Inputs<T> &in, const Gradients<T> &g, const Scratch &s,
                           const Workspace &w, const Panel &panel, float *sums) {
    const Layout &l = s.layout;
    const int64_t count = panel.tokens * l.group, padded = rounded_up(count, l.row_step);
    const int64_t position = panel.document.past() + panel.first_token;
    const Rows rows{panel.document.first_query + panel.first_token, panel.kv_head * l.group * a.head_dim, a.head_dim,
                    l.group};
    load_panel(rows, in.q, in.q_stride, count, padded, l.dim, w.q);
    load_panel(rows, g.d_o, g.do_stride, count, padded, l.dim, w.d_o);
    if constexpr (pair_of<T> == 2) {
        load_panel_across(rows, in.q, in.q_stride, count, padded, l.dim, w.q_across);
        load_panel_across(rows, g.d_o, g.do_stride, count, padded, l.dim, w.d_o_across);
    }
    load_row_numbers(a, g, rows, panel, l, count, padded, w);
    memset(w.o, 0, size_t(padded * l.dim) * sizeof(float));

    const int64_t last_block = newest_key(a, panel.document, position + panel.tokens - 1) / block_keys;
    for (int64_t block = oldest_key(a, position) / block_keys; block <= last_block; ++block) {
        const Sight sight{a, panel, block * block_keys, l.group};
        const auto packed = [&](int which) NT_LAMBDA {
            return s.packed(which, panel.kv_head, panel.first_block + block);
        };
        for (int64_t first = 0; first < padded; first += subpanel_rows)
            backward_subpanel<T>(sight, w, l.dim, packed(0), packed(1), packed(2), first,
                                 std::min(padded, first + subpanel_rows), float(a.scale) * log2_e);
        backward_block<T>(sight, w, l.dim, padded, sums + block * l.sums());
    }
    for (int64_t row = 0; row < count; ++row)
        write_row(w.o + row * l.dim, set(float(a.scale)), a.head_dim, rows.at(g.dq, g.dq_stride, row));
}

// Rows of dk, dv from transposed sums [blocks, 2 (dv, dk), dim, block_keys].
template <class T>
static void write_keys(const nt_attention &a, const Gradients<T> &g, const Layout &l, const Document &document,
                       int64_t kv_head, const float *sums) {
    float few[lanes * NT_ATTENTION_LARGEST_HEAD];  // [lanes, dim]
    const auto write = [&](int64_t key, const float *columns, F factor, T *out, int64_t stride) NT_LAMBDA {
        for (int64_t e = 0; e < l.dim; e += lanes) transpose(columns + e * block_keys, block_keys, few + e, l.dim);
        for (int64_t i = 0; i < std::min(lanes, document.keys - key); ++i)
            write_row(few + i * l.dim, factor, a.head_dim,
                      out + (document.first_key + key + i) * stride + kv_head * a.head_dim);
    };
    for (int64_t key = 0; key < document.keys; key += lanes) {
        const float *block = sums + key / block_keys * l.sums() + key % block_keys;
        write(key, block, set(1), g.dv, g.dv_stride);
        write(key, block + l.dim * block_keys, set(float(a.scale)), g.dk, g.dk_stride);
    }
}

template <class T>
void backward(const nt_attention &a, const Inputs<T> &in, const Gradients<T> &g, const Scratch &s, int64_t part) {
    const Workspace w = workspace(s.layout, true, s.parts + size_t(part) * s.part_bytes);
    float *sums = nullptr;  // of the unit in work
    [[maybe_unused]] const Tiles tiles;
    each_panel(a, s.layout, [&](int64_t owner, const Panel &panel) {
        if (owner != part) return;
        // A unit that another part began is `carried`, for join; one that this part began and did not close stays in
        // `current`, since it is the part's last.
        if (panel.opens || !sums) {
            sums = panel.opens ? w.current : w.carried;
            memset(sums, 0, size_t(panel.document.blocks() * s.layout.sums()) * sizeof(float));
        }
        backward_panel(a, in, g, s, w, panel, sums);
        if (panel.closes && sums == w.current) write_keys(a, g, s.layout, panel.document, panel.kv_head, sums);
    });
}

// Finishes the unit that this part began and another closes: its sums plus what later parts carried, in their order.
template <class T> void join(const nt_attention &a, const Gradients<T> &g, const Scratch &s, int64_t part) {
    const auto of_part = [&](int64_t i) { return workspace(s.layout, true, s.parts + size_t(i) * s.part_bytes); };
    float *sums = of_part(part).current;
    bool begun_here = false;
    int64_t added = part;
    each_panel(a, s.layout, [&](int64_t owner, const Panel &panel) {
        if (panel.opens) begun_here = owner == part;
        if (!begun_here || owner == part) return;
        if (owner != added) {
            const float *carried = of_part(owner).carried;
            const int64_t size = panel.document.blocks() * s.layout.sums();
            for (int64_t i = 0; i < size; i += lanes) store(sums + i, load(sums + i) + load(carried + i));
            added = owner;
        }
        if (panel.closes) write_keys(a, g, s.layout, panel.document, panel.kv_head, sums);
    });
}

#define NT_INSTANTIATE(T)                                                                                             \
    template void pack(const nt_attention &, const Inputs<T> &, const Scratch &, int64_t, int64_t, int64_t, int64_t); \
    template void forward(const nt_attention &, const Inputs<T> &, const Outputs<T> &, const Scratch &, int64_t);      \
    template void backward(const nt_attention &, const Inputs<T> &, const Gradients<T> &, const Scratch &, int64_t);   \
    template void join(const nt_attention &, const Gradients<T> &, const Scratch &, int64_t);
