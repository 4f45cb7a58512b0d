// Part of decode_body.h: products of bytes, for weights in blocks. The sum of w x is, with w = d q + m, the sum over groups of
// d dx (sum of q xq) + m (dx sum of xq).
// n rows of x, I inputs, R weight rows at a time, N rows of x at a time

inline float from_f16_fast(uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }

/// Codes, scale and sums of 32 elements.
inline void pack_block(Vec low, Vec high, int8_t *codes, float &scale, float *half_sums) {
    const float top = largest(max(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    scale = top / 127;
    const Vec inverse = set1(top > 0 ? 127 / top : 0);
    const __m512i a = _mm512_cvtps_epi32(mul(low, inverse)), b = _mm512_cvtps_epi32(mul(high, inverse));
    _mm_storeu_si128((__m128i *)codes, _mm512_cvtsepi32_epi8(a));
    _mm_storeu_si128((__m128i *)(codes + 16), _mm512_cvtsepi32_epi8(b));
    half_sums[0] = scale * float(_mm512_reduce_add_epi32(a));
    half_sums[1] = scale * float(_mm512_reduce_add_epi32(b));
}

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
                const Vec low = up_to(row + i, left), high = up_to(row + i + 16, left - 16);
                float scale, sums[2];
                pack_block(low, high, codes + 32 * j, scale, sums);
                const int64_t at = lanes ? (group * blocks + b + j) * L + lane : t * blocks + b + j;
                packed.scales[at] = scale;
                packed.sums[at] = sums[0] + sums[1];
                const int64_t half = lanes ? (group * 2 * blocks + 2 * (b + j)) * L + lane : 2 * at;
                packed.half_sums[half] = sums[0];
                packed.half_sums[half + (lanes ? L : 1)] = sums[1];
            }
            if (!lanes) {
                memcpy(packed.codes + t * packed.width + 32 * b, codes, 64);
                continue;
            }
            int8_t *to = packed.codes + group * L * packed.width + b * 32 * L + 4 * lane;
            for (int quad = 0; quad < 16; ++quad) memcpy(to + quad * 4 * L, codes + 4 * quad, 4);
        }
    }
}

/// 64 codes in order, the s-th 64 of the row.
template <int32_t type>
inline __m512i codes64(const uint8_t *row, int64_t s, int64_t columns) {
    if constexpr (type == NT_W_I8) {
        const int64_t left = columns - 64 * s;
        const __m512i flip = _mm512_set1_epi8(char(0x80));
        if (left >= 64) return _mm512_xor_si512(_mm512_loadu_si512(row + 64 * s), flip);
        return _mm512_xor_si512(_mm512_maskz_loadu_epi8((1ull << left) - 1, row + 64 * s), flip);
    } else if constexpr (type == NT_W_Q8_0) {
        const uint8_t *block = row + 68 * s;
        const __m512i flip = _mm512_set1_epi8(char(0x80));
        const __m256i first = _mm256_loadu_si256((const __m256i *)(block + 2));
        // The last block may stand alone.
        if (64 * s + 32 >= columns) return _mm512_xor_si512(_mm512_zextsi256_si512(first), flip);
        const __m256i second = _mm256_loadu_si256((const __m256i *)(block + 36));
        return _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1), flip);
    } else if constexpr (type == NT_W_Q4_0 || type == NT_W_Q4_1) {
        constexpr int bytes = type == NT_W_Q4_0 ? 18 : 20, head = bytes - 16;
        const uint8_t *block = row + 2 * bytes * s;
        const __m128i first = _mm_loadu_si128((const __m128i *)(block + head));
        const __m128i second =
            64 * s + 32 < columns ? _mm_loadu_si128((const __m128i *)(block + bytes + head)) : _mm_setzero_si128();
        const __m512i both = _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1));
        // [first, first, second, second], the second and fourth shifted by a half byte
        const __m512i spread = _mm512_permutexvar_epi64(_mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0), both);
        const __m512i shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
        return _mm512_and_si512(_mm512_srlv_epi64(spread, shifts), _mm512_set1_epi8(15));
    } else if constexpr (type == NT_W_Q4_K) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(row + s / 4 * 144 + 16 + s % 4 * 32));
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(v), _mm256_srli_epi16(v, 4), 1);
        return _mm512_and_si512(both, _mm512_set1_epi8(15));
    } else {
        const uint8_t *block = row + s / 4 * 210;
        const __m512i low = _mm512_loadu_si512(block + s % 4 / 2 * 64);
        const __m256i high = _mm256_loadu_si256((const __m256i *)(block + 128 + s % 4 / 2 * 32));
        __m512i low4, high2;
        if (s % 2 == 0) {
            low4 = low;
            const __m512i first = _mm512_castsi256_si512(_mm256_slli_epi16(high, 4));
            high2 = _mm512_inserti64x4(first, _mm256_slli_epi16(high, 2), 1);
        } else {
            low4 = _mm512_srli_epi16(low, 4);
            high2 = _mm512_inserti64x4(_mm512_castsi256_si512(high), _mm256_srli_epi16(high, 2), 1);
        }
        // low4 & 15 | high2 & 48
        return _mm512_or_si512(
            _mm512_and_si512(low4, _mm512_set1_epi8(15)), _mm512_and_si512(high2, _mm512_set1_epi8(48)));
    }
}

