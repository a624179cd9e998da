/* The packed arrays of a network: checked, and copied into aligned memory. Part of _native.c. */

#define MAX_SIZE (1u << 24) /* of any dimension: sums and products of a few stay far from 2^32 */

/* Copies of the caller's arrays, one after another in aligned memory; without memory only their size is added up. */
typedef struct {
    unsigned char *memory;
    size_t size, used;
} Arena;

/* The array owner.name: `count` items of struct's `format` (-1: any number, returned in *count). NULL: the error is set,
 * naming `of`, which says who the owner is. */
static const void *take(Arena *arena, PyObject *owner, const char *of, const char *name, char format, Py_ssize_t *count)
{
    char what[64];
    PyOS_snprintf(what, sizeof what, "%s.%s", of, name);
    Py_buffer view;
    PyObject *array = PyObject_GetAttrString(owner, name);
    const int fault = !array || one_axis(array, format, what, &view) < 0;
    Py_XDECREF(array);
    if (fault)
        return NULL;
    const Py_ssize_t items = view.len / view.itemsize;
    const size_t length = ((size_t)view.len + ALIGNMENT - 1u) & ~(size_t)(ALIGNMENT - 1u);
    const void *at = arena->memory ? (const void *)(arena->memory + arena->used) : (const void *)"";
    if (*count >= 0 && items != *count) {
        PyErr_Format(PyExc_ValueError, "%s has %zd items, expected %zd", what, items, *count);
        at = NULL;
    } else if (arena->memory && length > arena->size - arena->used) {
        PyErr_Format(PyExc_ValueError, "%s changed its size while it was read", what);
        at = NULL;
    } else if (arena->memory && view.len) {
        memcpy(arena->memory + arena->used, view.buf, (size_t)view.len);
    }
    *count = items;
    arena->used += length;
    PyBuffer_Release(&view);
    return at;
}

/* The whole number owner.name, from `low` to `high`. */
static int take_size(PyObject *owner, const char *of, const char *name, uint32_t low, uint32_t high, uint32_t *to)
{
    PyObject *value = PyObject_GetAttrString(owner, name);
    const long long given = value ? PyLong_AsLongLong(value) : -1;
    Py_XDECREF(value);
    if (PyErr_Occurred())
        return -1;
    if (given < (long long)low || given > (long long)high) {
        PyErr_Format(PyExc_ValueError, "%s.%s is %lld, expected %u to %u", of, name, given, low, high);
        return -1;
    }
    *to = (uint32_t)given;
    return 0;
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
    if (!height || (uint64_t)m->panels * height != rows || m->start[0] != 0 || m->offset > inputs)
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
        const uint64_t width = m->layout == MAST_DENSE ? m->start[i + 1] - m->start[i] : 1u;
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

/* The matrix owner.name (PackedMatrix) of `rows` padded rows; None, where `optional`, for none. */
static int take_matrix(Arena *arena, PyObject *owner, const char *name, int optional, mast_matrix *m, uint32_t rows,
                       uint32_t inputs)
{
    memset(m, 0, sizeof *m);
    PyObject *const given = PyObject_GetAttrString(owner, name);
    if (!given || (optional && given == Py_None)) {
        Py_XDECREF(given);
        return given ? 0 : -1;
    }
    Py_ssize_t n_start = -1;
    Sizes found = {-1, -1, -1, -1};
    const void *weights = NULL;
    const int taken = take_size(given, name, "layout", 0, MAST_LAYOUTS - 1, &m->layout) == 0
                      && take_size(given, name, "offset", 0, MAX_SIZE, &m->offset) == 0
                      && (m->start = take(arena, given, name, "start", 'I', &n_start))
                      && (m->columns = take(arena, given, name, "columns", 'H', &found.columns))
                      && (m->rows = take(arena, given, name, "rows", 'H', &found.rows))
                      && (m->picks = take(arena, given, name, "picks", 'B', &found.picks))
                      && (weights = take(arena, given, name, "values", has_halves(m->layout) ? 'H' : 'f', &found.values));
    Py_DECREF(given);
    if (!taken)
        return -1;
    if (has_halves(m->layout))
        m->halves = weights;
    else
        m->values = weights;
    m->panels = n_start > 1 ? (uint32_t)n_start - 1u : 0u;
    if (n_start < 2 || n_start > (Py_ssize_t)MAX_SIZE || (arena->memory && !matrix_valid(m, rows, inputs, found))) {
        PyErr_Format(PyExc_ValueError, "%s is a matrix whose parts do not fit together", name);
        return -1;
    }
    return 0;
}

/* Everything of a PackedNetwork but its level and lanes. */
static int take_network(Arena *arena, mast_network *n, PyObject *packed)
{
    static const char of[] = "network";
    if (take_size(packed, of, "obs", 1, MAX_SIZE, &n->obs) < 0
        || take_size(packed, of, "actions", 1, MAX_SIZE, &n->actions) < 0
        || take_size(packed, of, "agents", 1, MAX_SIZE, &n->agents) < 0
        || take_size(packed, of, "last_action", 0, 1, &n->last_action) < 0
        || take_size(packed, of, "agent_id", 0, 1, &n->agent_id) < 0
        || take_size(packed, of, "fc1_size", 1, MAX_SIZE, &n->fc1_size) < 0
        || take_size(packed, of, "hidden", 1, MAX_SIZE, &n->hidden) < 0
        || take_size(packed, of, "recurrent", 0, 1, &n->recurrent) < 0)
        return -1;
    Py_ssize_t n_low = n->obs, n_high = n->obs;
    if (!(n->low = take(arena, packed, of, "low", 'f', &n_low)) || !(n->high = take(arena, packed, of, "high", 'f', &n_high)))
        return -1;
    const uint32_t hidden = MAST_PAD(n->hidden), y = MAST_PAD(n->fc1_size), actions = MAST_PAD(n->actions);
    const uint32_t rows = n->recurrent ? 4 * hidden : hidden, inputs = n->recurrent ? y + hidden : y;
    Py_ssize_t n_fc1 = y, n_gru = rows, n_fc2 = actions;
    if (take_matrix(arena, packed, "fc1", 0, &n->fc1, y, mast_inputs(n)) < 0
        || !(n->fc1_bias = take(arena, packed, of, "fc1_bias", 'f', &n_fc1))
        || take_matrix(arena, packed, "gru", 0, &n->gru[0], rows, inputs) < 0
        || take_matrix(arena, packed, "gru_rest", 1, &n->gru[1], rows, inputs) < 0
        || !(n->gru_bias = take(arena, packed, of, "gru_bias", 'f', &n_gru))
        || take_matrix(arena, packed, "fc2", 0, &n->fc2, actions, hidden) < 0
        || !(n->fc2_bias = take(arena, packed, of, "fc2_bias", 'f', &n_fc2)))
        return -1;
    return 0;
}
