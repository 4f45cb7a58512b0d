// Norm, rotary positions, gate and attention on the fused kernels, as autograd nodes; ATen's operations elsewhere.
// Gradients of trained weights go straight into the leaf's gradient in its own dtype, which a bf16 leaf says is fp32 when
// it is the upper half of split masters: nothing is rounded to bf16 twice.
// N tokens, D row width, H query heads, K key/value heads, E head dimension
#include "fused.h"

using namespace shim;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace shim {

std::atomic<int64_t> fused_calls{0}, fallback_calls{0};
std::atomic<bool> kernels_enabled{true};

static thread_local std::vector<at::Storage> buffers;

void release_buffers() { buffers.clear(); }

/// A buffer of this thread's that nothing else refers to, at most four times as large as asked for; or none.
static at::Storage kept_buffer(size_t bytes) {
    constexpr size_t most_buffers = 8, least_bytes = 64 << 10, most_bytes = 64 << 20;
    if (bytes < least_bytes || bytes > most_bytes) return {};
    at::Storage *smallest = nullptr, *outgrown = nullptr;
    for (auto &buffer : buffers) {
        if (buffer.use_count() > 1 || buffer.nbytes() > 4 * bytes) continue;
        auto &best = buffer.nbytes() < bytes ? outgrown : smallest;
        if (!best || buffer.nbytes() < best->nbytes()) best = &buffer;
    }
    if (smallest) return *smallest;
    const auto made = at::empty({int64_t(bytes)}, at::kByte).storage();
    if (outgrown)
        *outgrown = made;
    else if (buffers.size() < most_buffers)
        buffers.push_back(made);
    return made;
}

at::Tensor scratch(size_t bytes) { return temporary({int64_t(bytes)}, at::kByte); }

at::Tensor temporary(at::IntArrayRef sizes, const at::TensorOptions &options) {
    if (!options.device().is_cpu()) return at::empty(sizes, options);
    const auto buffer = kept_buffer(size_t(c10::multiply_integers(sizes)) * options.dtype().itemsize());
    return buffer ? at::empty({0}, options).set_(buffer, 0, sizes) : at::empty(sizes, options);
}

static at::ScalarType gradient_type(const at::Tensor &leaf) { return leaf.grad_dtype().value_or(leaf.scalar_type()); }

/// A leaf's own gradient, undefined or in the dtype to add in.
static at::Tensor &own_gradient(const at::Tensor &leaf) {
    auto &own = leaf.mutable_grad();
    if (own.defined()) own = own.to(gradient_type(leaf));
    return own;
}

at::Tensor gradient_to_add_into(const at::Tensor &leaf) {
    auto &own = own_gradient(leaf);
    if (!own.defined()) own = at::zeros(leaf.sizes(), leaf.options().dtype(gradient_type(leaf)).requires_grad(false));
    return own;
}

at::Tensor give_gradient(const at::Tensor &weight, at::Tensor gradient) {
    if (!weight.is_leaf()) return gradient.to(weight.scalar_type());
    auto &own = own_gradient(weight);
    if (own.defined())
        own.add_(gradient);
    else
        own = gradient.to(gradient_type(weight));
    return {};
}

/// Whether a kernel sums dy^T x of bf16 in fp32 (AMX).
static bool sums_in_kernel(const at::Tensor &dy, const at::Tensor &x) {
    return dy.is_cpu() && dy.scalar_type() == at::kBFloat16 && x.scalar_type() == at::kBFloat16 && dy.stride(1) == 1 &&
        x.stride(1) == 1 && nt_weight_gradient_is_fast();
}

void sum_product(at::Tensor to, const at::Tensor &dy, const at::Tensor &x, bool adds) {
    if (to.scalar_type() != at::kFloat || to.stride(1) != 1 || !sums_in_kernel(dy, x)) {
        if (to.scalar_type() == dy.scalar_type()) return product_into(to, dy.t(), x, adds);
        const auto sum = product(dy.t(), x);
        adds ? to.add_(sum) : to.copy_(sum);
        return;
    }
    SHIM_NAMED("weight_gradient");
    const int64_t N = x.size(0), O = dy.size(1), I = x.size(1), parts = at::get_num_threads();
    const auto memory = scratch(nt_weight_gradient_scratch_bytes(N, I, parts));
    nt_weight_gradient_bf16(
        N, O, I, data<uint16_t>(dy), dy.stride(0), data<uint16_t>(x), x.stride(0), adds, data<float>(to), to.stride(0), parts,
        memory.data_ptr(), parallel);
}

at::Tensor give_product(const at::Tensor &weight, const at::Tensor &dy, const at::Tensor &x) {
    if (!weight.is_leaf()) return give_gradient(weight, product(dy.t(), x));
    auto &own = own_gradient(weight);
    const bool adds = own.defined();
    const bool is_rounded = dy.is_cpu() && dy.scalar_type() == at::kBFloat16 && !sums_in_kernel(dy, x);
    if (!adds && is_rounded && weight.scalar_type() == at::kBFloat16) {
        own = product(dy.t(), x);
        return {};
    }
    if (!adds) own = at::empty(weight.sizes(), weight.options().dtype(gradient_type(weight)).requires_grad(false));
    sum_product(own, dy, x, adds);
    return {};
}

}  // namespace shim

