/* A search for continuous actions, as an agent or a team keeps it. Part of _native.c. */

/* Copied from a native.Searching; n agents, of which i searches by the units of network owner[i] over its sizes[i]
 * components. */
typedef struct {
    mast_search table;
    uint32_t *owner, *sizes;
    double *work, *found;
    size_t numbers; /* that a decision of all agents goes through */
    void *memory[4]; /* of the table's arrays */
} Searching;

static void searching_free(Searching *s)
{
    if (!s)
        return;
    for (int i = 0; i < 4; i++)
        release(s->memory[i]);
    release(s->owner), release(s->sizes), release(s->work), release(s->found), release(s);
}

/* A copy of `count` items of struct's `format` from one axis; SIZE_MAX: as many as there are. NULL: the error is set. */
static void *copied(PyObject *given, const char *name, char format, size_t *count)
{
    Py_buffer view;
    PyObject *array = PyObject_GetAttrString(given, name);
    const int fault = !array || one_axis(array, format, name, &view) < 0;
    Py_XDECREF(array);
    if (fault)
        return NULL;
    const size_t items = (size_t)view.len / item_size(format);
    void *copy = NULL;
    if (*count != SIZE_MAX && items != *count)
        PyErr_Format(PyExc_ValueError, "%s has %zu items, expected %zu", name, items, *count);
    else if ((copy = allocate((size_t)view.len)) != NULL)
        memcpy(copy, view.buf, (size_t)view.len);
    *count = items;
    PyBuffer_Release(&view);
    return copy;
}

/* noise [iterations][candidates][actions] float32, turned and padded. */
static int take_noise(Searching *s, PyObject *given)
{
    mast_search *const t = &s->table;
    size_t count = (size_t)t->iterations * t->candidates * t->actions;
    float *const from = copied(given, "noise", 'f', &count);
    double *const to = from ? allocate((size_t)t->iterations * t->actions * t->padded * sizeof(double)) : NULL;
    for (uint32_t i = 0; to && i < t->iterations; i++)
        for (uint32_t j = 0; j < t->candidates; j++)
            for (uint32_t k = 0; k < t->actions; k++)
                to[((size_t)i * t->actions + k) * t->padded + j] =
                    (double)from[((size_t)i * t->candidates + j) * t->actions + k];
    int finite = 1;
    for (size_t i = 0; to && i < count; i++)
        finite &= from[i] - from[i] == 0.0f;
    release(from);
    t->noise = s->memory[0] = to;
    return to && finite ? 0 : -1;
}

/* Units and weights of every network, whose outputs are `width`. */
static int take_units(Searching *s, PyObject *given, uint32_t width)
{
    mast_search *const t = &s->table;
    size_t networks = SIZE_MAX, units = SIZE_MAX, weights;
    if (!(t->first = s->memory[1] = copied(given, "first", 'I', &networks))
        || !(t->units = s->memory[2] = copied(given, "units", 'I', &units)))
        return -1;
    weights = units * ((size_t)t->actions + 1);
    if (!(t->weights = s->memory[3] = copied(given, "weights", 'd', &weights)))
        return -1;
    int fits = networks > 0 && t->first[0] == 0 && t->first[networks - 1] == units;
    for (size_t i = 1; i < networks; i++)
        fits &= t->first[i - 1] <= t->first[i];
    for (size_t i = 0; i < units; i++)
        fits &= t->units[i] < width;
    for (size_t i = 0; i < weights; i++)
        fits &= t->weights[i] - t->weights[i] == 0.0; /* finite */
    return fits ? (int)networks - 1 : -1;
}

/* What a search of all n agents goes through, in numbers: units for every candidate, and the heap of the elites, a level of
 * which takes as long as LEVEL numbers that are read in order. */
static size_t searching_work(const Searching *s, Py_ssize_t n)
{
    enum { LEVEL = 32 };
    const mast_search *const t = &s->table;
    size_t numbers = 0, levels = 1;
    for (uint32_t elites = t->elites; elites > 1; elites /= 2)
        levels++;
    for (Py_ssize_t i = 0; i < n; i++) {
        const uint32_t *const first = t->first + s->owner[i];
        numbers += (size_t)t->padded * (first[1] - first[0]) * (t->actions + 1) + t->elites * levels * LEVEL;
    }
    return numbers * t->iterations;
}

/* A native.Searching for n agents whose networks have `width` outputs. NULL: the error is set. */
static Searching *searching_new(PyObject *given, Py_ssize_t n, uint32_t width)
{
    Searching *s = allocate(sizeof *s);
    mast_search *const t = s ? &s->table : NULL;
    const uint32_t most = 1u << 20; /* mast_runtime.head.MAX_WORK */
    if (!s || take_size(given, "searching", "actions", 1, most, &t->actions) < 0
        || take_size(given, "searching", "iterations", 1, most, &t->iterations) < 0
        || take_size(given, "searching", "candidates", 2, most, &t->candidates) < 0
        || take_size(given, "searching", "elites", 1, t->candidates, &t->elites) < 0)
        goto refused;
    if ((uint64_t)t->iterations * t->candidates > most / t->actions) {
        PyErr_SetString(PyExc_ValueError, "a search of too much work");
        goto refused;
    }
    const uint32_t whole = 16; /* the longest SEARCH_STEP */
    t->padded = (t->candidates + whole - 1) / whole * whole;
    t->grid = 0x1p-20;
    size_t agents = (size_t)n;
    const int networks = take_noise(s, given) < 0 ? -1 : take_units(s, given, width);
    if (networks < 0 || !(s->owner = copied(given, "owner", 'I', &agents))
        || !(s->sizes = copied(given, "sizes", 'I', &agents))
        || !(s->work = allocate(mast_search_doubles(t) * sizeof(double)))
        || !(s->found = allocate(t->actions * sizeof(double))))
        goto refused;
    for (Py_ssize_t i = 0; i < n; i++)
        if (s->owner[i] >= (uint32_t)networks || s->sizes[i] < 1 || s->sizes[i] > t->actions)
            goto refused;
    s->numbers = searching_work(s, n);
    return s;
refused:
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "a search that does not fit the networks");
    searching_free(s);
    return NULL;
}
