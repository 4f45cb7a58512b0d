// AdamW, its 8-bit state, split masters and the gradient norm: arguments, the scalar twins, the C entries.
// Formulas: include/optimizer.h.
#include "optimizer.h"

#include <cmath>

#include "dispatch.h"

namespace {

// How a master weight is stored: fp32, with or without a bf16 copy beside it, or split into two halves.
enum Master { whole, copied, split };

template <class T> struct AdamW {
    int64_t count;
    T *p;
    bf16 *high;  // or the copy
    uint16_t *low;
    const T *g;
    const bf16 *narrow_g;  // in the place of g
    T *m, *v;
    uint8_t *m_codes, *v_codes;
    float *m_scales, *v_scales;
    nt_adamw_options options;
    double *sums;  // of squares of the moves, one a block
};

template <class T> struct Flat {
    int64_t count;
    T *f32;
    bf16 *high;
    uint16_t *low;
};

struct Codes {
    int64_t count;
    float *x;
    uint8_t *codes;
    float *scales;
    bool is_signed;
};

template <class T> struct SquareSum {
    int64_t count;
    const T *x;
    double *sums;
};

// Threads take whole blocks: a block's result does not depend on where the threads were cut.
constexpr int64_t flat_block = NT_ADAM8_BLOCK, flat_grain = 128, sum_block = 65536;
int64_t blocks(int64_t count, int64_t block) { return (count + block - 1) / block; }

// The dynamic map: 7 decades, decade i of 2^i codes (2^(i + 1) without a sign): the middles of equal parts of
// 10^(i - 7) ... 10^(i - 6); with 0 and 1.
struct Map {
    float numbers[256];
    // |x| = 2^e ... 2^(e + 1), -31 <= e <= 0, has passed passed[e + 31] thresholds between decades, and one more if it
    // is above edges[e + 31]: 0 thresholds for code 0, i + 1 in decade i, 8 for code 1.
    float edges[32];
    int32_t passed[32];
    // By thresholds passed, a code's place counted from 0 up (from 1 without a sign) is the whole part of
    // min(|x| rise + start, most). It is never too low: a threshold lies above the edge of its decade, halfway to the
    // first code.
    float rise[16], start[16], most[16];
    // The way back, by the exponent of 2 place + 1: number = (mantissa - 1) slope + base
    float slope[16], base[16];
};

Map make_map(bool is_signed) {
    Map map{};
    float thresholds[8];
    const int extra = is_signed ? 0 : 1;  // without a sign there is one bit more
    double positive[256] = {};
    int count = 1;
    for (int i = 0; i < 7; ++i) {
        const int parts = 1 << (i + extra), d = i + 1;
        const double scale = std::pow(10.0, i - 6);
        thresholds[i] = float(0.5 * (positive[count - 1] + scale * (0.1 + 0.45 / parts)));
        for (int k = 0; k < parts; ++k) positive[count++] = scale * (0.1 + 0.9 * (k + 0.5) / parts);
        map.rise[d] = float(parts / 0.9 / scale);
        map.start[d] = float(parts - parts / 9.0);
        map.most[d] = float(2 * parts - 1);
        map.slope[d + extra] = float(0.9 * scale);
        map.base[d + extra] = float(0.1 * scale);
    }
    positive[count++] = 1;
    thresholds[7] = float(0.5 * (positive[count - 2] + 1));
    map.start[0] = map.most[0] = float(extra);
    map.start[8] = map.most[8] = float(128 << extra);
    map.base[8 + extra] = 1;
    for (int i = 0; i < 32; ++i) {
        map.edges[i] = INFINITY;
        for (float threshold : thresholds) {
            const int binade = std::ilogb(threshold) + 31;
            if (binade < i) ++map.passed[i];
            if (binade == i) map.edges[i] = threshold;
        }
    }
    for (int i = 0; i < count; ++i) map.numbers[256 - count + i] = float(positive[i]);
    if (is_signed)
        for (int i = 1; i < 128; ++i) map.numbers[NT_ADAM8_ZERO_M - i] = -float(positive[i]);
    return map;
}

const Map maps[2] = {make_map(false), make_map(true)};

}  // namespace

