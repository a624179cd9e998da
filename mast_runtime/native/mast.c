/* The kernels, for the instruction set that mast_vector.h is told to use. */
#include "mast.h"

#ifndef MAST_KERNELS
#define MAST_KERNELS mast_generic
#if defined(__ARM_NEON) && defined(__aarch64__)
#define MAST_LEVEL "neon"
#else
#define MAST_LEVEL "scalar"
#endif
#endif

#include "mast_vector.h"

/* Partial sums of 16 kept in registers: enough to hide a multiply-add's latency, and no more than there are registers. */
#if defined(MAST_V4)
#define SUMS 8
#elif defined(MAST_V3) || defined(__ARM_NEON)
#define SUMS 4
#else
#define SUMS 1
#endif

/* `panels` dense panels of `count` columns side by side, panels * unroll = SUMS. */
INLINE void dense_panels(const int panels, uint32_t count, const float *v, const float *x, const float *init, float *out)
{
    const int unroll = SUMS / panels;
    const size_t stride = (size_t)count * 16u;
    vec16 sum[SUMS];
    UNROLL for (int s = 0; s < SUMS; s++) sum[s] = s < panels ? load16(init + 16 * s) : set16(0.0f);
    uint32_t c = 0;
    for (; c + (uint32_t)unroll <= count; c += (uint32_t)unroll) {
        UNROLL for (int s = 0; s < SUMS; s++)
        {
            const uint32_t column = c + (uint32_t)(s / panels);
            const float *w = v + (size_t)(s % panels) * stride + (size_t)column * 16u;
            sum[s] = fma16(load16(w), set16(x[column]), sum[s]);
        }
    }
    for (; c < count; c++)
        UNROLL for (int s = 0; s < panels; s++)
            sum[s] = fma16(load16(v + (size_t)s * stride + (size_t)c * 16u), set16(x[c]), sum[s]);
    UNROLL for (int s = panels; s < SUMS; s++) sum[s % panels] = add16(sum[s % panels], sum[s]);
    UNROLL for (int s = 0; s < panels; s++) store16(out + 16 * s, sum[s]);
}

static void dense(const mast_matrix *m, const float *x, const float *init, float *out)
{
    for (uint32_t p = 0; p < m->panels;) {
        const uint32_t count = m->start[p + 1] - m->start[p];
        uint32_t same = 1;
        while (same < SUMS && p + same < m->panels && m->columns[p + same] == m->columns[p]
               && m->start[p + same + 1] - m->start[p + same] == count)
            same++;
        const float *v = m->values + (size_t)m->start[p] * 16u, *from = x + m->columns[p];
        const uint32_t step = same >= 4 ? 4 : same >= 2 ? 2 : 1;
#if SUMS >= 4
        if (step == 4)
            dense_panels(4, count, v, from, init + 16 * p, out + 16 * p);
        else if (step == 2)
            dense_panels(2, count, v, from, init + 16 * p, out + 16 * p);
        else
#endif
            dense_panels(1, count, v, from, init + 16 * p, out + 16 * p);
        p += step;
    }
}

static void slices(const mast_matrix *m, const float *x, const float *init, float *out)
{
    const float *v = m->values;
    const uint16_t *c = m->columns, *row = m->rows;
    for (uint32_t p = 0; p < m->panels; p++, row += 8) {
        vec8 sum = set8(0.0f);
        for (uint32_t e = m->start[p]; e < m->start[p + 1]; e++, v += 8, c += 8)
            sum = fma8(load8(v), pick8(x, c), sum);
        float total[8];
        store8(total, sum);
        UNROLL for (int k = 0; k < 8; k++) out[row[k]] = init[row[k]] + total[k];
    }
}

static void blocks8(const mast_matrix *m, const float *x, const float *init, float *out)
{
    const float *v = m->values;
    const uint16_t *c = m->columns;
    for (uint32_t p = 0; p < m->panels; p++) {
        const uint32_t count = m->start[p + 1] - m->start[p];
        vec8 sum = load8(init + 8 * p), other = set8(0.0f);
        uint32_t e = 0;
        for (; e + 2 <= count; e += 2, v += 16, c += 2) {
            sum = fma8(load8(v), set8(x[c[0]]), sum);
            other = fma8(load8(v + 8), set8(x[c[1]]), other);
        }
        if (e < count) {
            sum = fma8(load8(v), set8(x[c[0]]), sum);
            v += 8, c++;
        }
        store8(out + 8 * p, add8(sum, other));
    }
}

