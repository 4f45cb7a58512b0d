// What the attention kernels of all instruction sets share: arguments, how work is cut, where scratch lies.
//
// Work: a *unit* is one document's one key/value head; its G = H / K query heads are done together, so that keys and
// values are read once. A unit's queries are cut into *panels* of some tokens; row r of a panel is token r / G, head
// r mod G of the group, so that causality is a staircase over rows (an encoder's rows see all keys). Keys are cut into
// *blocks* of 64. Panels, unit after unit, are dealt out to `parts` as contiguous runs of equal work.
//
// Scratch holds keys and values repacked once per call (their operands must be in vector order), and for the backward
// fp32 sums of dk and dv: two units a part, one that a part before it began and the one in work.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "attention.h"
#include "numbers.h"
#include "run.h"

namespace nt_attention_kernels {

using bf16 = uint16_t;
using nt::rounded_up, nt::run, nt::run_each, nt::widened;

constexpr int64_t block_keys = 64, subpanel_rows = 32;

// A document as the kernels see it: queries are its keys' newest.
struct Document {
    int64_t first_query, queries, first_key, keys;
    int64_t past() const { return keys - queries; }
    int64_t blocks() const { return (keys + block_keys - 1) / block_keys; }
};

inline Document document(const nt_attention &a, int64_t d) {
    const int64_t first = a.starts[d], queries = a.starts[d + 1] - first;
    if (!a.key_starts) return {first, queries, first, queries};
    return {first, queries, a.key_starts[d], a.key_counts[d]};
}

// What an instruction set multiplies. `pair`: consecutive products one lane adds in one instruction (2 with bf16 pairs);
// a *word* is the 32 bits it needs: a float or two bf16. `tiles`: 16 x 16 words at once, two by two of them.
struct Words {
    int64_t pair;
    bool tiles;
};

// Sizes that follow from the shape; a panel's rows are padded to a multiple of row_step.
struct Layout {
    int64_t group, dim, pair, row_step, panel_tokens, panel_rows, blocks, longest_blocks;
    // Words of one packed block of keys or values; whole 16 x 16 squares of words can be written.
    int64_t operand() const { return rounded_up(dim / pair, 16) * block_keys; }
    int64_t sums() const { return 2 * dim * block_keys; }        // floats of one block's dk and dv
};

inline Layout layout(const nt_attention &a, Words words) {
    Layout l{};
    l.group = a.heads / a.kv_heads;
    l.dim = rounded_up(a.head_dim, words.tiles ? 32 : 16);
    l.pair = words.pair;
    l.row_step = words.tiles ? 32 : 8;
    // Enough rows that a block of keys is worth its trip to the core, few enough that a panel stays in L2.
    const int64_t rows = l.dim <= 128 ? 192 : 96;
    l.panel_tokens = std::clamp<int64_t>(rows / l.group / 16 * 16, 16, 128);
    l.panel_rows = rounded_up(l.panel_tokens * l.group, l.row_step);
    for (int64_t d = 0; d < a.documents; ++d) {
        const int64_t blocks = document(a, d).blocks();
        l.blocks += blocks;
        l.longest_blocks = std::max(l.longest_blocks, blocks);
    }
    return l;
}

// A run of tokens of one unit.
struct Panel {
    Document document;
    int64_t kv_head;
    int64_t first_block;          // of the document, among the packed keys
    int64_t first_token, tokens;  // of the document's queries
    bool opens, closes;           // first, last of its unit
};

// Positions (among the document's keys) of the oldest and the newest key that a query at `position` sees.
inline int64_t oldest_key(const nt_attention &a, int64_t position) {
    return a.window > 0 ? std::max<int64_t>(0, position - a.window + 1) : 0;
}
inline int64_t newest_key(const nt_attention &a, const Document &document, int64_t position) {
    return a.bidirectional ? document.keys - 1 : position;
}

// Work of a panel, in tokens x keys; 48 keys' worth for loading, storing and half-masked edges.
inline int64_t cost(const nt_attention &a, const Document &document, int64_t first_token, int64_t tokens) {
    const int64_t middle = document.past() + first_token + tokens / 2;
    return tokens * (newest_key(a, document, middle) - oldest_key(a, middle) + 48);
}

// Calls visit(part, panel) for all panels in order, with the part that does it.
template <class Visit> void each_panel(const nt_attention &a, const Layout &l, Visit &&visit) {
    int64_t total = 0, before = 0, first_block = 0;
    for (int64_t d = 0; d < a.documents; ++d) {
        const Document document = nt_attention_kernels::document(a, d);
        for (int64_t t = 0; t < document.queries; t += l.panel_tokens)
            total += a.kv_heads * cost(a, document, t, std::min(l.panel_tokens, document.queries - t));
    }
    for (int64_t d = 0; d < a.documents; ++d) {
        const Document document = nt_attention_kernels::document(a, d);
        for (int64_t head = 0; head < a.kv_heads; ++head)
            for (int64_t t = 0; t < document.queries; t += l.panel_tokens) {
                const int64_t tokens = std::min(l.panel_tokens, document.queries - t);
                const int64_t work = cost(a, document, t, tokens);
                const auto part = int64_t((double(before) + double(work) / 2) / double(total) * double(a.parts));
                before += work;
                visit(std::min(part, a.parts - 1),
                      Panel{document, head, first_block, t, tokens, t == 0, t + tokens == document.queries});
            }
        first_block += document.blocks();
    }
}

template <class T> struct Inputs {
    const T *q;
    int64_t q_stride;
    const T *k;
    int64_t k_stride;
    const T *v;
    int64_t v_stride;
};

template <class T> struct Outputs {
    T *o;
    int64_t o_stride;
    float *lse;
};

template <class T> struct Gradients {
    const T *o;
    int64_t o_stride;
    const float *lse;
    const T *d_o;
    int64_t do_stride;
    T *dq;
    int64_t dq_stride;
    T *dk;
    int64_t dk_stride;
    T *dv;
    int64_t dv_stride;
};

// Aligned pieces of the caller's scratch, one after another; with a null base it only counts.
struct Arena {
    char *next;
    size_t used = 0;
    explicit Arena(void *base) : next(static_cast<char *>(base)) {
        if (base) next += (64 - reinterpret_cast<uintptr_t>(base) % 64) % 64;
    }
    float *floats(int64_t count) {
        char *piece = next ? next + used : nullptr;
        used += size_t(rounded_up(count, 16)) * sizeof(float);
        return reinterpret_cast<float *>(piece);
    }
};

// Scratch of one part.
struct Workspace {
    float *q, *scores, *p, *o, *largest, *sums;  // forward
    // Backward, with q, scores, p, o (as dq) and largest (as lse).
    float *q_across, *d_o, *d_o_across, *dp, *ds, *ds_across, *D;
    float *carried, *current;  // dk, dv of a unit begun by another part, of the unit in work
};

struct Scratch {
    float *keys[3];  // [K, blocks, operand] each
    char *parts;
    size_t part_bytes;
    Layout layout;
    bool backward;
    float *packed(int which, int64_t kv_head, int64_t block) const {
        return keys[which] + (kv_head * layout.blocks + block) * layout.operand();
    }
};

inline Workspace workspace(const Layout &l, bool backward, void *base, size_t *bytes = nullptr) {
    Arena arena(base);
    Workspace w{};
    const int64_t rows = l.panel_rows, operand = rows * l.dim / l.pair, tile = rows * block_keys / l.pair;
    w.q = arena.floats(operand);
    w.scores = arena.floats(subpanel_rows * block_keys);
    w.o = arena.floats(rows * l.dim);
    w.largest = arena.floats(rows);
    w.p = arena.floats(tile);
    if (backward) {
        w.q_across = l.pair == 1 ? w.q : arena.floats(operand);
        w.d_o = arena.floats(operand);
        w.d_o_across = l.pair == 1 ? w.d_o : arena.floats(operand);
        w.dp = arena.floats(subpanel_rows * block_keys);
        w.ds = arena.floats(tile);
        w.ds_across = l.pair == 1 ? w.ds : arena.floats(tile);
        w.D = arena.floats(rows);
        w.carried = arena.floats(l.longest_blocks * l.sums());
        w.current = arena.floats(l.longest_blocks * l.sums());
    } else {
        w.sums = arena.floats(rows * 16);
    }
    if (bytes) *bytes = arena.used;
    return w;
}

inline Scratch scratch(const nt_attention &a, Words words, bool backward, void *base, size_t *bytes = nullptr) {
    Scratch s{};
    s.layout = layout(a, words);
    s.backward = backward;
    Arena arena(base);
    for (int which = 0; which < (backward ? 3 : 2); ++which)
        s.keys[which] = arena.floats(a.kv_heads * s.layout.blocks * s.layout.operand());
    workspace(s.layout, backward, nullptr, &s.part_bytes);
    s.parts = base ? arena.next + arena.used : nullptr;
    if (bytes) *bytes = arena.used + size_t(a.parts) * s.part_bytes + 64;
    return s;
}

// What each instruction set offers: all of it works on scratch laid out above. Levels 3 and 4 have bf16 pairs only: for
// floats they are level 2.
#define NT_ATTENTION_LEVEL(level)                                                                                    \
    namespace level {                                                                                                \
    template <class T> void pack(const nt_attention &, const Inputs<T> &, const Scratch &, int64_t kv_head,          \
                                 int64_t document, int64_t block, int64_t packed_block);                             \
    template <class T> void forward(const nt_attention &, const Inputs<T> &, const Outputs<T> &, const Scratch &,    \
                                    int64_t part);                                                                   \
    template <class T> void backward(const nt_attention &, const Inputs<T> &, const Gradients<T> &, const Scratch &, \
                                     int64_t part);                                                                  \
    template <class T> void join(const nt_attention &, const Gradients<T> &, const Scratch &, int64_t part);         \
    }
NT_ATTENTION_LEVEL(avx2)
NT_ATTENTION_LEVEL(avx512)
NT_ATTENTION_LEVEL(avx512bf16)
NT_ATTENTION_LEVEL(amx)
#undef NT_ATTENTION_LEVEL

}  // namespace nt_attention_kernels
