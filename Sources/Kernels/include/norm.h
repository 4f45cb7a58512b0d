/* RMSNorm and LayerNorm with the residual addition in front of them, forward and backward. The norm of each head's queries
 * or keys (QK-norm) is RMSNorm of rows of the head's width.
 *
 * T: activations (bf16 as its 16 bits, float; double for the twin). W: weights and statistics (float; double with it).
 * Matrices are row-major with a stride in elements from row to row; D is the row's width. All arithmetic is in W: the
 * normalized row is rounded to T once, after the weight (transformers' Llama in bf16 rounds before it as well).
 *
 *   s = x + residual, rounded to T        r = 1 / sqrt(mean((s - mu)^2) + epsilon), mu = 0 in RMSNorm
 *   y = (s - mu) r (w + offset) + bias    offset: 1 in Gemma, else 0
 *
 * Backward (xhat = (s - mu) r made again from s; g = dy (w + offset); the mean(g) term in LayerNorm only):
 *
 *   dx = r (g - mean(g) - xhat mean(g xhat)) + ds     dw += sum over rows of dy xhat     dbias += sum over rows of dy
 *
 * ds is the gradient that reaches s past the norm, along the residual stream; dx is the gradient of x and of residual.
 * Sums over rows are taken in blocks of rows that do not depend on the threads: the same bits on any number of them.
 * Source: Zhang & Sennrich 2019 (arXiv:1910.07467), Ba et al. 2016 (arXiv:1607.06450). */
#ifndef NEEDLETAIL_NORM_H
#define NEEDLETAIL_NORM_H
#include <stddef.h>
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Scratch of the backward functions below; 64-byte alignment is enough. */
size_t nt_norm_scratch_bytes(int64_t rows, int64_t width);

#define NT_NORM_KERNELS(T, W, S)                                                                                       \
    /* x, y [rows, width]; residual null: s is x and `sum` may be null. Otherwise s is written to `sum`, which may be \
       x or residual itself. weight [width], null: all ones. r [rows] is written. y may not be s. */                   \
    void nt_rms_norm_##S(int64_t rows, int64_t width, const T *x, int64_t x_stride, const T *residual,                 \
                         int64_t residual_stride, const W *weight, W offset, W epsilon, T *sum, int64_t sum_stride,    \
                         T *y, int64_t y_stride, W *r, nt_parallel parallel);                                          \
    /* y once more, the same bits, from s and r. */                                                                    \
    void nt_rms_norm_again_##S(int64_t rows, int64_t width, const T *s, int64_t s_stride, const W *weight, W offset,   \
                               const W *r, T *y, int64_t y_stride, nt_parallel parallel);                              \
    /* ds null: no second gradient. dx may be dy or ds. dweight [width] is added to; null when the weight is frozen   \
       (then scratch may be null too). */                                                                              \
    void nt_rms_norm_backward_##S(int64_t rows, int64_t width, const T *dy, int64_t dy_stride, const T *s,             \
                                  int64_t s_stride, const W *r, const W *weight, W offset, const T *ds,                \
                                  int64_t ds_stride, T *dx, int64_t dx_stride, W *dweight, void *scratch,              \
                                  nt_parallel parallel);                                                               \
    /* As the three of RMSNorm, with mean [rows] beside r, and a bias [width] that may be null. */                     \
    void nt_layer_norm_##S(int64_t rows, int64_t width, const T *x, int64_t x_stride, const T *residual,               \
                           int64_t residual_stride, const W *weight, const W *bias, W epsilon, T *sum,                 \
                           int64_t sum_stride, T *y, int64_t y_stride, W *mean, W *r, nt_parallel parallel);           \
    void nt_layer_norm_again_##S(int64_t rows, int64_t width, const T *s, int64_t s_stride, const W *weight,           \
                                 const W *bias, const W *mean, const W *r, T *y, int64_t y_stride,                     \
                                 nt_parallel parallel);                                                                \
    void nt_layer_norm_backward_##S(int64_t rows, int64_t width, const T *dy, int64_t dy_stride, const T *s,           \
                                    int64_t s_stride, const W *mean, const W *r, const W *weight, const T *ds,         \
                                    int64_t ds_stride, T *dx, int64_t dx_stride, W *dweight, W *dbias, void *scratch,  \
                                    nt_parallel parallel);

NT_NORM_KERNELS(uint16_t, float, bf16)
NT_NORM_KERNELS(float, float, f32)
NT_NORM_KERNELS(double, double, f64)

#ifdef __cplusplus
}
#endif
#endif
