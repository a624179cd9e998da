/* Products over panels: forward, back through the transposed matrix, and the gradients of the weights; included by
 * kernels.h. */
#include "vector.h"

/* What fits the registers: rows of a panel at a time, vectors of lanes beside them, deltas of a row held over steps. */
#if defined(MAST_V4)
enum { ROWS = 8, STRIDE = LANE_VECS, HELD = 8 };
#else
enum { ROWS = 4, STRIDE = 1, HELD = 2 };
#endif

/* ---- out = bias + W in, or out += W in; in [column][lane], out [row][lane] ---- */

INLINE void multiply_rows(const int rows, const int vecs, const train_panel *p, const int32_t *column, const float *w,
                          const float *in, const float *bias, float *out)
{
    vec16 sum[ROWS * LANE_VECS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vecs; v++)
            sum[r * vecs + v] = bias ? set16(bias[r]) : load16(out + r * TRAIN_LANES + 16 * v);
    for (int32_t e = p->first; e < p->end; e++, w += p->height) {
        const float *from = in + column[e];
        UNROLL for (int v = 0; v < vecs; v++)
        {
            const vec16 x = load16(from + 16 * v);
            UNROLL for (int r = 0; r < rows; r++) sum[r * vecs + v] = fma16(set16(w[r]), x, sum[r * vecs + v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vecs; v++) store16(out + r * TRAIN_LANES + 16 * v, sum[r * vecs + v]);
}

INLINE void multiply_panel(const int height, const int lanes, const train_panel *p, const int32_t *column,
                           const float *values, const float *in, const float *bias, float *out)
{
    const int rows = height < ROWS ? height : ROWS, most = rows > 2 ? STRIDE : LANE_VECS;
    const int vecs = lanes < 16 * most ? lanes / 16 : most;
    bias = bias ? bias + p->row : NULL;
    out += (size_t)p->row * TRAIN_LANES;
    for (int r = 0; r < height; r += rows)
        for (int lane = 0; lane < lanes; lane += 16 * vecs)
            multiply_rows(rows, vecs, p, column, values + p->value + r, in + lane, bias ? bias + r : NULL,
                          out + r * TRAIN_LANES + lane);
}

/* Four single rows of equal length, whose columns and values follow each other. */
INLINE void multiply_four(const int lanes, const train_panel *p, const int32_t *column, const float *values,
                          const float *in, const float *bias, float *out)
{
    const int vecs = lanes < 16 * STRIDE ? lanes / 16 : STRIDE;
    const int32_t length = p->end - p->first;
    column += p->first;
    values += p->value;
    for (int lane = 0; lane < lanes; lane += 16 * vecs) {
        vec16 sum[4][STRIDE];
        UNROLL for (int r = 0; r < 4; r++)
            UNROLL for (int v = 0; v < vecs; v++)
                sum[r][v] = bias ? set16(bias[p[r].row]) : load16(out + p[r].row * TRAIN_LANES + lane + 16 * v);
        for (int32_t e = 0; e < length; e++)
            UNROLL for (int r = 0; r < 4; r++)
            {
                const vec16 w = set16(values[r * length + e]);
                const float *from = in + column[r * length + e] + lane;
                UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = fma16(w, load16(from + 16 * v), sum[r][v]);
            }
        UNROLL for (int r = 0; r < 4; r++)
            UNROLL for (int v = 0; v < vecs; v++) store16(out + p[r].row * TRAIN_LANES + lane + 16 * v, sum[r][v]);
    }
}

static int alike(const train_panel *a, const train_panel *b)
{
    return a->height == b->height && a->end - a->first == b->end - b->first;
}

INLINE void multiply_lanes(const int lanes, const train_matrix *m, const float *values, const float *in,
                           const float *bias, float *out)
{
    for (int32_t i = 0; i < m->panels; i++) {
        const train_panel *p = &m->panel[i];
        switch (p->height) {
        case 8: multiply_panel(8, lanes, p, m->column, values, in, bias, out); break;
        case 4: multiply_panel(4, lanes, p, m->column, values, in, bias, out); break;
        case 2: multiply_panel(2, lanes, p, m->column, values, in, bias, out); break;
        default:
            if (i + 3 < m->panels && alike(p, p + 3)) {
                multiply_four(lanes, p, m->column, values, in, bias, out);
                i += 3;
            } else {
                multiply_panel(1, lanes, p, m->column, values, in, bias, out);
            }
        }
    }
}

/* `lanes`: how many of them count, 16 or TRAIN_LANES; the others may be left as they are. */
static void multiply(const train_matrix *m, const float *values, const float *in, const float *bias, float *out,
                     int32_t lanes)
{
    if (lanes == 16)
        multiply_lanes(16, m, values, in, bias, out);
    else
        multiply_lanes(TRAIN_LANES, m, values, in, bias, out);
}

/* ---- dW += delta in^T at the connections, summed over steps and lanes; four partial sums each ---- */

/* The deltas and inputs of `steps` steps, each `..._step` floats from the one before; 16 or TRAIN_LANES lanes count. */
typedef struct {
    const float *delta, *in;
    ptrdiff_t delta_step, in_step;
    int32_t steps, lanes;
} outer_range;

INLINE void outer_row(const int held, const int vecs, const train_panel *p, const int32_t *column,
                      const float *delta, ptrdiff_t delta_step, const float *in, ptrdiff_t in_step, float *sums)
{
    vec16 d[HELD * LANE_VECS];
    UNROLL for (int k = 0; k < held; k++)
        UNROLL for (int v = 0; v < vecs; v++) d[k * vecs + v] = load16(delta + k * delta_step + 16 * v);
    for (int32_t e = p->first; e < p->end; e++, sums += 4) {
        const float *from = in + column[e];
        vec16 sum[LANE_VECS];
        UNROLL for (int v = 0; v < vecs; v++) sum[v] = mul16(d[v], load16(from + 16 * v));
        UNROLL for (int k = 1; k < held; k++)
        {
            from += in_step;
            UNROLL for (int v = 0; v < vecs; v++) sum[v] = fma16(d[k * vecs + v], load16(from + 16 * v), sum[v]);
        }
        UNROLL for (int v = 1; v < vecs; v++) sum[0] = add16(sum[0], sum[v]);
        add_folded(sums, sum[0]);
    }
}

INLINE void outer_single(const int vecs, const train_panel *p, const int32_t *column, const outer_range *o,
                         float *sums)
{
    const float *delta = o->delta + (size_t)p->row * TRAIN_LANES, *in = o->in;
    int32_t left = o->steps;
#define OUTER_WHILE(held)                                                                                              \
    for (; left >= (held); left -= (held), delta += (held) * o->delta_step, in += (held) * o->in_step)                 \
    outer_row(held, vecs, p, column, delta, o->delta_step, in, o->in_step, sums)
    if (HELD >= 8)
        OUTER_WHILE(8);
    if (HELD >= 4)
        OUTER_WHILE(4);
    OUTER_WHILE(2);
    OUTER_WHILE(1);
#undef OUTER_WHILE
}

/* `rows` rows of a panel against `columns` of its columns. */
INLINE void outer_block(const int rows, const int columns, const int vecs, const int32_t *column, int height,
                        const outer_range *o, const float *delta, float *sums)
{
    vec16 sum[ROWS * 2];
    UNROLL for (int i = 0; i < rows * columns; i++) sum[i] = set16(0.0f);
    const float *in = o->in;
    for (int32_t k = 0; k < o->steps; k++, delta += o->delta_step, in += o->in_step) {
        UNROLL for (int v = 0; v < vecs; v++)
        {
            vec16 x[2];
            UNROLL for (int c = 0; c < columns; c++) x[c] = load16(in + column[c] + 16 * v);
            UNROLL for (int r = 0; r < rows; r++)
            {
                const vec16 d = load16(delta + r * TRAIN_LANES + 16 * v);
                UNROLL for (int c = 0; c < columns; c++) sum[c * rows + r] = fma16(d, x[c], sum[c * rows + r]);
            }
        }
    }
    UNROLL for (int c = 0; c < columns; c++)
        UNROLL for (int r = 0; r < rows; r++) add_folded(sums + 4 * (c * height + r), sum[c * rows + r]);
}

INLINE void outer_panel(const int height, const int vecs, const train_panel *p, const int32_t *column,
                        const outer_range *o, float *sums)
{
    const int rows = height < ROWS ? height : ROWS, columns = 8 * ROWS >= 64 ? 2 : 1;
    for (int r = 0; r < height; r += rows) {
        const float *delta = o->delta + (size_t)(p->row + r) * TRAIN_LANES;
        float *to = sums + 4 * r;
        int32_t e = p->first;
        for (; e + columns <= p->end; e += columns, to += 4 * columns * height)
            outer_block(rows, columns, vecs, column + e, height, o, delta, to);
        for (; e < p->end; e++, to += 4 * height)
            outer_block(rows, 1, vecs, column + e, height, o, delta, to);
    }
}

INLINE void outer_lanes(const int vecs, const train_matrix *m, const outer_range *o, float *sums)
{
    for (int32_t i = 0; i < m->panels; i++) {
        const train_panel *p = &m->panel[i];
        float *to = sums + 4 * (size_t)p->value;
        switch (p->height) {
        case 8: outer_panel(8, vecs, p, m->column, o, to); break;
        case 4: outer_panel(4, vecs, p, m->column, o, to); break;
        case 2: outer_panel(2, vecs, p, m->column, o, to); break;
        default: outer_single(vecs, p, m->column, o, to);
        }
    }
}

static void outer(const train_matrix *m, const outer_range *o, float *sums)
{
    if (o->lanes == 16)
        outer_lanes(1, m, o, sums);
    else
        outer_lanes(LANE_VECS, m, o, sums);
}

/* sums [rows][4] += deltas over steps and lanes. */
static void outer_bias(const outer_range *o, int32_t rows, float *sums)
{
    for (int32_t r = 0; r < rows; r++) {
        vec16 sum = set16(0.0f);
        for (int32_t k = 0; k < o->steps; k++)
            for (int32_t lane = 0; lane < o->lanes; lane += 16)
                sum = add16(sum, load16(o->delta + k * o->delta_step + r * TRAIN_LANES + lane));
        add_folded(sums + 4 * r, sum);
    }
}
