// Unpacking gzip and zstd with the system's libz.so.1 and libzstd.so.1, each opened when a packed file is first met, so
// that programs neither link them nor need their headers.
#ifndef NEEDLETAIL_COMPRESSION_H
#define NEEDLETAIL_COMPRESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { nc_gzip = 1, nc_zstd = 2 };

enum {
    nc_ok = 0,
    nc_stopped = 1,        // the receiver wants no more
    nc_no_library = 2,     // the system's library is missing
    nc_damaged = 3,        // the bytes are not what they say they are
    nc_truncated = 4,      // the bytes end too early
    nc_out_of_memory = 5,
};

// Receives unpacked bytes in order; false stops the work.
typedef bool (*nc_receiver)(void *context, const uint8_t *bytes, size_t count);

// Unpacks all members or frames of `bytes`. Memory stays below 3 MB for gzip and 130 MB for zstd, whatever the file says.
int32_t nc_unpack(int32_t kind, const uint8_t *bytes, size_t count, nc_receiver receiver, void *context);

#ifdef __cplusplus
}
#endif
#endif