bool ct_set_kernels(bool enabled) { return kernels_enabled.exchange(enabled); }
int64_t ct_fused_calls(void) { return fused_calls.load(); }
int64_t ct_fallback_calls(void) { return fallback_calls.load(); }

namespace {

thread_local bool is_selective = false;

/// For what a norm or an activation gives: kept by the products that read it, or not for long.
at::Tensor output(at::IntArrayRef sizes, const at::Tensor &like) {
    return is_selective ? temporary(sizes, like.options()) : at::empty(sizes, like.options());
}

/// Where a node keeps what it made again for the products that read it, until its own backward, which is behind theirs.
constexpr auto made_again = "again";
void forget_again(AutogradContext *ctx) { ctx->saved_data.erase(made_again); }

/// Rows of width D.
int64_t rows_of(const at::Tensor &x) { return x.numel() / std::max<int64_t>(1, x.size(-1)); }

/// A norm's weight or bias as the kernels read it beside x.
at::Tensor row(const at::Tensor &weight, const at::Tensor &x) { return weight.detach().to(wide(x)).contiguous(); }

at::Tensor whole(const std::optional<at::Tensor> &x) { return x ? x->contiguous() : at::Tensor(); }

/// y of x, and behind it, where there is a residual, s = x + residual, of which y is then.
struct RMSNorm : public Function<RMSNorm> {
    static variable_list forward(
        AutogradContext *ctx, const at::Tensor &given, const std::optional<at::Tensor> &residual, const at::Tensor &weight,
        double offset, double epsilon) {
        const auto x = given.contiguous(), added = whole(residual), w = row(weight, x);
        const int64_t D = x.size(-1), N = rows_of(x);
        auto y = output(x.sizes(), x), r = at::empty({N}, w.options()), s = residual ? at::empty_like(x) : at::Tensor();
        by_type(x, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            using W = typename F::W;
            F::rms_norm(
                N, D, data<T>(x), D, data<T>(added), D, data<W>(w), W(offset), W(epsilon), data<T>(s), D, data<T>(y), D,
                data<W>(r), parallel);
        });
        ctx->save_for_backward({residual ? s : x, weight, r});
        ctx->saved_data["offset"] = offset;
        return residual ? variable_list{y, s} : variable_list{y};
    }

    /// y once more.
    static at::Tensor again(const AutogradContext &ctx) {
        const auto saved = ctx.get_saved_variables();
        const auto s = saved[0].detach(), w = row(saved[1], s);
        const double offset = ctx.saved_data.at("offset").toDouble();
        const int64_t D = s.size(-1);
        auto y = temporary(s.sizes(), s.options());
        by_type(s, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            using W = typename F::W;
            F::rms_norm_again(rows_of(s), D, data<T>(s), D, data<W>(w), W(offset), data<W>(saved[2]), data<T>(y), D, parallel);
        });
        return y;
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        forget_again(ctx);
        const auto saved = ctx->get_saved_variables();
        const auto x = saved[0], weight = saved[1], dy = gradients[0].contiguous(), w = row(weight, x);
        const auto ds = gradients.size() > 1 ? gradients[1].contiguous() : at::Tensor();
        const double offset = ctx->saved_data["offset"].toDouble();
        const int64_t D = x.size(-1), N = rows_of(x);
        auto dx = at::empty_like(x), dw = weight.requires_grad() ? at::zeros_like(w) : at::Tensor();
        const auto memory = scratch(nt_norm_scratch_bytes(N, D));
        by_type(x, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            using W = typename F::W;
            F::rms_norm_backward(
                N, D, data<T>(dy), D, data<T>(x), D, data<W>(saved[2]), data<W>(w), W(offset), data<T>(ds), D,
                data<T>(dx), D, data<W>(dw), memory.data_ptr(), parallel);
        });
        return {dx, ds.defined() ? dx : at::Tensor(), dw.defined() ? give_gradient(weight, dw) : dw, {}, {}};
    }
};

at::Tensor plain_rms_norm(const at::Tensor &x, const at::Tensor &weight, double offset, double epsilon) {
    const auto input = x.to(wide(x));
    const auto scale = at::rsqrt(input.square().mean(-1, /*keepdim=*/true) + epsilon);
    return (input * scale * (offset == 0 ? weight : weight + offset)).to(x.scalar_type());
}

