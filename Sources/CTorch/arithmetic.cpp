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
