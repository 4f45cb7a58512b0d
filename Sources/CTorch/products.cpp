// Products of two matrices without autograd.
#include "products.h"

#include <utility>

#include "fused.h"
#include "isa.h"
#include "product.h"

namespace at::native {
// out = beta out + alpha a b by oneDNN; LibTorch exports it without a header.
TORCH_API void mkldnn_matmul(const Tensor &a, const Tensor &b, const Tensor &out, float beta, float alpha);
}  // namespace at::native

namespace shim {

/// Who multiplies.
enum class Maker { aten, onednn, kernel };

/// Who is fastest with large fp32 matrices (docs/decisions/012). ATen gives them to MKL, whose code is Intel's for Intel; on
/// other processors it takes its AVX2 code even where there is AVX-512, and oneDNN, which ATen keeps for bf16, makes 2.2
/// times the products there. Without AVX-512 our own kernel is faster than both.
static Maker fastest() {
#if defined(__x86_64__)
    static const auto [is_intels, has_avx512] = [] {
        __builtin_cpu_init();
        return std::pair(bool(__builtin_cpu_is("intel")), bool(__builtin_cpu_supports("avx512f")));
    }();
    if (is_intels) return Maker::aten;
    if (has_avx512) return Maker::onednn;
    if (nt_isa_level() > 0) return Maker::kernel;
#endif
    return Maker::aten;
}

static bool is_strided(const at::Tensor &x) { return x.stride(0) == 1 || x.stride(1) == 1; }

static Maker maker(const at::Tensor &a, const at::Tensor &b) {
    constexpr int64_t worth_its_call = 1 << 20;  // multiplications; a call of oneDNN costs about 10 us more than MKL's
    const bool fits = a.is_cpu() && a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat && a.dim() == 2 &&
        b.dim() == 2 && a.size(1) == b.size(0) && a.size(0) * a.size(1) * b.size(1) >= worth_its_call;
    if (!fits) return Maker::aten;
    // Of fewer rows memory decides, and fewer columns are padded.
    constexpr int64_t fewest_rows = 4, fewest_columns = 16;
    const bool is_worth_packing =
        a.size(0) >= fewest_rows && b.size(1) >= fewest_columns && is_strided(a) && is_strided(b);
    const Maker maker = fastest();
    return maker == Maker::kernel && !is_worth_packing ? Maker::aten : maker;
}

static void multiply_by_kernel(const at::Tensor &out, const at::Tensor &a, const at::Tensor &b, bool adds, double alpha) {
    TORCH_CHECK(
        b.is_cpu() && out.is_cpu() && out.dim() == 2 && out.size(0) == a.size(0) && out.size(1) == b.size(1), "product of ",
        a.sizes(), " and ", b.sizes(), " into ", out.sizes());
    const nt_product product{
        a.size(0), b.size(1), a.size(1), data<float>(a), a.stride(0), a.stride(1), data<float>(b), b.stride(0), b.stride(1),
        data<float>(out), out.stride(0), float(alpha), adds, at::get_num_threads()};
    const auto memory = scratch(nt_product_scratch_bytes(&product));
    nt_product_f32(&product, memory.data_ptr(), parallel);
}

at::Tensor product(const at::Tensor &a, const at::Tensor &b) {
    if (maker(a, b) == Maker::aten) return at::mm(a, b);
    auto out = at::empty({a.size(0), b.size(1)}, a.options().requires_grad(false));
    product_into(out, a, b);
    return out;
}

void product_into(at::Tensor out, const at::Tensor &a, const at::Tensor &b, bool adds, double alpha) {
    const Maker maker = out.scalar_type() == at::kFloat ? shim::maker(a, b) : Maker::aten;
    if (maker == Maker::onednn)
        at::native::mkldnn_matmul(a, b, out, adds ? 1 : 0, float(alpha));
    else if (maker == Maker::kernel && out.stride(1) == 1)
        multiply_by_kernel(out, a, b, adds, alpha);
    else if (adds)
        out.addmm_(a, b, 1, alpha);
    else if (alpha == 1)
        at::mm_out(out, a, b);
    else
        at::addmm_out(out, out, a, b, 0, alpha);
}

}  // namespace shim
