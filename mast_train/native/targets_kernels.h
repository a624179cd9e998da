/* Soft Mellowmax over rows; included by kernels.c, once for each instruction set. */
#include "targets.h"

#include <math.h>
#include <string.h>

/* exp(x) for x <= 0, 0 far below; Cephes' expf: a polynomial on half of ln 2 either way, scaled through the exponent. */
INLINE float exp_below(float x)
{
    x = x < -87.0f ? -87.0f : x;
    const int32_t n = (int32_t)(x * 1.44269504f - 0.5f), bits = (int32_t)((uint32_t)(n + 127) << 23);
    const float r = x - (float)n * 0.693359375f + (float)n * 2.12194440e-4f;
    float p = 1.9875691500e-4f, scale;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    memcpy(&scale, &bits, sizeof scale);
    return (p * r * r + r + 1.0f) * scale;
}

/* sum over available actions of exp(x - top), and top itself, for each lane; x [actions][lane], kept 0 or 1. */
static void exp_sums(const float *restrict x, const float *restrict kept, int32_t actions, float *restrict top,
                     float *restrict sum)
{
    for (int32_t i = 0; i < TRAIN_LANES; i++)
        top[i] = -INFINITY, sum[i] = 0.0f;
    for (int32_t a = 0; a < actions; a++)
        for (int32_t i = 0; i < TRAIN_LANES; i++) {
            const float value = kept[a * TRAIN_LANES + i] > 0.0f ? x[a * TRAIN_LANES + i] : -INFINITY;
            top[i] = value > top[i] ? value : top[i];
        }
    for (int32_t a = 0; a < actions; a++)
        for (int32_t i = 0; i < TRAIN_LANES; i++) {
            const float below = x[a * TRAIN_LANES + i] - top[i];
            sum[i] += kept[a * TRAIN_LANES + i] * exp_below(below < 0.0f ? below : 0.0f);
        }
}

/* A tile of rows. work: [4][actions][lane]. */
static void soft_mellowmax(const void *call, int32_t index, float *work, int32_t *packed)
{
    (void)packed;
    const mellow_call *c = call;
    const int32_t size = c->actions * TRAIN_LANES, first = index * TRAIN_LANES;
    const int32_t lanes = at_most(c->rows - first, TRAIN_LANES);
    float *const q = work, *const logits = work + size, *const joint = work + 2 * size, *const kept = work + 3 * size;
    float top[TRAIN_LANES], top_joint[TRAIN_LANES], sum[TRAIN_LANES], sum_joint[TRAIN_LANES];
    ptrdiff_t row[TRAIN_LANES];
    for (int32_t i = 0; i < TRAIN_LANES; i++)
        row[i] = (ptrdiff_t)(first + (i < lanes ? i : 0)) * c->actions;
    to_lanes(c->q, row, 0, c->actions, q, TRAIN_LANES);
    to_lanes(c->select, row, 0, c->actions, logits, TRAIN_LANES);
    for (int32_t i = 0; i < TRAIN_LANES; i++)
        for (int32_t a = 0; a < c->actions; a++)
            kept[a * TRAIN_LANES + i] = c->avail[row[i] + a] ? 1.0f : 0.0f;
    for (int32_t i = 0; i < size; i++) {
        logits[i] *= c->alpha;
        joint[i] = logits[i] + c->omega * q[i];
    }
    exp_sums(logits, kept, c->actions, top, sum);
    exp_sums(joint, kept, c->actions, top_joint, sum_joint);
    for (int32_t i = 0; i < lanes; i++)
        c->value[first + i] = (top_joint[i] - top[i] + logf(sum_joint[i] / sum[i])) / c->omega;
}