/// Rows centered, scaled to deviation 1, then weight and bias (Ba et al. 2016, arXiv:1607.06450).
/// Outputs as RMSNorm's.
struct LayerNorm : public Function<LayerNorm> {
    static variable_list forward(
        AutogradContext *ctx, const at::Tensor &given, const std::optional<at::Tensor> &residual, const at::Tensor &weight,
        const at::Tensor &bias, double epsilon) {
        const auto x = given.contiguous(), added = whole(residual), w = row(weight, x), b = row(bias, x);
        const int64_t D = x.size(-1), N = rows_of(x);
        auto y = output(x.sizes(), x), mean = at::empty({N}, w.options()), r = at::empty({N}, w.options()),
             s = residual ? at::empty_like(x) : at::Tensor();
        by_type(x, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            using W = typename F::W;
            F::layer_norm(
                N, D, data<T>(x), D, data<T>(added), D, data<W>(w), data<W>(b), W(epsilon), data<T>(s), D, data<T>(y), D,
                data<W>(mean), data<W>(r), parallel);
        });
        ctx->save_for_backward({residual ? s : x, weight, bias, mean, r});
        return residual ? variable_list{y, s} : variable_list{y};
    }

    static at::Tensor again(const AutogradContext &ctx) {
        const auto saved = ctx.get_saved_variables();
        const auto s = saved[0].detach(), w = row(saved[1], s), b = row(saved[2], s);
        const int64_t D = s.size(-1);
        auto y = temporary(s.sizes(), s.options());
        by_type(s, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            using W = typename F::W;
            F::layer_norm_again(
                rows_of(s), D, data<T>(s), D, data<W>(w), data<W>(b), data<W>(saved[3]), data<W>(saved[4]), data<T>(y), D,
                parallel);
        });
        return y;
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        forget_again(ctx);
        const auto saved = ctx->get_saved_variables();
        const auto x = saved[0], weight = saved[1], bias = saved[2], dy = gradients[0].contiguous(), w = row(weight, x);
        const auto ds = gradients.size() > 1 ? gradients[1].contiguous() : at::Tensor();
        const int64_t D = x.size(-1), N = rows_of(x);
        auto dx = at::empty_like(x), dw = weight.requires_grad() ? at::zeros_like(w) : at::Tensor(),
             db = bias.requires_grad() ? at::zeros_like(w) : at::Tensor();
        const auto memory = scratch(nt_norm_scratch_bytes(N, D));
        by_type(x, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            using W = typename F::W;
            F::layer_norm_backward(
                N, D, data<T>(dy), D, data<T>(x), D, data<W>(saved[3]), data<W>(saved[4]), data<W>(w), data<T>(ds), D,
                data<T>(dx), D, data<W>(dw), data<W>(db), memory.data_ptr(), parallel);
        });
        return {
            dx, ds.defined() ? dx : at::Tensor(), dw.defined() ? give_gradient(weight, dw) : dw,
            db.defined() ? give_gradient(bias, db) : db, {}};
    }
};

at::Tensor plain_layer_norm(const at::Tensor &x, const at::Tensor &weight, const at::Tensor &bias, double epsilon) {
    const auto type = wide(x);
    return at::layer_norm(x.to(type), {x.size(-1)}, weight.to(type), bias.to(type), epsilon).to(x.scalar_type());
}

/// [N, H, E] with the heads of a token side by side; the tokens may lie apart, as the parts of one product do.
at::Tensor whole_rows(const at::Tensor &x) {
    return x.stride(2) == 1 && x.stride(1) == x.size(2) ? x : x.contiguous();
}

/// Queries and keys turned to their positions: tables [positions, R / 2].
struct Rotary : public Function<Rotary> {
    static variable_list forward(
        AutogradContext *ctx, const at::Tensor &q, const at::Tensor &k, const at::Tensor &cos, const at::Tensor &sin,
        const at::Tensor &positions) {
        ctx->save_for_backward({cos, sin, positions});
        return turned(q, k, cos, sin, positions, 1);
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        const auto saved = ctx->get_saved_variables();
        auto turned_back = turned(gradients[0], gradients[1], saved[0], saved[1], saved[2], -1);
        turned_back.resize(5);
        return turned_back;
    }

    static variable_list turned(
        const at::Tensor &q, const at::Tensor &k, const at::Tensor &cos, const at::Tensor &sin, const at::Tensor &positions,
        int sign) {
        const auto from_q = whole_rows(q), from_k = whole_rows(k);
        auto to_q = at::empty(q.sizes(), q.options()), to_k = at::empty(k.sizes(), k.options());
        const auto c = cos.to(wide(q)), s = sin.to(wide(q));
        by_type(q, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            using W = typename F::W;
            const auto side = [](const at::Tensor &x, at::Tensor &to) {
                return typename F::Turned{data<T>(x), x.stride(0), data<T>(to), to.stride(0), x.size(1)};
            };
            F::rotary(
                q.size(0), q.size(2), 2 * c.size(1), side(from_q, to_q), side(from_k, to_k), data<W>(c), data<W>(s),
                data<int64_t>(positions), sign, parallel);
        });
        return {to_q, to_k};
    }
};

