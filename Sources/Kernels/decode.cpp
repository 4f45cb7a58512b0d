// Generation: one product, one attention, and what is done beside a decoder's step (decode_step.cpp).
// n rows (tokens), I inputs, O outputs, H query heads, K key/value heads, E head dimension
#include "decode.h"

#include "decode_work.h"

using namespace nt;

int64_t nt_weight_row_bytes(int32_t type, int64_t columns) {
    const Block block = block_of(type);
    if (block.elements == 0 || columns % block.elements) return 0;
    return columns / block.elements * block.bytes;
}

void nt_weight_row(const nt_weight *w, int64_t o, float *out) {
    with_type(w->type, [&](auto type) {
        for (int64_t i = 0; i < w->columns; i += kPanel)
            decode_floats<type>(
                row_of(*w, o), w->scales ? w->scales[o] : 1, i, std::min(kPanel, w->columns - i), out + i);
    });
}

// MARK: One product

namespace {

/// Where a product with other element types than fp32 keeps its rows.
struct LinearSpace {
    Packed packed;
    float *x, *y;
    LinearSpace(Arena &arena, const DecodeKernels &k, const nt_weight *w, int64_t n)
        : packed(arena, k, {w}, n), x(arena.floats(n * w->columns)), y(arena.floats(n * w->rows)) {}
};

}  // namespace

size_t nt_decode_linear_scratch_bytes(const nt_weight *w, int64_t n) {
    Arena arena(nullptr);
    LinearSpace space(arena, kernels(), w, std::min(n, kPassRows));
    return arena.used();
}

void nt_decode_linear(const nt_weight *w, const void *x, int32_t x_type, int64_t x_stride, int64_t n, void *y,
                      int32_t y_type, int64_t y_stride, void *scratch, nt_parallel parallel) {
    const DecodeKernels &k = kernels();
    for (int64_t first = 0; first < n; first += kPassRows) {
        const int64_t count = std::min(n - first, kPassRows);
        Arena arena(scratch);
        LinearSpace space(arena, k, w, count);
        if (x_type == NT_BF16) {
            const uint16_t *from = (const uint16_t *)x + first * x_stride;
            for (int64_t t = 0; t < count; ++t)
                for (int64_t i = 0; i < w->columns; ++i)
                    space.x[t * w->columns + i] = widened(from[t * x_stride + i]);
            space.packed.fill(space.x, w->columns);
        } else {
            space.packed.fill((const float *)x + first * x_stride, x_stride);
        }
        if (y_type == NT_F32) {
            multiply(k, space.packed, count, {{w, (float *)y + first * y_stride, y_stride}}, parallel);
            continue;
        }
        multiply(k, space.packed, count, {{w, space.y, w->rows}}, parallel);
        uint16_t *to = (uint16_t *)y + first * y_stride;
        for (int64_t t = 0; t < count; ++t)
            for (int64_t o = 0; o < w->rows; ++o) to[t * y_stride + o] = rounded(space.y[t * w->rows + o]);
    }
}

// MARK: Attention

size_t nt_decode_attention_scratch_bytes(const int64_t *lengths, int64_t n, int64_t heads, int64_t head_dim) {
    Arena arena(nullptr);
    int64_t pieces = 0;
    for (int64_t t = 0; t < n; ++t) pieces += Span(lengths[t], 0).pieces;
    arena.take(size_t(8 * (n + 1)));
    arena.floats(pieces * heads * (head_dim + 2));
    return arena.used();
}

void nt_decode_attention(const float *q, int64_t q_stride, const nt_cache *cache, const int64_t *sequences,
                         const int64_t *lengths, int64_t n, int64_t heads, int64_t kv_heads, int64_t head_dim,
                         int64_t window, float scale, float cap, float *out, int64_t out_stride, void *scratch,
                         nt_parallel parallel) {
    const Attention attention(
        q, q_stride, *cache, sequences, lengths, n, heads, kv_heads, head_dim, window, scale, cap, scratch);
    run(parallel, attention.tasks(), 1,
        [&](int64_t begin, int64_t end) { attention.attend(kernels(), begin, end); });
    attention.join(out, out_stride);
}

