/* The kernels for AVX2 and FMA, the x86-64-v3 level. */
#include "mast.h"

#ifdef MAST_X86_LEVELS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define MAST_V3
#define MAST_KERNELS mast_v3
#define MAST_LEVEL "avx2"
#include "mast.c"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int mast_not_for_this_target;
#endif