at::Tensor plain_rotary(const at::Tensor &x, const at::Tensor &cos, const at::Tensor &sin, const at::Tensor &positions) {
    const int64_t R = 2 * cos.size(1);
    if (R < x.size(-1)) {
        const auto rest = x.narrow(-1, R, x.size(-1) - R);
        return at::cat({plain_rotary(x.narrow(-1, 0, R), cos, sin, positions), rest}, -1);
    }
    const auto rows = [&](const at::Tensor &table) {
        const auto half = table.index_select(0, positions).to(x.scalar_type());
        return at::cat({half, half}, -1).unsqueeze(1);  // [N, 1, R]
    };
    const auto halves = x.chunk(2, -1);
    return x * rows(cos) + at::cat({-halves[1], halves[0]}, -1) * rows(sin);
}

/// act(gate) up; keeps gate and up only.
struct Gated : public Function<Gated> {
    static at::Tensor forward(AutogradContext *ctx, const at::Tensor &gate, const at::Tensor &up, bool is_gelu) {
        const auto a = flat(gate), b = flat(up);
        ctx->save_for_backward({a, b});
        ctx->saved_data["gelu"] = is_gelu;
        return made(a, b, kind(is_gelu), output(gate.sizes(), gate));
    }

    /// h, from gate and up [rows, width].
    static at::Tensor made(const at::Tensor &gate, const at::Tensor &up, nt_gate kind, at::Tensor h) {
        const int64_t D = gate.size(1);
        by_type(gate, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            F::gated(
                kind, gate.size(0), D, data<T>(gate), gate.stride(0), data<T>(up), up.stride(0), data<T>(h), D, parallel);
        });
        return h;
    }

    static at::Tensor again(const AutogradContext &ctx) {
        const auto saved = ctx.get_saved_variables();
        const auto gate = saved[0].detach();
        return made(
            gate, saved[1].detach(), kind(ctx.saved_data.at("gelu").toBool()), temporary(gate.sizes(), gate.options()));
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        forget_again(ctx);
        const auto saved = ctx->get_saved_variables();
        const auto a = saved[0], b = saved[1], dh = gradients[0].contiguous();
        const int64_t D = a.size(1);
        auto da = at::empty(dh.sizes(), dh.options()), db = at::empty_like(da);
        by_type(a, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            F::gated_backward(
                kind(ctx->saved_data["gelu"].toBool()), a.size(0), D, data<T>(dh), D, data<T>(a), a.stride(0), data<T>(b),
                b.stride(0), data<T>(da), D, data<T>(db), D, parallel);
        });
        return {da, db, {}};
    }

    static nt_gate kind(bool is_gelu) { return is_gelu ? NT_GEGLU : NT_SWIGLU; }

    /// [rows, width]; the rows may lie apart, as the parts of one product do.
    static at::Tensor flat(const at::Tensor &x) {
        return x.dim() == 2 && x.stride(1) == 1 ? x : x.contiguous().view({-1, x.size(-1)});
    }
};

/// GELU in its tanh form; keeps its input only.
struct GELU : public Function<GELU> {
    static at::Tensor forward(AutogradContext *ctx, const at::Tensor &given) {
        const auto x = given.contiguous();
        ctx->save_for_backward({x});
        return made(x, output(x.sizes(), x));
    }

    static at::Tensor made(const at::Tensor &x, at::Tensor h) {
        const int64_t D = x.size(-1);
        by_type(x, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            F::gated(NT_GELU, rows_of(x), D, data<T>(x), D, nullptr, 0, data<T>(h), D, parallel);
        });
        return h;
    }

    static at::Tensor again(const AutogradContext &ctx) {
        const auto x = ctx.get_saved_variables()[0].detach();
        return made(x, temporary(x.sizes(), x.options()));
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        forget_again(ctx);
        const auto x = ctx->get_saved_variables()[0], dh = gradients[0].contiguous();
        auto dx = at::empty_like(x);
        const int64_t D = dx.size(-1);
        by_type(dx, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            F::gated_backward(
                NT_GELU, rows_of(dx), D, data<T>(dh), D, data<T>(x), D, nullptr, 0, data<T>(dx), D, nullptr, 0, parallel);
        });
        return {dx};
    }
};

/// Attention inside each document of a flat row.
struct DocumentAttention : public Function<DocumentAttention> {
    static at::Tensor forward(
        AutogradContext *ctx, const at::Tensor &given_q, const at::Tensor &given_k, const at::Tensor &given_v,
        std::vector<int64_t> starts, bool causal, int64_t window, double scale, double cap) {
        const auto q = whole_rows(given_q), k = whole_rows(given_k), v = whole_rows(given_v);
        const auto [o, lse] = attended(shape_of(q, k, starts, causal, window, scale, cap), q, k, v);
        ctx->save_for_backward({q, k, v, o, lse});
        ctx->saved_data["starts"] = starts;
        ctx->saved_data["causal"] = causal;
        ctx->saved_data["window"] = window;
        ctx->saved_data["scale"] = scale;
        ctx->saved_data["cap"] = cap;
        return o;
    }

