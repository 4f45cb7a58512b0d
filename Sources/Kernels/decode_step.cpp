// Generation: a decoder's whole step.
// n rows (tokens), D hidden size, H query heads, K key/value heads, E head dimension, F MLP width
#include "decode.h"

#include <optional>

#include "decode_work.h"
#include "team.h"

using namespace nt;

namespace {

/// The memory of a step of n tokens.
struct StepSpace {
    float *x, *norm, *branch, *q, *k, *v, *mixed, *gate, *up;
    int64_t *lengths;
    void *packed, *attention;
    StepSpace(Arena &arena, const DecodeKernels &kernels, const nt_decoder &d, int64_t n, int64_t longest)
        : x(arena.floats(n * d.hidden)), norm(arena.floats(n * d.hidden)), branch(arena.floats(n * d.hidden)),
          q(arena.floats(n * d.heads * d.head_dim)), k(arena.floats(n * d.kv_heads * d.head_dim)),
          v(arena.floats(n * d.kv_heads * d.head_dim)),
          mixed(arena.floats(n * d.heads * d.head_dim)), gate(arena.floats(n * d.mlp)), up(arena.floats(n * d.mlp)),
          lengths((int64_t *)arena.take(size_t(8 * n))) {
        // Any packing of any of the layers' inputs, one at a time.
        const int64_t widest = std::max({d.hidden, d.heads * d.head_dim, d.mlp});
        size_t bytes = 64;
        for (Packing packing : {Packing::floats, Packing::pairs, Packing::bytes})
            bytes += kernels.packed_bytes(packing, widest, n) + 64;
        packed = arena.take(bytes);
        const int64_t pieces = n * Span(longest, 0).pieces;
        attention = arena.take(size_t(8 * (n + 1) + 256 + 4 * pieces * d.heads * (d.head_dim + 2)));
    }
};

int64_t longest_of(const nt_decoder_batch &batch) {
    int64_t longest = 1;
    for (int64_t t = 0; t < batch.count; ++t) longest = std::max(longest, batch.positions[t] + 1);
    return longest;
}

/// Rotates the first R numbers of the heads [count, E] of one token: halves (a, b) to (a cos - b sin, b cos + a sin).
void rotate(float *heads, int64_t count, int64_t E, int64_t R, const float *cosines, const float *sines) {
    for (int64_t h = 0; h < count; ++h, heads += E)
        for (int64_t e = 0; e < R / 2; ++e) {
            const float a = heads[e], b = heads[e + R / 2];
            heads[e] = a * cosines[e] - b * sines[e];
            heads[e + R / 2] = b * cosines[e] + a * sines[e];
        }
}

void write_slot(const float *values, int64_t count, int32_t type, void *cache, int64_t at) {
    if (type == NT_BF16)
        for (int64_t i = 0; i < count; ++i) ((uint16_t *)cache)[at + i] = rounded(values[i]);
    else
        memcpy((float *)cache + at, values, size_t(4 * count));
}

/// Tokens first ..< first + n of a batch through all layers. The rows of every product are shared out; what lies between
/// two of them, some microseconds, is done by whichever thread comes last, while the others ask for the next weights.
class Step {
  public:
    Step(const nt_decoder &d, const nt_decoder_batch &batch, int64_t first, int64_t n, void *scratch,
         nt_parallel parallel)
        : d_(d), batch_(batch), first_(first), n_(n), kernels_(kernels()), arena_(scratch),
          s_(arena_, kernels_, d, n, longest_of(batch)), parallel_(parallel) {}

    void run() {
        for (int64_t t = 0; t < n_; ++t) {
            embed(first_ + t, s_.x + t * d_.hidden);
            s_.lengths[t] = batch_.positions[first_ + t] + 1;
        }
        find_outputs();
        prepare(0);
        Team::run(parallel_, [&](Team::Member &me) {
            for (int64_t i = 0; i < d_.layer_count; ++i) {
                attention(me, d_.layers[i], i);
                mlp(me, d_.layers[i], i);
            }
            if (outputs_ > 0) score(me);
        });
    }

  private:
    using Weights = std::initializer_list<const nt_weight *>;

    Packed packed(Weights weights, int64_t n) const {
        Arena arena(s_.packed);
        return Packed(arena, kernels_, weights, n);
    }

    void multiply(Team::Member &me, const Packed &x, int64_t n, Products products) const {
        me.share(tiles(products),
                 [&](int64_t begin, int64_t end) { nt::multiply(kernels_, x, n, products, begin, end); });
    }

    /// This member's first rows of weights that are multiplied together after the next meetings.
    void foresee(Team::Member &me, Weights weights) const {
        int64_t total = 0;
        for (const nt_weight *w : weights) total += tiles(w->rows);
        int64_t tile = me.first_piece(total);
        for (const nt_weight *w : weights) {
            if (tile < tiles(w->rows)) {
                const uint8_t *at = row_of(*w, tile * kTileRows);
                return me.foresee(at, row_of(*w, w->rows) - at);
            }
            tile -= tiles(w->rows);
        }
    }

