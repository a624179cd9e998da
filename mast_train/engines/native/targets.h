/* Targets: what is slow in many small tensor operations. mast_train/learning/targets.py has the definitions. */
#ifndef MAST_TRAIN_TARGETS_H
#define MAST_TRAIN_TARGETS_H
#include <stdint.h>

typedef struct {
    int32_t rows, actions;
    const float *q, *select; /* [rows, actions] */
    const uint8_t *avail;    /* [rows, actions], one at least in each row */
    float alpha, omega;
    float *value;            /* [rows] */
} mellow_call;
#endif
