/* The agents' networks over whole sequences, forward and backward, many rows at once: fc1 + ReLU -> GRU -> fc2.
 *
 * Rows (episodes, and agents that share a network) are lanes: a buffer is [feature][lane], and a tile of TRAIN_LANES
 * rows of one group is carried through all steps. Every product runs over panels, up to 8 rows that share their
 * columns: height 1 is unstructured sparsity, 8 with all columns is dense.
 */
#ifndef MAST_TRAIN_H
#define MAST_TRAIN_H
#include <stddef.h>
#include <stdint.h>

#include "optimizer.h"
#include "threads.h"

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define TRAIN_X86_LEVELS
#endif

enum { TRAIN_LANES = 32, TRAIN_PANEL = 8, TRAIN_PASSES = 4 };

/* Rows row to row + height share columns[first..end); their values are [column][height] from `value` on. */
typedef struct {
    int32_t row, height, first, end, value;
} train_panel;

typedef struct {
    int32_t panels, columns, values;
    train_panel *panel;
    int32_t *column;   /* times TRAIN_LANES */
    int32_t *position; /* of each value in its layer's weights, or in the values of what this is the transpose of; -1: no
                          connection */
} train_matrix;

/* The GRU is one matrix: rows r, z, the input part of n, the hidden part of n; columns y, then the state before.
 * Positions count through weight_ih, then weight_hh. The transposed ones carry gradients back. */
typedef struct {
    train_matrix fc1, gru, fc2, gru_back, fc2_back;
} train_topology;

typedef struct {
    int32_t topologies, inputs, hidden, actions;
    train_topology topology[]; /* group g has topology g mod topologies */
} train_network;

enum { FC1_WEIGHT, WEIGHT_IH, WEIGHT_HH, FC2_WEIGHT, FC1_BIAS, BIAS_IH, BIAS_HH, FC2_BIAS, PARAMETERS };

/* A float tensor [steps, batch, agents, features], features adjacent; the strides of the others in floats. */
typedef struct {
    float *data;
    ptrdiff_t step, batch, agent;
} train_tensor;

/* One call. The batch is `seeds` parts of equal size, each with groups / seeds groups of its own: group g of a part owns
 * agent g, or all agents where it is the only one. A group's rows are numbered batch-major within its part. */
typedef struct train_call {
    const struct train_call *beside; /* forward: another network of the same groups to carry through the same inputs */
    const train_network *network;
    const train_network *gradients; /* where weight gradients are wanted: network, or a full one */
    int32_t groups, steps, batch, agents, seeds;
    const float *parameter[PARAMETERS]; /* [groups, ...] */
    train_tensor x; /* the first `observed` inputs */
    int32_t observed;
    const int64_t *actions;     /* [steps - 1, batch, agents] taken at each step but the last, negative: none; or NULL */
    train_tensor action;        /* their strides */
    int32_t one_hot;            /* whether the one-hot of the action before is the next inputs */
    int32_t identity;           /* whether the one-hot of the agent ends the inputs */
    const int32_t *order;       /* [batch] episodes, each part's longest first, or NULL: as they are */
    const int32_t *length;      /* [batch] their steps, in the same order; q is left as it is from there on */
    const int32_t *first;       /* [batch] the row in `taken` of their first transition, in the same order, or NULL */
    train_tensor q; /* forward: result; backward: its gradient; or NULL, which is 0 */
    float *taken;   /* [transitions, agents] q of the actions taken; backward: its gradient, which adds to q's; or NULL */
    float *now, *after; /* [transitions, agents, actions] q at their own and at their next steps, or NULL */
    const float *initial; /* [groups, rows, hidden] or NULL: zeros */
    float *final;         /* likewise, or NULL */
    float *saved;         /* [groups, tiles, saved_size]; NULL: forward only */
    float *partial;       /* backward: [groups, tiles, partial_size], the largest gradient_size */
    size_t partial_size;
} train_call;

/* Tasks of one instruction set. Sequences: task i is tile i mod tiles of group i / tiles, and `packed` is the group
 * whose weights `work` holds; mixer and targets: see their headers. */
typedef struct {
    const char *level;
    train_task forward, backward, mixer_forward, mixer_backward, soft_mellowmax;
    double (*square_norm)(const step_parameter *p);
    void (*adam)(const step_parameter *p, const step_rule *r);
    void (*rmsprop)(const step_parameter *p, const step_rule *r);
} train_kernels;

extern const train_kernels train_generic;
#ifdef TRAIN_X86_LEVELS
extern const train_kernels train_v3, train_v4;
#endif

static inline const train_topology *train_topology_of(const train_network *n, int32_t group)
{
    return &n->topology[group % n->topologies];
}
/* A chunk is the steps whose weight gradients are taken together: what a core's cache holds. */
static inline int32_t train_chunk(const train_network *n) { return n->hidden > 128 ? 4 : 8; }
static inline int train_shared(const train_call *c) { return c->groups == c->seeds; }
static inline int32_t train_rows(const train_call *c)
{
    return c->batch / c->seeds * (train_shared(c) ? c->agents : 1);
}
static inline int32_t train_tiles(const train_call *c) { return (train_rows(c) + TRAIN_LANES - 1) / TRAIN_LANES; }

/* Floats. A step's record is y, the state before it, r, z, n, the hidden part of n. A tile saves those of its steps, one
 * more for the state after them, and the packed weights, rounded up so that the next tile's begin at a cache line. */
static inline size_t train_values(const train_topology *t)
{
    return (size_t)t->fc1.values + (size_t)t->gru.values + (size_t)t->fc2.values;
}
static inline size_t train_record(const train_network *n) { return 6 * (size_t)n->hidden * TRAIN_LANES; }
static inline size_t train_saved_size(const train_network *n, int32_t steps)
{
    size_t most = 0;
    for (int32_t g = 0; g < n->topologies; g++) {
        const size_t values = train_values(&n->topology[g]);
        most = most > values ? most : values;
    }
    return ((size_t)steps + 1) * train_record(n) + (most + TRAIN_LANES - 1) / TRAIN_LANES * TRAIN_LANES;
}

/* Floats of a tile's gradients: fc1, GRU, fc2 values, then biases of fc1, the GRU's four rows, fc2. */
static inline size_t train_gradient_size(const train_network *n, const train_topology *t)
{
    return train_values(t) + 5 * (size_t)n->hidden + (size_t)n->actions;
}

/* Floats that a task works in, of one network; a multiple of TRAIN_LANES. */
size_t train_work_size(const train_call *call);

/* Masks are bool [groups, out, in] of the four weights; all NULL: full, the same for all groups. Returns NULL
 * when memory is short. */
train_network *train_build(int32_t groups, int32_t inputs, int32_t hidden, int32_t actions,
                           const uint8_t *const mask[4]);
void train_free(train_network *network);

/* One matrix, its transpose where `back` is given; mask bool [rows, columns], NULL: full. Returns 0 when memory is short. */
int train_matrix_build(const uint8_t *mask, int32_t rows, int32_t columns, train_matrix *matrix, train_matrix *back);
void train_matrix_free(train_matrix *matrix);

/* Values to their positions: below `split` in `weight`, from there on in `rest`. */
void train_scatter(const train_matrix *m, const float *values, float *weight, float *rest, int32_t split);
#endif
