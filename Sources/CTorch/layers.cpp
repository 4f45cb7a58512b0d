// What a transformer is made of: products, norms, rotary positions, attention, the loss head.
// N tokens, H query heads, K key/value heads, E head dimension, M rows with a label, V vocabulary, D hidden size
#include <torch/csrc/autograd/custom_function.h>

#include "shim.h"

using namespace shim;

ct_status ct_matmul(ct_tensor a, ct_tensor b, ct_tensor *out) {
    return giving(out, [&] { return at::matmul(get(a), get(b)); });
}
ct_status ct_linear(ct_tensor x, ct_tensor weight, ct_tensor bias, ct_tensor *out) {
    return giving(out, [&] {
        const auto b = get(bias);
        return at::linear(get(x), get(weight), b.defined() ? std::optional<at::Tensor>(b) : std::nullopt);
    });
}
ct_status ct_embedding(ct_tensor weight, ct_tensor ids, ct_tensor *out) {
    return giving(out, [&] { return at::embedding(get(weight), get(ids)); });
}
ct_status ct_rms_norm(ct_tensor x, ct_tensor weight, double epsilon, ct_tensor *out) {
    return giving(out, [&] {
        const auto input = get(x);
        const auto wide = input.scalar_type() == at::kDouble ? input : input.to(at::kFloat);
        const auto scale = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + epsilon);
        return (wide * scale * get(weight)).to(input.scalar_type());
    });
}
ct_status ct_rotate_half(ct_tensor x, ct_tensor cos, ct_tensor sin, ct_tensor *out) {
    return giving(out, [&] {
        const auto input = get(x);
        const auto c = get(cos).unsqueeze(1), s = get(sin).unsqueeze(1);  // [N, 1, E]
        const auto halves = input.chunk(2, -1);
        return input * c + at::cat({-halves[1], halves[0]}, -1) * s;
    });
}

namespace {

/// True where query t (at position offset + t) sees key s.
at::Tensor causal_window_mask(int64_t queries, int64_t keys, int64_t window) {
    const auto t = at::arange(keys - queries, keys).unsqueeze(1), s = at::arange(keys).unsqueeze(0);
    auto mask = s <= t;
    if (window > 0) mask = mask & (s > t - window);
    return mask;
}

/// [n, K, E] -> [1, H, n, E]: each key/value head serves H / K neighbouring query heads.
at::Tensor as_heads(const at::Tensor &x, int64_t heads) {
    const int64_t n = x.size(0), K = x.size(1), E = x.size(2), group = heads / K;
    auto y = x.transpose(0, 1);  // [K, n, E]
    if (group > 1) y = y.unsqueeze(1).expand({K, group, n, E}).reshape({heads, n, E});
    return y.unsqueeze(0);
}

at::Tensor attend(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, int64_t window, double scale) {
    const int64_t H = q.size(1), n = q.size(0);
    const auto query = as_heads(q, H), key = as_heads(k, H), value = as_heads(v, H);
    const bool windowed = window > 0 && n > window;
    std::optional<at::Tensor> mask;
    if (windowed) mask = causal_window_mask(n, n, window);
    const auto y = at::scaled_dot_product_attention(query, key, value, mask, 0.0, /*is_causal=*/!windowed, scale);
    return y.squeeze(0).transpose(0, 1);  // [n, H, E]
}

}  // namespace

ct_status ct_document_attention(
    ct_tensor q, ct_tensor k, ct_tensor v, const int64_t *starts, size_t documents, int64_t window, double scale, ct_tensor *out) {
    return giving(out, [&] {
        if (documents == 1) return attend(get(q), get(k), get(v), window, scale);
        std::vector<int64_t> lengths(documents);
        for (size_t i = 0; i < documents; ++i) lengths[i] = starts[i + 1] - starts[i];
        // One split, so that its backward is one concatenation (a narrow per document would fill N rows each).
        const auto qs = get(q).split_with_sizes(lengths), ks = get(k).split_with_sizes(lengths),
                   vs = get(v).split_with_sizes(lengths);
        std::vector<at::Tensor> parts(documents);
        for (size_t i = 0; i < documents; ++i) parts[i] = attend(qs[i], ks[i], vs[i], window, scale);
        return at::cat(parts, 0);
    });
}

