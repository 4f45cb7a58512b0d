// What generation's files share: which kernels run, and how products and attention are cut for threads.
// n rows (tokens), I inputs, O outputs, H query heads, K key/value heads, E head dimension
#pragma once
#include <math.h>

#include <algorithm>
#include <initializer_list>

#include "decode_types.h"
#include "isa.h"

namespace nt {

inline const DecodeKernels &kernels() {
#if defined(__x86_64__)
    // The first processors with AVX-512 have no instruction for sums of products of bytes: AVX2's two serve them.
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

/// Rows of weights that threads take at a time.
constexpr int64_t kTileRows = 16;

inline int64_t tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

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

inline int64_t tiles(Products products) {
    int64_t total = 0;
    for (const Product &p : products) total += tiles(p.w->rows);
    return total;
}

/// Tiles begin ..< end of the products' rows, counted through.
inline void multiply(const DecodeKernels &k, const Packed &x, int64_t n, Products products, int64_t begin,
                     int64_t end) {
    int64_t before = 0;
    for (const Product &p : products) {
        const int64_t count = tiles(p.w->rows);
        const int64_t from = std::max(begin - before, int64_t(0)) * kTileRows;
        const int64_t to = std::min((std::min(end - before, count)) * kTileRows, p.w->rows);
        if (from < to) k.rows(*p.w, x.of(*p.w), n, from, to, p.y + from, p.stride, p.adds);
        before += count;
    }
}

inline void multiply(const DecodeKernels &k, const Packed &x, int64_t n, Products products, nt_parallel parallel) {
    run(parallel, tiles(products), 1,
        [&](int64_t begin, int64_t end) { multiply(k, x, n, products, begin, end); });
}

// MARK: Attention
// A task is up to kKeys keys of one token and key/value head; its sums are joined in order afterwards, so that results
// do not depend on threads.

/// The slots that a token sees, cut into pieces of nearly the same size.
struct Span {
    int64_t first, count, pieces;
    Span(int64_t length, int64_t window)
        : first(window > 0 ? std::max(length - window, int64_t(0)) : 0), count(length - first),
          pieces((count + kKeys - 1) / kKeys) {}
    int64_t begin(int64_t piece) const { return first + count * piece / pieces; }
};

/// Joins the parts [parts][E + 2] of one query head, `stride` apart.
inline void join(const float *parts, int64_t count, int64_t stride, int64_t E, float *out) {
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
                nt::join(parts_ + (before_[t] * K_ + h / group) * width() + h % group * (E_ + 2),
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

}  // namespace nt
