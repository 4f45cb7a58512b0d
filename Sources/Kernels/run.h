// Loops on the caller's threads, and how counts are cut for them.
#pragma once
#include <cstdint>
#include <type_traits>

#include "parallel.h"

namespace nt {

inline int64_t pieces(int64_t count, int64_t most) { return (count + most - 1) / most; }
inline int64_t rounded_up(int64_t x, int64_t to) { return pieces(x, to) * to; }

/// The caller's scratch from its first whole cache line on.
inline float *aligned(void *scratch) {
    return reinterpret_cast<float *>(rounded_up(int64_t(reinterpret_cast<uintptr_t>(scratch)), 64));
}

/// call(begin, end) on ranges that cover 0 ..< count.
template <class Call> void run(nt_parallel parallel, int64_t count, int64_t grain, Call &&call) {
    if (count <= 0) return;
    if (!parallel) return call(int64_t(0), count);
    parallel(
        count, grain,
        [](void *context, int64_t begin, int64_t end) {
            (*static_cast<std::remove_reference_t<Call> *>(context))(begin, end);
        },
        &call);
}

/// call(i) for 0 ..< count.
template <class Call> void run_each(nt_parallel parallel, int64_t count, Call &&call) {
    run(parallel, count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) call(i);
    });
}

}  // namespace nt
