// Generation: which kernels run, how work is cut for threads, and a decoder's whole step.
// n rows (tokens), I inputs, O outputs, D hidden size, H query heads, K key/value heads, E head dimension, F MLP width
#include "decode.h"

#include <math.h>

#include <algorithm>
#include <optional>

#include "decode_types.h"
#include "isa.h"
#include "team.h"

using namespace nt;

namespace {

const DecodeKernels &kernels() {
#if defined(__x86_64__)
    // The first processors with AVX-512 do not multiply bytes; those after them do.
    static const bool has_bytes = __builtin_cpu_supports("avx512vnni");
    const int level = has_bytes ? nt_isa_level() : std::min(nt_isa_level(), 1);
    if (level >= 4) return decode_amx;
    if (level == 3) return decode_avx512bf16;
    if (level == 2) return decode_avx512;
    if (level == 1) return decode_avx2;
#endif
    return decode_scalar;
}

/// Memory handed out piece by piece, each on a cache line of its own; with a null base only counted.
class Arena {
  public:
    explicit Arena(void *base) : base_(static_cast<char *>(base)) {
        if (base_) used_ = size_t(-reinterpret_cast<uintptr_t>(base_)) & 63;
    }
    void *take(size_t bytes) {
        char *at = base_ ? base_ + used_ : nullptr;
        used_ += (bytes + 63) & ~size_t(63);
        return at;
    }
    float *floats(int64_t count) { return static_cast<float *>(take(size_t(4 * count))); }
    /// With room for aligning any base.
    size_t used() const { return used_ + 64; }

  private:
    char *base_;
    size_t used_ = 0;
};

/// Rows of weights that threads take at a time: a multiple of every kernel's tile.
constexpr int64_t kTileRows = 16;

int64_t tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

/// Products that share x and a loop over threads.
struct Product {
    const nt_weight *w;
    float *y;
    int64_t stride;
    bool adds = false;
};

/// x in every packing that the products' weights want.
class Packed {
  public:
    /// Takes memory for n rows of the weights' input.
    Packed(Arena &arena, const DecodeKernels &k, std::initializer_list<const nt_weight *> weights, int64_t n)
        : k_(k), n_(n) {
        for (const nt_weight *w : weights) {
            if (w->rows == 0) continue;
            const Packing packing = k.packing(w->type);
            void *&slot = slots_[int(packing)];
            columns_ = w->columns;
            if (!wanted_[int(packing)]) slot = arena.take(k.packed_bytes(packing, columns_, n));
            wanted_[int(packing)] = true;
        }
    }
    void fill(const float *x, int64_t stride) const {
        for (int i = 0; i < 3; ++i)
            if (wanted_[i]) k_.pack(Packing(i), x, stride, columns_, n_, slots_[i]);
    }
    const void *of(const nt_weight &w) const { return slots_[int(k_.packing(w.type))]; }

  private:
    const DecodeKernels &k_;
    int64_t n_, columns_ = 0;
    void *slots_[3] = {};
    bool wanted_[3] = {};
};

using Products = std::initializer_list<Product>;

int64_t tiles(Products products) {
    int64_t total = 0;
    for (const Product &p : products) total += tiles(p.w->rows);
    return total;
}

/// Tiles begin ..< end of the products' rows, counted through.
void multiply(const DecodeKernels &k, const Packed &x, int64_t n, Products products, int64_t begin, int64_t end) {
    int64_t before = 0;
    for (const Product &p : products) {
        const int64_t count = tiles(p.w->rows);
        const int64_t from = std::max(begin - before, int64_t(0)) * kTileRows;
        const int64_t to = std::min((std::min(end - before, count)) * kTileRows, p.w->rows);
        if (from < to) k.rows(*p.w, x.of(*p.w), n, from, to, p.y + from, p.stride, p.adds);
        before += count;
    }
}

void multiply(const DecodeKernels &k, const Packed &x, int64_t n, Products products, nt_parallel parallel) {
    run(parallel, tiles(products), 1,
        [&](int64_t begin, int64_t end) { multiply(k, x, n, products, begin, end); });
}

}  // namespace

int64_t nt_weight_row_bytes(int32_t type, int64_t columns) {
    const Block block = block_of(type);
    if (block.elements == 0 || columns % block.elements) return 0;
    return columns / block.elements * block.bytes;
}

void nt_weight_row(const nt_weight *w, int64_t o, float *out) {
    with_type(w->type, [&](auto type) {
        for (int64_t i = 0; i < w->columns; i += kPanel)
            decode_floats<type>(
                row_of(*w, o), w->scales ? w->scales[o] : 1, i, std::min(kPanel, w->columns - i), out + i);
    });
}

// MARK: One product

namespace {

/// Where a product with other element types than fp32 keeps its rows.
struct LinearSpace {
    Packed packed;
    float *x, *y;
    LinearSpace(Arena &arena, const DecodeKernels &k, const nt_weight *w, int64_t n)
        : packed(arena, k, {w}, n), x(arena.floats(n * w->columns)), y(arena.floats(n * w->rows)) {}
};

}  // namespace

