/* AVX2 and FMA, the x86-64-v3 level. */
#include "mast_network.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include "mast_cpu.h"

static int supported(void) { return mast_cpu_runs(bit_AVX | bit_FMA, bit_AVX2, MAST_AVX_STATE); }

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define MAST_V3
#include "mast_forward.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif

const mast_kernels mast_avx2 = {
    .name = "avx2",
    .supported = supported,
    .forward = forward,
    .choose = choose,
    .count_outside = count_outside,
    .squash = squash,
    .search = search,
    .tile = tile,
    .dense_from = {[MAST_DENSE] = 1.0, [MAST_SLICES] = 0.11, [MAST_LANE_SLICES] = 0.59, [MAST_BLOCKS8] = 0.64,
                   [MAST_BLOCKS16] = 0.94},
};
#else
const mast_kernels mast_avx2 = {.name = "avx2"};
#endif
