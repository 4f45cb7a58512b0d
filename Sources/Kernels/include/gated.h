/* The gate of an MLP, h = act(gate) up, or an activation alone, h = act(gate); and their gradients in place.
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

/* gate, up, h, dh [rows, width]; strides in elements from row to row, so that gate and up may be halves of one product.
 * Forward: h may be gate or up. The same call makes h again in backward.
 * Backward: dh is replaced by h (wanted by the down projection's weight gradient) when `make_h`, else left as it is;
 * gate by dgate; up by dup. up may be null for NT_GELU. */
#define NT_GATED_KERNELS(T, S)                                                                                         \
    void nt_gated_##S(enum nt_gate kind, int64_t rows, int64_t width, const T *gate, int64_t gate_stride, const T *up, \
                      int64_t up_stride, T *h, int64_t h_stride, nt_parallel parallel);                                \
    void nt_gated_backward_##S(enum nt_gate kind, int64_t rows, int64_t width, T *dh, int64_t dh_stride, T *gate,      \
                               int64_t gate_stride, T *up, int64_t up_stride, int make_h, nt_parallel parallel);

NT_GATED_KERNELS(uint16_t, bf16)
NT_GATED_KERNELS(float, f32)
NT_GATED_KERNELS(double, f64)

#ifdef __cplusplus
}
#endif
#endif
