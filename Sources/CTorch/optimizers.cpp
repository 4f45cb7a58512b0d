// Optimizer arithmetic, in place, outside of any graph: fused kernels on the CPU, ATen elsewhere.
#include "fused.h"
#include "optimizer.h"

using namespace shim;

namespace {

/// Whether a flat kernel takes the tensor as it lies in memory.
bool is_flat(const at::Tensor &x, at::ScalarType type) {
    return x.is_cpu() && x.scalar_type() == type && x.is_contiguous();
}

/// What the kernels read and write beside a parameter: as many numbers, as they lie in memory.
void check_beside(const at::Tensor &p, const at::Tensor &x, at::ScalarType type, int64_t count) {
    TORCH_CHECK(
        is_flat(x, type) && x.numel() == count, x.scalar_type(), x.sizes(), " beside a parameter ", p.sizes(), ", where ", count,
        " of ", type, " belong");
}

/// The gradient of p: fp32, or bf16 as a product has left it.
nt_gradient gradient_beside(const at::Tensor &p, const at::Tensor &g) {
    if (g.scalar_type() == at::kBFloat16) {
        check_beside(p, g, at::kBFloat16, p.numel());
        return {nullptr, data<uint16_t>(g)};
    }
    check_beside(p, g, at::kFloat, p.numel());
    return {data<float>(g), nullptr};
}

int64_t scale_count(int64_t elements) { return (elements + NT_ADAM8_BLOCK - 1) / NT_ADAM8_BLOCK; }

/// The tensors of ct_masters, in a form that kernels take; which of them is said by `is_split`.
struct Masters {
    at::Tensor value, low, copy;

    explicit Masters(ct_masters given) : value(get(given.value)), low(get(given.low)), copy(get(given.copy)) {
        if (is_split()) {
            check_beside(value, value, at::kBFloat16, value.numel());
            check_beside(value, low, at::kShort, value.numel());
        } else if (copy.defined() && value.is_cpu()) {
            check_beside(value, copy, at::kBFloat16, value.numel());
        }
    }
    bool is_split() const { return low.defined(); }
};

nt_adamw_options options_of(const ct_adamw_options &o) {
    return {
        o.learning_rate, o.beta1, o.beta2, o.epsilon, o.weight_decay, 1 - std::pow(o.beta1, double(o.step)),
        1 - std::pow(o.beta2, double(o.step)), o.gradient_scale};
}

/// Of moments that are those after the step.
double square_sum_of_update(const at::Tensor &m, const at::Tensor &v, const nt_adamw_options &o) {
    const auto update = m / o.correction1 / ((v / o.correction2).sqrt() + o.epsilon);
    return update.square().sum(at::kDouble).item().toDouble();
}

double adamw(
    const Masters &masters, const at::Tensor &g, const at::Tensor &m, const at::Tensor &v, const nt_adamw_options &o,
    int64_t step) {
    const auto &p = masters.value;
    const auto memory = scratch(nt_adamw_scratch_bytes(p.numel()));
    if (masters.is_split() || (is_flat(p, at::kFloat) && is_flat(g, at::kFloat))) {
        for (const auto &x : {m, v}) check_beside(p, x, at::kFloat, p.numel());
        const auto gradient = gradient_beside(p, g);
        if (masters.is_split())
            return nt_adamw_split(
                p.numel(), data<uint16_t>(p), data<uint16_t>(masters.low), gradient, data<float>(m), data<float>(v), &o,
                memory.data_ptr(), parallel);
        return nt_adamw_f32(
            p.numel(), data<float>(p), gradient.f32, data<float>(m), data<float>(v), data<uint16_t>(masters.copy), &o,
            memory.data_ptr(), parallel);
    }
    double sum;
    if (is_flat(p, at::kDouble) && is_flat(g, at::kDouble)) {
        for (const auto &x : {g, m, v}) check_beside(p, x, at::kDouble, p.numel());
        sum = nt_adamw_f64(
            p.numel(), data<double>(p), data<double>(g), data<double>(m), data<double>(v), &o, memory.data_ptr(), parallel);
    } else {
        // The engine's kernel counts one step before it; its step lives in a float tensor per parameter.
        at::_fused_adamw_(
            {p}, {g * o.gradient_scale}, {m}, {v}, {}, {at::full({}, double(step), at::kFloat)}, o.learning_rate, o.beta1, o.beta2,
            o.weight_decay, o.epsilon, /*amsgrad=*/false, /*maximize=*/false);
        sum = square_sum_of_update(m, v, o);
    }
    if (masters.copy.defined()) masters.copy.copy_(p);
    return sum;
}

double square_sum(const at::Tensor &given) {
    const auto x = given.contiguous();
    const bool is_wide = is_flat(x, at::kFloat);
    if (!is_wide && !is_flat(x, at::kBFloat16)) {
        const double norm = at::linalg_vector_norm(x).item().toDouble();
        return norm * norm;
    }
    const auto memory = scratch(nt_square_sum_scratch_bytes(x.numel()));
    return is_wide ? nt_square_sum_f32(x.numel(), data<float>(x), memory.data_ptr(), parallel)
                   : nt_square_sum_bf16(x.numel(), data<uint16_t>(x), memory.data_ptr(), parallel);
}

double update_square_sum(
    const at::Tensor &given, const at::Tensor &m, const at::Tensor &v, const nt_adamw_options &o) {
    const auto g = given.contiguous();
    if (is_flat(m, at::kFloat)) {
        for (const auto &x : {m, v}) check_beside(g, x, at::kFloat, g.numel());
        const auto memory = scratch(nt_adamw_scratch_bytes(g.numel()));
        return nt_adamw_update_square_sum_f32(
            g.numel(), gradient_beside(m, g), data<float>(m), data<float>(v), &o, memory.data_ptr(), parallel);
    }
    const auto scaled = g * o.gradient_scale;
    return square_sum_of_update(
        m * o.beta1 + scaled * (1 - o.beta1), v * o.beta2 + scaled.square() * (1 - o.beta2), o);
}

}  // namespace

