/* AVX-512: the x86-64-v4 level. */
#include "levels.h"

#ifdef TRAIN_X86
static int runs(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
           && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define MAST_V4
#include "kernels.h"
TARGET_END

const train_level train_level_avx512 = KERNELS("avx512", runs);
#else
const train_level train_level_avx512 = {.name = "avx512"};
#endif
