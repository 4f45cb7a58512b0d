/* Element work of merging and kinship on blocks of floats. Plain pointers; the caller owns all memory.
 *
 * `_f32` and `_f64` are one formula in two widths. Sums are in f64 and have one fixed order: tiles of NT_TILE elements
 * from the first pointer on, 16 lanes in a tile, tiles in sequence. So a long row gives the same bits however it is cut
 * into calls, as long as every cut is at a multiple of NT_TILE. Results are the same on every processor. */
#ifndef NEEDLETAIL_MERGE_H
#define NEEDLETAIL_MERGE_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define NT_TILE 1024

/* For tests: 1 makes every kernel below take its portable path. */
void nt_merge_force_portable(int on);
/* Whether the AVX2 path is in use. */
int nt_merge_is_wide(void);

/* Half-width floats, little-endian, any alignment: bit for bit as Formats/FloatConversion.swift. */
void nt_f32_from_bf16(const void *source, float *out, size_t count);
void nt_f32_from_f16(const void *source, float *out, size_t count);
void nt_bf16_from_f32(const float *source, void *out, size_t count);
void nt_f16_from_f32(const float *source, void *out, size_t count);

/* Which keys (bits of |x|) are kept: those between the edges; of the ones equal to an edge, in order of position,
 * numbers low_from ..< low_to of the low edge's and the first high_to of the high edge's. Equal edges: the low rule. */
struct nt_window {
    uint64_t low, low_from, low_to, high, high_to;
};

struct nt_consensus {
    int vote;            /* 0: every entry is kept; 1: sign of sum w d decides, 2: sign of sum d; 0 counts as +, a 0 is never kept */
    int divide;          /* by the kept weights' sum, else by nothing */
    double least;        /* the divisor is at least this when > 0; otherwise a divisor of 0 is 1 */
    double scale;
};

#define NT_MERGE_KERNELS(T, S)                                                                                         \
    /* Index of the first NaN or infinity, `count` when there is none. */                                              \
    size_t nt_first_nonfinite_##S(const T *x, size_t count);                                                           \
    /* *sum += sum of x; of |x|; of x*y; of (x-y)^2. */                                                                \
    void nt_sum_##S(const T *x, size_t count, double *sum);                                                            \
    void nt_abs_sum_##S(const T *x, size_t count, double *sum);                                                        \
    void nt_dot_##S(const T *x, const T *y, size_t count, double *sum);                                                \
    void nt_square_distance_##S(const T *x, const T *y, size_t count, double *sum);                                    \
    /* sums[0] += x*x, sums[1] += x*y, sums[2] += y*y, in one pass. */                                                 \
    void nt_gram2_##S(const T *x, const T *y, size_t count, double sums[3]);                                           \
    /* max of *largest and every |x|. */                                                                               \
    void nt_abs_max_##S(const T *x, size_t count, double *largest);                                                    \
    /* out = x - y; out = x + y; out *= factor; out /= divisor. */                                                     \
    void nt_subtract_##S(const T *x, const T *y, size_t count, T *out);                                                \
    void nt_add_##S(const T *x, const T *y, size_t count, T *out);                                                     \
    void nt_scale_##S(T *out, size_t count, double factor);                                                            \
    void nt_divide_##S(T *out, size_t count, double divisor);                                                          \
    /* out = sum_j coefficients[j] * inputs[j], one fused multiply-add per term; terms >= 1. */                        \
    void nt_combine_##S(const T *const *inputs, const double *coefficients, size_t terms, size_t count, T *out);       \
    /* out += factors[i] * x: a factor an element. */                                                                  \
    void nt_add_product_##S(const T *x, const T *factors, size_t count, T *out);                                       \
    /* counts[(key >> shift) mod 2^bits] += 1 for every key = bits of |x| with key >> (shift + bits) == prefix. */     \
    void nt_abs_histogram_##S(const T *x, size_t count, unsigned shift, unsigned bits, uint64_t prefix,                \
                              uint64_t *counts);                                                                       \
    /* x = 0 unless its key lies inside the window; `seen` counts the edges' keys across calls. */                     \
    void nt_window_##S(T *x, size_t count, const struct nt_window *window, uint64_t seen[2]);                          \
    /* x = 0 where mask == 0. */                                                                                       \
    void nt_mask_##S(T *x, const T *mask, size_t count);                                                               \
    /* x = words < limit ? x * factor : 0. */                                                                          \
    void nt_keep_random_##S(T *x, const uint32_t *words, size_t count, uint32_t limit, double factor);                 \
    /* DELLA's row: keep probability p = density - epsilon + 2 epsilon rank / (count - 1), rank of |x| from 0, equal   \
       ones in their order (count 1: p = density); survivors are divided by p when `inverse`. order: scratch. */       \
    void nt_keep_by_rank_##S(T *x, const uint32_t *words, size_t count, double density, double epsilon, int inverse,   \
                             uint64_t *order);                                                                         \
    /* out = base + scale * sum_j kept w_j d_j / divisor: see struct nt_consensus. */                                  \
    void nt_consensus_##S(const T *const *deltas, const double *weights, size_t terms, const T *base, size_t count,    \
                          const struct nt_consensus *rule, T *out);                                                    \
    /* out = population variance over the terms, in f64. */                                                            \
    void nt_variance_##S(const T *const *deltas, size_t terms, size_t count, T *out);                                  \
    /* w = clamp(t / max(|a - b|, 1e-6), 0, 1); out = w b + (1 - w) a. */                                              \
    void nt_nearswap_##S(const T *a, const T *b, size_t count, double t, T *out);                                      \
    /* shared[j], unique[j] += entries where |d_j| > epsilon with, without company. */                                 \
    void nt_ram_counts_##S(const T *const *deltas, size_t terms, size_t count, double epsilon, uint64_t *shared,       \
                           uint64_t *unique);                                                                          \
    /* out = base + (factors[j] d_j where only j exceeds epsilon; mean of those that do where several). */             \
    void nt_ram_##S(const T *const *deltas, const double *factors, size_t terms, const T *base, size_t count,          \
                    double epsilon, T *out);                                                                           \
    /* KL(softmax(x) + 1e-8 || softmax(y) + 1e-8) of a row; scratch [2 count]. */                                      \
    double nt_softmax_divergence_##S(const T *x, const T *y, size_t count, double *scratch);                           \
    /* out = |x - y| * factor. */                                                                                      \
    void nt_scaled_distance_##S(const T *x, const T *y, size_t count, double factor, T *out);                          \
    /* out = scores >= threshold ? x : y. */                                                                           \
    void nt_choose_##S(const T *scores, double threshold, const T *x, const T *y, size_t count, T *out);

NT_MERGE_KERNELS(float, f32)
NT_MERGE_KERNELS(double, f64)

#ifdef __cplusplus
}
#endif
#endif
