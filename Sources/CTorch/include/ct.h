/* C ABI over LibTorch: only what Needletail uses, errors as status codes, no policy.
   C11; a ct_tensor is an owned handle. On success *out is owned by the caller, on failure it is untouched. */
#ifndef NEEDLETAIL_CT_H
#define NEEDLETAIL_CT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct { void *impl; } ct_tensor;
typedef int32_t ct_status;
enum { CT_OK = 0, CT_INVALID = 1, CT_OUT_OF_MEMORY = 2, CT_INTERNAL = 3 };
typedef int32_t ct_dtype;
enum { CT_F32 = 0, CT_F64 = 1, CT_BF16 = 2, CT_F16 = 3, CT_I64 = 4, CT_I32 = 5, CT_I16 = 6, CT_I8 = 7, CT_U8 = 8, CT_BOOL = 9 };
typedef struct { int32_t kind; int32_t index; } ct_device; /* kind 0 CPU, 1 CUDA */

/* This thread's last failure; valid until its next failing call. */
const char *ct_last_error(void);
/* Records a failure that happened in a callback, to be reported by the call that ran it. */
void ct_set_last_error(const char *message);

/* Library */
const char *ct_version(void);
const char *ct_build_information(void);
const char *ct_cpu_capability(void);
bool ct_cuda_available(void);
bool ct_has_gloo(void);
bool ct_has_nccl(void);
bool ct_has_mpi(void);
/* For programs that train; before the first operation. Freed memory stays with the process, so that a step's tensors take
   the pages of the step before; and of products that were prepared for a shape, the newest 128 are kept. */
void ct_prepare_for_training(void);
/* Gives the pages of freed memory back to the system. */
void ct_release_free_memory(void);
/* Bytes that the heap has taken from the system, and those of them in use; 0 without glibc. */
void ct_heap_bytes(int64_t *taken, int64_t *used);
void ct_set_threads(int32_t count);
int32_t ct_threads(void);
int64_t ct_live_handles(void);
/* Runs body over 0 ..< count in one piece a thread of LibTorch's pool, each of at least `grain` items. */
void ct_parallel_for(int64_t count, int64_t grain, void (*body)(void *context, int64_t begin, int64_t end), void *context);

/* Handles and storage */
void ct_tensor_free(ct_tensor t); /* null is fine; never fails */
ct_status ct_from_bytes(const void *bytes, const int64_t *sizes, size_t rank, ct_dtype dtype, ct_tensor *out); /* copies */
ct_status ct_full(const int64_t *sizes, size_t rank, double value, ct_dtype dtype, ct_device device, ct_tensor *out);
ct_status ct_empty(const int64_t *sizes, size_t rank, ct_dtype dtype, ct_device device, ct_tensor *out);
ct_status ct_arange(int64_t start, int64_t end, ct_device device, ct_tensor *out); /* int64 */
ct_status ct_shape(ct_tensor t, int64_t *sizes, size_t capacity, size_t *rank);
ct_dtype ct_tensor_dtype(ct_tensor t); /* -1 when the shim has no name for it */
ct_device ct_tensor_device(ct_tensor t);
ct_status ct_data(ct_tensor t, void **data); /* contiguous CPU tensors only */
ct_status ct_item(ct_tensor t, double *value);
ct_status ct_to(ct_tensor t, ct_dtype dtype, ct_device device, ct_tensor *out);
ct_status ct_clone(ct_tensor t, ct_tensor *out);
ct_status ct_contiguous(ct_tensor t, ct_tensor *out);
ct_status ct_copy_inplace(ct_tensor t, ct_tensor source);

/* Shape */
ct_status ct_reshape(ct_tensor t, const int64_t *sizes, size_t rank, ct_tensor *out);
ct_status ct_transpose(ct_tensor t, int64_t a, int64_t b, ct_tensor *out);
ct_status ct_narrow(ct_tensor t, int64_t dim, int64_t start, int64_t length, ct_tensor *out);
/* Parts of the given sizes along dim, which share memory; backward is one concatenation. */
ct_status ct_split(ct_tensor t, const int64_t *sizes, size_t count, int64_t dim, ct_tensor *parts);
ct_status ct_expand(ct_tensor t, const int64_t *sizes, size_t rank, ct_tensor *out);
ct_status ct_cat(const ct_tensor *parts, size_t count, int64_t dim, ct_tensor *out);
ct_status ct_index_select(ct_tensor t, int64_t dim, ct_tensor index, ct_tensor *out);
ct_status ct_gather(ct_tensor t, int64_t dim, ct_tensor index, ct_tensor *out);
ct_status ct_index_copy_inplace(ct_tensor t, int64_t dim, ct_tensor index, ct_tensor source);

