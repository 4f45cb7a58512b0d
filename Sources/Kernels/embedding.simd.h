// The gradient of an embedding table on vectors. Compiled per instruction set by embedding.cpp.

template <class T> void scatter(const Scatter<T> &a, int64_t begin, int64_t end) {
    const F scale = set(a.scale);
    for (int64_t segment = begin; segment < end; ++segment) {
        const int32_t *first = a.order + a.starts[segment], *last = a.order + a.starts[segment + 1];
        float *row = a.dtable + a.ids[*first] * a.table_stride;
        for (const int32_t *n = first; n < last; ++n) {
            const T *dx = a.dx + *n * a.dx_stride;
            each(a.width, [&](int64_t i, auto part, auto) NT_LAMBDA {
                store(row + i, fma(scale, load(dx + i, part), load(row + i, part)), part);
            });
        }
    }
}
