// Dropout on vectors. Compiled per instruction set by dropout.cpp.

// A lane of 64 bits for each block of the generator: of the four words of its state only the lower halves count, which
// is what the product of two 32-bit numbers reads.
typedef uint64_t Blocks __attribute__((vector_size(sizeof(F))));

#if NT_ISA == 1
constexpr Blocks block_order = {0, 2, 1, 3};
NT_INLINE Blocks times(Blocks a, Blocks b) { return Blocks(_mm256_mul_epu32(I(a), I(b))); }
NT_INLINE I even_lanes(Blocks a, Blocks b) { return _mm256_unpacklo_epi64(I(a), I(b)); }
NT_INLINE I odd_lanes(Blocks a, Blocks b) { return _mm256_unpackhi_epi64(I(a), I(b)); }
#else
constexpr Blocks block_order = {0, 4, 1, 5, 2, 6, 3, 7};
NT_INLINE Blocks times(Blocks a, Blocks b) { return Blocks(_mm512_mul_epu32(I(a), I(b))); }
NT_INLINE I even_lanes(Blocks a, Blocks b) { return _mm512_unpacklo_epi64(I(a), I(b)); }
NT_INLINE I odd_lanes(Blocks a, Blocks b) { return _mm512_unpackhi_epi64(I(a), I(b)); }
#endif
NT_INLINE Blocks all(uint64_t x) { return Blocks{} + x; }

// What stays from block to block of a stream: the keys of the ten rounds.
struct Rounds {
    Blocks stream, keys[10][2];
};
NT_INLINE void make_rounds(uint64_t seed, uint64_t stream, Rounds &rounds) {
    rounds.stream = all(stream);
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int i = 0; i < 10; ++i, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
        rounds.keys[i][0] = all(k0);
        rounds.keys[i][1] = all(k1);
    }
}

// Words 4 block ..< 4 block + 2 count lanes of the stream, from Philox4x32-10 (nt_philox4x32). A round waits for its
// products: `count` chains of them go side by side.
template <int count> NT_INLINE void random_words(const Rounds &rounds, uint64_t block, I *words) {
    const Blocks m0 = all(0xD2511F53), m1 = all(0xCD9E8D57), lower = all(0xFFFFFFFF);
    Blocks c[count][4];
    for (int k = 0; k < count; ++k) {
        c[k][0] = block_order + (block + uint64_t(k * lanes / 2));
        c[k][1] = c[k][0] >> 32;
        c[k][2] = rounds.stream;
        c[k][3] = rounds.stream >> 32;
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 10; ++i)
        for (int k = 0; k < count; ++k) {
            const Blocks p0 = times(c[k][0], m0), p1 = times(c[k][2], m1);
            c[k][0] = p1 >> 32 ^ (c[k][1] ^ rounds.keys[i][0]);
            c[k][2] = p0 >> 32 ^ (c[k][3] ^ rounds.keys[i][1]);
            c[k][1] = p1;
            c[k][3] = p0;
        }
    for (int k = 0; k < count; ++k) {
        const Blocks front = (c[k][0] & lower) | c[k][1] << 32, back = (c[k][2] & lower) | c[k][3] << 32;
        words[2 * k] = even_lanes(front, back);
        words[2 * k + 1] = odd_lanes(front, back);
    }
}

template <class T, bool adds, class Part>
NT_INLINE void keep_some(const T *x, T *out, F scale, F threshold, I words, Part part) {
    const F there = adds ? load(out, part) : zero();
    const F kept = adds ? fma(load(x, part), scale, there) : load(x, part) * scale;
    store_exactly(out, select(less(to_float(down<8>(words)), threshold), there, kept), part);
}

template <class T, bool adds> void dropout(const Dropout<T> &a, int64_t begin, int64_t end) {
    constexpr int chains = 2;
    constexpr int64_t step = 2 * chains * lanes;
    const F scale = set(a.scale), threshold = set(a.threshold);
    Rounds rounds;
    make_rounds(a.seed, a.stream, rounds);
    const int64_t stop = std::min(a.count, end * group);
    for (int64_t i = begin * group; i < stop; i += step) {
        I words[2 * chains];
        random_words<chains>(rounds, uint64_t(i) / 4, words);
        const auto some = [&](int64_t k, auto part) NT_LAMBDA {
            keep_some<T, adds>(a.x + i + k * lanes, a.out + i + k * lanes, scale, threshold, words[k], part);
        };
        if (i + step <= stop)
            for (int64_t k = 0; k < 2 * chains; ++k) some(k, Full{});
        else
            for (int64_t k = 0; i + k * lanes < stop; ++k) some(k, tail(std::min(lanes, stop - i - k * lanes)));
    }
}
