/* The agents' structure, the sizes of their work, and the sums of their gradients. */
#include "agents.h"

#include <stdlib.h>
#include <string.h>

static int make_topology(agents_topology *t, int32_t inputs, int32_t h, int32_t actions, const uint8_t *const mask[4])
{
    const int32_t square = h * h;
    const uint8_t *hidden_n = mask[WEIGHT_HH] ? mask[WEIGHT_HH] + 2 * (size_t)square : NULL;
    const train_part gru[] = {{mask[WEIGHT_IH], 3 * h, h, 0, 0, 0},
                              {mask[WEIGHT_HH], 2 * h, h, 0, h, 3 * square},
                              {hidden_n, h, h, 3 * h, h, 5 * square}};
    return train_matrix_build(mask[FC1_WEIGHT], h, inputs, &t->fc1, NULL)
           && train_matrix_join(4 * h, 2 * h, h, gru, 3, &t->gru, &t->gru_back)
           && train_matrix_build(mask[FC2_WEIGHT], actions, h, &t->fc2, &t->fc2_back);
}

agents_network *agents_build(int32_t groups, int32_t inputs, int32_t hidden, int32_t actions,
                             const uint8_t *const mask[4])
{
    const int32_t topologies = mask[0] || mask[1] || mask[2] || mask[3] ? groups : 1;
    const size_t size[4] = {(size_t)hidden * (size_t)inputs, 3 * (size_t)hidden * (size_t)hidden,
                            3 * (size_t)hidden * (size_t)hidden, (size_t)actions * (size_t)hidden};
    agents_network *n = calloc(1, sizeof(agents_network) + (size_t)topologies * sizeof(agents_topology));
    if (!n)
        return NULL;
    n->topologies = topologies;
    n->inputs = inputs;
    n->hidden = hidden;
    n->actions = actions;
    for (int32_t g = 0; g < topologies; g++) {
        const uint8_t *own[4];
        for (int i = 0; i < 4; i++)
            own[i] = mask[i] ? mask[i] + (size_t)g * size[i] : NULL;
        if (!make_topology(&n->topology[g], inputs, hidden, actions, own)) {
            agents_free(n);
            return NULL;
        }
    }
    return n;
}

void agents_free(agents_network *network)
{
    for (int32_t g = 0; g < network->topologies; g++) {
        agents_topology *t = &network->topology[g];
        train_matrix *matrix[] = {&t->fc1, &t->gru, &t->fc2, &t->gru_back, &t->fc2_back};
        for (size_t i = 0; i < sizeof matrix / sizeof *matrix; i++)
            train_matrix_free(matrix[i]);
    }
    free(network);
}

/* Forward: two records, x, q, biases of the GRU, packed weights. Backward: per step of a chunk the gradients of the
 * gates, of y, of the state, of q, and x; then four partial sums of each gradient, packed weights. */
size_t agents_work_size(const agents_call *call)
{
    const agents_network *n = call->network;
    size_t most = 0;
    for (int32_t g = 0; g < call->groups; g++) {
        const agents_topology *t = agents_topology_of(n, g);
        const size_t h = (size_t)n->hidden, a = (size_t)n->actions;
        size_t forward = agents_values(t) + 4 * h;
        forward += 2 * agents_record(n) + ((size_t)n->inputs + a) * TRAIN_LANES;
        size_t backward = (size_t)t->gru_back.values + (size_t)t->fc2_back.values;
        backward += (size_t)agents_chunk(n) * (6 * h + a + (size_t)n->inputs) * TRAIN_LANES;
        backward += call->gradients ? 4 * agents_gradient_size(n, agents_topology_of(call->gradients, g)) : 0;
        most = most > forward ? most : forward;
        most = most > backward ? most : backward;
    }
    return (most + TRAIN_LANES - 1) / TRAIN_LANES * TRAIN_LANES;
}

void agents_collect(const agents_call *c, float *const grad[PARAMETERS])
{
    const size_t h = (size_t)c->network->hidden, in = (size_t)c->network->inputs, a = (size_t)c->network->actions;
    const int32_t tiles = agents_tiles(c);
    for (size_t g = 0; g < (size_t)c->groups; g++) {
        const agents_topology *t = agents_topology_of(c->gradients, (int32_t)g);
        const size_t size = agents_gradient_size(c->network, t);
        float *sum = c->partial + g * (size_t)tiles * c->partial_size;
        for (int32_t tile = 1; tile < tiles; tile++)
            for (size_t i = 0; i < size; i++)
                sum[i] += sum[(size_t)tile * c->partial_size + i];
        train_scatter(&t->fc1, sum, grad[FC1_WEIGHT] + g * h * in, NULL, INT32_MAX);
        sum += t->fc1.values;
        train_scatter(&t->gru, sum, grad[WEIGHT_IH] + g * 3 * h * h, grad[WEIGHT_HH] + g * 3 * h * h,
                      (int32_t)(3 * h * h));
        sum += t->gru.values;
        train_scatter(&t->fc2, sum, grad[FC2_WEIGHT] + g * a * h, NULL, INT32_MAX);
        sum += t->fc2.values;
        memcpy(grad[FC1_BIAS] + g * h, sum, h * sizeof(float));
        sum += h;
        memcpy(grad[BIAS_IH] + g * 3 * h, sum, 3 * h * sizeof(float));
        memcpy(grad[BIAS_HH] + g * 3 * h, sum, 2 * h * sizeof(float));
        memcpy(grad[BIAS_HH] + g * 3 * h + 2 * h, sum + 3 * h, h * sizeof(float));
        memcpy(grad[FC2_BIAS] + g * a, sum + 4 * h, a * sizeof(float));
    }
}
