/* All kernels, for the instruction set that mast_vector.h is told to use; the file of a level includes this once. */
#include "agents_kernels.h"
#include "mixer_kernels.h"
#include "optimizer_kernels.h"
#include "targets_kernels.h"

/* A row of the table of levels. */
#define KERNELS(name, runs)                                                                                            \
    {                                                                                                                  \
        name, runs, agents_forward, agents_backward, mixer_forward, mixer_backward, soft_mellowmax, square_norm, adam, \
            rmsprop                                                                                                    \
    }