/// 16 halves that stand `words` half words apart, `count` of them live, zeros for the others.
template <int words>
inline Vec halves_apart(const uint8_t *at, int64_t count) {
    __m512i found = _mm512_setzero_si512();
    const __mmask16 live = __mmask16((1u << count) - 1);
#pragma clang loop unroll(full)
    for (int part = 0; part * 32 <= 15 * words; ++part) {
        alignas(64) static constexpr auto index = [] {
            struct { uint16_t of[17][32]; uint32_t mask[17]; } t{};
            for (int p = 0; p < 17; ++p)
                for (int b = 0; b < 16; ++b) {
                    const int word = b * words - 32 * p;
                    if (word >= 0 && word < 32) t.of[p][b] = uint16_t(word), t.mask[p] |= 1u << b;
                }
            return t;
        }();
        const __mmask32 mask = index.mask[part] & live;
        if (!mask) continue;
        // Not beyond the last live half.
        const int64_t last = (count - 1) * words - 32 * part;
        const __m512i v = last >= 31 ? _mm512_loadu_si512(at + 64 * part)
                                     : _mm512_maskz_loadu_epi16(__mmask32((2ull << last) - 1), at + 64 * part);
        found = _mm512_mask_permutexvar_epi16(found, mask, _mm512_load_si512(index.of[part]), v);
    }
    return _mm512_cvtph_ps(_mm512_castsi512_si256(found));
}

