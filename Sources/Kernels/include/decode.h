/* Generation: products of few rows with weights as they are stored, attention over a cache of keys and values, and a
 * whole step of a decoder. Memory bound at one row, where each weight is read once; from 5 rows on a weight is decoded
 * once for up to 16 of them, and pairs of bf16 are multiplied in blocks of 4 by 4 or in tiles.
 *
 * n rows (tokens of a step), I inputs, O outputs, D hidden size, H query heads, K key/value heads, E head dimension,
 * F MLP width, V vocabulary, S slots of a sequence in the cache. */
#ifndef NEEDLETAIL_DECODE_H
#define NEEDLETAIL_DECODE_H
#include <stddef.h>
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* How weights are stored. From NT_W_Q4_0 on: GGUF's blocks, little-endian, as in the file. */
enum {
    NT_W_F32 = 0,
    NT_W_BF16 = 1,
    NT_W_I8 = 2,   /* signed bytes with one scale a row: scale[o] q */
    NT_W_Q8_0 = 3, /* 32 elements: f16 d, 32 signed bytes: d q */
    NT_W_Q4_0 = 4, /* 32 elements: f16 d, 16 bytes, low halves first: d (q - 8) */
    NT_W_Q4_1 = 5, /* 32 elements: f16 d, f16 m, 16 bytes: d q + m */
    NT_W_Q4_K = 6, /* 256 elements: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 bytes */
    NT_W_Q6_K = 7, /* 256 elements: 128 + 64 bytes of q, 16 signed scales, f16 d: d scale (q - 32) */
};

/* Element types of activations and caches. */
enum { NT_F32 = 0, NT_BF16 = 1 };

/* W [O, I] of any type, rows one after the other. */
struct nt_weight {
    const void *data;
    int32_t type;
    int64_t rows, columns;
    const float *scales; /* [O], NT_W_I8 only */
    const float *bias;   /* [O] or null */
};

/* Bytes of a row of I elements; 0 when I is no whole number of blocks. */
int64_t nt_weight_row_bytes(int32_t type, int64_t columns);
/* Elements begin ..< begin + count of row o as fp32, exactly; begin and count whole blocks (or the rest of the row). */
void nt_weight_row(const struct nt_weight *w, int64_t o, float *out);

/* y = x W^T + bias. x [n, I] (stride in elements) and y [n, O] in NT_F32 or NT_BF16.
 * fp32 weights: fp32 products. bf16 weights: x is rounded to bf16 where the processor multiplies bf16, products summed
 * in fp32. Bytes and blocks: from level 1 on, x is rounded to bytes in blocks of 32 with an fp32 scale each (as llama.cpp
 * does); a block with NaN in it makes NaN. The twin multiplies the decoded weights. */
void nt_decode_linear(const struct nt_weight *w, const void *x, int32_t x_type, int64_t x_stride, int64_t n, void *y,
                      int32_t y_type, int64_t y_stride, void *scratch, nt_parallel parallel);
size_t nt_decode_linear_scratch_bytes(const struct nt_weight *w, int64_t n);

/* Keys and values of a layer under generation: [sequences, S, K, E], NT_F32 or NT_BF16. */
struct nt_cache {
    const void *keys, *values;
    int32_t type;
    int64_t slots; /* S */
};

/* out[t] = softmax(scale q[t] . keys) values, per query head; query head h reads key/value head h / (H / K). With a cap
 * c > 0 a score s is c tanh(s / c).
 * q, out [n, H, E] fp32 with a stride between tokens. Token t belongs to sequence sequences[t] and sees its slots
 * max(0, lengths[t] - window) ..< lengths[t] (window 0: all). lengths[t] >= 1. */
void nt_decode_attention(const float *q, int64_t q_stride, const struct nt_cache *cache, const int64_t *sequences,
                         const int64_t *lengths, int64_t n, int64_t heads, int64_t kv_heads, int64_t head_dim,
                         int64_t window, float scale, float cap, float *out, int64_t out_stride, void *scratch,
                         nt_parallel parallel);
size_t nt_decode_attention_scratch_bytes(const int64_t *lengths, int64_t n, int64_t heads, int64_t head_dim);