// MARK: Beside a step

int64_t nt_argmax_f32(const float *x, int64_t count) {
    // Largest of each block first, so that the compiler can vectorise; then its first place.
    constexpr int64_t block = 256;
    float best = -INFINITY;
    int64_t at = 0;
    for (int64_t i = 0; i < count; i += block) {
        float lanes[16];
        const int64_t end = std::min(i + block, count);
        for (float &lane : lanes) lane = -INFINITY;
        int64_t j = i;
        for (; j + 16 <= end; j += 16)
            for (int l = 0; l < 16; ++l) lanes[l] = x[j + l] > lanes[l] ? x[j + l] : lanes[l];
        for (; j < end; ++j) lanes[0] = x[j] > lanes[0] ? x[j] : lanes[0];
        float top = lanes[0];
        for (float lane : lanes) top = lane > top ? lane : top;
        if (top > best) best = top, at = i;
    }
    for (int64_t i = at; i < count; ++i)
        if (x[i] == best) return i;
    return 0;  // nothing but NaN and -infinity
}

int64_t nt_indices_f32(const float *x, int64_t count, float least, int32_t *indices) {
    // Few are expected: each block is counted first, which the compiler vectorises.
    constexpr int64_t block = 128;
    int64_t found = 0;
    for (int64_t i = 0; i < count; i += block) {
        const int64_t end = std::min(i + block, count);
        int32_t here = 0;
        for (int64_t j = i; j < end; ++j) here += x[j] >= least;
        if (here && indices)
            for (int64_t j = i, at = found; at < found + here; ++j)
                if (x[j] >= least) indices[at++] = int32_t(j);
        found += here;
    }
    return found;
}

double nt_softmax_weights_f32(const float *x, int64_t count, float factor, float *out) {
    if (count == 0) return 0;
    return kernels().weights(x, count, x[nt_argmax_f32(x, count)], factor, out);
}

namespace {

/// The sum of `lines` cache lines of words, read in four far ranges at the same time as weights are.
uint64_t sum_of(const uint64_t *words, int64_t lines) {
    constexpr int64_t line = 8;
    const int64_t quarter = lines / 4;
    uint64_t sums[4][line] = {};
    const auto add = [&](int64_t range, int64_t i) {
        for (int64_t l = 0; l < line; ++l) sums[range][l] += words[(range * quarter + i) * line + l];
    };
    for (int64_t i = 0; i < quarter; ++i)
        for (int64_t range = 0; range < 4; ++range) add(range, i);
    for (int64_t i = quarter; i < lines - 3 * quarter; ++i) add(3, i);
    uint64_t total = 0;
    for (const auto &range : sums)
        for (uint64_t sum : range) total += sum;
    return total;
}

}  // namespace

uint64_t nt_read_weights(const nt_decoder *d, nt_parallel parallel) {
    constexpr int64_t shares = 256;
    uint64_t total = 0;
    run(parallel, shares, 1, [&](int64_t begin, int64_t end) {
        uint64_t sum = 0;
        const auto read = [&](const nt_weight &w) {
            const int64_t lines = w.rows * nt_weight_row_bytes(w.type, w.columns) / 64;
            const int64_t first = lines * begin / shares, last = lines * end / shares;
            sum += sum_of(static_cast<const uint64_t *>(w.data) + 8 * first, last - first);
        };
        for (const nt_decoder_layer *l = d->layers; l < d->layers + d->layer_count; ++l)
            for (const nt_weight *w : {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down}) read(*w);
        read(d->head);
        __atomic_fetch_add(&total, sum, __ATOMIC_RELAXED);  // whole numbers: any order gives the same
    });
    return total;
}