/* Arithmetic; binary operations broadcast and promote as LibTorch does. */
ct_status ct_add(ct_tensor a, ct_tensor b, ct_tensor *out);
ct_status ct_sub(ct_tensor a, ct_tensor b, ct_tensor *out);
ct_status ct_mul(ct_tensor a, ct_tensor b, ct_tensor *out);
ct_status ct_div(ct_tensor a, ct_tensor b, ct_tensor *out);
ct_status ct_add_scalar(ct_tensor a, double b, ct_tensor *out);
ct_status ct_mul_scalar(ct_tensor a, double b, ct_tensor *out);
ct_status ct_pow_scalar(ct_tensor a, double b, ct_tensor *out);
ct_status ct_compare_equal(ct_tensor a, ct_tensor b, ct_tensor *out);
ct_status ct_less_equal(ct_tensor a, ct_tensor b, ct_tensor *out);
ct_status ct_masked_fill(ct_tensor t, ct_tensor mask, double value, ct_tensor *out);
ct_status ct_exp(ct_tensor t, ct_tensor *out);
ct_status ct_log(ct_tensor t, ct_tensor *out);
ct_status ct_sqrt(ct_tensor t, ct_tensor *out);
ct_status ct_isfinite(ct_tensor t, ct_tensor *out);
ct_status ct_sum(ct_tensor t, ct_tensor *out);
ct_status ct_sum_dim(ct_tensor t, int64_t dim, bool keep, ct_tensor *out);
ct_status ct_max_abs(ct_tensor t, ct_tensor *out);
ct_status ct_argmax(ct_tensor t, int64_t dim, ct_tensor *out);
ct_status ct_softmax(ct_tensor t, int64_t dim, ct_tensor *out);
ct_status ct_log_softmax(ct_tensor t, int64_t dim, ct_tensor *out);

/* Layers */
ct_status ct_matmul(ct_tensor a, ct_tensor b, ct_tensor *out);
/* A trained weight is a leaf; its `copy` is its value in x's dtype, null when it is that itself. Backward adds the
   weight's gradient into the leaf's own, in the leaf's gradient dtype. */
/* x [..., I], weight and copy [O, I], bias [O] of any float dtype or null: x weight^T + bias */
ct_status ct_linear(ct_tensor x, ct_tensor weight, ct_tensor copy, ct_tensor bias, ct_tensor *out);
/* A frozen matrix in blocks (Kernels' packed.h): data u8 [O, bytes of a row]; NF4 also has scale codes i8 and steps fp32. */
typedef struct {
    int32_t type;
    int64_t columns;
    ct_tensor data, scale_codes, scale_steps;
    float scale_mean;
} ct_packed;
/* Rows row ..< row + rows of a packed matrix in fp32, bf16 or fp64. -> [rows, I] */
ct_status ct_packed_rows(const ct_packed *weight, int64_t row, int64_t rows, ct_dtype dtype, ct_tensor *out);
/* x weight^T + bias: x [N, I], fp32, bf16 or fp64 on the CPU, bias [O] frozen or null. */
ct_status ct_packed_linear(ct_tensor x, const ct_packed *weight, ct_tensor bias, ct_tensor *out);
/* Dropout by a stream of random words (Kernels' dropout.h); probability 0: none. */
typedef struct {
    uint64_t seed, stream;
    double probability;
} ct_dropout;
/* x weight^T + scaling (x' a^T) b^T: x [N, I], weight [O, I] frozen (`packed` in its place unless null), a [r, I],
   b [O, r]; x' = x after dropout, which backward makes again. */
ct_status ct_adapted_linear(
    ct_tensor x, ct_tensor weight, const ct_packed *packed, ct_tensor a, ct_tensor a_copy, ct_tensor b, ct_tensor b_copy,
    double scaling, ct_dropout dropout, ct_tensor *out);
/* Rows of copy [V, D] picked by ids [N] int64, in the copy's dtype. */
ct_status ct_embedding(ct_tensor weight, ct_tensor copy, ct_tensor ids, ct_tensor *out);
/* x [..., D], weight [D], which counts as weight + offset; statistics in fp32 (fp64 for fp64 input), result in x's dtype.
   residual: null, or of x's shape and dtype: then of *sum = x + residual. */
ct_status ct_rms_norm(
    ct_tensor x, ct_tensor residual, ct_tensor weight, double offset, double epsilon, ct_tensor *out, ct_tensor *sum);
/* x [..., D], weight and bias [D]; statistics, residual and results as above */
ct_status ct_layer_norm(
    ct_tensor x, ct_tensor residual, ct_tensor weight, ct_tensor bias, double epsilon, ct_tensor *out, ct_tensor *sum);
