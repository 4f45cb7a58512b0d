// Times of what an optimizer step passes over memory for, on two threads and 2^25 numbers; best of seven, milliseconds.
//
//   clang++ -O2 -std=c++20 -I Sources/Kernels/include Benchmarks/optimizer.cpp Sources/Kernels/{optimizer,cpu}.cpp \
//       -o /tmp/optimizer -lpthread && /tmp/optimizer
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>
#include <vector>

#include "optimizer.h"

static void two_threads(int64_t count, int64_t, nt_body body, void *context) {
    std::thread other([&] { body(context, 0, count / 2); });
    body(context, count / 2, count);
    other.join();
}

template <class Body> static void report(const char *name, Body body) {
    double best = INFINITY;
    for (int i = 0; i < 7; ++i) {
        const auto start = std::chrono::steady_clock::now();
        body();
        best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    std::printf("%-46s %6.1f\n", name, best);
}

int main() {
    const int64_t N = 1 << 25;
    std::vector<float> p(N), g(N), m(N), v(N), m_scales(N / NT_ADAM8_BLOCK), v_scales(m_scales);
    std::vector<uint16_t> high(N), low(N), narrow(N);
    std::vector<uint8_t> m_codes(N, NT_ADAM8_ZERO_M), v_codes(N);
    std::vector<double> scratch(nt_adamw_scratch_bytes(N) / sizeof(double));
    for (int64_t i = 0; i < N; ++i) {
        p[i] = std::sin(float(i));
        g[i] = std::cos(float(i)) * 1e-2f;
        m[i] = g[i] / 2;
        v[i] = g[i] * g[i];
    }
    nt_split_masters(N, g.data(), narrow.data(), low.data(), two_threads);
    const nt_gradient fp32{g.data(), nullptr}, bf16{nullptr, narrow.data()};
    const nt_adamw_options o{1e-5, 0.9, 0.99, 1e-8, 0.01, 0.5, 0.5, 0.7};
    void *sums = scratch.data();
    report("norm of the gradients", [&] { nt_square_sum_f32(N, g.data(), sums, two_threads); });
    report("norm of the gradients, bf16", [&] { nt_square_sum_bf16(N, narrow.data(), sums, two_threads); });
    report("norm of the update, in a pass of its own",
           [&] { nt_adamw_update_square_sum_f32(N, fp32, m.data(), v.data(), &o, sums, two_threads); });
    report("AdamW, fp32",
           [&] { nt_adamw_f32(N, p.data(), g.data(), m.data(), v.data(), nullptr, &o, sums, two_threads); });
    report("AdamW, fp32 masters with a bf16 copy",
           [&] { nt_adamw_f32(N, p.data(), g.data(), m.data(), v.data(), high.data(), &o, sums, two_threads); });
    nt_split_masters(N, p.data(), high.data(), low.data(), two_threads);
    report("AdamW, split masters",
           [&] { nt_adamw_split(N, high.data(), low.data(), fp32, m.data(), v.data(), &o, sums, two_threads); });
    report("AdamW, split masters, bf16 gradients",
           [&] { nt_adamw_split(N, high.data(), low.data(), bf16, m.data(), v.data(), &o, sums, two_threads); });
    report("AdamW, split masters, 8-bit moments", [&] {
        nt_adamw8_split(N, high.data(), low.data(), fp32, m_codes.data(), m_scales.data(), v_codes.data(),
                        v_scales.data(), &o, sums, two_threads);
    });
    report("8-bit moments to fp32", [&] {
        nt_adam8_decode(1, N, m_codes.data(), m_scales.data(), m.data(), two_threads);
        nt_adam8_decode(0, N, v_codes.data(), v_scales.data(), v.data(), two_threads);
    });
}