/* RMSNorm: x weight / sqrt(mean(x^2) + epsilon); with a bias LayerNorm: (x - mean(x)) weight / sqrt(var(x) + epsilon) +
 * bias. Without a weight: x. */
struct nt_norm {
    const float *weight, *bias;
};

/* What an MLP bends its input by: silu, GELU in its tanh form, GELU. */
enum { NT_ACT_SILU = 0, NT_ACT_TANH_GELU = 1, NT_ACT_GELU = 2 };

/* A block:
 *     h = x + n2(Wo attention(turned n_q(Wq n1(x)), turned n_k(Wk n1(x)), Wv n1(x)))
 *     y = h + n4(Wd (act(Wg n3(h)) * Wu n3(h)))    or Wd act(Wu n3(h)) without a gate */
struct nt_decoder_layer {
    struct nt_weight q, k, v, o, gate, up, down; /* gate.rows is 0 where there is none */
    struct nt_norm input_norm, attention_norm;   /* n1, n2, of D numbers */
    struct nt_norm mlp_input_norm, mlp_norm;     /* n3, n4 */
    struct nt_norm query_norm, key_norm;         /* of each head's E numbers, or of all heads' together */
    int64_t window;                              /* tokens seen, oneself included; 0: all */
    int64_t rotation;                            /* which of the decoder's */
};

/* Cosines and sines of the positions, [positions, R / 2], as in rotary.h. */
struct nt_rotation {
    const float *cosines, *sines;
};

struct nt_decoder {
    int64_t hidden, heads, kv_heads, head_dim, mlp, vocabulary, layer_count;
    float epsilon, scale;
    float score_cap, logit_cap; /* 0: none */
    float table_scale;          /* what rows of the token table are multiplied by */
    int32_t activation;
    int32_t norms_all_heads;    /* 1: query_norm and key_norm are of all heads' numbers together */
    int32_t is_parallel;        /* 1: the MLP reads n3(x), as GPT-NeoX's does */
    const struct nt_decoder_layer *layers;
    struct nt_norm final_norm;
    struct nt_weight table, head; /* [V, D] */
    struct nt_weight positions;   /* [positions, D], added to what is read of the table; no rows: none */
    int64_t rotary;               /* R, the first numbers of a head, which turn; even */
    const struct nt_rotation *rotations;
};

/* Tokens of one step; several tokens of a sequence stand in order of their positions. */
struct nt_decoder_batch {
    int64_t count;            /* n */
    const int32_t *ids;       /* [n] */
    const int64_t *sequences; /* [n] row of the cache */
    const int64_t *positions; /* [n], also the slot of the cache that is written */
    void *const *keys, *const *values; /* a pointer a layer to [sequences, S, K, E] */
    int32_t cache_type;
    int64_t slots;
    const int64_t *outputs; /* [output_count] tokens whose scores are wanted, ascending */
    int64_t output_count;
    float *logits; /* [output_count, V] */
};

/* One step: writes the tokens' keys and values into the cache and the scores after the wanted tokens. */
void nt_decoder_step(const struct nt_decoder *decoder, const struct nt_decoder_batch *batch, void *scratch,
                     nt_parallel parallel);
size_t nt_decoder_scratch_bytes(const struct nt_decoder *decoder, const struct nt_decoder_batch *batch);

/* out[i] = exp(factor (x[i] - max x)), zero or the least number below 2^-149; the largest gives 1. Returns their sum.
 * factor >= 0 and finite; out may be x. */
double nt_softmax_weights_f32(const float *x, int64_t count, float factor, float *out);

/* Index of the first largest element. */
int64_t nt_argmax_f32(const float *x, int64_t count);

/* Indices of the elements >= least, ascending, into `indices` unless it is null; returns how many there are. */
int64_t nt_indices_f32(const float *x, int64_t count, float least, int32_t *indices);

/* Sum of the 64-bit words of all weights that a step of one token reads, but for what is left of their last 64 bytes:
 * what a benchmark times to learn at which bandwidth they can be read. */
uint64_t nt_read_weights(const struct nt_decoder *decoder, nt_parallel parallel);

#ifdef __cplusplus
}
#endif
#endif
