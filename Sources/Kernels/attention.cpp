// Flash attention: the C entries, and the scalar twin, loops straight from the formula with sums in fp64.
#include "attention.h"

#include <cmath>

#include "attention_types.h"
#include "dispatch.h"

using namespace nt_attention_kernels;

// ---- scalar twin -------------------------------------------------------------------------------------------------

namespace nt_attention_kernels::twin {

using nt_twin::get, nt_twin::put;

template <class T> double dot(const T *x, const T *y, int64_t E) {
    double sum = 0;
    for (int64_t e = 0; e < E; ++e) sum += get(x[e]) * get(y[e]);
    return sum;
}

// One key/value head of one document: queries i and keys j are counted from the document's first.
template <class T, class L> struct Unit {
    const nt_attention &a;
    Document document;
    int64_t kv_head, group;
    const T *q;
    int64_t q_stride;
    const T *k;
    int64_t k_stride;
    const T *v;
    int64_t v_stride;

    int64_t E() const { return a.head_dim; }
    int64_t newest(int64_t i) const { return newest_key(a, document, document.past() + i); }
    int64_t oldest(int64_t i) const { return oldest_key(a, document.past() + i); }
    template <class M> M *query_row(M *matrix, int64_t stride, int64_t head, int64_t i) const {
        return matrix + (document.first_query + i) * stride + (kv_head * group + head) * E();
    }
    template <class M> M *key_row(M *matrix, int64_t stride, int64_t j) const {
        return matrix + (document.first_key + j) * stride + kv_head * E();
    }
    L &at(L *lse, int64_t head, int64_t i) const {
        return lse[(kv_head * group + head) * a.starts[a.documents] + document.first_query + i];
    }
    double score(int64_t head, int64_t i, int64_t j) const {
        const double s = a.scale * dot(query_row(q, q_stride, head, i), key_row(k, k_stride, j), E());
        return a.soft_cap > 0 ? a.soft_cap * std::tanh(s / a.soft_cap) : s;
    }
    // d of that by d s.
    double slope(double score) const {
        return a.soft_cap > 0 ? 1 - score / a.soft_cap * (score / a.soft_cap) : 1;
    }

    void forward(T *o, int64_t o_stride, L *lse, int64_t head, int64_t i) const {
        double largest = -INFINITY, sum = 0, out[NT_ATTENTION_LARGEST_HEAD] = {};
        for (int64_t j = oldest(i); j <= newest(i); ++j) largest = std::max(largest, score(head, i, j));
        for (int64_t j = oldest(i); j <= newest(i); ++j) {
            const double p = std::exp(score(head, i, j) - largest);
            const T *value = key_row(v, v_stride, j);
            for (int64_t e = 0; e < E(); ++e) out[e] += p * get(value[e]);
            sum += p;
        }
        T *row = query_row(o, o_stride, head, i);
        for (int64_t e = 0; e < E(); ++e) put(row[e], out[e] / sum);
        at(lse, head, i) = L(largest + std::log(sum));
    }
};

template <class T, class L> struct Backward {
    const T *o;
    int64_t o_stride;
    const L *lse;
    const T *d_o;
    int64_t do_stride;
    T *dq;
    int64_t dq_stride;
    T *dk;
    int64_t dk_stride;
    T *dv;
    int64_t dv_stride;

    struct Pair {
        double p, ds;
    };
    Pair pair(const Unit<T, L> &u, int64_t head, int64_t i, int64_t j) const {
        const T *up = u.query_row(d_o, do_stride, head, i);
        const double D = dot(up, u.query_row(o, o_stride, head, i), u.E());
        const double score = u.score(head, i, j);
        const double p = std::exp(score - double(u.at(const_cast<L *>(lse), head, i)));
        return {p, p * (dot(up, u.key_row(u.v, u.v_stride, j), u.E()) - D) * u.slope(score)};
    }

    void query(const Unit<T, L> &u, int64_t head, int64_t i) const {
        double sum[NT_ATTENTION_LARGEST_HEAD] = {};
        for (int64_t j = u.oldest(i); j <= u.newest(i); ++j) {
            const double ds = pair(u, head, i, j).ds;
            const T *key = u.key_row(u.k, u.k_stride, j);
            for (int64_t e = 0; e < u.E(); ++e) sum[e] += ds * get(key[e]);
        }
        T *row = u.query_row(dq, dq_stride, head, i);
        for (int64_t e = 0; e < u.E(); ++e) put(row[e], u.a.scale * sum[e]);
    }

    void key(const Unit<T, L> &u, int64_t j) const {
        double keys[NT_ATTENTION_LARGEST_HEAD] = {}, values[NT_ATTENTION_LARGEST_HEAD] = {};
        for (int64_t head = 0; head < u.group; ++head)
            for (int64_t i = 0; i < u.document.queries; ++i) {
                if (j < u.oldest(i) || j > u.newest(i)) continue;
                const Pair x = pair(u, head, i, j);
                const T *query = u.query_row(u.q, u.q_stride, head, i), *up = u.query_row(d_o, do_stride, head, i);
                for (int64_t e = 0; e < u.E(); ++e) {
                    keys[e] += x.ds * get(query[e]);
                    values[e] += x.p * get(up[e]);
                }
            }
        T *key_gradient = u.key_row(dk, dk_stride, j), *value_gradient = u.key_row(dv, dv_stride, j);
        for (int64_t e = 0; e < u.E(); ++e) {
            put(key_gradient[e], u.a.scale * keys[e]);
            put(value_gradient[e], values[e]);
        }
    }
};

template <class T, class L, class Visit>
void each_unit(const nt_attention &a, const Inputs<T> &in, nt_parallel parallel, Visit &&visit) {
    run_each(parallel, a.documents * a.kv_heads, [&](int64_t unit) {
        visit(Unit<T, L>{a, document(a, unit / a.kv_heads), unit % a.kv_heads, a.heads / a.kv_heads, in.q, in.q_stride,
                         in.k, in.k_stride, in.v, in.v_stride});
    });
}

}  // namespace nt_attention_kernels::twin

