/* Attention without the T x T matrix: FlashAttention-2 (Dao 2023, arXiv:2307.08691), forward and backward.
 *
 *     s = scale q.k;  p = softmax(s) over the keys a query may see;  o = sum p v;  lse = ln sum e^s
 *     D = sum dO o;  ds = p (dO.v - D), times 1 - (s / c)^2 where s is capped;  dv = sum p dO;  dk = scale sum ds q;  dq = scale sum ds k
 *
 * N tokens in one flat row of packed documents, H query heads, K key/value heads, E numbers a head. Query head h uses
 * key/value head h / (H / K) (grouped queries: Ainslie et al. 2023, arXiv:2305.13245). A query sees the keys of its own
 * document up to itself, of these the newest `window`, or in an encoder all of them; tiles where it sees none cost
 * nothing.
 *
 * Matrices: q, o, dO, dq [N, H E]; k, v, dk, dv [rows of keys, K E]; strides in elements between rows, so that slices
 * of one fused product need no copy. Memory is linear in N. Sums, softmax and lse are fp32 (fp64 in the twin and for
 * f64); with AVX512-BF16, bf16's probabilities and their gradients are rounded to bf16 before the second product, as
 * PyTorch does. Results do not depend on timing or on how many threads run; the last bits of dk and dv on `parts`. */
#ifndef NEEDLETAIL_ATTENTION_H
#define NEEDLETAIL_ATTENTION_H
#include <stddef.h>
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Largest head size E. */
#define NT_ATTENTION_LARGEST_HEAD 256

struct nt_attention {
    int64_t documents;
    const int64_t *starts;     /* [documents + 1] first row of each document in q, ascending; the last is N */
    /* Null: k and v have q's rows. Else a past (a chunk behind a KV cache), [documents] each: document d's keys are
     * rows key_starts[d] ..< key_starts[d] + key_counts[d] of k and v, no fewer than its queries, which are the newest
     * of them. */
    const int64_t *key_starts, *key_counts;
    int64_t heads, kv_heads;   /* H, K; H is a multiple of K */
    int64_t head_dim;          /* E, 1 ... 256; multiples of 16 waste nothing, 64 and 128 are the tuned sizes */
    int64_t window;            /* keys a query sees, itself included; 0: all */
    int64_t bidirectional;     /* 1: a query sees its document's later keys too (an encoder's); window is 0 then */
    double scale;              /* usually 1 / sqrt(E) */
    double soft_cap;           /* c: s becomes c tanh(s / c) (Gemma 2, arXiv:2408.00118, section 2); 0: none */
    int64_t parts;             /* pieces of equal work, as many as threads; >= 1. Backward's memory grows with it. */
};

/* Bytes of scratch (any alignment; what it holds does not matter) for elements of 2 (bf16), 4 or 8 bytes. Backward's
 * serve forward too. They belong to the instruction set in use: ask again after nt_set_isa_limit. */
size_t nt_attention_scratch_bytes(const struct nt_attention *shape, int element_bytes, int backward);

#define NT_ATTENTION_KERNELS(T, L, S)                                                                                  \
    /* o and lse [H, N] from q, k, v. */                                                                               \
    void nt_attention_forward_##S(const struct nt_attention *shape, const T *q, int64_t q_stride, const T *k,          \
                                  int64_t k_stride, const T *v, int64_t v_stride, T *o, int64_t o_stride, L *lse,      \
                                  void *scratch, nt_parallel parallel);                                                \
    /* dq, dk, dv (written, not added to) from the forward's inputs and outputs and dO. With a past, rows of dk, dv    \
       that no document with queries owns are left alone. */                                                           \
    void nt_attention_backward_##S(const struct nt_attention *shape, const T *q, int64_t q_stride, const T *k,         \
                                   int64_t k_stride, const T *v, int64_t v_stride, const T *o, int64_t o_stride,       \
                                   const L *lse, const T *d_o, int64_t do_stride, T *dq, int64_t dq_stride, T *dk,     \
                                   int64_t dk_stride, T *dv, int64_t dv_stride, void *scratch, nt_parallel parallel);

NT_ATTENTION_KERNELS(float, float, f32)
NT_ATTENTION_KERNELS(uint16_t, float, bf16)
NT_ATTENTION_KERNELS(double, double, f64)

#ifdef __cplusplus
}
#endif
#endif
