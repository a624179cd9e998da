/* NEON, which every 64-bit ARM processor has. */
#include "levels.h"

#ifdef TRAIN_NEON
static int runs(void) { return 1; }

#include "kernels.h"

const train_level train_level_neon = KERNELS("neon", runs);
#else
const train_level train_level_neon = {.name = "neon"};
#endif
