// What the files of product*.cpp share: how work is cut (Goto and van de Geijn 2008, doi:10.1145/1356052.1356053).
//
// C is made in *blocks*: some columns, from some steps of the sum. B's part of a block is packed once, in panels of
// `panel_columns`, and stays in the last level of the cache; a *task* takes some rows of A, packed in panels of
// `panel_rows` that stay in the core's own cache, through all of them. A packed panel is [steps, width].
#pragma once
#include <algorithm>
#include <cstdint>

#include "product.h"
#include "run.h"

namespace nt_products {

using nt::pieces, nt::rounded_up;

constexpr int64_t panel_rows = 6, panel_columns = 16;
// A panel of B has 24 KiB, within the first level of the cache; the rows of a task 216 KiB, B's part at most 4.5 MiB.
constexpr int64_t most_steps = 384, most_rows = 144, most_columns = 3072;

/// Of `count` cut into as few pieces of at most `most` as can be, all but the last the same multiple of `step`.
inline int64_t even_piece(int64_t count, int64_t most, int64_t step) {
    return rounded_up(pieces(count, std::max<int64_t>(1, pieces(count, most))), step);
}

/// Steps of a block: the same for every element, so that sums are rounded alike.
inline int64_t block_steps(const nt_product &p) { return even_piece(p.K, most_steps, 8); }
inline int64_t block_columns(const nt_product &p) { return even_piece(p.N, most_columns, panel_columns); }

struct Block {
    int64_t first_column, columns, first_step, steps;
    bool adds;
};

/// Rows and panels of columns, ends excluded.
struct Task {
    int64_t first_row, last_row, first_panel, last_panel;
};

/// Of few rows every task takes all, and some of the columns, where there are enough.
inline bool cuts_rows(const nt_product &p) {
    return p.M >= p.parts * 32 * panel_rows || p.N < p.parts * 4 * panel_columns;
}

inline Task task(const nt_product &p, const Block &block, int64_t part) {
    const int64_t panels = pieces(block.columns, panel_columns), rows = pieces(p.M, panel_rows);
    if (!cuts_rows(p)) return {0, p.M, panels * part / p.parts, panels * (part + 1) / p.parts};
    const auto row = [&](int64_t i) { return std::min(p.M, rows * i / p.parts * panel_rows); };
    return {row(part), row(part + 1), 0, panels};
}

#if defined(__x86_64__)
namespace avx2 {
void pack_columns(const nt_product &p, const Block &block, int64_t panel, float *packed);
void multiply(const nt_product &p, const Block &block, const Task &task, const float *packed_b, float *packed_a);
}  // namespace avx2
#endif

}  // namespace nt_products
