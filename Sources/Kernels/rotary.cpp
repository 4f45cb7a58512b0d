// Rotary positions: arguments, the scalar twin, the C entries. Formula: include/rotary.h.
#include "rotary.h"

#include "dispatch.h"

using nt_twin::Wide;

namespace {
template <class T> struct Rotary {
    int64_t tokens, head_width, rotary_width;
    T *q;
    int64_t q_stride, heads;
    T *k;
    int64_t k_stride, kv_heads;
    const Wide<T> *cosine, *sine;
    const int64_t *positions;
    Wide<T> sign;
};
}  // namespace

namespace nt_twin {
template <class T> void rotary(const Rotary<T> &a, int64_t begin, int64_t end) {
    const int64_t half = a.rotary_width / 2;
    for (int64_t token = begin; token < end; ++token)
        for (int64_t head = 0; head < a.heads + a.kv_heads; ++head) {
            T *x = head < a.heads ? a.q + token * a.q_stride + head * a.head_width
                                  : a.k + token * a.k_stride + (head - a.heads) * a.head_width;
            for (int64_t i = 0; i < half; ++i) {
                const double c = double(a.cosine[a.positions[token] * half + i]);
                const double s = double(a.sine[a.positions[token] * half + i]) * double(a.sign);
                const double x1 = get(x[i]), x2 = get(x[i + half]);
                put(x[i], x1 * c - x2 * s);
                put(x[i + half], x2 * c + x1 * s);
            }
        }
}
}  // namespace nt_twin

#define NT_BODY "rotary.simd.h"
#include "each_isa.h"

NT_DISPATCH(rotary)

#define NT_ENTRIES(T, W, S)                                                                                        \
    extern "C" void nt_rotary_##S(int64_t tokens, int64_t head_width, int64_t rotary_width, T *q, int64_t q_stride, \
                                  int64_t heads, T *k, int64_t k_stride, int64_t kv_heads, const W *cosine,        \
                                  const W *sine, const int64_t *positions, int sign, nt_parallel parallel) {       \
        const Rotary<T> a{tokens,   head_width, rotary_width, q,    q_stride,  heads,  k,                          \
                          k_stride, kv_heads,   cosine,       sine, positions, W(sign)};                           \
        nt::run(parallel, tokens, nt::row_grain((heads + kv_heads) * rotary_width), picked_rotary<T>(), a);        \
    }

NT_ENTRIES(uint16_t, float, bf16)
NT_ENTRIES(float, float, f32)
NT_ENTRIES(double, double, f64)
