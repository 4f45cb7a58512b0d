// Flash attention with AMX: a tile is 16 rows of 16 words, and one instruction multiplies two tiles of bf16 pairs into
// 16 x 16 fp32 sums. Everything else is AVX512-BF16's.
#if defined(__x86_64__)
#include <immintrin.h>

#include "attention_types.h"

#define NT_INLINE static inline __attribute__((always_inline))
#define NT_LAMBDA __attribute__((always_inline))

#pragma clang attribute push(__attribute__((target(                                                          \
                                 "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16"))), \
                             apply_to = function)
namespace nt_attention_kernels::amx {

#include "vectors_avx512.h"
#include "attention_pairs.h"
#include "tiles.h"

#define NT_BF16_PAIRS 1
#define NT_TILES 1
#include "attention_body.h"
NT_INSTANTIATE(bf16)

}  // namespace nt_attention_kernels::amx
#pragma clang attribute pop
#endif
