// The kernels of generation in 16 lanes with products of bytes: AVX-512 (F, BW, VL, DQ) and AVX512-VNNI.
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include <type_traits>

#include "decode_types.h"

#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), \
    apply_to = function)
namespace nt {
namespace avx512 {
namespace {
#define NT_WIDE 1
#define NT_PAIRS 0
#define NT_TILES 0
#include "decode_body.h"
}  // namespace
}  // namespace avx512
const DecodeKernels decode_avx512 = avx512::kernels;
}  // namespace nt
#pragma clang attribute pop
#endif
