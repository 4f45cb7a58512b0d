// Dropout: arguments, the scalar twin, the C entries. Formula: include/dropout.h.
#include "dropout.h"

#include "dispatch.h"
#include "kernels.h"

namespace {

template <class T> struct Dropout {
    uint64_t seed, stream;
    int64_t count;
    const T *x;
    T *out;
    nt_twin::Wide<T> scale;
    float threshold;  // p 2^24: dropped where word >> 8 is below
};

constexpr int64_t group = 64;  // elements: whole vectors and whole blocks of the generator at every level

float scale_of(double p, float) { return float(1 / (1 - p)); }
float scale_of(double p, bf16) { return nt::widened(nt::rounded(float(1 / (1 - p)))); }
double scale_of(double p, double) { return double(float(1 / (1 - p))); }

}  // namespace

namespace nt_twin {

// Groups begin ..< end.
template <class T, bool adds> void dropout(const Dropout<T> &a, int64_t begin, int64_t end) {
    const uint32_t key[2] = {uint32_t(a.seed), uint32_t(a.seed >> 32)};
    for (int64_t i = begin * group; i < std::min(a.count, end * group); i += 4) {
        const uint64_t block = uint64_t(i) / 4;
        const uint32_t counter[4] = {uint32_t(block), uint32_t(block >> 32), uint32_t(a.stream), uint32_t(a.stream >> 32)};
        uint32_t words[4];
        nt_philox4x32(counter, key, words);
        for (int64_t k = 0; k < std::min<int64_t>(4, a.count - i); ++k) {
            const double kept = float(words[k] >> 8) < a.threshold ? 0 : get(a.x[i + k]) * double(a.scale);
            put(a.out[i + k], adds ? get(a.out[i + k]) + kept : kept);
        }
    }
}

}  // namespace nt_twin

#define NT_BODY "dropout.simd.h"
#include "each_isa.h"

NT_DISPATCH(dropout)

#define NT_ENTRY(T, S)                                                                                               \
    extern "C" void nt_dropout_##S(const nt_dropout *d, int64_t count, const T *x, T *out, int adds,                 \
                                   nt_parallel parallel) {                                                           \
        const Dropout<T> a{d->seed, d->stream, count, x, out, scale_of(d->probability, T()),                         \
                           float(d->probability) * 0x1p24f};                                                         \
        const auto range = adds ? picked_dropout<T, true>() : picked_dropout<T, false>();                            \
        nt::run(parallel, nt::pieces(count, group), nt::row_grain(group), range, a);                                 \
    }

NT_ENTRY(uint16_t, bf16)
NT_ENTRY(float, f32)
NT_ENTRY(double, f64)