namespace nt_twin {

inline float join(bf16 high, uint16_t low) {
    return float_of((uint32_t(high) << 16) + uint32_t(int32_t(int16_t(low))));
}
inline void cut(float x, bf16 &high, uint16_t &low) {
    // A NaN near the top of its range would carry into the sign: it becomes a plain one.
    const uint32_t b = x == x ? bits_of(x) : (bits_of(x) | 0x400000) & 0xFFFF0000;
    high = bf16((b + 0x8000) >> 16);
    low = uint16_t(b);
}

// The elements of blocks begin ..< end.
template <class A, class Body> void each_of(const A &a, int64_t begin, int64_t end, Body body) {
    for (int64_t i = begin * flat_block; i < std::min(a.count, end * flat_block); ++i) body(i);
}

template <class T, Master master> double master_at(const AdamW<T> &a, int64_t i) {
    if constexpr (master == split) return join(a.high[i], a.low[i]);
    else return a.p[i];
}

template <class T, Master master> void set_master(const AdamW<T> &a, int64_t i, double x) {
    if constexpr (master == split) {
        cut(float(x), a.high[i], a.low[i]);
    } else {
        a.p[i] = T(x);
        if constexpr (master == copied) a.high[i] = rounded(float(a.p[i]));
    }
}

// The new moments, and what the weight moves by but for rate, correction1 and decay.
template <class T, bool narrow> double moved(const AdamW<T> &a, int64_t i, double &m, double &v) {
    const nt_adamw_options &o = a.options;
    const double g = o.gradient_scale * double(narrow ? T(widened(a.narrow_g[i])) : a.g[i]);
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    return m / (std::sqrt(v / o.correction2) + o.epsilon);
}

// Also adds the move's square to the block's sum.
template <class T, Master master, bool narrow> void step_at(const AdamW<T> &a, int64_t i, double &m, double &v) {
    const nt_adamw_options &o = a.options;
    const double move = moved<T, narrow>(a, i, m, v), p = master_at<T, master>(a, i);
    a.sums[i / flat_block] += move * move;
    set_master<T, master>(a, i, p - o.learning_rate * (move / o.correction1 + o.weight_decay * p));
}

template <class T, Master master, bool narrow = false> void adamw(const AdamW<T> &a, int64_t begin, int64_t end) {
    std::fill(a.sums + begin, a.sums + end, 0);
    each_of(a, begin, end, [&](int64_t i) {
        double m = a.m[i], v = a.v[i];
        step_at<T, master, narrow>(a, i, m, v);
        a.m[i] = T(m);
        a.v[i] = T(v);
    });
}

template <class T, bool narrow = false> void update_square_sum(const AdamW<T> &a, int64_t begin, int64_t end) {
    std::fill(a.sums + begin, a.sums + end, 0);
    each_of(a, begin, end, [&](int64_t i) {
        double m = a.m[i], v = a.v[i];
        const double move = moved<T, narrow>(a, i, m, v);
        a.sums[i / flat_block] += move * move;
    });
}

inline uint8_t nearest_code(const float *numbers, double x) {
    int best = 0;
    for (int code = 1; code < 256; ++code)
        if (std::abs(numbers[code] - x) < std::abs(numbers[best] - x)) best = code;
    return uint8_t(best);
}

inline float encode_block(const Map &map, const double *x, int64_t count, uint8_t *codes) {
    double most = 0;
    for (int64_t i = 0; i < count; ++i) most = std::max(most, std::abs(x[i]));
    for (int64_t i = 0; i < count; ++i) codes[i] = nearest_code(map.numbers, most > 0 ? x[i] / most : 0);
    return float(most);
}

template <class T, Master master, bool narrow = false> void adamw8(const AdamW<T> &a, int64_t begin, int64_t end) {
    double m[flat_block], v[flat_block];
    std::fill(a.sums + begin, a.sums + end, 0);
    for (int64_t block = begin; block < end; ++block) {
        const int64_t start = block * flat_block, count = std::min(flat_block, a.count - start);
        for (int64_t i = 0; i < count; ++i) {
            m[i] = double(maps[1].numbers[a.m_codes[start + i]]) * double(a.m_scales[block]);
            v[i] = double(maps[0].numbers[a.v_codes[start + i]]) * double(a.v_scales[block]);
            step_at<T, master, narrow>(a, start + i, m[i], v[i]);
        }
        a.m_scales[block] = encode_block(maps[1], m, count, a.m_codes + start);
        a.v_scales[block] = encode_block(maps[0], v, count, a.v_codes + start);
    }
}

template <class T> void encode(const Codes &a, int64_t begin, int64_t end) {
    double x[flat_block];
    for (int64_t block = begin; block < end; ++block) {
        const int64_t start = block * flat_block, count = std::min(flat_block, a.count - start);
        for (int64_t i = 0; i < count; ++i) x[i] = double(a.x[start + i]);
        a.scales[block] = encode_block(maps[a.is_signed], x, count, a.codes + start);
    }
}

template <class T> void decode(const Codes &a, int64_t begin, int64_t end) {
    each_of(a, begin, end, [&](int64_t i) {
        a.x[i] = float(double(maps[a.is_signed].numbers[a.codes[i]]) * double(a.scales[i / flat_block]));
    });
}

template <class T> void square_sum(const SquareSum<T> &a, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
        double sum = 0;
        for (int64_t i = block * sum_block; i < std::min(a.count, (block + 1) * sum_block); ++i)
            sum += get(a.x[i]) * get(a.x[i]);
        a.sums[block] = sum;
    }
}

