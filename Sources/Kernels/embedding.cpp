// The gradient of an embedding table: arguments, the scalar twin, the C entries. Meaning: include/embedding.h.
#include "embedding.h"

#include "dispatch.h"

using nt_twin::Wide;

namespace {

// Positions in the order of their ids; segment s is order[starts[s]] ..< order[starts[s + 1]], all of one id.
template <class T> struct Scatter {
    int64_t width;
    const int64_t *ids;
    const T *dx;
    int64_t dx_stride;
    Wide<T> scale;
    Wide<T> *dtable;
    int64_t table_stride;
    const int32_t *order, *starts;
};

constexpr int64_t digit = 1 << 11;

// Stable sort of the positions 0 ..< count by id, one digit of the ids after the other.
const int32_t *sorted_positions(int64_t count, const int64_t *ids, int32_t *order, int32_t *other, int32_t *places) {
    int64_t largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, ids[i]), order[i] = int32_t(i);
    for (int shift = 0; shift == 0 || largest >> shift > 0; shift += 11) {
        std::fill(places, places + digit, 0);
        for (int64_t i = 0; i < count; ++i) ++places[ids[i] >> shift & (digit - 1)];
        int32_t place = 0;
        for (int64_t d = 0; d < digit; ++d) place += places[d], places[d] = place - places[d];
        for (int64_t i = 0; i < count; ++i) other[places[ids[order[i]] >> shift & (digit - 1)]++] = order[i];
        std::swap(order, other);
    }
    return order;
}

}  // namespace

namespace nt_twin {

template <class T> void scatter(const Scatter<T> &a, int64_t begin, int64_t end) {
    for (int64_t segment = begin; segment < end; ++segment) {
        const int32_t *first = a.order + a.starts[segment], *last = a.order + a.starts[segment + 1];
        Wide<T> *row = a.dtable + a.ids[*first] * a.table_stride;
        for (int64_t i = 0; i < a.width; ++i) {
            double sum = double(row[i]);
            for (const int32_t *n = first; n < last; ++n) sum += double(a.scale) * get(a.dx[*n * a.dx_stride + i]);
            row[i] = Wide<T>(sum);
        }
    }
}

}  // namespace nt_twin

#define NT_BODY "embedding.simd.h"
#include "each_isa.h"

NT_DISPATCH(scatter)

namespace {

template <class T>
void backward(int64_t count, Scatter<T> a, void *scratch, nt_parallel parallel) {
    if (count <= 0) return;
    // Scratch: two orders, the starts, the places of a digit.
    int32_t *one = static_cast<int32_t *>(scratch), *other = one + count;
    int32_t *starts = other + count, *places = starts + count + 1;
    a.order = sorted_positions(count, a.ids, one, other, places);
    a.starts = starts;
    int64_t segments = 0;
    for (int64_t i = 0; i < count; ++i)
        if (i == 0 || a.ids[a.order[i]] != a.ids[a.order[i - 1]]) starts[segments++] = int32_t(i);
    starts[segments] = int32_t(count);
    nt::run(parallel, segments, nt::row_grain(a.width), picked_scatter<T>(), a);
}

}  // namespace

extern "C" {

size_t nt_embedding_scratch_bytes(int64_t count) { return size_t(3 * count + 1 + digit) * sizeof(int32_t); }

#define NT_SCATTER(S, T, W)                                                                                           \
    void nt_embedding_backward_##S(int64_t count, int64_t width, const int64_t *ids, const T *dx, int64_t dx_stride,  \
                                   W scale, W *dtable, int64_t table_stride, void *scratch, nt_parallel parallel) {   \
        backward<T>(count, {width, ids, dx, dx_stride, scale, dtable, table_stride, nullptr, nullptr}, scratch,       \
                    parallel);                                                                                        \
    }
NT_SCATTER(bf16, uint16_t, float)
NT_SCATTER(f32, float, float)
NT_SCATTER(f64, double, double)

}  // extern "C"
