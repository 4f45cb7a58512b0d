// malloc and its like, counted. libFuzzer's own limit needs the interceptors of a sanitizer, which are not linked here, and
// would look at single allocations only.
#define _GNU_SOURCE
#include "fuzz_memory.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// glibc's own, behind the names that are taken over.
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

// Called by the allocator: the coverage of libFuzzer must not call back into it.
#define PLAIN __attribute__((no_sanitize("coverage")))

static atomic_long held, peak, limit = LONG_MAX;

PLAIN static void *took(void *memory) {
    if (!memory) return memory;
    long now = atomic_fetch_add(&held, (long)malloc_usable_size(memory)) + (long)malloc_usable_size(memory);
    long most = atomic_load(&peak);
    while (now > most && !atomic_compare_exchange_weak(&peak, &most, now)) {}
    if (now > atomic_load(&limit)) {
        atomic_store(&limit, LONG_MAX);  // what reports this allocates too
        static const char message[] = "Fatal error: more memory held than a reader may\n";
        (void)!write(2, message, sizeof message - 1);
        abort();
    }
    return memory;
}

PLAIN static void gave(void *memory) {
    if (memory) atomic_fetch_sub(&held, (long)malloc_usable_size(memory));
}

PLAIN void *malloc(size_t size) { return took(__libc_malloc(size)); }
PLAIN void *calloc(size_t count, size_t size) { return took(__libc_calloc(count, size)); }
PLAIN void *memalign(size_t alignment, size_t size) { return took(__libc_memalign(alignment, size)); }
PLAIN void *aligned_alloc(size_t alignment, size_t size) { return took(__libc_memalign(alignment, size)); }

PLAIN int posix_memalign(void **memory, size_t alignment, size_t size) {
    void *found = __libc_memalign(alignment, size);
    if (!found) return ENOMEM;
    *memory = took(found);
    return 0;
}

PLAIN void *realloc(void *memory, size_t size) {
    gave(memory);
    void *found = __libc_realloc(memory, size);
    if (!found && size > 0) {  // the old one is still there
        took(memory);
        return NULL;
    }
    return took(found);
}

PLAIN void free(void *memory) {
    gave(memory);
    __libc_free(memory);
}

PLAIN void fuzz_memory_begin(long most) {
    long now = atomic_load(&held);
    atomic_store(&peak, now);
    atomic_store(&limit, most > LONG_MAX - now ? LONG_MAX : now + most);
}

PLAIN long fuzz_memory_end(void) {
    atomic_store(&limit, LONG_MAX);
    return atomic_load(&peak);
}
