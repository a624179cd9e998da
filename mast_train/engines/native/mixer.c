/* The mixer's structure and the layout of its work. */
#include "mixer.h"

#include <stdlib.h>
#include <string.h>

int32_t mixer_outputs(const mixer_network *n, int layer)
{
    const int32_t outputs[MIXER_LAYERS] = {n->hidden, n->agents * n->embed, n->hidden, n->embed, n->embed, n->embed, 1};
    return outputs[layer];
}

int32_t mixer_inputs(const mixer_network *n, int layer)
{
    const int32_t s = n->states, inputs[MIXER_LAYERS] = {s, n->hidden, s, n->hidden, s, s, n->embed};
    return inputs[layer];
}

mixer_layout mixer_layout_of(const mixer_network *n)
{
    mixer_layout at;
    at.size = (size_t)n->states * TRAIN_LANES;
    for (int l = 0; l < MIXER_LAYERS; l++) {
        const size_t rows = (size_t)mixer_outputs(n, l) * TRAIN_LANES;
        const int second = l == W1_OUT || l == W2_OUT || l == B2_OUT;
        at.in[l] = second ? at.out[l - 1] : 0;
        at.out[l] = at.size;
        at.delta[l] = at.size + rows;
        at.size += 2 * rows;
    }
    at.q = at.size;
    at.grad_q = at.q + (size_t)n->agents * TRAIN_LANES;
    at.size = at.grad_q + (size_t)n->agents * TRAIN_LANES;
    return at;
}

size_t mixer_gradient_size(const mixer_network *n)
{
    size_t size = 0;
    for (int l = 0; l < MIXER_LAYERS; l++)
        size += (size_t)n->layer[l].values + (size_t)mixer_outputs(n, l);
    return size;
}

/* A chunk's tiles, the packed weights and those of the way back, four partial sums of each gradient. */
size_t mixer_work_size(const mixer_call *c)
{
    const mixer_network *n = c->network;
    size_t size = MIXER_CHUNK * mixer_layout_of(n).size + (c->gradients ? 4 * mixer_gradient_size(c->gradients) : 0);
    for (int l = 0; l < MIXER_LAYERS; l++)
        size += (size_t)n->layer[l].values + (size_t)n->back[l].values;
    return size;
}

mixer_network *mixer_build(int32_t agents, int32_t states, int32_t embed, int32_t hidden,
                           const uint8_t *const mask[MIXER_LAYERS])
{
    mixer_network *n = calloc(1, sizeof *n);
    if (!n)
        return NULL;
    n->agents = agents;
    n->states = states;
    n->embed = embed;
    n->hidden = hidden;
    for (int l = 0; l < MIXER_LAYERS; l++) {
        train_matrix *back = l == W1_OUT || l == W2_OUT || l == B2_OUT ? &n->back[l] : NULL;
        if (!train_matrix_build(mask[l], mixer_outputs(n, l), mixer_inputs(n, l), &n->layer[l], back)) {
            mixer_free(n);
            return NULL;
        }
    }
    return n;
}

void mixer_free(mixer_network *network)
{
    for (int l = 0; l < MIXER_LAYERS; l++) {
        train_matrix_free(&network->layer[l]);
        train_matrix_free(&network->back[l]);
    }
    free(network);
}

void mixer_collect(const mixer_call *c, const mixer_parameters *gradients)
{
    const size_t size = mixer_gradient_size(c->gradients);
    float *sum = c->partial;
    for (int32_t task = 1; task < mixer_tasks(c); task++)
        for (size_t i = 0; i < size; i++)
            sum[i] += c->partial[(size_t)task * size + i];
    for (int l = 0; l < MIXER_LAYERS; l++) {
        const train_matrix *m = &c->gradients->layer[l];
        const int32_t outputs = mixer_outputs(c->gradients, l);
        train_scatter(m, sum, gradients->weight[l], NULL, INT32_MAX);
        memcpy(gradients->bias[l], sum + m->values, (size_t)outputs * sizeof(float));
        sum += m->values + outputs;
    }
}

void mixer_means(const mixer_call *c, float mean[MIXER_MEANS])
{
    double sum[MIXER_MEANS] = {0.0};
    const int32_t agents = c->network->agents;
    for (int32_t row = 0; row < c->rows; row++) {
        const double error = (double)c->q_tot[row] - (double)c->target[row], weight = (double)mixer_weight(c, row);
        double q = 0.0;
        for (int32_t i = 0; i < agents; i++)
            q += (double)c->q[(ptrdiff_t)row * agents + i];
        const double of_row[MIXER_MEANS] = {weight * error * error, q / agents, c->q_tot[row], c->target[row], weight};
        for (int i = 0; i < MIXER_MEANS; i++)
            sum[i] += of_row[i];
    }
    for (int i = 0; i < MIXER_MEANS; i++)
        mean[i] = (float)(sum[i] / c->rows);
}
