/* Cross-entropy of rows of logits with its gradient, for the chunked linear head; and log-probabilities alone.
 *
 * Of a row of logits u [V], label y, factor f (the row's share of the loss: 1 / trained tokens, times any weight):
 *
 *   l = c tanh(u / c) with a soft-cap c, else u        z = log sum e^l        p = e^(l - z)
 *   loss = f [(1 - alpha) (z - l_y) + alpha (z - mean l) + zeta z^2]
 *   dl   = f [p (1 + 2 zeta z) - (1 - alpha) 1_y - alpha / V]        du = dl (1 - (l / c)^2)
 *
 * alpha label smoothing, zeta z-loss. A negative label: loss and gradient 0, logits not read.
 * A row is read twice (the second time from the second-level cache) and written once. Losses are fp64. */
#ifndef NEEDLETAIL_LOSS_H
#define NEEDLETAIL_LOSS_H
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

struct nt_cross_entropy_options {
    double soft_cap;        /* c > 0; 0: none */
    double label_smoothing; /* alpha, 0 ... 1 */
    double z_loss;          /* zeta >= 0 */
};

/* logits [rows, vocabulary], labels [rows] < vocabulary, factors [rows] (W: float, or double for the twin).
 * row_losses [rows] is written; the sum of them, in order, is returned. */
#define NT_LOSS_KERNELS(T, W, S)                                                                                       \
    /* The logits become du. */                                                                                        \
    double nt_cross_entropy_##S(int64_t rows, int64_t vocabulary, T *logits, int64_t stride, const int64_t *labels,    \
                                const W *factors, const struct nt_cross_entropy_options *options, double *row_losses,  \
                                nt_parallel parallel);                                                                 \
    /* log p_y (0 for a negative label), z and the index of the largest logit (the first of equals), each [rows]; any \
       may be null. labels may be null when log_probabilities is. */                                                   \
    void nt_log_probabilities_##S(int64_t rows, int64_t vocabulary, const T *logits, int64_t stride,                   \
                                  const int64_t *labels, double soft_cap, W *log_probabilities, W *log_sums,           \
                                  int64_t *largest, nt_parallel parallel);

NT_LOSS_KERNELS(uint16_t, float, bf16)
NT_LOSS_KERNELS(float, float, f32)
NT_LOSS_KERNELS(double, double, f64)

#ifdef __cplusplus
}
#endif
#endif
