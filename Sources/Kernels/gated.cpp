// SwiGLU, GeGLU and GELU: arguments, the scalar twin, the C entries. Formulas: include/gated.h.
#include "gated.h"

#include "dispatch.h"

namespace {

template <class T> struct Gated {
    int64_t width;
    const T *gate;
    int64_t gate_stride;
    const T *up;
    int64_t up_stride;
    T *h;
    int64_t h_stride;
};

template <class T> struct GatedBackward {
    int64_t width;
    const T *dh;
    int64_t dh_stride;
    const T *gate;
    int64_t gate_stride;
    const T *up;
    int64_t up_stride;
    T *dgate;
    int64_t dgate_stride;
    T *dup;
    int64_t dup_stride;
};

constexpr double geglu_k = 0.7978845608028654, geglu_cubic = 0.044715;

}  // namespace

namespace nt_twin {

// act(a), and act'(a) in *slope
template <nt_gate kind> double activation(double a, double *slope) {
    if constexpr (kind == NT_SWIGLU) {
        const double s = 1 / (1 + std::exp(-a));
        *slope = s * (1 + a * (1 - s));
        return a * s;
    } else {
        const double t = std::tanh(geglu_k * (a + geglu_cubic * a * a * a));
        *slope = (1 + t) / 2 + a / 2 * (1 - t * t) * geglu_k * (1 + 3 * geglu_cubic * a * a);
        return a * (1 + t) / 2;
    }
}

template <class T, nt_gate kind> void gated(const Gated<T> &a, int64_t begin, int64_t end) {
    double slope;
    for (int64_t row = begin; row < end; ++row)
        for (int64_t i = 0; i < a.width; ++i) {
            const double f = activation<kind>(get(a.gate[row * a.gate_stride + i]), &slope);
            put(a.h[row * a.h_stride + i], kind == NT_GELU ? f : f * get(a.up[row * a.up_stride + i]));
        }
}

template <class T, nt_gate kind> void gated_backward(const GatedBackward<T> &a, int64_t begin, int64_t end) {
    double slope;
    for (int64_t row = begin; row < end; ++row)
        for (int64_t i = 0; i < a.width; ++i) {
            const double f = activation<kind>(get(a.gate[row * a.gate_stride + i]), &slope);
            const double d = get(a.dh[row * a.dh_stride + i]);
            const double u = kind == NT_GELU ? 1 : get(a.up[row * a.up_stride + i]);
            put(a.dgate[row * a.dgate_stride + i], d * u * slope);
            if (kind != NT_GELU) put(a.dup[row * a.dup_stride + i], d * f);
        }
}

}  // namespace nt_twin

#define NT_BODY "gated.simd.h"
#include "each_isa.h"

NT_DISPATCH(gated)
NT_DISPATCH(gated_backward)

#define NT_ENTRIES(T, S)                                                                                            \
    extern "C" void nt_gated_##S(nt_gate kind, int64_t rows, int64_t width, const T *gate, int64_t gate_stride,     \
                                 const T *up, int64_t up_stride, T *h, int64_t h_stride, nt_parallel parallel) {    \
        const auto range = kind == NT_SWIGLU  ? picked_gated<T, NT_SWIGLU>()                                        \
                           : kind == NT_GEGLU ? picked_gated<T, NT_GEGLU>()                                         \
                                              : picked_gated<T, NT_GELU>();                                         \
        const Gated<T> a{width, gate, gate_stride, up, up_stride, h, h_stride};                                     \
        nt::run(parallel, rows, nt::row_grain(width), range, a);                                                    \
    }                                                                                                               \
    extern "C" void nt_gated_backward_##S(nt_gate kind, int64_t rows, int64_t width, const T *dh,                   \
                                          int64_t dh_stride, const T *gate, int64_t gate_stride, const T *up,       \
                                          int64_t up_stride, T *dgate, int64_t dgate_stride, T *dup,                \
                                          int64_t dup_stride, nt_parallel parallel) {                               \
        const auto range = kind == NT_SWIGLU  ? picked_gated_backward<T, NT_SWIGLU>()                               \
                           : kind == NT_GEGLU ? picked_gated_backward<T, NT_GEGLU>()                                \
                                              : picked_gated_backward<T, NT_GELU>();                                \
        const GatedBackward<T> a{width,     dh,    dh_stride,    gate, gate_stride, up,                             \
                                 up_stride, dgate, dgate_stride, dup,  dup_stride};                                 \
        nt::run(parallel, rows, nt::row_grain(width), range, a);                                                    \
    }

NT_ENTRIES(uint16_t, bf16)
NT_ENTRIES(float, f32)
NT_ENTRIES(double, f64)
