/* Rotary positions (Su et al. 2021, arXiv:2104.09864) on queries and keys in one pass; the convention of
 * halves (GPT-NeoX, Llama): with R = rotary width, pair i < R / 2 of each head is (x[i], x[i + R / 2]) and becomes
 *
 *   (x1 cos - x2 sin, x2 cos + x1 sin)      at cos, sin [positions[token], i]; elements R ..< E stay as they are
 *
 * The gradient is the rotation back: the same call with sign -1 on dq and dk. */
#ifndef NEEDLETAIL_ROTARY_H
#define NEEDLETAIL_ROTARY_H
#include <stdint.h>
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* One side of the pass: x and what it becomes, [tokens, heads, head_width], strides in elements from token to token. `to`
 * may be x, else they must not overlap. */
#define NT_TURNED(T, S)            \
    struct nt_turned_##S {         \
        const T *x;                \
        int64_t x_stride;          \
        T *to;                     \
        int64_t to_stride, heads;  \
    };
NT_TURNED(uint16_t, bf16)
NT_TURNED(float, f32)
NT_TURNED(double, f64)
#undef NT_TURNED
/* q and k may have no heads. rotary_width even, <= head_width. cosine, sine [*, rotary_width / 2]; positions [tokens]
 * are rows of them: a token's index inside its document. sign: +1 forward, -1 backward. */
#define NT_ROTARY_KERNELS(T, W, S)                                                                                     \
    void nt_rotary_##S(int64_t tokens, int64_t head_width, int64_t rotary_width, struct nt_turned_##S q,               \
                       struct nt_turned_##S k, const W *cosine, const W *sine, const int64_t *positions, int sign,     \
                       nt_parallel parallel);

NT_ROTARY_KERNELS(uint16_t, float, bf16)
NT_ROTARY_KERNELS(float, float, f32)
NT_ROTARY_KERNELS(double, double, f64)

#ifdef __cplusplus
}
#endif
#endif
