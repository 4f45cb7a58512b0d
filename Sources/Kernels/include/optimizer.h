/* AdamW in one pass over a flat buffer, with fp32, split or 8-bit state; the gradient norm.
 *
 *   g' = scale g    m = beta1 m + (1 - beta1) g'    v = beta2 v + (1 - beta2) g'^2
 *   p -= learning_rate (m / correction1 / (sqrt(v / correction2) + epsilon) + weight_decay p)
 *
 * Source: Loshchilov & Hutter 2019 (arXiv:1711.05101). Every element is read and written once, and its result does not
 * depend on the threads. Gradients that are not finite must be skipped by the caller (see nt_square_sum_f32).
 *
 * A step returns the sum of squares of its update without rate and decay, m / correction1 / (sqrt(v / correction2) +
 * epsilon), summed in fp64 in blocks that do not depend on the threads. scratch: nt_adamw_scratch_bytes(count). */
#ifndef NEEDLETAIL_OPTIMIZER_H
#define NEEDLETAIL_OPTIMIZER_H
#include <stddef.h>
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

struct nt_adamw_options {
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    double correction1, correction2; /* 1 - beta^t of step t = 1, 2, ...; 1 for none */
    double gradient_scale;           /* 1 / tokens x clip factor, whatever is still due */
};

size_t nt_adamw_scratch_bytes(int64_t count);
/* p, g, m, v [count]; copy null, or [count]: p in bf16 (nearest, ties to even), for the products. */
double nt_adamw_f32(int64_t count, float *p, const float *g, float *m, float *v, uint16_t *copy,
                    const struct nt_adamw_options *options, void *scratch, nt_parallel parallel);
double nt_adamw_f64(int64_t count, double *p, const double *g, double *m, double *v,
                    const struct nt_adamw_options *options, void *scratch, nt_parallel parallel);

/* A gradient [count] in fp32, or in bf16 as a product has left it: the other one is null. */
struct nt_gradient {
    const float *f32;
    const uint16_t *bf16;
};

/* What the step that nt_adamw_f32 would make next returns, bit for bit; nothing but scratch is written. */
double nt_adamw_update_square_sum_f32(int64_t count, struct nt_gradient g, const float *m, const float *v,
                                      const struct nt_adamw_options *options, void *scratch, nt_parallel parallel);

/* Split masters: an fp32 number as a bf16 number near it (high, which the products use as it is) and the signed
 * distance in units of fp32's last place (low, two's complement):
 *
 *   high = upper half of bits(p) + 0x8000      low = lower half of bits(p)      bits(p) = (high << 16) + (signed) low
 *
 * The pair is p, bit for bit (a NaN stays a NaN). `high` is a bf16 number nearest to p: of two equally near ones
 * always the larger in magnitude. To even, as elsewhere, is impossible: an even bf16 number would be the nearest of
 * 2^16 + 1 fp32 numbers, one more than `low` can tell apart. The two rules differ for 1 in 2^17 numbers, by no larger
 * error. */
void nt_split_masters(int64_t count, const float *p, uint16_t *high, uint16_t *low, nt_parallel parallel);
void nt_join_masters(int64_t count, const uint16_t *high, const uint16_t *low, float *p, nt_parallel parallel);
/* nt_adamw_f32 on split masters: the same fp32 numbers, bit for bit. */
double nt_adamw_split(int64_t count, uint16_t *high, uint16_t *low, struct nt_gradient g, float *m, float *v,
                      const struct nt_adamw_options *options, void *scratch, nt_parallel parallel);

/* 8-bit state (Dettmers et al. 2022, arXiv:2110.02861): blocks of NT_ADAM8_BLOCK elements, in each the largest
 * magnitude in fp32 (m_scales, v_scales [ceil(count / NT_ADAM8_BLOCK)]) and codes of the dynamic map, signed for m and
 * unsigned for v (m_codes, v_codes [count]). The step itself uses m and v before they are encoded again. Start of a
 * run: all m_codes NT_ADAM8_ZERO_M, all v_codes 0, all scales 0. */
#define NT_ADAM8_BLOCK 256
#define NT_ADAM8_ZERO_M 127
double nt_adamw8_f32(int64_t count, float *p, const float *g, uint8_t *m_codes, float *m_scales, uint8_t *v_codes,
                     float *v_scales, uint16_t *copy, const struct nt_adamw_options *options, void *scratch,
                     nt_parallel parallel);
double nt_adamw8_split(int64_t count, uint16_t *high, uint16_t *low, struct nt_gradient g, uint8_t *m_codes,
                       float *m_scales, uint8_t *v_codes, float *v_scales, const struct nt_adamw_options *options,
                       void *scratch, nt_parallel parallel);
/* The 256 numbers of a map, ascending, -1 ... 1 or 0 ... 1. */
void nt_adam8_map(int is_signed, float numbers[256]);
/* x [count] to codes and scales, and back. */
void nt_adam8_encode(int is_signed, int64_t count, const float *x, uint8_t *codes, float *scales, nt_parallel parallel);
void nt_adam8_decode(int is_signed, int64_t count, const uint8_t *codes, const float *scales, float *x,
                     nt_parallel parallel);

/* Sum of squares in fp64, summed in blocks that do not depend on the threads; not finite when one of the numbers is not.
 * scratch: nt_square_sum_scratch_bytes(count). */
size_t nt_square_sum_scratch_bytes(int64_t count);
double nt_square_sum_f32(int64_t count, const float *x, void *scratch, nt_parallel parallel);
double nt_square_sum_bf16(int64_t count, const uint16_t *x, void *scratch, nt_parallel parallel);

#ifdef __cplusplus
}
#endif
#endif