    static variable_list backward(AutogradContext *ctx, const variable_list &gradients) {
        const auto saved = ctx->get_saved_variables();
        const auto q = saved[0], k = saved[1], v = saved[2], o = saved[3], lse = saved[4], d_o = gradients[0].contiguous();
        const auto starts = ctx->saved_data["starts"].toIntVector();
        const auto shape = shape_of(
            q, k, starts, ctx->saved_data["causal"].toBool(), ctx->saved_data["window"].toInt(),
            ctx->saved_data["scale"].toDouble(), ctx->saved_data["cap"].toDouble());
        auto dq = at::empty(q.sizes(), q.options()), dk = at::empty(k.sizes(), k.options()), dv = at::empty_like(dk);
        const auto memory = scratch(nt_attention_scratch_bytes(&shape, int(q.element_size()), 1));
        const int64_t HE = q.size(1) * q.size(2), KE = k.size(1) * k.size(2);
        by_type(q, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            F::attention_backward(
                &shape, data<T>(q), q.stride(0), data<T>(k), k.stride(0), data<T>(v), v.stride(0), data<T>(o), HE, data<typename F::W>(lse), data<T>(d_o), HE,
                data<T>(dq), HE, data<T>(dk), KE, data<T>(dv), KE, memory.data_ptr(), parallel);
        });
        return {dq, dk, dv, {}, {}, {}, {}, {}};
    }

    /// o [N, H, E] and lse [H, N] of whole rows.
    static std::pair<at::Tensor, at::Tensor> attended(
        const nt_attention &shape, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v) {
        const auto o = at::empty(q.sizes(), q.options()), lse = at::empty({q.size(1), q.size(0)}, q.options().dtype(wide(q)));
        const auto memory = scratch(nt_attention_scratch_bytes(&shape, int(q.element_size()), 0));
        by_type(q, [&](auto f) {
            using F = decltype(f);
            using T = typename F::T;
            F::attention(
                &shape, data<T>(q), q.stride(0), data<T>(k), k.stride(0), data<T>(v), v.stride(0), data<T>(o), o.stride(0),
                data<typename F::W>(lse), memory.data_ptr(), parallel);
        });
        return {o, lse};
    }

    static nt_attention shape_of(
        const at::Tensor &q, const at::Tensor &k, const std::vector<int64_t> &starts, bool causal, int64_t window,
        double scale, double cap) {
        nt_attention shape{};
        shape.documents = int64_t(starts.size()) - 1;
        shape.starts = starts.data();
        shape.heads = q.size(1);
        shape.kv_heads = k.size(1);
        shape.head_dim = q.size(2);
        shape.bidirectional = causal ? 0 : 1;
        shape.window = window;
        shape.scale = scale;
        shape.soft_cap = cap;
        // More parts than threads, so that the result is one on any number of threads up to this. Of documents beyond 2,048
        // tokens fewer, since backward keeps sums of a whole one for each part: one on up to 4 threads at 8,192.
        int64_t longest = 2048;
        for (int64_t d = 0; d < shape.documents; ++d) longest = std::max(longest, starts[d + 1] - starts[d]);
        shape.parts = std::max<int64_t>(16 * 2048 / longest, ct_threads());
        return shape;
    }
};

/// True where query t sees key s, of n tokens, all of them or those up to itself; window 0: all of these.
at::Tensor sight_mask(int64_t n, bool causal, int64_t window) {
    if (!causal) return at::ones({n, n}, at::kBool);
    const auto t = at::arange(n).unsqueeze(1), s = at::arange(n).unsqueeze(0);
    return (s <= t) & (s > t - (window > 0 ? window : n));
}

/// [n, K, E] -> [1, K, n, E]
at::Tensor as_heads(const at::Tensor &x) { return x.transpose(0, 1).unsqueeze(0); }

/// Softmax attention of capped scores, written out: q [B, H, T, E], k and v [B, K, S, E], mask true where a key is seen.
at::Tensor capped_attention(
    const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &mask, double scale, double cap) {
    const int64_t group = q.size(1) / k.size(1);
    const auto keys = k.repeat_interleave(group, 1), values = v.repeat_interleave(group, 1);
    const auto scores = at::tanh(at::matmul(q, keys.transpose(-1, -2)).to(wide(q)) * (scale / cap)) * cap;
    const auto p = at::softmax(scores.masked_fill(mask.logical_not(), -INFINITY), -1);
    return at::matmul(p.to(q.scalar_type()), values);
}

at::Tensor plain_attention(
    const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, bool causal, int64_t window, double scale, double cap) {
    if (cap > 0) {
        const auto seen = sight_mask(q.size(0), causal, window).to(q.device());
        return capped_attention(as_heads(q), as_heads(k), as_heads(v), seen, scale, cap).squeeze(0).transpose(0, 1);
    }
    const bool windowed = window > 0 && q.size(0) > window;
    std::optional<at::Tensor> mask;
    if (windowed) mask = sight_mask(q.size(0), causal, window).to(q.device());
    const auto y = at::scaled_dot_product_attention(
        as_heads(q), as_heads(k), as_heads(v), mask, 0.0, /*is_causal=*/causal && !windowed, scale,
        /*enable_gqa=*/true);
    return y.squeeze(0).transpose(0, 1);  // [n, H, E]
}

