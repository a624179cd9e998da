/* A tile of rows: which they are, what they read at a step, and where what they give goes; included by kernels.h. */
#include "agents.h"

#include <string.h>

typedef struct {
    int32_t lanes, steps;         /* rows in use, and the longest one's steps */
    int32_t length[TRAIN_LANES];  /* steps of each, falling; 0 where there is no row */
    int32_t agent[TRAIN_LANES];
    ptrdiff_t x[TRAIN_LANES], action[TRAIN_LANES], q[TRAIN_LANES], taken[TRAIN_LANES], hidden[TRAIN_LANES];
} tile_rows;

/* Unused lanes repeat the tile's first row: harmless forward, and their gradients are set to zero. */
static void find_rows(const agents_call *c, int32_t group, int32_t tile, tile_rows *rows)
{
    const int32_t first = tile * TRAIN_LANES, seed = group / (c->groups / c->seeds);
    rows->lanes = at_most(agents_rows(c) - first, TRAIN_LANES);
    for (int32_t i = 0; i < TRAIN_LANES; i++) {
        const int32_t row = first + (i < rows->lanes ? i : 0);
        const int32_t place = seed * (c->batch / c->seeds) + (agents_shared(c) ? row / c->agents : row);
        const int32_t agent = (agents_shared(c) ? row : group) % c->agents;
        const int32_t batch = c->order ? c->order[place] : place;
        rows->length[i] = i >= rows->lanes ? 0 : c->length ? c->length[place] : c->steps;
        rows->agent[i] = agent;
        rows->x[i] = batch * c->x.batch + agent * c->x.agent;
        rows->action[i] = batch * c->actions.batch + agent * c->actions.agent;
        rows->q[i] = batch * c->q.batch + agent * c->q.agent;
        rows->taken[i] = (c->first ? (ptrdiff_t)c->first[place] : 0) * c->agents + agent;
        rows->hidden[i] = ((ptrdiff_t)group * agents_rows(c) + row) * c->network->hidden;
    }
    rows->steps = rows->length[0];
}

/* How many rows have this step: the first ones. */
static int32_t rows_at(const tile_rows *rows, int32_t step)
{
    int32_t count = rows->lanes;
    while (count > 0 && rows->length[count - 1] <= step)
        count--;
    return count;
}

/* How many lanes to compute for that many rows. */
static int32_t lanes_for(int32_t rows) { return rows <= 16 ? 16 : TRAIN_LANES; }

/* The action of a lane's row at a step, -1: none. */
static int32_t action_at(const agents_call *c, const tile_rows *rows, int32_t step, int32_t lane)
{
    const int64_t *actions = c->actions.data, action = actions[step * c->actions.step + rows->action[lane]];
    return action >= 0 && action < c->network->actions ? (int32_t)action : -1;
}

/* Steps from the one whose inputs are loaded to the one whose are brought nearer. */
enum { X_AHEAD = 2 };

/* x [inputs][lane] of a step; the one that is `ahead` is wanted soon. */
static void load_x(const agents_call *c, const tile_rows *rows, int32_t step, int32_t ahead, float *to, int32_t lanes)
{
    const int32_t inputs = c->network->inputs, agents = c->identity ? c->agents : 0;
    const ptrdiff_t soon = step + ahead >= 0 && step + ahead < c->steps ? ahead * c->x.step : 0;
    const float *x = c->x.data;
    to_lanes(x + step * c->x.step, rows->x, soon, c->observed, to, lanes);
    memset(to + c->observed * TRAIN_LANES, 0, (size_t)(inputs - c->observed) * TRAIN_LANES * sizeof(float));
    for (int32_t i = 0; c->one_hot && step > 0 && i < lanes; i++) {
        const int32_t action = action_at(c, rows, step - 1, i);
        if (action >= 0)
            to[(c->observed + action) * TRAIN_LANES + i] = 1.0f;
    }
    for (int32_t i = 0; c->identity && i < lanes; i++)
        to[(inputs - agents + rows->agent[i]) * TRAIN_LANES + i] = 1.0f;
}

/* What is wanted of a step's q [actions][lane]. */
static void store_values(const agents_call *c, const tile_rows *rows, int32_t step, const float *q)
{
    const int32_t actions = c->network->actions, count = rows_at(rows, step), transitions = rows_at(rows, step + 1);
    const ptrdiff_t row_step = (ptrdiff_t)c->agents * actions;
    ptrdiff_t to[TRAIN_LANES];
    for (int32_t i = 0; i < TRAIN_LANES; i++)
        to[i] = (rows->taken[i] + (ptrdiff_t)step * c->agents) * actions;
    float *whole = c->q.data;
    if (whole)
        from_lanes(q, actions, whole + step * c->q.step, rows->q, count);
    if (c->now)
        from_lanes(q, actions, c->now, to, transitions);
    if (c->after && step > 0)
        from_lanes(q, actions, c->after - row_step, to, count);
    for (int32_t i = 0; c->taken && i < transitions; i++) {
        const int32_t action = action_at(c, rows, step, i);
        c->taken[rows->taken[i] + (ptrdiff_t)step * c->agents] = action < 0 ? 0.0f : q[action * TRAIN_LANES + i];
    }
}

/* [rows][lane] is 0 in the lanes from `first` on. */
static void clear_lanes(float *to, int32_t rows, int32_t first)
{
    for (int32_t i = 0; first < TRAIN_LANES && i < rows; i++)
        memset(to + i * TRAIN_LANES + first, 0, (size_t)(TRAIN_LANES - first) * sizeof(float));
}

/* The gradient of q [actions][lane] of a step. */
static void load_grad_q(const agents_call *c, const tile_rows *rows, int32_t step, float *to, int32_t count)
{
    const int32_t actions = c->network->actions;
    const float *whole = c->q.data;
    if (whole)
        to_lanes(whole + step * c->q.step, rows->q, step ? -c->q.step : 0, actions, to, lanes_for(count));
    clear_lanes(to, actions, whole ? count : 0);
    for (int32_t i = 0, taken = c->taken ? rows_at(rows, step + 1) : 0; i < taken; i++) {
        const int32_t action = action_at(c, rows, step, i);
        if (action >= 0)
            to[action * TRAIN_LANES + i] += c->taken[rows->taken[i] + (ptrdiff_t)step * c->agents];
    }
}
