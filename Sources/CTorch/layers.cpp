// Products with trained weights, the token table and the loss head, as autograd nodes.
// N tokens, I input features, O output features, r rank, M rows with a label, V vocabulary, D hidden size
//
// A trained weight has a master (a leaf, fp32) and a copy in the dtype of the products, converted once per update; of split
// masters the leaf is the bf16 half, which is its own copy. The nodes multiply by the copy and add the gradient into the
// leaf's own: `give_gradient`.
#include "dropping.h"
#include "frozen.h"

using namespace shim;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

/// x W^T + b
struct Linear : public Function<Linear> {
    static at::Tensor forward(
        AutogradContext *ctx, const at::Tensor &x, const at::Tensor &weight, const at::Tensor &copy,
        const std::optional<at::Tensor> &given_bias) {
        const bool trains = weight.requires_grad();
        const auto bias = given_bias.value_or(at::Tensor());
        ctx->save_for_backward({trains ? kept(ctx, x) : at::Tensor(), weight, copy, bias});
        const auto b = bias.defined() ? std::optional<at::Tensor>(bias.to(x.scalar_type())) : std::nullopt;
        return linear(x, copy, b);
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        const auto saved = ctx->get_saved_variables();
        const auto weight = saved[1], copy = saved[2], bias = saved[3];
        const auto dy = rows(gradients[0]);
        at::Tensor dx, dw, db;
        if (ctx->needs_input_grad(0)) {
            auto shape = gradients[0].sizes().vec();
            shape.back() = copy.size(1);
            dx = product(dy, copy).view(shape);
        }
        if (weight.requires_grad()) dw = give_product(weight, dy, rows(restored(ctx, saved[0])));
        if (bias.defined() && bias.requires_grad()) db = give_gradient(bias, at::sum(dy, 0, false, wide(dy)));
        return {dx, dw, {}, db};
    }

    static at::Tensor rows(const at::Tensor &x) { return x.reshape({-1, x.size(-1)}); }

    static at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b) {
        auto shape = x.sizes().vec();
        shape.back() = w.size(0);
        const auto input = rows(x);
        if (!b) return product(input, w.t()).view(shape);
        auto y = b->expand({input.size(0), w.size(0)}).clone(at::MemoryFormat::Contiguous);
        product_into(y, input, w.t(), /*adds=*/true);
        return y.view(shape);
    }
};

/// x W^T + s (x' A^T) B^T with W frozen, perhaps packed; x' is x, or x after dropout (Hu et al. 2021, arXiv:2106.09685, eq. 3).
/// Neither dW nor B A is ever formed, and x' is made again in backward.
struct AdaptedLinear : public Function<AdaptedLinear> {
    static at::Tensor forward(
        AutogradContext *ctx, const at::Tensor &x, const FrozenWeight &weight, const at::Tensor &a, const at::Tensor &a_copy,
        const at::Tensor &b, const at::Tensor &b_copy, double scaling, const Dropping &dropping) {
        const auto u = product(dropping.of(x), a_copy.t());  // [N, r]
        auto y = weight.product(x);
        product_into(y, u, b_copy.t(), /*adds=*/true, scaling);
        weight.save(ctx, {kept(ctx, x), a, a_copy, b, b_copy, u});
        ctx->saved_data["scaling"] = scaling;
        dropping.save(ctx);
        return y;
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        const auto saved = ctx->get_saved_variables();
        const auto a = saved[1], a_copy = saved[2], b = saved[3], b_copy = saved[4], u = saved[5], dy = gradients[0];
        const double s = ctx->saved_data["scaling"].toDouble();
        const auto dropping = Dropping::restored(ctx);
        const auto q = product(dy, b_copy);  // [N, r]
        variable_list result(8);
        if (a.requires_grad()) result[2] = give_scaled(a, q, dropping.of(shim::restored(ctx, saved[0])), s);
        if (b.requires_grad()) result[4] = give_scaled(b, dy, u, s);
        if (!ctx->needs_input_grad(0)) return result;
        auto dx = FrozenWeight::restored(ctx, saved).back(dy);
        if (dropping.drops()) {
            auto through = temporary(dx.sizes(), dx.options());
            product_into(through, q, a_copy, /*adds=*/false, s);
            dropping.add(dx, through);
        } else {
            product_into(dx, q, a_copy, /*adds=*/true, s);
        }
        result[0] = dx;
        return result;
    }