at::Tensor plain_document_attention(
    const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const std::vector<int64_t> &starts, bool causal,
    int64_t window, double scale, double cap) {
    std::vector<int64_t> lengths;
    for (size_t i = 0; i + 1 < starts.size(); ++i) lengths.push_back(starts[i + 1] - starts[i]);
    // One split, so that its backward is one concatenation (a narrow per document would fill N rows each).
    const auto qs = q.split_with_sizes(lengths), ks = k.split_with_sizes(lengths), vs = v.split_with_sizes(lengths);
    std::vector<at::Tensor> parts;
    for (size_t i = 0; i < lengths.size(); ++i)
        parts.push_back(plain_attention(qs[i], ks[i], vs[i], causal, window, scale, cap));
    return at::cat(parts, 0);
}

/// Documents behind a past: the queries from starts[d] on are the newest of the key_counts[d] keys from key_starts[d] on.
struct Continued {
    std::vector<int64_t> starts, key_starts, key_counts;
    int64_t window;
    double scale, cap;
    int64_t documents() const { return int64_t(key_starts.size()); }
    int64_t queries(int64_t d) const { return starts[d + 1] - starts[d]; }
};

at::Tensor continued_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const Continued &c) {
    using Kernel = DocumentAttention;
    const auto a = whole_rows(q), keys = whole_rows(k), values = whole_rows(v);
    auto shape = Kernel::shape_of(a, keys, c.starts, /*causal=*/true, c.window, c.scale, c.cap);
    shape.key_starts = c.key_starts.data();
    shape.key_counts = c.key_counts.data();
    return Kernel::attended(shape, a, keys, values).first;
}

/// The same for documents side by side, the shorter ones filled up: T queries and S keys each. The G query heads of a key/value
/// head stand where positions would, so no key is copied per head.
at::Tensor plain_continued_attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const Continued &c) {
    const int64_t B = c.documents(), K = k.size(1), G = q.size(1) / K, E = q.size(2);
    std::vector<int64_t> counts;
    for (int64_t d = 0; d < B; ++d) counts.push_back(c.queries(d));
    const int64_t T = *std::max_element(counts.begin(), counts.end());
    const int64_t S = *std::max_element(c.key_counts.begin(), c.key_counts.end());
    const auto column = [&](const std::vector<int64_t> &x) {  // [B, 1]
        return at::tensor(at::IntArrayRef(x.data(), size_t(B)), at::kLong).to(q.device()).unsqueeze(1);
    };
    const auto n = column(counts), m = column(c.key_counts), t = at::arange(T, n.options()), s = at::arange(S, n.options());
    const auto position = (m - n + t).unsqueeze(2);  // [B, T, 1]
    auto seen = s <= position;                       // [B, T, S]
    if (c.window > 0) seen = seen & (s > position - c.window);
    const auto mask = seen.repeat({1, G, 1}).unsqueeze(1);  // [B, 1, G T, S]
    // What is filled up repeats a document's last row.
    const auto queries = q.index_select(0, (column(c.starts) + at::minimum(t, n - 1)).flatten());
    const auto grouped = queries.view({B, T, K, G, E}).permute({0, 2, 3, 1, 4}).reshape({B, K, G * T, E});
    const auto rows = (column(c.key_starts) + at::minimum(s, m - 1)).flatten();
    const auto keys = k.index_select(0, rows).view({B, S, K, E}).transpose(1, 2);
    const auto values = v.index_select(0, rows).view({B, S, K, E}).transpose(1, 2);
    const auto y = c.cap > 0 ? capped_attention(grouped, keys, values, mask, c.scale, c.cap)
                             : at::scaled_dot_product_attention(grouped, keys, values, mask, 0.0, /*is_causal=*/false, c.scale);
    const auto flat = y.reshape({B, K, G, T, E}).permute({0, 3, 1, 2, 4}).reshape({B * T, K * G, E});
    return flat.index_select(0, (t < n).flatten().nonzero().squeeze(1));
}

/// Of q [N, H, E], k and v [M, K, E].
void check_attention(
    const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const std::vector<int64_t> &starts) {
    TORCH_CHECK(
        q.dim() == 3 && k.dim() == 3 && k.sizes() == v.sizes() && q.size(2) == k.size(2) && k.size(1) > 0 &&
            q.size(1) % k.size(1) == 0 && q.scalar_type() == k.scalar_type() && k.scalar_type() == v.scalar_type(),
        "q ", q.sizes(), ", k ", k.sizes(), ", v ", v.sizes());
    TORCH_CHECK(
        starts.front() == 0 && starts.back() == q.size(0) && std::is_sorted(starts.begin(), starts.end()),
        "document offsets ", starts, " for ", q.size(0), " tokens");
}

}  // namespace

// MARK: Selective checkpointing (Korthikanti et al. 2022, arXiv:2205.05198, section 5, of the cheap operations instead)

