/* The mixer's kernels; included by kernels.h. */
#include "mixer.h"

INLINE vec16 abs16(vec16 a) { return max16(a, mul16(a, set16(-1.0f))); }

/* exp(x) - 1 below 0 by 2 t / (1 - t), t = tanh(x / 2); x above. */
INLINE vec16 elu16(vec16 x)
{
    const vec16 t = tanh16(mul16(min16(x, set16(0.0f)), set16(0.5f)));
    return add16(div16(add16(t, t), sub16(set16(1.0f), t)), max16(x, set16(0.0f)));
}

typedef struct {
    int32_t first, lanes; /* rows of the tile */
    ptrdiff_t state[TRAIN_LANES], q[TRAIN_LANES];
} mixer_rows;

/* Unused lanes repeat the tile's first row, and their gradients are set to zero. */
static mixer_rows mixer_rows_of(const mixer_call *c, int32_t tile)
{
    mixer_rows rows = {tile * TRAIN_LANES, at_most(c->rows - tile * TRAIN_LANES, TRAIN_LANES), {0}, {0}};
    for (int32_t i = 0; i < TRAIN_LANES; i++) {
        const ptrdiff_t row = rows.first + (i < rows.lanes ? i : 0);
        rows.state[i] = (c->row ? (ptrdiff_t)c->row[row] : row) * c->network->states;
        rows.q[i] = row * c->network->agents;
    }
    return rows;
}

/* Bring the states of a tile nearer. */
static void fetch_states(const mixer_call *c, int32_t tile)
{
    if (tile >= mixer_tiles(c))
        return;
    const mixer_rows rows = mixer_rows_of(c, tile);
    for (int32_t i = 0; i < rows.lanes; i++)
        for (int32_t k = 0; k < c->network->states; k += 16)
            __builtin_prefetch(c->state + rows.state[i] + k, 0, 2);
}

/* The hypernetworks' outputs: |.| is not taken yet, and b1 stands alone. */
static void hypernetworks(const mixer_call *c, const mixer_layout *at, const mixer_rows *rows, const float *values,
                          float *tile)
{
    to_lanes(c->state, rows->state, 0, c->network->states, tile, TRAIN_LANES);
    for (int l = 0; l < MIXER_LAYERS; l++) {
        const train_matrix *m = &c->network->layer[l];
        multiply(m, values, tile + at->in[l], c->parameters.bias[l], tile + at->out[l], TRAIN_LANES);
        if (l == W1_IN || l == W2_IN || l == B2_IN)
            rectify(tile + at->out[l], mixer_outputs(c->network, l), TRAIN_LANES);
        values += m->values;
    }
}

/* elu(|W1| q + b1) of one embedding, sixteen lanes. */
INLINE vec16 mixed16(const float *w1, ptrdiff_t agent_step, const float *q, int32_t agents, vec16 b1)
{
    for (int32_t n = 0; n < agents; n++)
        b1 = fma16(abs16(load16(w1 + n * agent_step)), load16(q + n * TRAIN_LANES), b1);
    return elu16(b1);
}

static void mix(const mixer_call *c, const mixer_layout *at, const mixer_rows *rows, int32_t repeat, float *tile)
{
    const int32_t embed = c->network->embed, agents = c->network->agents;
    const ptrdiff_t offset = (ptrdiff_t)repeat * c->rows;
    float total[TRAIN_LANES];
    to_lanes(c->q + offset * agents, rows->q, 0, agents, tile + at->q, TRAIN_LANES);
    for (int32_t lane = 0; lane < TRAIN_LANES; lane += 16) {
        vec16 sum = load16(tile + at->out[B2_OUT] + lane);
        for (int32_t e = 0; e < embed; e++) {
            const int32_t i = e * TRAIN_LANES + lane;
            const vec16 y = mixed16(tile + at->out[W1_OUT] + i, embed * TRAIN_LANES, tile + at->q + lane, agents,
                                    load16(tile + at->out[B1] + i));
            sum = fma16(abs16(load16(tile + at->out[W2_OUT] + i)), y, sum);
        }
        store16(total + lane, sum);
    }
    memcpy(c->q_tot + offset + rows->first, total, (size_t)rows->lanes * sizeof(float));
}

/* Adds one repeat's share to the gradients of the hypernetworks' outputs and writes q's. */
static void mix_back(const mixer_call *c, const mixer_layout *at, const mixer_rows *rows, int32_t repeat, float *tile)
{
    const int32_t embed = c->network->embed, agents = c->network->agents;
    const ptrdiff_t offset = (ptrdiff_t)repeat * c->rows, agent_step = embed * TRAIN_LANES;
    float grad[TRAIN_LANES] = {0.0f};
    memcpy(grad, c->grad + offset + rows->first, (size_t)rows->lanes * sizeof(float));
    to_lanes(c->q + offset * agents, rows->q, 0, agents, tile + at->q, TRAIN_LANES);
    memset(tile + at->grad_q, 0, (size_t)agents * TRAIN_LANES * sizeof(float));
    for (int32_t i = 0; i < embed * TRAIN_LANES; i += 16) {
        const int32_t lane = i % TRAIN_LANES;
        const float *w1 = tile + at->out[W1_OUT] + i, *q = tile + at->q + lane;
        float *to_w1 = tile + at->delta[W1_OUT] + i, *to_q = tile + at->grad_q + lane;
        float *to_w2 = tile + at->delta[W2_OUT] + i, *to_b1 = tile + at->delta[B1] + i;
        const vec16 g = load16(grad + lane), w2 = load16(tile + at->out[W2_OUT] + i);
        const vec16 y = mixed16(w1, agent_step, q, agents, load16(tile + at->out[B1] + i));
        const vec16 slope = add16(min16(y, set16(0.0f)), set16(1.0f)), d = mul16(mul16(g, abs16(w2)), slope);
        store16(to_w2, fma16(mul16(g, sign16(w2)), y, load16(to_w2)));
        store16(to_b1, add16(load16(to_b1), d));
        for (int32_t n = 0; n < agents; n++) {
            const vec16 w = load16(w1 + n * agent_step);
            float *own = to_w1 + n * agent_step, *own_q = to_q + n * TRAIN_LANES;
            store16(own, fma16(mul16(d, sign16(w)), load16(q + n * TRAIN_LANES), load16(own)));
            store16(own_q, fma16(d, abs16(w), load16(own_q)));
        }
    }
    for (int32_t lane = 0; lane < TRAIN_LANES; lane += 16) {
        float *to_b2 = tile + at->delta[B2_OUT] + lane;
        store16(to_b2, add16(load16(to_b2), load16(grad + lane)));
    }
    from_lanes(tile + at->grad_q, agents, c->grad_q + offset * agents, rows->q, rows->lanes);
}

