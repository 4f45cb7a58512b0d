// SwiGLU, GeGLU and GELU on vectors. Compiled per instruction set by gated.cpp.

// act(x), and act'(x) in *slope
template <nt_gate kind> NT_INLINE F activation(F x, F *slope) {
    const F one = set(1.0f);
    if constexpr (kind == NT_SWIGLU) {
        const F s = sigmoid(x), f = x * s;
        *slope = fma(f, one - s, s);
        return f;
    } else {
        // (1 + tanh z) / 2 = sigmoid(2 z)
        const F square = x * x;
        const F s = sigmoid(x * fma(square, set(float(2 * geglu_k * geglu_cubic)), set(float(2 * geglu_k))));
        const F f = x * s;
        *slope = fma(f * (one - s), fma(square, set(float(6 * geglu_k * geglu_cubic)), set(float(2 * geglu_k))), s);
        return f;
    }
}

template <class T, nt_gate kind> void gated(const Gated<T> &a, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const T *gate = a.gate + row * a.gate_stride, *up = kind == NT_GELU ? nullptr : a.up + row * a.up_stride;
        T *h = a.h + row * a.h_stride;
        each(a.width, [&](int64_t i, auto part, auto) NT_LAMBDA {
            F slope;
            const F f = activation<kind>(load(gate + i, part), &slope);
            if constexpr (kind == NT_GELU) store(h + i, f, part);
            else store(h + i, f * load(up + i, part), part);
        });
    }
}

template <class T, nt_gate kind> void gated_backward(const GatedBackward<T> &a, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const T *dh = a.dh + row * a.dh_stride, *gate = a.gate + row * a.gate_stride;
        const T *up = kind == NT_GELU ? nullptr : a.up + row * a.up_stride;
        T *dgate = a.dgate + row * a.dgate_stride, *dup = kind == NT_GELU ? nullptr : a.dup + row * a.dup_stride;
        each(a.width, [&](int64_t i, auto part, auto) NT_LAMBDA {
            F slope;
            const F d = load(dh + i, part), f = activation<kind>(load(gate + i, part), &slope);
            if constexpr (kind == NT_GELU) {
                store(dgate + i, d * slope, part);
            } else {
                const F u = load(up + i, part);
                store(dgate + i, d * u * slope, part);
                store(dup + i, d * f, part);
            }
        });
    }
}
