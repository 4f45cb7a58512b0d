// The product of two matrices with AVX2 + FMA: 6 rows of A against 16 columns of B in registers.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "product_types.h"

#define NT_INLINE static inline __attribute__((always_inline))

#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
namespace nt_products::avx2 {

using bf16 = uint16_t;
#include "vectors_avx2.h"

/// `count` lines of a matrix (rows of A, columns of B), at most `width`, as a panel [steps, width], zeros behind them.
/// Element (line, step) is at[line * line_stride + step * step_stride].
template <int64_t width>
NT_INLINE void pack(const float *at, int64_t line_stride, int64_t step_stride, int64_t count, int64_t steps, float *out) {
    int64_t step = 0;
    if (step_stride == 1) {
        for (; step + lanes <= steps; step += lanes)
            for (int64_t first = 0; first < width; first += lanes) {
                const int64_t wanted = std::min(lanes, width - first), there = std::min(wanted, count - first);
                F x[lanes];
                for (int64_t i = 0; i < lanes; ++i)
                    x[i] = i < there ? load(at + (first + i) * line_stride + step) : set(0);
                transpose(x);
                for (int64_t i = 0; i < lanes; ++i)
                    memcpy(out + (step + i) * width + first, &x[i], size_t(wanted) * sizeof(float));
            }
    } else if (line_stride == 1 && count == width) {
        for (; step < steps; ++step) memcpy(out + step * width, at + step * step_stride, width * sizeof(float));
    }
    for (; step < steps; ++step)
        for (int64_t line = 0; line < width; ++line)
            out[step * width + line] = line < count ? at[line * line_stride + step * step_stride] : 0;
}

void pack_columns(const nt_product &p, const Block &block, int64_t panel, float *packed) {
    const int64_t column = panel * panel_columns;
    const float *at = p.b + (block.first_column + column) * p.b_column + block.first_step * p.b_row;
    pack<panel_columns>(at, p.b_column, p.b_row, std::min(panel_columns, block.columns - column), block.steps, packed);
}

/// c [6, 16] = alpha a b, or added to it: a [steps, 6], b [steps, 16].
template <bool adds>
NT_INLINE void tile(int64_t steps, const float *a, const float *b, float alpha, float *c, int64_t c_row) {
    F sum[panel_rows][2];
#pragma clang loop unroll(full)
    for (int i = 0; i < panel_rows; ++i) {
        sum[i][0] = sum[i][1] = set(0);
        __builtin_prefetch(c + i * c_row, 1);
        __builtin_prefetch(c + i * c_row + panel_columns - 1, 1);
    }
#pragma clang loop unroll_count(4)
    for (int64_t step = 0; step < steps; ++step, a += panel_rows, b += panel_columns) {
        const F left = load(b), right = load(b + lanes);
#pragma clang loop unroll(full)
        for (int i = 0; i < panel_rows; ++i) {
            const F x = set(a[i]);
            sum[i][0] = fma(x, left, sum[i][0]);
            sum[i][1] = fma(x, right, sum[i][1]);
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < panel_rows; ++i)
#pragma clang loop unroll(full)
        for (int j = 0; j < 2; ++j) {
            float *to = c + i * c_row + j * lanes;
            store(to, adds ? fma(sum[i][j], set(alpha), load(to)) : sum[i][j] * set(alpha));
        }
}

/// The same for rows x columns numbers at C's edge.
static void edge_tile(const Block &block, const float *a, const float *b, float alpha, float *c, int64_t c_row,
                      int64_t rows, int64_t columns) {
    float whole[panel_rows * panel_columns] = {};
    for (int64_t i = 0; i < rows && block.adds; ++i)
        memcpy(whole + i * panel_columns, c + i * c_row, size_t(columns) * sizeof(float));
    block.adds ? tile<true>(block.steps, a, b, alpha, whole, panel_columns)
               : tile<false>(block.steps, a, b, alpha, whole, panel_columns);
    for (int64_t i = 0; i < rows; ++i)
        memcpy(c + i * c_row, whole + i * panel_columns, size_t(columns) * sizeof(float));
}

/// Rows first ..< last, packed, against one panel of B.
NT_INLINE void multiply_panel(const nt_product &p, const Block &block, int64_t first, int64_t last, int64_t panel,
                              const float *packed_a, const float *b) {
    const int64_t column = panel * panel_columns, columns = std::min(panel_columns, block.columns - column);
    for (int64_t row = first; row < last; row += panel_rows) {
        const float *a = packed_a + (row - first) * block.steps;
        float *c = p.c + row * p.c_row + block.first_column + column;
        if (last - row < panel_rows || columns < panel_columns)
            edge_tile(block, a, b, p.alpha, c, p.c_row, std::min(panel_rows, last - row), columns);
        else if (block.adds)
            tile<true>(block.steps, a, b, p.alpha, c, p.c_row);
        else
            tile<false>(block.steps, a, b, p.alpha, c, p.c_row);
    }
}

void multiply(const nt_product &p, const Block &block, const Task &task, const float *packed_b, float *packed_a) {
    const int64_t rows = task.last_row - task.first_row;
    if (rows <= 0 || task.first_panel >= task.last_panel) return;
    const int64_t stretch = even_piece(rows, most_rows, panel_rows);
    for (int64_t first = task.first_row; first < task.last_row; first += stretch) {
        const int64_t last = std::min(first + stretch, task.last_row);
        for (int64_t row = first; row < last; row += panel_rows)
            pack<panel_rows>(p.a + row * p.a_row + block.first_step * p.a_column, p.a_row, p.a_column,
                             std::min(panel_rows, last - row), block.steps, packed_a + (row - first) * block.steps);
        for (int64_t panel = task.first_panel; panel < task.last_panel; ++panel)
            multiply_panel(p, block, first, last, panel, packed_a, packed_b + panel * panel_columns * block.steps);
    }
}

}  // namespace nt_products::avx2
#pragma clang attribute pop
#endif
