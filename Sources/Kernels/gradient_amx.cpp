// A weight's gradient with AMX: tiles of dy^T against tiles of x, added to tiles of dW where they lie.
#if defined(__x86_64__)
#include <immintrin.h>

#include "gradient_types.h"

#define NT_INLINE static inline __attribute__((always_inline))

#pragma clang attribute push(__attribute__((target(                                                          \
                                 "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16"))), \
                             apply_to = function)
namespace nt_gradient::amx {

#include "vectors_avx512.h"
#include "attention_pairs.h"
#include "tiles.h"

// Rows 2 pair, 2 pair + 1 of a matrix [N, width] beside each other: `panel` words from column `column` on, zeros beyond
// the matrix.
NT_INLINE void pair_line(const bf16 *matrix, int64_t stride, int64_t N, int64_t width, int64_t pair, int64_t column,
                         float *out) {
    const int64_t rows = std::clamp<int64_t>(N - 2 * pair, 0, 2), columns = std::min(panel, width - column);
    const bf16 *row = matrix + 2 * pair * stride + column;
    if (rows == 2 && columns == panel) {
        // The lines that come next lie a row's length apart: the processor does not foresee them.
        _mm_prefetch((const char *)(row + 2 * 16 * stride), _MM_HINT_T0);
        _mm_prefetch((const char *)(row + (2 * 16 + 1) * stride), _MM_HINT_T0);
        store(out, beside(row, row + stride));
        store(out + lanes, beside(row + lanes, row + stride + lanes));
        return;
    }
    bf16 edge[2][panel] = {};
    for (int64_t i = 0; i < rows; ++i) memcpy(edge[i], row + i * stride, size_t(columns) * sizeof(bf16));
    store(out, beside(edge[0], edge[1]));
    store(out + lanes, beside(edge[0] + lanes, edge[1] + lanes));
}

void pack_x(const Arguments &a, int64_t sixteen, float *packed) {
    for (int64_t i = 0; i < a.I; i += panel)
        for (int64_t pair = 16 * sixteen; pair < 16 * sixteen + 16; ++pair)
            pair_line(a.x, a.x_stride, a.N, a.I, pair, i, packed + (i / panel * a.pairs() + pair) * panel);
}

// Columns first ..< last of dy as rows of words, `pairs` of them from pair `begin` of N on.
static void pack_dy(const Arguments &a, int64_t first, int64_t last, int64_t begin, int64_t pairs, float *out) {
    alignas(64) float lines[16 * panel];
    for (int64_t at = 0; at < pairs; at += 16)
        for (int64_t o = first; o < last; o += panel) {
            for (int64_t i = 0; i < 16; ++i)
                pair_line(a.dy, a.dy_stride, a.N, a.O, begin + at + i, o, lines + i * panel);
            float *to = out + (o - first) * part_stride + at;
            transpose(lines, panel, to, part_stride);
            transpose(lines + lanes, panel, to + lanes * part_stride, part_stride);
        }
}

// 32 x 32 numbers of dW at its edge, in a tile of their own first.
static void edge_block(const Arguments &a, const float *left, const float *right, int64_t pairs, bool adds, int64_t o,
                       int64_t i) {
    alignas(64) float block[panel * panel];
    product_of_tiles<false>(left, part_stride, right, panel, block, panel, panel, panel, pairs);
    for (int64_t r = 0; r < std::min(panel, a.O - o); ++r)
        for (int64_t c = 0; c < std::min(panel, a.I - i); ++c) {
            float &to = a.dw[(o + r) * a.dw_stride + i + c];
            to = adds ? to + block[r * panel + c] : block[r * panel + c];
        }
}

void task(const Arguments &a, const float *packed_x, int64_t index, float *part) {
    const Tiles tiles;
    const int64_t first = index * task_rows, last = std::min(first + task_rows, a.O);
    for (int64_t begin = 0; begin < a.pairs(); begin += block_rows / 2) {
        const int64_t pairs = std::min(block_rows / 2, a.pairs() - begin);
        const bool adds = a.adds || begin > 0;
        pack_dy(a, first, last, begin, pairs, part);
        for (int64_t i = 0; i < a.I; i += panel) {
            const float *right = packed_x + (i / panel * a.pairs() + begin) * panel;
            for (int64_t o = first; o < last; o += panel) {
                const float *left = part + (o - first) * part_stride;
                float *to = a.dw + o * a.dw_stride + i;
                if (o + panel > a.O || i + panel > a.I)
                    edge_block(a, left, right, pairs, adds, o, i);
                else if (adds)
                    product_of_tiles<true>(left, part_stride, right, panel, to, a.dw_stride, panel, panel, pairs);
                else
                    product_of_tiles<false>(left, part_stride, right, panel, to, a.dw_stride, panel, panel, pairs);
            }
        }
    }
}

}  // namespace nt_gradient::amx
#pragma clang attribute pop
#endif