// ---- entries -----------------------------------------------------------------------------------------------------

// Words of two bf16 from level 3 on, in tiles at level 4, else floats.
static Words words_at(int level, int element_bytes) {
    const bool is_bf16 = element_bytes == 2;
    return {level >= 3 && is_bf16 ? 2 : 1, level >= 4 && is_bf16};
}

extern "C" size_t nt_attention_scratch_bytes(const nt_attention *shape, int element_bytes, int backward) {
    const int level = nt_isa_level();
    if (level == 0 || element_bytes == 8) return 0;
    size_t bytes = 0;
    scratch(*shape, words_at(level, element_bytes), backward != 0, nullptr, &bytes);
    return bytes;
}

#if defined(__x86_64__)
#define NT_AT_LEVEL(level, T, call)                             \
    if constexpr (std::is_same_v<T, bf16>) {                    \
        if ((level) >= 4) return amx::call;                     \
        if ((level) >= 3) return avx512bf16::call;              \
    }                                                           \
    if ((level) >= 2) return avx512::call;                      \
    return avx2::call;
#else
#define NT_AT_LEVEL(level, T, call)
#endif

template <class T>
static void pack_at(int level, const nt_attention &a, const Inputs<T> &in, const Scratch &s, int64_t kv_head,
                    int64_t document, int64_t block, int64_t packed_block) {
    NT_AT_LEVEL(level, T, pack(a, in, s, kv_head, document, block, packed_block))
}
template <class T>
static void forward_at(int level, const nt_attention &a, const Inputs<T> &in, const Outputs<T> &out, const Scratch &s,
                       int64_t part) {
    NT_AT_LEVEL(level, T, forward(a, in, out, s, part))
}
template <class T>
static void backward_at(int level, const nt_attention &a, const Inputs<T> &in, const Gradients<T> &g, const Scratch &s,
                        int64_t part) {
    NT_AT_LEVEL(level, T, backward(a, in, g, s, part))
}
template <class T>
static void join_at(int level, const nt_attention &a, const Gradients<T> &g, const Scratch &s, int64_t part) {
    NT_AT_LEVEL(level, T, join(a, g, s, part))
}

// Packs blocks begin ..< end, counted through all documents.
template <class T>
static void pack_blocks(int level, const nt_attention &a, const Inputs<T> &in, const Scratch &s, int64_t begin,
                        int64_t end) {
    int64_t first = 0;
    for (int64_t d = 0; d < a.documents && first < end; ++d) {
        const int64_t blocks = document(a, d).blocks();
        for (int64_t packed = std::max(begin, first); packed < std::min(end, first + blocks); ++packed)
            for (int64_t head = 0; head < a.kv_heads; ++head) pack_at(level, a, in, s, head, d, packed - first, packed);
        first += blocks;
    }
}

