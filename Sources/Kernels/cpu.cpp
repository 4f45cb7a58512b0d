// What the processor can do, asked at run time.
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

extern "C" int nt_cpu_has_bf16(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return 0;
    const bool avx512_bf16 = a >> 5 & 1;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const bool amx_bf16 = d >> 22 & 1;
    return avx512_bf16 || amx_bf16;
}
#else
extern "C" int nt_cpu_has_bf16(void) { return 0; }
#endif
