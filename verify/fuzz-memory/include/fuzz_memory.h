// What a reader has allocated since an input began, over every malloc of the program.
#ifndef FUZZ_MEMORY_H
#define FUZZ_MEMORY_H

/// From here on the program ends when so many bytes more are held at once; libFuzzer then keeps the input.
void fuzz_memory_begin(long limit);
/// No limit any more, as while libFuzzer works itself. Returns the most that was held, in bytes.
long fuzz_memory_end(void);

#endif
