/* AVX2 and FMA: the x86-64-v3 level. */
#include "levels.h"

#ifdef TRAIN_X86
static int runs(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

TARGET_BEGIN("avx2,fma")
#define MAST_V3
#include "kernels.h"
TARGET_END

const train_level train_level_avx2 = KERNELS("avx2", runs);
#else
const train_level train_level_avx2 = {.name = "avx2"};
#endif
