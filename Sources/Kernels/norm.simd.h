// RMSNorm and LayerNorm on vectors: a row is read from memory once and stays in the first-level cache for its second
// pass. Compiled per instruction set by norm.cpp.

template <class Part> NT_INLINE F norm_weight(const float *weight, F offset, int64_t i, Part part) {
    return weight ? load(weight + i, part) + offset : set(1.0f);
}

template <class T, bool centered> NT_INLINE void norm_row(const Norm<T> &a, int64_t row, const T *s) {
    const F mean = set(centered ? a.mean[row] : 0.0f), r = set(a.r[row]), offset = set(a.offset);
    T *y = a.y + row * a.y_stride;
    each(a.width, [&](int64_t i, auto part, auto) NT_LAMBDA {
        const F x = centered ? load(s + i, part) - mean : load(s + i, part);
        const F scaled = x * r * norm_weight(a.weight, offset, i, part);
        store(y + i, a.bias ? scaled + load(a.bias + i, part) : scaled, part);
    });
}

template <class T, bool centered> void norm_forward(const Norm<T> &a, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const T *s = a.x + row * a.x_stride;
        Four sums{}, squares{};
        if (a.residual) {
            const T *residual = a.residual + row * a.residual_stride;
            T *sum = a.sum + row * a.sum_stride;
            each(a.width, [&](int64_t i, auto part, auto slot) NT_LAMBDA {
                store(sum + i, load(s + i, part) + load(residual + i, part), part);
                const F x = load(sum + i, part);  // as rounded: backward sees only that
                if constexpr (centered) sums.at[slot] += x;
                else squares.at[slot] = fma(x, x, squares.at[slot]);
            });
            s = sum;
        } else {
            each(a.width, [&](int64_t i, auto part, auto slot) NT_LAMBDA {
                const F x = load(s + i, part);
                if constexpr (centered) sums.at[slot] += x;
                else squares.at[slot] = fma(x, x, squares.at[slot]);
            });
        }
        if constexpr (centered) {
            const float average = sum(sums) / float(a.width);
            const F mean = set(average);
            each(a.width, [&](int64_t i, auto part, auto slot) NT_LAMBDA {
                const F x = first(load(s + i, part) - mean, part);
                squares.at[slot] = fma(x, x, squares.at[slot]);
            });
            a.mean[row] = average;
        }
        a.r[row] = 1.0f / std::sqrt(sum(squares) / float(a.width) + a.epsilon);
        norm_row<T, centered>(a, row, s);
    }
}

template <class T, bool centered> void norm_again(const Norm<T> &a, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) norm_row<T, centered>(a, row, a.x + row * a.x_stride);
}

template <class T, bool centered>
NT_INLINE void norm_backward_row(const NormBackward<T> &a, int64_t row, float *dw, float *db) {
    const T *dy = a.dy + row * a.dy_stride, *s = a.s + row * a.s_stride;
    const T *ds = a.ds ? a.ds + row * a.ds_stride : nullptr;
    T *dx = a.dx + row * a.dx_stride;
    const F r = set(a.r[row]), mean = set(centered ? a.mean[row] : 0.0f), offset = set(a.offset);
    Four sum_g{}, sum_gx{};
    each(a.width, [&](int64_t i, auto part, auto slot) NT_LAMBDA {
        const F g = load(dy + i, part) * norm_weight(a.weight, offset, i, part);  // 0 past the end
        if constexpr (centered) sum_g.at[slot] += g;
        sum_gx.at[slot] = fma(g, load(s + i, part) - mean, sum_gx.at[slot]);
    });
    const F mean_g = set(centered ? sum(sum_g) / float(a.width) : 0.0f);
    const F mean_gx = set(sum(sum_gx) * a.r[row] / float(a.width));
    each(a.width, [&](int64_t i, auto part, auto) NT_LAMBDA {
        const F y = load(dy + i, part), xhat = (load(s + i, part) - mean) * r;
        const F g = y * norm_weight(a.weight, offset, i, part);
        if (dw) store(dw + i, fma(y, xhat, load(dw + i, part)), part);
        if constexpr (centered) {
            if (db) store(db + i, y + load(db + i, part), part);
        }
        const F inner = fnma(xhat, mean_gx, centered ? g - mean_g : g);
        store(dx + i, ds ? fma(r, inner, load(ds + i, part)) : r * inner, part);
    });
}

template <class T, bool centered> void norm_backward(const NormBackward<T> &a, int64_t begin, int64_t end) {
    const int64_t rows = block_rows(a.rows);
    for (int64_t block = begin; block < end; ++block) {
        float *dw = a.scratch ? partial<float>(a.scratch, block, a.width) : nullptr;
        float *db = dw ? dw + a.width : nullptr;
        if (dw) std::fill(dw, dw + 2 * a.width, 0.0f);
        for (int64_t row = block * rows; row < std::min(a.rows, (block + 1) * rows); ++row)
            norm_backward_row<T, centered>(a, row, dw, db);
    }
}

template <class T> void norm_collect(const NormBackward<T> &a, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        float dw = 0, db = 0;
        for (int64_t block = 0; block < block_count(a.rows); ++block) {
            dw += partial<float>(a.scratch, block, a.width)[i];
            db += partial<float>(a.scratch, block, a.width)[a.width + i];
        }
        if (a.dweight) a.dweight[i] += dw;
        if (a.dbias) a.dbias[i] += db;
    }
}
