/* QMIX's mixing network and hypernetworks on the connections of their masks, forward and backward (mast_train.networks.mixers).
 *
 * Rows (transitions) are lanes. A task is MIXER_CHUNK tiles, whose weight gradients are taken together. The backward
 * pass computes the forward pass anew: that costs less than keeping it.
 */
#ifndef MAST_TRAIN_MIXER_H
#define MAST_TRAIN_MIXER_H
#include "panels.h"

enum { W1_IN, W1_OUT, W2_IN, W2_OUT, B1, B2_IN, B2_OUT, MIXER_LAYERS };
enum { MIXER_CHUNK = 4 };

typedef struct {
    int32_t agents, states, embed, hidden;
    train_matrix layer[MIXER_LAYERS];
    train_matrix back[MIXER_LAYERS]; /* transposed; empty for the layers that read the state */
} mixer_network;

typedef struct {
    float *weight[MIXER_LAYERS], *bias[MIXER_LAYERS];
} mixer_parameters;

typedef struct {
    const mixer_network *network;
    const mixer_network *gradients; /* where weight gradients are wanted: network, or a full one; NULL: forward */
    int32_t rows, repeats;
    mixer_parameters parameters;
    const float *state;  /* [..., states] */
    const int64_t *row;  /* [rows] where each row's state is, or NULL: in order */
    const float *q;      /* [repeats, rows, agents] */
    float *q_tot;        /* [repeats, rows], forward */
    float *grad;         /* [repeats, rows], backward: the gradient of q_tot, or made from `target` */
    const float *target; /* [rows] or NULL; one repeat: q_tot is computed, and the gradient is that of the mean of weight
                            (q_tot - target)^2 */
    const float *row_weight; /* [rows], NULL: 1 below the target and `low` from there on */
    float low;
    float *grad_q;       /* [repeats, rows, agents] */
    float *partial;      /* [tasks, gradient_size] */
} mixer_call;

/* Where a tile keeps the inputs, outputs and output gradients of each layer, q and its gradient; `size` floats. */
typedef struct {
    size_t in[MIXER_LAYERS], out[MIXER_LAYERS], delta[MIXER_LAYERS], q, grad_q, size;
} mixer_layout;

mixer_layout mixer_layout_of(const mixer_network *n);
int32_t mixer_outputs(const mixer_network *n, int layer);
int32_t mixer_inputs(const mixer_network *n, int layer);
size_t mixer_gradient_size(const mixer_network *n);
size_t mixer_work_size(const mixer_call *call);
static inline int32_t mixer_tiles(const mixer_call *c) { return (c->rows + TRAIN_LANES - 1) / TRAIN_LANES; }
static inline int32_t mixer_tasks(const mixer_call *c) { return (mixer_tiles(c) + MIXER_CHUNK - 1) / MIXER_CHUNK; }

/* Masks are bool [out, in] of each layer, NULL: full. Returns NULL when memory is short. */
mixer_network *mixer_build(int32_t agents, int32_t states, int32_t embed, int32_t hidden,
                           const uint8_t *const mask[MIXER_LAYERS]);
void mixer_free(mixer_network *network);

static inline float mixer_weight(const mixer_call *c, int32_t row)
{
    return c->row_weight ? c->row_weight[row] : c->q_tot[row] < c->target[row] ? 1.0f : c->low;
}

/* Means over rows: the loss, q, q_tot, target, weight. */
enum { MIXER_MEANS = 5 };
void mixer_means(const mixer_call *call, float mean[MIXER_MEANS]);

/* Sums of the tasks' gradients in their order, into the parameters' gradients, at the connections only. */
void mixer_collect(const mixer_call *call, const mixer_parameters *gradients);
#endif
