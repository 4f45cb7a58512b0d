/* Rows of a table by token id, and the gradient of the table. */
#ifndef NEEDLETAIL_EMBEDDING_H
#define NEEDLETAIL_EMBEDDING_H
#include <stddef.h>
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* out[n] = table[ids[n]]: table [vocabulary, width] and out [count, width] with strides from row to row, 0 <= ids < the
 * table's rows. The last two convert between the types (nearest, ties to even). */
void nt_embedding_f32(int64_t count, int64_t width, const int64_t *ids, const float *table, int64_t table_stride,
                      float *out, int64_t out_stride, nt_parallel parallel);
void nt_embedding_bf16(int64_t count, int64_t width, const int64_t *ids, const uint16_t *table, int64_t table_stride,
                       uint16_t *out, int64_t out_stride, nt_parallel parallel);
void nt_embedding_f32_to_bf16(int64_t count, int64_t width, const int64_t *ids, const float *table,
                              int64_t table_stride, uint16_t *out, int64_t out_stride, nt_parallel parallel);
void nt_embedding_bf16_to_f32(int64_t count, int64_t width, const int64_t *ids, const uint16_t *table,
                              int64_t table_stride, float *out, int64_t out_stride, nt_parallel parallel);

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
