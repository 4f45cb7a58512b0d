// Products with packed weights, a panel of them decoded at a time: no whole matrix in the products' dtype exists.
#include "frozen.h"

using namespace shim;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace shim {

/// Bytes of a panel, which is written by the decoder and read by the product: it fits the third level of the cache, and
/// the library still gets products of enough rows. How it was chosen: docs/decisions/007-packed-bases.md.
constexpr int64_t kPanelBytes = 4 << 20;

FrozenWeight::FrozenWeight(const ct_packed &packed)
    : data(get(packed.data)), columns(packed.columns), type(packed.type), scale_codes(get(packed.scale_codes)),
      scale_steps(get(packed.scale_steps)), scale_mean(packed.scale_mean) {
    const int64_t block = nt_packed_block(packed.type);
    TORCH_CHECK(
        block > 0 && data.dim() == 2 && data.is_cpu() && data.is_contiguous() && data.scalar_type() == at::kByte &&
            data.size(1) == nt_packed_row_bytes(packed.type, columns),
        "packed weight of type ", packed.type, " with bytes ", data.sizes(), " for rows of ", columns);
    if (type != NT_W_NF4) return;
    const int64_t blocks = rows() * ((columns + block - 1) / block);
    TORCH_CHECK(
        scale_codes.scalar_type() == at::kChar && scale_codes.is_contiguous() && scale_codes.numel() == blocks &&
            scale_steps.scalar_type() == at::kFloat && scale_steps.is_contiguous() &&
            scale_steps.numel() == (blocks + NT_NF4_SCALES - 1) / NT_NF4_SCALES,
        "scales ", scale_codes.sizes(), " and steps ", scale_steps.sizes(), " of ", blocks, " blocks");
}

void FrozenWeight::decode(int64_t row, int64_t column, const at::Tensor &panel) const {
    const nt_packed w{
        int32_t(type), rows(), columns, data.data_ptr(), shim::data<int8_t>(scale_codes), shim::data<float>(scale_steps),
        float(scale_mean)};
    by_type(panel, [&](auto f) {
        using F = decltype(f);
        F::packed_decode(
            &w, row, panel.size(0), column, panel.size(1), shim::data<typename F::T>(panel), panel.size(1), parallel);
    });
}

at::Tensor FrozenWeight::decoded(int64_t row, int64_t count, at::ScalarType dtype) const {
    TORCH_CHECK(is_packed() && row >= 0 && count >= 0 && row + count <= rows(), "rows from ", row, " on, ", count, " of ", rows());
    const auto out = at::empty({count, columns}, at::dtype(dtype));
    TORCH_CHECK(takes_kernel(out), "packed weights are decoded to fp32, bf16 and fp64, not ", dtype);
    decode(row, 0, out);
    return out;
}

at::Tensor FrozenWeight::product(const at::Tensor &x) const {
    if (!is_packed()) return shim::product(x, data.t());
    TORCH_CHECK(x.dim() == 2 && x.size(1) == columns, "x ", x.sizes(), " for a packed weight of ", rows(), " x ", columns);
    TORCH_CHECK(takes_kernel(x), "packed weights multiply fp32, bf16 and fp64 on the CPU, not ", x.scalar_type(), " on ", x.device());
    const int64_t most = std::clamp<int64_t>(kPanelBytes / (columns * x.element_size()), 1, rows());
    const auto panel = at::empty({most, columns}, x.options());
    auto y = at::empty({x.size(0), rows()}, x.options());
    for (int64_t row = 0; row < rows(); row += most) {
        const int64_t count = std::min(most, rows() - row);
        const auto part = panel.narrow(0, 0, count);
        decode(row, 0, part);
        product_into(y.narrow(1, row, count), x, part.t());
    }
    return y;
}

at::Tensor FrozenWeight::back(const at::Tensor &dy) const {
    if (!is_packed()) return shim::product(dy, data);
    takes_kernel(dy);  // counts: forward has checked
    // Panels of whole columns: each sum over O is made by one product, in its precision.
    const int64_t block = std::max<int64_t>(nt_packed_block(int32_t(type)), 64);
    const int64_t blocks = std::max<int64_t>(1, kPanelBytes / (rows() * block * dy.element_size()));
    const int64_t most = std::min(columns, blocks * block);
    const auto memory = at::empty({rows() * most}, dy.options());
    auto dx = at::empty({dy.size(0), columns}, dy.options());
    for (int64_t column = 0; column < columns; column += most) {
        const int64_t count = std::min(most, columns - column);
        const auto part = memory.narrow(0, 0, rows() * count).view({rows(), count});
        decode(0, column, part);
        product_into(dx.narrow(1, column, count), dy, part);
    }
    return dx;
}

void FrozenWeight::save(AutogradContext *ctx, variable_list others) const {
    others.insert(others.end(), {data, scale_codes, scale_steps});
    ctx->save_for_backward(std::move(others));
    ctx->saved_data["type"] = type;
    ctx->saved_data["columns"] = columns;
    ctx->saved_data["scale_mean"] = scale_mean;
}

FrozenWeight FrozenWeight::restored(AutogradContext *ctx, const variable_list &saved) {
    const size_t at = saved.size() - 3;
    FrozenWeight weight(saved[at]);
    weight.scale_codes = saved[at + 1];
    weight.scale_steps = saved[at + 2];
    weight.type = ctx->saved_data["type"].toInt();
    weight.columns = ctx->saved_data["columns"].toInt();
    weight.scale_mean = ctx->saved_data["scale_mean"].toDouble();
    return weight;
}

}  // namespace shim

namespace {

/// x W^T + b with W and b frozen; keeps neither x nor anything of its size.
struct PackedLinear : public Function<PackedLinear> {
    static at::Tensor forward(
        AutogradContext *ctx, const at::Tensor &x, const FrozenWeight &weight, const std::optional<at::Tensor> &bias) {
        auto y = weight.product(x);
        if (bias) y.add_(bias->to(y.scalar_type()));
        weight.save(ctx, {});
        return y;
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        const auto weight = FrozenWeight::restored(ctx, ctx->get_saved_variables());
        return {ctx->needs_input_grad(0) ? weight.back(gradients[0]) : at::Tensor(), {}, {}};
    }
};

}  // namespace

ct_status ct_packed_rows(const ct_packed *weight, int64_t row, int64_t rows, ct_dtype dtype, ct_tensor *out) {
    return giving(out, [&] { return FrozenWeight(*weight).decoded(row, rows, scalar_type(dtype)); });
}

ct_status ct_packed_linear(ct_tensor x, const ct_packed *weight, ct_tensor bias, ct_tensor *out) {
    return giving(out, [&] {
        const auto b = get(bias);
        TORCH_CHECK(!b.defined() || !b.requires_grad(), "a packed weight's bias is not trained");
        return PackedLinear::apply(get(x), FrozenWeight(*weight), b.defined() ? std::optional(b) : std::nullopt);
    });
}
