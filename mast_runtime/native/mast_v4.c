/* The kernels for AVX-512, the x86-64-v4 level. */
#include "mast.h"

#ifdef MAST_X86_LEVELS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define MAST_V4
#define MAST_KERNELS mast_v4
#define MAST_LEVEL "avx512"
#include "mast.c"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int mast_not_for_this_target;
#endif