    // What lies between products: by one thread.

    void embed(int64_t token, float *x) {
        nt_weight_row(&d_.table, batch_.ids[token], x);
        if (d_.table_scale != 1)
            for (int64_t i = 0; i < d_.hidden; ++i) x[i] *= d_.table_scale;
        if (d_.positions.rows == 0) return;
        nt_weight_row(&d_.positions, batch_.positions[token], s_.norm);
        for (int64_t i = 0; i < d_.hidden; ++i) x[i] += s_.norm[i];
    }

    void normalize(const nt_norm &norm, const float *x, int64_t width, float *out) const {
        if (norm.bias)
            kernels_.layer_norm(x, norm.weight, norm.bias, width, d_.epsilon, out);
        else
            kernels_.rms_norm(x, norm.weight, width, d_.epsilon, out);
    }

    /// The input of products: x, normalised where the block does so.
    void take_input(Weights weights, const nt_norm &norm) {
        const int64_t D = d_.hidden;
        if (norm.weight)
            for (int64_t t = 0; t < n_; ++t) normalize(norm, s_.x + t * D, D, s_.norm + t * D);
        packed(weights, n_).fill(norm.weight ? s_.norm : s_.x, D);
    }

    /// x += what attention or the MLP has left in `branch`.
    void add_branch(const nt_norm &norm) {
        for (int64_t t = 0; t < n_; ++t) {
            float *x = s_.x + t * d_.hidden, *branch = s_.branch + t * d_.hidden;
            if (norm.weight) normalize(norm, branch, d_.hidden, branch);
            for (int64_t i = 0; i < d_.hidden; ++i) x[i] += branch[i];
        }
    }

    /// The input of a layer's first product, or of the head's after the last layer.
    void prepare(int64_t layer) {
        if (layer < d_.layer_count) {
            const nt_decoder_layer &l = d_.layers[layer];
            return take_input({&l.q, &l.k, &l.v}, l.input_norm);
        }
        const int64_t *rows = batch_.outputs + first_output_;
        for (int64_t j = 0; j < outputs_; ++j)
            normalize(d_.final_norm, s_.x + (rows[j] - first_) * d_.hidden, d_.hidden, s_.norm + j * d_.hidden);
        packed({&d_.head}, outputs_).fill(s_.norm, d_.hidden);
    }

    void normalize_heads(float *heads, int64_t count, const nt_norm &norm) {
        if (!norm.weight) return;
        const int64_t width = d_.norms_all_heads ? count * d_.head_dim : d_.head_dim;
        for (float *end = heads + count * d_.head_dim; heads < end; heads += width) normalize(norm, heads, width, heads);
    }

    /// Turns queries and keys and writes the cache.
    void fill_cache(const nt_decoder_layer &l, void *keys, void *values) {
        const int64_t E = d_.head_dim, Q = d_.heads * E, KV = d_.kv_heads * E, R = d_.rotary;
        for (int64_t t = 0; t < n_; ++t) {
            const int64_t position = batch_.positions[first_ + t];
            normalize_heads(s_.q + t * Q, d_.heads, l.query_norm);
            normalize_heads(s_.k + t * KV, d_.kv_heads, l.key_norm);
            if (R > 0) {
                const nt_rotation &turn = d_.rotations[l.rotation];
                const float *cosines = turn.cosines + position * (R / 2), *sines = turn.sines + position * (R / 2);
                rotate(s_.q + t * Q, d_.heads, E, R, cosines, sines);
                rotate(s_.k + t * KV, d_.kv_heads, E, R, cosines, sines);
            }
            const int64_t at = (batch_.sequences[first_ + t] * batch_.slots + position) * KV;
            write_slot(s_.k + t * KV, KV, batch_.cache_type, keys, at);
            write_slot(s_.v + t * KV, KV, batch_.cache_type, values, at);
        }
    }

    // The stages: by all threads.

