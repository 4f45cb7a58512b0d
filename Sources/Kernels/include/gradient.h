/* A weight's gradient, summed by the product itself: dW (+)= dy^T x. */
#ifndef NEEDLETAIL_GRADIENT_H
#define NEEDLETAIL_GRADIENT_H
#include <stddef.h>
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Whether the level in use has vector code for it (4, AMX-BF16); below it runs as the twin, and LibTorch is faster. */
int nt_weight_gradient_is_fast(void);

/* Bytes of scratch (any alignment). `parts`: pieces of work, as many as threads; >= 1. */
size_t nt_weight_gradient_scratch_bytes(int64_t N, int64_t I, int64_t parts);

/* dW [O, I] = dy^T x, added to what is there when `adds`: dy [N, O] and x [N, I] in bf16, products and sums in fp32
 * (fp64 in the twin), rounded nowhere in between. Strides in elements between rows. The same bits on any number of
 * threads and parts. */
void nt_weight_gradient_bf16(int64_t N, int64_t O, int64_t I, const uint16_t *dy, int64_t dy_stride, const uint16_t *x,
                             int64_t x_stride, int adds, float *dw, int64_t dw_stride, int64_t parts, void *scratch,
                             nt_parallel parallel);

#ifdef __cplusplus
}
#endif
#endif