size_t nt_decode_linear_scratch_bytes(const nt_weight *w, int64_t n) {
    Arena arena(nullptr);
    LinearSpace space(arena, kernels(), w, std::min(n, kPassRows));
    return arena.used();
}

void nt_decode_linear(const nt_weight *w, const void *x, int32_t x_type, int64_t x_stride, int64_t n, void *y,
                      int32_t y_type, int64_t y_stride, void *scratch, nt_parallel parallel) {
    const DecodeKernels &k = kernels();
    for (int64_t first = 0; first < n; first += kPassRows) {
        const int64_t count = std::min(n - first, kPassRows);
        Arena arena(scratch);
        LinearSpace space(arena, k, w, count);
        if (x_type == NT_BF16) {
            const uint16_t *from = (const uint16_t *)x + first * x_stride;
            for (int64_t t = 0; t < count; ++t)
                for (int64_t i = 0; i < w->columns; ++i)
                    space.x[t * w->columns + i] = widened(from[t * x_stride + i]);
            space.packed.fill(space.x, w->columns);
        } else {
            space.packed.fill((const float *)x + first * x_stride, x_stride);
        }
        if (y_type == NT_F32) {
            multiply(k, space.packed, count, {{w, (float *)y + first * y_stride, y_stride}}, parallel);
            continue;
        }
        multiply(k, space.packed, count, {{w, space.y, w->rows}}, parallel);
        uint16_t *to = (uint16_t *)y + first * y_stride;
        for (int64_t t = 0; t < count; ++t)
            for (int64_t o = 0; o < w->rows; ++o) to[t * y_stride + o] = rounded(space.y[t * w->rows + o]);
    }
}

// MARK: Attention
// A task is up to kKeys keys of one token and key/value head; its sums are joined in order afterwards, so that results
// do not depend on threads.

namespace {

/// The slots that a token sees, cut into pieces of nearly the same size.
struct Span {
    int64_t first, count, pieces;
    Span(int64_t length, int64_t window)
        : first(window > 0 ? std::max(length - window, int64_t(0)) : 0), count(length - first),
          pieces((count + kKeys - 1) / kKeys) {}
    int64_t begin(int64_t piece) const { return first + count * piece / pieces; }
};

/// Joins the parts [parts][E + 2] of one query head, `stride` apart.
void join(const float *parts, int64_t count, int64_t stride, int64_t E, float *out) {
    float top = parts[E];
    for (int64_t c = 1; c < count; ++c) top = std::max(top, parts[c * stride + E]);
    float total = 0;
    for (int64_t e = 0; e < E; ++e) out[e] = 0;
    for (int64_t c = 0; c < count; ++c) {
        const float *part = parts + c * stride;
        const float factor = count == 1 ? 1 : expf(part[E] - top);
        total += factor * part[E + 1];
        for (int64_t e = 0; e < E; ++e) out[e] += factor * part[e];
    }
    const float inverse = 1 / total;
    for (int64_t e = 0; e < E; ++e) out[e] *= inverse;
}

/// Attention of n tokens; arguments as `nt_decode_attention`'s.
class Attention {
  public:
    Attention(const float *q, int64_t q_stride, const nt_cache &cache, const int64_t *sequences, const int64_t *lengths,
              int64_t n, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window, float scale, float cap,
              void *scratch)
        : q_(q), q_stride_(q_stride), cache_(cache), sequences_(sequences), lengths_(lengths), n_(n), H_(heads),
          K_(kv_heads), E_(head_dim), window_(window), scale_(scale), cap_(cap) {
        Arena arena(scratch);
        before_ = (int64_t *)arena.take(size_t(8 * (n + 1)));
        before_[0] = 0;
        for (int64_t t = 0; t < n; ++t) before_[t + 1] = before_[t] + Span(lengths[t], window).pieces;
        parts_ = arena.floats(before_[n] * heads * (E_ + 2));
    }

    int64_t tasks() const { return before_[n_] * K_; }

    void attend(const DecodeKernels &k, int64_t begin, int64_t end) const {
        const int64_t group = H_ / K_, element = cache_.type == NT_BF16 ? 2 : 4;
        int64_t t = std::upper_bound(before_, before_ + n_ + 1, begin / K_) - before_ - 1;
        for (int64_t i = begin; i < end; ++i) {
            while (before_[t + 1] <= i / K_) ++t;
            const Span span(lengths_[t], window_);
            const int64_t head = i % K_, piece = i / K_ - before_[t], from = span.begin(piece);
            const int64_t offset = (sequences_[t] * cache_.slots + from) * K_ * E_ + head * E_;
            k.attend({q_ + t * q_stride_ + head * group * E_, (const char *)cache_.keys + offset * element,
                      (const char *)cache_.values + offset * element, K_ * E_, span.begin(piece + 1) - from, group, E_,
                      cache_.type, scale_, cap_, parts_ + i * width()});
        }
    }

