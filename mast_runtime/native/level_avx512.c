/* AVX-512 F, BW, DQ and VL, the x86-64-v4 level, and F16C. */
#include "mast_network.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include "mast_cpu.h"

static int supported(void)
{
    return mast_cpu_runs(bit_AVX | bit_FMA | bit_F16C,
                         bit_AVX2 | bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL, MAST_AVX512_STATE);
}

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define MAST_V4
#include "mast_forward.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif

const mast_kernels mast_avx512 = {
    .name = "avx512",
    .supported = supported,
    .forward = forward,
    .choose = choose,
    .count_outside = count_outside,
    .squash = squash,
    .search = search,
    .tile = tile,
    .dense_from = {[MAST_DENSE] = 1.0, [MAST_SLICES] = 0.11, [MAST_LANE_SLICES] = 0.64, [MAST_BLOCKS8] = 0.67,
                   [MAST_BLOCKS16] = 0.97, [MAST_HALVES8] = 0.67, [MAST_HALVES16] = 0.97, [MAST_PERMUTED] = 0.42},
    .halves_from = 8192,
};
#else
const mast_kernels mast_avx512 = {.name = "avx512"};
#endif
