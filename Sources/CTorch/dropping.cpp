// Dropout on its kernel; elsewhere a mask that the kernel makes.
#include "dropping.h"

#include "fused.h"

using torch::autograd::AutogradContext;

namespace shim {

Dropping::Dropping(const ct_dropout &given) : dropout{given.seed, given.stream, given.probability} {
    TORCH_CHECK(given.probability >= 0 && given.probability < 1, "dropout of ", given.probability, " of the elements");
}

/// out = (adds ? out : 0) + what is kept of x: both contiguous, of one dtype that the kernels take.
static void run(const nt_dropout &dropout, const at::Tensor &x, const at::Tensor &out, bool adds) {
    SHIM_NAMED("dropout");
    by_type(x, [&](auto f) {
        using F = decltype(f);
        using T = typename F::T;
        F::dropout(&dropout, x.numel(), data<T>(x), data<T>(out), adds, parallel);
    });
}

at::Tensor Dropping::of(const at::Tensor &given) const {
    if (!drops()) return given;
    const auto x = given.contiguous();
    if (takes_kernel(x)) {
        auto out = temporary(x.sizes(), x.options());
        run(dropout, x, out, /*adds=*/false);
        return out;
    }
    auto mask = at::ones(x.sizes(), at::kFloat);
    run(dropout, mask, mask, /*adds=*/false);
    return at::where(mask.to(x.device()) == 0, at::zeros({}, x.options()), x * mask.to(x.options()));
}

void Dropping::add(at::Tensor sum, const at::Tensor &x) const {
    if (drops() && sum.is_contiguous() && x.is_contiguous() && takes_kernel(x, sum.scalar_type() == x.scalar_type()))
        run(dropout, x, sum, /*adds=*/true);
    else
        sum.add_(of(x));
}

void Dropping::save(AutogradContext *ctx) const {
    ctx->saved_data["dropout_seed"] = int64_t(dropout.seed);
    ctx->saved_data["dropout_stream"] = int64_t(dropout.stream);
    ctx->saved_data["dropout_probability"] = dropout.probability;
}

Dropping Dropping::restored(AutogradContext *ctx) {
    return Dropping(
        {uint64_t(ctx->saved_data["dropout_seed"].toInt()), uint64_t(ctx->saved_data["dropout_stream"].toInt()),
         ctx->saved_data["dropout_probability"].toDouble()});
}

}  // namespace shim
