// The instruction set in use: the least of what the processor has and what the caller allows.
#include "isa.h"

#include <atomic>

namespace {

std::atomic<int> limit{3};

int detected() {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return 1;
    return __builtin_cpu_supports("avx512bf16") ? 3 : 2;
#else
    return 0;
#endif
}

}  // namespace

extern "C" int nt_isa_level(void) {
    static const int level = detected();
    const int allowed = limit.load(std::memory_order_relaxed);
    return level < allowed ? level : allowed;
}

extern "C" void nt_set_isa_limit(int level) { limit.store(level, std::memory_order_relaxed); }
