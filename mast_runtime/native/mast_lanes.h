/* Many agents at once, one a lane: matrices times [feature][lane], each weight broadcast once. Included by mast_forward.h. */

enum { LANE_VECS = MAST_LANES / 16 };
/* Rows times vectors of partial sums that fit the registers. */
#if defined(MAST_V4)
enum { LANE_ROWS = 8, LANE_STEP = LANE_VECS, SLICE_ROWS = 8, SLICE_STEP = LANE_VECS };
#else
enum { LANE_ROWS = 4, LANE_STEP = 1, SLICE_ROWS = 2, SLICE_STEP = LANE_VECS };
#endif

/* w[r] = v[r] in every lane; AVX-512 loads four at once, loads being what these kernels are short of. */
INLINE void spread(const float *v, vec16 w[SLICE_ROWS])
{
#if defined(MAST_V4)
    UNROLL for (int r = 0; r < SLICE_ROWS; r += 4)
    {
        const __m512 four = _mm512_broadcast_f32x4(_mm_loadu_ps(v + r));
        w[r] = _mm512_permute_ps(four, 0x00), w[r + 1] = _mm512_permute_ps(four, 0x55);
        w[r + 2] = _mm512_permute_ps(four, 0xaa), w[r + 3] = _mm512_permute_ps(four, 0xff);
    }
#else
    UNROLL for (int r = 0; r < SLICE_ROWS; r++) w[r] = set16(v[r]);
#endif
}

/* Where the inputs of a row's next connections begin, in bytes from the first input's lanes; likewise. */
INLINE void locate(const uint16_t *c, size_t at[SLICE_ROWS])
{
    enum { STRIDE = MAST_LANES * sizeof(float) };
#if defined(MAST_V4)
    UNROLL for (int r = 0; r < SLICE_ROWS; r += 4)
    {
        uint64_t four;
        __builtin_memcpy(&four, c + r, sizeof four);
        UNROLL for (int i = 0; i < 4; i++) at[r + i] = (four >> (16 * i) & 0xffffu) * STRIDE;
    }
#else
    UNROLL for (int r = 0; r < SLICE_ROWS; r++) at[r] = (size_t)c[r] * STRIDE;
#endif
}

INLINE const float *bytes_after(const float *x, size_t bytes)
{
    return (const float *)(const void *)((const char *)x + bytes);
}

/* Rows `first` to `end`, whole windows, of out = init + W x: x [input][lane], out [row - first][lane], init [row - first]
 * for all lanes, or NULL: out. */
static void lanes_slices(const mast_matrix *m, uint32_t first, uint32_t end, const float *x, const float *init,
                         float *out)
{
    for (uint32_t p = first / 8; p < end / 8; p++) {
        const uint32_t count = m->start[p + 1] - m->start[p];
        for (uint32_t part = 0; part < 8; part += SLICE_ROWS) {
            const uint16_t *const row = m->rows + 8 * p + part;
            for (uint32_t lane = 0; lane < MAST_LANES; lane += 16 * SLICE_STEP) {
                const uint16_t *c = m->columns + 8 * (size_t)m->start[p] + part;
                const float *v = m->values + 8 * (size_t)m->start[p] + part, *const from = x + lane;
                vec16 sum[SLICE_ROWS][SLICE_STEP];
                UNROLL for (int r = 0; r < SLICE_ROWS; r++)
                    UNROLL for (int t = 0; t < SLICE_STEP; t++)
                        sum[r][t] = init ? set16(init[row[r] - first])
                                         : load16(out + (size_t)(row[r] - first) * MAST_LANES + lane + 16 * t);
                for (uint32_t e = 0; e < count; e++, v += 8, c += 8) {
                    vec16 w[SLICE_ROWS];
                    size_t at[SLICE_ROWS];
                    spread(v, w);
                    locate(c, at);
                    UNROLL for (int r = 0; r < SLICE_ROWS; r++)
                        UNROLL for (int t = 0; t < SLICE_STEP; t++)
                            sum[r][t] = fma16(w[r], load16(bytes_after(from, at[r]) + 16 * t), sum[r][t]);
                }
                UNROLL for (int r = 0; r < SLICE_ROWS; r++)
                    UNROLL for (int t = 0; t < SLICE_STEP; t++)
                        store16(out + (size_t)(row[r] - first) * MAST_LANES + lane + 16 * t, sum[r][t]);
            }
        }
    }
}

/* One panel of 8 or 16 rows that share their columns. */
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

/* `n` times sixteen rows from row 16 * group on, a whole window or the last one, whatever the layout. */
static void lanes_multiply(const mast_matrix *m, uint32_t group, uint32_t n, const float *x, const float *init,
                           float *out)
{
    x += (size_t)m->offset * MAST_LANES;
    if (m->layout == MAST_LANE_SLICES) {
        lanes_slices(m, 16 * group, 16 * (group + n), x, init, out);
        return;
    }
    const uint32_t height = m->layout == MAST_BLOCKS8 ? 8 : 16, panels = 16 * n / height;
    for (uint32_t p = 0; p < panels; p++)
        lanes_panel(m, group * 16 / height + p, height, x, init ? init + p * height : NULL,
                    out + (size_t)p * height * MAST_LANES);
}

