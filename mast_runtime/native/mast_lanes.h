/* Many agents at once, one a lane: matrices times [feature][lane], each weight broadcast once. Included by mast.c. */

enum { LANE_VECS = MAST_LANES / 16 };
/* Rows times vectors of partial sums that fit the registers. */
#if defined(MAST_V4)
enum { LANE_ROWS = 8, LANE_STEP = LANE_VECS };
#else
enum { LANE_ROWS = 4, LANE_STEP = 1 };
#endif

INLINE void lanes_row(uint32_t count, const float *v, const uint16_t *c, const float *x, vec16 *sum)
{
    for (uint32_t e = 0; e < count; e++) {
        const vec16 w = set16(v[e]);
        const float *from = x + (size_t)c[e] * MAST_LANES;
        UNROLL for (int t = 0; t < LANE_VECS; t++) sum[t] = fma16(w, load16(from + 16 * t), sum[t]);
    }
}

/* Rows first to first + 16 of out = init + W x: x [input][lane], out [16][lane], init [16] for all lanes, or NULL: out. */
static void lanes_rows(const mast_matrix *m, uint32_t first, const float *x, const float *init, float *out)
{
    for (uint32_t r = 0; r < 16; r++) {
        const uint32_t e = m->start[first + r];
        vec16 sum[LANE_VECS];
        UNROLL for (int t = 0; t < LANE_VECS; t++)
            sum[t] = init ? set16(init[r]) : load16(out + r * MAST_LANES + 16 * t);
        lanes_row(m->start[first + r + 1] - e, m->values + e, m->columns + e, x, sum);
        UNROLL for (int t = 0; t < LANE_VECS; t++) store16(out + r * MAST_LANES + 16 * t, sum[t]);
    }
}

/* The same for one panel of 8 or 16 rows that share their columns. */
static void lanes_panel(const mast_matrix *m, uint32_t panel, uint32_t height, const float *x, const float *init,
                        float *out)
{
    const uint32_t count = m->start[panel + 1] - m->start[panel];
    const uint16_t *c = m->columns + m->start[panel];
    const float *values = m->values + (size_t)m->start[panel] * height;
    for (uint32_t row = 0; row < height; row += LANE_ROWS) {
        for (uint32_t lane = 0; lane < MAST_LANES; lane += 16 * LANE_STEP) {
            float *to = out + row * MAST_LANES + lane;
            vec16 sum[LANE_ROWS][LANE_STEP];
            UNROLL for (int r = 0; r < LANE_ROWS; r++)
                UNROLL for (int t = 0; t < LANE_STEP; t++)
                    sum[r][t] = init ? set16(init[row + (uint32_t)r]) : load16(to + (uint32_t)r * MAST_LANES + 16 * t);
            for (uint32_t e = 0; e < count; e++) {
                const float *from = x + (size_t)c[e] * MAST_LANES + lane, *w = values + (size_t)e * height + row;
                vec16 in[LANE_STEP];
                UNROLL for (int t = 0; t < LANE_STEP; t++) in[t] = load16(from + 16 * t);
                UNROLL for (int r = 0; r < LANE_ROWS; r++)
                    UNROLL for (int t = 0; t < LANE_STEP; t++) sum[r][t] = fma16(set16(w[r]), in[t], sum[r][t]);
            }
            UNROLL for (int r = 0; r < LANE_ROWS; r++)
                UNROLL for (int t = 0; t < LANE_STEP; t++)
                    store16(to + (uint32_t)r * MAST_LANES + 16 * t, sum[r][t]);
        }
    }
}

/* Sixteen rows from row 16 * group on, whatever the layout. */
static void lanes_multiply(const mast_matrix *m, uint32_t group, const float *x, const float *init, float *out)
{
    x += (size_t)m->offset * MAST_LANES;
    if (m->layout == MAST_ROWS) {
        lanes_rows(m, 16 * group, x, init, out);
    } else if (m->layout == MAST_BLOCKS8) {
        lanes_panel(m, 2 * group, 8, x, init, out);
        lanes_panel(m, 2 * group + 1, 8, x, init ? init + 8 : NULL, out + 8 * MAST_LANES);
    } else {
        lanes_panel(m, group, 16, x, init, out);
    }
}

