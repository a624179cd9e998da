/* The arrays that a player's continuous actions go through. Part of _native.c. */

/* Bound once and held as long as the player: a decision reads them while Python and other threads run. last [n][actions] in
 * [-1, 1] and out [size] in their units are written, bounds [5][size] is what mast_kernels.squash reads. searching: NULL
 * where outputs are squashed. */
typedef struct {
    Py_buffer last, bounds, out;
    Searching *searching;
    uint32_t more; /* actions, where a network's last inputs are last's, else 0 */
} Bound;

static void unbind(Bound *bound)
{
    PyBuffer_Release(&bound->last), PyBuffer_Release(&bound->bounds), PyBuffer_Release(&bound->out);
    searching_free(bound->searching);
    memset(bound, 0, sizeof *bound);
}

/* A writable buffer of floats [columns]. 0: something else, no error set. */
static int writable_floats(PyObject *object, Py_buffer *view, Py_ssize_t columns)
{
    if (!plain_buffer(object, view, 'f', 1, 0, columns))
        return 0;
    if (!view->readonly)
        return 1;
    PyBuffer_Release(view);
    return 0;
}

/* -1: there are arrays already, and the error is set. */
static int check_unbound(const Bound *bound)
{
    if (bound->out.buf)
        PyErr_SetString(PyExc_ValueError, "bind() a second time; make a new agent or team for other arrays");
    return bound->out.buf ? -1 : 0;
}

/* bind(last [n actions], bounds [5 size], out [size], joins, searching) of n agents, whose networks see `obs` and have
 * `outputs`: an action has as many components, or those that are searched for. size is n actions, or, for a single agent,
 * from 1 on. */
static PyObject *bind_arrays(Bound *bound, PyObject *args, Py_ssize_t n, uint32_t obs, uint32_t outputs)
{
    PyObject *last, *bounds, *out, *search;
    int joins;
    if (check_unbound(bound) < 0)
        return NULL;
    if (!PyArg_ParseTuple(args, "OOOpO", &last, &bounds, &out, &joins, &search))
        return NULL;
    Searching *const searching = search == Py_None ? NULL : searching_new(search, n, outputs);
    const Py_ssize_t size = PyObject_Size(out);
    if (size < 0 || (search != Py_None && !searching)) {
        searching_free(searching);
        return NULL;
    }
    const uint32_t actions = searching ? searching->table.actions : outputs;
    const Py_ssize_t all = n * (Py_ssize_t)actions;
    Bound taken = {.searching = searching, .more = joins ? actions : 0};
    const int fits = (!joins || actions < obs) && size >= 1 && size <= all && (size == all || n == 1)
                     && writable_floats(last, &taken.last, all) && plain_buffer(bounds, &taken.bounds, 'f', 1, 0, 5 * size)
                     && writable_floats(out, &taken.out, size);
    if (!fits) {
        unbind(&taken);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "last, bounds and out do not fit the networks, or cannot be written");
        return NULL;
    }
    if (check_unbound(bound) < 0) { /* reading the arguments runs Python, which may have bound others */
        unbind(&taken);
        return NULL;
    }
    *bound = taken;
    Py_RETURN_NONE;
}

/* -1: there are no arrays yet, and the error is set. */
static int check_bound(const Bound *bound)
{
    if (!bound->out.buf)
        PyErr_SetString(PyExc_ValueError, "bounded() before bind()");
    return bound->out.buf ? 0 : -1;
}

/* Component i of what was found, no further from the last than it may move, in its units too. */
static void move_to(const Bound *bound, size_t i, float found, float *last)
{
    const size_t size = (size_t)bound->out.len / 4;
    const float *const of = (const float *)bound->bounds.buf + i;
    const float low = of[0], high = of[size], middle = of[2 * size], half = of[3 * size], reach = of[4 * size];
    const float least = *last - reach, most = *last + reach;
    const float limited = found < least ? least : found > most ? most : found, action = middle + limited * half;
    *last = limited;
    ((float *)bound->out.buf)[i] = action < low ? low : action > high ? high : action;
}

/* The actions of a decision of n agents from their outputs q [n][outputs]. */
static void act_bound(const Bound *bound, const mast_kernels *kernels, Py_ssize_t n, const float *q, uint32_t outputs)
{
    const Searching *const s = bound->searching;
    if (!s) {
        kernels->squash(q, bound->bounds.buf, (uint32_t)(bound->out.len / 4), bound->last.buf, bound->out.buf);
        return;
    }
    const size_t columns = (size_t)(bound->out.len / 4 / n);
    for (size_t i = 0; i < (size_t)n; i++) {
        kernels->search(&s->table, s->owner[i], s->sizes[i], q + i * outputs, s->work, s->found);
        float *const last = (float *)bound->last.buf + i * s->table.actions;
        for (size_t k = 0; k < columns; k++)
            move_to(bound, i * columns + k, (float)s->found[k], last + k);
    }
}
