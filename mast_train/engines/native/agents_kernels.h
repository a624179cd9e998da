/* The agents' kernels, and what the mixer's share with them; included by kernels.h. */
#include "products.h"
#include "tile.h"

#include <string.h>

static void pack(const train_matrix *m, const float *weight, const float *rest, int32_t split, float *values)
{
    for (int32_t i = 0; i < m->values; i++) {
        const int32_t p = m->position[i];
        values[i] = p < 0 ? 0.0f : p < split ? weight[p] : rest[p - split];
    }
}

static const float *parameter(const agents_call *c, int32_t group, int which)
{
    const size_t h = (size_t)c->network->hidden, i = (size_t)c->network->inputs, a = (size_t)c->network->actions;
    const size_t size[PARAMETERS] = {h * i, 3 * h * h, 3 * h * h, a * h, h, 3 * h, 3 * h, a};
    return c->parameter[which] + (size_t)group * size[which];
}

/* Every sixteen of the first `lanes` lanes of [rows][lane], at i. */
#define EACH_VECTOR(i, rows, lanes)                                                                                    \
    for (int32_t row = 0; row < (rows) * TRAIN_LANES; row += TRAIN_LANES)                                              \
        for (int32_t i = row; i < row + (lanes); i += 16)

/* Bring the first `lanes` lanes of [rows][lane] nearer. */
static void fetch(const float *from, int32_t rows, int32_t lanes)
{
    EACH_VECTOR(i, rows, lanes)
        __builtin_prefetch(from + i, 0, 2);
}

/* The same, to be written. */
static void fetch_to_write(const float *to, int32_t rows, int32_t lanes)
{
    EACH_VECTOR(i, rows, lanes)
        __builtin_prefetch(to + i, 1, 2);
}

static void rectify(float *y, int32_t rows, int32_t lanes)
{
    EACH_VECTOR(i, rows, lanes)
        store16(y + i, max16(set16(0.0f), load16(y + i)));
}

/* gates [4][h][lane] become r, z, n and stay for the hidden part of n; next [h][lane] from the state before. */
static void activate(float *gates, const float *state, float *next, int32_t h, int32_t lanes)
{
    const int32_t gate = h * TRAIN_LANES;
    EACH_VECTOR(i, h, lanes)
    {
        const vec16 r = sigmoid16(load16(gates + i)), z = sigmoid16(load16(gates + gate + i));
        const vec16 n = tanh16(fma16(r, load16(gates + 3 * gate + i), load16(gates + 2 * gate + i)));
        store16(gates + i, r);
        store16(gates + gate + i, z);
        store16(gates + 2 * gate + i, n);
        store16(next + i, fma16(z, sub16(load16(state + i), n), n));
    }
}

static void pack_forward(const agents_call *c, int32_t group, float *values, float *bias)
{
    const agents_topology *t = agents_topology_of(c->network, group);
    const int32_t h = c->network->hidden;
    const float *x = parameter(c, group, BIAS_IH), *hidden = parameter(c, group, BIAS_HH);
    pack(&t->fc1, parameter(c, group, FC1_WEIGHT), NULL, INT32_MAX, values);
    values += t->fc1.values;
    pack(&t->gru, parameter(c, group, WEIGHT_IH), parameter(c, group, WEIGHT_HH), 3 * h * h, values);
    pack(&t->fc2, parameter(c, group, FC2_WEIGHT), NULL, INT32_MAX, values + t->gru.values);
    for (int32_t i = 0; i < 2 * h; i++)
        bias[i] = x[i] + hidden[i];
    memcpy(bias + 2 * h, x + 2 * h, (size_t)h * sizeof(float));
    memcpy(bias + 3 * h, hidden + 2 * h, (size_t)h * sizeof(float));
}

/* One of the networks that a forward pass carries through a tile's steps. */
typedef struct {
    const agents_call *call;
    const agents_topology *topology;
    tile_rows rows;
    float *bias, *values, *q, *saved, *now; /* now: the record of the step that comes */
    float *records;                         /* two, where nothing is saved */
} carried;

