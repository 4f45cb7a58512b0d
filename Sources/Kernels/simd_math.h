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

// Four accumulators, so that a sum does not wait for its own last addition. Four s{}; starts at 0. (No initializer here:
// a constructor made by the compiler would not get the instruction set.)
struct Four {
    F at[4];
};
NT_INLINE float sum(const Four &x) { return sum((x.at[0] + x.at[1]) + (x.at[2] + x.at[3])); }
NT_INLINE float largest(const Four &x) { return largest(max(max(x.at[0], x.at[1]), max(x.at[2], x.at[3]))); }

// e^x, error below 2 ulp: e^x = 2^n e^r, |r| <= ln 2 / 2, n ln 2 subtracted in two parts, then a minimax polynomial
// (coefficients of Cephes' expf, Moshier). 0 below least_exponent, infinity above 88.72; NaN stays.
NT_INLINE F exp(F x) {
    const F bounded = min(set(89.0f), max(set(least_exponent - 1), x));
    const F n = round(bounded * set(1.44269504f));
    const F r = fnma(n, set(-2.12194440e-4f), fnma(n, set(0.693359375f), bounded));
    F p = fma(set(1.9875691500e-4f), r, set(1.3981999507e-3f));
    p = fma(p, r, set(8.3334519073e-3f));
    p = fma(p, r, set(4.1665795894e-2f));
    p = fma(p, r, set(1.6666665459e-1f));
    p = fma(p, r, set(5.0000001201e-1f));
    p = fma(p, r * r, r + set(1.0f));
    // In two factors, so that n = 128 does not overflow where e^x does not.
    const F half = round(n * set(0.5f));
    return select(less(x, set(least_exponent)), zero(), scale(scale(p, half), n - half));
}

// 1 / (1 + e^-x)
NT_INLINE F sigmoid(F x) { return set(1.0f) / (set(1.0f) + exp(zero() - x)); }

// tanh x: an odd polynomial near 0, where 1 - 2 / (e^2x + 1) cancels (coefficients of Cephes' tanhf, Moshier).
NT_INLINE F tanh(F x) {
    const F a = abs(x), z = x * x;
    F p = fma(set(-5.70498872745e-3f), z, set(2.06390887954e-2f));
    p = fma(p, z, set(-5.37397155531e-2f));
    p = fma(p, z, set(1.33314422036e-1f));
    p = fma(p, z, set(-3.33332819422e-1f));
    const F far = set(1.0f) - set(2.0f) / (exp(a + a) + set(1.0f));
    return select(less(a, set(0.625f)), fma(p * z, x, x), copy_sign(far, x));
}
