/* One agent's matrices times its vector, one kernel for each layout. Included by mast_forward.h. */

/* Partial sums of 16 kept in registers: enough to hide a multiply-add's latency, and no more than there are registers. */
#if defined(MAST_V4)
#define SUMS 8
#elif defined(MAST_V3) || defined(MAST_NEON)
#define SUMS 4
#else
#define SUMS 1
#endif
enum { FOURS = SUMS == 8 }; /* block panels take four columns at once, else two */

/* `panels` dense panels over the same `count` inputs side by side, panels * unroll = SUMS; which ones says `at`. */
INLINE void dense_panels(const int panels, const mast_matrix *m, const uint32_t *at, const float *x, const float *init,
                         float *out)
{
    const int unroll = SUMS / panels;
    const uint32_t count = m->start[at[0] + 1] - m->start[at[0]];
    const float *v[SUMS];
    vec16 sum[SUMS];
    UNROLL for (int s = 0; s < panels; s++) v[s] = m->values + (size_t)m->start[at[s]] * 16u;
    UNROLL for (int s = 0; s < SUMS; s++) sum[s] = s < panels ? load16(init + 16 * at[s]) : set16(0.0f);
    uint32_t c = 0;
    for (; c + (uint32_t)unroll <= count; c += (uint32_t)unroll) {
        UNROLL for (int s = 0; s < SUMS; s++)
        {
            const uint32_t column = c + (uint32_t)(s / panels);
            sum[s] = fma16(load16(v[s % panels] + (size_t)column * 16u), set16(x[column]), sum[s]);
        }
    }
    for (; c < count; c++)
        UNROLL for (int s = 0; s < panels; s++)
            sum[s] = fma16(load16(v[s] + (size_t)c * 16u), set16(x[c]), sum[s]);
    UNROLL for (int s = panels; s < SUMS; s++) sum[s % panels] = add16(sum[s % panels], sum[s]);
    UNROLL for (int s = 0; s < panels; s++) store16(out + 16 * at[s], sum[s]);
}

/* Panels over the same inputs are taken together: in a GRU those of one gate, or of r and z, are a few panels apart. */
static void dense(const mast_matrix *m, const float *x, const float *init, float *out)
{
    enum { WINDOW = 16, SIDE = SUMS < 4 ? 1 : 4 };
    for (uint32_t first = 0; first < m->panels; first += WINDOW) {
        const uint32_t end = m->panels - first < WINDOW ? m->panels : first + WINDOW;
        uint8_t done[WINDOW] = {0};
        for (uint32_t p = first; p < end; p++) {
            uint32_t at[SIDE], n = 0;
            for (uint32_t q = p; q < end && n < SIDE && !done[p - first]; q++)
                if (!done[q - first] && m->columns[q] == m->columns[p]
                    && m->start[q + 1] - m->start[q] == m->start[p + 1] - m->start[p])
                    at[n++] = q;
            if (!n)
                continue;
            n = n == 3 ? 2 : n;
            for (uint32_t i = 0; i < n; i++)
                done[at[i] - first] = 1;
            const float *const from = x + m->columns[p];
#if SUMS >= 4
            if (n == 4)
                dense_panels(4, m, at, from, init, out);
            else if (n == 2)
                dense_panels(2, m, at, from, init, out);
            else
#endif
                dense_panels(1, m, at, from, init, out);
        }
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

/* The next panel's entries: panels are read in order, so that nothing is looked up between them. */
typedef struct {
    const char *weights;
    const uint16_t *columns;
    const uint8_t *picks;
} cursor;

/* Weights at p, in half precision or not. */
#if defined(MAST_V4)
INLINE vec8 weights8(const int half, const void *p)
{
    return half ? _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)) : load8(p);
}
INLINE vec16 weights16(const int half, const void *p)
{
    return half ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)) : load16(p);
}
#else
INLINE vec8 weights8(const int half, const void *p) { return (void)half, load8(p); }
INLINE vec16 weights16(const int half, const void *p) { return (void)half, load16(p); }
#endif

/* sum + the rows of the next panel, whose columns end at `end`, times x. */
INLINE vec8 block8(const int half, cursor *at, const uint16_t *end, const float *x, vec8 sum)
{
    const int size = 8 * (half ? 2 : 4);
    const uint16_t *c = at->columns;
    const char *v = at->weights;
    vec8 other = set8(0.0f), third = other, fourth = other;
    for (; FOURS && c + 4 <= end; c += 4, v += 4 * size) {
        sum = fma8(weights8(half, v), set8(x[c[0]]), sum);
        other = fma8(weights8(half, v + size), set8(x[c[1]]), other);
        third = fma8(weights8(half, v + 2 * size), set8(x[c[2]]), third);
        fourth = fma8(weights8(half, v + 3 * size), set8(x[c[3]]), fourth);
    }
    for (; c + 2 <= end; c += 2, v += 2 * size) {
        sum = fma8(weights8(half, v), set8(x[c[0]]), sum);
        other = fma8(weights8(half, v + size), set8(x[c[1]]), other);
    }
    if (c < end) {
        sum = fma8(weights8(half, v), set8(x[c[0]]), sum);
        c++, v += size;
    }
    at->columns = c, at->weights = v;
    return FOURS ? add8(add8(sum, third), add8(other, fourth)) : add8(sum, other);
}