    /// give_gradient of s dy^T x, scaled in the gradient's precision: of bf16, only a product that rounds has rounded.
    static at::Tensor give_scaled(const at::Tensor &weight, const at::Tensor &dy, const at::Tensor &x, double s) {
        // The kernel that sums bf16 in fp32 gives threads columns of its first matrix, of which r are too few.
        const bool flips = dy.size(1) < x.size(1) && dy.scalar_type() == at::kBFloat16 && nt_weight_gradient_is_fast();
        const auto &first = flips ? x : dy, &second = flips ? dy : x;
        const auto sum = at::empty({first.size(1), second.size(1)}, dy.options().dtype(wide(dy)));
        sum_product(sum, first, second, /*adds=*/false);
        return give_gradient(weight, (flips ? sum.t().contiguous() : sum).mul_(s));
    }
};

/// Rows of the master's copy.
struct Embedding : public Function<Embedding> {
    static at::Tensor forward(AutogradContext *ctx, const at::Tensor &weight, const at::Tensor &copy, const at::Tensor &ids) {
        ctx->save_for_backward({weight, ids});
        return copy.index_select(0, ids);
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        const auto saved = ctx->get_saved_variables();
        const auto weight = saved[0], ids = saved[1], dy = gradients[0].contiguous();
        if (!weight.is_leaf()) {
            auto dw = at::zeros(weight.sizes(), weight.options());
            return {dw.index_add_(0, ids, dy.to(weight.scalar_type())), {}, {}};
        }
        add_rows(gradient_to_add_into(weight), ids, dy);
        return {{}, {}, {}};
    }

    /// table[ids[n]] += dy[n], in that order for each id: the same bits on any number of threads.
    static void add_rows(at::Tensor table, const at::Tensor &ids, const at::Tensor &dy) {
        const bool fits = table.is_cpu() && table.is_contiguous() && table.scalar_type() == wide(dy);
        if (!takes_kernel(dy, fits)) {
            table.index_add_(0, ids, dy.to(table.scalar_type()));
            return;
        }
        const int64_t N = dy.size(0), D = dy.size(1);
        const auto memory = scratch(nt_embedding_scratch_bytes(N));
        by_type(dy, [&](auto f) {
            using F = decltype(f);
            using W = typename F::W;
            F::embedding_backward(
                N, D, data<int64_t>(ids), data<typename F::T>(dy), D, W(1), data<W>(table), D, memory.data_ptr(), parallel);
        });
    }
};

/// cap tanh(x / cap); x for cap 0.
at::Tensor capped(const at::Tensor &x, double cap) { return cap == 0 ? x : at::tanh(x / cap) * cap; }

/// log softmax(capped logits)[label] of every row, into `out` [rows] (fp32; fp64 for fp64 logits).
void log_probabilities(const at::Tensor &logits, const at::Tensor &labels, double cap, at::Tensor out) {
    const int64_t rows = logits.size(0), V = logits.size(1);
    if (takes_kernel(logits)) {
        by_type(logits, [&](auto f) {
            using F = decltype(f);
            using W = typename F::W;
            F::log_probabilities(
                rows, V, data<typename F::T>(logits), V, data<int64_t>(labels), cap, data<W>(out), nullptr, nullptr, parallel);
        });
    } else {
        const auto wide_logits = capped(logits.to(wide(logits)), cap);
        out.copy_(wide_logits.gather(1, labels.unsqueeze(1)).squeeze(1) - at::logsumexp(wide_logits, 1));
    }
}

/// The gradients are linear in the incoming scalar, so forward computes them for 1 while it has the logits.
struct LinearCrossEntropy : public Function<LinearCrossEntropy> {
    using Options = nt_cross_entropy_options;

