/* NEON on 64-bit ARM, where every processor has it. Its densities are AVX2's: it was never measured. */
#include "mast_network.h"

#if defined(__ARM_NEON) && defined(__aarch64__)
static int supported(void) { return 1; }

#include "mast_forward.h"

const mast_kernels mast_neon = {
    .name = "neon",
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
const mast_kernels mast_neon = {.name = "neon"};
#endif
