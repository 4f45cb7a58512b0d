// Loops and functions over the vectors of simd.h, which includes this file in the namespace of each instruction set.

NT_INLINE F first(F x, Full) { return x; }
NT_INLINE F first(F x, Tail part) { return first_or(x, zero(), part); }

template <class Body> NT_INLINE void each(int64_t count, Body &&body) {
    int64_t i = 0;
    for (; i + 4 * lanes <= count; i += 4 * lanes) {
        body(i, Full{}, Slot<0>{});
        body(i + lanes, Full{}, Slot<1>{});
        body(i + 2 * lanes, Full{}, Slot<2>{});
        body(i + 3 * lanes, Full{}, Slot<3>{});
    }
    for (; i + lanes <= count; i += lanes) body(i, Full{}, Slot<0>{});
    if (i < count) body(i, tail(count - i), Slot<1>{});
}

template <class Part> NT_INLINE void store_exactly(float *p, F x, Part part) { store(p, x, part); }

// Four accumulators, so that a sum does not wait for its own last addition; `Four s{};` starts at 0.
struct Four {
    F at[4];
};
NT_INLINE float sum(const Four &x) { return sum((x.at[0] + x.at[1]) + (x.at[2] + x.at[3])); }
NT_INLINE float largest(const Four &x) { return largest(max(max(x.at[0], x.at[1]), max(x.at[2], x.at[3]))); }

// e^x, error below 2 ulp: e^x = 2^n e^r, |r| <= ln 2 / 2, n ln 2 subtracted in two parts, then a minimax polynomial
// (coefficients of Cephes' expf, Moshier). Above 88.72 it stays what it is there, finite; NaN stays NaN.
NT_INLINE F exp(F x) {
    const F bounded = min(set(88.7228f), max(set(least_exponent), x));
    const F n = round(bounded * set(1.44269504f));
    const F r = fnma(n, set(-2.12194440e-4f), fnma(n, set(0.693359375f), bounded));
    F p = fma(set(1.9875691500e-4f), r, set(1.3981999507e-3f));
    p = fma(p, r, set(8.3334519073e-3f));
    p = fma(p, r, set(4.1665795894e-2f));
    p = fma(p, r, set(1.6666665459e-1f));
    p = fma(p, r, set(5.0000001201e-1f));
    return power(fma(p, r * r, r + set(1.0f)), n, x);
}

// 1 / (1 + e^-x)
NT_INLINE F sigmoid(F x) { return reciprocal(set(1.0f) + exp(zero() - x)); }

// tanh x as a quotient of an odd and an even polynomial, 1 within fp32 beyond 7.9 (coefficients of Eigen's ptanh).
NT_INLINE F tanh(F x) {
    const F a = min(set(7.90531110763549805f), max(set(-7.90531110763549805f), x)), z = a * a;
    F p = fma(z, set(-2.76076847742355e-16f), set(2.00018790482477e-13f));
    p = fma(p, z, set(-8.60467152213735e-11f));
    p = fma(p, z, set(5.12229709037114e-08f));
    p = fma(p, z, set(1.48572235717979e-05f));
    p = fma(p, z, set(6.37261928875436e-04f));
    p = fma(p, z, set(4.89352455891786e-03f));
    F q = fma(z, set(1.19825839466702e-06f), set(1.18534705686654e-04f));
    q = fma(q, z, set(2.26843463243900e-03f));
    q = fma(q, z, set(4.89352518554385e-03f));
    return a * p * reciprocal(q);
}