/* work: agents_work_size floats; x [inputs][lane] is where it begins. */
static void begin(const agents_call *c, int32_t group, int32_t tile, float *work, int packed, carried *p)
{
    const agents_network *n = c->network;
    const size_t record = agents_record(n), gate = (size_t)n->hidden * TRAIN_LANES;
    const size_t own = (size_t)group * (size_t)agents_tiles(c) + (size_t)tile;
    p->call = c;
    p->topology = agents_topology_of(n, group);
    p->records = work + (size_t)n->inputs * TRAIN_LANES;
    p->q = p->records + 2 * record;
    p->bias = p->q + n->actions * TRAIN_LANES;
    p->values = p->bias + 4 * n->hidden;
    p->saved = c->saved ? c->saved + own * agents_saved_size(n, c->steps) : NULL;
    p->now = p->saved ? p->saved : p->records;
    find_rows(c, group, tile, &p->rows);
    if (!packed)
        pack_forward(c, group, p->values, p->bias);
    if (p->saved)
        memcpy(p->saved + (size_t)(c->steps + 1) * record, p->values, agents_values(p->topology) * sizeof(float));
    if (c->initial)
        to_lanes(c->initial, p->rows.hidden, 0, n->hidden, p->now + gate, TRAIN_LANES);
    else
        memset(p->now + gate, 0, gate * sizeof(float));
}

static void forward_step(carried *p, int32_t group, int32_t step, const float *x, int32_t lanes)
{
    const agents_call *c = p->call;
    const agents_topology *t = p->topology;
    const int32_t h = c->network->hidden, gate = h * TRAIN_LANES;
    const size_t record = agents_record(c->network);
    float *const now = p->now, *const next = p->saved ? now + record : p->records + (step % 2 ? 0 : record);
    multiply(&t->fc1, p->values, x, parameter(c, group, FC1_BIAS), now, lanes);
    rectify(now, h, lanes);
    if (p->saved && step + 1 < p->rows.steps)
        fetch_to_write(now + record, 6 * h, lanes);
    multiply(&t->gru, p->values + t->fc1.values, now, p->bias, now + 2 * gate, lanes);
    activate(now + 2 * gate, now + gate, next + gate, h, lanes);
    multiply(&t->fc2, p->values + t->fc1.values + t->gru.values, next + gate, parameter(c, group, FC2_BIAS), p->q,
             lanes);
    store_values(c, &p->rows, step, p->q);
    p->now = next;
}

static void agents_forward(const void *call, int32_t index, float *work, int32_t *packed_group)
{
    const agents_call *c = call;
    const int32_t group = index / agents_tiles(c), tile = index % agents_tiles(c);
    carried pass[TRAIN_PASSES];
    int passes = 0;
    float *const x = work;
    for (const agents_call *one = c; one; work += agents_work_size(one), one = one->beside)
        begin(one, group, tile, work, *packed_group == group, &pass[passes++]);
    *packed_group = group;
    const tile_rows *rows = &pass[0].rows;
    for (int32_t k = 0; k < rows->steps; k++) {
        const int32_t lanes = lanes_for(rows_at(rows, k));
        load_x(c, rows, k, X_AHEAD, x, lanes);
        for (int i = 0; i < passes; i++)
            forward_step(&pass[i], group, k, x, lanes);
    }
    for (int i = 0; i < passes; i++)
        if (pass[i].call->final)
            from_lanes(pass[i].now + c->network->hidden * TRAIN_LANES, c->network->hidden, pass[i].call->final,
                       rows->hidden, rows->lanes);
}

/* Gradients of one step: from that of the next state to those of the four gate rows and, in part, of the state. */
static void activate_back(const float *gates, const float *state, const float *grad, float *delta, float *grad_state,
                          int32_t h, int32_t lanes)
{
    const int32_t gate = h * TRAIN_LANES;
    const vec16 one = set16(1.0f);
    EACH_VECTOR(i, h, lanes)
    {
        const vec16 r = load16(gates + i), z = load16(gates + gate + i), n = load16(gates + 2 * gate + i);
        const vec16 dh = load16(grad + i), keep = mul16(dh, z), to_n = sub16(dh, keep);
        const vec16 dn = mul16(to_n, sub16(one, mul16(n, n)));
        const vec16 from_h = mul16(dn, r);
        store16(delta + i, mul16(mul16(from_h, load16(gates + 3 * gate + i)), sub16(one, r)));
        store16(delta + gate + i, mul16(mul16(to_n, z), sub16(load16(state + i), n)));
        store16(delta + 2 * gate + i, dn);
        store16(delta + 3 * gate + i, from_h);
        store16(grad_state + i, keep);
    }
}

/* Gradients pass where y > 0; it is never below. */
static void rectify_back(const float *y, float *grad, int32_t rows, int32_t lanes)
{
    EACH_VECTOR(i, rows, lanes)
        store16(grad + i, mul16(load16(grad + i), sign16(load16(y + i))));
}

/* Floats of a step in a chunk: gradients of the gates, of y, of the state, of q. */
static ptrdiff_t agents_delta(const agents_network *n) { return (ptrdiff_t)(6 * n->hidden + n->actions) * TRAIN_LANES; }

/* Weight and bias gradients of a chunk of steps, the last of them in `record`, inputs and deltas in the order they were
 * made. */
