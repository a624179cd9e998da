/* From masks to panels: once per topology. */
#include "train.h"

#include <stdlib.h>

/* Measured time of one column of a panel by its height, in units of an eighth of a dense panel's. */
static const float COST[TRAIN_PANEL + 1] = {[1] = 2.2f, [2] = 3.0f, [4] = 4.6f, [8] = 8.0f};

/* Positions of a matrix's connections, -1 where there is none. Panels stay inside a segment of rows. */
typedef struct {
    int32_t rows, columns, segment;
    int32_t *cell;
} grid;

static int grid_make(grid *g, int32_t rows, int32_t columns, int32_t segment)
{
    const size_t cells = (size_t)rows * (size_t)columns;
    *g = (grid){rows, columns, segment, malloc((cells ? cells : 1) * sizeof(int32_t))};
    for (size_t i = 0; g->cell && i < cells; i++)
        g->cell[i] = -1;
    return g->cell != NULL;
}

/* mask [rows, columns] (NULL: full) goes to row + ..., column + ... of the grid; positions count from `position`. */
static void grid_put(grid *g, const uint8_t *mask, int32_t rows, int32_t columns, int32_t row, int32_t column,
                     int32_t position)
{
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < columns; c++)
            if (!mask || mask[(size_t)r * (size_t)columns + (size_t)c])
                g->cell[(size_t)(row + r) * (size_t)g->columns + (size_t)(column + c)] = position + r * columns + c;
}

static int grid_transpose(const grid *g, grid *to)
{
    if (!grid_make(to, g->columns, g->rows, g->columns))
        return 0;
    for (int32_t r = 0; r < g->rows; r++)
        for (int32_t c = 0; c < g->columns; c++)
            to->cell[(size_t)c * (size_t)g->rows + (size_t)r] = g->cell[(size_t)r * (size_t)g->columns + (size_t)c];
    return 1;
}

/* Does any of these rows use the column? */
static int used(const grid *g, int32_t row, int32_t height, int32_t column)
{
    for (int32_t r = row; r < row + height; r++)
        if (g->cell[(size_t)r * (size_t)g->columns + (size_t)column] >= 0)
            return 1;
    return 0;
}

static float together(const grid *g, int32_t row, int32_t height)
{
    int32_t count = 0;
    for (int32_t c = 0; c < g->columns; c++)
        count += used(g, row, height, c);
    return (float)count * COST[height];
}

/* The least cost of rows row to row + height, cut off at `end`, as one panel or as two halves. */
static float least(const grid *g, int32_t row, int32_t height, int32_t end)
{
    if (row >= end)
        return 0.0f;
    if (height == 1)
        return together(g, row, 1);
    const float halves = least(g, row, height / 2, end) + least(g, row + height / 2, height / 2, end);
    const float whole = row + height <= end ? together(g, row, height) : halves;
    return whole < halves ? whole : halves;
}

/* Panels of `least`: counted, and written where m->panel is given. */
static void split(const grid *g, int32_t row, int32_t height, int32_t end, train_matrix *m)
{
    if (row >= end)
        return;
    if (row + height > end || (height > 1 && together(g, row, height) > least(g, row, height, end))) {
        split(g, row, height / 2, end, m);
        split(g, row + height / 2, height / 2, end, m);
        return;
    }
    const int32_t first = m->columns, value = m->values;
    for (int32_t c = 0; c < g->columns; c++) {
        if (!used(g, row, height, c))
            continue;
        if (m->panel) {
            m->column[m->columns] = c * TRAIN_LANES;
            for (int32_t r = 0; r < height; r++)
                m->position[m->values + r] = g->cell[(size_t)(row + r) * (size_t)g->columns + (size_t)c];
        }
        m->columns++;
        m->values += height;
    }
    if (m->panel)
        m->panel[m->panels] = (train_panel){row, height, first, m->columns, value};
    m->panels++;
}

static void split_all(const grid *g, train_matrix *m)
{
    m->panels = m->columns = m->values = 0;
    for (int32_t begin = 0; begin < g->rows; begin += g->segment)
        for (int32_t row = begin; row < begin + g->segment; row += TRAIN_PANEL)
            split(g, row, TRAIN_PANEL, begin + g->segment, m);
}

/* Tall panels first, then long ones: runs of equal loops are what branch predictors learn. */
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

