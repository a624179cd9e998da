/* The kernels for AVX2 and FMA, the x86-64-v3 level. */
#include "train.h"

#ifdef TRAIN_X86_LEVELS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define MAST_V3
#define TRAIN_KERNELS train_v3
#define TRAIN_LEVEL "avx2"
#include "kernels.c"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int train_not_for_this_target;
#endif
