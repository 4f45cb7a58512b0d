// Compiles NT_BODY (a file name) once for each instruction set, in a namespace of its own with NT_ISA its level (isa.h).
// Included by simd.h and by a topic's .cpp, after the structs of arguments, with all headers the body needs included
// before.
#if defined(__x86_64__)
namespace nt_avx2 {
#define NT_ISA 1
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include NT_BODY
#pragma clang attribute pop
#undef NT_ISA
}  // namespace nt_avx2
namespace nt_avx512 {
#define NT_ISA 2
#pragma clang attribute push(__attribute__((target("avx512bw,avx512vl,avx512dq"))), apply_to = function)
#include NT_BODY
#pragma clang attribute pop
#undef NT_ISA
}  // namespace nt_avx512
namespace nt_avx512_bf16 {
#define NT_ISA 3
#pragma clang attribute push(__attribute__((target("avx512bw,avx512vl,avx512dq,avx512bf16"))), apply_to = function)
#include NT_BODY
#pragma clang attribute pop
#undef NT_ISA
}  // namespace nt_avx512_bf16
#endif
#undef NT_BODY
