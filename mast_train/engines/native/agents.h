/* The agents' networks over whole sequences, forward and backward, many rows at once: fc1 + ReLU -> GRU -> fc2.
 *
 * Rows (episodes, and agents that share a network) are lanes: a tile of TRAIN_LANES rows of one group is carried
 * through all steps.
 */
#ifndef MAST_TRAIN_AGENTS_H
#define MAST_TRAIN_AGENTS_H
#include "panels.h"
#include "strided.h"

enum { TRAIN_PASSES = 4 };

/* The GRU is one matrix: rows r, z, the input part of n, the hidden part of n; columns y, then the state before.
 * Positions count through weight_ih, then weight_hh. The transposed ones carry gradients back. */
typedef struct {
    train_matrix fc1, gru, fc2, gru_back, fc2_back;
} agents_topology;

typedef struct {
    int32_t topologies, inputs, hidden, actions;
    agents_topology topology[]; /* group g has topology g mod topologies */
} agents_network;

enum { FC1_WEIGHT, WEIGHT_IH, WEIGHT_HH, FC2_WEIGHT, FC1_BIAS, BIAS_IH, BIAS_HH, FC2_BIAS, PARAMETERS };

/* One call. The batch is `seeds` parts of equal size, each with groups / seeds groups of its own: group g of a part
 * owns agent g, or all agents where it is the only one. A group's rows are numbered batch-major within its part. */
typedef struct agents_call {
    const struct agents_call *beside; /* forward: another network of the same groups to carry through the same inputs */
    const agents_network *network;
    const agents_network *gradients; /* where weight gradients are wanted: network, or a full one */
    int32_t groups, steps, batch, agents, seeds;
    const float *parameter[PARAMETERS]; /* [groups, ...] */
    strided x;             /* float: the first `observed` inputs */
    int32_t observed;
    strided actions;       /* int64 [steps - 1, batch, agents] of each step but the last, negative: none; or NULL */
    int32_t one_hot;       /* whether the one-hot of the action before is the next inputs */
    int32_t identity;      /* whether the one-hot of the agent ends the inputs */
    const int32_t *order;  /* [batch] episodes, each part's longest first, or NULL: as they are */
    const int32_t *length; /* [batch] their steps, in the same order; q is left as it is from there on */
    const int32_t *first;  /* [batch] the row in `taken` of their first transition, in the same order, or NULL */
    strided q;             /* float; forward: result; backward: its gradient; or NULL, which is 0 */
    float *taken;          /* [transitions, agents] q of the actions taken; backward: its gradient, which adds to q's;
                              or NULL */
    float *now, *after; /* [transitions, agents, actions] q at their own and at their next steps, or NULL */
    const float *initial; /* [groups, rows, hidden] or NULL: zeros */
    float *final;         /* likewise, or NULL */
    float *saved;         /* [groups, tiles, saved_size]; NULL: forward only */
    float *partial;       /* backward: [groups, tiles, partial_size], the largest gradient_size */
    size_t partial_size;
} agents_call;

static inline const agents_topology *agents_topology_of(const agents_network *n, int32_t group)
{
    return &n->topology[group % n->topologies];
}
/* A chunk is the steps whose weight gradients are taken together: what a core's cache holds. */
static inline int32_t agents_chunk(const agents_network *n) { return n->hidden > 128 ? 4 : 8; }
static inline int agents_shared(const agents_call *c) { return c->groups == c->seeds; }
static inline int32_t agents_rows(const agents_call *c)
{
    return c->batch / c->seeds * (agents_shared(c) ? c->agents : 1);
}
static inline int32_t agents_tiles(const agents_call *c) { return (agents_rows(c) + TRAIN_LANES - 1) / TRAIN_LANES; }

/* Floats. A step's record is y, the state before it, r, z, n, the hidden part of n. A tile saves those of its steps,
 * one more for the state after them, and the packed weights, rounded up so that the next tile's begin at a cache
 * line. */
static inline size_t agents_values(const agents_topology *t)
{
    return (size_t)t->fc1.values + (size_t)t->gru.values + (size_t)t->fc2.values;
}
static inline size_t agents_record(const agents_network *n) { return 6 * (size_t)n->hidden * TRAIN_LANES; }
static inline size_t agents_saved_size(const agents_network *n, int32_t steps)
{
    size_t most = 0;
    for (int32_t g = 0; g < n->topologies; g++) {
        const size_t values = agents_values(&n->topology[g]);
        most = most > values ? most : values;
    }
    return ((size_t)steps + 1) * agents_record(n) + (most + TRAIN_LANES - 1) / TRAIN_LANES * TRAIN_LANES;
}

/* Floats of a tile's gradients: fc1, GRU, fc2 values, then biases of fc1, the GRU's four rows, fc2. */
static inline size_t agents_gradient_size(const agents_network *n, const agents_topology *t)
{
    return agents_values(t) + 5 * (size_t)n->hidden + (size_t)n->actions;
}

/* Floats that a task works in, of one network; a multiple of TRAIN_LANES. */
size_t agents_work_size(const agents_call *call);

/* Masks are bool [groups, out, in] of the four weights, NULL: full; all NULL: one topology for all groups. Returns NULL
 * when memory is short. */
agents_network *agents_build(int32_t groups, int32_t inputs, int32_t hidden, int32_t actions,
                             const uint8_t *const mask[4]);
void agents_free(agents_network *network);

/* Sums of the tiles' gradients in the order of the tiles, into the parameters' gradients, at the connections only. */
void agents_collect(const agents_call *call, float *const gradient[PARAMETERS]);
#endif