namespace {

/// A node of the graph as a node's data can hold it.
struct Source : public torch::CustomClassHolder {
    c10::intrusive_ptr<torch::autograd::Node> node;
    explicit Source(c10::intrusive_ptr<torch::autograd::Node> node) : node(std::move(node)) {}
};

/// The output of a node of type Operation, made again once for all that ask.
template <class Operation>
std::optional<at::Tensor> output_of(torch::autograd::Node *node) {
    const auto made = dynamic_cast<torch::autograd::CppNode<Operation> *>(node);
    if (!made) return std::nullopt;
    auto &kept = made->ctx_.saved_data;
    if (kept.find(made_again) == kept.end()) kept[made_again] = Operation::again(made->ctx_);
    return kept.at(made_again).toTensor();
}

template <class Operation>
bool is_output_of(torch::autograd::Node *node) {
    return dynamic_cast<torch::autograd::CppNode<Operation> *>(node) != nullptr;
}

}  // namespace

bool ct_set_selective(bool selective) {
    std::swap(selective, is_selective);
    return selective;
}

at::Tensor shim::kept(AutogradContext *ctx, const at::Tensor &x) {
    const auto node = x.grad_fn();
    const auto can_be_made = [](torch::autograd::Node *of) {
        return is_output_of<RMSNorm>(of) || is_output_of<LayerNorm>(of) || is_output_of<Gated>(of) || is_output_of<GELU>(of);
    };
    // A norm's second output is the sum itself, which it keeps.
    if (!is_selective || !node || x.output_nr() != 0 || !can_be_made(node.get())) return x;
    ctx->saved_data["source"] = c10::IValue::make_capsule(c10::make_intrusive<Source>(node));
    return {};
}

at::Tensor shim::restored(AutogradContext *ctx, const at::Tensor &saved) {
    const auto source = ctx->saved_data.find("source");
    if (source == ctx->saved_data.end()) {
        TORCH_CHECK(saved.defined(), "backward through a product a second time");
        return saved;
    }
    const auto holder = source->second.toCapsule();
    ctx->saved_data.erase(source);
    const auto node = static_cast<Source *>(holder.get())->node.get();
    if (auto y = output_of<RMSNorm>(node)) return *y;
    if (auto y = output_of<LayerNorm>(node)) return *y;
    if (auto h = output_of<Gated>(node)) return *h;
    return output_of<GELU>(node).value();
}

namespace {

/// Calls norm(x, residual), which gives y and, where there is a residual, the sum.
template <typename Norm>
ct_status normalize(ct_tensor x, ct_tensor residual, ct_tensor *out, ct_tensor *sum, Norm &&norm) {
    return guarded([&] {
        const auto input = get(x), added = get(residual);
        TORCH_CHECK(
            !added.defined() || (added.sizes() == input.sizes() && added.scalar_type() == input.scalar_type()), "residual ",
            added.sizes(), " for ", input.sizes());
        const variable_list results = norm(input, if_defined(added));
        if (added.defined()) *sum = own(results[1]);
        *out = own(results[0]);
    });
}

/// The same by ATen.
template <typename Norm>
variable_list plainly(const at::Tensor &x, const std::optional<at::Tensor> &residual, Norm &&norm) {
    if (!residual) return {norm(x)};
    const auto s = x + *residual;
    return {norm(s), s};
}

}  // namespace

ct_status ct_rms_norm(
    ct_tensor x, ct_tensor residual, ct_tensor weight, double offset, double epsilon, ct_tensor *out, ct_tensor *sum) {
    return normalize(x, residual, out, sum, [&](const at::Tensor &input, const std::optional<at::Tensor> &added) {
        SHIM_NAMED("rms_norm");
        const auto w = get(weight);
        TORCH_CHECK(w.dim() == 1 && w.size(0) == input.size(-1), "weight ", w.sizes(), " for rows of ", input.sizes());
        if (takes_kernel(input)) return RMSNorm::apply(input, added, w, offset, epsilon);
        return plainly(input, added, [&](const at::Tensor &s) { return plain_rms_norm(s, w, offset, epsilon); });
    });
}

ct_status ct_layer_norm(
    ct_tensor x, ct_tensor residual, ct_tensor weight, ct_tensor bias, double epsilon, ct_tensor *out, ct_tensor *sum) {
    return normalize(x, residual, out, sum, [&](const at::Tensor &input, const std::optional<at::Tensor> &added) {
        SHIM_NAMED("layer_norm");
        const auto w = get(weight), b = get(bias);
        TORCH_CHECK(
            w.dim() == 1 && w.size(0) == input.size(-1) && b.sizes() == w.sizes(), "weight ", w.sizes(), " and bias ", b.sizes(),
            " for rows of ", input.sizes());
        if (takes_kernel(input)) return LayerNorm::apply(input, added, w, b, epsilon);
        return plainly(input, added, [&](const at::Tensor &s) { return plain_layer_norm(s, w, b, epsilon); });
    });
}