ct_status ct_masked_attention(ct_tensor q, ct_tensor k, ct_tensor v, ct_tensor mask, double scale, ct_tensor *out) {
    return giving(out, [&] {
        return at::scaled_dot_product_attention(
            get(q), get(k), get(v), get(mask), 0.0, /*is_causal=*/false, scale, /*enable_gqa=*/true);
    });
}

namespace {

at::ScalarType wide(const at::Tensor &x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

/// The gradients are linear in the incoming scalar, so forward computes them for 1 while it has the logits.
struct LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
    static at::Tensor forward(
        torch::autograd::AutogradContext *ctx, const at::Tensor &hidden, const at::Tensor &weight, const at::Tensor &labels,
        const at::Tensor &factors, int64_t chunk) {
        const bool needs_hidden = hidden.requires_grad(), needs_weight = weight.requires_grad();
        auto loss = at::zeros({}, hidden.options().dtype(at::kDouble).requires_grad(false));
        at::Tensor d_hidden, d_weight;
        if (needs_hidden) d_hidden = at::empty_like(hidden);
        if (needs_weight) d_weight = at::zeros(weight.sizes(), weight.options().dtype(wide(weight)));
        for (int64_t start = 0; start < hidden.size(0); start += chunk) {
            const int64_t rows = std::min(chunk, hidden.size(0) - start);
            const auto h = hidden.narrow(0, start, rows), y = labels.narrow(0, start, rows).unsqueeze(1);
            auto logits = at::linear(h, weight).to(wide(hidden));  // [rows, V]
            const auto lse = at::logsumexp(logits, 1, /*keepdim=*/true);
            const auto f = factors.narrow(0, start, rows).unsqueeze(1);
            loss += ((lse - logits.gather(1, y)) * f).sum(at::kDouble);
            if (!needs_hidden && !needs_weight) continue;
            logits.sub_(lse).exp_();
            logits.scatter_add_(1, y, at::full_like(y, -1, logits.options()));
            const auto d_logits = logits.mul_(f).to(weight.scalar_type());
            if (needs_hidden) d_hidden.narrow(0, start, rows).copy_(at::matmul(d_logits, weight));
            if (needs_weight) d_weight.add_(at::matmul(d_logits.t(), h));
        }
        ctx->save_for_backward({d_hidden, d_weight});
        ctx->saved_data["weight_dtype"] = int64_t(weight.scalar_type());
        return loss.to(wide(hidden));
    }

    static torch::autograd::variable_list backward(
        torch::autograd::AutogradContext *ctx, const torch::autograd::variable_list &grads) {
        const auto saved = ctx->get_saved_variables();
        const auto dtype = at::ScalarType(ctx->saved_data["weight_dtype"].toInt());
        at::Tensor d_hidden, d_weight;
        if (saved[0].defined()) d_hidden = saved[0] * grads[0].to(saved[0].scalar_type());
        if (saved[1].defined()) d_weight = (saved[1] * grads[0]).to(dtype);
        return {d_hidden, d_weight, {}, {}, {}};
    }
};

}  // namespace

ct_status ct_linear_cross_entropy(
    ct_tensor hidden, ct_tensor weight, ct_tensor labels, ct_tensor factors, int64_t chunk, ct_tensor *out) {
    return giving(out, [&] {
        const auto h = get(hidden);
        auto w = get(weight), f = get(factors);
        // A trained table says so outside of recording too; judging must not pay for its gradient.
        if (!c10::GradMode::is_enabled()) w = w.detach();
        if (!f.defined()) f = at::ones({h.size(0)}, h.options().dtype(wide(h)).requires_grad(false));
        return LinearCrossEntropy::apply(h, w, get(labels), f, chunk);
    });
}

ct_status ct_linear_log_probabilities(ct_tensor hidden, ct_tensor weight, ct_tensor labels, int64_t chunk, ct_tensor *out) {
    return giving(out, [&] {
        c10::NoGradGuard no_grad;
        const auto h = get(hidden), w = get(weight), y = get(labels).unsqueeze(1);
        auto result = at::empty({h.size(0)}, h.options().dtype(wide(h)));
        for (int64_t start = 0; start < h.size(0); start += chunk) {
            const int64_t rows = std::min(chunk, h.size(0) - start);
            const auto logits = at::linear(h.narrow(0, start, rows), w).to(wide(h));
            const auto picked = logits.gather(1, y.narrow(0, start, rows)).squeeze(1);
            result.narrow(0, start, rows).copy_(picked - at::logsumexp(logits, 1));
        }
        return result;
    });
}
