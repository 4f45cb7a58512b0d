// A weight's gradient: the C entries, and the scalar twin with sums in fp64.
#include "gradient.h"

#include "gradient_types.h"
#include "isa.h"

using namespace nt_gradient;

static void twin(const Arguments &a, nt_parallel parallel) {
    nt::run_each(parallel, a.O, [&](int64_t o) {
        for (int64_t i = 0; i < a.I; ++i) {
            double sum = 0;
            for (int64_t n = 0; n < a.N; ++n)
                sum += double(nt::widened(a.dy[n * a.dy_stride + o])) * double(nt::widened(a.x[n * a.x_stride + i]));
            float &to = a.dw[o * a.dw_stride + i];
            to = float(a.adds ? double(to) + sum : sum);
        }
    });
}

extern "C" int nt_weight_gradient_is_fast(void) { return nt_isa_level() >= 4; }

extern "C" size_t nt_weight_gradient_scratch_bytes(int64_t N, int64_t I, int64_t parts) {
    if (!nt_weight_gradient_is_fast()) return 0;
    return size_t(rounded_up(I, panel) * rounded_up(N, panel) / 2 + parts * part_words) * sizeof(float) + 64;
}

extern "C" void nt_weight_gradient_bf16(int64_t N, int64_t O, int64_t I, const uint16_t *dy, int64_t dy_stride,
                                        const uint16_t *x, int64_t x_stride, int adds, float *dw, int64_t dw_stride,
                                        int64_t parts, void *scratch, nt_parallel parallel) {
    const Arguments a{N, O, I, dy, dy_stride, x, x_stride, adds != 0, dw, dw_stride, parts};
#if defined(__x86_64__)
    if (nt_weight_gradient_is_fast()) {
        float *packed = nt::aligned(scratch);
        float *of_parts = packed + a.x_panels() * a.pairs() * panel;
        nt::run_each(parallel, a.pairs() / 16, [&](int64_t i) { amx::pack_x(a, i, packed); });
        nt::run_each(parallel, parts, [&](int64_t part) {
            for (int64_t index = a.tasks() * part / parts; index < a.tasks() * (part + 1) / parts; ++index)
                amx::task(a, packed, index, of_parts + part * part_words);
        });
        return;
    }
#endif
    twin(a, parallel);
}
