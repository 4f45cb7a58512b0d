// AdamW, its 8-bit state, split masters and the gradient norm on vectors. Compiled per instruction set by optimizer.cpp.

// The part of a flat buffer that blocks begin ..< end hold: f(i, part, slot) with i from the buffer's start.
template <class A, class Body> NT_INLINE void each_of(const A &a, int64_t begin, int64_t end, Body &&body) {
    const int64_t start = begin * flat_block, stop = std::min(a.count, end * flat_block);
    each(stop - start, [&](int64_t i, auto part, auto slot) NT_LAMBDA { body(start + i, part, slot); });
}

// An fp32 number from its split halves, and back (include/optimizer.h).
template <class Part> NT_INLINE F join(const bf16 *high, const uint16_t *low, Part part) {
    const I distance = down_signed<16>(up<16>(load_whole(low, part)));
    return floats(add(up<16>(load_whole(high, part)), distance));
}
template <class Part> NT_INLINE void cut(F x, bf16 *high, uint16_t *low, Part part) {
    const I plain_nan = both(either(bits(x), set_whole(0x400000)), set_whole(int32_t(0xFFFF0000)));
    const I b = select(is_nan(x), plain_nan, bits(x));
    store_whole(high, down<16>(add(b, set_whole(0x8000))), part);
    store_whole(low, b, part);
}

template <Master master, class Part> NT_INLINE F load_master(const AdamW<float> &a, int64_t i, Part part) {
    if constexpr (master == split) return join(a.high + i, a.low + i, part);
    else return load(a.p + i, part);
}
template <Master master, class Part> NT_INLINE void store_master(const AdamW<float> &a, int64_t i, F p, Part part) {
    if constexpr (master == split) {
        cut(p, a.high + i, a.low + i, part);
    } else {
        store(a.p + i, p, part);
        if constexpr (master == copied) store_exactly(a.high + i, p, part);
    }
}

template <bool narrow, class Part> NT_INLINE F load_gradient(const AdamW<float> &a, int64_t i, Part part) {
    if constexpr (narrow) return load(a.narrow_g + i, part);
    else return load(a.g + i, part);
}

// The numbers of a step, ready for use: p' = keep p - rate moved, moved = m / (sqrt(v) root + epsilon).
struct Step {
    F scale, beta1, rest1, beta2, rest2, keep, rate, root, epsilon;
};
NT_INLINE Step make_step(const nt_adamw_options &o) {
    return {set(float(o.gradient_scale)),
            set(float(o.beta1)),
            set(float(1 - o.beta1)),
            set(float(o.beta2)),
            set(float(1 - o.beta2)),
            set(float(1 - o.learning_rate * o.weight_decay)),
            set(float(o.learning_rate / o.correction1)),
            set(float(1 / std::sqrt(o.correction2))),
            set(std::max(float(o.epsilon), 1e-30f))};  // not 0: past a buffer's end everything is 0, and 0 / epsilon too
}
// The new moments and what follows from them.
NT_INLINE F moved(const Step &s, F gradient, F &m, F &v) {
    const F g = gradient * s.scale;
    m = fma(s.beta1, m, s.rest1 * g);
    v = fma(s.beta2, v, s.rest2 * g * g);
    return m / fma(sqrt(v), s.root, s.epsilon);
}
NT_INLINE F stepped(const Step &s, F p, F move) { return fnma(s.rate, move, s.keep * p); }

NT_INLINE double sum(const Doubles sums[4]) { return (sum(sums[0]) + sum(sums[1])) + (sum(sums[2]) + sum(sums[3])); }

template <class T, Master master, bool narrow = false> void adamw(const AdamW<T> &a, int64_t begin, int64_t end) {
    const Step s = make_step(a.options);
    for (int64_t block = begin; block < end; ++block) {
        const int64_t start = block * flat_block;
        Doubles sums[4]{};
        each(std::min(flat_block, a.count - start), [&](int64_t j, auto part, auto slot) NT_LAMBDA {
            const int64_t i = start + j;
            F m = load(a.m + i, part), v = load(a.v + i, part);
            const F move = moved(s, load_gradient<narrow>(a, i, part), m, v);
            add_squares(sums[slot], move);
            store(a.m + i, m, part);
            store(a.v + i, v, part);
            store_master<master>(a, i, stepped(s, load_master<master>(a, i, part), move), part);
        });
        a.sums[block] = sum(sums);
    }
}

// The sums of `adamw`; nothing else is written.
template <class T, bool narrow = false> void update_square_sum(const AdamW<T> &a, int64_t begin, int64_t end) {
    const Step s = make_step(a.options);
    for (int64_t block = begin; block < end; ++block) {
        const int64_t start = block * flat_block;
        Doubles sums[4]{};
        each(std::min(flat_block, a.count - start), [&](int64_t j, auto part, auto slot) NT_LAMBDA {
            const int64_t i = start + j;
            F m = load(a.m + i, part), v = load(a.v + i, part);
            add_squares(sums[slot], moved(s, load_gradient<narrow>(a, i, part), m, v));
        });
        a.sums[block] = sum(sums);
    }
}

