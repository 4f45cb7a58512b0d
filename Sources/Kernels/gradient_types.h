// What the files of gradient*.cpp share: arguments, and how work is cut.
//
// x is packed once into panels of 32 columns, pairs along N: [panels, N / 2, 32] words. A task is `task_rows` rows of dW:
// its columns of dy are packed for `block_rows` rows of N at a time, which stay in the core's cache while they meet
// every panel of x.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "gradient.h"
#include "numbers.h"
#include "run.h"

namespace nt_gradient {

using bf16 = uint16_t;
using nt::rounded_up;

constexpr int64_t panel = 32, task_rows = 96, block_rows = 1024;

struct Arguments {
    int64_t N, O, I;
    const bf16 *dy;
    int64_t dy_stride;
    const bf16 *x;
    int64_t x_stride;
    bool adds;
    float *dw;
    int64_t dw_stride, parts;
    // Pairs of rows of N, as whole tiles.
    int64_t pairs() const { return rounded_up(N, panel) / 2; }
    int64_t x_panels() const { return (I + panel - 1) / panel; }
    int64_t tasks() const { return (O + task_rows - 1) / task_rows; }
};

// Words of one part's packed columns of dy: task_rows rows of a block's pairs. Rows lie a line apart from a power of 2,
// else many of them would fall into the same few sets of the cache.
constexpr int64_t part_stride = block_rows / 2 + 16, part_words = task_rows * part_stride;

#if defined(__x86_64__)
namespace amx {
// Pairs 16 i ..< 16 i + 16 of x.
void pack_x(const Arguments &a, int64_t i, float *packed);
void task(const Arguments &a, const float *packed_x, int64_t index, float *part);
}  // namespace amx
#endif

}  // namespace nt_gradient