    void join(float *out, int64_t stride) const {
        const int64_t group = H_ / K_;
        for (int64_t t = 0; t < n_; ++t)
            for (int64_t h = 0; h < H_; ++h)
                ::join(parts_ + (before_[t] * K_ + h / group) * width() + h % group * (E_ + 2),
                       before_[t + 1] - before_[t], K_ * width(), E_, out + t * stride + h * E_);
    }

  private:
    int64_t width() const { return H_ / K_ * (E_ + 2); }

    const float *q_;
    int64_t q_stride_;
    nt_cache cache_;
    const int64_t *sequences_, *lengths_;
    int64_t n_, H_, K_, E_, window_;
    float scale_, cap_;
    int64_t *before_;  // [n + 1] pieces of the tokens before
    float *parts_;     // [pieces][K][group][E + 2]
};

}  // namespace

size_t nt_decode_attention_scratch_bytes(const int64_t *lengths, int64_t n, int64_t heads, int64_t head_dim) {
    Arena arena(nullptr);
    int64_t pieces = 0;
    for (int64_t t = 0; t < n; ++t) pieces += Span(lengths[t], 0).pieces;
    arena.take(size_t(8 * (n + 1)));
    arena.floats(pieces * heads * (head_dim + 2));
    return arena.used();
}

void nt_decode_attention(const float *q, int64_t q_stride, const nt_cache *cache, const int64_t *sequences,
                         const int64_t *lengths, int64_t n, int64_t heads, int64_t kv_heads, int64_t head_dim,
                         int64_t window, float scale, float cap, float *out, int64_t out_stride, void *scratch,
                         nt_parallel parallel) {
    const Attention attention(
        q, q_stride, *cache, sequences, lengths, n, heads, kv_heads, head_dim, window, scale, cap, scratch);
    run(parallel, attention.tasks(), 1,
        [&](int64_t begin, int64_t end) { attention.attend(kernels(), begin, end); });
    attention.join(out, out_stride);
}

// MARK: A step

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
                 [&](int64_t begin, int64_t end) { ::multiply(kernels_, x, n, products, begin, end); });
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

// MARK: Beside a step

int64_t nt_argmax_f32(const float *x, int64_t count) {
    // Largest of each block first, so that the compiler can vectorise; then its first place.
    constexpr int64_t block = 256;
    float best = -INFINITY;
    int64_t at = 0;
    for (int64_t i = 0; i < count; i += block) {
        float lanes[16];
        const int64_t end = std::min(i + block, count);
        for (float &lane : lanes) lane = -INFINITY;
        int64_t j = i;
        for (; j + 16 <= end; j += 16)
            for (int l = 0; l < 16; ++l) lanes[l] = x[j + l] > lanes[l] ? x[j + l] : lanes[l];
        for (; j < end; ++j) lanes[0] = x[j] > lanes[0] ? x[j] : lanes[0];
        float top = lanes[0];
        for (float lane : lanes) top = lane > top ? lane : top;
        if (top > best) best = top, at = i;
    }
    for (int64_t i = at; i < count; ++i)
        if (x[i] == best) return i;
    return 0;  // nothing but NaN and -infinity
}

double nt_softmax_weights_f32(const float *x, int64_t count, float factor, float *out) {
    if (count == 0) return 0;
    return kernels().weights(x, count, x[nt_argmax_f32(x, count)], factor, out);
}

namespace {

/// The sum of `lines` cache lines of words, read in four far ranges at the same time as weights are.
uint64_t sum_of(const uint64_t *words, int64_t lines) {
    constexpr int64_t line = 8;
    const int64_t quarter = lines / 4;
    uint64_t sums[4][line] = {};
    const auto add = [&](int64_t range, int64_t i) {
        for (int64_t l = 0; l < line; ++l) sums[range][l] += words[(range * quarter + i) * line + l];
    };
    for (int64_t i = 0; i < quarter; ++i)
        for (int64_t range = 0; range < 4; ++range) add(range, i);
    for (int64_t i = quarter; i < lines - 3 * quarter; ++i) add(3, i);
    uint64_t total = 0;
    for (const auto &range : sums)
        for (uint64_t sum : range) total += sum;
    return total;
}

}  // namespace

uint64_t nt_read_weights(const nt_decoder *d, nt_parallel parallel) {
    constexpr int64_t shares = 256;
    uint64_t total = 0;
    run(parallel, shares, 1, [&](int64_t begin, int64_t end) {
        uint64_t sum = 0;
        const auto read = [&](const nt_weight &w) {
            const int64_t lines = w.rows * nt_weight_row_bytes(w.type, w.columns) / 64;
            const int64_t first = lines * begin / shares, last = lines * end / shares;
            sum += sum_of(static_cast<const uint64_t *>(w.data) + 8 * first, last - first);
        };
        for (const nt_decoder_layer *l = d->layers; l < d->layers + d->layer_count; ++l)
            for (const nt_weight *w : {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down}) read(*w);
        read(d->head);
        __atomic_fetch_add(&total, sum, __ATOMIC_RELAXED);  // whole numbers: any order gives the same
    });
    return total;
}
