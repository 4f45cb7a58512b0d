/* Which instruction sets the kernels use. Every kernel exists as a scalar twin (level 0: sums in fp64, loops straight
 * from the formula) and as vector code for the levels above; the level is asked at every call, once. */
#ifndef NEEDLETAIL_ISA_H
#define NEEDLETAIL_ISA_H
#ifdef __cplusplus
extern "C" {
#endif

/* min(what the processor has, the limit): 0 scalar twin, 1 AVX2 + FMA, 2 AVX-512 (F, BW, VL, DQ), 3 AVX512-BF16,
 * 4 AMX-BF16 (tiles: in attention, in generation's products and in the gradient of weights; no other kernel has code above
 * 3). */
int nt_isa_level(void);
/* For tests, and for users who want the twin: no kernel that this thread calls goes above `level` from now on. What it
 * spreads over other threads goes along; what they call themselves does not, so that tests may run side by side. */
void nt_set_isa_limit(int level);

#ifdef __cplusplus
}
#endif
#endif
