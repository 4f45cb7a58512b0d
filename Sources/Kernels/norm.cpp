// RMSNorm and LayerNorm: arguments, the scalar twin, the C entries. Formulas: include/norm.h.
#include "norm.h"

#include "dispatch.h"

using nt_twin::Wide;

namespace {

// One struct for both norms.
template <class T> struct Norm {
    int64_t rows, width;
    const T *x;
    int64_t x_stride;
    const T *residual;
    int64_t residual_stride;
    const Wide<T> *weight, *bias;
    Wide<T> offset, epsilon;
    T *sum;
    int64_t sum_stride;
    T *y;
    int64_t y_stride;
    Wide<T> *mean, *r;
};

template <class T> struct NormBackward {
    int64_t rows, width;
    const T *dy;
    int64_t dy_stride;
    const T *s;
    int64_t s_stride;
    const Wide<T> *mean, *r, *weight;
    Wide<T> offset;
    const T *ds;
    int64_t ds_stride;
    T *dx;
    int64_t dx_stride;
    Wide<T> *dweight, *dbias;
    void *scratch;
};

// Rows whose dw is summed by one thread: at most 64 blocks, whatever the threads.
constexpr int64_t most_blocks = 64, least_rows = 16;
int64_t block_rows(int64_t rows) { return std::max(least_rows, (rows + most_blocks - 1) / most_blocks); }
int64_t block_count(int64_t rows) { return (rows + block_rows(rows) - 1) / block_rows(rows); }

// Partial sums: [blocks, 2, width], dweight's before dbias's.
template <class Sum> Sum *partial(void *scratch, int64_t block, int64_t width) {
    return static_cast<Sum *>(scratch) + block * 2 * width;
}

}  // namespace

extern "C" size_t nt_norm_scratch_bytes(int64_t rows, int64_t width) {
    return size_t(block_count(rows) * 2 * width) * sizeof(double);
}

namespace nt_twin {

// y from s and the statistics as they are stored, so that a second time gives the same bits.
template <class T, bool centered> void norm_row(const Norm<T> &a, int64_t row, const T *s) {
    T *y = a.y + row * a.y_stride;
    for (int64_t i = 0; i < a.width; ++i) {
        const double w = a.weight ? double(a.weight[i]) + double(a.offset) : 1;
        const double xhat = (get(s[i]) - (centered ? double(a.mean[row]) : 0)) * double(a.r[row]);
        put(y[i], xhat * w + (a.bias ? double(a.bias[i]) : 0));
    }
}

template <class T, bool centered> void norm_forward(const Norm<T> &a, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const T *s = a.x + row * a.x_stride;
        if (a.residual) {
            const T *residual = a.residual + row * a.residual_stride;
            T *sum = a.sum + row * a.sum_stride;
            for (int64_t i = 0; i < a.width; ++i) put(sum[i], get(s[i]) + get(residual[i]));
            s = sum;
        }
        double mean = 0, squares = 0;
        for (int64_t i = 0; i < a.width; ++i) mean += centered ? get(s[i]) / double(a.width) : 0;
        for (int64_t i = 0; i < a.width; ++i) squares += (get(s[i]) - mean) * (get(s[i]) - mean);
        if (centered) a.mean[row] = Wide<T>(mean);
        a.r[row] = Wide<T>(1 / std::sqrt(squares / double(a.width) + double(a.epsilon)));
        norm_row<T, centered>(a, row, s);
    }
}

template <class T, bool centered> void norm_again(const Norm<T> &a, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) norm_row<T, centered>(a, row, a.x + row * a.x_stride);
}

template <class T, bool centered> void norm_backward(const NormBackward<T> &a, int64_t begin, int64_t end) {
    const int64_t rows = block_rows(a.rows);
    for (int64_t block = begin; block < end; ++block) {
        double *dw = a.scratch ? partial<double>(a.scratch, block, a.width) : nullptr;
        double *db = dw ? dw + a.width : nullptr;
        if (dw) std::fill(dw, dw + 2 * a.width, 0.0);
        for (int64_t row = block * rows; row < std::min(a.rows, (block + 1) * rows); ++row) {
            const T *dy = a.dy + row * a.dy_stride, *s = a.s + row * a.s_stride;
            const T *ds = a.ds ? a.ds + row * a.ds_stride : nullptr;
            T *dx = a.dx + row * a.dx_stride;
            const double r = double(a.r[row]), mean = centered ? double(a.mean[row]) : 0;
            double mean_g = 0, mean_gx = 0;
            for (int64_t i = 0; i < a.width; ++i) {
                const double g = get(dy[i]) * (a.weight ? double(a.weight[i]) + double(a.offset) : 1);
                mean_g += centered ? g / double(a.width) : 0;
                mean_gx += g * (get(s[i]) - mean) * r / double(a.width);
            }
            for (int64_t i = 0; i < a.width; ++i) {
                const double g = get(dy[i]) * (a.weight ? double(a.weight[i]) + double(a.offset) : 1);
                const double xhat = (get(s[i]) - mean) * r;
                if (dw) dw[i] += get(dy[i]) * xhat, db[i] += get(dy[i]);
                put(dx[i], r * (g - mean_g - xhat * mean_gx) + (ds ? get(ds[i]) : 0));
            }
        }
    }
}

