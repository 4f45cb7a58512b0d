/* Frozen weights in few bits: encoded once while a model is loaded, decoded a panel at a time in front of each product.
 *
 * NF4 (Dettmers et al. 2023, "QLoRA", arXiv:2305.14314, section 3 and appendix E): blocks of 64 neighbours of a row are
 * divided by their largest magnitude and written as the nearest of 16 numbers, the quantiles of a normal distribution.
 * The blocks' magnitudes are themselves written in 8 bits (double quantisation): their mean is taken away, and of every
 * 256 of them the rest is a signed byte times a step. 4.127 bits a weight.
 *
 * Q8_0 and the other types from GGUF: as in decode.h and in ggml's ggml-common.h, bit-equal to the `gguf` package. */
#ifndef NEEDLETAIL_PACKED_H
#define NEEDLETAIL_PACKED_H
#include <stdint.h>
#include "decode.h"
#include "parallel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Beside NT_W_BF16 and the blocks of decode.h; products read these only through nt_packed_decode. */
enum {
    NT_W_NF4 = 16,  /* 64 elements: 32 bytes, low halves first; scales apart */
    NT_W_F16 = 17,
    NT_W_Q5_0 = 18, /* 32 elements: f16 d, 32 fifth bits, 16 bytes, low halves first: d (q - 16) */
    NT_W_Q5_1 = 19, /* 32 elements: f16 d, f16 m, then as Q5_0: d q + m */
    NT_W_Q2_K = 20, /* 256 elements: 16 bytes of scales and minima, 64 bytes of q, f16 d, f16 dmin */
    NT_W_Q3_K = 21, /* 256 elements: 32 bytes of third bits, 64 bytes of q, 12 bytes of scales, f16 d */
    NT_W_Q5_K = 22, /* 256 elements: f16 d, f16 dmin, 12 bytes of scales and minima, 32 bytes of fifth bits, 128 bytes */
    NT_W_TAUGHT = 64, /* and the NT_W_TAUGHT_TYPES - 1 after it: blocks that are decoded by a function of the caller's */
};
enum { NT_W_TAUGHT_TYPES = 64 };

/* Decodes `count` neighbouring blocks to fp32. */
typedef void (*nt_block_decoder)(const void *blocks, int64_t count, float *out);

/* Says what a type from NT_W_TAUGHT on is, before anything of that type exists. `elements` divides 512. */
void nt_packed_teach(int32_t type, int64_t elements, int64_t bytes, nt_block_decoder decode);

/* Blocks of an NF4 row that share a scale; scales that share a step. */
enum { NT_NF4_BLOCK = 64, NT_NF4_SCALES = 256 };

/* W [rows, columns] in blocks along its rows. A row is whole blocks; what its last one holds beyond `columns` is not
 * read. */
struct nt_packed {
    int32_t type;
    int64_t rows, columns;
    const void *data;          /* [rows, nt_packed_row_bytes] */
    const int8_t *scale_codes; /* NF4: [rows, blocks of a row] */
    const float *scale_steps;  /* NF4: one for every NT_NF4_SCALES codes */
    float scale_mean;          /* NF4: scale = scale_mean + step code */
};

/* Elements of a block; 0 for a type that is none, or that was not taught. */
int64_t nt_packed_block(int32_t type);
int64_t nt_packed_row_bytes(int32_t type, int64_t columns);

/* Rows row ..< row + rows, columns column ..< column + columns, each rounded once from the fp32 value that the type
 * defines. `column` starts a block, and the last column ends one or the row. `out` has a stride between rows in elements. */
void nt_packed_decode_f32(const struct nt_packed *w, int64_t row, int64_t rows, int64_t column, int64_t columns,
                          float *out, int64_t stride, nt_parallel parallel);
void nt_packed_decode_bf16(const struct nt_packed *w, int64_t row, int64_t rows, int64_t column, int64_t columns,
                           uint16_t *out, int64_t stride, nt_parallel parallel);
void nt_packed_decode_f64(const struct nt_packed *w, int64_t row, int64_t rows, int64_t column, int64_t columns,
                          double *out, int64_t stride, nt_parallel parallel);

/* The 16 numbers of NF4, ascending from -1 to 1. */
const float *nt_nf4_values(void);

/* w [rows, columns], finite, to NF4: data as in nt_packed, and the magnitude of each block. A row's last block is filled
 * up with zeros. Numbers halfway between two take the lower one. */
void nt_nf4_encode(int64_t rows, int64_t columns, const float *w, uint8_t *data, float *magnitudes, nt_parallel parallel);
/* Magnitudes to codes, steps (one for every NT_NF4_SCALES of them) and their mean. */
void nt_nf4_encode_scales(int64_t count, const float *magnitudes, int8_t *codes, float *steps, float *mean);

/* w [rows, columns], magnitudes at most 127 x 65504, to Q8_0; a row's last block is filled up with zeros. */
void nt_q8_0_encode(int64_t rows, int64_t columns, const float *w, uint8_t *data, nt_parallel parallel);

#ifdef __cplusplus
}
#endif
#endif
