/* How a kernel runs on several threads: the caller hands in the loop. */
#ifndef NEEDLETAIL_PARALLEL_H
#define NEEDLETAIL_PARALLEL_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef void (*nt_body)(void *context, int64_t begin, int64_t end);
/* Calls body(context, begin, end) on disjoint ranges that cover 0 ..< count, none shorter than `grain` unless it is the
 * last; returns when all are done. Kernels take null as "run serially". */
typedef void (*nt_parallel)(int64_t count, int64_t grain, nt_body body, void *context);

#ifdef __cplusplus
}
#endif
#endif
