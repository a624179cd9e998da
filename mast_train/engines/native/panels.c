/* From masks to panels, whenever connections change. */
#include "panels.h"

#include "grid.h"

#include <stdlib.h>

/* Measured time of one column of a panel by its height, in units of an eighth of a dense panel's. */
static const float COST[TRAIN_PANEL + 1] = {[1] = 2.2f, [2] = 3.0f, [4] = 4.6f, [8] = 8.0f};

/* The columns that a panel's rows from `row` on use, one entry each: one bit a row. seen [columns] is 0 between
 * calls. */
typedef struct {
    int32_t row, end, used;
    int32_t *column;
    uint8_t *rows, *seen;
} usage;

static void find_usage(const grid *g, int32_t row, int32_t end, usage *u)
{
    u->row = row;
    u->end = end;
    u->used = 0;
    for (int32_t r = row; r < row + TRAIN_PANEL && r < end; r++)
        for (int32_t i = g->start[r]; i < g->start[r + 1]; i++) {
            const int32_t column = g->cells[i].column;
            u->column[u->used] = column;
            u->used += !u->seen[column];
            u->seen[column] |= (uint8_t)(1 << (r - row));
        }
    for (int32_t k = 0; k < u->used; k++) {
        u->rows[k] = u->seen[u->column[k]];
        u->seen[u->column[k]] = 0;
    }
}

/* Columns that any of the rows first to first + height uses. */
static int32_t count(const usage *u, int32_t first, int32_t height)
{
    const uint8_t bits = (uint8_t)(((1 << height) - 1) << first);
    int32_t sum = 0;
    for (int32_t k = 0; k < u->used; k++)
        sum += (u->rows[k] & bits) != 0;
    return sum;
}

/* The least cost of these rows, cut off at u->end, as one panel or as two halves. */
static float least(const usage *u, int32_t first, int32_t height)
{
    if (u->row + first >= u->end)
        return 0.0f;
    const float whole = (float)count(u, first, height) * COST[height];
    if (height == 1)
        return whole;
    const float halves = least(u, first, height / 2) + least(u, first + height / 2, height / 2);
    return u->row + first + height <= u->end && whole < halves ? whole : halves;
}

/* Panels of `least`, without their columns: counted, and written where m->panel is given. */
static void split(const usage *u, int32_t first, int32_t height, train_matrix *m)
{
    const int32_t row = u->row + first;
    if (row >= u->end)
        return;
    const int32_t columns = count(u, first, height);
    if (row + height > u->end || (height > 1 && (float)columns * COST[height] > least(u, first, height))) {
        split(u, first, height / 2, m);
        split(u, first + height / 2, height / 2, m);
        return;
    }
    if (m->panel)
        m->panel[m->panels] = (train_panel){row, height, 0, columns, 0};
    m->panels++;
    m->columns += columns;
    m->values += columns * height;
}

static void split_all(const grid *g, usage *u, train_matrix *m)
{
    m->panels = m->columns = m->values = 0;
    for (int32_t begin = 0; begin < g->rows; begin += g->segment)
        for (int32_t row = begin; row < begin + g->segment; row += TRAIN_PANEL) {
            find_usage(g, row, begin + g->segment, u);
            split(u, 0, TRAIN_PANEL, m);
        }
}

/* Tall panels first, then long ones: kernels take equal neighbours together, and their loops are predictable. */
static int by_shape(const void *left, const void *right)
{
    const train_panel *a = left, *b = right;
    const int32_t length_a = a->end - a->first, length_b = b->end - b->first;
    if (a->height != b->height)
        return a->height > b->height ? -1 : 1;
    if (length_a != length_b)
        return length_a > length_b ? -1 : 1;
    return a->row < b->row ? -1 : 1;
}

/* Columns and positions of the panels, in their order. From here on a cell's position is that of its value. */
static void fill(grid *g, train_matrix *m)
{
    int32_t column = 0, value = 0;
    for (train_panel *p = m->panel; p < m->panel + m->panels; p++) {
        cell *next[TRAIN_PANEL], *end[TRAIN_PANEL];
        for (int32_t r = 0; r < p->height; r++) {
            next[r] = g->cells + g->start[p->row + r];
            end[r] = g->cells + g->start[p->row + r + 1];
        }
        p->end += column;
        p->first = column;
        p->value = value;
        while (column < p->end) {
            int32_t least = INT32_MAX;
            for (int32_t r = 0; r < p->height; r++)
                least = next[r] < end[r] && next[r]->column < least ? next[r]->column : least;
            for (int32_t r = 0; r < p->height; r++, value++) {
                m->position[value] = -1;
                if (next[r] < end[r] && next[r]->column == least) {
                    m->position[value] = next[r]->position;
                    (next[r]++)->position = value;
                }
            }
            m->column[column++] = least * TRAIN_LANES;
        }
    }
}

static int make_matrix(grid *g, train_matrix *m)
{
    const size_t columns = (size_t)g->columns + 1;
    usage u = {0, 0, 0, malloc(columns * sizeof(int32_t)), malloc(columns), calloc(columns, 1)};
    int made = u.column && u.rows && u.seen;
    if (made) {
        split_all(g, &u, m);
        m->panel = malloc(((size_t)m->panels + 1) * sizeof(train_panel));
        m->column = malloc(((size_t)m->columns + 1) * sizeof(int32_t));
        m->position = malloc(((size_t)m->values + 1) * sizeof(int32_t));
        made = m->panel && m->column && m->position;
    }
    if (made) {
        split_all(g, &u, m);
        qsort(m->panel, (size_t)m->panels, sizeof(train_panel), by_shape);
        fill(g, m);
    }
    free(u.column);
    free(u.rows);
    free(u.seen);
    return made;
}

/* The transpose; its positions count through the values of the matrix that g became. */
static int make_back(const grid *g, train_matrix *m)
{
    grid turned;
    const int made = grid_transpose(g, &turned) && make_matrix(&turned, m);
    grid_free(&turned);
    return made;
}

int train_matrix_join(int32_t rows, int32_t columns, int32_t segment, const train_part *part, int parts,
                      train_matrix *matrix, train_matrix *back)
{
    grid g;
    const int made = grid_make(&g, rows, columns, segment, part, parts) && make_matrix(&g, matrix)
                     && (!back || make_back(&g, back));
    grid_free(&g);
    return made;
}

int train_matrix_build(const uint8_t *mask, int32_t rows, int32_t columns, train_matrix *matrix, train_matrix *back)
{
    const train_part whole = {mask, rows, columns, 0, 0, 0};
    return train_matrix_join(rows, columns, rows, &whole, 1, matrix, back);
}

void train_matrix_free(train_matrix *matrix)
{
    free(matrix->panel);
    free(matrix->column);
    free(matrix->position);
}

void train_scatter(const train_matrix *m, const float *values, float *weight, float *rest, int32_t split)
{
    for (int32_t i = 0; i < m->values; i++) {
        const int32_t p = m->position[i];
        if (p >= 0)
            *(p < split ? weight + p : rest + (p - split)) = values[i];
    }
}
