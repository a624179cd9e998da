/* A tensor [steps, batch, agents] or [steps, batch, agents, features], features adjacent; the strides of the others in
 * elements. */
#ifndef MAST_TRAIN_STRIDED_H
#define MAST_TRAIN_STRIDED_H
#include <stddef.h>

typedef struct {
    void *data;
    ptrdiff_t step, batch, agent;
} strided;
#endif