    void attention(Team::Member &me, const nt_decoder_layer &l, int64_t layer) {
        const int64_t E = d_.head_dim, Q = d_.heads * E, KV = d_.kv_heads * E;
        multiply(me, packed({&l.q, &l.k, &l.v}, n_), n_, {{&l.q, s_.q, Q}, {&l.k, s_.k, KV}, {&l.v, s_.v, KV}});
        foresee(me, {&l.o});
        me.meet([&] {
            void *keys = batch_.keys[layer], *values = batch_.values[layer];
            fill_cache(l, keys, values);
            attention_.emplace(s_.q, Q, nt_cache{keys, values, batch_.cache_type, batch_.slots},
                               batch_.sequences + first_, s_.lengths, n_, d_.heads, d_.kv_heads, E, l.window, d_.scale,
                               d_.score_cap, s_.attention);
        });
        me.share(attention_->tasks(), [&](int64_t begin, int64_t end) { attention_->attend(kernels_, begin, end); });
        const Packed mixed = packed({&l.o}, n_);
        me.meet([&] {
            attention_->join(s_.mixed, Q);
            mixed.fill(s_.mixed, Q);
        });
        // Into x, unless it is normalised first or the MLP reads x without it.
        const bool apart = l.attention_norm.weight || d_.is_parallel;
        multiply(me, mixed, n_, {{&l.o, apart ? s_.branch : s_.x, d_.hidden, !apart}});
        foresee(me, {l.gate.rows > 0 ? &l.gate : &l.up});
        me.meet([&] {
            if (apart && !d_.is_parallel) add_branch(l.attention_norm);
            take_input({&l.gate, &l.up}, l.mlp_input_norm);
            if (d_.is_parallel) add_branch(l.attention_norm);
        });
    }

    void mlp(Team::Member &me, const nt_decoder_layer &l, int64_t layer) {
        // Gate and up rows of the same outputs in the same thread, so that their product is taken right there.
        const Packed x = packed({&l.gate, &l.up}, n_);
        me.share(tiles(d_.mlp), [&](int64_t begin, int64_t end) {
            const int64_t from = begin * kTileRows, to = std::min(end * kTileRows, d_.mlp);
            const bool gated = l.gate.rows > 0;
            if (gated) kernels_.rows(l.gate, x.of(l.gate), n_, from, to, s_.gate + from, d_.mlp, false);
            kernels_.rows(l.up, x.of(l.up), n_, from, to, s_.up + from, d_.mlp, false);
            for (int64_t t = 0; t < n_; ++t) {
                float *gate = s_.gate + t * d_.mlp + from;
                kernels_.activate(d_.activation, gated ? gate : nullptr, s_.up + t * d_.mlp + from, to - from, gate);
            }
        });
        foresee(me, {&l.down});
        const Packed h = packed({&l.down}, n_);
        me.meet([&] { h.fill(s_.gate, d_.mlp); });
        const bool apart = l.mlp_norm.weight;
        multiply(me, h, n_, {{&l.down, apart ? s_.branch : s_.x, d_.hidden, !apart}});
        if (layer + 1 < d_.layer_count) {
            const nt_decoder_layer &next = d_.layers[layer + 1];
            foresee(me, {&next.q, &next.k, &next.v});
        } else {
            foresee(me, {&d_.head});
        }
        me.meet([&] {
            if (apart) add_branch(l.mlp_norm);
            prepare(layer + 1);
        });
    }

    /// Logits of the wanted tokens, capped by whoever has multiplied them.
    void score(Team::Member &me) const {
        const Packed x = packed({&d_.head}, outputs_);
        float *logits = batch_.logits + first_output_ * d_.vocabulary;
        me.share(tiles(d_.head.rows), [&](int64_t begin, int64_t end) {
            const int64_t from = begin * kTileRows, to = std::min(end * kTileRows, d_.head.rows);
            kernels_.rows(d_.head, x.of(d_.head), outputs_, from, to, logits + from, d_.vocabulary, false);
            for (int64_t j = 0; d_.logit_cap > 0 && j < outputs_; ++j)
                kernels_.cap(logits + j * d_.vocabulary + from, to - from, d_.logit_cap);
        });
    }

    void find_outputs() {
        const int64_t *all = batch_.outputs, *last = all + batch_.output_count;
        const int64_t *begin = std::lower_bound(all, last, first_);
        first_output_ = begin - all;
        outputs_ = std::lower_bound(begin, last, first_ + n_) - begin;
    }

    const nt_decoder &d_;
    const nt_decoder_batch &batch_;
    int64_t first_, n_;
    const DecodeKernels &kernels_;
    Arena arena_;
    StepSpace s_;
    nt_parallel parallel_;
    /// The wanted tokens among these, as rows of the batch's outputs.
    int64_t first_output_ = 0, outputs_ = 0;
    std::optional<Attention> attention_;
};

}  // namespace

size_t nt_decoder_scratch_bytes(const nt_decoder *d, const nt_decoder_batch *batch) {
    Arena arena(nullptr);
    StepSpace space(arena, kernels(), *d, std::min(batch->count, kPassRows), longest_of(*batch));
    return arena.used();
}

void nt_decoder_step(const nt_decoder *d, const nt_decoder_batch *batch, void *scratch, nt_parallel parallel) {
    for (int64_t first = 0; first < batch->count; first += kPassRows)
        Step(*d, *batch, first, std::min(kPassRows, batch->count - first), scratch, parallel).run();
}
