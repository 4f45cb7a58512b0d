/* The product of two matrices in fp32, for processors that LibTorch's libraries serve badly. */
#ifndef NEEDLETAIL_PRODUCT_H
#define NEEDLETAIL_PRODUCT_H
#include <stddef.h>
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* C [M, N] = alpha A B, added to what is there when `adds`: A [M, K] and B [K, N]. Element (i, j) of A is
 * a[i * a_row + j * a_column], so a transposed matrix is one with other strides; of B likewise. C's rows lie c_row apart. */
typedef struct {
    int64_t M, N, K;
    const float *a;
    int64_t a_row, a_column;
    const float *b;
    int64_t b_row, b_column;
    float *c;
    int64_t c_row;
    float alpha;
    int adds;
    int64_t parts; /* pieces of work, as many as threads; >= 1 */
} nt_product;

/* Bytes of scratch, any alignment. */
size_t nt_product_scratch_bytes(const nt_product *product);

/* Products and sums in fp32 and AVX2's vectors from level 1 on (fp64 in the twin, level 0). An element has the same bits on
 * any number of threads and parts, and whatever other rows and columns are multiplied with it. A, B and C do not overlap. */
void nt_product_f32(const nt_product *product, void *scratch, nt_parallel parallel);

#ifdef __cplusplus
}
#endif
#endif