    static at::Tensor forward(
        AutogradContext *ctx, const at::Tensor &hidden, const at::Tensor &weight, const at::Tensor &copy,
        const at::Tensor &labels, const at::Tensor &factors, const Options &options, int64_t chunk) {
        const bool needs_hidden = hidden.requires_grad(), needs_weight = weight.requires_grad();
        const int64_t M = hidden.size(0), V = copy.size(0);
        chunk = std::min(chunk, M);
        auto loss = at::zeros({}, hidden.options().dtype(at::kDouble));
        at::Tensor d_hidden, d_weight;
        if (needs_hidden) d_hidden = at::empty_like(hidden);
        auto logits = at::empty({chunk, V}, hidden.options());
        for (int64_t start = 0; start < M; start += chunk) {
            const int64_t count = std::min(chunk, M - start);
            const auto h = hidden.narrow(0, start, count), y = labels.narrow(0, start, count),
                       f = factors.narrow(0, start, count);
            auto u = logits.narrow(0, 0, count);
            product_into(u, h, copy.t());
            if (!needs_hidden && !needs_weight) {  // judging
                auto parts = at::empty_like(f);
                log_probabilities(u, y, options.soft_cap, parts);
                loss -= (parts * f).sum(at::kDouble);
                continue;
            }
            loss += rows_loss(u, y, f, options);  // u becomes its gradient
            if (needs_hidden) {
                product_into(d_hidden.narrow(0, start, count), u, copy);
            }
            if (!needs_weight) continue;
            if (start == 0) d_weight = at::empty(copy.sizes(), copy.options().dtype(wide(hidden)));
            sum_product(d_weight, u, h, /*adds=*/start > 0);
        }
        ctx->save_for_backward({d_hidden, d_weight, weight});
        return loss.to(wide(hidden));
    }

    /// The rows' summed loss, fp64; their logits become the gradients.
    static at::Tensor rows_loss(
        at::Tensor &logits, const at::Tensor &labels, const at::Tensor &factors, const Options &options) {
        const int64_t rows = logits.size(0), V = logits.size(1);
        if (takes_kernel(logits)) {
            auto losses = at::empty({rows}, at::kDouble);
            const double sum = by_type(logits, [&](auto f) {
                using F = decltype(f);
                using T = typename F::T;
                return F::cross_entropy(
                    rows, V, data<T>(logits), V, data<int64_t>(labels), data<typename F::W>(factors), &options,
                    data<double>(losses), parallel);
            });
            return at::scalar_tensor(sum, at::kDouble);
        }
        const auto y = labels.unsqueeze(1), f = factors.unsqueeze(1);
        const double cap = options.soft_cap, alpha = options.label_smoothing, zeta = options.z_loss;
        const auto l = capped(logits.to(wide(logits)), cap);
        const auto z = at::logsumexp(l, 1, /*keepdim=*/true);
        auto row_losses = (z - l.gather(1, y)) * (1 - alpha) + z.square() * zeta;
        if (alpha != 0) row_losses += (z - l.mean(1, /*keepdim=*/true)) * alpha;
        const auto loss = (row_losses * f).sum(at::kDouble);
        auto gradient = (l - z).exp_().mul_(1 + z * (2 * zeta)).sub_(alpha / double(V));
        gradient.scatter_add_(1, y, at::full_like(y, alpha - 1, gradient.options())).mul_(f);
        if (cap != 0) gradient.mul_(1 - at::square(l / cap));
        logits.copy_(gradient);
        return loss;
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        const auto saved = ctx->get_saved_variables();
        auto d_hidden = saved[0], d_weight = saved[1];
        const auto factor = gradients[0];
        if (!factor.is_cpu() || factor.item().toDouble() != 1) {  // on other devices, asking would wait for them
            if (d_hidden.defined()) d_hidden = d_hidden * factor.to(d_hidden.scalar_type());
            if (d_weight.defined()) d_weight = d_weight * factor;
        }
        if (d_weight.defined()) d_weight = give_gradient(saved[2], d_weight);
        return {d_hidden, d_weight, {}, {}, {}, {}, {}};
    }
};

void check_labels(const at::Tensor &hidden, const at::Tensor &weight, const at::Tensor &labels) {
    TORCH_CHECK(
        hidden.dim() == 2 && labels.dim() == 1 && labels.size(0) == hidden.size(0) && labels.scalar_type() == at::kLong,
        "labels ", labels.sizes(), " for hidden states ", hidden.sizes());
    if (!labels.is_cpu() || labels.numel() == 0) return;  // other devices check as they gather
    const auto [least, most] = at::aminmax(labels);
    TORCH_CHECK(
        least.item().toLong() >= 0 && most.item().toLong() < weight.size(0), "labels from ", least.item().toLong(), " to ",
        most.item().toLong(), " in a vocabulary of ", weight.size(0));
}

