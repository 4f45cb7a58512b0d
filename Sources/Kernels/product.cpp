// The product of two matrices in fp32: the C entries, and the scalar twin with sums in fp64.
#include "product.h"

#include "isa.h"
#include "product_types.h"

using namespace nt_products;

static void twin(const nt_product &p, nt_parallel parallel) {
    nt::run_each(parallel, p.M, [&](int64_t i) {
        for (int64_t j = 0; j < p.N; ++j) {
            double sum = 0;
            for (int64_t k = 0; k < p.K; ++k)
                sum += double(p.a[i * p.a_row + k * p.a_column]) * double(p.b[k * p.b_row + j * p.b_column]);
            float &to = p.c[i * p.c_row + j];
            to = float(p.adds ? double(to) + p.alpha * sum : p.alpha * sum);
        }
    });
}

static int64_t packed_a_floats() { return most_rows * most_steps; }

extern "C" size_t nt_product_scratch_bytes(const nt_product *p) {
    return size_t(block_columns(*p) * block_steps(*p) + p->parts * packed_a_floats()) * sizeof(float) + 64;
}

#if defined(__x86_64__)
static void multiply_block(const nt_product &p, const Block &block, float *packed_b, float *packed_a,
                           nt_parallel parallel) {
    nt::run(parallel, pieces(block.columns, panel_columns), /*grain=*/2, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; ++panel)
            avx2::pack_columns(p, block, panel, packed_b + panel * panel_columns * block.steps);
    });
    nt::run_each(parallel, p.parts, [&](int64_t part) {
        avx2::multiply(p, block, task(p, block, part), packed_b, packed_a + part * packed_a_floats());
    });
}
#endif

extern "C" void nt_product_f32(const nt_product *product, void *scratch, nt_parallel parallel) {
    const nt_product &p = *product;
#if defined(__x86_64__)
    if (nt_isa_level() >= 1 && p.K > 0) {
        float *packed_b = nt::aligned(scratch);
        const int64_t steps = block_steps(p), columns = block_columns(p);
        for (int64_t column = 0; column < p.N; column += columns)
            for (int64_t step = 0; step < p.K; step += steps)
                multiply_block(p,
                               {column, std::min(columns, p.N - column), step, std::min(steps, p.K - step),
                                p.adds != 0 || step > 0},
                               packed_b, packed_b + columns * steps, parallel);
        return;
    }
#endif
    twin(p, parallel);
}
