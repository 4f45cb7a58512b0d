/* The gradient of a table of which rows were taken by token id. */
#ifndef NEEDLETAIL_EMBEDDING_H
#define NEEDLETAIL_EMBEDDING_H
#include <stddef.h>
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* dtable[ids[n]] += scale dx[n] for n = 0, 1 ... in that order for each id, so that the result does not depend on the
 * threads. dtable [vocabulary, width] fp32 (fp64 in the twin); ids [count] in 0 ..< vocabulary, count < 2^31.
 * scratch: nt_embedding_scratch_bytes(count), aligned to 8. */
size_t nt_embedding_scratch_bytes(int64_t count);
void nt_embedding_backward_bf16(int64_t count, int64_t width, const int64_t *ids, const uint16_t *dx, int64_t dx_stride,
                                float scale, float *dtable, int64_t table_stride, void *scratch, nt_parallel parallel);
void nt_embedding_backward_f32(int64_t count, int64_t width, const int64_t *ids, const float *dx, int64_t dx_stride,
                               float scale, float *dtable, int64_t table_stride, void *scratch, nt_parallel parallel);
void nt_embedding_backward_f64(int64_t count, int64_t width, const int64_t *ids, const double *dx, int64_t dx_stride,
                               double scale, double *dtable, int64_t table_stride, void *scratch, nt_parallel parallel);

#ifdef __cplusplus
}
#endif
#endif
