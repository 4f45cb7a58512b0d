// What the processor can do, asked at run time.
#include "kernels.h"

#include <algorithm>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern "C" int nt_cpu_has_bf16(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return 0;
    const bool avx512_bf16 = a >> 5 & 1;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const bool amx_bf16 = d >> 22 & 1;
    return avx512_bf16 || amx_bf16;
}

// Tiles are 8 KiB of registers that Linux saves for a process only once it has asked (arch_prctl(2)).
static bool may_use_tiles() {
#if defined(__linux__)
    constexpr long request_permission = 0x1023, tile_data = 18;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool amx_bf16 = d >> 22 & 1, amx_tile = d >> 24 & 1;
    return amx_bf16 && amx_tile && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

static int level_of_processor() {
    __builtin_cpu_init();  // may run before the runtime's own constructor
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (!avx512) return 1;
    if (!__builtin_cpu_supports("avx512bf16")) return 2;
    return may_use_tiles() ? 4 : 3;
}
#else
extern "C" int nt_cpu_has_bf16(void) { return 0; }

static int level_of_processor() { return 0; }
#endif

static const int processor_level = level_of_processor();
static thread_local int level = processor_level;

extern "C" int nt_isa_level(void) { return level; }
extern "C" void nt_set_isa_limit(int limit) { level = std::clamp(limit, 0, processor_level); }
