// The kernels of generation in 8 lanes: AVX2 with FMA.
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include <type_traits>

#include "decode_types.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
namespace nt {
namespace avx2 {
namespace {
#define NT_WIDE 0
#define NT_PAIRS 0
#define NT_TILES 0
#include "decode_body.h"
}  // namespace
}  // namespace avx2
const DecodeKernels decode_avx2 = avx2::kernels;
}  // namespace nt
#pragma clang attribute pop
#endif
