/* The packed arrays of a network: checked, and copied into aligned memory. Part of _native.c. */

/* Copies of the caller's arrays, one after another in aligned memory. */
typedef struct {
    unsigned char *next;
    size_t used;
} Arena;

/* The next argument array, `count` items of `size` bytes (-1: any number, returned in *count). NULL: error set. With
 * an arena without memory only the size is added up. */
static const void *take(Arena *arena, PyObject *object, size_t size, Py_ssize_t *count)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    const size_t length = ((size_t)view.len + ALIGNMENT - 1u) & ~(size_t)(ALIGNMENT - 1u);
    const void *at = arena->next ? (const void *)(arena->next + arena->used) : (const void *)"";
    if (view.len % (Py_ssize_t)size || (*count >= 0 && view.len != *count * (Py_ssize_t)size)) {
        PyErr_SetString(PyExc_ValueError, "an array of another size than the network says");
        at = NULL;
    } else if (arena->next && view.len) {
        memcpy(arena->next + arena->used, view.buf, (size_t)view.len);
    }
    *count = view.len / (Py_ssize_t)size;
    arena->used += length;
    PyBuffer_Release(&view);
    return at;
}

static uint32_t panel_rows(uint32_t layout)
{
    static const uint8_t rows[] = {16, 8, 8, 8, 16, 8, 16, 16};
    return layout < sizeof rows ? rows[layout] : 0;
}

static int has_halves(uint32_t layout) { return layout == MAST_HALVES8 || layout == MAST_HALVES16; }

/* How many items each array of a matrix must have. */
typedef struct {
    Py_ssize_t columns, rows, picks, values;
} Sizes;

/* Is every index of the matrix within `inputs` and `rows`, every array as long as the layout says? */
static int matrix_valid(const mast_matrix *m, uint32_t rows, uint32_t inputs, Sizes found)
{
    const uint32_t height = panel_rows(m->layout);
    if (!height || m->panels * height != rows || m->start[0] != 0 || m->offset > inputs)
        return 0;
    for (uint32_t p = 0; p < m->panels; p++)
        if (m->start[p] > m->start[p + 1])
            return 0;
    const Py_ssize_t entries = m->start[m->panels];
    const int slices = m->layout == MAST_SLICES || m->layout == MAST_LANE_SLICES;
    const Sizes expected = {m->layout == MAST_DENSE ? m->panels : slices ? 8 * entries : entries,
                            slices ? rows : 0, m->layout == MAST_PERMUTED ? 16 * entries : 0,
                            entries * (Py_ssize_t)height};
    if (memcmp(&found, &expected, sizeof found) != 0)
        return 0;
    for (Py_ssize_t i = 0; i < found.columns; i++) {
        const uint32_t width = m->layout == MAST_DENSE ? m->start[i + 1] - m->start[i] : 1u;
        if (m->offset + m->columns[i] + width > inputs)
            return 0;
    }
    for (Py_ssize_t i = 0; i < found.rows; i++)
        if (m->rows[i] >= rows || (m->layout == MAST_LANE_SLICES && m->rows[i] / MAST_WINDOW != i / MAST_WINDOW))
            return 0;
    for (Py_ssize_t i = 0; i < found.picks; i++)
        if (m->picks[i] >= 32 || m->offset + m->columns[i / 16] + m->picks[i] >= inputs)
            return 0;
    return 1;
}

/* (layout, offset, start, columns, rows, picks, values) for a matrix of `rows` padded rows; () for none. */
static int take_matrix(Arena *arena, PyObject *tuple, mast_matrix *m, uint32_t rows, uint32_t inputs)
{
    memset(m, 0, sizeof *m);
    if (PyTuple_Size(tuple) == 0)
        return 0;
    unsigned int layout, offset;
    PyObject *start, *columns, *row, *picks, *values;
    const void *weights;
    if (!PyArg_ParseTuple(tuple, "IIOOOOO", &layout, &offset, &start, &columns, &row, &picks, &values))
        return -1;
    Py_ssize_t n_start = -1;
    Sizes found = {-1, -1, -1, -1};
    m->layout = layout;
    m->offset = offset;
    if (!(m->start = take(arena, start, sizeof(uint32_t), &n_start))
        || !(m->columns = take(arena, columns, sizeof(uint16_t), &found.columns))
        || !(m->rows = take(arena, row, sizeof(uint16_t), &found.rows))
        || !(m->picks = take(arena, picks, 1, &found.picks))
        || !(weights = take(arena, values, has_halves(layout) ? sizeof(uint16_t) : sizeof(float), &found.values)))
        return -1;
    if (has_halves(layout))
        m->halves = weights;
    else
        m->values = weights;
    m->panels = n_start > 1 ? (uint32_t)n_start - 1u : 0u;
    if (n_start < 2 || (arena->next && !matrix_valid(m, rows, inputs, found))) {
        PyErr_SetString(PyExc_ValueError, "a matrix whose parts do not fit together");
        return -1;
    }
    return 0;
}

static int take_network(Arena *arena, mast_network *n, PyObject *biases, PyObject *matrices)
{
    PyObject *fc1_bias, *gru_bias, *fc2_bias, *fc1, *gru, *more, *fc2;
    if (!PyArg_ParseTuple(biases, "OOO", &fc1_bias, &gru_bias, &fc2_bias)
        || !PyArg_ParseTuple(matrices, "OOOO", &fc1, &gru, &more, &fc2))
        return -1;
    const uint32_t hidden = MAST_PAD(n->hidden), y = MAST_PAD(n->fc1_size), actions = MAST_PAD(n->actions);
    Py_ssize_t n_fc1 = y, n_gru = 4 * (Py_ssize_t)hidden, n_fc2 = actions;
    if (take_matrix(arena, fc1, &n->fc1, y, mast_inputs(n)) < 0
        || !(n->fc1_bias = take(arena, fc1_bias, sizeof(float), &n_fc1))
        || take_matrix(arena, gru, &n->gru[0], 4 * hidden, y + hidden) < 0
        || take_matrix(arena, more, &n->gru[1], 4 * hidden, y + hidden) < 0
        || !(n->gru_bias = take(arena, gru_bias, sizeof(float), &n_gru))
        || take_matrix(arena, fc2, &n->fc2, actions, hidden) < 0
        || !(n->fc2_bias = take(arena, fc2_bias, sizeof(float), &n_fc2)))
        return -1;
    return 0;
}
