/* A packed network and one decision of its policy: what the kernels and the extension share.
 *
 *     x  = obs ++ onehot(last_action) [++ onehot(agent_id)]
 *     y  = relu(fc1 x + b1)
 *     r  = sigmoid(W_ir y + W_hr h + b_r)        z = sigmoid(W_iz y + W_hz h + b_z)
 *     n  = tanh(W_in y + b_nx + r * (W_hn h + b_nh))
 *     h' = (1 - z) * n + z * h                   q = fc2 h' + b2
 *
 * Private to the extension: its tables are the packing of mast_runtime.native.packing and change with it.
 */
#ifndef MAST_NETWORK_H
#define MAST_NETWORK_H

#include <stddef.h>
#include <stdint.h>

/* Outputs, gates and vectors are padded with zeros to whole panels of this many floats. */
#define MAST_PANEL 16u
#define MAST_PAD(n) (((uint32_t)(n) + MAST_PANEL - 1u) & ~(MAST_PANEL - 1u))

/* Agents stepped side by side by mast_kernels.tile, as [feature][lane]. */
#define MAST_LANES 32u

/* Rows whose results are kept together for lanes: sixteen hidden units' four gates. */
#define MAST_WINDOW 64u

/* Largest error of the kernels' tanh and sigmoid against the exact functions. */
#define MAST_TANH_ERROR 6e-7f
#define MAST_SIGMOID_ERROR 4e-7f

enum mast_layout {
    MAST_DENSE,    /* 16 rows a panel, consecutive columns from columns[panel] */
    MAST_SLICES,   /* 8 rows of like length a panel, each with columns of its own: columns[entry][8], rows[panel][8] */
    MAST_LANE_SLICES, /* likewise, the rows of a panel within one window of MAST_WINDOW rows (lanes only) */
    MAST_BLOCKS8,  /* 8 rows a panel that share columns[entry] */
    MAST_BLOCKS16, /* 16 rows a panel that share columns[entry] */
    MAST_HALVES8,  /* MAST_BLOCKS8 and MAST_BLOCKS16 with weights in half precision (not for lanes) */
    MAST_HALVES16,
    MAST_PERMUTED, /* 16 rows a panel; an entry's weights read inputs columns[entry] + picks[entry][row], picks below 32:
                      two registers hold those inputs */
    MAST_LAYOUTS
};

/* One matrix, [rows padded, inputs]. Entry e of a panel holds one weight for each of the panel's rows:
 * values[e][rows of a panel], or its bits in halves; panel p has entries start[p] to start[p + 1]. Arrays that a layout
 * does not name are NULL. */
typedef struct {
    uint32_t layout;
    uint32_t panels; /* 0: no matrix */
    uint32_t offset; /* the input that column 0 stands for */
    const uint32_t *start;
    const uint16_t *columns;
    const uint16_t *rows;
    const uint8_t *picks;
    const float *values;
    const uint16_t *halves; /* IEEE 754 binary16, in place of values */
} mast_matrix;

/* Everything constant. gru[0] and gru[1] add up to one matrix from [y padded | h] to the gates. These go panel by panel of
 * hidden units: for each panel its r, its z, the input part of its n, the recurrent part of its n. fc1_bias [fc1 padded],
 * gru_bias [hidden padded / 16][4][16], fc2_bias [actions padded]; their padding is zero. */
typedef struct {
    uint32_t obs, actions, agents;
    uint32_t last_action, agent_id; /* bool: is the one-hot part of the input there? */
    uint32_t fc1_size, hidden;
    uint32_t recurrent; /* bool; else h' = relu(W_mid y + b) takes the place of the GRU, W_mid and b those of gru[0], and
                           the memory stays zero */
    mast_matrix fc1, gru[2], fc2;
    const float *fc1_bias, *gru_bias, *fc2_bias;
    const float *low, *high; /* [obs] the range of each input; where none is known, of float32 */
} mast_network;

/* One agent's memory: pointers into one array of floats (MAST_PERMUTED reads up to a panel beyond the inputs, without using
 * it). x keeps the one-hot parts of the input up to date. mast_commit exchanges yh and q with what is next. */
