// Optimizer arithmetic, in place, outside of any graph: fused kernels on the CPU, ATen elsewhere.
#include "fused.h"
#include "optimizer.h"

using namespace shim;

namespace {

/// Whether a flat kernel takes the tensor as it lies in memory.
bool is_flat(const at::Tensor &x, at::ScalarType type) {
    return x.is_cpu() && x.scalar_type() == type && x.is_contiguous();
}

/// What the kernels write into beside a parameter: as many numbers, as they lie in memory.
void check_beside(const at::Tensor &p, const at::Tensor &x, at::ScalarType type, int64_t count) {
    TORCH_CHECK(
        is_flat(x, type) && x.numel() == count, x.scalar_type(), x.sizes(), " beside a parameter ", p.sizes(), ", where ", count,
        " of ", type, " belong");
}

int64_t scale_count(int64_t elements) { return (elements + NT_ADAM8_BLOCK - 1) / NT_ADAM8_BLOCK; }

void check_copy(const at::Tensor &p, const at::Tensor &copy) {
    if (copy.defined()) check_beside(p, copy, at::kBFloat16, p.numel());
}

void adamw(
    const at::Tensor &p, const at::Tensor &given, const at::Tensor &m, const at::Tensor &v, const at::Tensor &copy,
    const nt_adamw_options &o, int64_t step) {
    const auto g = given.contiguous();
    if (is_flat(p, at::kFloat) && is_flat(g, at::kFloat)) {
        for (const auto &x : {g, m, v}) check_beside(p, x, at::kFloat, p.numel());
        check_copy(p, copy);
        nt_adamw_f32(
            p.numel(), data<float>(p), data<float>(g), data<float>(m), data<float>(v), data<uint16_t>(copy), &o, parallel);
    } else if (is_flat(p, at::kDouble) && is_flat(g, at::kDouble)) {
        for (const auto &x : {g, m, v}) check_beside(p, x, at::kDouble, p.numel());
        nt_adamw_f64(p.numel(), data<double>(p), data<double>(g), data<double>(m), data<double>(v), &o, parallel);
        if (copy.defined()) copy.copy_(p);
    } else {
        // The engine's kernel counts one step before it; its step lives in a float tensor per parameter.
        at::_fused_adamw_(
            {p}, {g * o.gradient_scale}, {m}, {v}, {}, {at::full({}, double(step), at::kFloat)}, o.learning_rate, o.beta1, o.beta2,
            o.weight_decay, o.epsilon, /*amsgrad=*/false, /*maximize=*/false);
        if (copy.defined()) copy.copy_(p);
    }
    p.unsafeGetTensorImpl()->bump_version();
}

double square_sum(const at::Tensor &given) {
    const auto x = given.contiguous();
    if (!is_flat(x, at::kFloat)) {
        const double norm = at::linalg_vector_norm(x).item().toDouble();
        return norm * norm;
    }
    const auto memory = scratch(nt_square_sum_scratch_bytes(x.numel()));
    return nt_square_sum_f32(x.numel(), data<float>(x), nullptr, memory.data_ptr(), parallel);
}

nt_adamw_options options_of(
    int64_t step, double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
    double gradient_scale) {
    return {
        learning_rate, beta1, beta2, epsilon, weight_decay, 1 - std::pow(beta1, double(step)),
        1 - std::pow(beta2, double(step)), gradient_scale};
}

double update_square_sum(
    const at::Tensor &given, const at::Tensor &m, const at::Tensor &v, const nt_adamw_options &o) {
    const auto g = given.contiguous();
    if (is_flat(g, at::kFloat) && is_flat(m, at::kFloat)) {
        for (const auto &x : {m, v}) check_beside(g, x, at::kFloat, g.numel());
        const auto memory = scratch(nt_square_sum_scratch_bytes(g.numel()));
        return nt_adamw_update_square_sum_f32(
            g.numel(), data<float>(g), data<float>(m), data<float>(v), &o, memory.data_ptr(), parallel);
    }
    const auto scaled = g * o.gradient_scale;
    const auto first = m * o.beta1 + scaled * (1 - o.beta1), second = v * o.beta2 + scaled.square() * (1 - o.beta2);
    return (first / o.correction1 / ((second / o.correction2).sqrt() + o.epsilon)).square().sum(at::kDouble).item().toDouble();
}

}  // namespace