static void add_gradients(const agents_call *c, int32_t group, const float *record, const float *x, const float *delta,
                          int32_t steps, int32_t lanes, float *sums)
{
    const agents_network *n = c->network;
    const agents_topology *t = agents_topology_of(c->gradients, group);
    const int32_t h = n->hidden, gate = h * TRAIN_LANES;
    const ptrdiff_t in_step = -(ptrdiff_t)agents_record(n), delta_step = agents_delta(n);
    const float *q = delta + 6 * gate;
    const outer_range gru = {delta, record, delta_step, in_step, steps, lanes};
    const outer_range fc1 = {delta + 4 * gate, x, delta_step, (ptrdiff_t)n->inputs * TRAIN_LANES, steps, lanes};
    const outer_range fc2 = {q, record + gate - in_step, delta_step, in_step, steps, lanes};
    outer(&t->fc1, &fc1, sums);
    sums += 4 * (size_t)t->fc1.values;
    outer(&t->gru, &gru, sums);
    sums += 4 * (size_t)t->gru.values;
    outer(&t->fc2, &fc2, sums);
    sums += 4 * (size_t)t->fc2.values;
    outer_bias(&fc1, h, sums);
    outer_bias(&gru, 4 * h, sums + 4 * h);
    outer_bias(&fc2, n->actions, sums + 20 * h);
}

/* The four partial sums of each gradient as one. */
static void fold(const float *sums, size_t count, float *to)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (sums[4 * i] + sums[4 * i + 1]) + (sums[4 * i + 2] + sums[4 * i + 3]);
}

static void agents_backward(const void *call, int32_t index, float *work, int32_t *packed_group)
{
    const agents_call *c = call;
    /* The last group first: what the forward pass saved of it may still be in the cache. */
    const int32_t group = c->groups - 1 - index / agents_tiles(c), tile = index % agents_tiles(c);
    const agents_network *n = c->network;
    const agents_topology *t = agents_topology_of(n, group);
    const int32_t h = n->hidden, gate = h * TRAIN_LANES;
    const size_t record = agents_record(n), own = (size_t)group * (size_t)agents_tiles(c) + (size_t)tile;
    const size_t gradients = agents_gradient_size(n, agents_topology_of(c->gradients, group));
    const size_t delta_step = (size_t)agents_delta(n), x_step = (size_t)n->inputs * TRAIN_LANES;
    const int32_t chunk = agents_chunk(n);
    float *const x = work + (size_t)chunk * delta_step, *const sums = x + (size_t)chunk * x_step;
    float *const values = sums + 4 * gradients;
    tile_rows rows;
    find_rows(c, group, tile, &rows);
    const float *saved = c->saved + own * agents_saved_size(n, c->steps);
    if (*packed_group != group) {
        const float *from = saved + (size_t)(c->steps + 1) * record + t->fc1.values;
        pack(&t->gru_back, from, NULL, INT32_MAX, values);
        pack(&t->fc2_back, from + t->gru.values, NULL, INT32_MAX, values + t->gru_back.values);
    }
    *packed_group = group;
    memset(sums, 0, 4 * gradients * sizeof(float));
    float *grad = work + (size_t)(chunk - 1) * delta_step + 5 * gate;
    memset(grad, 0, (size_t)gate * sizeof(float));
    for (int32_t step = rows.steps - 1, made = 0, before = 16; step >= 0; step--) {
        const int32_t count = rows_at(&rows, step), lanes = lanes_for(count);
        const int wider = step > 0 && lanes_for(rows_at(&rows, step - 1)) != lanes;
        const float *y = saved + (size_t)step * record;
        float *delta = work + (size_t)made * delta_step;
        if (lanes != before)
            clear_lanes(grad, h, before);
        before = lanes;
        load_x(c, &rows, step, -X_AHEAD, x + (size_t)made * x_step, lanes);
        load_grad_q(c, &rows, step, delta + 6 * gate, count);
        multiply(&t->fc2_back, values + t->gru_back.values, delta + 6 * gate, NULL, grad, lanes);
        activate_back(y + 2 * gate, y + gate, grad, delta, delta + 5 * gate, h, lanes);
        memset(delta + 4 * gate, 0, (size_t)gate * sizeof(float));
        multiply(&t->gru_back, values, delta, NULL, delta + 4 * gate, lanes);
        rectify_back(y, delta + 4 * gate, h, lanes);
        grad = delta + 5 * gate;
        if (step > 0)
            fetch(y - record, 6 * h, lanes);
        if (++made == chunk || step == 0 || wider) {
            add_gradients(c, group, y + (size_t)(made - 1) * record, x, work, made, lanes, sums);
            made = 0;
        }
    }
    fold(sums, gradients, c->partial + own * c->partial_size);
}