/* q [N, H, E], k [N, K, E]; cos, sin [*, R / 2] with R <= E, positions [N] int64 rows of them: the halves (x1, x2) of the
   first R numbers of a head become (x1 cos - x2 sin, x2 cos + x1 sin), the others stay. */
ct_status ct_rotary(
    ct_tensor q, ct_tensor k, ct_tensor cos, ct_tensor sin, ct_tensor positions, ct_tensor *turned_q, ct_tensor *turned_k);
/* act(gate) up, elementwise: silu, or GELU's tanh form. The two may be parts of one product's rows. */
ct_status ct_gated(ct_tensor gate, ct_tensor up, bool is_gelu, ct_tensor *out);
/* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, elementwise; exact: x times the normal distribution function */
ct_status ct_gelu(ct_tensor x, bool exact, ct_tensor *out);
/* cap tanh(x / cap), elementwise */
ct_status ct_soft_cap(ct_tensor x, double cap, ct_tensor *out);
/* Attention inside each document of a flat row of tokens. q [N, H, E]; k, v [N, K, E]; H a multiple of K.
   starts: documents + 1 offsets, from 0 to N. causal: a query sees keys up to itself, else all of its document. window:
   the newest keys a causal query sees (itself included), 0 for all. cap: of the scores, as ct_soft_cap, 0 for none.
   -> [N, H, E] */
ct_status ct_document_attention(
    ct_tensor q, ct_tensor k, ct_tensor v, const int64_t *starts, size_t documents, bool causal, int64_t window, double scale,
    double cap, ct_tensor *out);
/* The same behind a past, causal, without gradients: the keys of document d are rows key_starts[d] ..< key_starts[d] +
   key_counts[d] of k and v [M, K, E]; its queries, one at least, are the newest of them. -> [N, H, E] */
ct_status ct_continued_attention(
    ct_tensor q, ct_tensor k, ct_tensor v, const int64_t *starts, const int64_t *key_starts, const int64_t *key_counts,
    size_t documents, int64_t window, double scale, double cap, ct_tensor *out);
/* cap: of the logits, 0 for none. label_smoothing 0 ... 1 and z_loss: Kernels/include/loss.h; they count only where there is
   something to train, so that a loss without gradients is the plain one. */
typedef struct { double cap, label_smoothing, z_loss; } ct_loss_options;
/* Sum over rows of -log softmax(hidden weight^T)[label] * factor; hidden [M, D], weight, copy [V, D], labels [M] int64,
   factors [M] in fp32 (fp64 for fp64 input) or null for ones.
   `chunk` rows of logits exist at a time; the gradients are computed with them, so no logits are kept. */
ct_status ct_linear_cross_entropy(
    ct_tensor hidden, ct_tensor weight, ct_tensor copy, ct_tensor labels, ct_tensor factors, ct_loss_options options,
    int64_t chunk, ct_tensor *out);
/* log softmax(hidden weight^T)[label] per row, fp32 (fp64 for fp64), no gradient. -> [M] */
ct_status ct_linear_log_probabilities(
    ct_tensor hidden, ct_tensor weight, ct_tensor labels, double cap, int64_t chunk, ct_tensor *out);

/* Decompositions of a matrix [M, N] in fp32 or fp64; K = min(M, N). Non-finite input fails. */
ct_status ct_singular_values(ct_tensor t, ct_tensor *out); /* [K], descending */
ct_status ct_svd(ct_tensor t, ct_tensor *u, ct_tensor *s, ct_tensor *vh); /* t = u diag(s) vh: [M, K], [K], [K, N] */
ct_status ct_qr_r(ct_tensor t, ct_tensor *out); /* R [K, N] of t = Q R, Q not formed */

/* Operations above that took a fused kernel, and that took ATen's instead although the operation has one. */
int64_t ct_fused_calls(void);
int64_t ct_fallback_calls(void);
/* Whether the process takes kernels at all, else ATen's operations; returns what it was. For comparing the two. */
bool ct_set_kernels(bool enabled);

/* Profiling: from start to stop, operations of this thread and of the backward passes it begins are recorded with their
   shapes and times. stop writes them in Chrome's trace format; a file that cannot be written is not an error of this call. */
ct_status ct_trace_start(void);
ct_status ct_trace_stop(const char *path);

/* Autograd */
bool ct_set_gradients_enabled(bool enabled); /* this thread's; returns what it was */
/* Selective checkpointing, this thread's; returns what it was: products keep no input that a norm or a gate made, which is
   made again in backward. */
