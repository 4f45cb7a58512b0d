// Muon's arithmetic (Jordan et al. 2024, kellerjordan.github.io/posts/muon): matrices made orthogonal by products alone.
// m rows, n columns; m <= n
#include "products.h"

using namespace shim;

namespace {

/// out = x x^T [m, m]. It is symmetric: a corner of half its rows and columns is computed once and mirrored, down to
/// blocks whose products are too small to part.
void symmetric_product(at::Tensor out, const at::Tensor &x) {
    const int64_t m = x.size(0), half = m / 2, rest = m - half;
    if (m < 256) {
        product_into(out, x, x.t());
        return;
    }
    const auto top = x.narrow(0, 0, half), bottom = x.narrow(0, half, rest);
    symmetric_product(out.narrow(0, 0, half).narrow(1, 0, half), top);
    symmetric_product(out.narrow(0, half, rest).narrow(1, half, rest), bottom);
    const auto corner = out.narrow(0, half, rest).narrow(1, 0, half);
    product_into(corner, bottom, top.t());
    out.narrow(0, 0, half).narrow(1, half, rest).copy_(corner.t());
}

/// Steps of x = a x + (b A + c A A) x with A = x x^T, which act on singular values as s -> a s + b s^3 + c s^5.
at::Tensor orthogonalized(const at::Tensor &given, const ct_orthogonalization &o) {
    TORCH_CHECK(given.dim() == 2, "a matrix is needed, not ", given.sizes());
    const bool is_tall = given.size(0) > given.size(1);
    // Singular values at most 1: they are no larger than the Frobenius norm.
    const double norm = at::linalg_vector_norm(given).item().toDouble() * o.norm_factor;
    auto x = (is_tall ? given.t() : given).div(std::max(norm, 1e-7)).to(scalar_type(o.products)).contiguous();
    auto gram = at::empty({x.size(0), x.size(0)}, x.options()), polynomial = at::empty_like(gram);
    for (size_t step = 0; step < o.steps; ++step) {
        const double *abc = o.coefficients + 3 * step;
        symmetric_product(gram, x);
        symmetric_product(polynomial, gram);
        polynomial.mul_(abc[2]).add_(gram, abc[1]);
        auto next = x.mul(abc[0]);
        product_into(next, polynomial, x, /*adds=*/true);
        x = next;
    }
    return (is_tall ? x.t() : x).to(given.scalar_type());
}

}  // namespace

ct_status ct_orthogonalized(ct_tensor x, const ct_orthogonalization *orthogonalization, ct_tensor *out) {
    return giving(out, [&] {
        c10::NoGradGuard no_grad;
        return orthogonalized(get(x), *orthogonalization).contiguous();
    });
}

ct_status ct_muon_inplace(
    ct_tensor value, ct_tensor gradient, ct_tensor momentum, int64_t parts, const ct_muon_options *options,
    const ct_orthogonalization *orthogonalization) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        const auto p = get(value), m = get(momentum), g = get(gradient).to(p.scalar_type()) * options->gradient_scale;
        TORCH_CHECK(
            p.dim() == 2 && g.sizes() == p.sizes() && m.sizes() == p.sizes() && parts > 0 && p.size(0) % parts == 0, "gradient ",
            g.sizes(), " and momentum ", m.sizes(), " of a matrix ", p.sizes(), " of ", parts, " parts");
        m.lerp_(g, 1 - options->momentum);
        const auto u = g.lerp(m, options->momentum);
        const int64_t rows = p.size(0) / parts;
        for (int64_t part = 0; part < parts; ++part) {
            const auto o = orthogonalized(u.narrow(0, part * rows, rows), *orthogonalization);
            p.narrow(0, part * rows, rows)
                .mul_(1 - options->learning_rate * options->weight_decay)
                .add_(o, -options->learning_rate * options->scale);
        }
    });
}
