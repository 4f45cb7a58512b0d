// Rows of Parquet and Arrow files as JSON lines: the only code that sees Arrow's C++ headers. It is built as a library of
// its own, which Formats opens when the first such file is met (ColumnarFile.swift); nothing links it.
#ifndef NEEDLETAIL_ARROW_ROWS_H
#define NEEDLETAIL_ARROW_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { na_parquet = 1, na_arrow_file = 2, na_arrow_stream = 3 };

enum {
    na_ok = 0,
    na_stopped = 1,  // the receiver wants no more
    na_invalid = 2,  // the file is damaged or holds what is not read
    na_out_of_memory = 3,
    na_internal = 4,
};

// Receives JSON lines, whole rows at a time; false stops the work.
typedef bool (*na_receiver)(void *context, const char *bytes, size_t count);

// Writes every row of a file as one line: an object with the columns in their order. Columns and fields that are null are
// left out; dates, times and decimals are texts, and so are bytes, in base64 where they are not UTF-8. A few thousand rows are in memory at a time.
//
// error: room for a message of `error_room` bytes with its end, filled unless the status is na_ok or na_stopped.
int32_t na_json_lines(
    const char *path, int32_t format, na_receiver receiver, void *context, char *error, size_t error_room);

// The version of the Arrow library in use, as "26.0.1".
const char *na_arrow_version(void);

#ifdef __cplusplus
}
#endif
#endif
