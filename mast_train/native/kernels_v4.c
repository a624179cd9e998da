/* The kernels for AVX-512, the x86-64-v4 level. */
#include "train.h"

#ifdef TRAIN_X86_LEVELS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define MAST_V4
#define TRAIN_KERNELS train_v4
#define TRAIN_LEVEL "avx512"
#include "kernels.c"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int train_not_for_this_target;
#endif