/// d and m of up to 16 groups from `at` on, zeros beyond them.
template <int32_t type>
inline void chunk_scales(const uint8_t *at, float row_scale, int64_t groups, Vec &d, Vec &m) {
    const __mmask16 live = __mmask16((1u << groups) - 1);
    if constexpr (type == NT_W_I8) {
        d = _mm512_maskz_mov_ps(live, set1(row_scale));
        m = mul(d, set1(-128));
    } else if constexpr (type == NT_W_Q8_0) {
        d = halves_apart<17>(at, groups);
        m = mul(d, set1(-128));
    } else if constexpr (type == NT_W_Q4_0) {
        d = halves_apart<9>(at, groups);
        m = mul(d, set1(-8));
    } else if constexpr (type == NT_W_Q4_1) {
        // Blocks of five words, the first of which is d and m.
        const int64_t words = 5 * groups;
        const auto part = [&](int64_t from) {
            if (words - from >= 16) return _mm512_loadu_si512(at + 4 * from);
            const __mmask16 exist = __mmask16((1u << (words > from ? words - from : 0)) - 1);
            return _mm512_maskz_loadu_epi32(exist, at + 4 * from);
        };
        const __m512i i = _mm512_set_epi32(75, 70, 65, 60, 55, 50, 45, 40, 35, 30, 25, 20, 15, 10, 5, 0);
        __m512i v = _mm512_permutex2var_epi32(part(0), i, part(16));  // 0 ... 30
        if (groups > 7) {
            const __m512i w = _mm512_permutex2var_epi32(part(32), i, part(48));  // indices modulo 32: 35 ... 60
            v = _mm512_mask_mov_epi32(v, 0x1F80, w);
            v = _mm512_mask_permutexvar_epi32(v, 0xE000, i, part(64));
        }
        v = _mm512_maskz_mov_epi32(live, v);  // the others have bits of codes, perhaps a NaN's
        d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
        m = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));
    } else if constexpr (type == NT_W_Q4_K) {
        Vec halves[2][2] = {{zero(), zero()}, {zero(), zero()}};
        for (int b = 0; b < groups / 8; ++b, at += 144) {
            uint32_t u[3];
            memcpy(u, at + 4, 12);
            const __m128i small = _mm_set_epi32(
                int((u[2] >> 4 & 0x0F0F0F0F) | (u[1] >> 6 & 0x03030303) << 4), int(u[1] & 0x3F3F3F3F),
                int((u[2] & 0x0F0F0F0F) | (u[0] >> 6 & 0x03030303) << 4), int(u[0] & 0x3F3F3F3F));
            const Vec wide = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(small));
            halves[0][b] = mul(wide, set1(from_f16_fast(half_bits(at))));
            halves[1][b] = mul(wide, set1(-from_f16_fast(half_bits(at + 2))));
        }
        d = _mm512_shuffle_f32x4(halves[0][0], halves[0][1], 0x44);
        m = _mm512_shuffle_f32x4(halves[1][0], halves[1][1], 0xEE);
    } else {
        const Vec wide = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(at + 192))));
        d = mul(wide, set1(from_f16_fast(half_bits(at + 208))));
        m = mul(d, set1(-32));
    }
}

/// out[r][t] = x[t] . w[r]. 16 groups at a time: their scales stay in registers.
template <int32_t type, int R, int N>
inline void byte_dot_tile(const nt_weight &w, int64_t o, const PackedBytes &x, float (*out)[kDotRows]) {
    constexpr int64_t group = group_of(type), per_step = 64 / group, span = 16 * group;
    const int64_t I = w.columns, blocks = x.width / 32;
    const Block block = block_of(type);
    const __m512i pick = per_step == 4 ? _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0)
                                       : _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const uint8_t *first = row_of(w, o);
    const int64_t row_bytes = I / block.elements * block.bytes;
    Vec sums[R][N], rest[R][N];
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) sums[r][t] = rest[r][t] = zero();
    for (int64_t from = 0; from < I; from += span) {
        const int64_t count = I - from < span ? I - from : span, groups = (count + group - 1) / group;
        const uint8_t *chunk = first + from / block.elements * block.bytes;
        Vec products[R][N];
        for (int r = 0; r < R; ++r) {
            for (int64_t line = 0; line < count / block.elements * block.bytes; line += 64)
                prefetch(chunk + r * row_bytes + line);
            Vec d, m;
            chunk_scales<type>(chunk + r * row_bytes, w.scales ? w.scales[o + r] : 1, groups, d, m);
            for (int t = 0; t < N; ++t) {
                const int64_t at = t * blocks + from / 32;
                Vec dx, sx;
                if constexpr (group == 32) {
                    dx = load(x.scales + at);
                    sx = load(x.sums + at);
                } else {
                    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
                    dx = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(x.scales + at)));
                    sx = load(x.half_sums + 2 * at);
                }
                products[r][t] = mul(d, dx);
                rest[r][t] = fma(m, sx, rest[r][t]);
            }
        }
        const int8_t *codes = x.codes + from;
        const auto step = [&](int64_t s) {
            const __m512i groups_of_step = _mm512_add_epi32(pick, _mm512_set1_epi32(int(per_step * s)));
            for (int r = 0; r < R; ++r) {
                const __m512i q = codes64<type>(chunk + r * row_bytes, s, count);
                for (int t = 0; t < N; ++t) {
                    const __m512i xq = _mm512_loadu_si512(codes + t * x.width + 64 * s);
                    const Vec whole = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), q, xq));
                    sums[r][t] = fma(whole, _mm512_permutexvar_ps(groups_of_step, products[r][t]), sums[r][t]);
                }
            }
        };
        if (count == span) {
#pragma clang loop unroll(full)
            for (int64_t s = 0; s < span / 64; ++s) step(s);
        } else {
            for (int64_t s = 0; 64 * s < count; ++s) step(s);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < N; ++t) out[r][t] = sum(add(sums[r][t], rest[r][t]));
}

