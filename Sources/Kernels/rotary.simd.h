// Rotary positions on vectors: the cosines and sines of a token stay in registers for all its heads. Compiled per
// instruction set by rotary.cpp.

/// One vector of pairs of each head: x1 from both, x2 half a rotary width behind.
template <class T, class Part>
NT_INLINE void rotate(const Side<T> &side, int64_t token, int64_t i, int64_t head_width, int64_t half, F c, F s, Part part) {
    const T *x = side.x + token * side.x_stride + i;
    T *to = side.to + token * side.to_stride + i;
    for (int64_t head = 0; head < side.heads; ++head, x += head_width, to += head_width) {
        const F x1 = load(x, part), x2 = load(x + half, part);
        store(to, fnma(x2, s, x1 * c), part);
        store(to + half, fma(x1, s, x2 * c), part);
    }
}

/// What lies beyond the rotary width, where `to` is not x.
template <class T> NT_INLINE void copy_rest(const Side<T> &side, int64_t token, int64_t head_width, int64_t rotary_width) {
    const T *x = side.x + token * side.x_stride;
    T *to = side.to + token * side.to_stride;
    if (rotary_width == head_width || x == to) return;
    for (int64_t head = 0; head < side.heads; ++head, x += head_width, to += head_width)
        memcpy(to + rotary_width, x + rotary_width, size_t(head_width - rotary_width) * sizeof(T));
}

template <class T> void rotary(const Rotary<T> &a, int64_t begin, int64_t end) {
    const int64_t half = a.rotary_width / 2;
    for (int64_t token = begin; token < end; ++token) {
        const float *cosine = a.cosine + a.positions[token] * half, *sine = a.sine + a.positions[token] * half;
        each(half, [&](int64_t i, auto part, auto) NT_LAMBDA {
            const F c = load(cosine + i, part), s = load(sine + i, part) * set(a.sign);
            for (const Side<T> &side : a.sides) rotate(side, token, i, a.head_width, half, c, s, part);
        });
        for (const Side<T> &side : a.sides) copy_rest(side, token, a.head_width, a.rotary_width);
    }
}
