// The fused kernels by element type, and what the autograd nodes around them share.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "attention.h"
#include "dropout.h"
#include "embedding.h"
#include "gated.h"
#include "gradient.h"
#include "loss.h"
#include "norm.h"
#include "packed.h"
#include "products.h"
#include "rotary.h"
#include "shim.h"

namespace shim {

/// T: activations, W: weights and statistics beside them.
template <typename T>
struct Fused;

#define SHIM_FUSED(Element, Wide, S)                                              \
    template <>                                                                   \
    struct Fused<Element> {                                                       \
        using T = Element;                                                        \
        using W = Wide;                                                           \
        static constexpr auto rms_norm = nt_rms_norm_##S;                         \
        static constexpr auto rms_norm_again = nt_rms_norm_again_##S;             \
        static constexpr auto rms_norm_backward = nt_rms_norm_backward_##S;       \
        static constexpr auto layer_norm = nt_layer_norm_##S;                     \
        static constexpr auto layer_norm_again = nt_layer_norm_again_##S;         \
        static constexpr auto layer_norm_backward = nt_layer_norm_backward_##S;   \
        using Turned = nt_turned_##S;                                             \
        static constexpr auto rotary = nt_rotary_##S;                             \
        static constexpr auto gated = nt_gated_##S;                               \
        static constexpr auto gated_backward = nt_gated_backward_##S;             \
        static constexpr auto attention = nt_attention_forward_##S;               \
        static constexpr auto attention_backward = nt_attention_backward_##S;     \
        static constexpr auto cross_entropy = nt_cross_entropy_##S;               \
        static constexpr auto dropout = nt_dropout_##S;                           \
        static constexpr auto log_probabilities = nt_log_probabilities_##S;       \
        static constexpr auto embedding_backward = nt_embedding_backward_##S;     \
        static constexpr auto packed_decode = nt_packed_decode_##S;               \
    };
SHIM_FUSED(uint16_t, float, bf16)
SHIM_FUSED(float, float, f32)
SHIM_FUSED(double, double, f64)
#undef SHIM_FUSED

/// Calls of operations that took a kernel, and that a kernel exists for but took ATen instead.
extern std::atomic<int64_t> fused_calls, fallback_calls;

/// Off: ATen's operations everywhere, as where there is no kernel.
extern std::atomic<bool> kernels_enabled;

/// Whether the kernels take this tensor; counts the answer.
inline bool takes_kernel(const at::Tensor &x, bool fits = true) {
    const auto type = x.scalar_type();
    const bool yes = kernels_enabled.load(std::memory_order_relaxed) && fits && x.is_cpu() && (type == at::kBFloat16 || type == at::kFloat || type == at::kDouble);
    (yes ? fused_calls : fallback_calls).fetch_add(1, std::memory_order_relaxed);
    return yes;
}

/// body(Fused<T>) of the tensor's element type.
template <typename Body>
auto by_type(const at::Tensor &x, Body &&body) {
    switch (x.scalar_type()) {
        case at::kBFloat16: return body(Fused<uint16_t>{});
        case at::kFloat: return body(Fused<float>{});
        default: TORCH_INTERNAL_ASSERT(x.scalar_type() == at::kDouble); return body(Fused<double>{});
    }
}

/// The operation's name in traces, until the end of the scope; without a trace under way it costs a branch.
#define SHIM_NAMED(name) RECORD_FUNCTION("needletail::" name, std::vector<c10::IValue>{})

template <typename T>
T *data(const at::Tensor &x) {
    return x.defined() ? static_cast<T *>(x.data_ptr()) : nullptr;
}

/// The dtype of weights and statistics beside activations of x.
inline at::ScalarType wide(const at::Tensor &x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

/// Memory that is given back soon, out of buffers that this thread keeps for that: between blocks that stay from forward to
/// backward it would leave holes that nothing else fits.
at::Tensor scratch(size_t bytes);
/// A tensor in such memory, where the device is the CPU.
at::Tensor temporary(at::IntArrayRef sizes, const at::TensorOptions &options);

/// LibTorch's threads, for the kernels.
inline void parallel(int64_t count, int64_t grain, nt_body body, void *context) {
    ct_parallel_for(count, grain, body, context);
}

/// The gradient of a leaf as memory to add into, zero where nothing was added yet.
at::Tensor gradient_to_add_into(const at::Tensor &leaf);

/// Adds a gradient into a trained leaf's own, in the leaf's gradient dtype, or begins it. A weight that is not a leaf gets its
/// gradient the usual way: the result is then what the node's backward returns, else undefined.
at::Tensor give_gradient(const at::Tensor &weight, at::Tensor gradient);

/// to [O, I] = dy^T x, or += it: dy [N, O], x [N, I]. Summed by the product itself in one dtype, and of bf16 in fp32 where a
/// kernel is faster than the library (AMX), else a product and an addition.
void sum_product(at::Tensor to, const at::Tensor &dy, const at::Tensor &x, bool adds);

/// give_gradient of dy^T x. One that begins a bf16 leaf's gradient stays in bf16 as the library has rounded it, until
/// something is added: fp32 would hold the same numbers (docs/decisions/005).
at::Tensor give_product(const at::Tensor &weight, const at::Tensor &dy, const at::Tensor &x);

/// The input of a product, for its backward: what to save of x, which is nothing where x is what a norm or an activation
/// gave and selective checkpointing is on in this thread (ct_set_selective): `restored` makes it again then.
at::Tensor kept(torch::autograd::AutogradContext *ctx, const at::Tensor &x);
at::Tensor restored(torch::autograd::AutogradContext *ctx, const at::Tensor &saved);

}  // namespace shim