ct_status ct_rotary(
    ct_tensor q, ct_tensor k, ct_tensor cos, ct_tensor sin, ct_tensor positions, ct_tensor *turned_q, ct_tensor *turned_k) {
    return guarded([&] {
        SHIM_NAMED("rotary");
        const auto a = get(q), b = get(k), c = get(cos).contiguous(), s = get(sin).contiguous(), p = get(positions).contiguous();
        const int64_t N = a.size(0), E = a.size(-1);
        TORCH_CHECK(
            a.dim() == 3 && b.dim() == 3 && b.size(0) == N && b.size(2) == E && c.dim() == 2 && c.sizes() == s.sizes() &&
                2 * c.size(1) <= E && p.dim() == 1 && p.size(0) == N && p.scalar_type() == at::kLong &&
                a.scalar_type() == b.scalar_type(),
            "q ", a.sizes(), ", k ", b.sizes(), ", tables ", c.sizes(), " and ", s.sizes(), ", positions ", p.sizes());
        if (p.is_cpu() && N > 0) {  // other devices check as they gather
            const auto [least, most] = at::aminmax(p);
            TORCH_CHECK(
                least.item().toLong() >= 0 && most.item().toLong() < c.size(0), "positions from ", least.item().toLong(),
                " to ", most.item().toLong(), " in tables of ", c.size(0));
        }
        const bool fused = takes_kernel(a);
        const auto turned = fused ? Rotary::apply(a, b, c, s, p) : variable_list{plain_rotary(a, c, s, p), plain_rotary(b, c, s, p)};
        *turned_q = own(turned[0]);
        *turned_k = own(turned[1]);
    });
}

ct_status ct_gated(ct_tensor gate, ct_tensor up, bool is_gelu, ct_tensor *out) {
    return giving(out, [&] {
        SHIM_NAMED("gated");
        const auto a = get(gate), b = get(up);
        TORCH_CHECK(a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type(), "gate ", a.sizes(), ", up ", b.sizes());
        return takes_kernel(a) ? Gated::apply(a, b, is_gelu) : (is_gelu ? at::gelu(a, "tanh") : at::silu(a)) * b;
    });
}

ct_status ct_gelu(ct_tensor x, bool exact, ct_tensor *out) {
    return giving(out, [&] {
        SHIM_NAMED("gelu");
        const auto input = get(x);
        if (exact) return at::gelu(input);  // ATen's is vectorized and keeps x only, as ours would
        return takes_kernel(input) ? GELU::apply(input) : at::gelu(input, "tanh");
    });
}

ct_status ct_soft_cap(ct_tensor x, double cap, ct_tensor *out) {
    return giving(out, [&] { return at::tanh(get(x) / cap) * cap; });
}

ct_status ct_document_attention(
    ct_tensor q, ct_tensor k, ct_tensor v, const int64_t *starts, size_t documents, bool causal, int64_t window, double scale,
    double cap, ct_tensor *out) {
    return giving(out, [&] {
        SHIM_NAMED("document_attention");
        const auto a = get(q), b = get(k), c = get(v);
        const std::vector<int64_t> offsets(starts, starts + documents + 1);
        check_attention(a, b, c, offsets);
        TORCH_CHECK(a.size(0) == b.size(0), a.size(0), " queries, ", b.size(0), " keys");
        TORCH_CHECK(causal || window == 0, "a window of ", window, " keys where later keys are seen");
        return takes_kernel(a, a.size(2) <= NT_ATTENTION_LARGEST_HEAD)
            ? DocumentAttention::apply(a, b, c, offsets, causal, window, scale, cap)
            : plain_document_attention(a, b, c, offsets, causal, window, scale, cap);
    });
}

ct_status ct_continued_attention(
    ct_tensor q, ct_tensor k, ct_tensor v, const int64_t *starts, const int64_t *key_starts, const int64_t *key_counts,
    size_t documents, int64_t window, double scale, double cap, ct_tensor *out) {
    return giving(out, [&] {
        SHIM_NAMED("continued_attention");
        const auto a = get(q), b = get(k), c = get(v);
        const Continued continued{
            {starts, starts + documents + 1}, {key_starts, key_starts + documents}, {key_counts, key_counts + documents},
            window, scale, cap};
        check_attention(a, b, c, continued.starts);
        for (int64_t d = 0; d < continued.documents(); ++d)
            TORCH_CHECK(
                continued.queries(d) > 0 && continued.queries(d) <= key_counts[d] && key_starts[d] >= 0 &&
                    key_starts[d] + key_counts[d] <= b.size(0),
                continued.queries(d), " queries behind ", key_counts[d], " keys from row ", key_starts[d], " of ", b.size(0));
        TORCH_CHECK(
            !c10::GradMode::is_enabled() || !(a.requires_grad() || b.requires_grad() || c.requires_grad()),
            "attention behind a past has no backward");
        return takes_kernel(a, a.size(2) <= NT_ATTENTION_LARGEST_HEAD) ? continued_attention(a, b, c, continued)
                                                                       : plain_continued_attention(a, b, c, continued);
    });
}
