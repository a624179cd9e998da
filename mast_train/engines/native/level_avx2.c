/* AVX2 and FMA: the x86-64-v3 level. */
#include "levels.h"

#ifdef TRAIN_X86
#include "../../../mast_runtime/native/mast_cpu.h"

static int runs(void) { return mast_cpu_runs(bit_AVX | bit_FMA, bit_AVX2, MAST_AVX_STATE); }

TARGET_BEGIN("avx2,fma")
#define MAST_V3
#include "kernels.h"
TARGET_END

const train_level train_level_avx2 = KERNELS("avx2", runs);
#else
const train_level train_level_avx2 = {.name = "avx2"};
#endif
