// From a C entry to the code of the instruction set in use, on the caller's threads. A kernel's code is a function
// `name<T>(const Arguments &, begin, end)` for a range of rows or blocks, in nt_twin and in the namespace of each
// instruction set.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "isa.h"
#include "numbers.h"
#include "run.h"
#include "simd.h"

// picked_NAME<T, ...>(): the function to call; f64 exists as the twin only.
#if defined(__x86_64__)
#define NT_WIDE_LEVELS(name)                                                                             \
    if constexpr (!std::is_same_v<T, double>) {                                                          \
        const int level = nt_isa_level();                                                                \
        if (level >= 3) return nt_avx512_bf16::name<T, options...>;                                      \
        if (level == 2) return nt_avx512::name<T, options...>;                                           \
        if (level == 1) return nt_avx2::name<T, options...>;                                             \
    }
#else
#define NT_WIDE_LEVELS(name)
#endif
#define NT_DISPATCH(name)                                                                                \
    template <class T, auto... options> static decltype(&nt_twin::name<T, options...>) picked_##name() { \
        NT_WIDE_LEVELS(name)                                                                             \
        return nt_twin::name<T, options...>;                                                             \
    }

namespace nt {

template <class A>
void run(nt_parallel parallel, int64_t count, int64_t grain, void (*range)(const A &, int64_t, int64_t),
         const A &arguments) {
    run(parallel, count, std::max<int64_t>(1, grain),
        [&](int64_t begin, int64_t end) { range(arguments, begin, end); });
}

// Rows of `width` elements worth handing to another thread: about 32 thousand elements.
inline int64_t row_grain(int64_t width) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, width)); }

}  // namespace nt

// Numbers as the twins see them: everything in fp64, rounded once when stored.
namespace nt_twin {

using nt::bits_of, nt::float_of, nt::rounded, nt::widened;

// What statistics, weights and tables are stored in beside activations of type T.
template <class T> using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline double get(double x) { return x; }
inline double get(float x) { return double(x); }
inline double get(bf16 x) { return double(widened(x)); }
inline void put(double &to, double x) { to = x; }
inline void put(float &to, double x) { to = float(x); }
inline void put(bf16 &to, double x) { to = rounded(float(x)); }

}  // namespace nt_twin
