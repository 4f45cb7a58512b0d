// Packed weights on vectors. Compiled per instruction set by packed.cpp.

// table[code] for codes of 4 bits; what is above them is not looked at.
NT_INLINE F nf4_value(I code) {
#if NT_ISA == 1
    const F low = _mm256_permutevar8x32_ps(load(nf4_values, Full{}), code);
    const F high = _mm256_permutevar8x32_ps(load(nf4_values + 8, Full{}), code);
    return _mm256_blendv_ps(low, high, floats(up<28>(code)));  // by the sign: bit 3
#else
    return lookup(nf4_values, code);
#endif
}

// `count` elements in whole blocks, at most nt::kPanel, as fp32.
template <auto type> void decode_part(const nt_packed &w, int64_t row, int64_t begin, int64_t count, float *out) {
    const uint8_t *block = nt::packed_at(w, row, begin);
    if constexpr (type == NT_W_NF4) {
        for (int64_t i = 0; i < count; i += 64, block += 32) {
            const F scale = set(nt::nf4_scale(w, row, (begin + i) / 64));
            for (int64_t j = 0; j < 32; j += lanes) {
                const I pair = load_whole(block + j, Full{});
                store(out + i + j, nf4_value(pair) * scale, Full{});
                store(out + i + 32 + j, nf4_value(down<4>(pair)) * scale, Full{});
            }
        }
    } else if constexpr (type == NT_W_BF16) {
        nt_f32_from_bf16(block, out, size_t(count));
    } else if constexpr (type == NT_W_F16) {
        nt_f32_from_f16(block, out, size_t(count));
    } else if constexpr (type == NT_W_TAUGHT) {
        nt::taught_part(w.type, block, count, out);
    } else {
        constexpr nt::Coded form = nt::coded(type);
        uint8_t q[nt::kPanel];
        float d[nt::kPanel / 16], m[nt::kPanel / 16];
        nt::packed_codes<type>(block, count, q, d, m);
        const F offset = set(float(form.offset));
        for (int64_t i = 0; i < count; i += form.group)
            for (int64_t j = 0; j < form.group; j += lanes) {
                const F scaled = (to_float(load_whole(q + i + j, Full{})) - offset) * set(d[i / form.group]);
                store(out + i + j, form.has_minima ? scaled + set(m[i / form.group]) : scaled, Full{});
            }
    }
}

template <class T, auto type> void decode_rows(const Decode<T> &a, int64_t begin, int64_t end) {
    const int64_t block = nt::packed_block_of(type).elements;
    alignas(64) float panel[nt::kPanel];
    for (int64_t row = begin; row < end; ++row)
        for (int64_t from = 0; from < a.columns; from += nt::kPanel) {
            const int64_t there = std::min(nt::kPanel, a.columns - from), count = (there + block - 1) / block * block;
            T *out = a.out + row * a.stride + from;
            if constexpr (std::is_same_v<T, float>) {
                if (there == count) {
                    decode_part<type>(a.w, a.row + row, a.column + from, count, out);
                    continue;
                }
            }
            decode_part<type>(a.w, a.row + row, a.column + from, count, panel);
            each(there, [&](int64_t i, auto part, auto) NT_LAMBDA { store_exactly(out + i, load(panel + i, part), part); });
        }
}

template <int count> NT_INLINE float largest_magnitude(const float *x) {
    F most = zero();
    for (int i = 0; i < count; i += lanes) most = max(most, abs(load(x + i, Full{})));
    return largest(most);
}

template <class T> void nf4_encode(const Encode<T> &a, int64_t begin, int64_t end) {
    const int64_t blocks = nt::blocks_of_row(NT_W_NF4, a.columns);
    for (int64_t row = begin; row < end; ++row)
        for (int64_t b = 0; b < blocks; ++b) {
            float x[64];
            uint8_t codes[64];
            row_part(a, row, 64 * b, 64, x);
            const float most = largest_magnitude<64>(x);
            const F divisor = set(most > 0 ? most : 1);
            for (int i = 0; i < 64; i += lanes) {
                const F share = load(x + i, Full{}) / divisor;
                I code = set_whole(0);
                for (float middle : nf4_middles.at) code = plus_one_where(less(set(middle), share), code);
                store_whole(codes + i, code, Full{});
            }
            a.magnitudes[row * blocks + b] = most;
            store_nf4(codes, a.data + (row * blocks + b) * 32);
        }
}

template <class T> void q8_0_encode(const Encode<T> &a, int64_t begin, int64_t end) {
    const int64_t blocks = nt::blocks_of_row(NT_W_Q8_0, a.columns);
    for (int64_t row = begin; row < end; ++row)
        for (int64_t b = 0; b < blocks; ++b) {
            float x[32];
            row_part(a, row, 32 * b, 32, x);
            const float d = largest_magnitude<32>(x) / 127, inverse = q8_0_inverse(d);
            uint8_t *out = a.data + (row * blocks + b) * 34;
            nt_f16_from_f32(&d, out, 1);
            for (int i = 0; i < 32; i += lanes) {
                const F v = load(x + i, Full{}) * set(inverse), whole = to_float(truncated(abs(v)));
                const F half = to_float(truncated((abs(v) - whole) * set(2.0f)));  // halves away from 0
                store_whole(out + 2 + i, both(truncated(copy_sign(whole + half, v)), set_whole(255)), Full{});
            }
        }
}
