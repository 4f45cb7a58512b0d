// Cross-entropy on vectors. Compiled per instruction set by loss.cpp.

// What one pass over a row finds: the largest l, sum e^(l - most), sum l, and the block that holds the first largest.
struct RowScan {
    float most;
    double sum, total;
    int64_t block;
};
constexpr int64_t block_width = 1024;

template <bool with_cap> NT_INLINE F cap_logit(F u, F cap, F inverse) {
    if constexpr (with_cap) return cap * tanh(u * inverse);
    else return u;
}

// Block by block: first its largest l, then its exponentials from the first-level cache, so that the maximum of the
// whole row is corrected once a block and not once a vector.
template <class T, bool with_cap> NT_INLINE RowScan scan_row(const T *u, int64_t count, float soft_cap) {
    alignas(64) float kept[block_width];
    const F cap = set(soft_cap), inverse = set(1.0f / soft_cap), lowest = set(-FLT_MAX);
    RowScan scan{-FLT_MAX, 0, 0, 0};
    for (int64_t start = 0; start < count; start += block_width) {
        const int64_t width = std::min(block_width, count - start);
        Four most{{lowest, lowest, lowest, lowest}}, total{}, sums{};
        each(width, [&](int64_t i, auto part, auto slot) NT_LAMBDA {
            const F l = cap_logit<with_cap>(load(u + start + i, part), cap, inverse);
            total.at[slot] += first(l, part);
            const F filled = first_or(l, set(-INFINITY), part);
            store(kept + i, filled, Full{});
            most.at[slot] = max(most.at[slot], filled);
        });
        const float here = largest(most);
        if (here > scan.most) {
            scan.sum *= std::exp(double(scan.most) - double(here));
            scan.most = here;
            scan.block = start;
        }
        const F offset = set(scan.most);
        each((width + lanes - 1) / lanes * lanes, [&](int64_t i, auto part, auto slot) NT_LAMBDA {
            sums.at[slot] += exp(load(kept + i, part) - offset);
        });
        scan.sum += double(sum(sums));
        scan.total += double(sum(total));
    }
    return scan;
}

template <class T, bool with_cap> NT_INLINE void cross_entropy_row(const CrossEntropy<T> &a, int64_t row) {
    const nt_cross_entropy_options &o = a.options;
    T *u = a.logits + row * a.stride;
    const int64_t label = a.labels[row], V = a.vocabulary;
    const RowScan scan = scan_row<T, with_cap>(u, V, float(o.soft_cap));
    const double z = double(scan.most) + std::log(scan.sum), f = double(a.factors[row]);
    const double l_y = capped(nt_twin::get(u[label]), o.soft_cap);  // before the row is overwritten
    a.row_losses[row] = row_loss(o, f, z, l_y, scan.total / double(V));
    const double target = 1 - o.label_smoothing + o.label_smoothing / double(V);
    const double du_y = f * (std::exp(l_y - z) * (1 + 2 * o.z_loss * z) - target) * cap_slope(l_y, o.soft_cap);

    const F cap = set(float(o.soft_cap)), inverse = set(float(1 / o.soft_cap)), most = set(scan.most);
    const F scale_p = set(float(f * (1 + 2 * o.z_loss * z) / scan.sum));
    const F uniform = set(float(-f * o.label_smoothing / double(V)));
    each(V, [&](int64_t i, auto part, auto) NT_LAMBDA {
        const F l = cap_logit<with_cap>(load(u + i, part), cap, inverse);
        F d = fma(exp(l - most), scale_p, uniform);
        if constexpr (with_cap) {
            const F t = l * inverse;
            d = d * fnma(t, t, set(1.0f));
        }
        store(u + i, d, part);
    });
    nt_twin::put(u[label], du_y);
}

template <class T> void cross_entropy(const CrossEntropy<T> &a, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        if (a.labels[row] < 0) {
            memset(a.logits + row * a.stride, 0, size_t(a.vocabulary) * sizeof(T));
            a.row_losses[row] = 0;
        } else if (a.options.soft_cap > 0) {
            cross_entropy_row<T, true>(a, row);
        } else {
            cross_entropy_row<T, false>(a, row);
        }
    }
}

// The first index in a block whose l is `most`.
template <class T, bool with_cap>
NT_INLINE int64_t first_index(const T *u, int64_t start, int64_t count, float soft_cap, float most) {
    alignas(64) float kept[block_width];
    const F cap = set(soft_cap), inverse = set(1.0f / soft_cap);
    const int64_t width = std::min(block_width, count - start);
    each(width, [&](int64_t i, auto part, auto) NT_LAMBDA {
        store(kept + i, cap_logit<with_cap>(load(u + start + i, part), cap, inverse), Full{});
    });
    for (int64_t i = 0; i < width; ++i)
        if (kept[i] == most) return start + i;
    return start;
}

template <class T, bool with_cap> NT_INLINE void log_probability_row(const LogProbabilities<T> &a, int64_t row) {
    const T *u = a.logits + row * a.stride;
    const float cap = float(a.soft_cap);
    const RowScan scan = scan_row<T, with_cap>(u, a.vocabulary, cap);
    const double z = double(scan.most) + std::log(scan.sum);
    if (a.log_sums) a.log_sums[row] = float(z);
    if (a.largest) a.largest[row] = first_index<T, with_cap>(u, scan.block, a.vocabulary, cap, scan.most);
    if (!a.log_probabilities) return;
    const int64_t label = a.labels[row];
    a.log_probabilities[row] = label < 0 ? 0 : float(capped(nt_twin::get(u[label]), a.soft_cap) - z);
}

template <class T> void log_probabilities(const LogProbabilities<T> &a, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        if (a.soft_cap > 0) log_probability_row<T, true>(a, row);
        else log_probability_row<T, false>(a, row);
    }
}