template <class T> void norm_collect(const NormBackward<T> &a, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        double dw = 0, db = 0;
        for (int64_t block = 0; block < block_count(a.rows); ++block) {
            dw += partial<double>(a.scratch, block, a.width)[i];
            db += partial<double>(a.scratch, block, a.width)[a.width + i];
        }
        if (a.dweight) a.dweight[i] += Wide<T>(dw);
        if (a.dbias) a.dbias[i] += Wide<T>(db);
    }
}

}  // namespace nt_twin

#define NT_BODY "norm.simd.h"
#include "each_isa.h"

NT_DISPATCH(norm_forward)
NT_DISPATCH(norm_again)
NT_DISPATCH(norm_backward)
NT_DISPATCH(norm_collect)

namespace {

template <class T, bool centered> void forward(const Norm<T> &a, nt_parallel parallel) {
    nt::run(parallel, a.rows, nt::row_grain(a.width), picked_norm_forward<T, centered>(), a);
}

template <class T, bool centered> void again(const Norm<T> &a, nt_parallel parallel) {
    nt::run(parallel, a.rows, nt::row_grain(a.width), picked_norm_again<T, centered>(), a);
}

template <class T, bool centered> void backward(NormBackward<T> a, nt_parallel parallel) {
    if (!a.dweight && !a.dbias) a.scratch = nullptr;
    const int64_t rows = block_rows(a.rows);
    nt::run(parallel, block_count(a.rows), nt::row_grain(a.width * rows), picked_norm_backward<T, centered>(), a);
    if (a.scratch) nt::run(parallel, a.width, 256, picked_norm_collect<T>(), a);
}

}  // namespace

#define NT_ENTRIES(T, W, S)                                                                                            \
    extern "C" void nt_rms_norm_##S(int64_t rows, int64_t width, const T *x, int64_t x_stride, const T *residual,      \
                                    int64_t residual_stride, const W *weight, W offset, W epsilon, T *sum,             \
                                    int64_t sum_stride, T *y, int64_t y_stride, W *r, nt_parallel parallel) {          \
        forward<T, false>({rows, width, x, x_stride, residual, residual_stride, weight, nullptr, offset, epsilon,   \
                           sum, sum_stride, y, y_stride, nullptr, r}, parallel);                                       \
    }                                                                                                                  \
    extern "C" void nt_rms_norm_again_##S(int64_t rows, int64_t width, const T *s, int64_t s_stride, const W *weight,  \
                                          W offset, const W *r, T *y, int64_t y_stride, nt_parallel parallel) {        \
        again<T, false>({rows, width, s, s_stride, nullptr, 0, weight, nullptr, offset, 0, nullptr, 0, y, y_stride, \
                         nullptr, const_cast<W *>(r)}, parallel);                                                      \
    }                                                                                                                  \
    extern "C" void nt_rms_norm_backward_##S(                                                                          \
        int64_t rows, int64_t width, const T *dy, int64_t dy_stride, const T *s, int64_t s_stride, const W *r,         \
        const W *weight, W offset, const T *ds, int64_t ds_stride, T *dx, int64_t dx_stride, W *dweight,               \
        void *scratch, nt_parallel parallel) {                                                                         \
        backward<T, false>({rows, width, dy, dy_stride, s, s_stride, nullptr, r, weight, offset, ds, ds_stride, dx, \
                            dx_stride, dweight, nullptr, scratch}, parallel);                                          \
    }                                                                                                                  \
    extern "C" void nt_layer_norm_##S(int64_t rows, int64_t width, const T *x, int64_t x_stride, const T *residual,    \
                                      int64_t residual_stride, const W *weight, const W *bias, W epsilon, T *sum,      \
                                      int64_t sum_stride, T *y, int64_t y_stride, W *mean, W *r,                       \
                                      nt_parallel parallel) {                                                          \
        forward<T, true>({rows, width, x, x_stride, residual, residual_stride, weight, bias, 0, epsilon, sum,       \
                          sum_stride, y, y_stride, mean, r}, parallel);                                                \
    }                                                                                                                  \
    extern "C" void nt_layer_norm_again_##S(int64_t rows, int64_t width, const T *s, int64_t s_stride,                 \
                                            const W *weight, const W *bias, const W *mean, const W *r, T *y,           \
                                            int64_t y_stride, nt_parallel parallel) {                                  \
        again<T, true>({rows, width, s, s_stride, nullptr, 0, weight, bias, 0, 0, nullptr, 0, y, y_stride,          \
                        const_cast<W *>(mean), const_cast<W *>(r)}, parallel);                                         \
    }                                                                                                                  \
    extern "C" void nt_layer_norm_backward_##S(                                                                        \
        int64_t rows, int64_t width, const T *dy, int64_t dy_stride, const T *s, int64_t s_stride, const W *mean,      \
        const W *r, const W *weight, const T *ds, int64_t ds_stride, T *dx, int64_t dx_stride, W *dweight, W *dbias,   \
        void *scratch, nt_parallel parallel) {                                                                         \
        backward<T, true>({rows, width, dy, dy_stride, s, s_stride, mean, r, weight, 0, ds, ds_stride, dx,          \
                           dx_stride, dweight, dbias, scratch}, parallel);                                             \
    }

NT_ENTRIES(uint16_t, float, bf16)
NT_ENTRIES(float, float, f32)
NT_ENTRIES(double, double, f64)
