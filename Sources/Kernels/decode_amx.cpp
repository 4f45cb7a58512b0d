// The kernels of generation with AMX: products of 16 rows of weights with 16 rows of x; the rest is decode_avx512bf16's.
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include <type_traits>

#include "decode_types.h"

#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,amx-tile,amx-bf16"))), \
    apply_to = function)
namespace nt {
namespace amx {
namespace {
#include "tiles.h"

#define NT_WIDE 1
#define NT_PAIRS 1
#define NT_TILES 1
#include "decode_body.h"
}  // namespace
}  // namespace amx
const DecodeKernels decode_amx = amx::kernels;
}  // namespace nt
#pragma clang attribute pop
#endif