/* Packs the weights, those of the way back after them; returns where they end. */
static float *pack_mixer(const mixer_call *c, float *values, int32_t *packed)
{
    const int known = *packed == 0;
    const mixer_network *n = c->network;
    float *back = values;
    for (int l = 0; l < MIXER_LAYERS; l++)
        back += n->layer[l].values;
    for (int l = 0; l < MIXER_LAYERS; l++) {
        if (!known) {
            pack(&n->layer[l], c->parameters.weight[l], NULL, INT32_MAX, values);
            pack(&n->back[l], values, NULL, INT32_MAX, back);
        }
        values += n->layer[l].values;
        back += n->back[l].values;
    }
    *packed = 0;
    return back;
}

static void mixer_forward(const void *call, int32_t index, float *work, int32_t *packed)
{
    const mixer_call *c = call;
    const mixer_layout at = mixer_layout_of(c->network);
    float *const values = work + MIXER_CHUNK * at.size;
    pack_mixer(c, values, packed);
    for (int32_t i = index * MIXER_CHUNK; i < at_most((index + 1) * MIXER_CHUNK, mixer_tiles(c)); i++) {
        const mixer_rows rows = mixer_rows_of(c, i);
        fetch_states(c, i + 1);
        hypernetworks(c, &at, &rows, values, work);
        for (int32_t k = 0; k < c->repeats; k++)
            mix(c, &at, &rows, k, work);
    }
}

/* From the gradients of a second layer's outputs to those of the first layer before its ReLU. */
static void hidden_back(const mixer_network *n, const mixer_layout *at, int second, const float *values, float *tile)
{
    const int32_t size = mixer_outputs(n, second - 1);
    float *delta = tile + at->delta[second - 1];
    memset(delta, 0, (size_t)size * TRAIN_LANES * sizeof(float));
    multiply(&n->back[second], values, tile + at->delta[second], NULL, delta, TRAIN_LANES);
    rectify_back(tile + at->out[second - 1], delta, size, TRAIN_LANES);
}

static void mixer_backward_tile(const mixer_call *c, const mixer_layout *at, int32_t index, const float *values,
                                float *tile)
{
    static const int OUTPUTS[] = {W1_OUT, W2_OUT, B1, B2_OUT};
    const mixer_rows rows = mixer_rows_of(c, index);
    fetch_states(c, index + 1);
    hypernetworks(c, at, &rows, values, tile);
    if (c->target) {
        mix(c, at, &rows, 0, tile);
        for (int32_t row = rows.first; row < rows.first + rows.lanes; row++)
            c->grad[row] = 2.0f * mixer_weight(c, row) * (c->q_tot[row] - c->target[row]) / (float)c->rows;
    }
    for (int i = 0; i < 4; i++)
        memset(tile + at->delta[OUTPUTS[i]], 0,
               (size_t)mixer_outputs(c->network, OUTPUTS[i]) * TRAIN_LANES * sizeof(float));
    for (int32_t k = 0; k < c->repeats; k++)
        mix_back(c, at, &rows, k, tile);
    for (int l = 0; l < MIXER_LAYERS; l++)
        values += c->network->layer[l].values;
    for (int l = 0; l < MIXER_LAYERS; l++) {
        if (c->network->back[l].panel)
            hidden_back(c->network, at, l, values, tile);
        values += c->network->back[l].values;
    }
}

static void mixer_backward(const void *call, int32_t index, float *work, int32_t *packed)
{
    const mixer_call *c = call;
    const mixer_network *n = c->gradients;
    const mixer_layout at = mixer_layout_of(n);
    const size_t size = mixer_gradient_size(n);
    float *const values = work + MIXER_CHUNK * at.size, *const sums = pack_mixer(c, values, packed);
    const int32_t first = index * MIXER_CHUNK, tiles = at_most(mixer_tiles(c) - first, MIXER_CHUNK);
    for (int32_t i = 0; i < tiles; i++)
        mixer_backward_tile(c, &at, first + i, values, work + (size_t)i * at.size);
    memset(sums, 0, 4 * size * sizeof(float));
    const ptrdiff_t step = (ptrdiff_t)at.size;
    float *to = sums;
    for (int l = 0; l < MIXER_LAYERS; l++) {
        const outer_range range = {work + at.delta[l], work + at.in[l], step, step, tiles, TRAIN_LANES};
        outer(&n->layer[l], &range, to);
        to += 4 * (size_t)n->layer[l].values;
        outer_bias(&range, mixer_outputs(n, l), to);
        to += 4 * (size_t)mixer_outputs(n, l);
    }
    fold(sums, size, c->partial + (size_t)index * size);
}
