/* The gate of an MLP, h = act(gate) up, or an activation alone, h = act(gate); and their gradients.
 *
 *   NT_SWIGLU: act(a) = a sigmoid(a)                      (Shazeer 2020, arXiv:2002.05202)
 *   NT_GEGLU:  act(a) = a (1 + tanh(k (a + 0.044715 a^3))) / 2, k = sqrt(2 / pi)
 *   NT_GELU:   the same act (Hendrycks and Gimpel 2016, arXiv:1606.08415), no up: it counts as 1 and is not touched
 *
 *   dup = dh act(gate)      dgate = dh up act'(gate)
 *
 * Only gate and up need to be kept for backward: h is made again. */
#ifndef NEEDLETAIL_GATED_H
#define NEEDLETAIL_GATED_H
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

enum nt_gate { NT_SWIGLU = 0, NT_GEGLU = 1, NT_GELU = 2 };

/* gate, up, h, dh, dgate, dup [rows, width]; strides in elements from row to row, so that gate and up may be halves of one
 * product. h may be gate or up; dgate and dup may be gate, up or dh. up and dup may be null for NT_GELU. */
#define NT_GATED_KERNELS(T, S)                                                                                         \
    void nt_gated_##S(enum nt_gate kind, int64_t rows, int64_t width, const T *gate, int64_t gate_stride, const T *up, \
                      int64_t up_stride, T *h, int64_t h_stride, nt_parallel parallel);                                \
    void nt_gated_backward_##S(enum nt_gate kind, int64_t rows, int64_t width, const T *dh, int64_t dh_stride,         \
                               const T *gate, int64_t gate_stride, const T *up, int64_t up_stride, T *dgate,           \
                               int64_t dgate_stride, T *dup, int64_t dup_stride, nt_parallel parallel);

NT_GATED_KERNELS(uint16_t, bf16)
NT_GATED_KERNELS(float, f32)
NT_GATED_KERNELS(double, f64)

#ifdef __cplusplus
}
#endif
#endif
