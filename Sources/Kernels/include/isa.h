/* Which instruction set kernels use: 0 scalar, 1 AVX2 + FMA, 2 AVX-512 (F, BW, VL, DQ), 3 AVX512-BF16. */
#ifndef NEEDLETAIL_ISA_H
#define NEEDLETAIL_ISA_H
#ifdef __cplusplus
extern "C" {
#endif

/* The least of what the processor has and the limit. */
int nt_isa_level(void);
/* For tests, and for users who want the oracle: 0 is the scalar twin. */
void nt_set_isa_limit(int level);

#ifdef __cplusplus
}
#endif
#endif
