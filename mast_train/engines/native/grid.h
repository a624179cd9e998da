/* The connections of a matrix, gathered from masks: what panels.c makes panels of. */
#ifndef MAST_TRAIN_GRID_H
#define MAST_TRAIN_GRID_H
#include "panels.h"

#include <stdlib.h>

/* A connection's column, and where its value is in its layer's weights. */
typedef struct {
    int32_t column, position;
} cell;

/* A matrix's connections row by row, columns ascending. Panels stay inside a segment of rows. */
typedef struct {
    int32_t rows, columns, segment;
    int32_t *start; /* [rows + 1] */
    cell *cells;
} grid;

static int grid_alloc(grid *g, int32_t rows, int32_t columns, int32_t segment, size_t cells)
{
    *g = (grid){rows, columns, segment, calloc((size_t)rows + 1, sizeof(int32_t)), malloc((cells + 1) * sizeof(cell))};
    return g->start && g->cells;
}

static void grid_free(grid *g)
{
    free(g->start);
    free(g->cells);
}

/* Parts of the same rows come in the order of their columns. */
static int grid_make(grid *g, int32_t rows, int32_t columns, int32_t segment, const train_part *part, int parts)
{
    size_t count = 0;
    for (const train_part *p = part; p < part + parts; p++)
        for (size_t i = 0, cells = (size_t)p->rows * (size_t)p->columns; i < cells; i++)
            count += !p->mask || p->mask[i];
    if (!grid_alloc(g, rows, columns, segment, count))
        return 0;
    cell *next = g->cells;
    for (int32_t r = 0; r < rows; r++) {
        for (const train_part *p = part; p < part + parts; p++) {
            const int32_t own = r - p->row;
            if (own < 0 || own >= p->rows)
                continue;
            const uint8_t *mask = p->mask ? p->mask + (size_t)own * (size_t)p->columns : NULL;
            for (int32_t c = 0; c < p->columns; c++) {
                *next = (cell){p->column + c, p->position + own * p->columns + c};
                next += !mask || mask[c];
            }
        }
        g->start[r + 1] = (int32_t)(next - g->cells);
    }
    return 1;
}

static int grid_transpose(const grid *g, grid *to)
{
    const int32_t count = g->start[g->rows];
    if (!grid_alloc(to, g->columns, g->rows, g->columns, (size_t)count))
        return 0;
    for (int32_t i = 0; i < count; i++)
        to->start[g->cells[i].column + 1]++;
    for (int32_t c = 0; c < g->columns; c++)
        to->start[c + 1] += to->start[c];
    for (int32_t r = 0; r < g->rows; r++)
        for (int32_t i = g->start[r]; i < g->start[r + 1]; i++)
            to->cells[to->start[g->cells[i].column]++] = (cell){r, g->cells[i].position};
    for (int32_t c = g->columns; c > 0; c--)
        to->start[c] = to->start[c - 1];
    to->start[0] = 0;
    return 1;
}
#endif