static void blocks16(const mast_matrix *m, const float *x, const float *init, float *out)
{
    const float *v = m->values;
    const uint16_t *c = m->columns;
    for (uint32_t p = 0; p < m->panels; p++) {
        const uint32_t count = m->start[p + 1] - m->start[p];
        vec16 sum = load16(init + 16 * p), other = set16(0.0f);
        uint32_t e = 0;
        for (; e + 2 <= count; e += 2, v += 32, c += 2) {
            sum = fma16(load16(v), set16(x[c[0]]), sum);
            other = fma16(load16(v + 16), set16(x[c[1]]), other);
        }
        if (e < count) {
            sum = fma16(load16(v), set16(x[c[0]]), sum);
            v += 16, c++;
        }
        store16(out + 16 * p, add16(sum, other));
    }
}

#if defined(MAST_V4)
static void permuted(const mast_matrix *m, const float *x, const float *init, float *out)
{
    const float *v = m->values;
    const uint8_t *pick = m->picks;
    const uint16_t *c = m->columns;
    for (uint32_t p = 0; p < m->panels; p++) {
        const uint32_t count = m->start[p + 1] - m->start[p];
        vec16 sum = load16(init + 16 * p), other = set16(0.0f);
        for (uint32_t e = 0; e < count / 2; e++, v += 32, pick += 32, c += 2) {
            sum = fma16(load16(v), pick16(x + c[0], pick), sum);
            other = fma16(load16(v + 16), pick16(x + c[1], pick + 16), other);
        }
        if (count % 2) {
            sum = fma16(load16(v), pick16(x + c[0], pick), sum);
            v += 16, pick += 16, c++;
        }
        store16(out + 16 * p, add16(sum, other));
    }
}
#endif

/* out = init + W x over all padded rows; init may be out. */
static void multiply(const mast_matrix *m, const float *x, const float *init, float *out)
{
    x += m->offset;
    if (m->layout == MAST_DENSE)
        dense(m, x, init, out);
    else if (m->layout == MAST_SLICES)
        slices(m, x, init, out);
    else if (m->layout == MAST_BLOCKS8)
        blocks8(m, x, init, out);
    else if (m->layout == MAST_BLOCKS16)
        blocks16(m, x, init, out);
#if defined(MAST_V4)
    else
        permuted(m, x, init, out);
#endif
}

static int forward(const mast_network *n, mast_state *s, const float *obs)
{
    const uint32_t hidden = MAST_PAD(n->hidden), fc1 = MAST_PAD(n->fc1_size), actions = MAST_PAD(n->actions);
    vec16 poison = set16(0.0f);
    uint32_t i = 0;
    for (; i + 16 <= n->obs; i += 16) {
        const vec16 o = load16(obs + i);
        store16(s->x + i, o);
        poison = poison16(poison, o);
    }
    if (n->obs >= 16 && i < n->obs) {
        const vec16 o = load16(obs + n->obs - 16); /* the last ones, some of them again */
        store16(s->x + n->obs - 16, o);
        poison = poison16(poison, o);
    }
    for (; n->obs < 16 && i < n->obs; i++) {
        s->x[i] = obs[i];
        poison = poison16(poison, set16(obs[i]));
    }
    if (poisoned(poison))
        return MAST_OBS_NOT_FINITE;

    multiply(&n->fc1, s->x, n->fc1_bias, s->yh);
    for (i = 0; i < fc1; i += 16) {
        const vec16 y = max16(set16(0.0f), load16(s->yh + i));
        store16(s->yh + i, y);
        poison = poison16(poison, y);
    }
    multiply(&n->gru[0], s->yh, n->gru_bias, s->gates);
    if (n->gru[1].panels)
        multiply(&n->gru[1], s->yh, s->gates, s->gates);
    const float *g = s->gates, *h = s->yh + fc1;
    for (i = 0; i < hidden; i += 16) {
        const vec16 next = gru16(load16(g + i), load16(g + hidden + i), load16(g + 2 * (size_t)hidden + i),
                                 load16(g + 3 * (size_t)hidden + i), load16(h + i));
        store16(s->next + i, next);
        poison = poison16(poison, next);
    }
    multiply(&n->fc2, s->next, n->fc2_bias, s->next_q);
    for (i = 0; i < actions; i += 16)
        poison = poison16(poison, load16(s->next_q + i));
    return poisoned(poison) ? MAST_OVERFLOW : 0;
}

static int choose(const float *q, const uint8_t *avail, uint32_t actions)
{
    int best = MAST_NO_ACTION;
    float value = 0.0f;
    for (uint32_t a = 0; a < actions; a++) {
        if ((!avail || avail[a]) && (best < 0 || q[a] > value)) {
            best = (int)a;
            value = q[a];
        }
    }
    return best;
}

#include "mast_lanes.h"

const mast_kernels MAST_KERNELS = {MAST_LEVEL, forward, choose, tile};
