// From a C entry to the code of the instruction set in use, on the caller's threads. A kernel's code is a function
// `name<T>(const Arguments &, begin, end)` for a range of rows or blocks, in nt_twin and in the namespace of each
// instruction set.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "isa.h"
#include "parallel.h"
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

template <class A> struct Call {
    void (*range)(const A &, int64_t, int64_t);
    const A *arguments;
};

template <class A>
void run(nt_parallel parallel, int64_t count, int64_t grain, void (*range)(const A &, int64_t, int64_t),
         const A &arguments) {
    if (count <= 0) return;
    if (!parallel) return range(arguments, 0, count);
    Call<A> call{range, &arguments};
    parallel(
        count, std::max<int64_t>(1, grain),
        [](void *context, int64_t begin, int64_t end) {
            const auto &call = *static_cast<const Call<A> *>(context);
            call.range(*call.arguments, begin, end);
        },
        &call);
}

// Rows of `width` elements worth handing to another thread: about 32 thousand elements.
inline int64_t row_grain(int64_t width) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, width)); }

}  // namespace nt

// Numbers as the twins see them: everything in fp64, rounded once when stored.
namespace nt_twin {

// What statistics, weights and tables are stored in beside activations of type T.
template <class T> using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline double get(double x) { return x; }
inline double get(float x) { return double(x); }
inline float widened(bf16 x) {
    const uint32_t bits = uint32_t(x) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline double get(bf16 x) { return double(widened(x)); }
inline bf16 rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return bf16(bits >> 16 | 0x40);
    return bf16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline void put(double &to, double x) { to = x; }
inline void put(float &to, double x) { to = float(x); }
inline void put(bf16 &to, double x) { to = rounded(float(x)); }

}  // namespace nt_twin
