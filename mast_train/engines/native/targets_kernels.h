/* Soft Mellowmax over rows; included by kernels.h. */
#include "targets.h"

#include <math.h>

/* exp(x) for x <= 0, 0 far below; Cephes' expf: a polynomial on half of ln 2 either way, scaled through the exponent. */
INLINE vec16 exp_below16(vec16 x)
{
    static const float p[6] = {5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f,
                               8.3334519073e-3f, 1.3981999507e-3f, 1.9875691500e-4f};
    const vec16 whole = set16(12582912.0f); /* adding it rounds to integers */
    x = max16(set16(-87.0f), x);
    const vec16 n = sub16(fma16(x, set16(1.44269504f), whole), whole);
    const vec16 r = fma16(n, set16(2.12194440e-4f), fma16(n, set16(-0.693359375f), x));
    vec16 sum = set16(p[5]);
    UNROLL for (int i = 4; i >= 0; i--) sum = fma16(sum, r, set16(p[i]));
    return times_power16(fma16(mul16(sum, r), r, add16(r, set16(1.0f))), n);
}

/* sum over available actions of exp(x - top), and top itself, for each lane; x [actions][lane], kept 0 or 1. */
static void exp_sums(const float *x, const float *kept, int32_t actions, float *top, float *sum)
{
    const vec16 least = set16(-INFINITY), none = set16(0.0f);
    for (int32_t lane = 0; lane < TRAIN_LANES; lane += 16) {
        vec16 most = least, total = none;
        for (int32_t i = lane; i < actions * TRAIN_LANES; i += TRAIN_LANES)
            most = max16(most, select16(load16(kept + i), load16(x + i), least));
        for (int32_t i = lane; i < actions * TRAIN_LANES; i += TRAIN_LANES) {
            const vec16 below = min16(none, sub16(load16(x + i), most));
            total = add16(total, select16(load16(kept + i), exp_below16(below), none));
        }
        store16(top + lane, most);
        store16(sum + lane, total);
    }
}

/* A tile of rows. work: [5][actions][lane], the last as [lane][actions]. */
static void soft_mellowmax(const void *call, int32_t index, float *work, int32_t *packed)
{
    (void)packed;
    const mellow_call *c = call;
    const int32_t size = c->actions * TRAIN_LANES, first = index * TRAIN_LANES;
    const int32_t lanes = at_most(c->rows - first, TRAIN_LANES);
    float *const q = work, *const logits = work + size, *const joint = work + 2 * size, *const kept = work + 3 * size;
    float *const avail = work + 4 * size;
    float top[TRAIN_LANES], top_joint[TRAIN_LANES], sum[TRAIN_LANES], sum_joint[TRAIN_LANES];
    ptrdiff_t row[TRAIN_LANES];
    for (int32_t i = 0; i < TRAIN_LANES; i++)
        row[i] = (ptrdiff_t)(first + (i < lanes ? i : 0)) * c->actions;
    to_lanes(c->q, row, 0, c->actions, q, TRAIN_LANES);
    to_lanes(c->select, row, 0, c->actions, logits, TRAIN_LANES);
    const uint8_t *from = c->avail + row[0];
    for (int32_t i = 0; i < lanes * c->actions; i++)
        avail[i] = (float)from[i];
    for (int32_t i = 0; i < TRAIN_LANES; i++)
        row[i] -= (ptrdiff_t)first * c->actions;
    to_lanes(avail, row, 0, c->actions, kept, TRAIN_LANES);
    for (int32_t i = 0; i < size; i++) {
        logits[i] *= c->alpha;
        joint[i] = logits[i] + c->omega * q[i];
    }
    exp_sums(logits, kept, c->actions, top, sum);
    exp_sums(joint, kept, c->actions, top_joint, sum_joint);
    for (int32_t i = 0; i < lanes; i++)
        c->value[first + i] = (top_joint[i] - top[i] + logf(sum_joint[i] / sum[i])) / c->omega;
}
