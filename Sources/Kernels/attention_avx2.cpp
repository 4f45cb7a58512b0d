// Flash attention with AVX2 + FMA; bf16 is widened as it is loaded.
#if defined(__x86_64__)
#include <immintrin.h>

#include "attention_types.h"

#define NT_INLINE static inline __attribute__((always_inline))
#define NT_LAMBDA __attribute__((always_inline))

#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
namespace nt_attention_kernels::avx2 {

#include "vectors_avx2.h"

#define NT_BF16_PAIRS 0
#define NT_TILES 0
#include "attention_body.h"
NT_INSTANTIATE(float)
NT_INSTANTIATE(bf16)

}  // namespace nt_attention_kernels::avx2
#pragma clang attribute pop
#endif
