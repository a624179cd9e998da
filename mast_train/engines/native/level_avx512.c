/* AVX-512: the x86-64-v4 level. */
#include "levels.h"

#ifdef TRAIN_X86
#include "../../../mast_runtime/native/mast_cpu.h"

static int runs(void)
{
    return mast_cpu_runs(bit_AVX | bit_FMA, bit_AVX2 | bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL,
                         MAST_AVX512_STATE);
}

TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define MAST_V4
#include "kernels.h"
TARGET_END

const train_level train_level_avx512 = KERNELS("avx512", runs);
#else
const train_level train_level_avx512 = {.name = "avx512"};
#endif