ct_status ct_split_masters(ct_tensor master, ct_tensor high, ct_tensor low) {
    return guarded([&] {
        const auto p = get(master).contiguous(), h = get(high), l = get(low);
        check_beside(p, p, at::kFloat, p.numel());
        check_beside(p, h, at::kBFloat16, p.numel());
        check_beside(p, l, at::kShort, p.numel());
        nt_split_masters(p.numel(), data<float>(p), data<uint16_t>(h), data<uint16_t>(l), parallel);
        h.unsafeGetTensorImpl()->bump_version();
    });
}

ct_status ct_join_masters(ct_tensor high, ct_tensor low, ct_tensor *out) {
    return giving(out, [&] {
        const auto h = get(high), l = get(low);
        check_beside(h, h, at::kBFloat16, h.numel());
        check_beside(h, l, at::kShort, h.numel());
        auto p = at::empty(h.sizes(), at::kFloat);
        nt_join_masters(h.numel(), data<uint16_t>(h), data<uint16_t>(l), data<float>(p), parallel);
        return p;
    });
}

ct_status ct_adamw_inplace(
    ct_masters masters, ct_tensor gradient, ct_tensor exp_avg, ct_tensor exp_avg_sq, const ct_adamw_options *options,
    double *update_square_sum) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        const Masters p(masters);
        *update_square_sum =
            adamw(p, get(gradient).contiguous(), get(exp_avg), get(exp_avg_sq), options_of(*options), options->step);
        p.value.unsafeGetTensorImpl()->bump_version();
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
    ct_masters masters, ct_tensor gradient, ct_tensor first_codes, ct_tensor first_scales, ct_tensor second_codes,
    ct_tensor second_scales, const ct_adamw_options *options, double *update_square_sum) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        const Masters given(masters);
        const auto &p = given.value;
        const auto g = get(gradient).contiguous(), m = get(first_codes), v = get(second_codes);
        TORCH_CHECK(given.is_split() || is_flat(p, at::kFloat), "8-bit moments are for fp32 masters on the CPU");
        const auto gradient = gradient_beside(p, g);
        TORCH_CHECK(given.is_split() || gradient.f32, "fp32 masters with a bf16 gradient");
        for (const auto &codes : {m, v}) check_beside(p, codes, at::kByte, p.numel());
        for (const auto &scales : {get(first_scales), get(second_scales)})
            check_beside(p, scales, at::kFloat, scale_count(p.numel()));
        const auto o = options_of(*options);
        const auto memory = scratch(nt_adamw_scratch_bytes(p.numel()));
        auto *first = data<float>(get(first_scales)), *second = data<float>(get(second_scales));
        *update_square_sum =
            given.is_split()
                ? nt_adamw8_split(
                      p.numel(), data<uint16_t>(p), data<uint16_t>(given.low), gradient, data<uint8_t>(m), first,
                      data<uint8_t>(v), second, &o, memory.data_ptr(), parallel)
                : nt_adamw8_f32(
                      p.numel(), data<float>(p), gradient.f32, data<uint8_t>(m), first, data<uint8_t>(v), second,
                      data<uint16_t>(given.copy), &o, memory.data_ptr(), parallel);
        p.unsafeGetTensorImpl()->bump_version();
    });
}

ct_status ct_adamw_update_square_sum(
    ct_tensor gradient, ct_tensor exp_avg, ct_tensor exp_avg_sq, const ct_adamw_options *options, double *sum) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        *sum = update_square_sum(get(gradient), get(exp_avg), get(exp_avg_sq), options_of(*options));
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
