/* Dropout (Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html) whose mask is never kept: it is made again
 * from its stream wherever it is needed.
 *
 *   out[i] = x[i] / (1 - p) where element i is kept, else 0
 *
 * Element i is dropped where word i of the stream (nt_random_words) says (word >> 8) 2^-24 < p, in fp32. The factor
 * 1 / (1 - p) is rounded to fp32, and of bf16 to bf16; the product is rounded once. */
#ifndef NEEDLETAIL_DROPOUT_H
#define NEEDLETAIL_DROPOUT_H
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

struct nt_dropout {
    uint64_t seed, stream;
    double probability; /* p, 0 ..< 1 */
};

/* x, out [count]; out may be x. `adds`: to what is in out, the sum rounded once. */
void nt_dropout_bf16(const struct nt_dropout *dropout, int64_t count, const uint16_t *x, uint16_t *out, int adds,
                     nt_parallel parallel);
void nt_dropout_f32(const struct nt_dropout *dropout, int64_t count, const float *x, float *out, int adds,
                    nt_parallel parallel);
void nt_dropout_f64(const struct nt_dropout *dropout, int64_t count, const double *x, double *out, int adds,
                    nt_parallel parallel);

#ifdef __cplusplus
}
#endif
#endif
