// Flash attention with AVX512-BF16: pairs of bf16 are multiplied and summed in fp32 by one instruction.
#if defined(__x86_64__)
#include <immintrin.h>

#include "attention_types.h"

#define NT_INLINE static inline __attribute__((always_inline))
#define NT_LAMBDA __attribute__((always_inline))

#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))), \
                             apply_to = function)
namespace nt_attention_kernels::avx512bf16 {

#include "vectors_avx512.h"
#include "attention_pairs.h"

#define NT_BF16_PAIRS 1
#define NT_TILES 0
#include "attention_body.h"
NT_INSTANTIATE(bf16)

}  // namespace nt_attention_kernels::avx512bf16
#pragma clang attribute pop
#endif
