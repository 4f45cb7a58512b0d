// Rotary positions on vectors: the cosines and sines of a token stay in registers for all its heads. Compiled per
// instruction set by rotary.cpp.

template <class T, class Part>
NT_INLINE void rotate(T *x, int64_t heads, int64_t head_width, int64_t half, F c, F s, Part part) {
    for (int64_t head = 0; head < heads; ++head, x += head_width) {
        const F x1 = load(x, part), x2 = load(x + half, part);
        store(x, fnma(x2, s, x1 * c), part);
        store(x + half, fma(x1, s, x2 * c), part);
    }
}

template <class T> void rotary(const Rotary<T> &a, int64_t begin, int64_t end) {
    const int64_t half = a.rotary_width / 2;
    for (int64_t token = begin; token < end; ++token) {
        const float *cosine = a.cosine + a.positions[token] * half, *sine = a.sine + a.positions[token] * half;
        each(half, [&](int64_t i, auto part, auto) NT_LAMBDA {
            const F c = load(cosine + i, part), s = load(sine + i, part) * set(a.sign);
            rotate(a.q + token * a.q_stride + i, a.heads, a.head_width, half, c, s, part);
            rotate(a.k + token * a.k_stride + i, a.kv_heads, a.head_width, half, c, s, part);
        });
    }
}