template <class T> void cut_masters(const Flat<T> &a, int64_t begin, int64_t end) {
    each_of(a, begin, end, [&](int64_t i) { cut(a.f32[i], a.high[i], a.low[i]); });
}

template <class T> void join_masters(const Flat<T> &a, int64_t begin, int64_t end) {
    each_of(a, begin, end, [&](int64_t i) { a.f32[i] = join(a.high[i], a.low[i]); });
}

}  // namespace nt_twin

#define NT_BODY "optimizer.simd.h"
#include "each_isa.h"

NT_DISPATCH(adamw)
NT_DISPATCH(adamw8)
NT_DISPATCH(encode)
NT_DISPATCH(decode)
NT_DISPATCH(square_sum)
NT_DISPATCH(update_square_sum)
NT_DISPATCH(cut_masters)
NT_DISPATCH(join_masters)

namespace {

template <class A> void run_flat(nt_parallel parallel, void (*range)(const A &, int64_t, int64_t), const A &a) {
    nt::run(parallel, blocks(a.count, flat_block), flat_grain, range, a);
}

// Sums of blocks in their order, whatever thread made them.
double total(const double *sums, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += sums[i];
    return sum;
}

// Runs a step, or what would be one: the sum of squares of its update.
template <class T>
double run_step(nt_parallel parallel, void (*range)(const AdamW<T> &, int64_t, int64_t), const AdamW<T> &a) {
    run_flat(parallel, range, a);
    return total(a.sums, blocks(a.count, flat_block)) / (a.options.correction1 * a.options.correction1);
}

template <class T> double sum_squares(int64_t count, const T *x, void *scratch, nt_parallel parallel) {
    const SquareSum<T> a{count, x, static_cast<double *>(scratch)};
    const int64_t parts = blocks(count, sum_block);
    nt::run(parallel, parts, 1, picked_square_sum<T>(), a);
    return total(a.sums, parts);
}

}  // namespace

