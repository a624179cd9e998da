/* One optimiser step on the connections alone: clipping by the global norm, then Adam or RMSprop. */
#ifndef MAST_TRAIN_OPTIMIZER_H
#define MAST_TRAIN_OPTIMIZER_H
#include <stddef.h>
#include <stdint.h>

/* `index`: the positions that take part, ascending; NULL: all `count`. RMSprop leaves `first` NULL. */
typedef struct {
    int32_t count;
    const int32_t *index;
    float *weight, *first, *second, *step;
    const float *grad;
} step_parameter;

typedef struct {
    double lr, beta1, beta2, eps; /* RMSprop: beta2 is its alpha */
    float scale;                  /* of the gradients */
} step_rule;
#endif
