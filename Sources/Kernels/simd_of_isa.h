// The vector of an instruction set with the functions written in it: the body of simd.h.
#if NT_ISA == 1
#include "simd_avx2.h"
#else
#include "simd_avx512.h"
#endif
#include "simd_math.h"
