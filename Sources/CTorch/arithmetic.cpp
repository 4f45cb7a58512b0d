// Elementwise operations, reductions and the optimizer's arithmetic.
#include "shim.h"

using namespace shim;

ct_status ct_add(ct_tensor a, ct_tensor b, ct_tensor *out) {
    return giving(out, [&] { return at::add(get(a), get(b)); });
}
ct_status ct_sub(ct_tensor a, ct_tensor b, ct_tensor *out) {
    return giving(out, [&] { return at::sub(get(a), get(b)); });
}
ct_status ct_mul(ct_tensor a, ct_tensor b, ct_tensor *out) {
    return giving(out, [&] { return at::mul(get(a), get(b)); });
}
ct_status ct_div(ct_tensor a, ct_tensor b, ct_tensor *out) {
    return giving(out, [&] { return at::div(get(a), get(b)); });
}
ct_status ct_add_scalar(ct_tensor a, double b, ct_tensor *out) {
    return giving(out, [&] { return at::add(get(a), b); });
}
ct_status ct_mul_scalar(ct_tensor a, double b, ct_tensor *out) {
    return giving(out, [&] { return at::mul(get(a), b); });
}
ct_status ct_pow_scalar(ct_tensor a, double b, ct_tensor *out) {
    return giving(out, [&] { return at::pow(get(a), b); });
}
ct_status ct_compare_equal(ct_tensor a, ct_tensor b, ct_tensor *out) {
    return giving(out, [&] { return at::eq(get(a), get(b)); });
}
ct_status ct_less_equal(ct_tensor a, ct_tensor b, ct_tensor *out) {
    return giving(out, [&] { return at::le(get(a), get(b)); });
}
ct_status ct_masked_fill(ct_tensor t, ct_tensor mask, double value, ct_tensor *out) {
    return giving(out, [&] { return at::masked_fill(get(t), get(mask), value); });
}
ct_status ct_exp(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return at::exp(get(t)); });
}
ct_status ct_log(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return at::log(get(t)); });
}
ct_status ct_sqrt(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return at::sqrt(get(t)); });
}
ct_status ct_isfinite(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return at::isfinite(get(t)); });
}
ct_status ct_sum(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return at::sum(get(t)); });
}
ct_status ct_sum_dim(ct_tensor t, int64_t dim, bool keep, ct_tensor *out) {
    return giving(out, [&] { return at::sum(get(t), at::IntArrayRef{dim}, keep); });
}
ct_status ct_max_abs(ct_tensor t, ct_tensor *out) {
    return giving(out, [&] { return at::max(at::abs(get(t))); });
}
ct_status ct_argmax(ct_tensor t, int64_t dim, ct_tensor *out) {
    return giving(out, [&] { return at::argmax(get(t), dim); });
}
ct_status ct_softmax(ct_tensor t, int64_t dim, ct_tensor *out) {
    return giving(out, [&] { return at::softmax(get(t), dim); });
}
ct_status ct_log_softmax(ct_tensor t, int64_t dim, ct_tensor *out) {
    return giving(out, [&] { return at::log_softmax(get(t), dim); });
}

ct_status ct_adamw_inplace(
    const ct_tensor *parameters, const ct_tensor *gradients, const ct_tensor *exp_avg, const ct_tensor *exp_avg_sq, size_t count,
    int64_t step, double learning_rate, double beta1, double beta2, double epsilon, double weight_decay) {
    return guarded([&] {
        if (count == 0) return;
        c10::NoGradGuard no_grad;
        // The engine's kernel counts one step before it; its step lives in a float tensor per parameter.
        const std::vector<at::Tensor> steps(count, at::full({}, double(step), at::kFloat));
        at::_fused_adamw_(
            get(parameters, count), get(gradients, count), get(exp_avg, count), get(exp_avg_sq, count), {}, steps, learning_rate,
            beta1, beta2, weight_decay, epsilon, /*amsgrad=*/false, /*maximize=*/false);
    });
}
ct_status ct_global_norm(const ct_tensor *tensors, size_t count, double *norm) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        double squares = 0;
        for (const auto &tensor : get(tensors, count)) {
            const double part = at::linalg_vector_norm(tensor).item().toDouble();
            squares += part * part;
        }
        *norm = std::sqrt(squares);
    });
}
ct_status ct_scale_inplace(const ct_tensor *tensors, size_t count, double factor) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        for (auto &tensor : get(tensors, count)) tensor.mul_(factor);
    });
}