extern "C" {

size_t nt_adamw_scratch_bytes(int64_t count) { return size_t(blocks(count, flat_block)) * sizeof(double); }

double nt_adamw_f32(int64_t count, float *p, const float *g, float *m, float *v, uint16_t *copy,
                    const nt_adamw_options *options, void *scratch, nt_parallel parallel) {
    const AdamW<float> a{.count = count, .p = p, .high = copy, .g = g, .m = m, .v = v,
                         .options = *options, .sums = static_cast<double *>(scratch)};
    return run_step(parallel, copy ? picked_adamw<float, copied>() : picked_adamw<float, whole>(), a);
}

double nt_adamw_f64(int64_t count, double *p, const double *g, double *m, double *v, const nt_adamw_options *options,
                    void *scratch, nt_parallel parallel) {
    const AdamW<double> a{.count = count, .p = p, .g = g, .m = m, .v = v,
                          .options = *options, .sums = static_cast<double *>(scratch)};
    return run_step(parallel, picked_adamw<double, whole>(), a);
}

double nt_adamw_split(int64_t count, uint16_t *high, uint16_t *low, nt_gradient g, float *m, float *v,
                      const nt_adamw_options *options, void *scratch, nt_parallel parallel) {
    const AdamW<float> a{.count = count, .high = high, .low = low, .g = g.f32, .narrow_g = g.bf16, .m = m, .v = v,
                         .options = *options, .sums = static_cast<double *>(scratch)};
    return run_step(parallel, g.bf16 ? picked_adamw<float, split, true>() : picked_adamw<float, split>(), a);
}

double nt_adamw8_f32(int64_t count, float *p, const float *g, uint8_t *m_codes, float *m_scales, uint8_t *v_codes,
                     float *v_scales, uint16_t *copy, const nt_adamw_options *options, void *scratch,
                     nt_parallel parallel) {
    const AdamW<float> a{.count = count, .p = p, .high = copy, .g = g, .m_codes = m_codes, .v_codes = v_codes,
                         .m_scales = m_scales, .v_scales = v_scales, .options = *options,
                         .sums = static_cast<double *>(scratch)};
    return run_step(parallel, copy ? picked_adamw8<float, copied>() : picked_adamw8<float, whole>(), a);
}

double nt_adamw8_split(int64_t count, uint16_t *high, uint16_t *low, nt_gradient g, uint8_t *m_codes, float *m_scales,
                       uint8_t *v_codes, float *v_scales, const nt_adamw_options *options, void *scratch,
                       nt_parallel parallel) {
    const AdamW<float> a{.count = count, .high = high, .low = low, .g = g.f32, .narrow_g = g.bf16, .m_codes = m_codes,
                         .v_codes = v_codes, .m_scales = m_scales, .v_scales = v_scales, .options = *options,
                         .sums = static_cast<double *>(scratch)};
    return run_step(parallel, g.bf16 ? picked_adamw8<float, split, true>() : picked_adamw8<float, split>(), a);
}

double nt_adamw_update_square_sum_f32(int64_t count, nt_gradient g, const float *m, const float *v,
                                      const nt_adamw_options *options, void *scratch, nt_parallel parallel) {
    const AdamW<float> a{.count = count, .g = g.f32, .narrow_g = g.bf16, .m = const_cast<float *>(m),
                         .v = const_cast<float *>(v), .options = *options, .sums = static_cast<double *>(scratch)};
    return run_step(
        parallel, g.bf16 ? picked_update_square_sum<float, true>() : picked_update_square_sum<float>(), a);
}

void nt_adam8_map(int is_signed, float numbers[256]) {
    memcpy(numbers, maps[is_signed != 0].numbers, sizeof(Map::numbers));
}

void nt_adam8_encode(int is_signed, int64_t count, const float *x, uint8_t *codes, float *scales,
                     nt_parallel parallel) {
    run_flat(parallel, picked_encode<float>(), Codes{count, const_cast<float *>(x), codes, scales, is_signed != 0});
}

void nt_adam8_decode(int is_signed, int64_t count, const uint8_t *codes, const float *scales, float *x,
                     nt_parallel parallel) {
    const Codes a{count, x, const_cast<uint8_t *>(codes), const_cast<float *>(scales), is_signed != 0};
    run_flat(parallel, picked_decode<float>(), a);
}

size_t nt_square_sum_scratch_bytes(int64_t count) { return size_t(blocks(count, sum_block)) * sizeof(double); }

double nt_square_sum_f32(int64_t count, const float *x, void *scratch, nt_parallel parallel) {
    return sum_squares(count, x, scratch, parallel);
}

double nt_square_sum_bf16(int64_t count, const uint16_t *x, void *scratch, nt_parallel parallel) {
    return sum_squares(count, x, scratch, parallel);
}

void nt_split_masters(int64_t count, const float *p, uint16_t *high, uint16_t *low, nt_parallel parallel) {
    run_flat(parallel, picked_cut_masters<float>(), Flat<float>{count, const_cast<float *>(p), high, low});
}

void nt_join_masters(int64_t count, const uint16_t *high, const uint16_t *low, float *p, nt_parallel parallel) {
    const Flat<float> a{count, p, const_cast<uint16_t *>(high), const_cast<uint16_t *>(low)};
    run_flat(parallel, picked_join_masters<float>(), a);
}

}  // extern "C"