/* All `rows` of a layer. */
static void lanes_layer(const mast_matrix *m, uint32_t rows, const float *x, const float *init, float *out)
{
    for (uint32_t first = 0; first < rows; first += MAST_WINDOW) {
        const uint32_t n = rows - first < MAST_WINDOW ? rows - first : MAST_WINDOW;
        lanes_multiply(m, first / 16, n / 16, x, init + first, out + (size_t)first * MAST_LANES);
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

/* x [feature][TURN lanes of MAST_LANES] from `used` rows of `width` features, zero in the other lanes. */
INLINE void turn_rows(const float *const from[TURN], const int32_t used, int32_t width, float *x)
{
    for (int32_t f = 0; f < width; f += TURN) {
        turn_row row[TURN];
        UNROLL for (int i = 0; i < TURN; i++) row[i] = load_some(from[i] + f, i < used ? width - f : 0);
        turn(row);
        UNROLL for (int i = 0; i < TURN; i++)
            if (f + i < width)
                store_some(x + (size_t)(f + i) * MAST_LANES, row[i], TURN);
    }
}

/* x [width][lane] from rows [n][width] of the tile's agents, zero in unused lanes. */
static void turn_agents(const mast_tile *t, const float *rows, uint32_t width, float *x)
{
    const int32_t lanes = (int32_t)t->lanes;
    for (int32_t lane = 0; lane < (int32_t)MAST_LANES; lane += TURN) {
        const float *from[TURN];
        UNROLL for (int i = 0; i < TURN; i++)
            from[i] = rows + (size_t)t->member[at_most(lane + i, lanes - 1)] * width;
        if (lane + TURN <= lanes)
            turn_rows(from, TURN, (int32_t)width, x + lane);
        else
            turn_rows(from, lanes - lane, (int32_t)width, x + lane);
    }
}

/* x [input][lane] of a tile: observations turned, one-hots set, unused lanes zero. */
static void lanes_input(const mast_network *n, const mast_tile *t, float *x)
{
    const mast_given *const given = t->given;
    const uint32_t inputs = mast_inputs(n), width = n->obs - given->more;
    turn_agents(t, given->obs, width, x);
    if (given->more)
        turn_agents(t, given->last, given->more, x + (size_t)width * MAST_LANES);
    for (size_t i = (size_t)n->obs * MAST_LANES; i < (size_t)inputs * MAST_LANES; i += 16)
        store16(x + i, set16(0.0f));
    for (uint32_t l = 0; l < t->lanes; l++) {
        const int32_t i = t->member[l];
        if (n->last_action && t->last_action[i] >= 0)
            x[(n->obs + (uint32_t)t->last_action[i]) * MAST_LANES + l] = 1.0f;
        if (n->agent_id)
            x[(inputs - n->agents + (uint32_t)t->id[i]) * MAST_LANES + l] = 1.0f;
    }
}

/* q [n][actions] of the tile's agents from q [action][lane]. */
static void lanes_output(const mast_network *n, const mast_tile *t, const float *q)
{
    const int32_t width = (int32_t)n->actions;
    for (int32_t lane = 0; lane < (int32_t)t->lanes; lane += TURN) {
        for (int32_t a = 0; a < width; a += TURN) {
            turn_row row[TURN];
            UNROLL for (int i = 0; i < TURN; i++)
                row[i] = load_some(q + (size_t)at_most(a + i, width - 1) * MAST_LANES + lane, TURN);
            turn(row);
            UNROLL for (int i = 0; i < TURN; i++)
                if (lane + i < (int32_t)t->lanes)
                    store_some(t->q + (size_t)t->member[lane + i] * n->actions + a, row[i], width - a);
        }
    }
}

static int tile(const mast_network *n, float *work, const mast_tile *t)
{
    const uint32_t fc1 = MAST_PAD(n->fc1_size), hidden = MAST_PAD(n->hidden);
    float *const x = work, *const gates = x + MAST_LANES * (size_t)MAST_PAD(mast_inputs(n));
    float *const q = gates + MAST_LANES * MAST_WINDOW;
    float *const yh = t->yh, *const h = yh + MAST_LANES * (size_t)fc1, *const next = t->next + MAST_LANES * (size_t)fc1;
    vec16 poison = set16(0.0f);

    lanes_input(n, t, x);
    const int fault = check_lanes(n, t, x);
    if (fault)
        return fault;
    lanes_layer(&n->fc1, fc1, x, n->fc1_bias, yh);
    poison = relu(yh, fc1 * MAST_LANES, poison);
    if (!n->recurrent) {
        lanes_layer(&n->gru[0], hidden, yh, n->gru_bias, next);
        poison = relu(next, hidden * MAST_LANES, poison);
    }
    for (uint32_t g = 0; n->recurrent && g < hidden / 16; g++) {
        lanes_multiply(&n->gru[0], 4 * g, 4, yh, n->gru_bias + 64 * (size_t)g, gates);
        if (n->gru[1].panels)
            lanes_multiply(&n->gru[1], 4 * g, 4, yh, NULL, gates);
        const size_t at = (size_t)g * 16 * MAST_LANES;
        poison = lanes_gru(gates, h + at, next + at, poison);
    }
    lanes_layer(&n->fc2, MAST_PAD(n->actions), next, n->fc2_bias, q);
    for (size_t i = 0; !n->recurrent && i < (size_t)hidden * MAST_LANES; i += 16)
        store16(next + i, set16(0.0f)); /* no memory */
    for (uint32_t i = 0; i < n->actions * MAST_LANES; i += 16)
        poison = poison16(poison, load16(q + i));
    if (poisoned(poison))
        return MAST_OVERFLOW;
    lanes_output(n, t, q);
    const uint8_t *const avail = t->given->avail;
    for (uint32_t l = 0; l < t->lanes; l++) {
        const size_t i = (size_t)t->member[l], first = i * n->actions;
        t->action[i] = choose(t->q + first, avail ? avail + first : NULL, n->actions);
    }
    return 0;
}