typedef struct {
    float *x;      /* [inputs padded] */
    float *yh;     /* [fc1 padded | hidden padded]: the second half is the recurrent state */
    float *next;   /* [hidden padded] computed by forward: the second half of another yh */
    float *gates;  /* [hidden padded / 16][4][16] */
    float *q;      /* [actions padded] of the last decision */
    float *next_q; /* [actions padded] computed by forward */
    int32_t last_action; /* -1: none yet */
    uint32_t outside; /* by forward: not 0 where an input lies outside its range */
} mast_state;

enum mast_fault { MAST_OBS_NOT_FINITE = -1, MAST_NO_ACTION = -2, MAST_OVERFLOW = -3 };

/* An input that lies outside its range in these lanes, a bit each. */
typedef struct {
    uint32_t input, lanes;
} mast_hit;

/* What n agents are given. A network's last `more` inputs are those of `last`, a continuous action. */
typedef struct {
    const float *obs;     /* [n][obs - more] */
    const float *last;    /* [n][more], NULL where more is 0 */
    uint32_t more;
    const uint8_t *avail; /* [n][actions], NULL: all */
} mast_given;

/* The agents of one tile. Lane l is agent member[l] of the team: what it is given, its id, last action, q and action lie
 * there. */
typedef struct {
    uint32_t lanes; /* 1 to MAST_LANES */
    const int32_t *member;
    const mast_given *given;
    const int32_t *id, *last_action;
    float *yh;           /* [fc1 padded | hidden padded][MAST_LANES]: the second half is the state, the first is written */
    float *next;         /* likewise; the second half is written */
    float *q;            /* [n][actions], written */
    int32_t *action;     /* [n], written; -1: no action available */
    mast_hit *hit;       /* [obs], written: of the inputs that lie outside their range in some lane */
    uint32_t *hits;      /* written: how many */
} mast_tile;

/* How continuous actions are searched for: see mast_runtime.search. Candidates are padded to whole vectors. Unit i, of
 * network k those from first[k] to first[k + 1], reads output units[i] and, by weights[i][0] to weights[i][actions - 1],
 * an action; weights[i][actions] leads to the value. */
typedef struct {
    uint32_t actions, iterations, candidates, elites, padded;
    double grid; /* of the largest value: nearer ones count as equal */
    const double *noise; /* [iterations][actions][padded] */
    const uint32_t *first, *units;
    const double *weights;
} mast_search;

/* One instruction set: a row of levels.def. The kernels return 0 (or an action) or a mast_fault. Where the compiler cannot
 * make them, all but the name is 0. */
typedef struct {
    const char *name;
    /* Does this processor run them? The others are called only where it does. */
    int (*supported)(void);
    /* Compute next, next_q and outside, and set x; nothing else of the state counts as changed. obs may be x. */
    int (*forward)(const mast_network *network, mast_state *state, const float *obs);
    /* The available action with the largest value, the lowest of equals, or MAST_NO_ACTION. avail NULL: all. */
    int (*choose)(const float *q, const uint8_t *avail, uint32_t actions);
    /* Adds to counts [inputs] those below low or above high, all of them finite; returns how many. */
    uint32_t (*count_outside)(const float *obs, const float *low, const float *high, uint32_t inputs, uint64_t *counts);
    /* Continuous actions: `size` outputs q squashed into `last` in [-1, 1], and into `out` in their units. bounds: low,
     * high, middle and half of each range and how far `last` may move [5][size]; all of these are 0 for an output that is
     * nobody's. */
    void (*squash)(const float *q, const float *bounds, uint32_t size, float *last, float *out);
    /* The best action found [actions] in [-1, 1] from a network's outputs q; 0 from component `size` on. work has
     * mast_search_doubles. */
    void (*search)(const mast_search *s, uint32_t network, uint32_t size, const float *q, double *work, double *found);
    /* forward and choose for a tile of agents; `work` has mast_tile_floats floats. For networks packed for lanes. */
    int (*tile)(const mast_network *network, float *work, const mast_tile *tile);
    /* Of each layout the density from which the dense kernel is faster, the lower of the two sizes that
     * benchmarks/native.py --break-even measures; 0: these kernels do not have it. */
    double dense_from[MAST_LAYOUTS];
    /* Connections of a network from which half precision, where they have it, is faster: in float32 they no longer stay in
     * the first-level cache. In a smaller network widening takes as much as it saves or more. */
    uint32_t halves_from;
} mast_kernels;

