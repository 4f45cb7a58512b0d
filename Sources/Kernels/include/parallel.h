/* How kernels use threads: they have none of their own, the caller hands in a loop. */
#ifndef NEEDLETAIL_PARALLEL_H
#define NEEDLETAIL_PARALLEL_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* Work on the items begin ..< end. */
typedef void (*nt_body)(void *context, int64_t begin, int64_t end);
/* Runs the body over 0 ..< count in pieces of at least `grain` items, perhaps at once; null: serially. */
typedef void (*nt_parallel)(int64_t count, int64_t grain, nt_body body, void *context);

#ifdef __cplusplus
}
#endif
#endif
