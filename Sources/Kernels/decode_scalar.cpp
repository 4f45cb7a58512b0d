// The twin of the kernels of generation: the formulas in plain loops with fp64 sums. What tests compare with.
#include <math.h>

#include <type_traits>

#include "decode_types.h"

namespace nt {
namespace {

Packing packing(int32_t) { return Packing::floats; }
size_t packed_bytes(Packing, int64_t columns, int64_t n) { return size_t(4 * columns * n); }

void pack(Packing, const float *x, int64_t stride, int64_t columns, int64_t n, void *out) {
    for (int64_t t = 0; t < n; ++t) memcpy((float *)out + t * columns, x + t * stride, size_t(4 * columns));
}

void rows(
    const nt_weight &w, const void *packed, int64_t n, int64_t begin, int64_t end, float *y, int64_t stride,
    bool adds) {
    const float *x = (const float *)packed;
    float panel[kPanel];
    for (int64_t o = begin; o < end; ++o)
        for (int64_t t = 0; t < n; ++t) {
            double sum = w.bias ? w.bias[o] : 0;
            for (int64_t i = 0; i < w.columns; i += kPanel) {
                const int64_t count = w.columns - i < kPanel ? w.columns - i : kPanel;
                with_type(w.type, [&](auto type) {
                    decode_floats<type>(row_of(w, o), w.scales ? w.scales[o] : 1, i, count, panel);
                });
                for (int64_t j = 0; j < count; ++j) sum += double(panel[j]) * x[t * w.columns + i + j];
            }
            float *at = y + t * stride + o - begin;
            *at = float(adds ? *at + sum : sum);
        }
}

double element(const AttentionTask &task, const void *base, int64_t s, int64_t e) {
    const int64_t at = s * task.stride + e;
    return task.type == NT_BF16 ? widened(((const uint16_t *)base)[at]) : ((const float *)base)[at];
}

void attend(const AttentionTask &task) {
    const int64_t E = task.head_dim;
    for (int64_t g = 0; g < task.group; ++g) {
        double p[kKeys], top = -INFINITY, total = 0;
        for (int64_t s = 0; s < task.count; ++s) {
            double sum = 0;
            for (int64_t e = 0; e < E; ++e) sum += task.q[g * E + e] * element(task, task.keys, s, e);
            p[s] = sum * task.scale;
            if (task.cap > 0) p[s] = task.cap * tanh(p[s] / task.cap);
            top = p[s] > top ? p[s] : top;
        }
        for (int64_t s = 0; s < task.count; ++s) total += p[s] = exp(p[s] - double(float(top)));
        float *out = task.out + g * (E + 2);
        for (int64_t e = 0; e < E; ++e) {
            double sum = 0;
            for (int64_t s = 0; s < task.count; ++s) sum += p[s] * element(task, task.values, s, e);
            out[e] = float(sum);
        }
        out[E] = float(top);
        out[E + 1] = float(total);
    }
}

void rms_norm(const float *x, const float *weight, int64_t count, float epsilon, float *out) {
    double squares = 0;
    for (int64_t i = 0; i < count; ++i) squares += double(x[i]) * x[i];
    const double scale = 1 / sqrt(squares / double(count) + epsilon);
    for (int64_t i = 0; i < count; ++i) out[i] = float(x[i] * scale * weight[i]);
}

void layer_norm(
    const float *x, const float *weight, const float *bias, int64_t count, float epsilon, float *out) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; ++i) sum += x[i];
    const double mean = sum / double(count);
    for (int64_t i = 0; i < count; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const double scale = 1 / sqrt(squares / double(count) + epsilon);
    for (int64_t i = 0; i < count; ++i) out[i] = float((x[i] - mean) * scale * weight[i] + bias[i]);
}

double bent(int32_t act, double x) {
    switch (act) {
        case NT_ACT_SILU: return x / (1 + exp(-x));
        case NT_ACT_TANH_GELU: return x / 2 * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
        default: return x / 2 * erfc(-x * M_SQRT1_2);
    }
}

void activate(int32_t act, const float *gate, const float *up, int64_t count, float *out) {
    for (int64_t i = 0; i < count; ++i) out[i] = float(gate ? bent(act, gate[i]) * up[i] : bent(act, up[i]));
}

void cap(float *x, int64_t count, float cap) {
    for (int64_t i = 0; i < count; ++i) x[i] = float(cap * tanh(double(x[i]) / cap));
}

double weights(const float *x, int64_t count, float top, float factor, float *out) {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += out[i] = float(exp(double(factor) * (double(x[i]) - top)));
    return total;
}

}  // namespace

const DecodeKernels decode_scalar{packing,  packed_bytes, pack,     rows, attend,
                                  rms_norm, layer_norm,   activate, cap,  weights};

}  // namespace nt