bool ct_set_selective(bool selective);
int64_t ct_changes(ct_tensor t); /* changes in place so far */
bool ct_requires_gradient(ct_tensor t);
ct_status ct_set_requires_gradient(ct_tensor t, bool required);
/* The dtype of a leaf's gradient, when it is not the leaf's. */
ct_status ct_set_gradient_dtype(ct_tensor t, ct_dtype dtype);
ct_status ct_detach(ct_tensor t, ct_tensor *out);
/* gradient: of `output`, null for a scalar that counts once */
ct_status ct_backward(ct_tensor output, ct_tensor gradient);
ct_status ct_gradient(ct_tensor t, ct_tensor *out); /* out->impl null when there is none */
ct_status ct_clear_gradient(ct_tensor t);
/* grad_inputs[i].impl stays null where input i needs none. May run on the engine's own threads. */
typedef ct_status (*ct_backward_function)(
    void *context, const ct_tensor *saved, size_t saved_count, const ct_tensor *grad_outputs, size_t output_count,
    ct_tensor *grad_inputs, size_t input_count);
/* Gives `outputs` (computed without gradients) a backward; `context` is released once, whatever happens. */
ct_status ct_custom_function(
    const ct_tensor *inputs, size_t input_count, const ct_tensor *outputs, size_t output_count, const ct_tensor *saved,
    size_t saved_count, void *context, ct_backward_function backward, void (*release)(void *), ct_tensor *results);

/* Optimizer arithmetic, in place, no gradient.
   What is updated: `value`, with `copy`, unless null, given its new numbers in another dtype (bf16 on the CPU); or split
   masters (Kernels/include/optimizer.h): fp32 numbers of which `value` is the upper half, bf16, and `low` the lower, i16. */
typedef struct { ct_tensor value, low, copy; } ct_masters;
ct_status ct_split_masters(ct_tensor master, ct_tensor high, ct_tensor low); /* writes into high and low */
ct_status ct_join_masters(ct_tensor high, ct_tensor low, ct_tensor *out);    /* fp32 */

/* step: t, from 1; the gradient counts gradient_scale times. */
typedef struct {
    int64_t step;
    double learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale;
} ct_adamw_options;
/* *update_square_sum: of the update, without rate and decay. */
ct_status ct_adamw_inplace(
    ct_masters masters, ct_tensor gradient, ct_tensor exp_avg, ct_tensor exp_avg_sq, const ct_adamw_options *options,
    double *update_square_sum);
/* The same with 8-bit moments (Dettmers et al. 2022, arXiv:2110.02861): codes u8 as the parameter, scales fp32 of each
   block of ct_adam8_block elements. CPU, fp32 masters. ct_adam8_start fills them for a run's start, ct_adam8_decode
   gives a moment in fp32, flat. */
int64_t ct_adam8_block(void);
ct_status ct_adam8_start(ct_tensor first_codes, ct_tensor first_scales, ct_tensor second_codes, ct_tensor second_scales);
ct_status ct_adam8_decode(ct_tensor codes, ct_tensor scales, bool is_signed, ct_tensor *out);
ct_status ct_adamw8_inplace(
    ct_masters masters, ct_tensor gradient, ct_tensor first_codes, ct_tensor first_scales, ct_tensor second_codes,
    ct_tensor second_scales, const ct_adamw_options *options, double *update_square_sum);
/* What ct_adamw_inplace would give as *update_square_sum; changes nothing. */
ct_status ct_adamw_update_square_sum(
    ct_tensor gradient, ct_tensor exp_avg, ct_tensor exp_avg_sq, const ct_adamw_options *options, double *sum);

/* x / (norm_factor times its Frobenius norm), then `steps` of x = a x + (b A + c A^2) x, A = x x^T (x^T x of a tall x), each
   with its three of `coefficients`, in products of dtype `products`: singular values go to about 1. */
typedef struct {
    const double *coefficients;
    size_t steps;
    double norm_factor;
    ct_dtype products;
} ct_orthogonalization;
ct_status ct_orthogonalized(ct_tensor x, const ct_orthogonalization *orthogonalization, ct_tensor *out);
/* m = momentum m + (1 - momentum) g;  u = momentum m + (1 - momentum) g;  of each of `parts` matrices that lie above one
   another:  value -= learning_rate (scale orthogonalized(u) + weight_decay value).  g counts gradient_scale times. */
typedef struct {
    double learning_rate, momentum, weight_decay, scale, gradient_scale;
} ct_muon_options;
ct_status ct_muon_inplace(
    ct_tensor value, ct_tensor gradient, ct_tensor momentum, int64_t parts, const ct_muon_options *options,
    const ct_orthogonalization *orthogonalization);

ct_status ct_global_norm(const ct_tensor *tensors, size_t count, double *norm);

#ifdef __cplusplus
}
#endif
#endif