/* next [16][lane] of sixteen hidden units from gates [4][16][lane] and their state h; returns the poison. */
static vec16 lanes_gru(const float *gates, const float *h, float *next, vec16 poison)
{
    enum { GATE = 16 * MAST_LANES };
    for (uint32_t i = 0; i < GATE; i += 16) {
        const vec16 result = gru16(load16(gates + i), load16(gates + GATE + i), load16(gates + 2 * GATE + i),
                                   load16(gates + 3 * GATE + i), load16(h + i));
        store16(next + i, result);
        poison = poison16(poison, result);
    }
    return poison;
}

/* x [input][lane] of a tile: observations turned, one-hots set, unused lanes zero. */
static void lanes_input(const mast_network *n, const mast_tile *t, float *x)
{
    const uint32_t inputs = mast_inputs(n);
    for (size_t i = 0; i < (size_t)inputs * MAST_LANES; i++)
        x[i] = 0.0f;
    for (uint32_t l = 0; l < t->lanes; l++) {
        const int32_t i = t->member[l];
        const float *obs = t->obs + (size_t)i * n->obs;
        for (uint32_t f = 0; f < n->obs; f++)
            x[f * MAST_LANES + l] = obs[f];
        if (n->last_action && t->last_action[i] >= 0)
            x[(n->obs + (uint32_t)t->last_action[i]) * MAST_LANES + l] = 1.0f;
        if (n->agent_id)
            x[(inputs - n->agents + (uint32_t)t->id[i]) * MAST_LANES + l] = 1.0f;
    }
}

static int tile(const mast_network *n, float *work, const mast_tile *t)
{
    const uint32_t fc1 = MAST_PAD(n->fc1_size), hidden = MAST_PAD(n->hidden);
    float *const x = work, *const yh = x + MAST_LANES * (size_t)MAST_PAD(mast_inputs(n));
    float *const h = yh + MAST_LANES * (size_t)fc1, *const gates = h + MAST_LANES * (size_t)hidden;
    float *const q = gates + 4 * 16 * MAST_LANES;
    vec16 poison = set16(0.0f);

    lanes_input(n, t, x);
    for (uint32_t i = 0; i < n->obs * MAST_LANES; i += 16)
        poison = poison16(poison, load16(x + i));
    if (poisoned(poison))
        return MAST_OBS_NOT_FINITE;
    for (uint32_t g = 0; g < fc1 / 16; g++) {
        float *y = yh + (size_t)g * 16 * MAST_LANES;
        lanes_multiply(&n->fc1, g, x, n->fc1_bias + 16 * g, y);
        for (uint32_t i = 0; i < 16 * MAST_LANES; i += 16) {
            const vec16 positive = max16(set16(0.0f), load16(y + i));
            store16(y + i, positive);
            poison = poison16(poison, positive);
        }
    }
    for (size_t i = 0; i < (size_t)hidden * MAST_LANES; i += 16)
        store16(h + i, load16(t->hidden + i));
    for (uint32_t g = 0; g < hidden / 16; g++) {
        for (uint32_t gate = 0; gate < 4; gate++) {
            const uint32_t group = gate * (hidden / 16) + g;
            float *out = gates + gate * 16 * MAST_LANES;
            lanes_multiply(&n->gru[0], group, yh, n->gru_bias + 16 * (size_t)group, out);
            if (n->gru[1].panels)
                lanes_multiply(&n->gru[1], group, yh, NULL, out);
        }
        const size_t at = (size_t)g * 16 * MAST_LANES;
        poison = lanes_gru(gates, h + at, t->next + at, poison);
    }
    for (uint32_t g = 0; g < MAST_PAD(n->actions) / 16; g++)
        lanes_multiply(&n->fc2, g, t->next, n->fc2_bias + 16 * g, q + (size_t)g * 16 * MAST_LANES);
    for (uint32_t i = 0; i < n->actions * MAST_LANES; i += 16)
        poison = poison16(poison, load16(q + i));
    if (poisoned(poison))
        return MAST_OVERFLOW;
    for (uint32_t l = 0; l < t->lanes; l++) {
        const int32_t i = t->member[l];
        float *to = t->q + (size_t)i * n->actions;
        for (uint32_t a = 0; a < n->actions; a++)
            to[a] = q[a * MAST_LANES + l];
        t->action[i] = choose(to, t->avail ? t->avail + (size_t)i * n->actions : NULL, n->actions);
    }
    return 0;
}
