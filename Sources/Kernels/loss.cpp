// Cross-entropy and log-probabilities: arguments, the scalar twin, the C entries. Formulas: include/loss.h.
#include "loss.h"

#include <cfloat>

#include "dispatch.h"

using nt_twin::Wide;

namespace {

template <class T> struct CrossEntropy {
    int64_t vocabulary;
    T *logits;  // which become their gradient
    int64_t stride;
    const int64_t *labels;
    const Wide<T> *factors;
    nt_cross_entropy_options options;
    double *row_losses;
};

template <class T> struct LogProbabilities {
    int64_t vocabulary;
    const T *logits;
    int64_t stride;
    const int64_t *labels;
    double soft_cap;
    Wide<T> *log_probabilities, *log_sums;
    int64_t *largest;
};

// The loss of a row (include/loss.h) from its sums.
double row_loss(const nt_cross_entropy_options &o, double factor, double z, double l_y, double mean) {
    const double smoothed = o.label_smoothing == 0 ? 0 : o.label_smoothing * (z - mean);  // the mean may be -infinity
    return factor * ((1 - o.label_smoothing) * (z - l_y) + smoothed + o.z_loss * z * z);
}

double capped(double u, double cap) { return cap > 0 ? cap * std::tanh(u / cap) : u; }
double cap_slope(double l, double cap) { return cap > 0 ? 1 - l / cap * (l / cap) : 1; }

}  // namespace

namespace nt_twin {

template <class T> double log_sum(const T *u, int64_t count, double cap, int64_t *largest) {
    *largest = 0;
    for (int64_t i = 1; i < count; ++i)
        if (capped(get(u[i]), cap) > capped(get(u[*largest]), cap)) *largest = i;
    const double most = capped(get(u[*largest]), cap);
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += std::exp(capped(get(u[i]), cap) - most);
    return most + std::log(sum);
}

template <class T> void cross_entropy(const CrossEntropy<T> &a, int64_t begin, int64_t end) {
    const nt_cross_entropy_options &o = a.options;
    for (int64_t row = begin; row < end; ++row) {
        T *u = a.logits + row * a.stride;
        const int64_t label = a.labels[row], V = a.vocabulary;
        const double f = double(a.factors[row]);
        if (label < 0) {
            for (int64_t i = 0; i < V; ++i) put(u[i], 0);
            a.row_losses[row] = 0;
            continue;
        }
        int64_t largest;
        const double z = log_sum(u, V, o.soft_cap, &largest);
        double mean = 0;
        for (int64_t i = 0; i < V; ++i) mean += capped(get(u[i]), o.soft_cap) / double(V);
        a.row_losses[row] = row_loss(o, f, z, capped(get(u[label]), o.soft_cap), mean);
        for (int64_t i = 0; i < V; ++i) {
            const double l = capped(get(u[i]), o.soft_cap);
            const double target = (i == label ? 1 - o.label_smoothing : 0) + o.label_smoothing / double(V);
            put(u[i], f * (std::exp(l - z) * (1 + 2 * o.z_loss * z) - target) * cap_slope(l, o.soft_cap));
        }
    }
}

template <class T> void log_probabilities(const LogProbabilities<T> &a, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const T *u = a.logits + row * a.stride;
        int64_t largest;
        const double z = log_sum(u, a.vocabulary, a.soft_cap, &largest);
        if (a.log_sums) a.log_sums[row] = Wide<T>(z);
        if (a.largest) a.largest[row] = largest;
        if (!a.log_probabilities) continue;
        const int64_t label = a.labels[row];
        a.log_probabilities[row] = Wide<T>(label < 0 ? 0 : capped(get(u[label]), a.soft_cap) - z);
    }
}

}  // namespace nt_twin

#define NT_BODY "loss.simd.h"
#include "each_isa.h"

NT_DISPATCH(cross_entropy)
NT_DISPATCH(log_probabilities)

namespace {

template <class T> double cross_entropy(int64_t rows, const CrossEntropy<T> &a, nt_parallel parallel) {
    nt::run(parallel, rows, nt::row_grain(a.vocabulary), picked_cross_entropy<T>(), a);
    double total = 0;
    for (int64_t row = 0; row < rows; ++row) total += a.row_losses[row];
    return total;
}

}  // namespace

#define NT_ENTRIES(T, W, S)                                                                                            \
    extern "C" double nt_cross_entropy_##S(int64_t rows, int64_t vocabulary, T *logits, int64_t stride,                \
                                           const int64_t *labels, const W *factors,                                    \
                                           const nt_cross_entropy_options *options, double *row_losses,                \
                                           nt_parallel parallel) {                                                     \
        return cross_entropy<T>(                                                                                       \
            rows, {vocabulary, logits, stride, labels, factors, *options, row_losses}, parallel);                      \
    }                                                                                                                  \
    extern "C" void nt_log_probabilities_##S(int64_t rows, int64_t vocabulary, const T *logits, int64_t stride,        \
                                             const int64_t *labels, double soft_cap, W *log_probabilities,             \
                                             W *log_sums, int64_t *largest, nt_parallel parallel) {                    \
        const LogProbabilities<T> a{vocabulary, logits,            stride,   labels,                                   \
                                    soft_cap,   log_probabilities, log_sums, largest};                                 \
        nt::run(parallel, rows, nt::row_grain(vocabulary), picked_log_probabilities<T>(), a);                          \
    }

NT_ENTRIES(uint16_t, float, bf16)
NT_ENTRIES(float, float, f32)
NT_ENTRIES(double, double, f64)
