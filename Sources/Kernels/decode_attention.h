// Part of decode_body.h: attention of one token to a piece of its keys.
// G query heads, E head dimension

/// Query heads of one key/value head that are served together, so that a key and a value are read once for them.
constexpr int kHeads = 4;

/// out[g][s] = scale q[g] . k[s] for G query heads, up to the next multiple of four of keys. The values of the same slots
/// are asked for meanwhile: a head's slice of a slot is a line or two, which no prefetcher of the processor foresees.
template <class T, int G>
inline void scores(const AttentionTask &task, const float *q, float (*out)[kKeys]) {
    const T *keys = (const T *)task.keys, *values = (const T *)task.values;
    const int64_t E = task.head_dim, line = 64 / int64_t(sizeof(T));
    const auto ask = [&](const T *from, int64_t s) {
        if (s < task.count)
            for (int64_t e = 0; e < E; e += line) _mm_prefetch((const char *)(from + s * task.stride + e), _MM_HINT_T0);
    };
    for (int64_t s = 0; s < task.count; s += 4) {
        // Past the end the last key stands in; what it gives is not looked at.
        const T *k[4];
        for (int64_t j = 0; j < 4; ++j) {
            k[j] = keys + (s + j < task.count ? s + j : task.count - 1) * task.stride;
            ask(keys, s + j + 16);
            ask(values, s + j);
        }
        Vec sums[G][4];
        for (int g = 0; g < G; ++g)
            for (int j = 0; j < 4; ++j) sums[g][j] = zero();
        const auto step = [&](int64_t e, auto &&read) {
            Vec v[4];
            for (int j = 0; j < 4; ++j) v[j] = read(k[j] + e);
            for (int g = 0; g < G; ++g) {
                const Vec x = read(q + g * E + e);
                for (int j = 0; j < 4; ++j) sums[g][j] = fma(x, v[j], sums[g][j]);
            }
        };
        int64_t e = 0;
        for (; e + L <= E; e += L) step(e, [](auto *p) { return load(p); });
        if (e < E) step(e, [&](auto *p) { return load_part(p, E - e); });
        for (int g = 0; g < G; ++g) store_sums(sums[g], task.scale, out[g] + s);
    }
}

/// p = e^(p - max) of `count` scores, zeros behind them up to a whole vector; the largest and the sum.
inline void exponentials(float *p, int64_t count, float *largest_and_sum) {
    const int64_t end = rounded_up(count, L);
    for (int64_t s = count; s < end; ++s) p[s] = -INFINITY;
    Vec most = load(p), total = zero();
    for (int64_t s = L; s < end; s += L) most = max(most, load(p + s));
    const float top = largest(most);
    for (int64_t s = 0; s < end; s += L) {
        const Vec e = exponential(sub(load(p + s), set1(top)));
        store(p + s, e);
        total = add(total, e);
    }
    largest_and_sum[0] = top;
    largest_and_sum[1] = sum(total);
}

/// out[g], elements e ..< e + chunks L, = sum over keys of p[g][s] v[s]; of the last chunk the first `lanes`.
template <class T, int G, int chunks>
inline void weighted_chunks(
    const AttentionTask &task, const float (*p)[kKeys], int64_t e, int64_t lanes, float *out, int64_t out_stride) {
    const T *values = (const T *)task.values + e;
    Vec sums[G][chunks];
    for (int g = 0; g < G; ++g)
        for (int c = 0; c < chunks; ++c) sums[g][c] = zero();
    for (int64_t s = 0; s < task.count; ++s)
        for (int c = 0; c < chunks; ++c) {
            const T *at = values + s * task.stride + c * L;
            const Vec v = c < chunks - 1 || lanes == L ? load(at) : load_part(at, lanes);
            for (int g = 0; g < G; ++g) sums[g][c] = fma(set1(p[g][s]), v, sums[g][c]);
        }
    for (int g = 0; g < G; ++g)
        for (int c = 0; c < chunks; ++c) {
            float *to = out + g * out_stride + e + c * L;
            if (c < chunks - 1 || lanes == L)
                store(to, sums[g][c]);
            else
                store_part(to, sums[g][c], lanes);
        }
}

template <class T, int G>
inline void weighted_values(const AttentionTask &task, const float (*p)[kKeys], float *out, int64_t out_stride) {
    constexpr int chunks = NT_WIDE ? 4 : 2;  // as many chains of sums as registers hold
    const int64_t E = task.head_dim;
    int64_t e = 0;
    for (; e + chunks * L <= E; e += chunks * L) weighted_chunks<T, G, chunks>(task, p, e, L, out, out_stride);
    for (; e < E; e += L) weighted_chunks<T, G, 1>(task, p, e, E - e < L ? E - e : L, out, out_stride);
}

template <class T>
inline void attend_as(const AttentionTask &task) {
    const int64_t E = task.head_dim;
    for (int64_t first = 0; first < task.group; first += kHeads)
        with_rows(task.group - first < kHeads ? task.group - first : kHeads, [&](auto heads) {
            constexpr int G = decltype(heads)::value;
            alignas(64) float p[G][kKeys];
            const float *q = task.q + first * E;
            float *out = task.out + first * (E + 2);
#if NT_WIDE
            scores<T, G>(task, q, p);
#else
            // Sixteen registers hold the sums of one head.
            for (int g = 0; g < G; ++g) scores<T, 1>(task, q + g * E, p + g);
#endif
            for (int g = 0; g < G; ++g) {
                if (task.cap > 0) cap(p[g], task.count, task.cap);
                exponentials(p[g], task.count, out + g * (E + 2) + E);
            }
            weighted_values<T, G>(task, p, out, E + 2);
        });
}

inline void attend(const AttentionTask &task) {
    if (task.type == NT_BF16)
        attend_as<uint16_t>(task);
    else
        attend_as<float>(task);
}
