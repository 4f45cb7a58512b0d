// Part of decode_body.h: products of bytes, for weights in blocks. The sum of w x is, with w = d q + m, the sum over groups
// of d dx (sum of q xq) + m (dx sum of xq).
// n rows of x, I inputs, R weight rows at a time, N rows of x at a time

/// Codes that are multiplied at a time.
constexpr int64_t kStep = 64;

/// What x is multiplied by to be codes: 0 where they would not be finite, also for NaN, which stays in the scale.
inline float inverse_of(float scale) { return scale >= 0x1p-126f ? 1 / scale : 0; }

/// Scales and minima of a Q4_K block's 8 groups, 6 bits each, as bytes.
inline __m128i q4_k_scales(const uint8_t *block) {
    uint32_t u[3];
    memcpy(u, block + 4, 12);
    return _mm_set_epi32(
        int((u[2] >> 4 & 0x0F0F0F0F) | (u[1] >> 6 & 0x03030303) << 4), int(u[1] & 0x3F3F3F3F),
        int((u[2] & 0x0F0F0F0F) | (u[0] >> 6 & 0x03030303) << 4), int(u[0] & 0x3F3F3F3F));
}

#if NT_WIDE
#include "decode_bytes_avx512.h"
#else
#include "decode_bytes_avx2.h"
#endif

inline void pack_bytes(const float *x, int64_t stride, int64_t columns, int64_t n, void *out) {
    const PackedBytes packed(out, columns, n);
    const bool lanes = in_lanes(n);
    // What no weight meets is left out: beyond a row's last 64 as lanes, nowhere in rows, whose zeros are read.
    const int64_t blocks = packed.width / 32, rows = packed_rows(n);
    const int64_t used = lanes ? rounded_up(columns, 64) / 32 : blocks;
    for (int64_t t = 0; t < rows; ++t) {
        const float *row = x + t * stride;
        const int64_t group = t / L, lane = t % L;
        for (int64_t b = 0; b < used; b += 2) {
            alignas(64) int8_t codes[64];
            for (int64_t j = 0; j < 2; ++j) {
                const int64_t i = 32 * (b + j), left = t < n ? columns - i : 0;
                float scale, sums[2];
                pack_block(row + i, left, codes + 32 * j, scale, sums);
                const int64_t at = lanes ? (group * blocks + b + j) * L + lane : t * blocks + b + j;
                packed.scales[at] = scale;
                packed.sums[at] = sums[0] + sums[1];
                const int64_t half = lanes ? (group * 2 * blocks + 2 * (b + j)) * L + lane : 2 * at;
                packed.half_sums[half] = sums[0];
                packed.half_sums[half + (lanes ? L : 1)] = sums[1];
            }
            if (!lanes) {
                interleave_codes(packed.codes + t * packed.width + 32 * b, codes);
                continue;
            }
            int8_t *to = packed.codes + group * L * packed.width + b * 32 * L + 4 * lane;
            for (int quad = 0; quad < 16; ++quad) memcpy(to + quad * 4 * L, codes + 4 * quad, 4);
        }
    }
}

/// out[r][t] = x[t] . w[r]. L groups at a time: their scales stay near.
template <int32_t type, int R, int N>
inline void byte_dot_tile(const nt_weight &w, int64_t o, const PackedBytes &x, float (*out)[kDotRows]) {
    constexpr int64_t group = group_of(type), span = L * group;
    const int64_t I = w.columns, blocks = x.width / 32;
    const Block block = block_of(type);
    const uint8_t *first = row_of(w, o);
    const int64_t row_bytes = I / block.elements * block.bytes;
    Vec sums[R][N], rest[R][N];
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) sums[r][t] = rest[r][t] = zero();
    for (int64_t from = 0; from < I; from += span) {
        const int64_t count = I - from < span ? I - from : span, groups = (count + group - 1) / group;
        const uint8_t *chunk = first + from / block.elements * block.bytes;
        const int64_t part = from % block.elements / span;  // of a block of more than L groups
        Spread products[R][N];
        for (int r = 0; r < R; ++r) {
            for (int64_t line = 0; line < count / block.elements * block.bytes; line += 64)
                prefetch(chunk + r * row_bytes + line);
            Vec d, m;
            chunk_scales<type>(chunk + r * row_bytes, part, w.scales ? w.scales[o + r] : 1, groups, d, m);
            for (int t = 0; t < N; ++t) {
                const int64_t at = t * blocks + from / 32;
                const Vec dx = group == 32 ? load(x.scales + at) : load_twice(x.scales + at);
                const Vec sx = group == 32 ? load(x.sums + at) : load(x.half_sums + 2 * at);
                products[r][t] = Spread(mul(d, dx));
                rest[r][t] = fma(m, sx, rest[r][t]);
            }
        }
        const int8_t *codes = x.codes + from;
        const auto step = [&](int64_t s) {
            for (int r = 0; r < R; ++r) {
                const Codes q = codes_at<type>(chunk + r * row_bytes, part * (span / kStep) + s, count);
                for (int t = 0; t < N; ++t)
                    sums[r][t] = add_dots<type>(q, codes + t * x.width + kStep * s, products[r][t], s, sums[r][t]);
            }
        };
        if (count == span) {
#pragma clang loop unroll(full)
            for (int64_t s = 0; s < span / kStep; ++s) step(s);
        } else {
            for (int64_t s = 0; kStep * s < count; ++s) step(s);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) out[r][t] = sum(add(sums[r][t], rest[r][t]));
}

