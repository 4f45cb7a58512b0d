/* Fused CPU operations without LibTorch types. Plain pointers; the caller owns all memory. */
#ifndef NEEDLETAIL_KERNELS_H
#define NEEDLETAIL_KERNELS_H
#include <stddef.h>
#include <stdint.h>

#include "attention.h"
#include "decode.h"
#include "dropout.h"
#include "embedding.h"
#include "gated.h"
#include "gradient.h"
#include "isa.h"
#include "loss.h"
#include "merge.h"
#include "norm.h"
#include "optimizer.h"
#include "packed.h"
#include "parallel.h"
#include "product.h"
#include "rotary.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One block of Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11). */
void nt_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* out[i] = the (offset + i)-th 32-bit word of stream `stream` under `seed`; any part can be drawn alone. */
void nt_random_words(uint64_t seed, uint64_t stream, uint64_t offset, uint32_t *out, size_t count);

/* Whether the processor multiplies bfloat16 pairs in hardware (AVX512-BF16 or AMX). */
int nt_cpu_has_bf16(void);

#ifdef __cplusplus
}
#endif
#endif
