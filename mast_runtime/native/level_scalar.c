/* Plain C, for every processor. */
#define MAST_PLAIN
#include "mast_forward.h"

static int supported(void) { return 1; }

const mast_kernels mast_scalar = {
    .name = "scalar",
    .supported = supported,
    .forward = forward,
    .choose = choose,
    .count_outside = count_outside,
    .squash = squash,
    .search = search,
    .tile = tile,
    .dense_from = {[MAST_DENSE] = 1.0, [MAST_SLICES] = 0.95, [MAST_LANE_SLICES] = 0.95, [MAST_BLOCKS8] = 0.95,
                   [MAST_BLOCKS16] = 0.95},
};
