/* One decision, for the instruction set that mast_vector.h is told to use. Included by the level_*.c. */
#include "mast_network.h"

#include <float.h>

#include "mast_vector.h"

#include "mast_products.h"
#include "mast_ranges.h"

/* next of sixteen units from their gates [4][16] and their state h; returns the poison. */
static vec16 gru_panel(const float *gate, const float *h, float *next, vec16 poison)
{
    const vec16 result = gru16(load16(gate), load16(gate + 16), load16(gate + 32), load16(gate + 48), load16(h));
    store16(next, result);
    return poison16(poison, result);
}

/* next from yh, all gates first; returns the poison. */
static vec16 gru_gates(const mast_network *n, const mast_state *s, vec16 poison)
{
    const float *const h = s->yh + MAST_PAD(n->fc1_size);
    multiply(&n->gru[0], s->yh, n->gru_bias, s->gates);
    if (n->gru[1].panels)
        multiply(&n->gru[1], s->yh, s->gates, s->gates);
    for (uint32_t i = 0; i < MAST_PAD(n->hidden); i += 16)
        poison = gru_panel(s->gates + 4 * i, h + i, s->next + i, poison);
    return poison;
}

/* The same for one matrix whose rows are in order: the gates of a panel of units stay in registers. */
INLINE vec16 gru_rows(const uint32_t layout, const mast_network *n, const mast_state *s, vec16 poison)
{
    const mast_matrix *const m = &n->gru[0];
    const float *const h = s->yh + MAST_PAD(n->fc1_size), *const x = s->yh + m->offset;
    cursor at = first_panel(m);
    for (uint32_t i = 0; i < MAST_PAD(n->hidden); i += 16) {
        vec16 gate[4];
        UNROLL for (uint32_t j = 0; j < 4; j++)
            gate[j] = rows16(layout, m, &at, i / 4 + j, x, n->gru_bias + 4 * (size_t)i + 16 * j);
        const vec16 next = gru16(gate[0], gate[1], gate[2], gate[3], load16(h + i));
        store16(s->next + i, next);
        poison = poison16(poison, next);
    }
    return poison;
}

static vec16 gru(const mast_network *n, const mast_state *s, vec16 poison)
{
    const uint32_t layout = n->gru[1].panels ? MAST_DENSE : n->gru[0].layout;
    if (layout == MAST_BLOCKS16)
        return gru_rows(MAST_BLOCKS16, n, s, poison);
    if (layout == MAST_BLOCKS8)
        return gru_rows(MAST_BLOCKS8, n, s, poison);
#if defined(MAST_V4)
    if (layout == MAST_HALVES16)
        return gru_rows(MAST_HALVES16, n, s, poison);
    if (layout == MAST_HALVES8)
        return gru_rows(MAST_HALVES8, n, s, poison);
    if (layout == MAST_PERMUTED)
        return gru_rows(MAST_PERMUTED, n, s, poison);
#endif
    return gru_gates(n, s, poison);
}

/* y in place of s->yh, which has the products with fc1: its positive part; and likewise of any vector. */
static vec16 relu(float *values, uint32_t size, vec16 poison)
{
    for (uint32_t i = 0; i < size; i += 16) {
        const vec16 positive = max16(set16(0.0f), load16(values + i));
        store16(values + i, positive);
        poison = poison16(poison, positive);
    }
    return poison;
}

static int forward(const mast_network *n, mast_state *s, const float *obs)
{
    const uint32_t fc1 = MAST_PAD(n->fc1_size), actions = MAST_PAD(n->actions);
    vec16 poison = set16(0.0f);
    const int fault = take_obs(n, s, obs);
    if (fault)
        return fault;

    multiply(&n->fc1, s->x, n->fc1_bias, s->yh);
    poison = relu(s->yh, fc1, poison);
    if (n->recurrent) {
        poison = gru(n, s, poison);
    } else {
        multiply(&n->gru[0], s->yh, n->gru_bias, s->gates);
        poison = relu(s->gates, MAST_PAD(n->hidden), poison);
    }
    multiply(&n->fc2, n->recurrent ? s->next : s->gates, n->fc2_bias, s->next_q);
    for (uint32_t i = 0; i < actions; i += 16)
        poison = poison16(poison, load16(s->next_q + i));
    return poisoned(poison) ? MAST_OVERFLOW : 0;
}

#if defined(MAST_V4)
static int choose(const float *q, const uint8_t *avail, uint32_t actions)
{
    int best = MAST_NO_ACTION;
    float value = 0.0f;
    for (uint32_t a = 0; a < actions; a += 16) {
        __mmask16 mask = (__mmask16)(actions - a < 16 ? (1u << (actions - a)) - 1u : 0xffffu);
        if (avail) {
            const __m128i flags = _mm_maskz_loadu_epi8(mask, avail + a);
            mask = _mm_test_epi8_mask(flags, flags);
        }
        const vec16 values = _mm512_mask_loadu_ps(set16(-FLT_MAX), mask, q + a);
        const float largest = _mm512_reduce_max_ps(values);
        if (mask && (best < 0 || largest > value)) {
            best = (int)a + __builtin_ctz(_mm512_mask_cmp_ps_mask(mask, values, set16(largest), _CMP_EQ_OQ));
            value = largest;
        }
    }
    return best;
}
#else
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
#endif

/* n of 16 outputs; see mast_kernels.squash, whose arrays begin here, those of bounds `stride` apart. */
INLINE void squash_some(const float *q, const float *bounds, size_t stride, uint32_t n, float *last, float *out)
{
    const float *const low = bounds, *const high = low + stride, *const middle = high + stride;
    const float *const half = middle + stride, *const reach = half + stride;
    float u[16] = {0.0f};
    for (uint32_t k = 0; k < n; k++)
        u[k] = q[k];
    store16(u, max16(set16(-1.0f), min16(set16(1.0f), tanh16(load16(u)))));
    for (uint32_t k = 0; k < n; k++) {
        const float least = last[k] - reach[k], most = last[k] + reach[k];
        const float limited = u[k] < least ? least : u[k] > most ? most : u[k];
        const float action = middle[k] + limited * half[k];
        last[k] = limited;
        out[k] = action < low[k] ? low[k] : action > high[k] ? high[k] : action;
    }
}

static void squash(const float *q, const float *bounds, uint32_t size, float *last, float *out)
{
    uint32_t i = 0;
    for (; i + 16 <= size; i += 16)
        squash_some(q + i, bounds + i, size, 16, last + i, out + i);
    if (i < size)
        squash_some(q + i, bounds + i, size, size - i, last + i, out + i);
}

#include "mast_lanes.h"
#include "mast_search.h"