ct_status ct_adamw_inplace(
    ct_tensor parameter, ct_tensor gradient, ct_tensor exp_avg, ct_tensor exp_avg_sq, ct_tensor copy, int64_t step,
    double learning_rate, double beta1, double beta2, double epsilon, double weight_decay, double gradient_scale) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        const auto options = options_of(step, learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale);
        adamw(get(parameter), get(gradient), get(exp_avg), get(exp_avg_sq), get(copy), options, step);
    });
}

int64_t ct_adam8_block(void) { return NT_ADAM8_BLOCK; }

ct_status ct_adam8_start(ct_tensor first_codes, ct_tensor first_scales, ct_tensor second_codes, ct_tensor second_scales) {
    return guarded([&] {
        get(first_codes).fill_(NT_ADAM8_ZERO_M);
        get(second_codes).zero_();
        get(first_scales).zero_();
        get(second_scales).zero_();
    });
}

ct_status ct_adam8_decode(ct_tensor codes, ct_tensor scales, bool is_signed, ct_tensor *out) {
    return giving(out, [&] {
        const auto c = get(codes), s = get(scales);
        check_beside(c, c, at::kByte, c.numel());
        check_beside(c, s, at::kFloat, scale_count(c.numel()));
        auto x = at::empty({c.numel()}, at::kFloat);
        nt_adam8_decode(is_signed, c.numel(), data<uint8_t>(c), data<float>(s), data<float>(x), parallel);
        return x;
    });
}

ct_status ct_adamw8_inplace(
    ct_tensor parameter, ct_tensor gradient, ct_tensor first_codes, ct_tensor first_scales, ct_tensor second_codes,
    ct_tensor second_scales, ct_tensor copy, int64_t step, double learning_rate, double beta1, double beta2, double epsilon,
    double weight_decay, double gradient_scale) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        const auto p = get(parameter), g = get(gradient).contiguous(), m = get(first_codes), v = get(second_codes);
        TORCH_CHECK(is_flat(p, at::kFloat), "8-bit moments are for fp32 parameters on the CPU");
        check_beside(p, g, at::kFloat, p.numel());
        for (const auto &codes : {m, v}) check_beside(p, codes, at::kByte, p.numel());
        for (const auto &scales : {get(first_scales), get(second_scales)})
            check_beside(p, scales, at::kFloat, scale_count(p.numel()));
        check_copy(p, get(copy));
        const auto options = options_of(step, learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale);
        nt_adamw8_f32(
            p.numel(), data<float>(p), data<float>(g), data<uint8_t>(m), data<float>(get(first_scales)), data<uint8_t>(v),
            data<float>(get(second_scales)), data<uint16_t>(get(copy)), &options, parallel);
        p.unsafeGetTensorImpl()->bump_version();
    });
}

ct_status ct_adamw_update_square_sum(
    ct_tensor gradient, ct_tensor exp_avg, ct_tensor exp_avg_sq, int64_t step, double beta1, double beta2, double epsilon,
    double gradient_scale, double *sum) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        const auto options = options_of(step, 0, beta1, beta2, epsilon, 0, gradient_scale);
        *sum = update_square_sum(get(gradient), get(exp_avg), get(exp_avg_sq), options);
    });
}

ct_status ct_global_norm(const ct_tensor *tensors, size_t count, double *norm) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        double squares = 0;
        for (size_t i = 0; i < count; ++i) squares += square_sum(get(tensors[i]));
        *norm = std::sqrt(squares);
    });
}