INLINE vec16 block16(const int half, cursor *at, const uint16_t *end, const float *x, vec16 sum)
{
    const int size = 16 * (half ? 2 : 4);
    const uint16_t *c = at->columns;
    const char *v = at->weights;
    vec16 other = set16(0.0f), third = other, fourth = other;
    for (; FOURS && c + 4 <= end; c += 4, v += 4 * size) {
        sum = fma16(weights16(half, v), set16(x[c[0]]), sum);
        other = fma16(weights16(half, v + size), set16(x[c[1]]), other);
        third = fma16(weights16(half, v + 2 * size), set16(x[c[2]]), third);
        fourth = fma16(weights16(half, v + 3 * size), set16(x[c[3]]), fourth);
    }
    for (; c + 2 <= end; c += 2, v += 2 * size) {
        sum = fma16(weights16(half, v), set16(x[c[0]]), sum);
        other = fma16(weights16(half, v + size), set16(x[c[1]]), other);
    }
    if (c < end) {
        sum = fma16(weights16(half, v), set16(x[c[0]]), sum);
        c++, v += size;
    }
    at->columns = c, at->weights = v;
    return FOURS ? add16(add16(sum, third), add16(other, fourth)) : add16(sum, other);
}

#if defined(MAST_V4)
INLINE vec16 permuted16(cursor *at, const uint16_t *end, const float *x, vec16 sum)
{
    const uint16_t *c = at->columns;
    const float *v = (const float *)(const void *)at->weights;
    const uint8_t *pick = at->picks;
    vec16 other = set16(0.0f);
    for (; c + 2 <= end; c += 2, v += 32, pick += 32) {
        sum = fma16(load16(v), pick16(x + c[0], pick), sum);
        other = fma16(load16(v + 16), pick16(x + c[1], pick + 16), other);
    }
    if (c < end) {
        sum = fma16(load16(v), pick16(x + c[0], pick), sum);
        c++, v += 16, pick += 16;
    }
    at->columns = c, at->weights = (const char *)v, at->picks = pick;
    return add16(sum, other);
}
#endif

INLINE cursor first_panel(const mast_matrix *m)
{
    return (cursor){m->halves ? (const char *)m->halves : (const char *)m->values, m->columns, m->picks};
}

/* init + the next 16 rows of W x, which are rows 16 * group on, for a layout whose rows are in order. */
INLINE vec16 rows16(const uint32_t layout, const mast_matrix *m, cursor *at, uint32_t group, const float *x,
                    const float *init)
{
    const uint16_t *const columns = m->columns;
    const uint32_t *const end = m->start + 1;
    const int half = layout == MAST_HALVES8 || layout == MAST_HALVES16;
    if (layout == MAST_BLOCKS8 || layout == MAST_HALVES8) {
        const vec8 first = block8(half, at, columns + end[2 * group], x, load8(init));
        return join16(first, block8(half, at, columns + end[2 * group + 1], x, load8(init + 8)));
    }
#if defined(MAST_V4)
    if (layout == MAST_PERMUTED)
        return permuted16(at, columns + end[group], x, load16(init));
#endif
    return block16(half, at, columns + end[group], x, load16(init));
}

INLINE void rows(const uint32_t layout, const mast_matrix *m, const float *x, const float *init, float *out)
{
    const uint32_t groups = layout == MAST_BLOCKS8 || layout == MAST_HALVES8 ? m->panels / 2 : m->panels;
    cursor at = first_panel(m);
    for (uint32_t g = 0; g < groups; g++)
        store16(out + 16 * g, rows16(layout, m, &at, g, x, init + 16 * g));
}

/* out = init + W x over all padded rows; init may be out. */
static void multiply(const mast_matrix *m, const float *x, const float *init, float *out)
{
    x += m->offset;
    if (m->layout == MAST_DENSE)
        dense(m, x, init, out);
    else if (m->layout == MAST_SLICES)
        slices(m, x, init, out);
    else if (m->layout == MAST_BLOCKS8)
        rows(MAST_BLOCKS8, m, x, init, out);
    else if (m->layout == MAST_BLOCKS16)
        rows(MAST_BLOCKS16, m, x, init, out);
#if defined(MAST_V4)
    else if (m->layout == MAST_HALVES8)
        rows(MAST_HALVES8, m, x, init, out);
    else if (m->layout == MAST_HALVES16)
        rows(MAST_HALVES16, m, x, init, out);
    else
        rows(MAST_PERMUTED, m, x, init, out);
#endif
}