/// L rows of x as lanes against R rows of codes. q [R][kPanel], d, m [R][kPanel / group]; out [R][L] +=
template <int32_t type, int R>
inline void byte_lane_tile(
    const uint8_t (*q)[kPanel], const float (*d)[kPanel / 16], const float (*m)[kPanel / 16], const int8_t *codes,
    const float *scales, const float *group_sums, int64_t groups, float *out) {
    constexpr int64_t group = group_of(type);
    Vec sums[R];
    for (int r = 0; r < R; ++r) sums[r] = load(out + r * L);
    for (int64_t g = 0; g < groups; ++g) {
        Vec whole[R];
        lane_dots<type, R>(q, g * group / 4, (g + 1) * group / 4, codes, whole);
        const Vec dx = load(scales + g * group / 32 * L);
        const Vec sx = load(group_sums + g * L);
        for (int r = 0; r < R; ++r) {
            sums[r] = fma(whole[r], mul(set1(d[r][g]), dx), sums[r]);
            sums[r] = fma(set1(m[r][g]), sx, sums[r]);
        }
    }
    for (int r = 0; r < R; ++r) store(out + r * L, sums[r]);
}

/// `count` codes of a row with their scales; whole vectors of either are written.
template <int32_t type>
inline void decode_panel(const uint8_t *row, float row_scale, int64_t count, uint8_t *q, float *d, float *m) {
    constexpr int64_t group = group_of(type), span = L * group;
    const Block block = block_of(type);
    for (int64_t from = 0; from < count; from += span) {
        const int64_t left = count - from < span ? count - from : span;
        const uint8_t *chunk = row + from / block.elements * block.bytes;
        const int64_t part = from % block.elements / span;
        Vec scale, least;
        chunk_scales<type>(chunk, part, row_scale, (left + group - 1) / group, scale, least);
        store(d + from / group, scale);
        store(m + from / group, least);
        for (int64_t s = 0; kStep * s < left; ++s)
            store_codes(q + from + kStep * s, codes_at<type>(chunk, part * (span / kStep) + s, left));
    }
}

template <int32_t type>
inline void byte_rows(const nt_weight &w, const void *packed, int64_t n, int64_t begin, int64_t end, const Sink &sink) {
    constexpr int64_t group = group_of(type);
    const int64_t I = w.columns;
    const PackedBytes x(packed, I, n);
    const int64_t blocks = x.width / 32;
    const Block block = block_of(type);
    if (!in_lanes(n)) {
        with_rows(n, [&](auto N) {
            in_tiles<(!NT_WIDE ? 1 : N > 2 ? 2 : 4)>(begin, end, [&](auto R, int64_t o) {
                float out[R][kDotRows];
                byte_dot_tile<type, R, N>(w, o, x, out);
                sink.rows<R>(o, out);
            });
        });
        return;
    }
    in_tiles<8>(begin, end, [&](auto R, int64_t o) {
        alignas(64) uint8_t q[R][kPanel];
        float d[R][kPanel / 16], m[R][kPanel / 16];
        float out[kPassRows / L][R * L];
        memset(out, 0, sizeof out);
        for (int64_t i = 0; i < I; i += kPanel) {
            const int64_t count = I - i < kPanel ? I - i : kPanel;
            for (int r = 0; r < R; ++r) {
                const uint8_t *row = row_of(w, o + r) + i / block.elements * block.bytes;
                decode_panel<type>(row, w.scales ? w.scales[o + r] : 1, count, q[r], d[r], m[r]);
            }
            const float *sums = group == 32 ? x.sums : x.half_sums;
            for (int64_t t = 0; t < n; t += L)
                byte_lane_tile<type, R>(
                    q, d, m, x.codes + t * x.width + i * L, x.scales + (t / L * blocks + i / 32) * L,
                    sums + (t / L * (x.width / group) + i / group) * L, (count + group - 1) / group, out[t / L]);
        }
        for (int64_t t = 0; t < n; t += L) sink.lanes<R>(o, t, out[t / L]);
    });
}