#define LEVEL(name) extern const mast_kernels mast_##name;
#include "levels.def"
#undef LEVEL

static inline uint32_t mast_inputs(const mast_network *n)
{
    return n->obs + (n->last_action ? n->actions : 0u) + (n->agent_id ? n->agents : 0u);
}

static inline size_t mast_state_floats(const mast_network *n)
{
    return (size_t)MAST_PAD(mast_inputs(n)) + 2u * (size_t)MAST_PAD(n->fc1_size) + 6u * (size_t)MAST_PAD(n->hidden)
           + 2u * MAST_PAD(n->actions);
}

static inline size_t mast_tile_floats(const mast_network *n)
{
    return MAST_LANES * ((size_t)MAST_PAD(mast_inputs(n)) + MAST_WINDOW + MAST_PAD(n->actions));
}

static inline size_t mast_search_doubles(const mast_search *s)
{
    return ((size_t)s->actions + 1u) * s->padded + 2u * (size_t)s->elites + 2u * (size_t)s->actions;
}

/* Forget the episode. `id` is the agent's one-hot id where the network has one. */
static inline void mast_reset(const mast_network *n, mast_state *s, uint32_t id)
{
    float *const first = s->x;
    for (size_t i = 0, size = mast_state_floats(n); i < size; i++)
        first[i] = 0.0f;
    if (n->agent_id)
        s->x[mast_inputs(n) - n->agents + id] = 1.0f;
    s->last_action = -1;
}

/* Lay the state out over `floats` [mast_state_floats], best aligned to 64 bytes, and reset it. */
static inline void mast_state_init(const mast_network *n, mast_state *s, float *floats, uint32_t id)
{
    s->x = floats;
    s->yh = s->x + MAST_PAD(mast_inputs(n));
    s->next = s->yh + 2u * MAST_PAD(n->fc1_size) + MAST_PAD(n->hidden);
    s->gates = s->next + MAST_PAD(n->hidden);
    s->q = s->gates + 4u * MAST_PAD(n->hidden);
    s->next_q = s->q + MAST_PAD(n->actions);
    mast_reset(n, s, id);
}

/* The inputs [obs] of agent `who`, joined in s->x where they lie in two arrays. */
static inline const float *mast_joined(const mast_network *n, mast_state *s, const mast_given *given, size_t who)
{
    const uint32_t more = given->more, width = n->obs - more;
    const float *const obs = given->obs + who * width;
    if (!more)
        return obs;
    const float *const last = given->last + who * more;
    for (uint32_t i = 0; i < width; i++)
        s->x[i] = obs[i];
    for (uint32_t i = 0; i < more; i++)
        s->x[width + i] = last[i];
    return s->x;
}

/* Take over what forward computed, `action` being the decision. */
static inline void mast_commit(const mast_network *n, mast_state *s, int32_t action)
{
    float *const h = s->yh + MAST_PAD(n->fc1_size), *const q = s->q;
    s->yh = s->next - MAST_PAD(n->fc1_size);
    s->next = h;
    s->q = s->next_q;
    s->next_q = q;
    if (n->last_action) {
        if (s->last_action >= 0)
            s->x[n->obs + (uint32_t)s->last_action] = 0.0f;
        s->x[n->obs + (uint32_t)action] = 1.0f;
    }
    s->last_action = action;
}

/* Another action than the decision was executed; there was a decision. */
static inline void mast_executed(const mast_network *n, mast_state *s, int32_t action)
{
    if (n->last_action) {
        s->x[n->obs + (uint32_t)s->last_action] = 0.0f;
        s->x[n->obs + (uint32_t)action] = 1.0f;
    }
    s->last_action = action;
}

/* One decision: the action, or a mast_fault, in which case the state is as it was. */
static inline int mast_act(const mast_kernels *k, const mast_network *n, mast_state *s, const float *obs,
                           const uint8_t *avail)
{
    const int fault = k->forward(n, s, obs);
    if (fault < 0)
        return fault;
    const int action = k->choose(s->next_q, avail, n->actions);
    if (action >= 0)
        mast_commit(n, s, action);
    return action;
}

#endif
