// Products of two matrices without autograd.
#include "products.h"

namespace at::native {
// out = beta out + alpha a b by oneDNN; LibTorch exports it without a header.
TORCH_API void mkldnn_matmul(const Tensor &a, const Tensor &b, const Tensor &out, float beta, float alpha);
}  // namespace at::native

namespace shim {

/// ATen gives fp32 products to MKL, which takes its AVX2 code on AVX-512 processors that are not Intel's; oneDNN, which
/// ATen keeps for bf16, asks what the processor can do, and makes 2.2 times the products (docs/decisions/012).
static bool onednn_is_faster() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && !__builtin_cpu_is("intel");
#else
    return false;
#endif
}

static bool takes_onednn(const at::Tensor &a, const at::Tensor &b) {
    static const bool is_faster = onednn_is_faster();
    constexpr int64_t worth_its_call = 1 << 20;  // multiplications; a call of oneDNN costs about 10 us more than MKL's
    return is_faster && a.is_cpu() && a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat && a.dim() == 2 &&
        b.dim() == 2 && a.size(1) == b.size(0) && a.size(0) * a.size(1) * b.size(1) >= worth_its_call;
}

at::Tensor product(const at::Tensor &a, const at::Tensor &b) {
    if (!takes_onednn(a, b)) return at::mm(a, b);
    auto out = at::empty({a.size(0), b.size(1)}, a.options().requires_grad(false));
    at::native::mkldnn_matmul(a, b, out, 0, 1);
    return out;
}

void product_into(at::Tensor out, const at::Tensor &a, const at::Tensor &b, bool adds, double alpha) {
    if (takes_onednn(a, b) && out.scalar_type() == at::kFloat)
        at::native::mkldnn_matmul(a, b, out, adds ? 1 : 0, float(alpha));
    else if (adds)
        out.addmm_(a, b, 1, alpha);
    else if (alpha == 1)
        at::mm_out(out, a, b);
    else
        at::addmm_out(out, out, a, b, 0, alpha);
}

}  // namespace shim
