// What the wide kernels are written in: one name for each operation on a vector of floats, in a namespace for each
// instruction set. A kernel's body is a `.simd.h` file, compiled once in each namespace by each_isa.h.
//
//   F            a vector of `lanes` floats; + - * / as usual, fma(a, b, c) = a b + c
//   load, store  from and to float or bf16, whole (`Full`) or the first few (`Tail`; the rest read as 0)
//   each(n, f)   f(i, part, u) for vectors at i = 0, lanes ...; u = 0 ... 3 in turn, a constant: the accumulator to use
//
//   store_exactly  as store, for bf16 numbers whose bits matter: AVX512-BF16's own rounding makes 0 of subnormals
//
// The instruction set is set by a pragma over whole namespaces: the compiler's own constructors do not get it, and
// structs of vectors therefore have none.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define NT_INLINE static inline __attribute__((always_inline))
#define NT_LAMBDA __attribute__((always_inline))

using bf16 = uint16_t;
template <int u> using Slot = std::integral_constant<int, u>;

#define NT_BODY "simd_of_isa.h"
#include "each_isa.h"