// A code's number. 2 place + 1, place counted from 0 (from 1 without a sign), has the decade as its exponent and the
// middle of the part as its mantissa.
template <bool is_signed> NT_INLINE F decoded(I code) {
    const Map &map = maps[is_signed];
    const I place = add(code, set_whole(is_signed ? -NT_ADAM8_ZERO_M : 1));
    const F signed_place = to_float(place), q = fma(abs(signed_place), set(2.0f), set(1.0f));
    const I exponent = add(down<23>(bits(q)), set_whole(-127));
    const F mantissa = floats(either(both(bits(q), set_whole(0x7FFFFF)), set_whole(0x3F800000)));
    const F number = fma(mantissa - set(1.0f), lookup(map.slope, exponent), lookup(map.base, exponent));
    return is_signed ? copy_sign(number, signed_place) : number;
}

// The code nearest to x in -1 ... 1.
template <bool is_signed> NT_INLINE I encoded(F x) {
    const Map &map = maps[is_signed];
    const F a = abs(x);
    const I binade = down<23>(bits(max(a, set(0x1p-31f))));  // 96 ... 127, which is 0 ... 31 mod 32
    const I decade = plus_one_where(less(lookup32(map.edges, binade), a), lookup32(map.passed, binade));
    const F place = fma(a, lookup(map.rise, decade), lookup(map.start, decade));
    const F bounded = min(place, lookup(map.most, decade));
    if constexpr (!is_signed) return add(truncated(bounded), set_whole(-1));
    // There is no code for -1.
    const F from_zero = select(less(x, zero()), zero() - min(bounded, set(127.99f)), bounded);
    return add(truncated(from_zero), set_whole(NT_ADAM8_ZERO_M));
}

// x [count] to codes; returns the scale. x may be read up to a whole vector and must be 0 past `count`.
template <bool is_signed> NT_INLINE float encode_block(const float *x, int64_t count, uint8_t *codes) {
    Four most{};
    each(count, [&](int64_t i, auto part, auto slot) NT_LAMBDA {
        most.at[slot] = max(abs(load(x + i, part)), most.at[slot]);
    });
    const float scale = largest(most);
    const F inverse = set(scale > 0 ? 1.0f / scale : 0.0f);
    each(count, [&](int64_t i, auto part, auto) NT_LAMBDA {
        store_whole(codes + i, encoded<is_signed>(load(x + i, part) * inverse), part);
    });
    return scale;
}

template <class T, Master master, bool narrow = false> void adamw8(const AdamW<T> &a, int64_t begin, int64_t end) {
    alignas(64) float kept_m[flat_block], kept_v[flat_block];
    const Step s = make_step(a.options);
    for (int64_t block = begin; block < end; ++block) {
        const int64_t start = block * flat_block, count = std::min(flat_block, a.count - start);
        const F v_scale = set(a.v_scales[block]);
        // Read as 0 past the end, where the codes read as 0, which is not the number 0.
        alignas(64) float m_scale[lanes];
        store(m_scale, set(a.m_scales[block]), Full{});
        Doubles sums[4]{};
        each(count, [&](int64_t j, auto part, auto slot) NT_LAMBDA {
            const int64_t i = start + j;
            F m = decoded<true>(load_whole(a.m_codes + i, part)) * load(m_scale, part);
            F v = decoded<false>(load_whole(a.v_codes + i, part)) * v_scale;
            const F move = moved(s, load_gradient<narrow>(a, i, part), m, v);
            add_squares(sums[slot], move);
            store_master<master>(a, i, stepped(s, load_master<master>(a, i, part), move), part);
            store(kept_m + j, m, part);
            store(kept_v + j, v, part);
        });
        a.sums[block] = sum(sums);
        a.m_scales[block] = encode_block<true>(kept_m, count, a.m_codes + start);
        a.v_scales[block] = encode_block<false>(kept_v, count, a.v_codes + start);
    }
}

template <class T> void encode(const Codes &a, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
        const int64_t start = block * flat_block, count = std::min(flat_block, a.count - start);
        a.scales[block] = a.is_signed ? encode_block<true>(a.x + start, count, a.codes + start)
                                      : encode_block<false>(a.x + start, count, a.codes + start);
    }
}

template <class T> void decode(const Codes &a, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
        const int64_t start = block * flat_block, count = std::min(flat_block, a.count - start);
        const F scale = set(a.scales[block]);
        each(count, [&](int64_t i, auto part, auto) NT_LAMBDA {
            const I code = load_whole(a.codes + start + i, part);
            store(a.x + start + i, (a.is_signed ? decoded<true>(code) : decoded<false>(code)) * scale, part);
        });
    }
}

template <class T> void square_sum(const SquareSum<T> &a, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
        const T *x = a.x + block * sum_block;
        Doubles sums[4]{};
        each(std::min(sum_block, a.count - block * sum_block),
             [&](int64_t i, auto part, auto slot) NT_LAMBDA { add_squares(sums[slot], load(x + i, part)); });
        a.sums[block] = sum(sums);
    }
}

template <class T> void cut_masters(const Flat<T> &a, int64_t begin, int64_t end) {
    each_of(a, begin, end, [&](int64_t i, auto part, auto) NT_LAMBDA {
        cut(load(a.f32 + i, part), a.high + i, a.low + i, part);
    });
}

template <class T> void join_masters(const Flat<T> &a, int64_t begin, int64_t end) {
    each_of(a, begin, end, [&](int64_t i, auto part, auto) NT_LAMBDA {
        store(a.f32 + i, join(a.high + i, a.low + i, part), part);
    });
}
