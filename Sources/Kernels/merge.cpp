// Element work of merging and kinship: each formula once, compiled for AVX2 + FMA and for any processor, chosen at run
// time. No implicit contraction, sums in fixed lanes: both give the same bits.
#include "merge.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <type_traits>

#pragma clang fp contract(off)

#define NT_INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__)
#define NT_WIDE __attribute__((target("avx2,fma")))
static const bool has_wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
#define NT_WIDE
static const bool has_wide = false;
#endif
static std::atomic<bool> force_portable{false};

static inline bool wide() { return has_wide && !force_portable.load(std::memory_order_relaxed); }
extern "C" void nt_merge_force_portable(int on) { force_portable = on != 0; }
extern "C" int nt_merge_is_wide(void) { return wide(); }

// Two compilations of `body`; `args` are the parameters' names.
#define NT_KERNEL(R, name, params, args, body)                       \
    NT_WIDE static R name##_wide params { return body args; }        \
    static R name##_portable params { return body args; }            \
    extern "C" R name params { return wide() ? name##_wide args : name##_portable args; }

#define NT_BOTH(R, name, body, params, args)  \
    NT_KERNEL(R, name##_f32, params(float), args, body<float>) \
    NT_KERNEL(R, name##_f64, params(double), args, body<double>)

constexpr size_t tile = NT_TILE;

// ---- conversions -------------------------------------------------------------------------------------------------

NT_INLINE uint32_t bits_of(float x) { uint32_t b; memcpy(&b, &x, 4); return b; }
NT_INLINE uint64_t bits_of(double x) { uint64_t b; memcpy(&b, &x, 8); return b; }
NT_INLINE float float_of(uint32_t b) { float x; memcpy(&x, &b, 4); return x; }
NT_INLINE uint16_t load16(const void *p, size_t i) { uint16_t v; memcpy(&v, static_cast<const char *>(p) + 2 * i, 2); return v; }
NT_INLINE void store16(void *p, size_t i, uint16_t v) { memcpy(static_cast<char *>(p) + 2 * i, &v, 2); }

NT_INLINE void from_bf16(const void *source, float *__restrict out, size_t count) {
    for (size_t i = 0; i < count; ++i) out[i] = float_of(uint32_t(load16(source, i)) << 16);
}

NT_INLINE void from_f16(const void *source, float *__restrict out, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const uint32_t half = load16(source, i), sign = (half & 0x8000) << 16, magnitude = half & 0x7FFF;
        const uint32_t special = (magnitude << 13) + (224u << 23), normal = (magnitude << 13) + (112u << 23);
        const uint32_t subnormal = bits_of(float(int32_t(magnitude)) * 0x1p-24f);
        out[i] = float_of(sign | (magnitude >= 0x7C00 ? special : magnitude >= 0x0400 ? normal : subnormal));
    }
}

NT_INLINE void to_bf16(const float *__restrict source, void *out, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const uint32_t b = bits_of(source[i]);
        const uint32_t rounded = (b + 0x7FFF + (b >> 16 & 1)) >> 16, quiet = b >> 16 | 0x40;
        store16(out, i, uint16_t((b & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded));
    }
}

NT_INLINE void to_f16(const float *__restrict source, void *out, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const uint32_t b = bits_of(source[i]), sign = b >> 16 & 0x8000, magnitude = b & 0x7FFFFFFF;
        const uint32_t nan = 0x7E00 | (magnitude >> 13 & 0x3FF);
        const uint32_t normal = (magnitude - (112u << 23) + 0xFFF + (magnitude >> 13 & 1)) >> 13;
        // Adding 0.5, whose last place is 2^-24, rounds a small number to a multiple of 2^-24.
        const uint32_t small = bits_of(float_of(magnitude < 0x38800000 ? magnitude : 0) + 0.5f) - 0x3F000000;
        const uint32_t half = magnitude > 0x7F800000    ? nan
                              : magnitude >= 0x477FF000 ? 0x7C00
                              : magnitude >= 0x38800000 ? normal
                                                        : small;
        store16(out, i, uint16_t(sign | half));
    }
}

NT_KERNEL(void, nt_f32_from_bf16, (const void *source, float *out, size_t count), (source, out, count), from_bf16)
NT_KERNEL(void, nt_f32_from_f16, (const void *source, float *out, size_t count), (source, out, count), from_f16)
NT_KERNEL(void, nt_bf16_from_f32, (const float *source, void *out, size_t count), (source, out, count), to_bf16)
NT_KERNEL(void, nt_f16_from_f32, (const float *source, void *out, size_t count), (source, out, count), to_f16)

// ---- keys and finiteness -----------------------------------------------------------------------------------------

// Bits of |x|: in the order of magnitudes.
NT_INLINE uint32_t key_of(float x) { return bits_of(x) & 0x7FFFFFFF; }
NT_INLINE uint64_t key_of(double x) { return bits_of(x) & 0x7FFFFFFFFFFFFFFF; }
template <class T> using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
template <class T> constexpr Key<T> infinity_key = sizeof(T) == 4 ? Key<T>(0x7F800000) : Key<T>(0x7FF0000000000000);

template <class T> NT_INLINE size_t first_nonfinite(const T *x, size_t count) {
    for (size_t start = 0; start < count; start += tile) {
        const size_t end = std::min(count, start + tile);
        Key<T> bad = 0;
        for (size_t i = start; i < end; ++i) bad |= Key<T>(key_of(x[i]) >= infinity_key<T>);
        if (bad)
            for (size_t i = start; i < end; ++i)
                if (key_of(x[i]) >= infinity_key<T>) return i;
    }
    return count;
}
#define P(T) (const T *x, size_t count)
NT_BOTH(size_t, nt_first_nonfinite, first_nonfinite, P, (x, count))
#undef P

// ---- sums --------------------------------------------------------------------------------------------------------

constexpr size_t lanes = 16;

// sums[s] += sum over i of terms(i)[s], in tiles of lanes.
template <size_t N, class Terms> NT_INLINE void tiled_sums(size_t count, double *sums, Terms terms) {
    for (size_t start = 0; start < count; start += tile) {
        const size_t end = std::min(count, start + tile), whole = start + (end - start) / lanes * lanes;
        double acc[N][lanes] = {};
        for (size_t i = start; i < whole; i += lanes)
            for (size_t l = 0; l < lanes; ++l) terms(i + l, [&](size_t s, double value) __attribute__((always_inline)) { acc[s][l] += value; });
        for (size_t i = whole; i < end; ++i)
            terms(i, [&](size_t s, double value) __attribute__((always_inline)) { acc[s][i - whole] += value; });
        for (size_t s = 0; s < N; ++s) {
            for (size_t width = lanes / 2; width > 0; width /= 2)
                for (size_t l = 0; l < width; ++l) acc[s][l] += acc[s][l + width];
            sums[s] += acc[s][0];
        }
    }
}
#define NT_TERMS [=](size_t i, auto add) __attribute__((always_inline))

template <class T> NT_INLINE void sum(const T *x, size_t count, double *out) {
    tiled_sums<1>(count, out, NT_TERMS { add(0, double(x[i])); });
}
template <class T> NT_INLINE void abs_sum(const T *x, size_t count, double *out) {
    tiled_sums<1>(count, out, NT_TERMS { add(0, std::fabs(double(x[i]))); });
}
template <class T> NT_INLINE void dot(const T *x, const T *y, size_t count, double *out) {
    tiled_sums<1>(count, out, NT_TERMS { add(0, double(x[i]) * double(y[i])); });
}
template <class T> NT_INLINE void square_distance(const T *x, const T *y, size_t count, double *out) {
    tiled_sums<1>(count, out, NT_TERMS {
        const double d = double(x[i]) - double(y[i]);
        add(0, d * d);
    });
}
template <class T> NT_INLINE void gram2(const T *x, const T *y, size_t count, double *out) {
    tiled_sums<3>(count, out, NT_TERMS {
        const double a = x[i], b = y[i];
        add(0, a * a), add(1, a * b), add(2, b * b);
    });
}
template <class T> NT_INLINE void abs_max(const T *x, size_t count, double *largest) {
    Key<T> best = 0;
    for (size_t i = 0; i < count; ++i) best = std::max(best, key_of(x[i]));
    T value;
    memcpy(&value, &best, sizeof value);
    *largest = std::max(*largest, double(value));
}
#define P(T) (const T *x, size_t count, double *out)
NT_BOTH(void, nt_sum, sum, P, (x, count, out))
NT_BOTH(void, nt_abs_sum, abs_sum, P, (x, count, out))
NT_BOTH(void, nt_abs_max, abs_max, P, (x, count, out))
#undef P
#define P(T) (const T *x, const T *y, size_t count, double *out)
NT_BOTH(void, nt_dot, dot, P, (x, y, count, out))
NT_BOTH(void, nt_square_distance, square_distance, P, (x, y, count, out))
NT_BOTH(void, nt_gram2, gram2, P, (x, y, count, out))
#undef P

// ---- element by element ------------------------------------------------------------------------------------------

NT_INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
NT_INLINE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

template <class T> NT_INLINE void subtract(const T *x, const T *y, size_t count, T *out) {
    for (size_t i = 0; i < count; ++i) out[i] = x[i] - y[i];
}
template <class T> NT_INLINE void add(const T *x, const T *y, size_t count, T *out) {
    for (size_t i = 0; i < count; ++i) out[i] = x[i] + y[i];
}
template <class T> NT_INLINE void scale(T *out, size_t count, double factor) {
    const T f = T(factor);
    for (size_t i = 0; i < count; ++i) out[i] *= f;
}
template <class T> NT_INLINE void divide(T *out, size_t count, double divisor) {
    const T d = T(divisor);
    for (size_t i = 0; i < count; ++i) out[i] /= d;
}
template <class T>
NT_INLINE void combine(const T *const *inputs, const double *coefficients, size_t terms, size_t count, T *out) {
    for (size_t start = 0; start < count; start += tile) {
        const size_t n = std::min(tile, count - start);
        T *__restrict o = out + start;
        for (size_t j = 0; j < terms; ++j) {
            const T *__restrict x = inputs[j] + start;
            const T c = T(coefficients[j]);
            if (j == 0)
                for (size_t i = 0; i < n; ++i) o[i] = c * x[i];
            else
                for (size_t i = 0; i < n; ++i) o[i] = fused(c, x[i], o[i]);
        }
    }
}
template <class T> NT_INLINE void add_product(const T *x, const T *factors, size_t count, T *out) {
    for (size_t i = 0; i < count; ++i) out[i] = fused(factors[i], x[i], out[i]);
}
#define P(T) (const T *x, const T *y, size_t count, T *out)
NT_BOTH(void, nt_subtract, subtract, P, (x, y, count, out))
NT_BOTH(void, nt_add, add, P, (x, y, count, out))
NT_BOTH(void, nt_add_product, add_product, P, (x, y, count, out))
#undef P
#define P(T) (T *out, size_t count, double number)
NT_BOTH(void, nt_scale, scale, P, (out, count, number))
NT_BOTH(void, nt_divide, divide, P, (out, count, number))
#undef P
#define P(T) (const T *const *inputs, const double *coefficients, size_t terms, size_t count, T *out)
NT_BOTH(void, nt_combine, combine, P, (inputs, coefficients, terms, count, out))
#undef P

// ---- selection by magnitude --------------------------------------------------------------------------------------

template <class T>
NT_INLINE void abs_histogram(const T *x, size_t count, unsigned shift, unsigned bits, uint64_t prefix, uint64_t *counts) {
    const Key<T> mask = (Key<T>(1) << bits) - 1, top = Key<T>(prefix);
    for (size_t i = 0; i < count; ++i) {
        const Key<T> key = key_of(x[i]);
        if (key >> (shift + bits) == top) ++counts[key >> shift & mask];
    }
}
#define P(T) (const T *x, size_t count, unsigned shift, unsigned bits, uint64_t prefix, uint64_t *counts)
NT_BOTH(void, nt_abs_histogram, abs_histogram, P, (x, count, shift, bits, prefix, counts))
#undef P

template <class T> NT_INLINE void window(T *x, size_t count, const struct nt_window *w, uint64_t *seen) {
    const Key<T> low = Key<T>(w->low), high = Key<T>(w->high);
    for (size_t start = 0; start < count; start += tile) {
        const size_t n = std::min(tile, count - start);
        T *values = x + start;
        Key<T> edges = 0;
        for (size_t i = 0; i < n; ++i) edges |= Key<T>(key_of(values[i]) == low) | Key<T>(key_of(values[i]) == high);
        if (!edges) {
            for (size_t i = 0; i < n; ++i) {
                const Key<T> key = key_of(values[i]);
                values[i] = int(key > low) & int(key < high) ? values[i] : T(0);
            }
            continue;
        }
        for (size_t i = 0; i < n; ++i) {  // the rare tile that holds an edge's key
            const Key<T> key = key_of(values[i]);
            bool keep = key > low && key < high;
            if (key == low) {
                const uint64_t number = seen[0]++;
                keep = number >= w->low_from && number < w->low_to;
            } else if (key == high) {
                keep = seen[1]++ < w->high_to;
            }
            if (!keep) values[i] = 0;
        }
    }
}
#define P(T) (T *x, size_t count, const struct nt_window *w, uint64_t *seen)
NT_BOTH(void, nt_window, window, P, (x, count, w, seen))
#undef P

template <class T> NT_INLINE void mask(T *x, const T *m, size_t count) {
    for (size_t i = 0; i < count; ++i) x[i] = m[i] == 0 ? T(0) : x[i];
}
#define P(T) (T *x, const T *m, size_t count)
NT_BOTH(void, nt_mask, mask, P, (x, m, count))
#undef P

// ---- random selection --------------------------------------------------------------------------------------------

template <class T>
NT_INLINE void keep_random(T *x, const uint32_t *words, size_t count, uint32_t limit, double factor) {
    const T f = T(factor);
    for (size_t i = 0; i < count; ++i) x[i] = words[i] < limit ? x[i] * f : T(0);
}
#define P(T) (T *x, const uint32_t *words, size_t count, uint32_t limit, double factor)
NT_BOTH(void, nt_keep_random, keep_random, P, (x, words, count, limit, factor))
#undef P

// order = positions of x by rising magnitude, equal ones in their order.
static void rank(const float *x, size_t count, uint64_t *order) {
    for (size_t i = 0; i < count; ++i) order[i] = uint64_t(key_of(x[i])) << 32 | uint32_t(i);
    std::sort(order, order + count);
    for (size_t i = 0; i < count; ++i) order[i] = uint32_t(order[i]);
}
static void rank(const double *x, size_t count, uint64_t *order) {
    for (size_t i = 0; i < count; ++i) order[i] = i;
    std::sort(order, order + count, [x](uint64_t a, uint64_t b) {
        const uint64_t ka = key_of(x[a]), kb = key_of(x[b]);
        return ka != kb ? ka < kb : a < b;
    });
}

template <class T>
static void keep_by_rank(T *x, const uint32_t *words, size_t count, double density, double epsilon, int inverse, uint64_t *order) {
    rank(x, count, order);
    for (size_t r = 0; r < count; ++r) {
        const double p = count > 1 ? density - epsilon + 2 * epsilon * double(r) / double(count - 1) : density;
        T &value = x[order[r]];
        if (!(words[order[r]] < p * 0x1p32)) value = 0;
        else if (inverse) value = T(value / p);
    }
}
extern "C" void nt_keep_by_rank_f32(float *x, const uint32_t *words, size_t count, double density, double epsilon, int inverse, uint64_t *order) {
    keep_by_rank(x, words, count, density, epsilon, inverse, order);
}
extern "C" void nt_keep_by_rank_f64(double *x, const uint32_t *words, size_t count, double density, double epsilon, int inverse, uint64_t *order) {
    keep_by_rank(x, words, count, density, epsilon, inverse, order);
}

// ---- task vectors ------------------------------------------------------------------------------------------------

template <class T>
NT_INLINE void consensus(const T *const *deltas, const double *weights, size_t terms, const T *base, size_t count,
                         const struct nt_consensus *rule, T *out) {
    T votes[tile], total[tile], divisor[tile];
    const int vote = rule->vote;
    for (size_t start = 0; start < count; start += tile) {
        const size_t n = std::min(tile, count - start);
        for (size_t i = 0; i < n; ++i) votes[i] = total[i] = divisor[i] = 0;
        for (size_t j = 0; vote && j < terms; ++j) {
            const T *d = deltas[j] + start;
            const T w = vote == 1 ? T(weights[j]) : T(1);
            for (size_t i = 0; i < n; ++i) votes[i] += w * d[i];
        }
        for (size_t j = 0; j < terms; ++j) {
            const T *d = deltas[j] + start;
            const T w = T(weights[j]), side = vote == 1 && w < 0 ? T(-1) : T(1);
            if (w == 0) continue;  // a zero entry is never kept under a vote, and adds nothing without one
            for (size_t i = 0; i < n; ++i) {
                const T signed_entry = votes[i] >= 0 ? side * d[i] : -side * d[i];
                const bool keep = int(!vote) | int(signed_entry > 0);
                total[i] += keep ? w * d[i] : T(0);
                divisor[i] += keep ? w : T(0);
            }
        }
        const T least = T(rule->least), s = T(rule->scale);
        if (rule->divide && rule->least > 0)
            for (size_t i = 0; i < n; ++i) total[i] /= divisor[i] < least ? least : divisor[i];
        else if (rule->divide)
            for (size_t i = 0; i < n; ++i) total[i] /= divisor[i] == 0 ? T(1) : divisor[i];
        if (s != 1)
            for (size_t i = 0; i < n; ++i) total[i] *= s;
        for (size_t i = 0; i < n; ++i) out[start + i] = base[start + i] + total[i];
    }
}
#define P(T)                                                                                               \
    (const T *const *deltas, const double *weights, size_t terms, const T *base, size_t count,            \
     const struct nt_consensus *rule, T *out)
NT_BOTH(void, nt_consensus, consensus, P, (deltas, weights, terms, base, count, rule, out))
#undef P

template <class T> NT_INLINE void variance(const T *const *deltas, size_t terms, size_t count, T *out) {
    for (size_t i = 0; i < count; ++i) {
        double mean = 0, squares = 0;
        for (size_t j = 0; j < terms; ++j) mean += deltas[j][i];
        mean /= double(terms);
        for (size_t j = 0; j < terms; ++j) {
            const double d = deltas[j][i] - mean;
            squares += d * d;
        }
        out[i] = T(squares / double(terms));
    }
}
#define P(T) (const T *const *deltas, size_t terms, size_t count, T *out)
NT_BOTH(void, nt_variance, variance, P, (deltas, terms, count, out))
#undef P

template <class T> NT_INLINE void nearswap(const T *a, const T *b, size_t count, double t, T *out) {
    for (size_t i = 0; i < count; ++i) {
        const T distance = std::fabs(a[i] - b[i]), far = distance < T(1e-6) ? T(1e-6) : distance;
        const T ratio = T(t) / far, w = ratio > 1 ? T(1) : ratio;
        out[i] = w * b[i] + (1 - w) * a[i];
    }
}
#define P(T) (const T *a, const T *b, size_t count, double t, T *out)
NT_BOTH(void, nt_nearswap, nearswap, P, (a, b, count, t, out))
#undef P

template <class T>
NT_INLINE void ram_counts(const T *const *deltas, size_t terms, size_t count, double epsilon, uint64_t *shared, uint64_t *unique) {
    const T e = T(epsilon);
    for (size_t i = 0; i < count; ++i) {
        size_t company = 0;
        for (size_t j = 0; j < terms; ++j) company += std::fabs(deltas[j][i]) > e;
        for (size_t j = 0; j < terms; ++j) {
            if (!(std::fabs(deltas[j][i]) > e)) continue;
            ++(company > 1 ? shared : unique)[j];
        }
    }
}
#define P(T) (const T *const *deltas, size_t terms, size_t count, double epsilon, uint64_t *shared, uint64_t *unique)
NT_BOTH(void, nt_ram_counts, ram_counts, P, (deltas, terms, count, epsilon, shared, unique))
#undef P

template <class T>
NT_INLINE void ram(const T *const *deltas, const double *factors, size_t terms, const T *base, size_t count, double epsilon, T *out) {
    const T e = T(epsilon);
    for (size_t i = 0; i < count; ++i) {
        size_t company = 0;
        T total = 0, raised = 0;
        for (size_t j = 0; j < terms; ++j) {
            const T d = deltas[j][i];
            const bool changed = std::fabs(d) > e;
            company += changed;
            total += changed ? d : T(0);
            raised += changed ? T(factors[j]) * d : T(0);
        }
        out[i] = base[i] + (company > 1 ? total / T(company) : raised);
    }
}
#define P(T) (const T *const *deltas, const double *factors, size_t terms, const T *base, size_t count, double epsilon, T *out)
NT_BOTH(void, nt_ram, ram, P, (deltas, factors, terms, base, count, epsilon, out))
#undef P

// ---- fusion by divergence ----------------------------------------------------------------------------------------

// out = exp(x - max x) / sum + 1e-8
template <class T> static void softmax(const T *x, size_t count, double *out) {
    double largest = x[0], total = 0;
    for (size_t i = 1; i < count; ++i) largest = std::max(largest, double(x[i]));
    for (size_t i = 0; i < count; ++i) total += out[i] = std::exp(double(x[i]) - largest);
    for (size_t i = 0; i < count; ++i) out[i] = out[i] / total + 1e-8;
}
template <class T> static double softmax_divergence(const T *x, const T *y, size_t count, double *scratch) {
    double *p = scratch, *q = scratch + count, total = 0;
    if (count == 0) return 0;
    softmax(x, count, p), softmax(y, count, q);
    for (size_t i = 0; i < count; ++i) total += p[i] * std::log(p[i] / q[i]);
    return total;
}
extern "C" double nt_softmax_divergence_f32(const float *x, const float *y, size_t count, double *scratch) {
    return softmax_divergence(x, y, count, scratch);
}
extern "C" double nt_softmax_divergence_f64(const double *x, const double *y, size_t count, double *scratch) {
    return softmax_divergence(x, y, count, scratch);
}

template <class T> NT_INLINE void scaled_distance(const T *x, const T *y, size_t count, double factor, T *out) {
    const T f = T(factor);
    for (size_t i = 0; i < count; ++i) out[i] = std::fabs(x[i] - y[i]) * f;
}
template <class T> NT_INLINE void choose(const T *scores, double threshold, const T *x, const T *y, size_t count, T *out) {
    const T limit = T(threshold);
    for (size_t i = 0; i < count; ++i) out[i] = scores[i] >= limit ? x[i] : y[i];
}
#define P(T) (const T *x, const T *y, size_t count, double factor, T *out)
NT_BOTH(void, nt_scaled_distance, scaled_distance, P, (x, y, count, factor, out))
#undef P
#define P(T) (const T *scores, double threshold, const T *x, const T *y, size_t count, T *out)
NT_BOTH(void, nt_choose, choose, P, (scores, threshold, x, y, count, out))
#undef P
