/* Plain C, for what the build's baseline has; where that includes NEON, level_neon.c is the same. */
#include "levels.h"

#ifndef TRAIN_NEON
static int runs(void) { return 1; }

#include "kernels.h"

const train_level train_level_scalar = KERNELS("scalar", runs);
#else
const train_level train_level_scalar = {.name = "scalar"};
#endif
