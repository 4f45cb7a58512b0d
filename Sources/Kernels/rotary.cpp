// Rotary positions: arguments, the scalar twin, the C entries. Formula: include/rotary.h.
#include "rotary.h"

#include "dispatch.h"

using nt_twin::Wide;

namespace {
template <class T> struct Side;
template <> struct Side<uint16_t> : nt_turned_bf16 {};
template <> struct Side<float> : nt_turned_f32 {};
template <> struct Side<double> : nt_turned_f64 {};

template <class T> struct Rotary {
    int64_t head_width, rotary_width;
    Side<T> sides[2];
    const Wide<T> *cosine, *sine;
    const int64_t *positions;
    Wide<T> sign;
};
}  // namespace

namespace nt_twin {
template <class T> void rotary(const Rotary<T> &a, int64_t begin, int64_t end) {
    const int64_t half = a.rotary_width / 2;
    for (int64_t token = begin; token < end; ++token)
        for (const Side<T> &side : a.sides)
            for (int64_t head = 0; head < side.heads; ++head) {
                const T *x = side.x + token * side.x_stride + head * a.head_width;
                T *to = side.to + token * side.to_stride + head * a.head_width;
                for (int64_t i = 0; i < half; ++i) {
                    const double c = double(a.cosine[a.positions[token] * half + i]);
                    const double s = double(a.sine[a.positions[token] * half + i]) * double(a.sign);
                    const double x1 = get(x[i]), x2 = get(x[i + half]);
                    put(to[i], x1 * c - x2 * s);
                    put(to[i + half], x2 * c + x1 * s);
                }
                if (to != x) std::copy(x + 2 * half, x + a.head_width, to + 2 * half);
            }
}
}  // namespace nt_twin

#define NT_BODY "rotary.simd.h"
#include "each_isa.h"

NT_DISPATCH(rotary)

#define NT_ENTRIES(T, W, S)                                                                                        \
    extern "C" void nt_rotary_##S(int64_t tokens, int64_t head_width, int64_t rotary_width, nt_turned_##S q,        \
                                  nt_turned_##S k, const W *cosine, const W *sine, const int64_t *positions,       \
                                  int sign, nt_parallel parallel) {                                                \
        const Rotary<T> a{head_width, rotary_width, {{q}, {k}}, cosine, sine, positions, W(sign)};                 \
        nt::run(parallel, tokens, nt::row_grain((q.heads + k.heads) * head_width), picked_rotary<T>(), a);         \
    }

NT_ENTRIES(uint16_t, float, bf16)
NT_ENTRIES(float, float, f32)
NT_ENTRIES(double, double, f64)