static int make_matrix(const grid *g, train_matrix *m)
{
    split_all(g, m);
    const size_t panels = (size_t)m->panels, columns = (size_t)m->columns, values = (size_t)m->values;
    m->panel = malloc((panels + 1) * sizeof(train_panel));
    m->column = malloc((columns + 1) * sizeof(int32_t));
    m->position = malloc((values + 1) * sizeof(int32_t));
    if (!m->panel || !m->column || !m->position)
        return 0;
    split_all(g, m);
    qsort(m->panel, panels, sizeof(train_panel), by_shape);
    return 1;
}

static int make_back(const grid *g, train_matrix *m)
{
    grid turned;
    const int made = grid_transpose(g, &turned) && make_matrix(&turned, m);
    free(turned.cell);
    return made;
}

static int make_topology(train_topology *t, int32_t inputs, int32_t h, int32_t actions, const uint8_t *const mask[4])
{
    grid fc1, gru, fc2;
    int made = grid_make(&fc1, h, inputs, h);
    made &= grid_make(&gru, 4 * h, 2 * h, h);
    made &= grid_make(&fc2, actions, h, actions);
    if (made) {
        const int32_t square = h * h;
        grid_put(&fc1, mask[FC1_WEIGHT], h, inputs, 0, 0, 0);
        grid_put(&gru, mask[WEIGHT_IH], 3 * h, h, 0, 0, 0);
        grid_put(&gru, mask[WEIGHT_HH], 2 * h, h, 0, h, 3 * square);
        grid_put(&gru, mask[WEIGHT_HH] ? mask[WEIGHT_HH] + 2 * (size_t)square : NULL, h, h, 3 * h, h, 5 * square);
        grid_put(&fc2, mask[FC2_WEIGHT], actions, h, 0, 0, 0);
        made = make_matrix(&fc1, &t->fc1) && make_matrix(&gru, &t->gru) && make_matrix(&fc2, &t->fc2)
               && make_back(&gru, &t->gru_back) && make_back(&fc2, &t->fc2_back);
    }
    free(fc1.cell);
    free(gru.cell);
    free(fc2.cell);
    return made;
}

train_network *train_build(int32_t groups, int32_t inputs, int32_t hidden, int32_t actions, const uint8_t *const mask[4])
{
    const int32_t topologies = mask[0] ? groups : 1;
    const size_t size[4] = {(size_t)hidden * (size_t)inputs, 3 * (size_t)hidden * (size_t)hidden,
                            3 * (size_t)hidden * (size_t)hidden, (size_t)actions * (size_t)hidden};
    train_network *n = calloc(1, sizeof(train_network) + (size_t)topologies * sizeof(train_topology));
    if (!n)
        return NULL;
    n->topologies = topologies;
    n->inputs = inputs;
    n->hidden = hidden;
    n->actions = actions;
    for (int32_t g = 0; g < topologies; g++) {
        const uint8_t *own[4];
        for (int i = 0; i < 4; i++)
            own[i] = mask[i] ? mask[i] + (size_t)g * size[i] : NULL;
        if (!make_topology(&n->topology[g], inputs, hidden, actions, own)) {
            train_free(n);
            return NULL;
        }
    }
    return n;
}

void train_free(train_network *network)
{
    for (int32_t g = 0; g < network->topologies; g++) {
        train_topology *t = &network->topology[g];
        train_matrix *matrix[] = {&t->fc1, &t->gru, &t->fc2, &t->gru_back, &t->fc2_back};
        for (size_t i = 0; i < sizeof matrix / sizeof *matrix; i++) {
            free(matrix[i]->panel);
            free(matrix[i]->column);
            free(matrix[i]->position);
        }
    }
    free(network);
}

/* Forward: packed weights, biases of the GRU, two records, q. Backward: packed weights, per step of a chunk the deltas
 * of the gates, of y and the state, of q, then four partial sums of each gradient. */
size_t train_work_size(const train_call *call)
{
    const train_network *n = call->network;
    size_t most = 0;
    for (int32_t g = 0; g < call->groups; g++) {
        const train_topology *t = train_topology_of(n, g);
        const size_t h = (size_t)n->hidden, a = (size_t)n->actions;
        size_t forward = (size_t)t->fc1.values + (size_t)t->gru.values + (size_t)t->fc2.values + 4 * h;
        forward += 2 * train_record(n) + a * TRAIN_LANES;
        size_t backward = (size_t)t->gru_back.values + (size_t)t->fc2_back.values;
        backward += (size_t)train_chunk(n) * (6 * h + a) * TRAIN_LANES;
        backward += call->gradients ? 4 * train_gradient_size(n, train_topology_of(call->gradients, g)) : 0;
        most = most > forward ? most : forward;
        most = most > backward ? most : backward;
    }
    return most + 8 * 16; /* each part begins on a cache line */
}