template <class T>
static void pack_all(int level, const nt_attention &a, const Inputs<T> &in, const Scratch &s, nt_parallel parallel) {
    run(parallel, s.layout.blocks, 1,
        [&](int64_t begin, int64_t end) { pack_blocks(level, a, in, s, begin, end); });
}

template <class T, class L>
static void forward_entry(const nt_attention &a, const Inputs<T> &in, T *o, int64_t o_stride, L *lse, void *base,
                          nt_parallel parallel) {
    const int level = nt_isa_level();
    if constexpr (!std::is_same_v<T, double>)
        if (level > 0) {
            const Scratch s = scratch(a, words_at(level, sizeof(T)), false, base);
            const Outputs<T> out{o, o_stride, lse};
            pack_all(level, a, in, s, parallel);
            run_each(parallel, a.parts, [&](int64_t part) { forward_at(level, a, in, out, s, part); });
            return;
        }
    twin::each_unit<T, L>(a, in, parallel, [&](const twin::Unit<T, L> &u) {
        for (int64_t head = 0; head < u.group; ++head)
            for (int64_t i = 0; i < u.document.queries; ++i) u.forward(o, o_stride, lse, head, i);
    });
}

template <class T, class L>
static void backward_entry(const nt_attention &a, const Inputs<T> &in, const twin::Backward<T, L> &b, void *base,
                           nt_parallel parallel) {
    const int level = nt_isa_level();
    if constexpr (!std::is_same_v<T, double>)
        if (level > 0) {
            const Scratch s = scratch(a, words_at(level, sizeof(T)), true, base);
            const Gradients<T> g{b.o,  b.o_stride,  b.lse, b.d_o,       b.do_stride, b.dq,
                                 b.dq_stride, b.dk, b.dk_stride, b.dv, b.dv_stride};
            pack_all(level, a, in, s, parallel);
            run_each(parallel, a.parts, [&](int64_t part) { backward_at(level, a, in, g, s, part); });
            run_each(parallel, a.parts, [&](int64_t part) { join_at(level, a, g, s, part); });
            return;
        }
    twin::each_unit<T, L>(a, in, parallel, [&](const twin::Unit<T, L> &u) {
        for (int64_t head = 0; head < u.group; ++head)
            for (int64_t i = 0; i < u.document.queries; ++i) b.query(u, head, i);
        for (int64_t j = 0; u.document.queries > 0 && j < u.document.keys; ++j) b.key(u, j);
    });
}

#define NT_ENTRIES(T, L, S)                                                                                           \
    extern "C" void nt_attention_forward_##S(const nt_attention *shape, const T *q, int64_t q_stride, const T *k,     \
                                             int64_t k_stride, const T *v, int64_t v_stride, T *o, int64_t o_stride,  \
                                             L *lse, void *scratch, nt_parallel parallel) {                           \
        const Inputs<T> in{q, q_stride, k, k_stride, v, v_stride};                                                    \
        forward_entry<T, L>(*shape, in, o, o_stride, lse, scratch, parallel);                                         \
    }                                                                                                                 \
    extern "C" void nt_attention_backward_##S(                                                                        \
        const nt_attention *shape, const T *q, int64_t q_stride, const T *k, int64_t k_stride, const T *v,            \
        int64_t v_stride, const T *o, int64_t o_stride, const L *lse, const T *d_o, int64_t do_stride, T *dq,         \
        int64_t dq_stride, T *dk, int64_t dk_stride, T *dv, int64_t dv_stride, void *scratch, nt_parallel parallel) { \
        const Inputs<T> in{q, q_stride, k, k_stride, v, v_stride};                                                    \
        backward_entry<T, L>(*shape, in,                                                                              \
                             {o, o_stride, lse, d_o, do_stride, dq, dq_stride, dk, dk_stride, dv, dv_stride},         \
                             scratch, parallel);                                                                      \
    }

NT_ENTRIES(float, float, f32)
NT_ENTRIES(bf16, float, bf16)
NT_ENTRIES(double, double, f64)