at::Tensor or_weight(const at::Tensor &copy, const at::Tensor &weight) { return copy.defined() ? copy : weight.detach(); }

}  // namespace

ct_status ct_matmul(ct_tensor a, ct_tensor b, ct_tensor *out) {
    return giving(out, [&] {
        const auto left = get(a), right = get(b);
        const bool is_recorded = c10::GradMode::is_enabled() && (left.requires_grad() || right.requires_grad());
        return is_recorded || left.dim() != 2 || right.dim() != 2 ? at::matmul(left, right) : product(left, right);
    });
}
ct_status ct_linear(ct_tensor x, ct_tensor weight, ct_tensor copy, ct_tensor bias, ct_tensor *out) {
    return giving(out, [&] {
        SHIM_NAMED("linear");
        const auto w = get(weight);
        return Linear::apply(get(x), w, or_weight(get(copy), w), if_defined(get(bias)));
    });
}
ct_status ct_adapted_linear(
    ct_tensor x, ct_tensor weight, const ct_packed *packed, ct_tensor a, ct_tensor a_copy, ct_tensor b, ct_tensor b_copy,
    double scaling, ct_dropout dropout, ct_tensor *out) {
    return giving(out, [&] {
        SHIM_NAMED("adapted_linear");
        const auto A = get(a), B = get(b);
        return AdaptedLinear::apply(
            get(x), packed ? FrozenWeight(*packed) : FrozenWeight(get(weight)), A, or_weight(get(a_copy), A), B,
            or_weight(get(b_copy), B), scaling, Dropping(dropout));
    });
}
ct_status ct_embedding(ct_tensor weight, ct_tensor copy, ct_tensor ids, ct_tensor *out) {
    return giving(out, [&] {
        SHIM_NAMED("embedding");
        const auto w = get(weight), index = get(ids);
        TORCH_CHECK(index.dim() == 1 && index.scalar_type() == at::kLong, "ids ", index.sizes(), " of ", index.scalar_type());
        return Embedding::apply(w, or_weight(get(copy), w), index.contiguous());
    });
}

ct_status ct_linear_cross_entropy(
    ct_tensor hidden, ct_tensor weight, ct_tensor copy, ct_tensor labels, ct_tensor factors, ct_loss_options options,
    int64_t chunk, ct_tensor *out) {
    return giving(out, [&] {
        SHIM_NAMED("linear_cross_entropy");
        const auto h = get(hidden).contiguous();
        auto w = get(weight), f = get(factors);
        const auto c = or_weight(get(copy), w);
        // A trained table says so outside of recording too; judging must not pay for its gradient.
        if (!c10::GradMode::is_enabled()) w = w.detach();
        if (!f.defined()) f = at::ones({h.size(0)}, h.options().dtype(wide(h)).requires_grad(false));
        const auto y = get(labels).contiguous();
        check_labels(h, c, y);
        TORCH_CHECK(f.dim() == 1 && f.size(0) == h.size(0) && f.scalar_type() == wide(h), "factors ", f.sizes());
        const nt_cross_entropy_options terms{options.cap, options.label_smoothing, options.z_loss};
        return LinearCrossEntropy::apply(h, w, c, y, f.contiguous(), terms, chunk);
    });
}

ct_status ct_linear_log_probabilities(
    ct_tensor hidden, ct_tensor weight, ct_tensor labels, double cap, int64_t chunk, ct_tensor *out) {
    return giving(out, [&] {
        SHIM_NAMED("linear_log_probabilities");
        c10::NoGradGuard no_grad;
        const auto h = get(hidden), w = get(weight), y = get(labels).contiguous();
        check_labels(h, w, y);
        auto result = at::empty({h.size(0)}, h.options().dtype(wide(h)));
        for (int64_t start = 0; start < h.size(0); start += chunk) {
            const int64_t rows = std::min(chunk, h.size(0) - start);
            log_probabilities(
                product(h.narrow(0, start, rows), w.t()), y.narrow(0, start, rows), cap, result.narrow(0, start, rows));
        }
        return result;
    });
}
