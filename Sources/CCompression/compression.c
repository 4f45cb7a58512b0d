// The declarations below are the parts of zlib's and zstd's stable interfaces that are used; their layouts have been the
// same since zlib 1.2 and zstd 1.0.
#include "compression.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { chunk = 1 << 20 };

// --- zlib.h

typedef struct {
    const uint8_t *next_in;
    unsigned avail_in;
    unsigned long total_in;
    uint8_t *next_out;
    unsigned avail_out;
    unsigned long total_out;
    const char *msg;
    void *state;
    void *zalloc, *zfree, *opaque;
    int data_type;
    unsigned long adler, reserved;
} z_stream;

enum { Z_NO_FLUSH = 0, Z_OK = 0, Z_STREAM_END = 1, Z_MEM_ERROR = -4, Z_BUF_ERROR = -5 };
enum { gzip_window_bits = 15 + 16 };

static int32_t unpack_gzip(const uint8_t *bytes, size_t count, nc_receiver receiver, void *context, uint8_t *buffer) {
    void *library = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return nc_no_library;
    int (*begin)(z_stream *, int, const char *, int) = dlsym(library, "inflateInit2_");
    int (*inflate)(z_stream *, int) = dlsym(library, "inflate");
    int (*reset)(z_stream *) = dlsym(library, "inflateReset");
    int (*end)(z_stream *) = dlsym(library, "inflateEnd");
    if (!begin || !inflate || !reset || !end) return nc_no_library;

    z_stream stream;
    memset(&stream, 0, sizeof stream);
    if (begin(&stream, gzip_window_bits, "1.2.0", (int)sizeof stream) != Z_OK) return nc_out_of_memory;
    int32_t result = nc_ok;
    size_t at = 0;
    int status = Z_OK;
    while (result == nc_ok) {
        if (stream.avail_in == 0) {
            size_t part = count - at < chunk ? count - at : chunk;
            stream.next_in = bytes + at;
            stream.avail_in = (unsigned)part;
            at += part;
        }
        stream.next_out = buffer;
        stream.avail_out = chunk;
        status = inflate(&stream, Z_NO_FLUSH);
        size_t made = chunk - stream.avail_out;
        if (made > 0 && !receiver(context, buffer, made)) {
            result = nc_stopped;
        } else if (status == Z_STREAM_END) {
            // Padding of zeros behind the last member is allowed, as gzip itself allows it.
            while (stream.avail_in > 0 && *stream.next_in == 0) stream.next_in++, stream.avail_in--;
            if (stream.avail_in == 0 && at == count) break;
            if (reset(&stream) != Z_OK) result = nc_damaged;
        } else if (status == Z_MEM_ERROR) {
            result = nc_out_of_memory;
        } else if (status != Z_OK && status != Z_BUF_ERROR) {
            result = nc_damaged;
        } else if (stream.avail_in == 0 && at == count && made < chunk) {
            result = nc_truncated;
        }
    }
    end(&stream);
    return result;
}

// --- zstd.h

typedef struct {
    const void *src;
    size_t size, pos;
} zstd_in;

typedef struct {
    void *dst;
    size_t size, pos;
} zstd_out;

enum { ZSTD_d_windowLogMax = 100, largest_window_log = 27 };

static int32_t unpack_zstd(const uint8_t *bytes, size_t count, nc_receiver receiver, void *context, uint8_t *buffer) {
    void *library = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return nc_no_library;
    void *(*create)(void) = dlsym(library, "ZSTD_createDCtx");
    size_t (*set)(void *, int, int) = dlsym(library, "ZSTD_DCtx_setParameter");
    size_t (*decompress)(void *, zstd_out *, zstd_in *) = dlsym(library, "ZSTD_decompressStream");
    unsigned (*is_error)(size_t) = dlsym(library, "ZSTD_isError");
    size_t (*destroy)(void *) = dlsym(library, "ZSTD_freeDCtx");
    if (!create || !set || !decompress || !is_error || !destroy) return nc_no_library;

    void *state = create();
    if (!state) return nc_out_of_memory;
    if (is_error(set(state, ZSTD_d_windowLogMax, largest_window_log))) {
        destroy(state);
        return nc_no_library;
    }
    int32_t result = nc_ok;
    zstd_in in = {bytes, count, 0};
    size_t wanted = 1;  // 0 at the end of a frame
    while (result == nc_ok) {
        zstd_out out = {buffer, chunk, 0};
        size_t before = in.pos;
        wanted = decompress(state, &out, &in);
        if (is_error(wanted)) {
            result = nc_damaged;
        } else if (out.pos > 0 && !receiver(context, buffer, out.pos)) {
            result = nc_stopped;
        } else if (in.pos == count && (wanted == 0 || out.pos < chunk)) {
            if (wanted != 0) result = nc_truncated;
            break;
        } else if (in.pos == before && out.pos == 0) {
            result = nc_damaged;
        }
    }
    destroy(state);
    return result;
}

int32_t nc_unpack(int32_t kind, const uint8_t *bytes, size_t count, nc_receiver receiver, void *context) {
    uint8_t *buffer = malloc(chunk);
    if (!buffer) return nc_out_of_memory;
    int32_t result = kind == nc_gzip ? unpack_gzip(bytes, count, receiver, context, buffer)
                                     : unpack_zstd(bytes, count, receiver, context, buffer);
    free(buffer);
    return result;
}