/// 16 rows of x as lanes against R rows of codes. q [R][kPanel], d, m [R][kPanel / group]; out [R][L] +=
template <int64_t group, int R>
inline void byte_lane_tile(
    const uint8_t (*q)[kPanel], const float (*d)[kPanel / 16], const float (*m)[kPanel / 16], const int8_t *codes,
    const float *scales, const float *group_sums, int64_t groups, float *out) {
    Vec sums[R];
    for (int r = 0; r < R; ++r) sums[r] = load(out + r * L);
    for (int64_t g = 0; g < groups; ++g) {
        __m512i whole[R];
        for (int r = 0; r < R; ++r) whole[r] = _mm512_setzero_si512();
        for (int64_t quad = g * group / 4; quad < (g + 1) * group / 4; ++quad) {
            const __m512i v = _mm512_loadu_si512(codes + quad * 4 * L);
            for (int r = 0; r < R; ++r) {
                int four;
                memcpy(&four, q[r] + 4 * quad, 4);
                whole[r] = _mm512_dpbusd_epi32(whole[r], _mm512_set1_epi32(four), v);
            }
        }
        const Vec dx = load(scales + g * group / 32 * L);
        const Vec sx = load(group_sums + g * L);
        for (int r = 0; r < R; ++r) {
            sums[r] = fma(_mm512_cvtepi32_ps(whole[r]), mul(set1(d[r][g]), dx), sums[r]);
            sums[r] = fma(set1(m[r][g]), sx, sums[r]);
        }
    }
    for (int r = 0; r < R; ++r) store(out + r * L, sums[r]);
}

/// `count` codes of a row with their scales; whole 64s of codes and 16s of scales are written.
template <int32_t type>
inline void decode_panel(const uint8_t *row, float row_scale, int64_t count, uint8_t *q, float *d, float *m) {
    constexpr int64_t group = group_of(type), span = 16 * group;
    const Block block = block_of(type);
    for (int64_t from = 0; from < count; from += span) {
        const int64_t left = count - from < span ? count - from : span;
        const uint8_t *chunk = row + from / block.elements * block.bytes;
        Vec scale, least;
        chunk_scales<type>(chunk, row_scale, (left + group - 1) / group, scale, least);
        store(d + from / group, scale);
        store(m + from / group, least);
        for (int64_t s = 0; 64 * s < left; ++s) _mm512_storeu_si512(q + from + 64 * s, codes64<type>(chunk, s, left));
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
            in_tiles<(N > 2 ? 2 : 4)>(begin, end, [&](auto R, int64_t o) {
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
        float out[4][R * L];
        memset(out, 0, sizeof out);
        for (int64_t i = 0; i < I; i += kPanel) {
            const int64_t count = I - i < kPanel ? I - i : kPanel;
            for (int r = 0; r < R; ++r) {
                const uint8_t *row = row_of(w, o + r) + i / block.elements * block.bytes;
                decode_panel<type>(row, w.scales ? w.scales[o + r] : 1, count, q[r], d[r], m[r]);
            }
            const float *sums = group == 32 ? x.sums : x.half_sums;
            for (int64_t t = 0; t < n; t += L)
                byte_lane_tile<group, R>(
                    q, d, m, x.codes + t * x.width + i * L, x.scales + (t / L * blocks + i / 32) * L,
                    sums + (t / L * (x.width / group) + i / group) * L, (count + group - 1) / group, out[t / L]);
        }
        for (int64_t t = 0; t < n; t += L) sink.lanes<R>(o, t, out[t / L]);
    });
}
